"""A suite from a file of one's own: a cart on a track, with a section of its own and checks of its own.

    python run_tune.py examples/own_suite.yaml       # a study; the file stands beside it and is all that it needs
    python examples/own_suite.py                     # the same from Python, with one remote rollout worker

A task is `mark-N`: come to rest at N per cent of the track. The mark is not observed, so that the tasks contradict each
other and a network that learns the next one forgets the last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding

from rllib_nbsp import ContinualSACConfig, register_suite
from rllib_nbsp.envs import Suite
from rllib_nbsp.settings import Frac, ModelSettings, PositiveFloat, PositiveInt, RunSettings, Settings

MARK = re.compile(r"mark-(\d{1,2}|100)")
NEAR = 0.05
"""Of the track's length: how near the mark the cart must be, and how far it may still move in a step."""


class TrackSettings(Settings):
    """The section `track` of a run."""

    length: PositiveFloat = 2.0
    friction: Frac = 0.2
    """Share of the velocity that a step takes."""
    episode_steps: PositiveInt = 50


class CartOnTrack(gym.Env[np.ndarray, np.ndarray]):
    """Observation: position and velocity, both over the track's length. Action: the push."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, settings: TrackSettings, mark: float, seed: int) -> None:
        self.settings = settings
        self.mark = mark
        self.np_random, _ = seeding.np_random(seed)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start somewhere near the middle, at rest."""
        super().reset(seed=seed)
        self.steps = 0
        self.position, self.velocity = self.np_random.uniform(0.4, 0.6), 0.0
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One push."""
        self.steps += 1
        self.velocity = (1.0 - self.settings.friction) * self.velocity + 0.1 * float(action[0]) / self.settings.length
        self.position = float(np.clip(self.position + self.velocity, 0.0, 1.0))
        distance = abs(self.position - self.mark)
        solved = distance < NEAR and abs(self.velocity) < NEAR
        ends = self.steps == self.settings.episode_steps
        return self._obs(), -distance, False, ends, {"success": float(solved and ends)}

    def _obs(self) -> np.ndarray:
        return np.array((self.position, self.velocity), np.float32)


class TrackSuite(Suite):
    """Carts that come to rest at a mark."""

    name = "track"
    Config = TrackSettings

    def __init__(self, settings: TrackSettings | None = None) -> None:
        self.settings = settings or TrackSettings()

    def configured(self, settings: Settings) -> TrackSuite:
        """The suite under a run's `track` section."""
        assert isinstance(settings, TrackSettings)
        return TrackSuite(settings)

    def task_names(self) -> None:
        """Open: any mark."""
        return None

    def check_tasks(self, tasks: Sequence[str]) -> list[str]:
        """Whether each is a mark."""
        return [
            f"tasks[{i}]: {task!r} is no mark of the track; allowed: mark-N with N from 0 to 100"
            for i, task in enumerate(tasks)
            if not MARK.fullmatch(task)
        ]

    def check(self, settings: RunSettings, model: ModelSettings) -> list[str]:
        """Whether a visit has an episode."""
        if settings.visit.max_env_steps >= self.settings.episode_steps:
            return []
        return [
            f"track.episode_steps is {self.settings.episode_steps}; it must be at most visit.max_env_steps, "
            f"{settings.visit.max_env_steps}, or no episode ends"
        ]

    def make_env(self, task: str, *, seed: int, training: bool = True) -> CartOnTrack:
        """One cart."""
        return CartOnTrack(self.settings, int(task.removeprefix("mark-")) / 100, seed)

    def task_spaces(self, task: str) -> tuple[Box, Box]:
        """The same for all."""
        return CartOnTrack.observation_space, CartOnTrack.action_space


register_suite(TrackSuite())


def config() -> ContinualSACConfig:
    """Two marks, twice; every process of the run imports this file as a module."""
    return (
        ContinualSACConfig()
        .plugins("own_suite")
        .suite("track", friction=0.3)
        .curriculum(tasks=["mark-20", "mark-80"], cycles=2, visit_env_steps=1_000)
        .visit(warmup_env_steps=200, early_stop=None)
        .training(updates_per_env_step=0.25, batch_size=64, rollout_fragment_length=10)
        .networks(hidden=[64, 64])
        .evaluation(periodic_episodes=0, boundary_episodes=5)
        .env_runners(num_env_runners=1)
    )


if __name__ == "__main__":
    algo = config().build_algo()
    done = False
    while not done:
        result = algo.train()
        print(result["visit"], result["task"], result["env_steps"], result["success_window"])
        done = result["done"]
    algo.stop()
