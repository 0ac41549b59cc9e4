"""PackNet: each visit keeps a share of the actor's weights for good and leaves the rest to those that follow.

Mallya and Lazebnik 2018 (arXiv 1711.05769), in the form that Continual World (Wolczyk et al. 2021) gives it for SAC:
the actor alone. After a visit, the smallest of its weights are set to 0 and handed on, in each layer as many as leave
every visit an equal share; the kept ones are retrained on D and then frozen. A task acts with the weights of its latest
visit and of all before it, so that what it does never changes. The critics learn freely.

Differences from the source:
- A visit is what is a task there: a task's next visit gets weights of its own, and the task then acts with all so far.
- Exactly the share is pruned; Continual World prunes one weight more, and equal ones with it.
- Fresh optimizers before and after retraining, step counts included: Continual World zeroes Adam's moments alone, which
  overshoots up to 6.6 times.
- There is one head for all tasks, which is packed like every layer, its log standard deviations included.
- Retraining lasts as many updates as there, 1e5: a tenth of a visit of 1e6 steps with an update each. It does not
  shrink with the visit by itself.
- The gradients' clip is the run's. Continual World's 2e-5 lies near Adam's epsilon and so also lowers the rate; under
  the larger epsilon of games next to nothing would be learnt. It is one key away.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rllib_nbsp.curriculum import Phase, Visit
from rllib_nbsp.methods.agent import Agent, Batch, VisitData
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings, register_method
from rllib_nbsp.nn.networks import FAN_IN_UNIFORM, Network
from rllib_nbsp.settings import NonNegativeInt, PositiveFloat, ReplaySettings, RunSettings

MAX_VISITS = 255
"""Owners are bytes: they travel with the weights, and a broadcast between Learners knows no 16-bit integers."""


class PackNetSettings(MethodSettings):
    """The method's keys."""

    retrain_updates: NonNegativeInt = 100_000
    """Updates of the kept weights after pruning, without collecting; scale them with a visit's length."""
    grad_clip: PositiveFloat | None = None
    """Instead of `training.grad_clip`; Continual World's is 2e-5."""


