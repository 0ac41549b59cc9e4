"""L2: a quadratic pull of every weight towards where earlier tasks left it, all equally hard.

Continual World's baseline (Wolczyk et al. 2021, `methods/l2.py`): EWC with importances of 1 in place of the Fisher
information, `coef * sum_p n (w_p - w*_p)^2` after n visits, as it sums importances like EWC does.

Differences from the source:
- One head for all tasks, so the output layer is held too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.base import Agent, Batch, ContinualMethod, VisitData
from rllib_nbsp.methods.consolidation import ConsolidationSettings, Merge, QuadraticPull
from rllib_nbsp.settings import NonNegativeFloat, ReplaySettings


class L2Settings(ConsolidationSettings):
    """The method's keys."""

    coef: NonNegativeFloat = 1e5
    """Continual World's for its long sequence (CW20, `paper_cl_experiments.sh`)."""
    merge: Merge = "sum"
    """The importance after n visits: n with `sum`, 1 with the others."""


class L2Regularization(ContinualMethod):
    """All protected weights are held where they were."""

    Config = L2Settings

    def __init__(self, config: L2Settings, agent: Agent, replay: ReplaySettings) -> None:
        super().__init__(config, agent, replay)
        self.pull = QuadraticPull(agent)

    # Hooks

    def on_visit_end(self, visit: Visit, data: VisitData) -> None:
        networks = {name: self.agent.networks[name] for name in self.config.protected}
        ones = {name: [torch.ones_like(p) for p in network.parameters()] for name, network in networks.items()}
        self.pull.consolidate(ones, self.config.merge)

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self.config.coef * penalty for name, penalty in self.pull.penalties().items()}

    # Records and state

    def metrics(self) -> dict[str, float]:
        return self.pull.metrics("l2_penalty")

    def get_state(self) -> dict[str, Any]:
        return self.pull.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self.pull.set_state(state)
