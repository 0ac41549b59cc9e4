"""SAC as a plain PyTorch loop in CleanRL's order of operations: what a researcher would run without any framework.

Written for this benchmark from the algorithm (CleanRL's page on SAC explains each step), and written to be fast, so
that it is a fair opponent: fused Adam, no graph where no gradient is wanted, arrays instead of episodes.
One environment, and after each of its steps

1. one critic update, both critics under one Adam;
2. every second step, two actor updates on the same batch, each followed by a temperature update that computes log pi
   again, without a gradient;
3. the targets' move, parameter by parameter.

The actor's loss reaches it through the critics, and as in CleanRL its backward also makes the critics' weight
gradients, which the next critic update throws away. `freeze_critics=True` leaves those out: not CleanRL, but the loop
of a careful author.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.contender import BATCH_SIZE, Episode, Window, make_env, train_for
from benchmarks.flops import CLEANRL_FROZEN_UPDATE, CLEANRL_UPDATE, gflop, update_gemms
from rllib_nbsp.envs import SUITES

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
POLICY_PERIOD = 2
"""Environment steps between two rounds of actor updates, and actor updates in a round."""


class Batch(NamedTuple):
    """B transitions, float32: (B, observation), (B, action), (B,), (B, observation), (B,)."""

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    next_obs: Tensor
    terminateds: Tensor


class ReplayRing:
    """Transitions in NumPy arrays, a column for each field of `Batch`; the newest overwrites the oldest."""

    def __init__(self, obs_size: int, action_size: int, capacity: int, seed: int) -> None:
        self.size = 0
        self._next = 0
        self._capacity = capacity
        shapes = ((obs_size,), (action_size,), (), (obs_size,), ())
        self._columns = [np.empty((capacity, *shape), np.float32) for shape in shapes]
        self._rng = np.random.default_rng(seed)

    def add(self, *transition: Any) -> None:
        """Store one transition, its values in the order of `Batch`."""
        for column, value in zip(self._columns, transition, strict=True):
            column[self._next] = value
        self._next = (self._next + 1) % self._capacity
        self.size = min(self.size + 1, self._capacity)

    def sample(self, batch_size: int) -> Batch:
        """A uniform batch, with replacement."""
        rows = self._rng.integers(0, self.size, batch_size)
        return Batch(*(torch.from_numpy(column[rows]) for column in self._columns))


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for k, n in pairwise(widths):
        layers += [nn.Linear(k, n), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class PlainSAC:
    """Networks, optimizers and the update.

    Args:
        obs_size: width of an observation.
        action_size: width of an action in [-1, 1].
        hidden: widths of the hidden layers, of the actor and of each critic.
        gamma: discount per step.
        tau: share of the critics in the targets' move.
        actor_lr: Adam step size of the actor.
        critic_lr: Adam step size of both critics and of the temperature.
        freeze_critics: leave out the critics' weight gradients in the actor's backward.
        device: of everything.
    """

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        hidden: Sequence[int],
        *,
        gamma: float = 0.99,
        tau: float = 0.005,
        actor_lr: float = 3e-4,
        critic_lr: float = 1e-3,
        freeze_critics: bool = False,
        device: str = "cpu",
    ) -> None:
        self.obs_size, self.action_size = obs_size, action_size
        self.gamma, self.tau, self.freeze_critics = gamma, tau, freeze_critics
        self.target_entropy = -float(action_size)
        self.actor = mlp([obs_size, *hidden, 2 * action_size]).to(device)
        critic_widths = [obs_size + action_size, *hidden, 1]
        self.critics = nn.ModuleList([mlp(critic_widths), mlp(critic_widths)]).to(device)
        self.targets = nn.ModuleList([mlp(critic_widths), mlp(critic_widths)]).to(device).requires_grad_(False)
        self.targets.load_state_dict(self.critics.state_dict())
        self.log_alpha = torch.zeros(1, requires_grad=True, device=device)
        self.alpha = 1.0
        self.updates = 0
        self._actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=actor_lr, fused=True)
        self._critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=critic_lr, fused=True)
        self._alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=critic_lr, fused=True)

    def sample_actions(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (B, A) in [-1, 1] and their log-probability (B,)."""
        mean, log_std = self.actor(obs).chunk(2, dim=-1)
        log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(log_std) + 1.0)
        noise = torch.randn_like(mean)
        raw = mean + log_std.exp() * noise
        # log N(raw), less log |d tanh(raw) / d raw| = 2 (log 2 - raw - softplus(-2 raw)), which never overflows.
        log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        log_prob = log_prob - 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
        return torch.tanh(raw), log_prob.sum(-1)

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """One action for one observation."""
        return self.sample_actions(torch.from_numpy(obs)[None])[0][0].numpy()

    def update(self, batch: Batch) -> None:
        """One gradient step of the critics, and what follows it in CleanRL's order."""
        self.updates += 1
        self._update_critics(batch)
        if self.updates % POLICY_PERIOD == 0:
            for _ in range(POLICY_PERIOD):
                self._update_actor(batch)
                self._update_alpha(batch)
        self._move_targets()

    def _values(self, critics: nn.ModuleList, obs: Tensor, actions: Tensor) -> list[Tensor]:
        inputs = torch.cat([obs, actions], dim=-1)
        return [critic(inputs).squeeze(-1) for critic in critics]

    def _update_critics(self, batch: Batch) -> None:
        with torch.no_grad():
            next_actions, next_log_prob = self.sample_actions(batch.next_obs)
            next_value = torch.minimum(*self._values(self.targets, batch.next_obs, next_actions))
            next_value = next_value - self.alpha * next_log_prob
            wanted = batch.rewards + self.gamma * (1.0 - batch.terminateds) * next_value
        first, second = self._values(self.critics, batch.obs, batch.actions)
        loss = functional.mse_loss(first, wanted) + functional.mse_loss(second, wanted)
        self._critic_optimizer.zero_grad()
        loss.backward()
        self._critic_optimizer.step()

    def _update_actor(self, batch: Batch) -> None:
        if self.freeze_critics:
            self.critics.requires_grad_(False)
        actions, log_prob = self.sample_actions(batch.obs)
        value = torch.minimum(*self._values(self.critics, batch.obs, actions))
        loss = (self.alpha * log_prob - value).mean()
        self._actor_optimizer.zero_grad()
        loss.backward()
        self._actor_optimizer.step()
        self.critics.requires_grad_(True)

    def _update_alpha(self, batch: Batch) -> None:
        with torch.no_grad():
            _, log_prob = self.sample_actions(batch.obs)
        loss = (-self.log_alpha.exp() * (log_prob + self.target_entropy)).mean()
        self._alpha_optimizer.zero_grad()
        loss.backward()
        self._alpha_optimizer.step()
        self.alpha = self.log_alpha.exp().item()

    @torch.no_grad()
    def _move_targets(self) -> None:
        for target, source in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
            target.lerp_(source, self.tau)


