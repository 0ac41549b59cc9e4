"""A lock-step list of environments of one task, in one process.

Not `gymnasium.vector`: a failure must be laid at one sub-environment's door and mended there, and merging `info` dicts
costs more than a small environment's step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Box

from rllib_nbsp.envs.base import Env, Suite
from rllib_nbsp.envs.contract import (
    EnvironmentContractError,
    EnvironmentFailure,
    NonFiniteObservation,
    NonFiniteReward,
    checked_reset,
    checked_step,
    own_return,
)
from rllib_nbsp.plugins import USER_ERRORS
from rllib_nbsp.seeding import seed_global_streams

MAX_FAILURES = 3  # of one sub-environment at one step; the next one ends the run
MAX_ABORTED = 10  # episodes of one sub-environment that failures cut, with none finished between them
MAX_RESET_RETRIES = 3
RESET_BACKOFF_S = 0.1  # doubles with every retry

logger = logging.getLogger(__name__)

EnvSeed = Callable[[int, int], int]
"""(sub-environment, incarnation) -> the seed that its environment is built with."""
EpisodeSeed = Callable[[int, int, int], int | None]
"""(sub-environment, episodes finished since the vector's reset, incarnation) -> a seed, or None to go on as is."""


class VectorStep(NamedTuple):
    """One step of all sub-environments, in rows of their index; the arrays are overwritten by the next step.

    Attributes:
        obs: what the actions were chosen on, shape (E, ...).
        rewards: shape (E,), float32.
        next_obs: what the actions led to, at an episode's end its true last observation, shape (E, ...).
        terminateds: the episode ended in a state without a future, shape (E,).
        truncateds: the episode was cut, by a time limit for example, shape (E,).
        success: the task is solved at this step, shape (E,).
        ended: sub-environments whose episode ended with this row.
        restarted: sub-environments that failed and were built anew, so that this row is the first of another episode
            and the one before it stays unfinished.
        own_returns: by sub-environment, the return that an environment itself reports of what ended with this row, in
            `info["episode"]["r"]`.
    """

    obs: np.ndarray
    rewards: np.ndarray
    next_obs: np.ndarray
    terminateds: np.ndarray
    truncateds: np.ndarray
    success: np.ndarray
    ended: list[int]
    restarted: list[int]
    own_returns: dict[int, float]


class EnvVector:
    """Steps E sub-environments of one task; a finished one is reset at once.

    A sub-environment whose `step` raises, or returns a value that is not finite, is closed and built anew with the seed
    of its next incarnation. The failed step leaves no row: the same action is taken from the new first observation.
    One whose episodes fail again and again, wherever in them, ends the run.

    Args:
        suite: makes, seeds and judges the environments.
        task: their task.
        num_envs: E.
        observation_space: what every observation must be like.
        env_seed: seed of an environment's construction.
        training: whether the transitions are learned from.
        state: of a vector that this one takes the place of.

    Attributes:
        obs: current observations, shape (E, ...); the array changes with every step.
        envs: the sub-environments.
        active: the sub-environments that still have episodes to play; rows of the others mean nothing.
        rebuilt: how often one was built anew.

    Raises:
        EnvironmentFailure: if an environment cannot be built.
        EnvironmentContractError: if its observations are not those of the suite.
    """

    def __init__(
        self,
        suite: Suite,
        task: str,
        num_envs: int,
        *,
        observation_space: Box,
        env_seed: EnvSeed,
        training: bool = True,
        state: Mapping[str, list[int]] | None = None,
    ) -> None:
        self.suite = suite
        self.task = task
        self.num_envs = num_envs
        self._shape, self._dtype = observation_space.shape, observation_space.dtype
        self._bounded = not np.issubdtype(self._dtype, np.floating)  # pixels are finite
        self._env_seed = env_seed
        self._training = training
        self._episode_seed: EpisodeSeed = lambda env, episode, incarnation: None
        self._episodes: Sequence[int] | None = None
        self._incarnation = list(state["incarnation"]) if state else [0] * num_envs
        self._aborted = list(state["aborted"]) if state else [0] * num_envs
        self.rebuilt = 0
        self._finished = [0] * num_envs
        self._episode_step = np.zeros(num_envs, np.int64)
        self.active: list[int] = []

        self.obs = np.zeros((num_envs, *self._shape), self._dtype)
        self._spare_obs = np.zeros_like(self.obs)
        self._next_obs = np.zeros_like(self.obs)
        self._rewards = np.zeros(num_envs, np.float32)
        self._terminateds = np.zeros(num_envs, bool)
        self._truncateds = np.zeros(num_envs, bool)
        self._success = np.zeros(num_envs, bool)
        self._own_returns: dict[int, float] = {}

        self.envs: list[Env] = []
        for e in range(num_envs):
            try:
                self.envs.append(self._make(e))
            except USER_ERRORS as error:
                self.close()
                raise EnvironmentFailure(f"{self._place(e)}, construction: {_describe(error)}") from error

    def reset(self, episode_seed: EpisodeSeed, episodes: Sequence[int] | None = None) -> None:
        """Start a new episode in every sub-environment.

        Args:
            episode_seed: seed of each episode that is started from now on.
            episodes: how many each sub-environment plays; None: without end.
        """
        self._episode_seed = episode_seed
        self._episodes = episodes
        self._finished = [0] * self.num_envs
        self.active = [e for e in range(self.num_envs) if episodes is None or episodes[e] > 0]
        # What a failure left in a row must not reach the policy through a sub-environment that does not play.
        for rows in (self.obs, self._next_obs, self._rewards):
            rows.fill(0)
        for e in self.active:
            self._reset(e)

    def get_state(self) -> dict[str, list[int]]:
        """What one needs to be built as this one would be: how often each sub-environment was, and failed of late."""
        return {"incarnation": list(self._incarnation), "aborted": list(self._aborted)}

    def step(self, actions: np.ndarray) -> VectorStep:
        """Take one step in every active sub-environment.

        Args:
            actions: shape (E, A).

        Raises:
            EnvironmentContractError: if a value has a wrong shape or type.
            EnvironmentFailure: if a sub-environment fails again and again, or cannot be reset; of type
                `NonFiniteObservation` or `NonFiniteReward` if that is how.
        """
        if len(self.active) < self.num_envs:
            self._terminateds.fill(False)
            self._truncateds.fill(False)
        self._own_returns = {}
        failed: list[tuple[int, BaseException]] = []
        for e in self.active:
            try:
                self._step(e, actions[e])
            except EnvironmentContractError:
                raise
            except USER_ERRORS as error:
                failed.append((e, error))
        # One pass over all rows; which of them it was is looked for only when there is one.
        if not ((self._bounded or np.isfinite(self._next_obs).all()) and np.isfinite(self._rewards).all()):
            raised = {e for e, _ in failed}
            found = [(e, self._non_finite(e)) for e in self.active if e not in raised]
            failed += [(e, problem) for e, problem in found if problem is not None]
        for e, failure in failed:
            self._recover(e, actions[e], failure)

        self._episode_step += 1
        ended = [e for e in self.active if self._terminateds[e] or self._truncateds[e]]
        obs, current = self.obs, self._spare_obs
        np.copyto(current, self._next_obs)
        self.obs, self._spare_obs = current, obs
        for e in ended:
            self._finish(e)
        return VectorStep(
            obs,
            self._rewards,
            self._next_obs,
            self._terminateds,
            self._truncateds,
            self._success,
            ended,
            [e for e, _ in failed],
            self._own_returns,
        )

    def close(self) -> None:
        """Close every environment; one that will not be closed is only logged."""
        for e in range(len(self.envs)):
            self._close(e)

    def _step(self, e: int, action: np.ndarray) -> None:
        try:
            # A copy: what an environment does with its action must not reach the row that is learned from.
            step = self.envs[e].step(action.copy())
            obs, reward, terminated, truncated, info = checked_step(step, self._shape, self._dtype)
            success = self.suite.success(info)
            told = own_return(info) if self.suite.alters_training else None
        except EnvironmentContractError as error:
            raise EnvironmentContractError(f"{self._place(e)}: {error}") from error
        self._next_obs[e] = obs
        self._rewards[e] = reward
        self._terminateds[e] = terminated
        self._truncateds[e] = truncated
        self._success[e] = success
        if told is not None:
            self._own_returns[e] = told

    def _non_finite(self, e: int) -> EnvironmentFailure | None:
        """What is wrong with the row just written, without its place."""
        problem = _first_non_finite(self._next_obs[e])
        if problem is not None:
            return NonFiniteObservation(problem)
        if not np.isfinite(self._rewards[e]):
            return NonFiniteReward(f"the reward is {self._rewards[e]}")
        return None

    def _recover(self, e: int, action: np.ndarray, error: BaseException) -> None:
        """Build a failed sub-environment anew and take its step there."""
        for _ in range(MAX_FAILURES):
            self._aborted[e] += 1
            if self._aborted[e] > MAX_ABORTED:
                again = f"{self._aborted[e]} episodes in a row failed, none ended by itself"
                raise self._failure(e, error, again) from error
            logger.warning("%s: %s; it is built anew and its episode ends here", self._place(e), _describe(error))
            self._incarnation[e] += 1
            self.rebuilt += 1
            self._close(e)
            try:
                self.envs[e] = self._make(e)
                self._reset(e)
                self._step(e, action)
            except EnvironmentFailure:
                raise
            except USER_ERRORS as again:
                error = again
                continue
            still = self._non_finite(e)
            if still is None:
                return
            error = still
        raise self._failure(e, error, f"failure {MAX_FAILURES + 1} in a row") from error

    def _failure(self, e: int, error: BaseException, again: str) -> EnvironmentFailure:
        kind = type(error) if isinstance(error, EnvironmentFailure) else EnvironmentFailure
        return kind(f"{self._place(e)}: {_describe(error)} ({again})")

    def _finish(self, e: int) -> None:
        self._finished[e] += 1
        self._aborted[e] = 0
        if self._episodes is not None and self._finished[e] >= self._episodes[e]:
            self.active.remove(e)
        else:
            self._reset(e)

    def _reset(self, e: int) -> None:
        """Write the first observation of a new episode into `obs`."""
        env = self.envs[e]
        self._episode_step[e] = 0
        for attempt in range(MAX_RESET_RETRIES + 1):
            if attempt:
                time.sleep(RESET_BACKOFF_S * 2 ** (attempt - 1))
            try:
                seed = self._episode_seed(e, self._finished[e], self._incarnation[e])
                if seed is not None:
                    seed_global_streams(seed)
                    self.suite.reseed(env, seed)
                obs = checked_reset(env.reset(), self._shape, self._dtype)
            except EnvironmentContractError as error:
                raise EnvironmentContractError(f"{self._place(e)}, reset: {error}") from error
            except USER_ERRORS as error:
                failure: BaseException = error
                continue
            problem = _first_non_finite(obs)
            if problem is None:
                self.obs[e] = obs
                return
            failure = NonFiniteObservation(problem)
        kind = NonFiniteObservation if isinstance(failure, NonFiniteObservation) else EnvironmentFailure
        tries = MAX_RESET_RETRIES + 1
        raise kind(f"{self._place(e)}, reset: {_describe(failure)} ({tries} attempts)") from failure

    def _make(self, e: int) -> Env:
        seed = self._env_seed(e, self._incarnation[e])
        seed_global_streams(seed)  # for environments that draw from nothing else, here and in `_reset`
        return self.suite.make_env(self.task, seed=seed, training=self._training)

    def _close(self, e: int) -> None:
        try:
            self.envs[e].close()
        except USER_ERRORS as error:
            logger.warning("%s, close: %s", self._place(e), _describe(error))

    def _place(self, e: int) -> str:
        return f"{self.suite.name} task {self.task!r}, sub-environment {e}, episode step {self._episode_step[e]}"


def _first_non_finite(obs: np.ndarray) -> str | None:
    wrong = np.flatnonzero(~np.isfinite(obs))
    if wrong.size == 0:
        return None
    index = [int(i) for i in np.unravel_index(wrong[0], obs.shape)]
    return f"the observation is {obs[tuple(index)]} at index {index} ({wrong.size} of {obs.size} values not finite)"


def _describe(error: BaseException) -> str:
    """Type and message; some exceptions have no message."""
    return f"{type(error).__name__}: {error}" if str(error) else f"{type(error).__name__} (no message)"
