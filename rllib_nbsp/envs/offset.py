"""One environment whose observations each task moves by a fixed offset (TRAC, Muppidi et al. 2024; C-CHAIN, Tang 2025).

Nothing but the inputs changes from task to task: dynamics, rewards and what is a success are the base environment's.
The tasks do not contradict each other, one policy can solve them all, and yet they share every weight.

A task is `plain`, the environment as it is; `offset-N`, moved by a vector that NumPy's generator of seed N draws from a
normal distribution; or the name of a vector that the section `offset` gives.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from pydantic import Field

from rllib_nbsp.envs.atari import AtariSuite
from rllib_nbsp.envs.base import ActionSpace, Env, Suite, register_suite
from rllib_nbsp.envs.gymnasium import GymnasiumSuite
from rllib_nbsp.envs.metaworld import MetaWorldSuite
from rllib_nbsp.envs.point_mass import PointMassSuite
from rllib_nbsp.registry import did_you_mean
from rllib_nbsp.settings import Settings

PLAIN = "plain"
DRAWN = re.compile("offset-(0|[1-9][0-9]{0,8})")
TASKS = f"{PLAIN}, offset-N with a whole number N of at most 9 digits, or a name of offset.offsets"
LARGEST = 1e6  # beyond, float32 has no place left for the observation itself
# Atari is here to be refused by what its observations are.
BASES: dict[str, Suite] = {s.name: s for s in (GymnasiumSuite(), PointMassSuite(), MetaWorldSuite(), AtariSuite())}


class OffsetSettings(Settings):
    """Which environment it is, and how far its observations are moved."""

    base: str = "Pendulum-v1@return>=-300"
    """A task of suite `gymnasium`, or SUITE:TASK for one of another suite, such as `point_mass:reach-left`."""
    std: Annotated[float, Field(gt=0.0, le=LARGEST, allow_inf_nan=False)] = 2.0
    """Standard deviation of the entries of `offset-N`; their mean is 0."""
    offsets: dict[str, list[Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]]] = Field({})
    """Further tasks: their names, and the vectors that their observations are moved by."""


class OffsetEnv(gym.ObservationWrapper[np.ndarray, Any, np.ndarray]):
    """Float32 observations, moved."""

    def __init__(self, env: Env, offset: np.ndarray) -> None:
        super().__init__(env)
        self.observation_space = observation_space(offset.shape)
        self._offset = offset

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The observation plus the offset."""
        # One of a wrong shape goes on as it came, for the vector to name it: broadcasting would hide it.
        fits = isinstance(observation, np.ndarray) and observation.shape == self._offset.shape
        return observation + self._offset if fits else observation


