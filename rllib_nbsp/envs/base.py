"""What a suite of tasks must say: its tasks' names, how an environment is made and seeded, and when it is solved."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding

Env = gym.Env[Any, Any]


class EnvironmentFailure(RuntimeError):
    """An environment cannot go on; the message names its task, sub-environment and step."""


class NonFiniteObservation(EnvironmentFailure):
    """An environment returned an observation with NaN or an infinity."""


class NonFiniteReward(EnvironmentFailure):
    """An environment returned a reward of NaN or infinity."""


class EnvironmentContractError(EnvironmentFailure):
    """An environment returned something of the wrong shape or type: a defect that building it anew will not mend."""


class Suite(ABC):
    """A family of tasks that share one observation space and one action space, [-1, 1] in every dimension."""

    name: str
    has_success: bool = True
    """Whether tasks can be solved; without, episodes are judged by their return alone."""

    @abstractmethod
    def task_names(self) -> list[str] | None:
        """All tasks of the suite; None if the set is open."""

    @abstractmethod
    def make_env(self, task: str, *, seed: int) -> Env:
        """Build one environment; everything random in it, now and later, follows from `seed`."""

    @abstractmethod
    def task_spaces(self, task: str) -> tuple[Box, Box]:
        """Observation and action space of one task."""

    def check_tasks(self, tasks: Sequence[str]) -> list[str]:
        """One line for every task that cannot be run, with its place in `tasks` and the nearest known names."""
        names = self.task_names()
        if names is None:
            return []
        return [
            f"tasks[{i}]: unknown {self.name} task {task!r}{did_you_mean(task, names)}"
            for i, task in enumerate(tasks)
            if task not in names
        ]

    def reseed(self, env: Env, seed: int) -> None:
        """Make the environment's future random stream, from its next reset on, a function of `seed`."""
        env.np_random, _ = seeding.np_random(seed)

    def success(self, info: Mapping[str, Any]) -> bool:
        """Whether the task is solved at the step that returned this `info`.

        Raises:
            EnvironmentContractError: if the environment does not say.
        """
        if "success" not in info:
            raise EnvironmentContractError(f"the environment reports no info['success'] (got keys {sorted(info)})")
        return float(info["success"]) > 0.0

    def spaces(self, tasks: Sequence[str]) -> tuple[Box, Box]:
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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known names as the end of an error line; empty if nothing is near."""
    close = difflib.get_close_matches(name, known, n=3)
    return "; did you mean " + " or ".join(repr(other) for other in close) + "?" if close else ""


def _difference(a: Box, b: Box) -> str:
    if a.shape != b.shape:
        return f"shape {a.shape} against {b.shape}"
    if a.dtype != b.dtype:
        return f"dtype {a.dtype} against {b.dtype}"
    dim = np.unravel_index(np.flatnonzero((a.low != b.low) | (a.high != b.high))[0], a.shape)
    index = [int(i) for i in dim]
    return f"bounds [{a.low[dim]}, {a.high[dim]}] against [{b.low[dim]}, {b.high[dim]}] at index {index}"
