"""Meta-World's 50 manipulation tasks (v3 package, reward v2); the only file that imports `metaworld`.

Contract: `Meta-World/MT1`, goal in the observation, float32 observations, 500 steps and then a truncation, success at
the step from `info["success"]`. Meta-World draws 50 goals when an environment is made, and one of them at each reset.
Its own `reset(seed=)` does nothing; here it decides the order of the goals, and the seed at construction their places.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding

from rllib_nbsp.envs.base import Env, Suite, register_suite
from rllib_nbsp.seeding import kept_global_streams

# Meta-World's own bounds on the goal part differ from task to task, so that no two tasks would have one space.
OBSERVATION_SPACE = Box(-np.inf, np.inf, (39,), np.float32)
ACTION_SPACE = Box(-1.0, 1.0, (4,), np.float32)
KEPT_MODELS = 4
"""Compiled models that a process keeps. Compiling takes 0.13 s, a copy 0.01 s."""
MODEL_BYTES = 22_000_000  # nearly all of an environment: meshes, their trees of boxes, textures


class MetaWorldEnv(gym.Env[np.ndarray, np.ndarray]):
    """A Meta-World environment without gymnasium's wrappers, which cost 2-5 % of a step.

    Args:
        base: the simulated environment.
        goals: Meta-World `Task`s: one starting state and goal each.
        seed: decides the order of the goals.
    """

    observation_space = OBSERVATION_SPACE
    action_space = ACTION_SPACE

    def __init__(self, base: Any, goals: list[Any], seed: int) -> None:
        self.base = base
        self.metadata = base.metadata
        self.goals = goals
        self.np_random, _ = seeding.np_random(seed)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode with one of the goals."""
        super().reset(seed=seed)
        self.base.set_task(self.goals[self.np_random.integers(len(self.goals))])
        obs, info = self.base.reset()
        return obs.astype(np.float32), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step of 5 simulator steps."""
        obs, reward, terminated, truncated, info = self.base.step(action)
        return obs.astype(np.float32), reward, terminated, truncated, info

    def render(self) -> Any:
        """A picture, which needs OpenGL (docs/playing.md)."""
        self.base.render_mode = self.render_mode
        return self.base.render()

    def close(self) -> None:
        """Free the simulator."""
        self.base.close()


class MetaWorldSuite(Suite):
    """Meta-World through its gymnasium API."""

    name = "metaworld"

    def __init__(self) -> None:
        self._goals: dict[tuple[str, int], list[Any]] = {}
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._classes: dict[str, Any] = {}

    def task_names(self) -> list[str]:
        """The 50 v3 tasks."""
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        return list(ALL_V3_ENVIRONMENTS)

    def make_env(self, task: str, *, seed: int, training: bool = True) -> Env:
        """Build an environment: 0.6 s; 0.01 s for a sibling (same task and seed, hence the same goals)."""
        import metaworld

        with kept_global_streams():  # Meta-World draws goals from NumPy's global stream, after seeding it.
            if (task, seed) not in self._goals:
                self._goals[task, seed] = metaworld.MT1(task, seed=seed).train_tasks
            base = self._env_class(task)(reward_function_version="v2")
        return MetaWorldEnv(base, self._goals[task, seed], seed)

    def _env_class(self, task: str) -> Any:
        """Meta-World's class of a task, but its objects take copies of one compiled model: they write into it."""
        import mujoco
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        def initialize_simulation(env: Any) -> tuple[Any, Any]:
            model = copy.copy(self._model(task, env.fullpath))
            model.vis.global_.offwidth, model.vis.global_.offheight = env.width, env.height
            return model, mujoco.MjData(model)

        if task not in self._classes:
            parent: Any = ALL_V3_ENVIRONMENTS[task]
            overrides = {"_initialize_simulation": initialize_simulation}
            self._classes[task] = type(parent.__name__, (parent,), overrides)
        return self._classes[task]

    def _model(self, task: str, path: str) -> Any:
        import mujoco

        if task not in self._models:
            if len(self._models) >= KEPT_MODELS:
                self._models.popitem(last=False)
            self._models[task] = mujoco.MjModel.from_xml_path(path)
        self._models.move_to_end(task)
        return self._models[task]

    def env_nbytes(self, tasks: int, envs: int) -> int:
        """A model for each environment, and one for each task to copy."""
        return (envs + min(tasks, KEPT_MODELS)) * MODEL_BYTES

    def task_spaces(self, task: str) -> tuple[Box, Box]:
        """The same for every task, and known without building it."""
        return OBSERVATION_SPACE, ACTION_SPACE


register_suite(MetaWorldSuite())