class PackedNetwork(Network):
    """A policy that shows each task the weights of its latest visit and of those before.

    Attributes:
        limit_of: number of each task's latest visit, (K + 1,); the last entry is the current visit's, which sees
            everything, for passes that name no task.
    """

    limit_of: Tensor

    def __init__(
        self,
        in_shape: tuple[int, ...],
        hidden: Sequence[int],
        out_features: int,
        *,
        tasks: int,
        activation: str,
        conv: Sequence[tuple[int, int, int]] = (),
        init: str = FAN_IN_UNIFORM,
        generator: torch.Generator,
    ) -> None:
        super().__init__(
            in_shape, hidden, out_features, activation=activation, conv=conv, init=init, generator=generator
        )
        for i, layer in enumerate(self.layers()):
            self.register_buffer(f"owner_{i}", torch.ones_like(layer.weight, dtype=torch.uint8))
        self.register_buffer("limit_of", torch.ones(tasks + 1, dtype=torch.int64))

    def owners(self) -> list[Tensor]:
        """Per layer, the head included, the number of the visit that owns each weight, uint8 of the weight's shape."""
        return [self.get_buffer(f"owner_{i}") for i in range(len(self.layers()))]

    def forward(
        self,
        inputs: Tensor,
        *,
        task: Tensor | int | None = None,
        frozen: bool = False,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """As `Network` has it, each row with the weights that its task is shown."""
        limits = self.limit_of[-1 if task is None else task]
        groups = limits.unique().tolist()
        if len(groups) == 1:
            return self.run_through(inputs, groups[0], frozen, record)
        rows = [(limits == limit).nonzero().squeeze(1) for limit in groups]
        records: list[list[Tensor]] = [[] for _ in groups]
        parts = [
            self.run_through(inputs[group], limit, frozen, seen)
            for group, limit, seen in zip(rows, groups, records, strict=True)
        ]
        order = torch.cat(rows).argsort()
        if record is not None:
            record.extend(torch.cat(layer)[order] for layer in zip(*records, strict=True))
        return torch.cat(parts)[order]

    def run_through(self, inputs: Tensor, shown: int, frozen: bool, record: list[Tensor] | None) -> Tensor:
        """A pass with the weights whose owners are at most `shown`."""
        everything = shown >= self.limit_of[-1]
        return super().run_through(inputs, None if everything else shown, frozen, record)

    def layer_outputs(self, i: int, layer: nn.Module, x: Tensor, shown: int | None, frozen: bool) -> Tensor:
        """As `Network` has it, with the weights that are shown; None: all."""
        if shown is None:
            return super().layer_outputs(i, layer, x, shown, frozen)
        parameters: dict[str, Tensor] = dict(layer.named_parameters())
        parameters["weight"] = torch.where(self.get_buffer(f"owner_{i}") <= shown, parameters["weight"], 0.0)
        if frozen:
            parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        out: Tensor = functional_call(layer, parameters, (x.flatten(1) if isinstance(layer, nn.Linear) else x,))
        return out


class PackNet(ContinualMethod):
    """Weights that a visit keeps are its own for good."""

    Config = PackNetSettings
    freezes_weights = True

    @classmethod
    def check(cls, config: PackNetSettings, settings: RunSettings) -> list[str]:
        visits = settings.num_visits
        if visits <= MAX_VISITS:
            return []
        return [
            f"cycles is {settings.cycles}, which makes {visits} visits; packnet has weights for at most {MAX_VISITS}"
        ]

    @classmethod
    def network(cls, config: PackNetSettings, name: str, tasks: int, visits: int) -> Callable[..., Network]:
        return functools.partial(PackedNetwork, tasks=tasks) if name == "policy" else Network

    @classmethod
    def phases(cls, config: PackNetSettings, visit: Visit) -> list[Phase]:
        if not visit.following or not config.retrain_updates:
            return [Phase()]
        return [Phase(), Phase("retrain", collect=False, updates=config.retrain_updates)]

    @classmethod
    def no_graph(cls, config: PackNetSettings) -> str | None:
        return "which tasks a batch's rows come from is asked at every pass"

    @classmethod
    def training_exceptions(cls, config: PackNetSettings) -> dict[str, Any]:
        return {} if config.grad_clip is None else {"grad_clip": config.grad_clip}

    def __init__(self, config: PackNetSettings, agent: Agent, replay: ReplaySettings) -> None:
        super().__init__(config, agent, replay)
        policy = agent.networks["policy"]
        assert isinstance(policy, PackedNetwork)
        self.policy = policy
        self.visit = 1
        self.latest: dict[int, int] = {}
        self.freezes_biases = False

    # Hooks

    def on_visit_start(self, visit: Visit, data: VisitData | None) -> None:
        self.visit = self.latest[visit.task.index] = visit.number
        for k in range(len(self.policy.limit_of)):
            self.policy.limit_of[k] = self.latest.get(k, visit.number)

    def on_phase_end(self, visit: Visit, phase: Phase, data: VisitData) -> None:
        if not visit.following:
            return
        if phase.collect:
            self._prune(visit)
            self.freezes_biases = True
        # Moments would go on moving weights whose gradients end here.
        for optimizer in self.agent.optimizers.values():
            optimizer.state.clear()

    @torch.no_grad()
    def _prune(self, visit: Visit) -> None:
        """Hand the smallest of the visit's weights on to the next one, at 0."""
        for layer, owner in zip(self.policy.layers(), self.policy.owners(), strict=True):
            weights, owners = layer.weight.view(-1), owner.view(-1)
            own = (owners == visit.number).nonzero().squeeze(1)
            count = len(own) * visit.following // (visit.following + 1)
            freed = own[weights[own].abs().argsort(stable=True)[:count]]
            weights[freed] = 0.0
            owners[freed] = visit.number + 1

    def transform_gradients(self, batch: Batch) -> None:
        for layer, owner in zip(self.policy.layers(), self.policy.owners(), strict=True):
            if layer.weight.grad is not None:
                layer.weight.grad.masked_fill_(owner != self.visit, 0.0)
            if self.freezes_biases and layer.bias is not None:
                layer.bias.grad = None

    # Records and state

    def metrics(self) -> dict[str, float]:
        owners = torch.cat([owner.flatten() for owner in self.policy.owners()])
        return {"masked_frac": float((owners != self.visit).double().mean())}

    def get_state(self) -> dict[str, Any]:
        return {
            "visit": self.visit,
            "latest": {str(task): visit for task, visit in self.latest.items()},
            "freezes_biases": self.freezes_biases,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.visit, self.freezes_biases = state["visit"], state["freezes_biases"]
        self.latest = {int(task): visit for task, visit in state["latest"].items()}


register_method("packnet", PackNet)
