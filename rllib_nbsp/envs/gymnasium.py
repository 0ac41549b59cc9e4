"""Any registered gymnasium environment as a task, so that users bring their own by one line of YAML.

A task is `ENV_ID`, whose environment reports `info["success"]` or `info["is_success"]` at every step, or
`ENV_ID@return>=X`, which is solved at the last step of an episode whose return reached X. `ENV_ID` may be
`module:EnvId`, gymnasium's own way to import the module that registers the environment, and takes keyword arguments as
a call does, `Pendulum-v1(g=5.0)@return>=-300`: each a plain Python value.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import math
import re
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import RescaleAction

from rllib_nbsp.envs.base import ActionSpace, Env, Suite, register_suite
from rllib_nbsp.envs.contract import (
    BOOLS,
    EnvironmentContractError,
    as_number,
    checked_reset,
    checked_step,
    checked_success,
)
from rllib_nbsp.registry import did_you_mean

GOAL_MARK = "@return>="
TASK = re.compile(r"(?P<id>[^(@]*)(?P<call>\(.*\))?(?P<goal>@.*)?", re.DOTALL)
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
FLOAT32 = np.dtype(np.float32)
PLAIN = (str, int, float, bool, type(None))
FORM = f"ENV_ID, ENV_ID(key=value, ...), or either with {GOAL_MARK}X after it"


@dataclass(frozen=True)
class GymnasiumTask:
    """A task's parts."""

    env_id: str
    return_goal: float | None
    kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, task: str) -> GymnasiumTask:
        """Split `ENV_ID(key=value)@return>=X`.

        Raises:
            ValueError: if arguments or goal are malformed.
        """
        parts = TASK.fullmatch(task)
        if parts is None:
            raise ValueError(f"is not of the form {FORM}")
        return_goal = None if parts["goal"] is None else _return_goal(parts["goal"])
        return cls(parts["id"], return_goal, _kwargs(parts["call"] or "()"))

    def spec(self) -> gym.envs.registration.EnvSpec:
        """The environment's registration, after importing the module that the id names.

        Raises:
            ValueError: if there is none, or it has no time limit.
        """
        module, _, name = self.env_id.rpartition(":")
        try:
            if module:
                importlib.import_module(module)
        except (Exception, SystemExit) as error:  # whatever a user's module does
            raise ValueError(f"cannot import {module!r}: {type(error).__name__}: {error}") from error
        try:
            spec = gym.spec(name)
        except gym.error.Error as error:
            raise ValueError(f"no such environment is registered{did_you_mean(name, gym.registry)}") from error
        if self.kwargs.get("max_episode_steps", spec.max_episode_steps) in (None, -1):  # -1 is gymnasium's for none
            raise ValueError(f"environment {name!r} has no time limit; register it with max_episode_steps")
        return spec


def _return_goal(text: str) -> float:
    try:
        goal = float(text.removeprefix(GOAL_MARK))
    except ValueError:
        goal = math.nan
    if not math.isfinite(goal):
        raise ValueError(f"{text!r} is not a goal; write ENV_ID or ENV_ID{GOAL_MARK}X with a number X")
    return goal


def _kwargs(call: str) -> dict[str, Any]:
    try:
        tree = ast.parse(f"env{call}", mode="eval").body
        if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.args:
            raise ValueError("something else than one call with keywords")
        kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in tree.keywords if keyword.arg}
        if len(kwargs) < len(tree.keywords):
            raise ValueError("a keyword is given twice, or unpacked")
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(
            f"{call!r} are no keyword arguments; write ENV_ID(key=value, other='text') with plain Python values"
        ) from error
    return kwargs


