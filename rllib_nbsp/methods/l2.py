"""L2: a quadratic pull of every weight towards where earlier tasks left it, all equally hard.

Continual World's baseline (Wolczyk et al. 2021, `methods/l2.py`): EWC with importances of 1 in place of the Fisher
information, `coef * sum_p n (w_p - w*_p)^2` after n visits, as it sums importances like EWC does.

Differences from the source:
- One head for all tasks, so the output layer is held too.
"""

from __future__ import annotations

import torch

from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.methods.base import register_method
from rllib_nbsp.methods.parts.consolidation import PerWeight, PulledMethod, PulledSettings
from rllib_nbsp.settings import NonNegativeFloat


class L2Settings(PulledSettings):
    """The method's keys."""

    coef: NonNegativeFloat = 1e5
    """Continual World's for its long sequence (CW20, `paper_cl_experiments.sh`)."""


class L2Regularization(PulledMethod):
    """All protected weights are held where they were: after n visits their importance is n, or 1 with another merge."""

    Config = L2Settings
    penalty_name = "l2_penalty"

    def importance(self, data: VisitData) -> PerWeight:
        """1 for each."""
        networks = {name: self.agent.networks[name] for name in self.config.protected}
        return {name: [torch.ones_like(p) for p in network.parameters()] for name, network in networks.items()}


register_method("l2", L2Regularization)
