"""EWC: a quadratic pull towards the weights that earlier tasks left, as strong as each weight's Fisher information.

Kirkpatrick et al. 2017, in the form that Continual World (Wolczyk et al. 2021) gives it for SAC: one anchor, the latest
weights; Fisher informations are summed over visits; `coef * sum_p F_p (w_p - w*_p)^2` without a factor 1/2.

Differences from the source:
- The Gaussian's mean is taken before tanh, as its deviation is; Continual World's mixture is `mean_space: post`.
- The Fisher information is exact, not estimated from sampled actions.
- One head for all tasks, so the output layer is protected too.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.base import Agent, Batch, ContinualMethod, VisitData
from rllib_nbsp.methods.consolidation import FisherEstimate, FisherSettings, MeanSpace, Merge, PerWeight, QuadraticPull
from rllib_nbsp.settings import NonNegativeFloat, ReplaySettings


class EWCSettings(FisherSettings):
    """The method's keys."""

    coef: NonNegativeFloat = 1e4
    """c, Continual World's for its long sequence."""
    merge: Merge = "sum"
    """Fisher informations of several visits: summed, averaged, or half the old and half the new (ANCL's)."""
    mean_space: MeanSpace = "pre"
    """Continuous actions: the policy's mean before tanh, or after it."""


class ElasticWeightConsolidation(ContinualMethod):
    """Weights that earlier tasks need are held where they were."""

    Config = EWCSettings
    visit_data_rows = 10_000

    def __init__(self, config: EWCSettings, agent: Agent, replay: ReplaySettings) -> None:
        super().__init__(config, agent, replay)
        self.pull = QuadraticPull(agent)

    @property
    def fisher(self) -> PerWeight:
        """F, merged over the visits so far."""
        return self.pull.importance

    @property
    def anchor(self) -> PerWeight:
        """w*, the weights at the last visit's end."""
        return self.pull.anchor

    # Hooks

    def on_visit_end(self, visit: Visit, data: VisitData) -> None:
        estimate = FisherEstimate(self.agent, self.config, mean_space=self.config.mean_space)
        estimate.add_visit(data)
        self.pull.consolidate(estimate.mean(), self.config.merge)

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self.config.coef * penalty for name, penalty in self.pull.penalties().items()}

    # Records and state

    def metrics(self) -> dict[str, float]:
        return self.pull.metrics("ewc_penalty")

    def get_state(self) -> dict[str, Any]:
        return self.pull.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self.pull.set_state(state)
