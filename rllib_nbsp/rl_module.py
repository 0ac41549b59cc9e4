"""RLlib's module for our SAC: actor, twin critics, their targets and the temperature, all built from `networks.py`."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor, nn

from rllib_nbsp.losses import expectation, sample_action, squashed_gaussian
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.base import NETWORKS
from rllib_nbsp.networks import Network, Shape, sac_shapes
from rllib_nbsp.seeding import torch_generator


class ContinualSACModule(TorchRLModule, InferenceOnlyAPI):
    """Everything that is trained. Actions are in [-1, 1]; the environments are made so.

    `model_config` keys: those of `ModelSettings`, `initial_alpha`, `seed`, `record_activations`, and what the method's
    own networks hang on: `method`, `method_settings`, `tasks` and `visits`.

    Attributes:
        discrete: whether actions are numbers 0 ... n - 1.
        act_dim: action dimensions A, or n.
    """

    discrete = False

    def setup(self) -> None:
        """Build the networks; an inference-only module has the actor alone."""
        obs_shape = self.observation_space.shape
        self.act_dim = self._action_size()
        actor, critic = sac_shapes(obs_shape, self.act_dim, self.discrete)
        # A stream of its own per network: an inference-only copy draws the same actor.
        self.policy = self._network("policy", actor)
        if not self.inference_only:
            self.qf = self._network("qf", critic)
            self.qf_twin = self._network("qf_twin", critic)
            self.target_qf = copy.deepcopy(self.qf).requires_grad_(False)
            self.target_qf_twin = copy.deepcopy(self.qf_twin).requires_grad_(False)
            # In the module, not in the Learner as RLlib has it: so its gradient is averaged over Learners and it is
            # part of every checkpoint.
            log_alpha = math.log(self.model_config["initial_alpha"])
            self.log_alpha = nn.Parameter(torch.full((1,), log_alpha))
            self._noise: torch.Generator | None = None

    def _network(self, name: str, shape: Shape) -> Network:
        cfg, (in_shape, out_features) = self.model_config, shape
        method = METHODS[cfg["method"]]
        build = method.network(method.Config(**cfg["method_settings"]), name, cfg["tasks"], cfg["visits"])
        return build(
            in_shape,
            cfg["hidden"],
            out_features,
            activation=cfg["activation"],
            conv=cfg["conv"] if len(in_shape) == 3 else (),
            generator=torch_generator(cfg["seed"], "initialization", NETWORKS.index(name)),
        )

    def _action_size(self) -> int:
        return math.prod(self.action_space.shape)

    @property
    def default_target_entropy(self) -> float:
        """What the policy's entropy is held at unless the configuration says otherwise."""
        return -float(self.act_dim)

    def get_non_inference_attributes(self) -> list[str]:
        """What rollout workers do not need."""
        return ["qf", "qf_twin", "target_qf", "target_qf_twin", "log_alpha"]

    @torch.no_grad()
    def act(
        self, obs: Tensor, *, explore: bool, generator: torch.Generator | None = None, task: Tensor | int | None = None
    ) -> Tensor:
        """Actions in [-1, 1], shape (E, A): a sample of the policy, or tanh of its mean.

        Args:
            obs: (E, ...).
            explore: sample, instead of the mean.
            generator: of the sample's noise.
            task: index of the distinct task that all rows, or each of them (E,), come from.
        """
        mean, log_std = squashed_gaussian(self.policy(obs, task=task))
        if not explore:
            return torch.tanh(mean)
        return torch.tanh(mean + log_std.exp() * torch.empty_like(mean).normal_(generator=generator))

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self.act(batch[Columns.OBS], explore=False, task=batch.get("task"))}

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self.act(batch[Columns.OBS], explore=True, task=batch.get("task"))}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The six quantities that SAC's losses need, each (B,), in one pass.

        Whatever yields gradients happens in here: with several Learners, this is what DistributedDataParallel wraps.
        """
        obs, next_obs, actions = batch[Columns.OBS], batch[Columns.NEXT_OBS], batch[Columns.ACTIONS]
        task = batch.get("task")
        record = self._new_record()
        mean, log_std = squashed_gaussian(self.policy(obs, task=task, record=record["policy"]))
        new_actions, logp = sample_action(mean, log_std, self._normal(mean))
        state_action = torch.cat([obs, actions], -1)
        q = self.qf(state_action, record=record["qf"]).squeeze(-1)
        q_twin = self.qf_twin(state_action, record=record["qf_twin"]).squeeze(-1)
        on_policy = torch.cat([obs, new_actions], -1)
        q_policy = torch.min(self.qf(on_policy, frozen=True), self.qf_twin(on_policy, frozen=True)).squeeze(-1)
        with torch.no_grad():
            next_mean, next_log_std = squashed_gaussian(self.policy(next_obs, task=task))
            next_actions, next_logp = sample_action(next_mean, next_log_std, self._normal(next_mean))
            next_state_action = torch.cat([next_obs, next_actions], -1)
            next_q = torch.min(self.target_qf(next_state_action), self.target_qf_twin(next_state_action)).squeeze(-1)
        out = {"logp": logp, "q": q, "q_twin": q_twin, "q_policy": q_policy, "next_q": next_q, "next_logp": next_logp}
        return {**out, **self._retained(record)}

    def _new_record(self) -> dict[str, list[Tensor] | None]:
        return {name: [] if self.model_config["record_activations"] else None for name in NETWORKS}

    def _retained(self, record: dict[str, list[Tensor] | None]) -> dict[str, Any]:
        """The activations of the loss pass, which are to keep their gradients; nothing if no method needs them."""
        if not self.model_config["record_activations"]:
            return {}
        for layers in record.values():
            for hidden in layers or ():
                hidden.retain_grad()
        return {"activations": record}

    def _normal(self, like: Tensor) -> Tensor:
        """Standard normal noise for the rows of `like`, (B, A).

        Every Learner draws the noise of the whole batch and takes its shard's rows: shards do not share noise, the
        number of Learners does not change what is learned, and one generator's state is the state of all.
        """
        ranks, rank, rows = 1, 0, len(like)
        if torch.distributed.is_initialized():
            ranks, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        if self._noise is None or self._noise.device != like.device:
            self._noise = torch_generator(self.model_config["seed"], "updates", device=like.device)
        noise = torch.empty((ranks * rows, *like.shape[1:]), dtype=like.dtype, device=like.device)
        return noise.normal_(generator=self._noise)[rank * rows : (rank + 1) * rows]

    def noise_state(self) -> np.ndarray | None:
        """State of the update noise's generator, for checkpoints."""
        return None if self._noise is None else self._noise.get_state().numpy()

    def set_noise_state(self, state: np.ndarray | None, device: torch.device) -> None:
        """Take back what `noise_state` gave."""
        self._noise = None  # a state from before the first update has none
        if state is not None:
            self._noise = torch.Generator(device)
            self._noise.set_state(torch.from_numpy(np.ascontiguousarray(state)))


