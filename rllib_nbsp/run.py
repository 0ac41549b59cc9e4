"""`ResolvedRun`: what a run's settings come to, worked out in one place and once. Nothing here knows Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.spaces import Box, Discrete

from rllib_nbsp.curriculum import Curriculum, Task, Visit
from rllib_nbsp.envs import ActionSpace, Suite, suite_of, with_suite_section
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings
from rllib_nbsp.nn.networks import NETWORKS, Network, sac_shapes
from rllib_nbsp.plugins import import_plugins
from rllib_nbsp.replay.buffer import ReplayRequest
from rllib_nbsp.replay.stores import RowSpec
from rllib_nbsp.schedule import VisitSchedule
from rllib_nbsp.seeding import torch_generator
from rllib_nbsp.settings import (
    BoundarySettings,
    ModelSettings,
    RunSettings,
    ScoringSettings,
    TrainingSettings,
    with_added,
)

Spaces = tuple[Box, ActionSpace]


def run_settings(**values: Any) -> RunSettings:
    """A run's settings, with the section of its suite if that has one. Imports the run's plugins.

    Raises:
        PluginError: if a plugin cannot be used.
        pydantic.ValidationError: naming each key that is wrong.
    """
    import_plugins(values.get("plugins"))
    return with_suite_section(RunSettings, values.get("suite"))(**values)


def settings_of_results(values: Mapping[str, Any]) -> RunSettings:
    """A run from the `config.yaml` beside its rows: keys that came later are as runs had it before.

    Raises:
        PluginError: if a plugin cannot be used.
        pydantic.ValidationError: naming each key that is wrong.
    """
    return run_settings(**with_added(values))


@dataclass(frozen=True)
class ResolvedRun:
    """A run with its method, and every section as the method leaves it.

    Attributes:
        settings: what was asked for.
        given_spaces: observation and action space in place of the suite's, if not None.
    """

    settings: RunSettings
    given_spaces: Spaces | None = None

    # The method

    @functools.cached_property
    def method(self) -> type[ContinualMethod]:
        """The run's method."""
        return METHODS[self.settings.method]

    @functools.cached_property
    def keys(self) -> MethodSettings:
        """The method's own keys, validated."""
        return self.method.Config(**self.settings.method_settings)

    # The sections

    @functools.cached_property
    def training(self) -> TrainingSettings:
        """The `training` section with the method's named exceptions."""
        return self.settings.training.model_copy(update=self.method.training_exceptions(self.keys))

    @functools.cached_property
    def model(self) -> ModelSettings:
        """The `model` section with the method's overrides."""
        return self.settings.model.model_copy(update=self.method.model_config(self.keys, self.settings.model))

    @functools.cached_property
    def boundary(self) -> BoundarySettings:
        """The `boundary` section with the method's named exceptions."""
        return self.settings.boundary.model_copy(update=self.method.boundary_exceptions(self.keys))

    @functools.cached_property
    def scoring(self) -> ScoringSettings | None:
        """How neurons are scored after each visit: the method's way, or the run's for methods that need no scores."""
        return self.method.scoring(self.keys) or self.settings.score_all_methods

    @functools.cached_property
    def replay_request(self) -> ReplayRequest:
        """How updates use D_pre."""
        return self.method.replay_request(self.keys, self.settings.replay)

    @property
    def evaluation_env_steps(self) -> int:
        """Environment steps between two periodic evaluations."""
        return self.settings.evaluation.periodic_env_steps or max(1, self.settings.visit.max_env_steps // 20)

    def periodic_tasks(self, visit: Visit) -> list[Task]:
        """The tasks that are evaluated during a visit, in order of their index."""
        which = self.settings.evaluation.periodic_tasks
        if which == "all":
            return self.curriculum.tasks
        seen = {visit.task} if which == "current" else {v.task for v in self.curriculum.visits[: visit.number]}
        return [task for task in self.curriculum.tasks if task in seen]

    @property
    def success_flag(self) -> str:
        """Which entry of an episode's summary says that it was a success."""
        return "success" if self.settings.evaluation.success == "any" else "final_success"

    @property
    def num_learners(self) -> int:
        """How many Learners there are, a local one included."""
        return max(1, self.settings.resources.num_learners)

    @property
    def uses_graphs(self) -> bool:
        """Whether the Learner replays its updates (`sac/graphs.py`)."""
        can = self.num_learners == 1 and self.method.no_graph(self.keys) is None
        return can and self.settings.resources.graphs != "off"

    @property
    def modules(self) -> list[str]:
        """Modules besides this package that every process of the run imports."""
        named = [name.partition(":")[0] for name in (self.settings.method, self.settings.suite) if ":" in name]
        return [*self.settings.plugins, *named, *self.suite.modules(self.settings.tasks)]

    def warmup_actions(self, visit: Visit) -> dict[str, Any]:
        """Who acts in a visit's warm-up, as a sample request says it."""
        warmup = self.method.acting(self.keys).warmup
        earlier = {v.task.name for v in self.curriculum.visits[: visit.number - 1]} - {visit.task.name}
        if warmup == "earlier_tasks" and earlier:
            return {"act_as": [task.name for task in self.curriculum.tasks if task.name in earlier]}
        return {"random_actions": warmup != "policy"}

    # The tasks

    @functools.cached_property
    def suite(self) -> Suite:
        """The suite under the run's settings for it."""
        return suite_of(self.settings)

    @functools.cached_property
    def spaces(self) -> Spaces:
        """Observation and action space of every task.

        Raises:
            ValueError: if two tasks differ.
        """
        return self.given_spaces or self.suite.spaces(self.settings.tasks)

    @functools.cached_property
    def curriculum(self) -> Curriculum:
        """Tasks and visits."""
        return Curriculum(self.settings.tasks, self.settings.cycles)

    def schedule(self) -> VisitSchedule:
        """A fresh way through the visits."""
        return VisitSchedule(
            self.curriculum,
            functools.partial(self.method.phases, self.keys),
            self.settings.visit,
            warmup_each_visit=self.boundary.warmup_each_visit,
            updates_per_env_step=self.training.updates_per_env_step,
            evaluation_env_steps=self.evaluation_env_steps,
            report_env_steps=self.settings.evaluation.report_env_steps,
            state_env_steps=self.settings.state.every_env_steps,
            stop_env_steps=self.settings.stop_env_steps,
        )

    # Shapes

    @functools.cached_property
    def discrete(self) -> bool:
        """Whether actions are numbers 0 ... n - 1."""
        return isinstance(self.spaces[1], Discrete)

    @functools.cached_property
    def act_dim(self) -> int:
        """Action dimensions A, or the number n of discrete actions."""
        actions = self.spaces[1]
        return int(actions.n) if isinstance(actions, Discrete) else math.prod(actions.shape)

    @functools.cached_property
    def row_spec(self) -> RowSpec:
        """Shapes and dtypes of a transition."""
        obs, actions = self.spaces
        assert obs.dtype is not None and actions.dtype is not None  # a Box always has one
        return RowSpec(obs.shape, obs.dtype, actions.shape or (), actions.dtype)

    def build_network(self, name: str, *, device: str | None = None) -> Network:
        """The network of that name, one of `NETWORKS`, with its initial weights.

        Args:
            name: of the network.
            device: "meta" gives shapes without memory.
        """
        actor, critic = sac_shapes(self.spaces[0].shape, self.act_dim, self.discrete)
        in_shape, out_features = actor if name == "policy" else critic
        build = self.method.network(self.keys, name, len(self.curriculum.tasks), self.settings.num_visits)
        with torch.device(device) if device else contextlib.nullcontext():
            return build(
                in_shape,
                self.model.hidden,
                out_features,
                activation=self.model.activation,
                conv=self.model.conv if len(in_shape) == 3 else (),
                init=self.model.init,
                # A stream of its own per network: an inference-only copy draws the same actor.
                generator=torch_generator(self.settings.seed, "initialization", NETWORKS.index(name)),
            )

    def with_settings(self, **sections: Any) -> ResolvedRun:
        """The same run with some of its settings replaced."""
        return dataclasses.replace(self, settings=self.settings.model_copy(update=sections))
