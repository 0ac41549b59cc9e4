"""RLlib's `EnvRunner` around a `Sampler`: requests and replies, weights, and an error as a reply."""

from __future__ import annotations

import logging
import secrets
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    WEIGHTS_SEQ_NO,
)
from torch import Tensor

from rllib_nbsp.envs import EnvironmentFailure
from rllib_nbsp.plugins import USER_ERRORS, of_ray
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sampling.episodes import EpisodeSummary
from rllib_nbsp.sampling.sampler import Sampler

logger = logging.getLogger(__name__)


class ContinualEnvRunner(EnvRunner, Checkpointable):
    """A `Sampler` behind RLlib's `EnvRunner`, in the driver's process or as a remote actor.

    `config` is a `ContinualSACConfig`. No environment is built before a request needs it.

    A remote worker that cannot be built answers with its error: to `get_spaces`, from which RLlib makes the local
    worker, and to every request. RLlib itself would only log it, and then miss the worker's spaces.
    """

    def __init__(self, *, config: Any, spaces: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        if spaces and "failure" in spaces:
            raise spaces["failure"]
        self.worker_index: int = kwargs.get("worker_index") or 0
        self.weights_seq_no = 0
        self._taken: int | None = None  # the number of the weights, unless they came by `set_state`
        self._failure: Exception | None = None
        try:
            self._build(config)
        except USER_ERRORS as error:
            if self.worker_index == 0:
                raise
            asked = f"start with suite {config.given.get('suite')!r}, tasks {config.given.get('tasks')}"
            hint = "a worker is a process of its own, and what your program registers must be in a module: module:EnvId"
            self._failure = self._told(asked, error, f" ({hint})")

    def _build(self, config: Any) -> None:
        self.run: ResolvedRun = config.resolved()
        if self.worker_index > 0:
            # A process of its own; the local worker's is the Learner's too.
            torch.set_num_threads(self.run.settings.resources.torch_threads)
        self.make_module()
        self.make_env()

    # Requests

    def sample(
        self,
        *,
        task: str,
        version: int,
        num_vector_steps: int,
        random_actions: bool = False,
        act_as: Sequence[str] = (),
    ) -> dict[str, Any]:
        """`Sampler.sample` as a reply: `task`, `version`, `worker_index`, `weights_seq_no`, `columns`, `episodes`.

        And `rebuilt`, how many of this process's environments were built anew since the last such reply.
        """
        columns, episodes = self._sampler.sample(
            task=task,
            version=version,
            num_vector_steps=num_vector_steps,
            random_actions=random_actions,
            act_as=act_as,
        )
        num_env_steps = len(columns["rewards"])
        self.num_env_steps_sampled_lifetime += num_env_steps
        self._steps_since_metrics += num_env_steps
        self._episodes_since_metrics += len(episodes)
        return self._reply(task, version, episodes, columns=columns, rebuilt=self._sampler.take_rebuilt())

    def evaluate(
        self, *, task: str, version: int, episode_indices: Sequence[int], explore: bool = False
    ) -> dict[str, Any]:
        """`Sampler.evaluate` as a reply without `columns`."""
        episodes = self._sampler.evaluate(task=task, version=version, episode_indices=episode_indices, explore=explore)
        return self._reply(task, version, episodes)

    def rollout(
        self, *, task: str, version: int, num_env_steps: int, rollout_index: int, explore: bool = True
    ) -> dict[str, Any]:
        """`Sampler.rollout` as a reply."""
        columns, episodes = self._sampler.rollout(
            task=task, version=version, num_env_steps=num_env_steps, rollout_index=rollout_index, explore=explore
        )
        return self._reply(task, version, episodes, columns=columns)

    def sampling_state(self) -> dict[str, Any]:
        """`Sampler.get_state` as a reply: `state`."""
        return {"worker_index": self.worker_index, "state": self._sampler.get_state()}

    def set_sampling_state(self, *, state: Mapping[str, Any]) -> dict[str, Any]:
        """`Sampler.set_state` as a reply: `same`."""
        return {"worker_index": self.worker_index, "same": self._sampler.set_state(state)}

    def answer(
        self,
        request: Literal["sample", "evaluate", "rollout", "sampling_state", "set_sampling_state"],
        kwargs: Mapping[str, Any],
        number: int,
        weights: np.ndarray,
    ) -> dict[str, Any]:
        """The named request, with the weights to act with, for a driver in another process.

        A worker that was started anew, noticed or not, thus acts as any other. An error is a reply too, with the key
        `failure`: RLlib would only log it in the worker and start the worker anew, for the same error to come again.
        """
        if self._failure:
            return {"worker_index": self.worker_index, "failure": self._failure}
        try:
            self.take_weights(number, weights)
            return getattr(self, request)(**kwargs)
        except USER_ERRORS as error:
            if of_ray(error):
                raise
            logger.exception("rollout worker %d: %s of %s", self.worker_index, request, kwargs)
            return {"worker_index": self.worker_index, "failure": self._told(request, error)}

    def _told(self, request: str, error: BaseException, hint: str = "") -> Exception:
        """An error as the driver can read it: of a type of ours, since those of an environment's library may need more
        than a message."""
        if isinstance(error, EnvironmentFailure):
            return type(error)(f"rollout worker {self.worker_index}, {request}: {error}{hint}")
        return RuntimeError(f"rollout worker {self.worker_index}, {request}: {type(error).__name__}: {error}{hint}")

    def take_weights(self, number: int, weights: np.ndarray | ray.ObjectRef) -> None:
        """Act with these weights from now on, if they are not here yet.

        Args:
            number: of these weights and no others.
            weights: `ActorCritic.acting_weights`.
        """
        if number != self._taken:
            self.module.set_acting_weights(ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights)
            self._taken = self.weights_seq_no = number

    def _reply(self, task: str, version: int, episodes: list[EpisodeSummary], **rest: Any) -> dict[str, Any]:
        return {
            "task": task,
            "version": version,
            "worker_index": self.worker_index,
            WEIGHTS_SEQ_NO: self.weights_seq_no,
            "episodes": episodes,
            **rest,
        }

    # RLlib's side

    def make_env(self) -> None:
        """Forget all environments; requests build new ones."""
        self.stop()
        self._steps_since_metrics = self._episodes_since_metrics = 0
        observation_space, action_space = self.run.spaces
        self._sampler = Sampler(
            self.run.suite,
            observation_space,
            action_space,
            self._act,
            self.run.settings,
            worker_index=self.worker_index,
            process_tag=_process_tag(),
        )

    def make_module(self) -> None:
        """Build the acting part of the networks; its weights come with each request."""
        spec = self.config.get_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build()

    def get_spaces(self) -> dict[str, Any]:
        """The tasks' common spaces, under each of the names that RLlib asks for."""
        if self._failure:
            return {"failure": self._failure}
        return dict.fromkeys((INPUT_ENV_SPACES, INPUT_ENV_SINGLE_SPACES, DEFAULT_MODULE_ID), self.run.spaces)

    def assert_healthy(self) -> None:
        """The constructor ran to its end, or its error is told by `get_spaces`."""
        assert self._failure or (self.module and self._sampler)

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Weights and counters. Environments and noise have none: a version's streams start from the run's seed."""
        state: dict[str, Any] = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_env_steps_sampled_lifetime}
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(
                components=self._get_subcomponents(COMPONENT_RL_MODULE, components),
                not_components=self._get_subcomponents(COMPONENT_RL_MODULE, not_components),
                **kwargs,
            )
            state[WEIGHTS_SEQ_NO] = self.weights_seq_no
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Take the weights that RLlib pushes, also when their sequence number is lower than the last one.

        It is lower after going back to an older checkpoint; RLlib's own runner would keep its newer weights.
        """
        if COMPONENT_RL_MODULE in state and not self._failure:
            weights = state[COMPONENT_RL_MODULE]
            if isinstance(weights, ray.ObjectRef):
                weights = ray.get(weights)
            self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
            self.weights_seq_no = state.get(WEIGHTS_SEQ_NO, 0)
            self._taken = None
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        """How RLlib would build this runner again from a checkpoint."""
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """The module."""
        return [(COMPONENT_RL_MODULE, self.module)]

    def get_metrics(self) -> dict[str, Any]:
        """Steps and episodes since the last call; returns and success are in the replies."""
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED, self._steps_since_metrics, reduce="sum")
        self.metrics.log_value(NUM_EPISODES, self._episodes_since_metrics, reduce="sum")
        self._steps_since_metrics = self._episodes_since_metrics = 0
        return self.metrics.reduce()

    def stop(self) -> None:
        """Close all environments."""
        sampler: Sampler | None = getattr(self, "_sampler", None)
        if sampler is not None:
            sampler.close()

    def _act(self, obs: Tensor, *, explore: bool, generator: torch.Generator | None, task: Tensor | int) -> Tensor:
        # Looked up at each call: in one process, the Algorithm puts the Learner's own module here.
        return self.module.act(obs, explore=explore, generator=generator, task=task)


def _process_tag() -> int:
    """0, or for an actor that Ray restarted a random number, so that its episodes' numbers are new ones."""
    context = ray.get_runtime_context() if ray.is_initialized() else None
    if context is None or context.get_actor_id() is None:
        return 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray calls a deprecated property of its own here.
        restarted = context.was_current_actor_reconstructed
    return secrets.randbelow(255) + 1 if restarted else 0