class DiscreteSACModule(ContinualSACModule):
    """SAC for discrete actions (Christodoulou 2019): the actor's head is logits, a critic has a value per action.

    Everything is an expectation over the actions, so that no pass needs noise, and the critics' values of the batch's
    observations serve their own loss and, as constants, the actor's.
    """

    discrete = True

    def _action_size(self) -> int:
        return int(self.action_space.n)

    @property
    def default_target_entropy(self) -> float:
        """CleanRL's share of the uniform policy's entropy: 0.89 log n."""
        return 0.89 * math.log(self.act_dim)

    @torch.no_grad()
    def act(
        self, obs: Tensor, *, explore: bool, generator: torch.Generator | None = None, task: Tensor | int | None = None
    ) -> Tensor:
        """Actions in 0 ... n - 1, shape (E,): a sample of the policy, or its likeliest action."""
        logits = self.policy(obs, task=task)
        if not explore:
            return logits.argmax(-1)
        return torch.multinomial(F.softmax(logits, -1), 1, generator=generator).squeeze(-1)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The six quantities of the continuous module, in expectation over the actions."""
        obs, next_obs = _pixels(batch[Columns.OBS]), _pixels(batch[Columns.NEXT_OBS])
        actions, task = batch[Columns.ACTIONS].unsqueeze(-1), batch.get("task")
        record = self._new_record()
        log_probs = F.log_softmax(self.policy(obs, task=task, record=record["policy"]), -1)
        q, q_twin = self.qf(obs, record=record["qf"]), self.qf_twin(obs, record=record["qf_twin"])
        with torch.no_grad():
            next_log_probs = F.log_softmax(self.policy(next_obs, task=task), -1)
            next_q = torch.min(self.target_qf(next_obs), self.target_qf_twin(next_obs))
        return {
            "logp": expectation(log_probs, log_probs),
            "q": q.gather(-1, actions).squeeze(-1),
            "q_twin": q_twin.gather(-1, actions).squeeze(-1),
            "q_policy": expectation(log_probs, torch.min(q, q_twin).detach()),
            "next_q": expectation(next_log_probs, next_q),
            "next_logp": expectation(next_log_probs, next_log_probs),
            **self._retained(record),
        }


def _pixels(obs: Tensor) -> Tensor:
    # Once for all networks that see them.
    return obs / 255.0 if obs.dtype == torch.uint8 else obs
