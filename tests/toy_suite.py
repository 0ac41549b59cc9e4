"""A suite whose observations say where they come from, and whose faults are scripted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding

from rllib_nbsp.envs.base import Suite

OBSERVATION_SPACE = Box(-np.inf, np.inf, (4,), np.float32)
ACTION_SPACE = Box(-1.0, 1.0, (2,), np.float32)


class ToyEnv(gym.Env[np.ndarray, np.ndarray]):
    """Observation: a random number drawn at reset, this environment's number, its episode, the step in it.

    The reward is the first action. The task is solved at an episode's last step, and at no other.
    """

    observation_space = OBSERVATION_SPACE
    action_space = ACTION_SPACE

    def __init__(self, suite: ToySuite, number: int, seed: int) -> None:
        self.suite = suite
        self.number = number
        self.episode = -1
        self.steps = 0
        self.closed = False
        self.np_random, _ = seeding.np_random(seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        self.draw = self.np_random.random()
        return self.suite.on_reset(self, self.observe()), {}

    def step(self, action: np.ndarray) -> Any:
        assert not self.closed
        self.given = action
        self.steps += 1
        last = self.steps == self.suite.horizon
        return self.suite.on_step(self, (self.observe(), float(action[0]), False, last, {"success": last}))

    def observe(self) -> np.ndarray:
        return np.array((self.draw, self.number, self.episode, self.steps), np.float32)

    def close(self) -> None:
        self.closed = True


class ToySuite(Suite):
    """Tasks "a" and "b".

    Args:
        horizon: steps of an episode.
        on_step, on_reset: get the environment and what it would return; may raise, or return something else.
    """

    name = "toy"

    def __init__(
        self,
        *,
        horizon: int = 5,
        on_step: Callable[[ToyEnv, Any], Any] = lambda env, result: result,
        on_reset: Callable[[ToyEnv, Any], Any] = lambda env, obs: obs,
    ) -> None:
        self.horizon = horizon
        self.on_step = on_step
        self.on_reset = on_reset
        self.envs: list[ToyEnv] = []
        self.seeds: list[int] = []

    def task_names(self) -> list[str]:
        return ["a", "b"]

    def make_env(self, task: str, *, seed: int, training: bool = True) -> ToyEnv:
        self.envs.append(ToyEnv(self, len(self.envs), seed))
        self.seeds.append(seed)
        return self.envs[-1]

    def task_spaces(self, task: str) -> tuple[Box, Box]:
        return OBSERVATION_SPACE, ACTION_SPACE
