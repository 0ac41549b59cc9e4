"""The agent's networks as one module, and the passes through them that SAC's losses need. torch alone."""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_nbsp.methods.agent import EVERYTHING
from rllib_nbsp.nn.flat import flatten, to_host, unflatten
from rllib_nbsp.nn.losses import expectation, sample_action, squashed_gaussian
from rllib_nbsp.nn.networks import NETWORKS, pixels
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.seeding import torch_generator

Record = dict[str, list[Tensor] | None]
"""By network the activations that a pass leaves, or None where nobody wants them."""


class ActorCritic(nn.Module):
    """Actor, twin critics, their targets and the temperature. Actions are in [-1, 1]; the environments are made so.

    Attributes:
        discrete: whether actions are numbers 0 ... n - 1.
        act_dim: action dimensions A, or n.
    """

    discrete = False

    def build(self, run: ResolvedRun, *, acts_only: bool = False) -> None:
        """Build the networks; to act, the actor alone is enough."""
        self.act_dim = run.act_dim
        self._seed = run.settings.seed
        self._autocast = run.training.autocast
        self._records = run.method.needs_activations
        self.policy = run.build_network("policy")
        if not acts_only:
            self.qf = run.build_network("qf")
            self.qf_twin = run.build_network("qf_twin")
            self.target_qf = copy.deepcopy(self.qf).requires_grad_(False)
            self.target_qf_twin = copy.deepcopy(self.qf_twin).requires_grad_(False)
            # In the module, not in the Learner as RLlib has it: so its gradient is averaged over Learners and it is
            # part of every checkpoint.
            self.log_alpha = nn.Parameter(torch.full((1,), math.log(run.training.initial_alpha)))
            self.noise: torch.Generator | None = None

    @property
    def default_target_entropy(self) -> float:
        """What the policy's entropy is held at unless the configuration says otherwise."""
        return -float(self.act_dim)

    def autocast(self) -> AbstractContextManager[Any]:
        """Around the passes of an update, whose matrix products and convolutions are in `training.autocast` then."""
        if self._autocast is None:
            return contextlib.nullcontext()
        # No cache: what it keeps of a pass without gradients would be taken in one with them.
        device = next(self.policy.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, cache_enabled=False)

    @torch.no_grad()
    def act(
        self, obs: Tensor, *, explore: bool, generator: torch.Generator | None = None, task: Tensor | int | None = None
    ) -> Tensor:
        """Actions in [-1, 1], shape (E, A): a sample of the policy, or tanh of its mean.

        Args:
            obs: (E, ...); where it is, the sample is drawn, wherever the network is.
            explore: sample, instead of the mean.
            generator: of the sample's noise.
            task: index of the distinct task that all rows, or each of them (E,), come from.
        """
        mean, log_std = squashed_gaussian(self._acting_outputs(obs, task))
        if not explore:
            return torch.tanh(mean)
        return torch.tanh(mean + log_std.exp() * torch.empty_like(mean).normal_(generator=generator))

    def _acting_outputs(self, obs: Tensor, task: Tensor | int | None) -> Tensor:
        """The actor's outputs (E, ...) where `obs` is: on a GPU, observations go in and rows of numbers come out."""
        device = next(self.policy.parameters()).device
        shown = task.to(device) if isinstance(task, Tensor) else task
        outputs: Tensor = self.policy(obs.to(device), task=shown)
        return outputs.to(obs.device)

    @torch.no_grad()
    def acting_weights(self) -> np.ndarray:
        """What the actor acts with, its parameters and buffers, as one row of bytes in the host's memory."""
        return to_host(flatten(self.policy)).numpy()

    @torch.no_grad()
    def set_acting_weights(self, weights: np.ndarray) -> None:
        """Take what `acting_weights` of another of these gave."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's arrays are read-only, and so is what is done with them here
            flat = torch.from_numpy(weights)
        unflatten(flat, self.policy)

    def sac_pass(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The quantities that the losses of a step need, each (B,): all six in one pass, if the step moves everything.

        Whatever yields gradients happens in here: with several Learners, this is what DistributedDataParallel wraps.

        Args:
            batch: columns "obs", "new_obs", "actions", and "task" where there are several; and under "moving" what the
                step moves, if not everything.
        """
        moving = batch.get("moving", EVERYTHING)
        record = self._new_record(moving)
        with self.autocast():
            out = self._passes(batch, moving, record)
        return {**out, **self._retained(record)}

    def _passes(self, batch: Mapping[str, Any], moving: Sequence[str], record: Record) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if "policy" in moving:
            out |= self._actor_pass(batch, record)
        if "qf" in moving:
            out |= self._critic_pass(batch, record)
        return out

    def _actor_pass(self, batch: Mapping[str, Any], record: Record) -> dict[str, Tensor]:
        obs = batch["obs"]
        mean, log_std = squashed_gaussian(self.policy(obs, task=batch.get("task"), record=record["policy"]))
        new_actions, logp = sample_action(mean, log_std, self._normal(mean))
        on_policy = torch.cat([obs, new_actions], -1)
        q_policy = torch.min(self.qf(on_policy, frozen=True), self.qf_twin(on_policy, frozen=True)).squeeze(-1)
        return {"logp": logp, "q_policy": q_policy}

    def _critic_pass(self, batch: Mapping[str, Any], record: Record) -> dict[str, Tensor]:
        next_obs = batch["new_obs"]
        state_action = torch.cat([batch["obs"], batch["actions"]], -1)
        q = self.qf(state_action, record=record["qf"]).squeeze(-1)
        q_twin = self.qf_twin(state_action, record=record["qf_twin"]).squeeze(-1)
        with torch.no_grad():
            next_mean, next_log_std = squashed_gaussian(self.policy(next_obs, task=batch.get("task")))
            next_actions, next_logp = sample_action(next_mean, next_log_std, self._normal(next_mean))
            next_state_action = torch.cat([next_obs, next_actions], -1)
            next_q = torch.min(self.target_qf(next_state_action), self.target_qf_twin(next_state_action)).squeeze(-1)
        return {"q": q, "q_twin": q_twin, "next_q": next_q, "next_logp": next_logp}

    def _new_record(self, moving: Sequence[str]) -> Record:
        return {name: [] if self._records and name in moving else None for name in NETWORKS}

    def _retained(self, record: Record) -> dict[str, Any]:
        """The activations of the loss pass, which are to keep their gradients; nothing if no method needs them."""
        if not self._records:
            return {}
        activations = {name: layers for name, layers in record.items() if layers is not None}
        for layers in activations.values():
            for hidden in layers:
                hidden.retain_grad()
        return {"activations": activations}

    def _normal(self, like: Tensor) -> Tensor:
        """Standard normal noise for the rows of `like`, (B, A).

        Every Learner draws the noise of the whole batch and takes its shard's rows: shards do not share noise, the
        number of Learners does not change what is learned, and one generator's state is the state of all.
        """
        ranks, rank, rows = 1, 0, len(like)
        if torch.distributed.is_initialized():
            ranks, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        if self.noise is None or self.noise.device != like.device:
            self.noise = torch_generator(self._seed, "updates", device=like.device)
        noise = torch.empty((ranks * rows, *like.shape[1:]), dtype=like.dtype, device=like.device)
        return noise.normal_(generator=self.noise)[rank * rows : (rank + 1) * rows]

    def noise_state(self) -> np.ndarray | None:
        """State of the update noise's generator, for checkpoints."""
        return None if self.noise is None else self.noise.get_state().numpy()

    def set_noise_state(self, state: np.ndarray | None, device: torch.device) -> None:
        """Take back what `noise_state` gave."""
        self.noise = None  # a state from before the first update has none
        if state is not None:
            self.noise = torch.Generator(device)
            self.noise.set_state(torch.from_numpy(np.ascontiguousarray(state)))


