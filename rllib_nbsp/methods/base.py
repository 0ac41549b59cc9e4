"""The interface of a continual-learning method, and what a method may touch.

Three kinds of members. *Declarations* are class methods of the configuration alone: the driver reads them before and
during a run. *Hooks* run inside every Learner at fixed places of an update and of a visit. *State* travels in
checkpoints. Each has a default that means "nothing"; the base class is plain fine-tuning, the method `sac`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.networks import Network, init_layer
from rllib_nbsp.neurons import NeuronScores
from rllib_nbsp.settings import ModelSettings, ReplaySettings, RunSettings, ScoringSettings, Settings

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from rllib_nbsp.methods.twin import Twin

NETWORKS = ("policy", "qf", "qf_twin")


@dataclass
class Batch:
    """The rows of one update on this Learner.

    Attributes:
        obs, actions, rewards, next_obs, terminateds: of shapes (B, ...), (B, A), (B,), (B, ...), (B,).
        task: (B,) int, index of the distinct task that a row comes from.
        from_prior: (B,) bool, whether a row comes from D_pre.
        prior: extra rows of D_pre beside this batch, if the method's `ReplayRequest` asks for them.
        activations: per network the hidden layers' activations in the loss pass, with gradients after the backward
            pass; filled for methods with `needs_activations`. Never the actor's pass through the critics, never next
            observations. The gradients are those of the mean loss over this Learner's B rows.
    """

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    next_obs: Tensor
    terminateds: Tensor
    task: Tensor
    from_prior: Tensor
    prior: Batch | None = None
    activations: dict[str, list[Tensor]] = field(default_factory=dict)


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


def make_batch(columns: Mapping[str, Tensor]) -> Batch:
    """A `Batch` from RLlib's column names ("new_obs" is `next_obs`)."""
    return Batch(
        obs=columns["obs"],
        actions=columns["actions"],
        rewards=columns["rewards"],
        next_obs=columns["new_obs"],
        terminateds=columns["terminateds"],
        task=columns["task"],
        from_prior=columns["from_prior"],
    )


@dataclass(frozen=True)
class Phase:
    """A stretch of a visit. Phases never shift visit numbers, D_pre or metrics.

    Attributes:
        name: handed to `on_phase_start` and `on_phase_end`.
        collect: act in the environment under the visit's budget and early stop, with updates as usual.
        updates: updates without collecting, if `collect` is false.
        data: where those updates sample: the current buffer D, or D_pre.
        sac_losses: whether SAC's own losses are part of the updates, beside the method's terms.
        fresh: start with an empty D and, if collecting, with a warm-up if the visit has one.
    """

    name: str = "train"
    collect: bool = True
    updates: int = 0
    data: Literal["current", "prior"] = "current"
    sac_losses: bool = True
    fresh: bool = False


@dataclass(frozen=True)
class ReplayRequest:
    """How updates use D_pre.

    Attributes:
        interval: every `interval`-th update takes from D_pre (Eq. 7); None never does.
        prior_rows_per_update: rows of D_pre beside every batch, in `Batch.prior`.
    """

    interval: int | None = None
    prior_rows_per_update: int = 0

    @property
    def needs_store(self) -> bool:
        """Whether D_pre is used at all."""
        return self.interval is not None or self.prior_rows_per_update > 0


@dataclass(frozen=True)
class Acting:
    """How the policy acts in training: whose actions warm up a visit.

    "uniform": random actions. "policy": the task's own. "earlier_tasks": at each step those that a uniformly drawn
    earlier task's policy would take, and random ones in the first visit.

    Whatever else must act (prompts, injected branches) is a parameter or buffer of the policy network and so travels
    with the weights.
    """

    warmup: Literal["uniform", "policy", "earlier_tasks"] = "uniform"


class MethodSettings(Settings):
    """The flat keys of an arm that every method has."""

    with_replay: bool = False
    """Every `replay.interval`-th update from D_pre, beside whatever the method does (methods.md A38)."""


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
        sac_losses: SAC's losses of any `Batch` by name ("policy", "qf", "qf_twin", "alpha"), with gradients, as a
            Learner's update has them; each call draws fresh noise.
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
        self.twin = twin

    init_layer = staticmethod(init_layer)

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


