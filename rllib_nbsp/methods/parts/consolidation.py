"""What EWC, ANCL and L2 share: how important each weight was to a finished task, and a pull towards an anchor.

The pull of a network is `sum_p F_p (w_p - w*_p)^2`, with F the importance and w* the anchor, so that its gradient is
`2 F (w - w*)`; each method has a coefficient of its own. It is a term of the loss: the gradient passes Adam together
with the task's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.agent import Agent, Batch, VisitData
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings
from rllib_nbsp.nn.fisher import Scalars, categorical, diagonal_fisher, gaussian, values
from rllib_nbsp.nn.networks import NETWORKS, Network
from rllib_nbsp.settings import NonNegativeFloat, PositiveInt, ReplaySettings

PerWeight = dict[str, list[Tensor]]
"""Per network one tensor for each of its parameters, in the order of `network.parameters()`."""

Merge = Literal["sum", "mean", "ema"]
"""Importances of several visits: summed, averaged, or half the old and half the new."""

MeanSpace = Literal["pre", "post"]
"""Whether the Gaussian's mean is taken before tanh or after it."""

EMA_SHARE = 0.5


class ConsolidationSettings(MethodSettings):
    """Which networks are protected."""

    critic: bool = False
    """Protect the critics too; Continual World protects the actor alone."""

    @property
    def protected(self) -> tuple[str, ...]:
        """Names of the networks."""
        return NETWORKS if self.critic else ("policy",)


class PulledSettings(ConsolidationSettings):
    """How strongly weights are pulled, and what importances of several visits come to."""

    coef: NonNegativeFloat
    merge: Merge = "sum"
    """Importances of several visits: summed, averaged, or half the old and half the new (ANCL's)."""


class FisherSettings(ConsolidationSettings):
    """How the Fisher information is measured."""

    fisher_batches: PositiveInt = 10
    """Batches of the finished visit on which the Fisher information is measured."""
    fisher_batch: PositiveInt = 256
    """Rows of such a batch."""
    floor: NonNegativeFloat = 1e-5
    """Least Fisher information of an actor's weight, in each sample and so before the mean over them."""