class PlainLoop:
    """The loop: one environment, one update per environment step.

    Networks and noise draw from torch's global stream.

    Args:
        env: with vectors for observations, and actions in [-1, 1].
        hidden: widths of the hidden layers.
        success: whether an episode that had a step with this `info` is one.
        replay_seed: of the batches.
        uniform: draws the random actions of the warm-up.
        freeze_critics: see `PlainSAC`.

    Attributes:
        agent: the networks and their update.
        env_steps: taken so far.
        episodes: those that ended, in order.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        hidden: Sequence[int],
        success: Callable[[Mapping[str, Any]], bool],
        *,
        replay_seed: int,
        uniform: np.random.Generator,
        freeze_critics: bool = False,
    ) -> None:
        obs_space, action_space = env.observation_space, env.action_space
        assert obs_space.shape is not None and action_space.shape is not None
        (obs_size,), (action_size,) = obs_space.shape, action_space.shape
        self.agent = PlainSAC(obs_size, action_size, hidden, freeze_critics=freeze_critics)
        self.env_steps = 0
        self.episodes: list[Episode] = []
        self._env = env
        self._success = success
        self._uniform = uniform
        self._action_size = action_size
        self._ring = ReplayRing(obs_size, action_size, 1_000_000, replay_seed)
        self._obs: np.ndarray = env.reset()[0]
        self._return, self._succeeded = 0.0, False

    def warm_up(self, env_steps: int) -> None:
        """Take uniformly random steps, without updates."""
        for _ in range(env_steps):
            self._step_env(self._uniform.uniform(-1.0, 1.0, self._action_size).astype(np.float32))

    def train(self) -> None:
        """Take a step and update."""
        self._step_env(self.agent.act(self._obs))
        self.agent.update(self._ring.sample(BATCH_SIZE))

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def _step_env(self, action: np.ndarray) -> None:
        next_obs, reward, terminated, truncated, info = self._env.step(action)
        # A time limit is no end of the task: only termination stops the bootstrap.
        self._ring.add(self._obs, action, reward, next_obs, terminated)
        self._obs = next_obs
        self.env_steps += 1
        self._return += float(reward)
        self._succeeded |= self._success(info)
        if terminated or truncated:
            self.episodes.append(Episode(self.env_steps, self._return, self._succeeded))
            self._obs, _ = self._env.reset()
            self._return, self._succeeded = 0.0, False


class PlainTorch:
    """The loop as a contender.

    Args:
        hidden: widths of the hidden layers.
        warmup_env_steps: uniformly random steps, without updates, taken at once.
        freeze_critics: see `PlainSAC`.
        seed: of the environment's and the replay's random numbers.
    """

    def __init__(
        self, hidden: Sequence[int], warmup_env_steps: int, *, freeze_critics: bool = False, seed: int = 0
    ) -> None:
        passes = CLEANRL_FROZEN_UPDATE if freeze_critics else CLEANRL_UPDATE
        self._loop = PlainLoop(
            make_env(seed),
            hidden,
            SUITES["metaworld"].success,
            replay_seed=seed,
            uniform=np.random.default_rng(seed),
            freeze_critics=freeze_critics,
        )
        agent = self._loop.agent
        self.name = "plain_torch_frozen" if freeze_critics else "plain_torch"
        self.passes = str(passes)
        self.gflop_per_update = gflop(update_gemms(agent.obs_size, agent.action_size, hidden, BATCH_SIZE, passes))
        self._loop.warm_up(warmup_env_steps)

    def run(self, seconds: float) -> Window:
        """Train for at least `seconds`."""
        return train_for(seconds, self._loop.train, lambda: (self._loop.env_steps, self._loop.agent.updates))

    def close(self) -> None:
        """Free the simulator."""
        self._loop.close()
