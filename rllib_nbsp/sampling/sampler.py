"""Versioned, vectorised sampling: columns of transitions, and every request names its task.

RLlib's own runner builds episode objects through connectors, 1.2-1.5 ms a step; this one writes arrays. The driver says
the task and a version in each request and both come back with the rows. A runner that died while idle and was restarted
by Ray, unnoticed, therefore cannot bring transitions of a wrong task.

What follows from the run's seed alone (see `seeding.py`; all keys are indices):

- training environments are built from (task, worker, sub-environment, incarnation), and a version's episodes and its
  exploration noise start from these and the version. A process that Ray has started anew also mixes a random tag in:
  it would otherwise bring the version's first transitions a second time;
- scoring rollouts from (task, sub-environment) and the rollout's index, on any worker.

Evaluation episode i of a task has the same start and goal in every run: it is seeded by i alone, in environments that
are built from one fixed seed. Nothing here draws from the global random streams; an environment that does finds them
seeded as its own stream would be, and training finds them after an evaluation as they were before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from rllib_nbsp.envs import ActionSpace, Suite
from rllib_nbsp.replay.stacks import StackedFrames
from rllib_nbsp.replay.stores import is_frame_stack
from rllib_nbsp.sampling.episodes import EpisodeSummary, EpisodeTally, Rows, rollout_summaries
from rllib_nbsp.sampling.vector import EnvSeed, EnvVector
from rllib_nbsp.seeding import kept_global_streams, numpy_generator, seed_int, torch_generator
from rllib_nbsp.settings import RunSettings

EVALUATION_SEED = 2504_08000
"""Takes the place of the run's seed in evaluation, so that all runs are judged on the same episodes."""
MIN_ROWS = 4
"""Deterministic actions are computed on at least so many rows: from there on, a matrix product gives a row the same
bits wherever in the batch it stands (seen with torch 2.13 on x86), so an episode does not depend on its neighbours."""


class Act(Protocol):
    """A policy: observations (E, ...) of tasks, by index, to actions, (E, A) in [-1, 1] or (E,) in 0 ... n - 1."""

    def __call__(
        self, obs: Tensor, *, explore: bool, generator: torch.Generator | None, task: Tensor | int
    ) -> Tensor: ...


