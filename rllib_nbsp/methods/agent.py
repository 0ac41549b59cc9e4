"""What a method is given: the rows of an update, what a visit left, and the agent, which is all that it may touch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.nn.networks import FAN_IN_UNIFORM, NETWORKS, Network, init_layer
from rllib_nbsp.nn.neurons import NeuronScores
from rllib_nbsp.settings import TrainingSettings

ALPHA = "alpha"
ACTOR = ("policy", ALPHA)
CRITICS = ("qf", "qf_twin")
EVERYTHING = (*NETWORKS, ALPHA)
"""Names of optimizers, and of the losses that they descend."""


def steps_of(update: int, actor_interval: int) -> list[tuple[str, ...]]:
    """What each step of an update moves, in order.

    Args:
        update: its number, from 1.
        actor_interval: of the `training` section.
    """
    if actor_interval == 1:
        return [EVERYTHING]
    return [CRITICS] if update % actor_interval else [CRITICS, *[ACTOR] * actor_interval]


@dataclass
class Batch:
    """The rows of one step of an update on this Learner.

    Attributes:
        obs, actions, rewards, next_obs, terminateds: of shapes (B, ...), (B, A), (B,), (B, ...), (B,).
        task: (B,) int, index of the distinct task that a row comes from.
        from_prior: (B,) bool, whether a row comes from D_pre.
        of_prior: whether all rows do, known without a wait for the device.
        prior: extra rows of D_pre beside this batch, if the method's `ReplayRequest` asks for them.
        activations: per network the hidden layers' activations in the loss pass, with gradients after the backward
            pass; filled for methods with `needs_activations`. Never the actor's pass through the critics, never next
            observations. The gradients are those of the mean loss over this Learner's B rows.
        moving: what the step moves, by the names of `Agent.optimizers`; other parameters have no gradient.
    """

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    next_obs: Tensor
    terminateds: Tensor
    task: Tensor
    from_prior: Tensor
    of_prior: bool = False
    prior: Batch | None = None
    activations: dict[str, list[Tensor]] = field(default_factory=dict)
    moving: tuple[str, ...] = EVERYTHING


@dataclass
class VisitData:
    """What a finished visit leaves to the callbacks and the method.

    Attributes:
        visit: the finished visit.
        rows: a uniform sample of the visit's task's rows in D, up to the method's `visit_data_rows`; empty if it asks
            for none, or D holds none.
        scores: the neurons' scores, if a callback had them scored.
        notes: whatever a callback wants to hand to a method.
    """

    visit: Visit
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    scores: NeuronScores | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def batches(self, count: int, size: int, generator: torch.Generator, device: torch.device) -> Iterator[Batch]:
        """`count` uniform batches of `size` rows, the same on every Learner for one generator state."""
        total = len(self.rows["rewards"])
        for _ in range(count):
            index = torch.randint(total, (size,), generator=generator).numpy()
            yield make_batch({key: torch.from_numpy(col[index]).to(device) for key, col in self.rows.items()})


def make_batch(columns: Mapping[str, Tensor], *, of_prior: bool = False) -> Batch:
    """A `Batch` from RLlib's column names ("new_obs" is `next_obs`)."""
    return Batch(
        obs=columns["obs"],
        actions=columns["actions"],
        rewards=columns["rewards"],
        next_obs=columns["new_obs"],
        terminateds=columns["terminateds"],
        task=columns["task"],
        from_prior=columns["from_prior"],
        of_prior=of_prior,
    )


