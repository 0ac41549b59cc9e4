"""One update of SAC: against a plain PyTorch loop, its targets, its gradients, what a boundary resets."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform

from rllib_nbsp.methods.agent import make_batch
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.seeding import torch_generator
from rllib_nbsp.settings import BoundarySettings
from tests.sac.inside import gradients, optimizer_steps, stacked
from tests.tiny import (
    ACT,
    HIDDEN,
    assert_same,
    build_learner,
    end_visit,
    parameters,
    random_scores,
    train,
    transitions,
    update,
)

GAMMA, TAU = 0.99, 0.005


# One update after another


class PlainSAC:
    """SAC in the usual order of a PyTorch script, written without the package's code: own layers, Adam and Polyak."""

    def __init__(self, weights: Mapping[str, Tensor], seed: int) -> None:
        self.actor = self._mlp(weights, "policy")
        self.critics = [self._mlp(weights, name) for name in ("qf", "qf_twin")]
        self.targets = [self._mlp(weights, name) for name in ("target_qf", "target_qf_twin")]
        self.log_alpha = weights["log_alpha"].clone().requires_grad_()
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-4, fused=False)
        self.critic_optimizer = torch.optim.Adam(
            [p for critic in self.critics for p in critic.parameters()], lr=1e-3, fused=False
        )
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=1e-3, fused=False)
        self.noise = torch_generator(seed, "updates")

    @staticmethod
    def _mlp(weights: Mapping[str, Tensor], name: str) -> nn.Sequential:
        parts: list[nn.Module] = []
        for layer in (*(f"hidden.{i}" for i in range(len(HIDDEN))), "head"):
            weight, bias = weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"]
            linear = nn.Linear(weight.shape[1], weight.shape[0])
            linear.weight.data, linear.bias.data = weight.clone(), bias.clone()
            parts += [linear, nn.ReLU()]
        return nn.Sequential(*parts[:-1])

    def _action(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.actor(obs).split(ACT, 1)
        log_std = -5 + 3.5 * (torch.tanh(raw) + 1)
        u = mean + log_std.exp() * torch.empty(len(obs), ACT).normal_(generator=self.noise)
        density = Normal(mean, log_std.exp()).log_prob(u)
        return torch.tanh(u), (density - TanhTransform().log_abs_det_jacobian(u, torch.tanh(u))).sum(1)

    def update(self, columns: Mapping[str, np.ndarray]) -> None:
        batch = {name: torch.from_numpy(column) for name, column in columns.items()}
        obs, next_obs = batch["obs"], batch["new_obs"]
        alpha = self.log_alpha.exp().detach()
        action, logp = self._action(obs)
        with torch.no_grad():
            next_action, next_logp = self._action(next_obs)
            inputs = torch.cat([next_obs, next_action], 1)
            next_q = torch.minimum(*(target(inputs) for target in self.targets)).squeeze(1)
            y = batch["rewards"] + GAMMA * (~batch["terminateds"]).float() * (next_q - alpha * next_logp)
        q_of_action = torch.minimum(*(critic(torch.cat([obs, action], 1)) for critic in self.critics)).squeeze(1)
        self.actor_optimizer.zero_grad()
        (alpha * logp - q_of_action).mean().backward()
        self.critic_optimizer.zero_grad()
        taken = torch.cat([obs, batch["actions"]], 1)
        sum(((critic(taken).squeeze(1) - y) ** 2).mean() for critic in self.critics).backward()
        self.alpha_optimizer.zero_grad()
        (-self.log_alpha.exp() * (logp.detach() - ACT)).mean().backward()
        for optimizer in (self.actor_optimizer, self.critic_optimizer, self.alpha_optimizer):
            optimizer.step()
        self._move_targets()

    def _move_targets(self) -> None:
        with torch.no_grad():
            for critic, target in zip(self.critics, self.targets, strict=True):
                for p, t in zip(critic.parameters(), target.parameters(), strict=True):
                    t.copy_(TAU * p + (1 - TAU) * t)

    def difference(self, weights: Mapping[str, Tensor]) -> float:
        """Largest distance of any weight, target and log_alpha to those of a Learner."""
        modules = dict(zip(("policy", *NETWORKS[1:], "target_qf", "target_qf_twin"), self._modules(), strict=True))
        pairs = [(self.log_alpha, weights["log_alpha"])]
        for name, module in modules.items():
            linears = [part for part in module if isinstance(part, nn.Linear)]
            for linear, layer in zip(linears, (*(f"hidden.{i}" for i in range(len(HIDDEN))), "head"), strict=True):
                pairs.append((linear.weight, weights[f"{name}.{layer}.weight"]))
                pairs.append((linear.bias, weights[f"{name}.{layer}.bias"]))
        return max(float((a.detach() - b).abs().max()) for a, b in pairs)

    def _modules(self) -> list[nn.Sequential]:
        return [self.actor, *self.critics, *self.targets]


class DelayedPlainSAC(PlainSAC):
    """The same with delayed policy updates: critics first; every n-th time then n steps of the actor against them."""

    def __init__(self, weights: Mapping[str, Tensor], seed: int, interval: int) -> None:
        super().__init__(weights, seed)
        self.interval, self.updates = interval, 0

    def update(self, columns: Mapping[str, np.ndarray]) -> None:
        batch = {name: torch.from_numpy(column) for name, column in columns.items()}
        obs, next_obs = batch["obs"], batch["new_obs"]
        with torch.no_grad():
            next_action, next_logp = self._action(next_obs)
            next_q = torch.minimum(*(target(torch.cat([next_obs, next_action], 1)) for target in self.targets))
            value = next_q.squeeze(1) - self.log_alpha.exp() * next_logp
            y = batch["rewards"] + GAMMA * (~batch["terminateds"]).float() * value
        taken = torch.cat([obs, batch["actions"]], 1)
        self._descend(self.critic_optimizer, sum(((q(taken).squeeze(1) - y) ** 2).mean() for q in self.critics))
        self.updates += 1
        for _ in range(self.interval if self.updates % self.interval == 0 else 0):
            action, logp = self._action(obs)
            q = torch.minimum(*(critic(torch.cat([obs, action], 1)) for critic in self.critics)).squeeze(1)
            self._descend(self.actor_optimizer, (self.log_alpha.exp().detach() * logp - q).mean())
            self._descend(self.alpha_optimizer, (-self.log_alpha.exp() * (logp.detach() - ACT)).mean())
        self._move_targets()

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("interval", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 11])
def test_sac_is_a_plain_pytorch_loop(seed, interval):
    learner = build_learner(seed=seed, training={"actor_interval": interval})
    weights = parameters(learner)
    plain = PlainSAC(weights, seed) if interval == 1 else DelayedPlainSAC(weights, seed, interval)
    assert plain.difference(parameters(learner)) == 0.0
    start = parameters(learner)
    for k in range(20):
        columns = transitions(k)
        update(learner, columns)
        plain.update(columns)
    moved = max(float((start[name] - value).abs().max()) for name, value in parameters(learner).items())
    assert moved > 1e-2
    assert plain.difference(parameters(learner)) < 2e-5