class Sampler:
    """The environments of one process and what is asked of them; knows neither Ray nor RLlib's config.

    Vectors are built at a task's first request. Of those that are idle, the ones that were used last are kept, up to
    `resources.max_idle_envs` environments; one that is asked for again after it was closed acts as if it had been kept.

    Args:
        suite: makes the environments.
        observation_space: of all tasks.
        action_space: of all tasks, within [-1, 1] or discrete.
        act: the policy.
        settings: the run.
        worker_index: 0 for the local worker.
        process_tag: 0, or a number in [1, 255] that tells a restarted process from the one before it.
    """

    def __init__(
        self,
        suite: Suite,
        observation_space: Box,
        action_space: ActionSpace,
        act: Act,
        settings: RunSettings,
        *,
        worker_index: int = 0,
        process_tag: int = 0,
    ) -> None:
        self._suite = suite
        self._obs_space = observation_space
        self._obs = (observation_space.shape, np.dtype(observation_space.dtype))
        self._act_space = action_space
        self._act = act
        self._settings = settings
        self._worker = worker_index
        self._process_tag = process_tag
        self._tasks = list(dict.fromkeys(settings.tasks))
        self._vectors: dict[tuple[str, str], EnvVector] = {}  # the one used last at the end
        self._rebuilt = 0  # by vectors that are closed
        # Of training: which episodes are running, and since when.
        self._running: tuple[str, int] | None = None
        self._tally = EpisodeTally(0)
        self._episode = np.zeros(0, np.int64)
        self._next_episode = 0
        self._acted = bytearray()  # the actions since the version's start, one after the other
        self._began: dict[str, list[int]] = {}  # what the vector's environments were then
        self._found: dict[tuple[str, str], dict[str, list[int]]] = {}  # the same of vectors that are not built

    # Training

    def sample(
        self,
        *,
        task: str,
        version: int,
        num_vector_steps: int,
        random_actions: bool = False,
        act_as: Sequence[str] = (),
    ) -> tuple[Rows, list[EpisodeSummary]]:
        """Step the task's training environments; another task or version than last time starts new episodes.

        Args:
            task: one of the run's tasks.
            version: raised by the driver whenever running episodes must not go on.
            num_vector_steps: steps of every sub-environment.
            random_actions: uniform over the action space instead of the policy's.
            act_as: if any are named, each sub-environment acts at each step as in a task drawn from these.

        Returns:
            Columns of N = num_vector_steps * E rows, ordered by step, then sub-environment: `obs`, `actions`,
            `rewards`, `new_obs`, `terminateds`, `truncateds`, `success`, and `episode`, a number that no other episode
            of the run has. And a summary of each episode that ended, or, where the suite alters training, of each whole
            game. An episode that a failed environment cut has no summary; its last row is marked truncated if it is in
            the same request.
        """
        self._check_request(task, version)
        _check_at_least("num_vector_steps", num_vector_steps, 1)
        vector = self._training_vector(task)
        if self._running != (task, version):
            self._start_version(vector, task, version)
        # Set again at the end: after an error the episodes are not what they were.
        self._running = None

        num_envs = vector.num_envs
        columns = self._empty(num_vector_steps, num_envs)
        obs, actions, rewards = columns["obs"], columns["actions"], columns["rewards"]
        next_obs, success, episode = columns["new_obs"], columns["success"], columns["episode"]
        terminateds, truncateds = columns["terminateds"], columns["truncateds"]
        summaries = []
        if random_actions:
            actions[:] = self._random_actions(actions.shape)
        for t in range(num_vector_steps):
            if not random_actions:
                acting = self._drawn(act_as, num_envs) if act_as else None
                actions[t] = self._actions(vector.obs, task, explore=True, generator=self._noise, acting=acting)
            self._acted += actions[t].tobytes()
            step = vector.step(actions[t])
            obs[t], rewards[t], next_obs[t], success[t] = step.obs, step.rewards, step.next_obs, step.success
            terminateds[t], truncateds[t] = step.terminateds, step.truncateds
            for e in step.restarted:
                self._episode[e] = self._new_episode(version)
                if t > 0:
                    truncateds[t - 1, e] = True
            episode[t] = self._episode
            summaries += [{"episode": int(self._episode[e]), **summary} for e, summary in self._tally.add(step)]
            for e in step.ended:
                self._episode[e] = self._new_episode(version)
        self._running = (task, version)
        return {name: column.reshape(-1, *column.shape[2:]) for name, column in columns.items()}, summaries

    def _training_vector(self, task: str) -> EnvVector:
        seed, index = self._settings.seed, self._tasks.index(task)
        return self._vector(
            "training",
            task,
            self._settings.resources.num_envs_per_env_runner,
            lambda env, incarnation: seed_int(seed, "environments", index, self._worker, env, incarnation),
        )

    def _start_version(self, vector: EnvVector, task: str, version: int) -> None:
        seed, worker, index = self._settings.seed, self._worker, self._tasks.index(task)
        self._began, self._acted = vector.get_state(), bytearray()
        # A process that was started anew in the middle of a version must not bring the same transitions again.
        tag = [self._process_tag] if self._process_tag else []

        def episode_seed(env: int, episode: int, incarnation: int) -> int | None:
            keys = (index, worker, env, incarnation, version, *tag)
            return seed_int(seed, "environments", *keys) if episode == 0 else None

        self._noise = torch_generator(seed, "exploration", worker, version, *tag)
        self._uniform = numpy_generator(seed, "exploration", worker, version, *tag)
        vector.reset(episode_seed)
        self._tally = EpisodeTally(vector.num_envs, altered=self._suite.alters_training)
        self._next_episode = 0
        self._episode = np.array([self._new_episode(version) for _ in range(vector.num_envs)], np.int64)

    def _random_actions(self, shape: tuple[int, ...]) -> np.ndarray:
        if isinstance(self._act_space, Discrete):
            return self._uniform.integers(int(self._act_space.n), size=shape)
        return self._uniform.uniform(-1.0, 1.0, shape)

    def _drawn(self, tasks: Sequence[str], count: int) -> Tensor:
        """`count` of these tasks, by index."""
        index = np.array([self._tasks.index(task) for task in tasks])
        return torch.from_numpy(index[self._uniform.integers(len(index), size=count)])

    def _new_episode(self, version: int) -> int:
        """A number from the worker (11 bits), version (16), process (8) and a counter (28)."""
        self._next_episode += 1
        high = (self._worker << 24) | ((version & 0xFFFF) << 8) | self._process_tag
        return (high << 28) | (self._next_episode - 1)

    def _empty(self, num_steps: int, num_envs: int) -> Rows:
        lead = (num_steps, num_envs)
        obs_shape, obs_dtype = self._obs
        obs = (lead + obs_shape, obs_dtype)
        return {
            "obs": np.empty(*obs),
            "actions": np.empty(lead + (self._act_space.shape or ()), self._act_space.dtype),
            "rewards": np.empty(lead, np.float32),
            "new_obs": np.empty(*obs),
            "terminateds": np.empty(lead, bool),
            "truncateds": np.empty(lead, bool),
            "success": np.empty(lead, bool),
            "episode": np.empty(lead, np.int64),
        }

    # Evaluation

    @kept_global_streams()
    def evaluate(
        self, *, task: str, version: int, episode_indices: Sequence[int], explore: bool = False
    ) -> list[EpisodeSummary]:
        """Play the named evaluation episodes, `evaluation.num_envs` of them side by side.

        Episode i of a task starts the same in every run and on every worker; with `explore=False` all of it is the
        same. With `explore=True` the noise depends on how the episodes are divided over requests.

        Returns:
            A summary of each episode, in the order of `episode_indices`; its `episode` is the index.
        """
        self._check_request(task, version)
        if not episode_indices:
            return []
        num_envs = self._settings.evaluation.num_envs
        vector = self._vector(
            "evaluation", task, num_envs, lambda env, incarnation: seed_int(EVALUATION_SEED, "evaluation")
        )
        # Sub-environment e plays every E-th episode from the e-th on: which one is fixed before the first step.
        plan = [list(episode_indices[e::num_envs]) for e in range(num_envs)]
        generator = torch_generator(self._settings.seed, "evaluation", version, self._worker, episode_indices[0])
        vector.reset(
            lambda env, episode, incarnation: seed_int(EVALUATION_SEED, "evaluation", plan[env][episode]),
            [len(indices) for indices in plan],
        )
        tally = EpisodeTally(num_envs)
        played: list[list[EpisodeSummary]] = [[] for _ in plan]
        while vector.active:
            actions = self._actions(vector.obs, task, explore=explore, generator=generator)
            for e, summary in tally.add(vector.step(actions)):
                played[e].append({"episode": plan[e][len(played[e])], **summary})
        return [played[i % num_envs][i // num_envs] for i in range(len(episode_indices))]

    @kept_global_streams()
    def rollout(
        self, *, task: str, version: int, num_env_steps: int, rollout_index: int, explore: bool = True
    ) -> tuple[Rows, list[EpisodeSummary]]:
        """Roll the policy out for scoring, in environments of its own.

        Up to `evaluation.num_envs` environments share the steps equally, so that the episodes that run when the steps
        are used up are incomplete: all of them, if the steps do not reach for one episode in each environment.

        Args:
            task: one of the run's tasks.
            version: echoed only.
            num_env_steps: rows to return.
            rollout_index: another index is another rollout.
            explore: sample the policy, or take its mean.

        Returns:
            Columns `obs`, `actions`, `rewards`, `success`, `env` and `episode` (from 0), exactly `num_env_steps` rows,
            ordered by step, then sub-environment; stacks of frames as `StackedFrames`. And a summary of each episode,
            with `complete`.
        """
        self._check_request(task, version)
        _check_at_least("num_env_steps", num_env_steps, 1)
        _check_at_least("rollout_index", rollout_index, 0)
        seed, index = self._settings.seed, self._tasks.index(task)
        num_envs = self._settings.evaluation.num_envs
        vector = self._vector("scoring", task, num_envs, lambda env, incarnation: seed_int(seed, "scoring", index))
        used = min(num_envs, num_env_steps)

        def episode_seed(env: int, episode: int, incarnation: int) -> int | None:
            keys = (index, env, incarnation, rollout_index)
            return seed_int(seed, "scoring", *keys) if episode == 0 else None

        # As many episodes as there are steps: without end.
        vector.reset(episode_seed, [num_env_steps if e < used else 0 for e in range(num_envs)])
        generator = torch_generator(seed, "scoring", index, rollout_index)
        num_steps = -(-num_env_steps // used)
        columns = self._empty(num_steps, used)
        stacks = StackedFrames(self._obs_space.shape) if is_frame_stack(*self._obs) else None
        columns["done"] = finished = np.zeros((num_steps, used), bool)
        columns["env"] = np.broadcast_to(np.arange(used), (num_steps, used))
        running = np.arange(used)
        started = used
        for t in range(num_steps):
            actions = self._actions(vector.obs, task, explore=explore, generator=generator)
            step = vector.step(actions)
            for e in step.restarted:
                running[e], started = started, started + 1
            if stacks is None:
                columns["obs"][t] = step.obs[:used]
            else:
                stacks.append(step.obs[: min(used, num_env_steps - len(stacks))])
            columns["actions"][t] = actions[:used]
            columns["rewards"][t], columns["success"][t] = step.rewards[:used], step.success[:used]
            columns["episode"][t] = running
            for e in step.ended:
                finished[t, e] = True
                running[e], started = started, started + 1
        rows = {name: column.reshape(-1, *column.shape[2:])[:num_env_steps] for name, column in columns.items()}
        rows["episode"] = np.unique(rows["episode"], return_inverse=True)[1]
        episodes = rollout_summaries(rows)
        kept = ("obs", "actions", "rewards", "success", "env", "episode")
        return {name: rows[name] for name in kept} | ({} if stacks is None else {"obs": stacks.sealed()}), episodes

    # State

    def get_state(self) -> dict[str, Any]:
        """What the environments are, and how those that are running got where they are: by their actions."""
        found = {**self._found, **{key: vector.get_state() for key, vector in self._vectors.items()}}
        state: dict[str, Any] = {
            "environments": [{"use": use, "task": task, "state": kept} for (use, task), kept in sorted(found.items())],
            "process_tag": self._process_tag,
            "running": None,
        }
        if self._running is not None:
            task, version = self._running
            actions = np.frombuffer(bytes(self._acted), self._act_space.dtype)
            state["running"] = {
                "task": task,
                "version": version,
                "began": self._began,
                "actions": actions.reshape(-1, len(self._episode), *(self._act_space.shape or ())),
                "obs": self._vectors["training", task].obs.copy(),
                "noise": self._noise.get_state(),
                "uniform": self._uniform.bit_generator.state,
            }
        return state

    def set_state(self, state: Mapping[str, Any]) -> bool:
        """Go on from where `get_state` was: the running episodes are played again by their actions.

        Returns:
            Whether they are where they were. If not, as in an environment that does not repeat itself, they go on from
            where they are now.
        """
        self.close()
        self._process_tag = state["process_tag"]
        self._found = {(found["use"], found["task"]): found["state"] for found in state["environments"]}
        running = state["running"]
        if running is None:
            return True
        task, version = running["task"], running["version"]
        self._found["training", task] = running["began"]
        vector = self._training_vector(task)
        self._start_version(vector, task, version)
        for actions in running["actions"]:
            self._acted += actions.tobytes()
            step = vector.step(actions)
            self._tally.add(step)
            for e in (*step.restarted, *step.ended):
                self._episode[e] = self._new_episode(version)
        self._noise.set_state(running["noise"])
        self._uniform.bit_generator.state = running["uniform"]
        self._running = (task, version)
        vector.rebuilt = 0  # which was told before
        return np.array_equal(vector.obs, running["obs"])

    def take_rebuilt(self) -> int:
        """How many environments were built anew since the last time."""
        rebuilt, self._rebuilt = self._rebuilt, 0
        for vector in self._vectors.values():
            rebuilt += vector.rebuilt
            vector.rebuilt = 0
        return rebuilt

    def close(self) -> None:
        """Close all environments."""
        for vector in self._vectors.values():
            vector.close()
        self._vectors.clear()
        self._running = None

    def _check_request(self, task: str, version: int) -> None:
        if task not in self._tasks:
            raise ValueError(f"task is {task!r}; the run's tasks are {', '.join(self._tasks)}")
        _check_at_least("version", version, 0)

    def _vector(self, use: str, task: str, num_envs: int, env_seed: EnvSeed) -> EnvVector:
        """The task's environments for one use, built if there are none."""
        key = (use, task)
        vector = self._vectors.pop(key, None)
        self._close_idle(self._settings.resources.max_idle_envs)
        if vector is None:
            vector = EnvVector(
                self._suite,
                task,
                num_envs,
                observation_space=self._obs_space,
                env_seed=env_seed,
                training=use == "training",
                state=self._found.pop(key, None),
            )
        self._vectors[key] = vector
        return vector

    def _close_idle(self, most: int) -> None:
        """Close vectors, the longest unused first, until the idle ones have at most so many environments."""
        running = ("training", self._running[0]) if self._running else None
        idle = [key for key in self._vectors if key != running]
        count = sum(self._vectors[key].num_envs for key in idle)
        for key in idle:
            if count <= most:
                return
            vector = self._vectors.pop(key)
            count -= vector.num_envs
            self._rebuilt += vector.rebuilt
            self._found[key] = vector.get_state()
            vector.close()

    @torch.no_grad()
    def _actions(
        self,
        obs: np.ndarray,
        task: str,
        *,
        explore: bool,
        generator: torch.Generator,
        acting: Tensor | None = None,
    ) -> np.ndarray:
        """The policy's actions, shape (E, A) or (E,), in the task or in those that `acting` names for each row."""
        num_envs = len(obs)
        if not explore and num_envs < MIN_ROWS:
            obs = np.concatenate([obs, np.zeros((MIN_ROWS - num_envs, *obs.shape[1:]), obs.dtype)])
        index = self._tasks.index(task) if acting is None else acting
        # A copy: what a user's network does with its input must not reach the row that is learned from.
        seen = torch.from_numpy(obs.copy())
        actions = self._act(seen, explore=explore, generator=generator, task=index).numpy()[:num_envs]
        if not np.isfinite(actions).all():
            raise FloatingPointError(f"the policy's actions in task {task!r} are not finite; training has diverged")
        return actions


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}; it must be {least} or more")