class DiscreteActorCritic(ActorCritic):
    """SAC for discrete actions (Christodoulou 2019): the actor's head is logits, a critic has a value per action.

    Everything is an expectation over the actions, so that no pass needs noise, and the critics' values of the batch's
    observations serve their own loss and, as constants, the actor's.
    """

    discrete = True

    @property
    def default_target_entropy(self) -> float:
        """CleanRL's share of the uniform policy's entropy: 0.89 log n."""
        return 0.89 * math.log(self.act_dim)

    @torch.no_grad()
    def act(
        self, obs: Tensor, *, explore: bool, generator: torch.Generator | None = None, task: Tensor | int | None = None
    ) -> Tensor:
        """Actions in 0 ... n - 1, shape (E,): a sample of the policy, or its likeliest action."""
        logits = self._acting_outputs(obs, task)
        if not explore:
            return logits.argmax(-1)
        return torch.multinomial(F.softmax(logits, -1), 1, generator=generator).squeeze(-1)

    def _passes(self, batch: Mapping[str, Any], moving: Sequence[str], record: Record) -> dict[str, Any]:
        """The quantities of the continuous agent, in expectation over the actions."""
        task = batch.get("task")
        # Scaled once for all networks that see them.
        obs, frozen = pixels(batch["obs"]), "qf" not in moving
        q = self.qf(obs, frozen=frozen, record=record["qf"])
        q_twin = self.qf_twin(obs, frozen=frozen, record=record["qf_twin"])
        out: dict[str, Any] = {}
        if "policy" in moving:
            log_probs = F.log_softmax(self.policy(obs, task=task, record=record["policy"]), -1)
            out["logp"] = expectation(log_probs, log_probs)
            out["q_policy"] = expectation(log_probs, torch.min(q, q_twin).detach())
        if "qf" in moving:
            actions, next_obs = batch["actions"].unsqueeze(-1), pixels(batch["new_obs"])
            out["q"], out["q_twin"] = (values.gather(-1, actions).squeeze(-1) for values in (q, q_twin))
            with torch.no_grad():
                next_log_probs = F.log_softmax(self.policy(next_obs, task=task), -1)
                next_q = torch.min(self.target_qf(next_obs), self.target_qf_twin(next_obs))
                out["next_q"] = expectation(next_log_probs, next_q)
                out["next_logp"] = expectation(next_log_probs, next_log_probs)
        return out


def build_actor_critic(run: ResolvedRun) -> ActorCritic:
    """The agent of a run, with its initial weights."""
    agent = DiscreteActorCritic() if run.discrete else ActorCritic()
    agent.build(run)
    return agent
