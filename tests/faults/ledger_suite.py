"""A suite whose observations say where they come from, and whose faults are scripted; `ledger_plugin.py` registers it.

An observation is (process, instance, episode, step, task): what environment of which process it is, which of its
episodes, which step in it. No two transitions of a run have the same, unless one was counted twice. All are scaled by
powers of two, which float32 has exactly.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding

from rllib_nbsp.envs import Suite
from rllib_nbsp.settings import Frac, Settings

TASKS = ("left", "right")
SCALES = np.array((2.0**-22, 2.0**-10, 2.0**-12, 2.0**-6, 0.25), np.float32)
EPISODE_STEPS = 10
_instances = itertools.count()
Fault = Literal[
    "", "raise", "raise_bare", "exit", "nan_obs", "inf_reward", "shape", "dtype", "kill", "construct", "reset"
]


class LedgerSettings(Settings):
    """The section `transition_ledger` of a run."""

    fault: Fault = ""
    """What goes wrong."""
    frac: Frac = 0.0
    """In which share of the steps; of the constructions and resets, all."""
    once: str = ""
    """A file: the fault happens if it does not exist, and makes it."""


class LedgerEnv(gym.Env[np.ndarray, np.ndarray]):
    """Reward: the action. Solved at random, at an episode's last step."""

    observation_space = Box(-np.inf, np.inf, (5,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, settings: LedgerSettings, task: str, seed: int, training: bool) -> None:
        self.settings = settings
        self.task = TASKS.index(task)
        self.training = training
        self.instance, self.episode, self.steps = next(_instances), -1, 0
        self.np_random, _ = seeding.np_random(seed)
        if self._meets("construct"):
            raise OSError("no simulator")

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        if self._meets("reset"):
            raise OSError("no reset")
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        last = self.steps == EPISODE_STEPS
        success = bool(last and self.np_random.random() < 0.5)
        result = [self._obs(), float(action[0]), False, last, {"success": success}]
        fault = self.settings.fault
        if fault and self.training and self.np_random.random() < self.settings.frac and self._meets(fault):
            FAULTS[fault](result)
        return tuple(result)  # type: ignore[return-value]

    def _meets(self, fault: str) -> bool:
        """Whether it is time for this fault; `once` is kept over the processes of a run."""
        if self.settings.fault != fault or not self.training:
            return False
        if not self.settings.once:
            return True
        try:
            os.close(os.open(self.settings.once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def _obs(self) -> np.ndarray:
        return np.array((os.getpid(), self.instance, self.episode, self.steps, self.task), np.float32) * SCALES


def _raise(error: Exception) -> None:
    raise error


def _replace(index: int, value: Any) -> Callable[[list[Any]], None]:
    return lambda result: result.__setitem__(index, value)


FAULTS: dict[str, Callable[[list[Any]], Any]] = {
    "raise": lambda result: _raise(OSError("the simulator diverged")),
    "raise_bare": lambda result: _raise(RuntimeError()),
    "exit": lambda result: sys.exit("the simulator wants to leave"),
    "nan_obs": _replace(0, np.full(5, np.nan, np.float32)),
    "inf_reward": _replace(1, np.inf),
    "shape": _replace(0, np.zeros(6, np.float32)),
    "dtype": _replace(1, "high"),
    "kill": lambda result: os.kill(os.getpid(), signal.SIGKILL),
    "construct": lambda result: None,
    "reset": lambda result: None,
}


class LedgerSuite(Suite):
    """Tasks `left` and `right`."""

    name = "transition_ledger"
    Config = LedgerSettings

    def __init__(self, settings: LedgerSettings | None = None) -> None:
        self.settings = settings or LedgerSettings()

    def configured(self, settings: Settings) -> LedgerSuite:
        assert isinstance(settings, LedgerSettings)
        return LedgerSuite(settings)

    def task_names(self) -> list[str]:
        return list(TASKS)

    def make_env(self, task: str, *, seed: int, training: bool = True) -> LedgerEnv:
        return LedgerEnv(self.settings, task, seed, training)

    def task_spaces(self, task: str) -> tuple[Box, Box]:
        return LedgerEnv.observation_space, LedgerEnv.action_space
