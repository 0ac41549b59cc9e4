"""ANCL on a real Learner through visits, as the driver directs it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from rllib_nbsp.curriculum import Phase
from rllib_nbsp.methods.agent import Twin, VisitData
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import BoundarySettings
from tests.tiny import build_learner, train, transitions, visit

SMALL: dict[str, Any] = {"fisher_batches": 2, "fisher_batch": 8}
CONCURRENT = {"aux": "concurrent", "refresh_updates": 6}
FORMS = pytest.mark.parametrize("form", [{}, CONCURRENT])


class Visits:
    """A Learner through visits of 12 updates on the same batches for every method, as the driver directs it."""

    def __init__(self, method: str = "ancl", keys: dict[str, Any] | None = None, **sections: Any) -> None:
        self.learner: ContinualSACTorchLearner = build_learner(method, {**SMALL, **(keys or {})}, **sections)
        self.boundary = BoundarySettings(**sections.get("boundary", {}))
        self.method: Any = self.learner.method

    def start(self, number: int) -> list[Phase]:
        """Into the visit's first phase."""
        self.learner.visit_start(visit(number), None)
        phases = type(self.method).phases(self.method.config, visit(number))
        self.learner.phase_start(visit(number), phases[0])
        return phases

    def end_phase(self, number: int, phase: Phase) -> None:
        self.learner.phase_end(visit(number), phase, self.data(number))

    def data(self, number: int) -> VisitData:
        return VisitData(visit(number), rows=transitions(number, 50))

    def train(self, number: int, updates: int = 12) -> None:
        train(self.learner, range(100 * number, 100 * number + updates))

    def to_main(self, number: int) -> None:
        """To the first update of the visit's main phase."""
        phases = self.start(number)
        for phase, following in itertools.pairwise(phases):
            self.train(number)
            self.end_phase(number, phase)
            self.learner.phase_start(visit(number), following)

    def visit(self, number: int) -> None:
        """A whole visit and its boundary."""
        self.to_main(number)
        self.train(number)
        self.end(number)

    def end(self, number: int) -> None:
        self.learner.visit_end(visit(number), self.data(number))
        self.learner.boundary_reset(self.boundary)

    @property
    def policy(self) -> list[Tensor]:
        return [p.detach() for p in self.learner.agent.networks["policy"].parameters()]

    def twin(self) -> Twin:
        return self.method.companion[0]


def penalty_gradients(run: Visits, name: str = "policy") -> list[Tensor]:
    """What both pulls together ask of a network's parameters."""
    term = run.method.loss_terms(None)[name]
    return list(torch.autograd.grad(term, list(run.learner.agent.networks[name].parameters())))


def move(run: Visits, by: float = 0.1) -> None:
    """Every weight of every network somewhere else."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in NETWORKS:
            for p in run.learner.agent.networks[name].parameters():
                p += by * torch.randn(p.shape, generator=generator)


def twin_weights(run: Visits) -> dict[str, Tensor]:
    """Copies of the auxiliary networks' weights, by name."""
    return {
        f"{name}.{key}": v.clone() for name in NETWORKS for key, v in run.twin().networks[name].state_dict().items()
    }
