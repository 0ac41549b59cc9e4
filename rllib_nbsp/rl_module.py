"""RLlib's module for our SAC: actor, twin critics, their targets and the temperature, all built from `networks.py`."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor, nn

from rllib_nbsp.losses import sample_action, squashed_gaussian
from rllib_nbsp.networks import Network
from rllib_nbsp.seeding import torch_generator


class ContinualSACModule(TorchRLModule, InferenceOnlyAPI):
    """Everything that is trained. Actions are in [-1, 1]; the environments are made so.

    `model_config` keys: `hidden`, `activation`, `initial_alpha`, `seed`, `record_activations`.
    """

    def setup(self) -> None:
        """Build the networks; an inference-only module has the actor alone."""
        cfg = self.model_config
        obs_dim = int(np.prod(self.observation_space.shape))
        self.act_dim = int(np.prod(self.action_space.shape))

        def network(index: int, in_features: int, out_features: int) -> Network:
            # A stream of its own per network: an inference-only copy draws the same actor.
            generator = torch_generator(cfg["seed"], "initialization", index)
            return Network(in_features, cfg["hidden"], out_features, activation=cfg["activation"], generator=generator)

        self.policy = network(0, obs_dim, 2 * self.act_dim)
        if not self.inference_only:
            self.qf = network(1, obs_dim + self.act_dim, 1)
            self.qf_twin = network(2, obs_dim + self.act_dim, 1)
            self.target_qf = copy.deepcopy(self.qf).requires_grad_(False)
            self.target_qf_twin = copy.deepcopy(self.qf_twin).requires_grad_(False)
            # In the module, not in the Learner as RLlib has it: so its gradient is averaged over Learners and it is
            # part of every checkpoint.
            self.log_alpha = nn.Parameter(torch.full((1,), math.log(cfg["initial_alpha"])))
            self._noise: torch.Generator | None = None

    def get_non_inference_attributes(self) -> list[str]:
        """What rollout workers do not need."""
        return ["qf", "qf_twin", "target_qf", "target_qf_twin", "log_alpha"]

    @torch.no_grad()
    def act(self, obs: Tensor, *, explore: bool, generator: torch.Generator | None = None) -> Tensor:
        """Actions in [-1, 1], shape (E, A): a sample of the policy, or tanh of its mean."""
        mean, log_std = squashed_gaussian(self.policy(obs))
        if not explore:
            return torch.tanh(mean)
        return torch.tanh(mean + log_std.exp() * torch.empty_like(mean).normal_(generator=generator))

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self.act(batch[Columns.OBS], explore=False)}

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self.act(batch[Columns.OBS], explore=True)}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The six quantities that SAC's losses need, each (B,), in one pass.

        Whatever yields gradients happens in here: with several Learners, this is what DistributedDataParallel wraps.
        """
        obs, next_obs, actions = batch[Columns.OBS], batch[Columns.NEXT_OBS], batch[Columns.ACTIONS]
        record: dict[str, list[Tensor] | None] = {"policy": None, "qf": None, "qf_twin": None}
        if self.model_config["record_activations"]:
            record = {name: [] for name in record}
        mean, log_std = squashed_gaussian(self.policy(obs, record=record["policy"]))
        new_actions, logp = sample_action(mean, log_std, self._normal(mean))
        state_action = torch.cat([obs, actions], -1)
        q = self.qf(state_action, record=record["qf"]).squeeze(-1)
        q_twin = self.qf_twin(state_action, record=record["qf_twin"]).squeeze(-1)
        on_policy = torch.cat([obs, new_actions], -1)
        q_policy = torch.min(self.qf(on_policy, frozen=True), self.qf_twin(on_policy, frozen=True)).squeeze(-1)
        with torch.no_grad():
            next_mean, next_log_std = squashed_gaussian(self.policy(next_obs))
            next_actions, next_logp = sample_action(next_mean, next_log_std, self._normal(next_mean))
            next_state_action = torch.cat([next_obs, next_actions], -1)
            next_q = torch.min(self.target_qf(next_state_action), self.target_qf_twin(next_state_action)).squeeze(-1)
        out = {"logp": logp, "q": q, "q_twin": q_twin, "q_policy": q_policy, "next_q": next_q, "next_logp": next_logp}
        if self.model_config["record_activations"]:
            for layers in record.values():
                for hidden in layers or ():
                    hidden.retain_grad()
            out["activations"] = record
        return out

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
