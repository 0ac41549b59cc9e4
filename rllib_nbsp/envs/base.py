"""What a suite of tasks must say: its tasks' names, how an environment is made and seeded, and when it is solved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import seeding

from rllib_nbsp.envs.contract import checked_success
from rllib_nbsp.plugins import PluginError, misfits
from rllib_nbsp.registry import OpenRegistry, did_you_mean, home
from rllib_nbsp.settings import ModelSettings, RunSettings, Settings

Env = gym.Env[Any, Any]
ActionSpace = Box | Discrete[Any]

ENV_BYTES = 2_000_000
"""Of one environment, about; measured: Pendulum 0.01 MB, MuJoCo's of gymnasium 1.2 MB, a game 1.6 MB."""


class Suite(ABC):
    """A family of tasks with one observation space and one action space: [-1, 1] in every dimension, or discrete."""

    name: ClassVar[str]
    Config: ClassVar[type[Settings] | None] = None
    """The section of a run's settings that the suite has, under its own name, if any."""
    has_success: ClassVar[bool] = True
    """Whether tasks can be solved; without, episodes are judged by their return alone."""
    alters_training: ClassVar[bool] = False
    """Whether training environments change rewards or end episodes early. Such a suite's environments report the return
    of a whole episode as it ends, in `info["episode"]["r"]` as gymnasium's RecordEpisodeStatistics does."""

    def configured(self, settings: Settings) -> Suite:
        """The suite under the settings of its section, of type `Config`."""
        return self

    @abstractmethod
    def task_names(self) -> list[str] | None:
        """All tasks of the suite; None if the set is open."""

    @abstractmethod
    def make_env(self, task: str, *, seed: int, training: bool = True) -> Env:
        """Build one environment; everything random in it, now and later, follows from `seed`.

        Args:
            task: what it is.
            seed: see above.
            training: whether its transitions are learned from, which matters to suites with `alters_training`.
        """

    @abstractmethod
    def task_spaces(self, task: str) -> tuple[Box, ActionSpace]:
        """Observation and action space of one task."""

    def env_nbytes(self, tasks: int, envs: int) -> int:
        """Main memory of so many environments of so many tasks in one process, about: a study's plan counts with it."""
        return envs * ENV_BYTES

    def modules(self, tasks: Sequence[str]) -> list[str]:
        """Names of modules that these tasks are imported from; a run takes them along to other machines."""
        return []

    def environments(self, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
        """By task, what its environment is made from beside what the settings say, as JSON knows it.

        It is filed with a run's results, and seeds are averaged only if it is the same.
        """
        return {}

    def check_section(self) -> list[str]:
        """What its section gets wrong, whatever the tasks, one line each that begins with a key."""
        return []

    def check_tasks(self, tasks: Sequence[str]) -> list[str]:
        """One line for every task that cannot be run, with its place in `tasks` and the nearest known names.

        Asked only if `check_section` finds nothing.
        """
        names = self.task_names()
        if names is None:
            return [
                f"tasks: suite {self.name!r} takes any name and checks none: it needs check_tasks(self, tasks) of its "
                "own, or task_names() as a list"
            ]
        return [
            f"tasks[{i}]: unknown {self.name} task {task!r}{did_you_mean(task, names)}"
            for i, task in enumerate(tasks)
            if task not in names
        ]

    def check(self, settings: RunSettings, model: ModelSettings) -> list[str]:
        """What the suite and the run's sections get wrong together, one line each.

        Args:
            settings: the run.
            model: its `model` section with the method's overrides.
        """
        return []

    def notes(self, tasks: Sequence[str]) -> list[str]:
        """What a user should know about these tasks together, one line each."""
        return []

    def reseed(self, env: Env, seed: int) -> None:
        """Make the environment's future random stream, from its next reset on, a function of `seed`."""
        env.np_random, _ = seeding.np_random(seed)

    def success(self, info: Mapping[str, Any]) -> bool:
        """Whether the task is solved at the step that returned this `info`.

        Raises:
            EnvironmentContractError: if the environment does not say.
        """
        return checked_success(info)

    def frame(self, env: Env) -> np.ndarray:
        """A picture of what an environment is like now, (H, W, 3) uint8; raises what its drawing raises."""
        base = env.unwrapped
        base.render_mode = "rgb_array"  # which gymnasium takes at construction, where nobody knows yet who will look
        picture: Any = base.render()
        return np.asarray(picture, np.uint8)

    def spaces(self, tasks: Sequence[str]) -> tuple[Box, ActionSpace]:
        """The observation and action space that all of `tasks` share.

        Raises:
            ValueError: if two tasks differ; networks and replay are built once for the whole sequence.
        """
        first, *others = dict.fromkeys(tasks)
        spaces = self.task_spaces(first)
        for task in others:
            for kind, ours, theirs in zip(("observation", "action"), spaces, self.task_spaces(task), strict=True):
                if ours != theirs:
                    raise ValueError(
                        f"tasks {first!r} and {task!r} differ in their {kind} space: {_difference(ours, theirs)}"
                    )
        return spaces


def _difference(a: ActionSpace, b: ActionSpace) -> str:
    if isinstance(a, Discrete) or isinstance(b, Discrete):
        return f"{a} against {b}"
    if a.shape != b.shape:
        return f"shape {a.shape} against {b.shape}"
    if a.dtype != b.dtype:
        return f"dtype {a.dtype} against {b.dtype}"
    dim = np.unravel_index(np.flatnonzero((a.low != b.low) | (a.high != b.high))[0], a.shape)
    index = [int(i) for i in dim]
    return f"bounds [{a.low[dim]}, {a.high[dim]}] against [{b.low[dim]}, {b.high[dim]}] at index {index}"


def _checked(suite: Any) -> Suite:
    cls = suite if isinstance(suite, type) else type(suite)
    if not issubclass(cls, Suite):
        raise PluginError(f"a suite is a subclass of Suite, or an object of one, got {suite!r}")
    wrong = misfits(cls, Suite)
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name.isidentifier():
        wrong.append(f"name is {name!r}; it must be text as a section's key has it")
    config: Any = cls.Config
    if config is not None:
        if not isinstance(config, type) or not issubclass(config, Settings):
            wrong.append(f"Config is {config!r}; it must be a subclass of Settings, or None")
        elif cls.configured is Suite.configured:
            wrong.append("it has a Config and no configured(self, settings), so that nothing reads its section")
        if name in RunSettings.model_fields:
            wrong.append(f"name is {name!r}, and a run has a key of that name; its section needs another")
    if wrong:
        raise PluginError(f"suite {home(cls)}: {'; '.join(wrong)}")
    made: Suite = cls() if cls is suite else suite
    return made


SUITES: OpenRegistry[Suite] = OpenRegistry("suite", _checked)


def register_suite(suite: Suite) -> Suite:
    """Make a suite known by its name, and its section a part of every run's settings.

    Called in the module that defines it, which `plugins` then names.

    Raises:
        PluginError: if another suite has that name, or it lacks what a suite must have.
    """
    return SUITES.register(suite.name, suite)