class GymnasiumTaskEnv(gym.Wrapper[np.ndarray, Any, np.ndarray, Any]):
    """Float32 observations, one success flag, and a seed that waits for the next reset."""

    def __init__(self, env: Env, return_goal: float | None, seed: int) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, Box)
        self.observation_space = Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
        self.next_seed: int | None = seed
        self._return_goal = return_goal
        self._return = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode, with the waiting seed if there is one."""
        started: Any = self.env.reset(seed=self.next_seed if seed is None else seed, options=options)
        self.next_seed = None
        self._return = 0.0
        if not isinstance(started, tuple) or len(started) != 2:
            return started  # whoever called names what is wrong with it, here and below
        return self._as_float32(started[0]), started[1]

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step, with `info["success"]` set.

        Raises:
            EnvironmentContractError: if the environment reports no success and the task has no return goal.
        """
        step: Any = self.env.step(action)
        if not isinstance(step, tuple) or len(step) != 5 or not isinstance(step[4], dict):
            return step
        obs, reward, terminated, truncated, info = step
        if self._return_goal is not None:
            # As the rows have it, so that the success and the return beside it are of one sum.
            self._return += float(np.array(as_number(reward), np.float32))  # NaN for what is no number
            flags = isinstance(terminated, BOOLS) and isinstance(truncated, BOOLS)
            success: Any = flags and (terminated or truncated) and self._return >= self._return_goal
        elif "success" in info or "is_success" in info:
            success = info.get("success", info.get("is_success"))
        else:
            raise EnvironmentContractError(
                "the environment reports neither info['success'] nor info['is_success'] at this step, and it must at "
                f"every step, False before the goal; or give the task a return goal: ENV_ID{GOAL_MARK}X"
            )
        return self._as_float32(obs), reward, terminated, truncated, {**info, "success": success}

    def _as_float32(self, obs: Any) -> np.ndarray:
        """Numbers of the right shape as float32; anything else as it came."""
        if type(obs) is np.ndarray and obs.dtype is FLOAT32:
            return obs
        try:
            values = np.asarray(obs)
        except Exception:  # whatever a user's object raises
            return obs
        fits = values.dtype.kind in "biuf" and values.shape == self.observation_space.shape
        return values.astype(FLOAT32) if fits else obs


def within_bounds(env: Env, space: Box) -> Env:
    """The environment under actions in [-1, 1], which rounding does not lead out of its bounds.

    gymnasium's wrapper is fast and monotonic: where it takes the ends of [-1, 1] to the bounds, all between is within.
    """
    one = np.ones_like(space.low)
    with np.errstate(all="ignore"):
        rescaled: RescaleAction[Any, np.ndarray, np.ndarray] = RescaleAction(env, -one, one)
        ends = [rescaled.action(end.astype(np.float32)) for end in (-one, one)]
    exact = all(np.array_equal(end, bound) for end, bound in zip(ends, (space.low, space.high), strict=True))
    return rescaled if exact and np.can_cast(ends[0].dtype, space.low.dtype) else WithinBounds(env)


class WithinBounds(gym.ActionWrapper[np.ndarray, np.ndarray, np.ndarray]):
    """Takes actions in [-1, 1] to the environment's bounds, of which rounding does not lead out.

    A dimension whose bounds are one number always has that number.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        space = env.action_space
        assert isinstance(space, Box)
        self._low, self._high = space.low, space.high
        self.action_space = Box(-1.0, 1.0, space.shape, np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        """The environment's action, of its type."""
        share = 0.5 * (1.0 + action.astype(np.float64))
        # Not low + share * (high - low): that difference may be too large for a float.
        within = (1.0 - share) * self._low + share * self._high
        return np.clip(within.astype(self._low.dtype), self._low, self._high)


def _registration(spec: gym.envs.registration.EnvSpec) -> dict[str, Any]:
    """What a registration says, and the code behind it: an installed package's version, and its file's SHA-256."""
    entry: Any = spec.entry_point
    maker = gym.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    module = sys.modules.get(getattr(maker, "__module__", ""))
    file = Path(getattr(module, "__file__", None) or "")
    version = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):  # ValueError: of no name
        version = importlib.metadata.version(module.__name__.partition(".")[0] if module else "")
    return {
        "entry_point": _as_text(maker),
        "kwargs": {key: value if isinstance(value, PLAIN) else _as_text(value) for key, value in spec.kwargs.items()},
        "max_episode_steps": spec.max_episode_steps,
        "wrappers": [_as_text(wrapper) for wrapper in spec.additional_wrappers],
        "version": version,
        "code": hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.is_file() else None,
    }


def _as_text(value: Any) -> str:
    """A value as every process that makes it would write it: a class or function by its place, no addresses."""
    if isinstance(value, type | types.FunctionType):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.tolist()}"
    if isinstance(value, functools.partial):
        return f"{_as_text(value.func)}({_as_text(value.args)}, {_as_text(value.keywords)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_as_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_as_text, value)) + "]"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(_as_text, value))) + "}"
    return ADDRESS.sub("", repr(value))


