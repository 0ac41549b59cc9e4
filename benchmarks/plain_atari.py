"""Discrete SAC as a plain PyTorch loop in CleanRL's order: what a researcher would run on Atari without any framework.

Written for this benchmark from the algorithm, and written to be fast (see `plain_sac.py`). One environment, and after
every `UPDATE_PERIOD`-th of its steps

1. one critic update, both critics under one Adam;
2. one actor update against the critics as they are then, which it runs again without a gradient;
3. one temperature update with the actor's probabilities.

Targets are copied every `TARGET_PERIOD` environment steps. The replay keeps one stack a step and finds the next stack
one row further, as Stable-Baselines3's memory-saving buffer does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.spaces import Discrete
from torch import Tensor, nn

from benchmarks.contender import Window, train_for
from benchmarks.flops import CLEANRL_DISCRETE_UPDATE, ConvLayer, Gemm, UpdatePasses, cnn_update_gemms, gflop
from rllib_nbsp.envs import SUITES

GAME = "Pong"
ATARI_BATCH_SIZE = 64
UPDATE_PERIOD, TARGET_PERIOD = 4, 8_000
CONV: tuple[ConvLayer, ...] = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
HIDDEN = (768, 768)
ADAM_EPS, LR, GAMMA = 1e-4, 1e-4, 0.99


def atari_gemms(passes: UpdatePasses) -> list[Gemm]:
    """The matrix products of an update on `GAME`."""
    _, action_space = SUITES["atari"].spaces([GAME])
    assert isinstance(action_space, Discrete)
    return cnn_update_gemms((4, 84, 84), CONV, HIDDEN, int(action_space.n), ATARI_BATCH_SIZE, passes)


def cnn(num_actions: int, hidden: Sequence[int]) -> nn.Sequential:
    """The Nature convolutions and fully connected layers for stacks of four 84 x 84 frames."""
    layers: list[nn.Module] = []
    channels, size = 4, 84
    for out_channels, kernel, stride in CONV:
        layers += [nn.Conv2d(channels, out_channels, kernel, stride), nn.ReLU(inplace=True)]
        channels, size = out_channels, (size - kernel) // stride + 1
    layers.append(nn.Flatten())
    width = channels * size * size
    for n in hidden:
        layers += [nn.Linear(width, n), nn.ReLU(inplace=True)]
        width = n
    return nn.Sequential(*layers, nn.Linear(width, num_actions))


class PlainDiscreteSAC:
    """Networks, optimizers and the update.

    Args:
        num_actions: n.
        hidden: widths of the fully connected hidden layers.
    """

    def __init__(self, num_actions: int, hidden: Sequence[int] = HIDDEN) -> None:
        self.target_entropy = 0.89 * math.log(num_actions)
        self.actor = cnn(num_actions, hidden)
        self.critics = nn.ModuleList([cnn(num_actions, hidden) for _ in range(2)])
        self.targets = nn.ModuleList([cnn(num_actions, hidden) for _ in range(2)]).requires_grad_(False)
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.updates = 0
        self.copy_targets()
        self._actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=LR, eps=ADAM_EPS, fused=True)
        self._critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=LR, eps=ADAM_EPS, fused=True)
        self._alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=LR, eps=ADAM_EPS, fused=True)

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> int:
        """One action for one stack of frames."""
        probs = F.softmax(self.actor(torch.from_numpy(obs)[None] / 255.0), -1)
        return int(torch.multinomial(probs, 1))

    def update(self, obs: Tensor, actions: Tensor, rewards: Tensor, next_obs: Tensor, terminateds: Tensor) -> None:
        """One gradient step of everything, on B stacks of bytes, actions (B,) int64 and float32 columns (B,)."""
        self.updates += 1
        obs, next_obs = obs / 255.0, next_obs / 255.0
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            log_probs = F.log_softmax(self.actor(next_obs), -1)
            q = torch.minimum(*(target(next_obs) for target in self.targets))
            value = (log_probs.exp() * (q - alpha * log_probs)).sum(-1)
            wanted = rewards + GAMMA * (1.0 - terminateds) * value
        taken = actions.unsqueeze(-1)
        loss = sum(F.mse_loss(critic(obs).gather(-1, taken).squeeze(-1), wanted) for critic in self.critics)
        _step(self._critic_optimizer, torch.as_tensor(loss))
        with torch.no_grad():
            q = torch.minimum(*(critic(obs) for critic in self.critics))
        log_probs = F.log_softmax(self.actor(obs), -1)
        probs = log_probs.exp()
        _step(self._actor_optimizer, (probs * (alpha * log_probs - q)).mean())
        surplus = (log_probs + self.target_entropy).detach()
        _step(self._alpha_optimizer, (probs.detach() * (-self.log_alpha.exp() * surplus)).mean())

    def copy_targets(self) -> None:
        """The critics' weights to the targets."""
        self.targets.load_state_dict(self.critics.state_dict())


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class PlainAtari:
    """The loop: one environment, one update every fourth step.

    Args:
        warmup_env_steps: uniformly random steps, without updates, taken at once.
        capacity: stacks in the replay.
        seed: of the environment's and the replay's random numbers.
    """

    name = "plain_torch"
    passes = str(CLEANRL_DISCRETE_UPDATE)

    def __init__(self, warmup_env_steps: int, capacity: int, seed: int = 0) -> None:
        self._env = SUITES["atari"].make_env(GAME, seed=seed)
        num_actions = int(self._env.action_space.n)  # type: ignore[attr-defined]
        self.gflop_per_update = gflop(atari_gemms(CLEANRL_DISCRETE_UPDATE))
        self._agent = PlainDiscreteSAC(num_actions)
        self._rng = np.random.default_rng(seed)
        self._capacity = capacity
        self._stacks = np.empty((capacity, 4, 84, 84), np.uint8)
        self._actions = np.empty(capacity, np.int64)
        self._rewards, self._terminateds = np.empty(capacity, np.float32), np.empty(capacity, np.float32)
        self._env_steps = 0
        self._obs, _ = self._env.reset()
        for _ in range(warmup_env_steps):
            self._step_env(int(self._rng.integers(num_actions)))

    def run(self, seconds: float) -> Window:
        """Train for at least `seconds`."""
        return train_for(seconds, self._train, lambda: (self._env_steps, self._agent.updates))

    def close(self) -> None:
        """Free the emulator."""
        self._env.close()

    def _train(self) -> None:
        self._step_env(self._agent.act(self._obs))
        if self._env_steps % UPDATE_PERIOD == 0:
            # The newest stack has no successor yet.
            rows = self._rng.integers(0, min(self._env_steps, self._capacity) - 1, ATARI_BATCH_SIZE)
            following = (rows + 1) % self._capacity
            columns = (
                self._stacks[rows],
                self._actions[rows],
                self._rewards[rows],
                self._stacks[following],
                self._terminateds[rows],
            )
            self._agent.update(*(torch.from_numpy(column) for column in columns))
        if self._env_steps % TARGET_PERIOD == 0:
            self._agent.copy_targets()

    def _step_env(self, action: int) -> None:
        next_obs, reward, terminated, truncated, _ = self._env.step(action)
        row = self._env_steps % self._capacity
        self._stacks[row], self._actions[row] = self._obs, action
        self._rewards[row], self._terminateds[row] = reward, terminated
        self._obs = self._env.reset()[0] if terminated or truncated else next_obs
        self._env_steps += 1
