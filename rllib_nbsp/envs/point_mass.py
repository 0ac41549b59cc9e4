"""A point mass in the plane that is to be moved into a goal region: seconds a visit, for tests and smoke runs.

The four tasks differ in where the goal lies: left, right, above or below the start. A policy that only ever saw one of
them has no reason to look at the goal, so that plain fine-tuning forgets.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding

from rllib_nbsp.envs.base import Env, Suite, register_suite

HORIZON = 50
DRAG = 0.5  # Share of the velocity that is left after a step.
FORCE = 0.05  # Full force ends at FORCE / (1 - DRAG) = 0.1 per step.
GOAL_DISTANCE = 0.4
SPREAD = 0.1  # Half width of the squares in which start and goal are drawn.
SUCCESS_RADIUS = 0.1

DIRECTIONS = {
    "reach-left": (-1.0, 0.0),
    "reach-right": (1.0, 0.0),
    "reach-up": (0.0, 1.0),
    "reach-down": (0.0, -1.0),
}
OBSERVATION_SPACE = Box(-np.inf, np.inf, (6,), np.float32)
ACTION_SPACE = Box(-1.0, 1.0, (2,), np.float32)


class PointMassEnv(gym.Env[np.ndarray, np.ndarray]):
    """Observation: position, velocity, goal; reward: minus the distance to the goal, plus 1 within the success radius.

    Plain floats, not arrays, inside: a step takes about 3 us.
    """

    observation_space = OBSERVATION_SPACE
    action_space = ACTION_SPACE

    def __init__(self, direction: tuple[float, float], seed: int) -> None:
        self._centre = (GOAL_DISTANCE * direction[0], GOAL_DISTANCE * direction[1])
        self.np_random, _ = seeding.np_random(seed)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start at rest near the origin, with a goal in the task's region."""
        super().reset(seed=seed)
        self._x, self._y, dx, dy = self.np_random.uniform(-SPREAD, SPREAD, 4).tolist()
        self._vx = self._vy = 0.0
        self._goal_x, self._goal_y = self._centre[0] + dx, self._centre[1] + dy
        self._steps = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Push for one step; walls stop the mass at -1 and 1."""
        fx, fy = action.tolist()
        self._vx = DRAG * self._vx + FORCE * min(max(fx, -1.0), 1.0)
        self._vy = DRAG * self._vy + FORCE * min(max(fy, -1.0), 1.0)
        self._x = min(max(self._x + self._vx, -1.0), 1.0)
        self._y = min(max(self._y + self._vy, -1.0), 1.0)
        self._steps += 1
        distance = math.hypot(self._x - self._goal_x, self._y - self._goal_y)
        success = distance < SUCCESS_RADIUS
        return self._observe(), success - distance, False, self._steps == HORIZON, {"success": success}

    def render(self) -> Any:
        """The plane from -1 to 1: the mass in black, the goal in green, (128, 128, 3) uint8."""
        x, y = np.meshgrid(np.linspace(-1.0, 1.0, 128), np.linspace(1.0, -1.0, 128))
        picture = np.full((128, 128, 3), 255, np.uint8)
        picture[np.hypot(x - self._goal_x, y - self._goal_y) < SUCCESS_RADIUS] = (120, 200, 120)
        picture[np.hypot(x - self._x, y - self._y) < 0.04] = 0
        return picture

    def _observe(self) -> np.ndarray:
        return np.array((self._x, self._y, self._vx, self._vy, self._goal_x, self._goal_y), np.float32)


class PointMassSuite(Suite):
    """The four reaching tasks."""

    name = "point_mass"

    def task_names(self) -> list[str]:
        """Names of the directions."""
        return list(DIRECTIONS)

    def make_env(self, task: str, *, seed: int, training: bool = True) -> Env:
        """Build an environment."""
        return PointMassEnv(DIRECTIONS[task], seed)

    def task_spaces(self, task: str) -> tuple[Box, Box]:
        """The same for every task."""
        return OBSERVATION_SPACE, ACTION_SPACE


register_suite(PointMassSuite())