class OffsetSuite(Suite):
    """The tasks that offsets make of one environment of another suite, whose goals, limits and seeds they keep.

    Args:
        settings: the run's `offset` section.
    """

    name = "offset"
    Config = OffsetSettings

    def __init__(self, settings: OffsetSettings | None = None) -> None:
        self.settings = settings or OffsetSettings()
        prefix, colon, task = self.settings.base.partition(":")
        known = bool(colon) and prefix in BASES  # other colons are gymnasium's own, module:EnvId
        self._suite = BASES[prefix if known else GymnasiumSuite.name]
        self._base = task if known else self.settings.base

    def configured(self, settings: Settings) -> OffsetSuite:
        """The tasks under a run's `offset` section."""
        assert isinstance(settings, OffsetSettings)
        return OffsetSuite(settings)

    def task_names(self) -> None:
        """Open: every number draws an offset."""
        return None

    def check_section(self) -> list[str]:
        """A base that cannot be run or moved, and vectors with a wrong length, a taken name, or no difference."""
        base, offsets = self.settings.base, self.settings.offsets
        try:
            size = self._spaces[0].shape[0]
        except (ValueError, ImportError) as error:
            others = " or ".join(sorted(BASES.keys() - {"gymnasium", "atari"}))
            return [f"offset.base is {base!r}; allowed: a gymnasium task, or SUITE:TASK of {others}; {error}"]
        errors = [
            f"offset.offsets.{name} is a name that is taken; allowed: any but {PLAIN} and offset-N"
            for name in offsets
            if _is_built_in(name)
        ]
        errors += [
            f"offset.offsets.{name} has {len(vector)} numbers; allowed: {size}, as the observations of {base!r} have"
            for name, vector in offsets.items()
            if len(vector) != size
        ]
        return errors or [f"offset.offsets: {line}" for line in self._alike([PLAIN, *offsets])]

    def check_tasks(self, tasks: Sequence[str]) -> list[str]:
        """Malformed and unknown names, and two names for one offset."""
        offsets = self.settings.offsets
        unknown = [(i, task) for i, task in enumerate(tasks) if not _is_built_in(task) and task not in offsets]
        if unknown:
            known = [PLAIN, "offset-1", *offsets]
            return [
                f"tasks[{i}]: unknown offset task {task!r}; allowed: {TASKS}{did_you_mean(task, known)}"
                for i, task in unknown
            ]
        return [f"tasks: {line}" for line in self._alike(tasks)]

    def _alike(self, tasks: Sequence[str]) -> list[str]:
        """A line for each two of the tasks that are one."""
        return [
            f"{one!r} and {other!r} have the same offset, {_show(self.offset(one))}; allowed: one name for each"
            for one, other in itertools.combinations(dict.fromkeys(tasks), 2)
            if np.array_equal(self.offset(one), self.offset(other))
        ]

    def offset(self, task: str) -> np.ndarray:
        """What a task's observations are moved by, float32."""
        size = self._spaces[0].shape[0]
        if task == PLAIN:
            offset = np.zeros(size)
        elif drawn := DRAWN.fullmatch(task):
            offset = np.random.default_rng(int(drawn[1])).normal(0.0, self.settings.std, size)
        else:
            offset = np.array(self.settings.offsets[task])
        return offset.astype(np.float32)

    def environments(self, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What the base's suite says of it, for every task."""
        return dict.fromkeys(tasks, self._suite.environments([self._base]).get(self._base, {}))

    def make_env(self, task: str, *, seed: int, training: bool = True) -> Env:
        """Build the base environment and move its observations."""
        return OffsetEnv(self._suite.make_env(self._base, seed=seed, training=training), self.offset(task))

    def reseed(self, env: Env, seed: int) -> None:
        """As the base's suite does it."""
        assert isinstance(env, OffsetEnv)
        self._suite.reseed(env.env, seed)

    def success(self, info: Mapping[str, Any]) -> bool:
        """The base's."""
        return self._suite.success(info)

    def task_spaces(self, task: str) -> tuple[Box, ActionSpace]:
        """The same for every task."""
        return self._spaces

    @functools.cached_property
    def _spaces(self) -> tuple[Box, ActionSpace]:
        """The base's, without bounds on the observations.

        Raises:
            ValueError: if the base cannot be run, or its observations are no vectors.
        """
        for line in self._suite.check_tasks([self._base]):
            module, colon, _ = self._base.partition(":")
            raise ValueError(line.removeprefix("tasks[0]: ") + (did_you_mean(module, BASES) if colon else ""))
        space, actions = self._suite.task_spaces(self._base)
        if len(space.shape) != 1:
            raise ValueError(f"its observations have shape {space.shape}; an offset moves vectors")
        return observation_space(space.shape), actions


def observation_space(shape: tuple[int, ...]) -> Box:
    """Without bounds: moved ones would differ from task to task."""
    return Box(-np.inf, np.inf, shape, np.float32)


def _show(offset: np.ndarray) -> str:
    """In one line, a long one by its beginning."""
    return "[" + ", ".join([*(f"{x:g}" for x in offset[:6]), *["..."] * (len(offset) > 6)]) + "]"


def _is_built_in(task: str) -> bool:
    return task == PLAIN or DRAWN.fullmatch(task) is not None


register_suite(OffsetSuite())