def _check_first_step(env: Env, task: str) -> None:
    assert isinstance(env.observation_space, Box)
    shape, dtype = env.observation_space.shape, env.observation_space.dtype
    try:
        checked_reset(env.reset(), shape, dtype)
        *_, info = checked_step(env.step(env.action_space.sample()), shape, dtype)
        checked_success(info)
    except EnvironmentContractError as error:
        raise ValueError(f"gymnasium task {task!r}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's environment does
        raise ValueError(f"gymnasium task {task!r}: fails at a first step: {type(error).__name__}: {error}") from error


class GymnasiumSuite(Suite):
    """All that gymnasium's registry knows, with flat observations, and continuous or discrete actions."""

    name = "gymnasium"

    def task_names(self) -> None:
        """Open: whatever is registered."""
        return None

    def check_tasks(self, tasks: Sequence[str]) -> list[str]:
        """Unknown ids, missing time limits and malformed goals; nothing is constructed."""
        errors = []
        for i, task in enumerate(tasks):
            try:
                GymnasiumTask.parse(task).spec()
            except ValueError as error:
                errors.append(f"tasks[{i}]: gymnasium task {task!r}: {error}")
        return errors

    def modules(self, tasks: Sequence[str]) -> list[str]:
        """Those that the ids name."""
        modules = (GymnasiumTask.parse(task).env_id.rpartition(":")[0] for task in tasks)
        return [module for module in dict.fromkeys(modules) if module]

    def environments(self, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
        """How each is registered, and which code that is."""
        return {task: _registration(GymnasiumTask.parse(task).spec()) for task in dict.fromkeys(tasks)}

    def make_env(self, task: str, *, seed: int, training: bool = True) -> Env:
        """Build an environment whose actions are [-1, 1], or 0 ... n - 1.

        Raises:
            ValueError: if it cannot be built, its observations are no 1-d box, or its actions neither a 1-d box with
                bounds nor discrete.
        """
        parsed = GymnasiumTask.parse(task)
        parsed.spec()
        try:
            env: Env = gym.make(parsed.env_id, disable_env_checker=True, **parsed.kwargs)
        except (Exception, SystemExit) as error:  # whatever the constructor of a user's environment does
            raise ValueError(f"gymnasium task {task!r}: cannot be built: {type(error).__name__}: {error}") from error
        obs_space, act_space = env.observation_space, env.action_space
        if not isinstance(obs_space, Box) or len(obs_space.shape) != 1 or not obs_space.shape[0]:
            raise ValueError(f"gymnasium task {task!r}: the observation space must be a 1-d Box, got {obs_space}")
        if isinstance(act_space, Discrete):
            if act_space.start:
                raise ValueError(f"gymnasium task {task!r}: discrete actions must start at 0, got {act_space}")
            return GymnasiumTaskEnv(env, parsed.return_goal, seed)
        if not isinstance(act_space, Box) or len(act_space.shape) != 1 or not act_space.shape[0]:
            raise ValueError(
                f"gymnasium task {task!r}: the action space must be a 1-d Box or Discrete, got {act_space}"
            )
        if not act_space.is_bounded():
            raise ValueError(f"gymnasium task {task!r}: actions need finite bounds, got {act_space}")
        if not np.issubdtype(act_space.dtype, np.floating):
            raise ValueError(
                f"gymnasium task {task!r}: actions must be floats or Discrete, got {act_space}; write a wrapper that "
                "rounds, or a Discrete space"
            )
        casts = np.can_cast(np.float32, act_space.low.dtype)
        if not casts or np.any(act_space.low != -1.0) or np.any(act_space.high != 1.0):
            env = within_bounds(env, act_space)
        return GymnasiumTaskEnv(env, parsed.return_goal, seed)

    def reseed(self, env: Env, seed: int) -> None:
        """The next reset gets the seed."""
        assert isinstance(env, GymnasiumTaskEnv)
        env.next_seed = seed

    def task_spaces(self, task: str) -> tuple[Box, ActionSpace]:
        """Read from an environment that is built for it and takes a step.

        Raises:
            ValueError: as `make_env`, or if that step fails, or returns something of the wrong kind.
        """
        env = self.make_env(task, seed=0)
        try:
            _check_first_step(env, task)
            obs_space, act_space = env.observation_space, env.action_space
            assert isinstance(obs_space, Box)
            if isinstance(act_space, Discrete):
                return obs_space, Discrete(int(act_space.n))
            assert act_space.shape is not None
            return obs_space, Box(-1.0, 1.0, act_space.shape, np.float32)
        finally:
            env.close()


register_suite(GymnasiumSuite())