def test_scaled_rewards_are_rewards_that_were_scaled():
    scaled, plain = build_learner(training={"reward_scale": 0.25}), build_learner()
    for k in range(6):
        rows = transitions(k)
        update(scaled, rows)
        update(plain, {**rows, "rewards": 0.25 * rows["rewards"]})  # a power of two: exact
    assert_same(parameters(scaled), parameters(plain))


def test_losses_of_any_batch_are_those_that_its_update_minimises():
    learner, twin = build_learner(), build_learner()
    rows = transitions(3)
    losses_of_rows = twin.agent.sac_losses(make_batch({name: torch.from_numpy(col) for name, col in rows.items()}))
    update(learner, rows)
    report = learner.report()
    assert set(losses_of_rows) == {"policy", "qf", "qf_twin", "alpha"}
    for name, value in losses_of_rows.items():
        assert value.item() == pytest.approx(report[f"{name}_loss"], rel=1e-6), name
        assert value.requires_grad


# Losses that are not finite


@pytest.mark.parametrize("column", ["rewards", "obs"])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_terms(column):
    learner = build_learner()
    columns = transitions(0)
    columns[column][3] = np.nan
    with pytest.raises(FloatingPointError, match=r"update 1: the loss is not finite: .*'qf_loss': nan"):
        update(learner, columns)


def test_a_loss_that_is_not_finite_in_an_early_minibatch_is_noticed():
    learner = build_learner()
    broken = transitions(0)
    broken["rewards"][:] = np.inf
    with pytest.raises(FloatingPointError):
        update(learner, stacked(broken, transitions(1), transitions(2)))


# Gradients


def test_clipping_scales_each_networks_gradient_to_the_norm():
    clip = 0.05
    free, clipped = build_learner(), build_learner(training={"grad_clip": clip})
    update(free, transitions(0))
    update(clipped, transitions(0))
    full, cut = gradients(free), gradients(clipped)
    for network in NETWORKS:
        names = [name for name in full if name.startswith(f"{network}.")]
        norm = math.sqrt(sum(float(full[name].square().sum()) for name in names))
        assert norm > clip
        for name in names:
            assert torch.allclose(cut[name], full[name] * clip / norm, rtol=1e-3, atol=1e-9), name
    assert torch.equal(cut["log_alpha"], full["log_alpha"])


