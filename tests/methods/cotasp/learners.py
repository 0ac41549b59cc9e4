"""CoTASP on small Learners: visits with their distillation, and what the policy says under a row of the prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import BoundarySettings
from tests.tiny import (
    CHOICES,
    IMAGES,
    build_config,
    build_learner,
    build_learner_of,
    game_transitions,
    transitions,
    update,
    visit,
)

HIDDEN = (12, 10)
KEYS: dict[str, Any] = {"distill_updates": 5, "alternate": [4, 2]}


def learner_with(keys: dict[str, Any] | None = None, **sections: Any) -> ContinualSACTorchLearner:
    """A Learner of the tests' size."""
    return build_learner("cotasp", {**KEYS, **(keys or {})}, hidden=HIDDEN, **sections)


def on_images(keys: dict[str, Any] | None = None) -> ContinualSACTorchLearner:
    """A Learner with convolutions and discrete actions."""
    config = build_config("cotasp", {**KEYS, **(keys or {})}, hidden=HIDDEN).networks(conv=[[6, 4, 2], [5, 3, 1]])
    return build_learner_of(config, IMAGES, CHOICES)


def rows(learner: ContinualSACTorchLearner, seed: int, task: int = 0) -> dict[str, np.ndarray]:
    """Random rows for that Learner, of one task."""
    columns = game_transitions(seed) if learner.agent.discrete else transitions(seed)
    return {**columns, "task": np.full(len(columns["rewards"]), task, np.int64)}


def start(learner: ContinualSACTorchLearner, number: int) -> None:
    """A visit's beginning, with the distillation on the last visit's rows."""
    learner.visit_start(visit(number), VisitData(visit(number - 1)) if number > 1 else None)
    for phase in learner.method.phases(learner.method.config, visit(number)):
        learner.phase_start(visit(number), phase)
        if not phase.collect:
            for k in range(phase.updates):
                update(learner, rows(learner, 500 + k, visit(number - 1).task.index))
            learner.phase_end(visit(number), phase, VisitData(visit(number)))


def end(learner: ContinualSACTorchLearner, number: int) -> None:
    """A visit's end and the boundary after it."""
    learner.phase_end(visit(number), learner.sac.phase, VisitData(visit(number)))
    learner.visit_end(visit(number), VisitData(visit(number)))
    exceptions = learner.method.boundary_exceptions(learner.method.config)
    learner.boundary_reset(BoundarySettings(**{**BoundarySettings().model_dump(), **exceptions}))


def play(learner: ContinualSACTorchLearner, number: int, updates: int = 40) -> None:
    """A whole visit."""
    start(learner, number)
    for k in range(updates):
        update(learner, rows(learner, 100 * number + k, visit(number).task.index))
    end(learner, number)


def outputs(learner: ContinualSACTorchLearner, row: int) -> Tensor:
    """The policy's head under a row of the prompts, on fixed observations."""
    policy = learner.agent.networks["policy"]
    kept = policy.row_of.clone()
    policy.row_of[-1] = row
    with torch.no_grad():
        head = policy(torch.from_numpy(rows(learner, 9)["obs"]))
    policy.row_of.copy_(kept)
    return head