class Agent:
    """All that a method may touch.

    Attributes:
        networks: "policy", "qf", "qf_twin".
        targets: "qf", "qf_twin".
        optimizers: those of the networks and of "alpha".
        log_alpha: SAC's log temperature, shape (1,).
        device: of the parameters.
        generator: a method's only source of randomness; the same stream on every Learner.
        act_dim: number of action dimensions, or of actions if they are discrete.
        discrete: whether actions are discrete: the actor's head is logits, a critic's one value per action.
        init: how the run's networks began, a key of `networks.INITS`.
        sac_losses: SAC's losses of any `Batch` by name ("policy", "qf", "qf_twin", "alpha"), those that are in its
            `moving`, with gradients, as a Learner's update has them; each call draws fresh noise.
        twin: makes a `Twin`, an independent SAC that starts from these weights; None where no Learner is.
    """

    def __init__(
        self,
        *,
        networks: Mapping[str, Network],
        targets: Mapping[str, Network],
        optimizers: Mapping[str, Optimizer],
        log_alpha: nn.Parameter,
        generator: torch.Generator,
        device: torch.device,
        act_dim: int,
        sac_losses: Callable[[Batch], dict[str, Tensor]],
        discrete: bool = False,
        init: str = FAN_IN_UNIFORM,
        twin: Callable[[], Twin] | None = None,
    ) -> None:
        self.networks = networks
        self.targets = targets
        self.optimizers = optimizers
        self.log_alpha = log_alpha
        self.generator = generator
        self.device = device
        self.act_dim = act_dim
        self.sac_losses = sac_losses
        self.discrete = discrete
        self.init = init
        self.twin = twin

    def init_layer(self, layer: nn.Linear | nn.Conv2d, generator: torch.Generator) -> None:
        """Draw a layer anew, as the run's networks began."""
        init_layer(layer, generator, self.init)

    def critic_inputs(self, obs: Tensor, actions: Tensor) -> Tensor:
        """What a critic is given: observations (B, ...) with actions (B, A), or alone if actions are discrete."""
        return obs if self.discrete else torch.cat([obs, actions], -1)

    def all_reduce_mean(self, tensor: Tensor) -> Tensor:
        """Mean over all Learners, in place; the identity on one Learner."""
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(tensor)
            tensor /= torch.distributed.get_world_size()
        return tensor

    def target_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """All parameters and buffers of the targets, and those of the networks that they follow."""
        targets = [t for net in self.targets.values() for t in (*net.parameters(), *net.buffers())]
        followed = [self.networks[name] for name in self.targets]
        return targets, [t for net in followed for t in (*net.parameters(), *net.buffers())]

    def snapshot(self) -> dict[str, Any]:
        """A copy of networks, targets, log_alpha and Adam's moments, for `restore`; fit for a method's state."""
        moments = {name: optimizer.state_dict()["state"] for name, optimizer in self.optimizers.items()}
        return {
            "networks": {name: _copy(net.state_dict()) for name, net in self.networks.items()},
            "targets": {name: _copy(net.state_dict()) for name, net in self.targets.items()},
            "log_alpha": _copy(self.log_alpha),
            "optimizers": {name: {str(i): _copy(m) for i, m in state.items()} for name, state in moments.items()},
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Put everything back to a `snapshot`."""
        for group, modules in (("networks", self.networks), ("targets", self.targets)):
            for name, state in snapshot[group].items():
                modules[name].load_state_dict(state)
        with torch.no_grad():
            self.log_alpha.copy_(snapshot["log_alpha"])
        for name, moments in snapshot["optimizers"].items():
            groups = self.optimizers[name].state_dict()["param_groups"]
            state = {int(i): _copy(m) for i, m in moments.items()}  # optimizers keep what they are given
            self.optimizers[name].load_state_dict({"state": state, "param_groups": groups})


def _copy(value: Any) -> Any:
    """Copies of all tensors, on the CPU, where checkpoints can be read."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return value


class Twin(Agent):
    """Starts from the agent's weights with fresh optimizers, and learns nothing but what `update` is given.

    The agent's generator seeds its noise, so that it is the same on every Learner; a run goes on from `get_state`.

    Args:
        module: whose networks these are, and which draws the noise; the twin's alone.
        training: rates and clip.
        target_period: updates between two moves of the target networks.
        parts: of the `Agent`.
    """

    def __init__(self, module: Any, training: TrainingSettings, target_period: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.updates = 0
        self._module = module
        self._training = training
        self._target_period = target_period
        self._pairs = self.target_pairs()
        self._parameters = [*(p for net in self.networks.values() for p in net.parameters()), self.log_alpha]
        seed = int(torch.randint(2**31, (), generator=self.generator))
        noise = torch.Generator(self.device).manual_seed(seed)
        module.set_noise_state(noise.get_state().numpy(), self.device)

    def update(self, batch: Batch) -> None:
        """SAC's update, as a Learner has it without a method; `batch` is this Learner's part of the whole."""
        self.updates += 1
        for moving in steps_of(self.updates, self._training.actor_interval):
            self._step(replace(batch, moving=moving))
        if self.updates % self._target_period == 0:
            with torch.no_grad():
                torch._foreach_lerp_(*self._pairs, self._training.tau)

    def _step(self, batch: Batch) -> None:
        for parameter in self._parameters:
            parameter.grad = None
        torch.stack(list(self.sac_losses(batch).values())).sum().backward()
        for parameter in self._parameters:
            if parameter.grad is not None:
                self.all_reduce_mean(parameter.grad)
        if self._training.grad_clip is not None:
            for network in self.networks.values():
                torch.nn.utils.clip_grad_norm_(network.parameters(), self._training.grad_clip)
        for name in batch.moving:
            self.optimizers[name].step()

    def get_state(self) -> dict[str, Any]:
        """All that it goes on from, fit for a method's state."""
        return {**self.snapshot(), "updates": self.updates, "noise": self._module.noise_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_state` gave."""
        self.restore(state)
        self.updates = state["updates"]
        self._module.set_noise_state(state["noise"], self.device)
