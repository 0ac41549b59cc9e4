"""EWC: a quadratic pull towards the weights that earlier tasks left, as strong as each weight's Fisher information.

Kirkpatrick et al. 2017, in the form that Continual World (Wolczyk et al. 2021) gives it for SAC: one anchor, the latest
weights; Fisher informations are summed over visits, each with a floor under every sample of it; `coef * sum_p F_p
(w_p - w*_p)^2` without a factor 1/2.

Differences from the source:
- The Gaussian's mean is taken before tanh, as its deviation is; Continual World's mixture is `mean_space: post`.
- The Fisher information is exact, not estimated from sampled actions.
- Its batches come from 10,000 of the visit's rows, in Continual World from all that are in the buffer.
- One head for all tasks, so the output layer is protected too.
"""

from __future__ import annotations

from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.methods.base import register_method
from rllib_nbsp.methods.parts.consolidation import (
    FisherEstimate,
    FisherSettings,
    MeanSpace,
    PerWeight,
    PulledMethod,
    PulledSettings,
)
from rllib_nbsp.settings import NonNegativeFloat


class EWCSettings(FisherSettings, PulledSettings):
    """The method's keys."""

    coef: NonNegativeFloat = 1e4
    """c, Continual World's for its long sequence."""
    mean_space: MeanSpace = "pre"
    """Continuous actions: the policy's mean before tanh, or after it."""


class ElasticWeightConsolidation(PulledMethod):
    """Weights that earlier tasks need are held where they were."""

    Config = EWCSettings
    visit_data_rows = 10_000
    penalty_name = "ewc_penalty"

    def importance(self, data: VisitData) -> PerWeight:
        """Their Fisher information on the visit's rows."""
        estimate = FisherEstimate(self.agent, self.config, mean_space=self.config.mean_space)
        estimate.add_visit(data)
        return estimate.mean()


register_method("ewc", ElasticWeightConsolidation)
