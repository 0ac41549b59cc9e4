"""EWC: a quadratic pull towards the weights that earlier tasks left, as strong as each weight's Fisher information.

Kirkpatrick et al. 2017, in the form that Continual World (Wolczyk et al. 2021) gives it for SAC: one anchor, the latest
weights; Fisher informations are summed over visits; `coef * sum_p F_p (w_p - w*_p)^2` without a factor 1/2.

Differences from the source:
- The Gaussian's mean is taken before tanh, as its deviation is; Continual World's mixture is `mean_space: post`.
- The Fisher information is exact, not estimated from sampled actions.
- One head for all tasks, so the output layer is protected too.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.fisher import Scalars, categorical, diagonal_fisher, gaussian, values
from rllib_nbsp.methods.base import Agent, Batch, ContinualMethod, MethodSettings, VisitData
from rllib_nbsp.settings import NonNegativeFloat, PositiveInt, ReplaySettings

EMA_SHARE = 0.5


class EWCSettings(MethodSettings):
    """The method's keys."""

    coef: NonNegativeFloat = 1e4
    """c, Continual World's for its long sequence."""
    critic: bool = False
    """Protect the critics too; Continual World protects the actor alone."""
    merge: Literal["sum", "mean", "ema"] = "sum"
    """Fisher informations of several visits: summed, averaged, or half the old and half the new (ANCL's)."""
    fisher_batches: PositiveInt = 10
    fisher_batch: PositiveInt = 256
    mean_space: Literal["pre", "post"] = "pre"
    """Continuous actions: the policy's mean before tanh, or after it."""
    floor: NonNegativeFloat = 1e-5
    """Least Fisher information of an actor's weight."""


class ElasticWeightConsolidation(ContinualMethod):
    """Weights that earlier tasks need are held where they were."""

    Config = EWCSettings
    visit_data_rows = 10_000

    def __init__(self, config: EWCSettings, agent: Agent, replay: ReplaySettings) -> None:
        super().__init__(config, agent, replay)
        self.consolidations = 0
        self.fisher: dict[str, list[Tensor]] = {}
        self.anchor: dict[str, list[Tensor]] = {}

    @property
    def _protected(self) -> tuple[str, ...]:
        return ("policy", "qf", "qf_twin") if self.config.critic else ("policy",)

    # Hooks

    def on_visit_end(self, visit: Visit, data: VisitData) -> None:
        new = self._measure(data)
        if not self.consolidations:
            self.fisher = new
        else:
            old_share, new_share = {
                "sum": (1.0, 1.0),
                "mean": (self.consolidations / (self.consolidations + 1), 1.0 / (self.consolidations + 1)),
                "ema": (1.0 - EMA_SHARE, EMA_SHARE),
            }[self.config.merge]
            for name, parts in new.items():
                for old, part in zip(self.fisher[name], parts, strict=True):
                    old.mul_(old_share).add_(part, alpha=new_share)
        self.consolidations += 1
        self.anchor = {name: [p.detach().clone() for p in self._parameters(name)] for name in self._protected}

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self.config.coef * self.penalty(name) for name in self.anchor}

    def penalty(self, name: str) -> Tensor:
        """`sum_p F_p (w_p - w*_p)^2` of one network, a scalar."""
        terms = [
            (fisher * (p - anchor).square()).sum()
            for p, fisher, anchor in zip(self._parameters(name), self.fisher[name], self.anchor[name], strict=True)
        ]
        return torch.stack(terms).sum()

    # Fisher information

    def _measure(self, data: VisitData) -> dict[str, list[Tensor]]:
        """The finished task's Fisher information, from batches of its D."""
        count, device = self.config.fisher_batches, self.agent.device
        sums: dict[str, list[Tensor]] = {}
        for batch in data.batches(count, self.config.fisher_batch, self.agent.generator, device):
            for name in self._protected:
                inputs = batch.obs if name == "policy" else self.agent.critic_inputs(batch.obs, batch.actions)
                parts = diagonal_fisher(self.agent.networks[name], inputs, self._scalars(name, batch))
                if name in sums:
                    torch._foreach_add_(sums[name], parts)
                else:
                    sums[name] = parts
        for name, parts in sums.items():
            for part in parts:
                part.div_(count)
                if name == "policy":
                    part.clamp_(min=self.config.floor)
        return sums

    def _scalars(self, name: str, batch: Batch) -> Scalars:
        if name == "policy":
            return categorical if self.agent.discrete else gaussian(self.config.mean_space)
        return values(batch.actions if self.agent.discrete else None)

    def _parameters(self, name: str) -> list[Tensor]:
        return list(self.agent.networks[name].parameters())

    # Records and state

    def metrics(self) -> dict[str, float]:
        with torch.no_grad():
            return {f"ewc_penalty_{name}": float(self.penalty(name)) for name in self.anchor}

    def get_state(self) -> dict[str, Any]:
        def arrays(tensors: dict[str, list[Tensor]]) -> dict[str, list[np.ndarray]]:
            return {name: [t.cpu().numpy() for t in parts] for name, parts in tensors.items()}

        return {
            "consolidations": self.consolidations,
            "fisher": arrays(self.fisher),
            "anchor": arrays(self.anchor),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        def tensors(arrays: dict[str, list[np.ndarray]]) -> dict[str, list[Tensor]]:
            return {name: [torch.tensor(a, device=self.agent.device) for a in parts] for name, parts in arrays.items()}

        self.consolidations = state["consolidations"]
        self.fisher, self.anchor = tensors(state["fisher"]), tensors(state["anchor"])
