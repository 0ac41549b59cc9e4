"""What all contenders share: their environment, what a window of time measures, and the interface of the harness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import gymnasium as gym
import numpy as np

from benchmarks.timing import repeat_for
from rllib_nbsp.envs import SUITES

TASK = "window-open-v3"
BATCH_SIZE = 256


@dataclass(frozen=True)
class Window:
    """What happened in one stretch of time."""

    env_steps: int
    updates: int
    seconds: float

    @property
    def env_steps_per_s(self) -> float:
        """The figure that the contenders are compared by."""
        return self.env_steps / self.seconds


class Episode(NamedTuple):
    """A training episode: the environment step of the run that ended it, its return, and whether it was a success."""

    env_steps: int
    episode_return: float
    success: bool


class Contender(Protocol):
    """Somebody who trains SAC on `TASK` with one update per environment step, past its warm-up when it is built.

    Attributes:
        name: key in the results.
        gflop_per_update: 10^9 operations of an update's matrix products.
        passes: network passes of an update, for people.
    """

    name: str
    gflop_per_update: float
    passes: str

    def run(self, seconds: float) -> Window:
        """Train for at least `seconds` and say what was done."""

    def close(self) -> None:
        """Release environments and processes."""


def train_for(seconds: float, train: Callable[[], None], counters: Callable[[], tuple[int, int]]) -> Window:
    """Call `train` until `seconds` are over.

    Args:
        seconds: least length of the window; the last call is finished.
        train: some training.
        counters: environment steps and updates so far.
    """
    env_steps, updates = counters()
    _, elapsed = repeat_for(seconds, train)
    new_env_steps, new_updates = counters()
    return Window(new_env_steps - env_steps, new_updates - updates, elapsed)


def make_env(seed: int = 0) -> gym.Env[np.ndarray, np.ndarray]:
    """`TASK` as we make it, without gymnasium's wrappers: everybody steps the same, cheapest environment."""
    return SUITES["metaworld"].make_env(TASK, seed=seed)
