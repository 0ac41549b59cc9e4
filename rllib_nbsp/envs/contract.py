"""What an environment may return, judged as soon as it returns it: one error that names the value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Flag = bool | np.bool_
BOOLS = (bool, np.bool_)
PLAIN = (float, int, np.floating, np.bool_)
MAX_SHOWN = 120  # characters of a value
FLOAT32_MAX = float(np.finfo(np.float32).max)


class EnvironmentFailure(RuntimeError):
    """An environment cannot go on; the message names its task, sub-environment and step."""


class NonFiniteObservation(EnvironmentFailure):
    """An environment returned an observation with NaN or an infinity."""


class NonFiniteReward(EnvironmentFailure):
    """An environment returned a reward of NaN or infinity."""


class EnvironmentContractError(EnvironmentFailure):
    """An environment returned something of the wrong shape or type: a defect that building it anew will not mend."""


def checked_reset(result: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The observation that an environment's `reset` returned.

    Args:
        result: what it returned.
        shape, dtype: of every observation.

    Raises:
        EnvironmentContractError: if it is not (observation, info), or the observation is of another kind.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise EnvironmentContractError(f"reset must return (observation, info), got {kind_of(result)}")
    return _checked_observation(result[0], shape, dtype)


def checked_step(
    result: Any, shape: tuple[int, ...], dtype: Any
) -> tuple[np.ndarray, float, Flag, Flag, dict[str, Any]]:
    """What an environment's `step` returned, the reward as a float. Every environment step passes here.

    Args:
        result: what it returned.
        shape, dtype: of every observation.

    Raises:
        EnvironmentContractError: if it is not (observation, reward, terminated, truncated, info), or one of these is of
            another kind.
        ValueError: if the reward is beyond float32, which another episode's may not be.
    """
    if not isinstance(result, tuple) or len(result) != 5:
        raise EnvironmentContractError(
            f"step must return (observation, reward, terminated, truncated, info), got {kind_of(result)}"
        )
    obs, reward, terminated, truncated, info = result
    _checked_observation(obs, shape, dtype)
    number = float(reward) if isinstance(reward, float) else as_number(reward)
    if number is None:
        raise EnvironmentContractError(f"the reward must be a number, got {kind_of(reward)}")
    if not -FLOAT32_MAX <= number <= FLOAT32_MAX and math.isfinite(number):
        raise ValueError(f"the reward is {number}, beyond float32")
    if not (isinstance(terminated, BOOLS) and isinstance(truncated, BOOLS)):
        raise EnvironmentContractError(
            f"terminated and truncated must be bool, got {kind_of(terminated)} and {kind_of(truncated)}"
        )
    if not isinstance(info, dict):
        raise EnvironmentContractError(f"info must be a dict, got {kind_of(info)}")
    return obs, number, terminated, truncated, info


def _checked_observation(obs: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    if not isinstance(obs, np.ndarray) or obs.shape != shape or obs.dtype != dtype:
        raise EnvironmentContractError(f"the observation must be a {dtype} array of shape {shape}, got {kind_of(obs)}")
    return obs


def checked_success(info: Mapping[str, Any]) -> bool:
    """Whether `info["success"]` is above 0.

    Raises:
        EnvironmentContractError: if it is missing, or no number.
        ValueError: if it is NaN, which another episode may not have.
    """
    if "success" not in info:
        raise EnvironmentContractError(
            f"the environment reports no info['success'] (got keys {sorted(map(str, info))})"
        )
    number = as_number(info["success"])
    if number is None:
        raise EnvironmentContractError(f"info['success'] must be a bool or a number, got {kind_of(info['success'])}")
    if number != number:
        raise ValueError("info['success'] is nan")
    return number > 0.0


def own_return(info: Mapping[str, Any]) -> float | None:
    """What an environment reports as the return of the episode that ended, if one did.

    Raises:
        EnvironmentContractError: if `info["episode"]` is there and has no number "r".
    """
    if "episode" not in info:
        return None
    episode = info["episode"]
    if not isinstance(episode, dict) or "r" not in episode:
        raise EnvironmentContractError(
            f"info['episode'] must be a dict with the episode's return 'r', got {kind_of(episode)}"
        )
    told = episode["r"]
    number = as_number(told.item() if isinstance(told, np.ndarray) and told.size == 1 else told)
    if number is None:
        raise EnvironmentContractError(f"info['episode']['r'] must be a number, got {kind_of(told)}")
    return number


def as_number(value: Any) -> float | None:
    """A real number, of Python or as a scalar of NumPy, PyTorch or JAX; None for anything else."""
    if isinstance(value, PLAIN):
        try:
            return float(value)
        except OverflowError:  # an int beyond all floats
            return None
    dtype_kind = getattr(getattr(value, "dtype", None), "kind", "f")
    if getattr(value, "shape", ()) != () or dtype_kind not in "biuf" or not hasattr(type(value), "__float__"):
        return None
    try:
        return float(value)
    except Exception:  # whatever the number of another library raises
        return None


def kind_of(value: Any) -> str:
    """A value of an environment for people: an array's type and shape, or else type and value."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= MAX_SHOWN else f'{text[:MAX_SHOWN]}...'}"