class FisherEstimate:
    """Mean Fisher information of each protected weight over batches, as it is measured.

    Args:
        agent: whose networks these are.
        settings: which are protected, and how they are measured.
        mean_space: see `fisher.gaussian`.
        heads: whether output layers count; if not, theirs is 0.
    """

    def __init__(
        self, agent: Agent, settings: FisherSettings, *, mean_space: MeanSpace = "pre", heads: bool = True
    ) -> None:
        self.agent = agent
        self.settings = settings
        self.mean_space = mean_space
        self.heads = heads
        self.batches = 0
        self.sums: PerWeight = {}

    def add_visit(self, data: VisitData) -> None:
        """Measure on batches of a visit's rows, which are the same on every Learner."""
        count, size = self.settings.fisher_batches, self.settings.fisher_batch
        for batch in data.batches(count, size, self.agent.generator, self.agent.device):
            self.add(batch)

    def add(self, batch: Batch) -> None:
        """Measure on a batch, the same on every Learner or one of which each has its part.

        Reduced in both cases: the backward passes of two devices may differ in the last bit.
        """
        for name, parts in self._measure(batch).items():
            parts = [self.agent.all_reduce_mean(part) for part in parts]
            # Not in place: a state that was handed out stays as it was.
            self.sums[name] = list(torch._foreach_add(self.sums[name], parts)) if name in self.sums else parts
        self.batches += 1

    def mean(self) -> PerWeight:
        """The information measured so far."""
        means = {name: [part / self.batches for part in parts] for name, parts in self.sums.items()}
        if not self.heads:
            for parts in means.values():
                for part in parts[-2:]:  # the head's weight and bias
                    part.zero_()
        return means

    def _measure(self, batch: Batch) -> PerWeight:
        measured = {}
        for name in self.settings.protected:
            inputs = batch.obs if name == "policy" else self.agent.critic_inputs(batch.obs, batch.actions)
            floor = self.settings.floor if name == "policy" else 0.0
            scalars = self._scalars(name, batch)
            measured[name] = diagonal_fisher(self.agent.networks[name], inputs, scalars, floor=floor)
        return measured

    def _scalars(self, name: str, batch: Batch) -> Scalars:
        if name == "policy":
            return categorical if self.agent.discrete else gaussian(self.mean_space)
        return values(batch.actions if self.agent.discrete else None)

    def get_state(self) -> dict[str, Any]:
        """What was measured so far."""
        return {"batches": self.batches, "sums": to_arrays(self.sums)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_state` gave."""
        self.batches, self.sums = state["batches"], to_tensors(state["sums"], self.agent.device)


class QuadraticPull:
    """Importances and one anchor, the latest; nothing pulls before the first `consolidate`.

    Attributes:
        importance: F of each weight.
        anchor: w* of each weight.
        consolidations: how often importances were merged.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.importance: PerWeight = {}
        self.anchor: PerWeight = {}
        self.consolidations = 0

    def consolidate(self, importance: PerWeight, merge: Merge, networks: Mapping[str, Network] | None = None) -> None:
        """Merge new importances into the old ones and anchor at the present weights.

        Args:
            importance: of the task that was just learned.
            merge: with those before.
            networks: whose weights become the anchor, by default the agent's own.
        """
        at = self.agent.networks if networks is None else networks
        if self.consolidations:
            n = self.consolidations
            old_share, new_share = {
                "sum": (1.0, 1.0),
                "mean": (n / (n + 1), 1.0 / (n + 1)),
                "ema": (1.0 - EMA_SHARE, EMA_SHARE),
            }[merge]
            importance = {
                name: [
                    torch.add(old * old_share, new, alpha=new_share)
                    for old, new in zip(self.importance[name], parts, strict=True)
                ]
                for name, parts in importance.items()
            }
        self.importance = importance
        self.consolidations += 1
        self.anchor = {name: [p.detach().clone() for p in at[name].parameters()] for name in importance}

    def penalties(self) -> dict[str, Tensor]:
        """`sum_p F_p (w_p - w*_p)^2` of each network, scalars."""
        return {
            name: quadratic_pull(self.agent.networks[name].parameters(), self.anchor[name], importance)
            for name, importance in self.importance.items()
        }

    @torch.no_grad()
    def metrics(self, prefix: str) -> dict[str, float]:
        """The penalties for the training rows, as `<prefix>_<network>`."""
        return {f"{prefix}_{name}": float(penalty) for name, penalty in self.penalties().items()}

    def get_state(self) -> dict[str, Any]:
        """All that the pull hangs on."""
        return {
            "consolidations": self.consolidations,
            "importance": to_arrays(self.importance),
            "anchor": to_arrays(self.anchor),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_state` gave."""
        self.consolidations = state["consolidations"]
        self.importance = to_tensors(state["importance"], self.agent.device)
        self.anchor = to_tensors(state["anchor"], self.agent.device)


class PulledMethod(ContinualMethod):
    """A method that pulls weights to where the last visit left them; a subclass says how important each of them was.

    Attributes:
        pull: importances, merged over the visits so far, and the anchor.
    """

    Config: ClassVar[type[PulledSettings]]
    penalty_name: ClassVar[str]
    """Of the penalties in the training rows."""

    def __init__(self, config: PulledSettings, agent: Agent, replay: ReplaySettings) -> None:
        super().__init__(config, agent, replay)
        self.pull = QuadraticPull(agent)

    @classmethod
    def idle_in_first_visit(cls, config: PulledSettings) -> bool:
        return True

    @classmethod
    def no_graph(cls, config: PulledSettings) -> str | None:
        return None

    @abstractmethod
    def importance(self, data: VisitData) -> PerWeight:
        """Of each protected weight for the visit that ends."""

    def on_visit_end(self, visit: Visit, data: VisitData) -> None:
        self.pull.consolidate(self.importance(data), self.config.merge)

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self.config.coef * penalty for name, penalty in self.pull.penalties().items()}

    def metrics(self) -> dict[str, float]:
        return self.pull.metrics(self.penalty_name)

    def get_state(self) -> dict[str, Any]:
        return self.pull.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self.pull.set_state(state)


def quadratic_pull(weights: Iterable[Tensor], anchors: Iterable[Tensor], importances: Iterable[Tensor]) -> Tensor:
    """`sum_p F_p (w_p - w*_p)^2`, a scalar; parameters, anchors and importances are in the same order."""
    triples = zip(weights, anchors, importances, strict=True)
    return torch.stack([(f * (w - anchor).square()).sum() for w, anchor, f in triples]).sum()


def to_arrays(tensors: PerWeight) -> dict[str, list[np.ndarray]]:
    """For a method's state."""
    return {name: [t.cpu().numpy() for t in parts] for name, parts in tensors.items()}


def to_tensors(arrays: dict[str, list[np.ndarray]], device: torch.device) -> PerWeight:
    """Copies of what `to_arrays` gave, on a device."""
    return {name: [torch.tensor(a, device=device) for a in parts] for name, parts in arrays.items()}