def test_clipping_far_above_the_norm_changes_nothing():
    free, clipped = build_learner(), build_learner(training={"grad_clip": 1e6})
    for learner in (free, clipped):
        train(learner, range(3))
    assert_same(parameters(free), parameters(clipped))


def test_target_networks_have_no_gradient():
    learner = build_learner()
    update(learner, transitions(0))
    assert not any(name.startswith("target_") for name in gradients(learner))


# Target networks


@pytest.mark.parametrize("method", ["sac", "nbsp"])
def test_targets_are_an_average_of_the_online_critics_after_every_update(method):
    learner = build_learner(method)
    end_visit(learner, 1, random_scores(0))
    for k in range(5):
        before = parameters(learner)
        update(learner, transitions(k))
        after = parameters(learner)
        for name in (name for name in before if name.startswith("target_")):
            online = after[name.removeprefix("target_")]
            assert torch.allclose(after[name], TAU * online + (1 - TAU) * before[name], atol=1e-8), name
            assert not torch.equal(after[name], before[name])


def test_targets_move_after_every_update_of_one_call_too():
    learner = build_learner(training={"tau": 1.0})
    before = parameters(learner)["qf.hidden.0.weight"]
    update(learner, stacked(transitions(0), transitions(1)))
    now = parameters(learner)
    assert torch.equal(now["target_qf.hidden.0.weight"], now["qf.hidden.0.weight"])
    assert not torch.equal(now["qf.hidden.0.weight"], before)


def test_the_targets_period_is_counted_in_env_steps():
    # 8 environment steps at 1 update in 4 steps: every second update.
    learner = build_learner(training={"target_update_env_steps": 8, "updates_per_env_step": 0.25, "tau": 1.0})
    moved = []
    for k in range(6):
        before = parameters(learner)["target_qf.head.weight"]
        update(learner, transitions(k))
        moved.append(not torch.equal(parameters(learner)["target_qf.head.weight"], before))
    assert moved == [False, True, False, True, False, True]


# Between two visits

KEEP_ALL = BoundarySettings(reset_optimizer=False, reset_alpha=False, sync_target=False)


def test_a_boundary_keeps_networks_targets_and_temperature():
    learner = build_learner()
    train(learner, range(5))
    before = parameters(learner)
    assert before["log_alpha"].item() != 0.0
    learner.boundary_reset(BoundarySettings())
    assert_same(before, parameters(learner))


def test_a_boundary_makes_optimizers_fresh_in_moments_and_step_counts():
    learner, never_trained = build_learner(), build_learner()
    train(learner, range(5))
    assert optimizer_steps(learner) == {5.0}
    learner.boundary_reset(BoundarySettings())
    assert optimizer_steps(learner) == set()
    # From the same weights, the update after a reset is the first update of a new optimizer, to the last bit.
    state = learner.get_state()
    state["optimizer"] = never_trained.get_state()["optimizer"]
    never_trained.set_state(state)
    for one in (learner, never_trained):
        train(one, range(5, 8))
    assert_same(parameters(learner), parameters(never_trained))


def test_no_step_after_a_reset_is_much_longer_than_the_learning_rate():
    # Zeroed moments with the old step count would step up to 6.6 learning rates.
    learner = build_learner()
    train(learner, range(30))
    learner.boundary_reset(BoundarySettings())
    for k in range(20):
        before = parameters(learner)
        update(learner, transitions(k))
        after = parameters(learner)
        steps = {name: float((after[name] - before[name]).abs().max()) for name in before}
        assert max(steps[name] for name in steps if name.startswith("policy")) <= 3e-4 * 1.1
        assert max(steps[name] for name in steps if name.startswith("qf")) <= 1e-3 * 1.1


def test_optimizers_can_be_kept():
    kept, uninterrupted = build_learner(), build_learner()
    for learner in (kept, uninterrupted):
        train(learner, range(5))
    kept.boundary_reset(KEEP_ALL)
    for learner in (kept, uninterrupted):
        train(learner, range(5, 8))
    assert_same(parameters(kept), parameters(uninterrupted))


def test_the_temperature_can_be_reset():
    learner = build_learner(training={"initial_alpha": 0.5})
    train(learner, range(5))
    learner.boundary_reset(KEEP_ALL.model_copy(update={"reset_alpha": True}))
    assert learner.report()["alpha"] == pytest.approx(0.5)
    assert optimizer_steps(learner) == {5.0}


def test_targets_can_be_made_equal_to_the_critics():
    learner = build_learner()
    train(learner, range(5))
    before = parameters(learner)
    learner.boundary_reset(KEEP_ALL.model_copy(update={"sync_target": True}))
    after = parameters(learner)
    for name in (name for name in after if name.startswith("target_")):
        assert torch.equal(after[name], before[name.removeprefix("target_")])
        assert not torch.equal(after[name], before[name])
