"""The plain loop that we are compared with is SAC, by formulas written out by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from benchmarks.plain_sac import Batch, PlainSAC, ReplayRing
from tests.benchmarks.batches import ACT, HIDDEN, OBS, ROWS, random_batch


class HandAdam:
    """Adam by its formulas (Kingma & Ba 2015, Algorithm 1)."""

    def __init__(self, lr: float) -> None:
        self.lr, self.steps = lr, 0
        self.m = self.v = torch.zeros(())

    def step(self, w: Tensor, g: Tensor) -> Tensor:
        self.steps += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        m_hat, v_hat = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        return w - self.lr * m_hat / (v_hat**0.5 + 1e-8)


class HandSAC:
    """SAC in CleanRL's order (docs/readings.md R35), in float64 on flat lists, with PyTorch's own tanh-Gaussian."""

    def __init__(self, agent: PlainSAC) -> None:
        self.actor = weights_of(agent.actor)
        self.critics = [weights_of(critic) for critic in agent.critics]
        self.targets = [weights_of(critic) for critic in agent.critics]
        self.log_alpha = torch.zeros(1, dtype=torch.float64)
        self.actor_adams = [HandAdam(3e-4) for _ in self.actor]
        self.critic_adams = [[HandAdam(1e-3) for _ in critic] for critic in self.critics]
        self.alpha_adam = HandAdam(1e-3)

    def update(self, batch: Batch, noises: list[Tensor], with_actor: bool) -> None:
        obs, actions, rewards, next_obs, terminateds = (column.double() for column in batch)
        noise = iter(n.double() for n in noises)
        alpha = self.log_alpha.exp()
        next_actions, next_log_prob = policy(self.actor, next_obs, next(noise))
        next_q = torch.stack([forward(t, next_obs, next_actions) for t in self.targets]).amin(0)
        y = rewards + 0.99 * (1 - terminateds) * (next_q - alpha * next_log_prob)
        for weights, adams in zip(self.critics, self.critic_adams, strict=True):
            descend(weights, adams, lambda w: ((forward(w, obs, actions) - y.detach()) ** 2).mean())
        for _ in range(2 * with_actor):
            epsilon = next(noise)
            alpha = self.log_alpha.exp()

            def actor_loss(w: list[Tensor], epsilon: Tensor = epsilon, alpha: Tensor = alpha) -> Tensor:
                new_actions, log_prob = policy(w, obs, epsilon)
                q = torch.stack([forward(critic, obs, new_actions) for critic in self.critics]).amin(0)
                return (alpha * log_prob - q).mean()

            descend(self.actor, self.actor_adams, actor_loss)
            _, log_prob = policy(self.actor, obs, next(noise))
            # d/d log_alpha of mean(-exp(log_alpha) (log pi + H)) with H = -|A|.
            gradient = -(self.log_alpha.exp() * (log_prob - ACT).mean())
            self.log_alpha = self.alpha_adam.step(self.log_alpha, gradient)
        for target, critic in zip(self.targets, self.critics, strict=True):
            for i, weight in enumerate(critic):
                target[i] = 0.005 * weight + 0.995 * target[i]


def weights_of(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().double().clone() for parameter in module.parameters()]


def forward(weights: Sequence[Tensor], *inputs: Tensor) -> Tensor:
    x = torch.cat(inputs, -1)
    for i in range(0, len(weights), 2):
        x = x @ weights[i].T + weights[i + 1]
        x = x.clamp(min=0) if i + 2 < len(weights) else x
    return x.squeeze(-1) if x.shape[-1] == 1 else x


def policy(weights: Sequence[Tensor], obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    out = forward(weights, obs)
    mean, log_std = out[:, :ACT], -5 + 3.5 * (torch.tanh(out[:, ACT:]) + 1)
    tanh = TanhTransform(cache_size=1)  # the cache spares it the inverse, which is inexact near +-1
    actions = tanh(mean + log_std.exp() * noise)
    return actions, TransformedDistribution(Normal(mean, log_std.exp()), [tanh]).log_prob(actions).sum(-1)


def descend(weights: list[Tensor], adams: list[HandAdam], loss: Any) -> None:
    leaves = [w.clone().requires_grad_() for w in weights]
    gradients = torch.autograd.grad(loss(leaves), leaves)
    weights[:] = [adam.step(w, g) for adam, w, g in zip(adams, weights, gradients, strict=True)]


def test_the_plain_update_is_sac_written_out_by_hand() -> None:
    agent = PlainSAC(OBS, ACT, HIDDEN)
    hand = HandSAC(agent)
    batches = [random_batch() for _ in range(4)]
    for number, batch in enumerate(batches, start=1):
        state = torch.get_rng_state()
        agent.update(batch)
        # One draw for the target's actions, then two for each of the two actor updates of every second step.
        torch.set_rng_state(state)
        noises = [torch.randn(ROWS, ACT) for _ in range(1 if number % 2 else 5)]
        hand.update(batch, noises, with_actor=number % 2 == 0)
        for ours, by_hand in [(agent.actor, hand.actor), *zip(agent.critics, hand.critics, strict=True)]:
            for a, b in zip(weights_of(ours), by_hand, strict=True):
                torch.testing.assert_close(a, b, atol=2e-6, rtol=0)
        for target, by_hand in zip(agent.targets, hand.targets, strict=True):
            for a, b in zip(weights_of(target), by_hand, strict=True):
                torch.testing.assert_close(a, b, atol=2e-7, rtol=0)
        assert agent.alpha == pytest.approx(float(hand.log_alpha.exp()), abs=1e-6)
    assert agent.alpha != 1.0


def test_freezing_the_critics_saves_work_and_changes_no_result() -> None:
    plain = PlainSAC(OBS, ACT, HIDDEN)
    frozen = copy.deepcopy(plain)
    frozen.freeze_critics = True
    batches = [random_batch() for _ in range(4)]
    for agent in (plain, frozen):
        torch.manual_seed(1)
        for batch in batches:
            agent.update(batch)
    for name in ("actor", "critics", "targets"):
        for a, b in zip(weights_of(getattr(plain, name)), weights_of(getattr(frozen, name)), strict=True):
            assert torch.equal(a, b)


def test_the_ring_keeps_the_newest_transitions_whole() -> None:
    ring = ReplayRing(OBS, ACT, capacity=4, seed=0)
    for i in range(6):
        ring.add(np.full(OBS, i), np.full(ACT, i), i, np.full(OBS, i + 1), i == 5)
    batch = ring.sample(200)
    # 0 and 1 were overwritten by 4 and 5; every row's columns carry its own number.
    assert set(batch.rewards.tolist()) == {2.0, 3.0, 4.0, 5.0}
    assert torch.equal(batch.obs[:, 0], batch.rewards)
    assert torch.equal(batch.actions[:, 1], batch.rewards)
    assert torch.equal(batch.next_obs[:, 2], batch.rewards + 1)
    assert torch.equal(batch.terminateds, (batch.rewards == 5).float())
