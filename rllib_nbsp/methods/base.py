"""The interface of a continual-learning method, and what a method may touch.

Three kinds of members. *Declarations* are class methods of the configuration alone: the driver reads them before and
during a run. *Hooks* run inside every Learner at fixed places of an update and of a visit. *State* travels in
checkpoints. Each has a default that means "nothing"; the base class is plain fine-tuning, the method `sac`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from rllib_nbsp.curriculum import Phase, Visit
from rllib_nbsp.methods.agent import Agent, Batch, VisitData
from rllib_nbsp.nn.networks import Network
from rllib_nbsp.plugins import PluginError, misfits
from rllib_nbsp.registry import OpenRegistry, home
from rllib_nbsp.replay.buffer import ReplayRequest
from rllib_nbsp.settings import ModelSettings, ReplaySettings, RunSettings, ScoringSettings, Settings


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
    """Every `replay.interval`-th update from D_pre, beside whatever the method does (docs/readings.md R29)."""


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
    """Every step then is of all networks: `training.actor_interval` above 1 is refused."""
    visit_data_rows: ClassVar[int] = 0
    """Rows of D that `VisitData` brings to every Learner at a boundary."""
    freezes_weights: ClassVar[bool] = False
    """Whether it freezes weights by taking their gradients; a weight decay, which would move them, is then refused."""
    replay_scopes: ClassVar[tuple[str, ...]] = ("all",)
    """Which values of `replay.scope` the method obeys; others are refused before a run starts."""

    def __init__(self, config: Any, agent: Agent, replay: ReplaySettings) -> None:
        self.config = config
        self.agent = agent
        self.replay = replay

    # Declarations

    @classmethod
    def check(cls, config: Any, settings: RunSettings) -> list[str]:
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
    def idle_in_first_visit(cls, config: Any) -> bool:
        """Whether a run is what `sac` would make it, to the last bit, until its first boundary.

        Runs that are share that visit (`sharing.py`). A method that does anything there, has networks of its own, or
        notes what an update brings, is not idle; one that only would draw, pull or brake by what it has not got yet is.
        """
        return cls is ContinualMethod

    @classmethod
    def boundary_exceptions(cls, config: Any) -> dict[str, bool]:
        """Named exceptions from the run's `boundary` section, such as `{"reset_optimizer": False}`."""
        return {}

    @classmethod
    def training_exceptions(cls, config: Any) -> dict[str, Any]:
        """Named exceptions from the run's `training` section, such as `{"reward_scale": 0.002}`."""
        return {}

    @classmethod
    def no_graph(cls, config: Any) -> str | None:
        """Why updates cannot be replayed as a CUDA graph, for people, or None if they can.

        A method that takes part in an update must say so itself, for it alone knows whether its hooks keep the rule
        of `sac/graphs.py`.
        """
        hooks = ("loss_terms", "transform_gradients", "after_step")
        if all(getattr(cls, hook) is getattr(ContinualMethod, hook) for hook in hooks):
            return None
        return "its hooks of an update do not say that they can be replayed (no_graph)"

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

    # Hooks of an update, on every Learner. Its arithmetic is that of its steps, which a GPU may replay without Python
    # (`sac/graphs.py`); what a method counts or draws on the host, it does in the two hooks around them.

    def on_update_start(self) -> None:
        """Before an update's steps, on the host."""

    def on_update_end(self) -> None:
        """After an update's steps, on the host."""

    def graph_key(self, *, of_prior: bool) -> Hashable | None:
        """What of the method's own numbers on the host the coming update's kernels depend on, if any.

        Args:
            of_prior: whether all rows of the update come from D_pre.

        Returns:
            Updates with equal keys are replays of each other; None: this update is one of its own.
        """
        return ()

    # Hooks of an update's step: the only one, unless `training.actor_interval` is above 1. What an update is to have
    # once belongs to the step that moves the critics, `"qf" in batch.moving`.

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars added to the loss, by the network they belong to; they join the one backward pass.

        Those of networks that the step does not move are left out.
        """
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


def _checked(method: Any) -> type[ContinualMethod]:
    if not isinstance(method, type) or not issubclass(method, ContinualMethod):
        raise PluginError(f"a method is a subclass of ContinualMethod, got {method!r}")
    wrong = misfits(method, ContinualMethod)
    config: Any = method.Config
    if not isinstance(config, type) or not issubclass(config, MethodSettings):
        wrong.append(f"Config is {config!r}; it must be a subclass of MethodSettings")
    if wrong:
        raise PluginError(f"method {home(method)}: {'; '.join(wrong)}")
    return method


METHODS: OpenRegistry[type[ContinualMethod]] = OpenRegistry("method", _checked)


def register_method(name: str, method: type[ContinualMethod]) -> type[ContinualMethod]:
    """Make a method known by a name. Called in the module that defines it, which `plugins` then names.

    Raises:
        PluginError: if another method has that name, or its class lacks what a method must have.
    """
    return METHODS.register(name, method)


register_method("sac", ContinualMethod)