class ContinualMethod:
    """One continual-learning method. This base class changes nothing: it is fine-tuning, the lower baseline.

    Args:
        config: the method's validated `Config`.
        agent: all that the method may touch.
        replay: the run's replay settings, for switches that both share.
    """

    Config: ClassVar[type[MethodSettings]] = MethodSettings
    max_learners: ClassVar[int | None] = None
    """Refused with more Learners than this before a run starts; None: any number."""
    needs_activations: ClassVar[bool] = False
    visit_data_rows: ClassVar[int] = 0
    """Rows of D that `VisitData` brings to every Learner at a boundary."""

    def __init__(self, config: Any, agent: Agent, replay: ReplaySettings) -> None:
        self.config = config
        self.agent = agent
        self.replay = replay

    # Declarations

    @classmethod
    def check(cls, config: Any, run: RunSettings) -> list[str]:
        """Errors in how the method's keys and the run's sections go together, one line each."""
        return []

    @classmethod
    def model_config(cls, config: Any, model: ModelSettings) -> dict[str, Any]:
        """Overrides of the run's `model` section, which is given, such as `{"activation": "crelu"}`."""
        return {}

    @classmethod
    def network(cls, config: Any, name: str, tasks: int, visits: int) -> Callable[..., Network]:
        """What builds the network of that name; it is called as `Network` is.

        Shapes are fixed here, for a whole run: what a method adds later stands in reserve from the start.

        Args:
            config: the method's keys.
            name: one of `NETWORKS`.
            tasks: distinct tasks of the run.
            visits: visits of the run.
        """
        return Network

    @classmethod
    def scoring(cls, config: Any) -> ScoringSettings | None:
        """How the finished task's neurons are scored, or None if the method needs no scores."""
        return None

    @classmethod
    def replay_request(cls, config: Any, replay: ReplaySettings) -> ReplayRequest:
        """How updates use D_pre."""
        return ReplayRequest(interval=replay.interval if config.with_replay else None)

    @classmethod
    def phases(cls, config: Any, visit: Visit) -> list[Phase]:
        """The stretches of a visit, in order."""
        return [Phase()]

    @classmethod
    def boundary_exceptions(cls, config: Any) -> dict[str, bool]:
        """Named exceptions from the run's `boundary` section, such as `{"reset_optimizer": False}`."""
        return {}

    @classmethod
    def training_exceptions(cls, config: Any) -> dict[str, Any]:
        """Named exceptions from the run's `training` section, such as `{"reward_scale": 0.002}`."""
        return {}

    @classmethod
    def acting(cls, config: Any) -> Acting:
        """How the policy acts in training."""
        return Acting()

    # Hooks of a visit, on every Learner

    def on_visit_start(self, visit: Visit, data: VisitData | None) -> None:
        """Before the visit's first environment step; `data` is the last visit's, None at the first."""

    def on_phase_start(self, visit: Visit, phase: Phase) -> None:
        """Before a phase."""

    def on_phase_end(self, visit: Visit, phase: Phase, data: VisitData) -> None:
        """After a phase; `data.rows` as at a visit's end."""

    def on_visit_end(self, visit: Visit, data: VisitData) -> None:
        """After evaluation and callbacks, before the resets: score and consolidate."""

    # Hooks of an update, on every Learner

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars added to the loss, by the network they belong to; they join the one backward pass."""
        return {}

    def transform_gradients(self, batch: Batch) -> None:
        """In place on `.grad`; then clipping, then the optimizer."""

    def after_step(self, batch: Batch) -> None:
        """In place on the weights after the optimizer; then the target networks."""

    # What a run records, and state

    def metrics(self) -> dict[str, float]:
        """Numbers for the training rows."""
        return {}

    def neuron_arrays(self) -> dict[str, np.ndarray]:
        """Arrays for `neurons/visit_NN.npz`, keyed `<network>/<layer>/<quantity>`."""
        return {}

    def get_state(self) -> dict[str, Any]:
        """Everything to go on from: tensors, NumPy arrays, numbers and strings, nested in dicts and lists."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_state` gave."""
