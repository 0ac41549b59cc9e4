"""The Learner: its updates against a plain PyTorch loop, its hooks, its resets, its state."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform

from rllib_nbsp.curriculum import Phase
from rllib_nbsp.learners import call_learner
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.agent import Batch, VisitData, make_batch
from rllib_nbsp.methods.base import ContinualMethod
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.seeding import torch_generator
from rllib_nbsp.settings import BoundarySettings
from tests.tiny import (
    ACT,
    HIDDEN,
    ROWS,
    assert_same,
    build_learner,
    end_visit,
    parameters,
    random_scores,
    train,
    transitions,
    update,
    visit,
)

GAMMA, TAU = 0.99, 0.005


def stacked(*batches: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Batches one after the other, as one call brings them."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def learn_with(
    monkeypatch: pytest.MonkeyPatch, method: type[ContinualMethod], **sections: Any
) -> ContinualSACTorchLearner:
    """A Learner with a method that only this test knows."""
    monkeypatch.setitem(METHODS, "probe", method)
    return build_learner("probe", **sections)


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


@pytest.mark.parametrize("seed", [0, 11])
def test_sac_is_a_plain_pytorch_loop(seed):
    learner = build_learner(seed=seed)
    plain = PlainSAC(parameters(learner), seed)
    assert plain.difference(parameters(learner)) == 0.0
    start = parameters(learner)
    for k in range(20):
        columns = transitions(k)
        update(learner, columns)
        plain.update(columns)
    moved = max(float((start[name] - value).abs().max()) for name, value in parameters(learner).items())
    assert moved > 1e-2
    assert plain.difference(parameters(learner)) < 2e-5


def test_many_minibatches_in_one_call_are_the_same_updates_one_by_one():
    together, apart = build_learner("nbsp"), build_learner("nbsp")
    for learner in (together, apart):
        train(learner, range(3))
        end_visit(learner, 1, random_scores(0))
    batches = [transitions(k, from_prior=k == 2) for k in range(6)]
    update(together, stacked(*batches))
    for batch in batches:
        update(apart, batch)
    assert_same(parameters(together), parameters(apart))


def test_a_call_without_minibatch_size_is_one_update():
    whole, half = build_learner(), build_learner()
    update(whole, transitions(0))
    update(half, transitions(0), ROWS // 2)
    assert whole.get_state()["continual"]["updates"] == 1
    assert half.get_state()["continual"]["updates"] == 2


def test_a_seed_gives_one_result_and_another_seed_another():
    results = []
    for seed in (1, 1, 2):
        learner = build_learner(seed=seed)
        train(learner, range(5))
        results.append(learner.checksum())
    assert results[0] == results[1] != results[2]


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


# Failures


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


def test_a_learners_error_comes_back_as_text_and_its_values_as_they_are():
    learner = build_learner()
    assert call_learner(learner, "checksum", []) == (True, learner.checksum())
    ok, text = call_learner(learner, "boundary_reset", [None])
    assert not ok
    assert text.startswith("AttributeError")


# Gradients


def gradients(learner: ContinualSACTorchLearner) -> dict[str, Tensor]:
    """Gradients as the optimizers saw them."""
    module = learner.module[DEFAULT_MODULE_ID]
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


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


# What a method gets


class Pull(ContinualMethod):
    """Adds half the squared norm of each network's weights, times 3."""

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        return {
            name: 1.5 * torch.stack([p.square().sum() for p in net.parameters()]).sum()
            for name, net in self.agent.networks.items()
        }


def test_loss_terms_join_the_one_backward_pass(monkeypatch):
    plain, pulled = build_learner(), learn_with(monkeypatch, Pull)
    weights = parameters(plain)
    update(plain, transitions(0))
    update(pulled, transitions(0))
    expected = gradients(plain)
    for name, gradient in gradients(pulled).items():
        pull = 0.0 if name == "log_alpha" else 3.0 * weights[name]
        assert torch.allclose(gradient, expected[name] + pull, rtol=1e-5, atol=1e-6), name
    report = pulled.report()
    assert report["policy_method_loss"] > 0.0
    assert report["policy_loss"] == pytest.approx(plain.report()["policy_loss"])


class Order(ContinualMethod):
    """Writes down when each hook is called and what has moved since the one before."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.log: list[str] = []
        self.weights = self._copy()

    def _copy(self) -> list[Tensor]:
        networks = [*self.agent.networks.values(), *self.agent.targets.values()]
        return [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in networks]

    def _write(self, name: str) -> None:
        now = self._copy()
        online = any(not torch.equal(a, b) for a, b in zip(now[:3], self.weights[:3], strict=True))
        targets = any(not torch.equal(a, b) for a, b in zip(now[3:], self.weights[3:], strict=True))
        self.weights = now
        self.log.append(f"{name}{' weights' * online}{' targets' * targets}")

    def on_visit_start(self, visit: Any, data: Any) -> None:
        self._write(f"visit_start {visit.number}")

    def on_phase_start(self, visit: Any, phase: Phase) -> None:
        self._write(f"phase_start {phase.name}")

    def on_phase_end(self, visit: Any, phase: Phase, data: Any) -> None:
        self._write(f"phase_end {phase.name}")

    def on_visit_end(self, visit: Any, data: Any) -> None:
        self._write(f"visit_end {visit.number}")

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        self._write("loss")
        return {}

    def transform_gradients(self, batch: Batch) -> None:
        assert all(p.grad is not None for net in self.agent.networks.values() for p in net.parameters())
        self._write("gradients")

    def after_step(self, batch: Batch) -> None:
        self._write("step")


def test_hooks_come_in_the_documented_order_and_targets_move_last(monkeypatch):
    learner = learn_with(monkeypatch, Order)
    learner.visit_start(visit(1), None)
    learner.phase_start(visit(1), Phase())
    train(learner, range(2))
    learner.phase_end(visit(1), Phase(), VisitData(visit(1)))
    data = end_visit(learner, 1, None)
    learner.boundary_reset(BoundarySettings(sync_target=True))
    learner.visit_start(visit(2), data)
    assert learner.method.log == [
        "visit_start 1",
        "phase_start train",
        "loss",
        "gradients",
        "step weights",
        "loss targets",  # the target networks move after the method's last hook
        "gradients",
        "step weights",
        "phase_end train targets",
        "visit_end 1",
        "visit_start 2 targets",
    ]


class Watch(ContinualMethod):
    """Keeps every batch, with its activations' gradients."""

    needs_activations = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.batches: list[Batch] = []

    def transform_gradients(self, batch: Batch) -> None:
        self.batches.append(batch)


def test_activations_are_those_of_the_loss_pass(monkeypatch):
    learner = learn_with(monkeypatch, Watch)
    networks = {name: getattr(learner.module[DEFAULT_MODULE_ID], name) for name in NETWORKS}
    columns = transitions(0)
    inputs = {"policy": torch.from_numpy(columns["obs"])}
    inputs["qf"] = inputs["qf_twin"] = torch.cat([inputs["policy"], torch.from_numpy(columns["actions"])], 1)
    expected: dict[str, list[Tensor]] = {name: [] for name in NETWORKS}
    for name, network in networks.items():
        network(inputs[name], record=expected[name])
    update(learner, columns)
    activations = learner.method.batches[0].activations
    assert activations.keys() == expected.keys()
    for name in NETWORKS:
        assert [tuple(h.shape) for h in activations[name]] == [(ROWS, n) for n in HIDDEN]
        assert all(torch.equal(a, b) for a, b in zip(activations[name], expected[name], strict=True))


def test_activations_have_the_gradient_of_their_own_networks_loss_alone(monkeypatch):
    # The head is linear: dL/dh = dL/dq w, so dL/dq is known from dL/dh, and dL/dw = sum of dL/dq h over the batch.
    # A second pass through the same critic, such as the actor's, would break the equality.
    learner = learn_with(monkeypatch, Watch)
    heads = {name: learner.agent.networks[name].head.weight.detach().clone() for name in ("qf", "qf_twin")}
    update(learner, transitions(0))
    batch = learner.method.batches[0]
    for name, weight in heads.items():
        last = batch.activations[name][-1]
        assert all(h.grad is not None and bool((h.grad != 0).any()) for h in batch.activations[name])
        loss_by_q = last.grad @ weight[0] / weight[0].square().sum()
        head_gradient = learner.agent.networks[name].head.weight.grad
        assert torch.allclose(loss_by_q @ last.detach(), head_gradient[0], rtol=1e-4, atol=1e-6)
    assert all(h.grad is not None for h in batch.activations["policy"])


def test_activations_are_kept_for_methods_that_ask_alone():
    learner = build_learner()
    update(learner, transitions(0))
    assert learner.sac.batch.activations == {}


def test_recording_activations_changes_no_weight(monkeypatch):
    watched, plain = learn_with(monkeypatch, Watch), build_learner()
    for learner in (watched, plain):
        train(learner, range(3))
    assert_same(parameters(watched), parameters(plain))


def test_prior_rows_reach_the_method_and_stay_out_of_the_batch(monkeypatch):
    class Beside(Watch):
        needs_activations = False

    learner, plain = learn_with(monkeypatch, Beside), build_learner()
    batches = [transitions(k) for k in range(3)]
    beside = [transitions(50 + k, 5, from_prior=True, task=1) for k in range(3)]
    rows = stacked(*(stacked(batch, prior) for batch, prior in zip(batches, beside, strict=True)))
    update(learner, rows, ROWS + 5)
    for batch in batches:
        update(plain, batch)
    assert_same(parameters(learner), parameters(plain))
    for seen, batch, prior in zip(learner.method.batches, batches, beside, strict=True):
        for part, columns in ((seen, batch), (seen.prior, prior)):
            assert np.array_equal(part.obs, columns["obs"])
            assert np.array_equal(part.next_obs, columns["new_obs"])
            assert np.array_equal(part.terminateds, columns["terminateds"])
            assert np.array_equal(part.task, columns["task"])
            assert np.array_equal(part.from_prior, columns["from_prior"])


def test_a_batch_without_rows_beside_it_has_no_prior(monkeypatch):
    learner = learn_with(monkeypatch, Watch)
    update(learner, transitions(0))
    assert learner.method.batches[0].prior is None


def test_a_phase_without_sacs_losses_moves_only_what_the_method_has_a_loss_for(monkeypatch):
    class Distil(ContinualMethod):
        def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
            return {"policy": self.agent.networks["policy"](batch.obs).square().mean()}

    learner = learn_with(monkeypatch, Distil)
    train(learner, range(3))  # warm optimizers: their moments must not move anything either
    before = parameters(learner)
    phase = Phase("distil", collect=False, updates=2, sac_losses=False)
    learner.phase_start(visit(1), phase)
    train(learner, range(3, 5))
    after = parameters(learner)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"policy", "target_qf", "target_qf_twin"}
    learner.phase_end(visit(1), phase, VisitData(visit(1)))
    train(learner, range(5, 6))
    assert not torch.equal(after["qf.head.weight"], parameters(learner)["qf.head.weight"])


# Between two visits

KEEP_ALL = BoundarySettings(reset_optimizer=False, reset_alpha=False, sync_target=False)


def optimizer_steps(learner: ContinualSACTorchLearner) -> set[float]:
    return {float(s["step"]) for o in learner.agent.optimizers.values() for s in o.state.values()}


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


# Scoring


def test_neurons_are_scored_on_observations_and_executed_actions():
    learner = build_learner()
    train(learner, range(3))
    chunks = [{**transitions(k, rows), "labels": np.arange(rows) % 3 == 0} for k, rows in enumerate((30, 12, 1))]
    columns = [{name: chunk[name] for name in ("obs", "actions", "labels")} for chunk in chunks]
    scores = learner.score_neurons(columns, None, 0.35)
    assert (scores.label_rate, scores.env_steps) == (0.35, 43)
    everything = stacked(*columns)
    obs, actions = torch.from_numpy(everything["obs"]), torch.from_numpy(everything["actions"])
    weights = parameters(learner)
    for name in NETWORKS:
        h = obs if name == "policy" else torch.cat([obs, actions], 1)
        assert [len(layer.score) for layer in scores.layers[name]] == list(HIDDEN)  # no head
        for i, layer in enumerate(scores.layers[name]):
            h = torch.relu(h @ weights[f"{name}.hidden.{i}.weight"].T + weights[f"{name}.hidden.{i}.bias"])
            above = h.double() > h.double().mean(0)
            agree = (above == torch.from_numpy(everything["labels"]).unsqueeze(1)).double().mean(0)
            assert torch.equal(layer.accuracy, agree)


def test_a_second_rollout_gives_the_standard_activations_alone():
    learner = build_learner()
    first = [{**transitions(0, 40), "labels": np.arange(40) % 2 == 0}]
    second = [{**transitions(1, 25), "labels": np.zeros(25, bool)}]
    scores = learner.score_neurons(first, second, 0.5)
    of_second = learner.score_neurons(second, None, 0.0)
    for name in NETWORKS:
        for layer, other in zip(scores.layers[name], of_second.layers[name], strict=True):
            assert torch.equal(layer.mean_activation, other.mean_activation)
            assert layer.counts.sum(1).tolist() == [40] * len(layer.score)


def test_scoring_changes_nothing():
    learner = build_learner("nbsp")
    train(learner, range(2))
    before = learner.checksum()
    state = learner.get_state()["continual"]
    learner.score_neurons([{**transitions(0, 40), "labels": np.arange(40) % 2 == 0}], None, 0.5)
    assert learner.checksum() == before
    after = learner.get_state()["continual"]
    assert np.array_equal(state["noise"], after["noise"])
    assert np.array_equal(state["method_generator"], after["method_generator"])


# Reports and state


@pytest.mark.parametrize("method", ["sac", "nbsp"])
def test_reported_numbers_are_finite_and_say_what_the_last_update_was(method):
    learner = build_learner(method)
    obs = transitions(0)["obs"]
    before = learner.report(obs)  # in a warm-up there is a report, but no update yet
    assert before["alpha"] == 1.0
    train(learner, range(3))
    end_visit(learner, 1, random_scores(0))
    train(learner, range(3, 6))
    report = learner.report(obs)
    assert {"policy_loss", "qf_loss", "qf_twin_loss", "alpha_loss", "alpha", "entropy", "q_mean"} <= report.keys()
    assert {"masked_frac", "dormant_frac"} <= report.keys()
    assert all(math.isfinite(value) for value in report.values())
    total = sum(report[f"{name}_loss"] for name in ("policy", "qf", "qf_twin", "alpha"))
    assert report["total_loss"] == pytest.approx(total, rel=1e-5)
    # A fifth of 14 neurons, floored: 2.
    assert report["masked_frac"] == pytest.approx(0.0 if method == "sac" else 2 / 14)


def drift(learner: ContinualSACTorchLearner, start: int) -> None:
    """Training with a boundary whose masks are drawn at random."""
    train(learner, range(start, start + 4))
    data = end_visit(learner, 2, random_scores(start))
    learner.boundary_reset(BoundarySettings())
    learner.visit_start(visit(3), data)
    train(learner, range(start + 4, start + 8))


def snapshot(learner: ContinualSACTorchLearner) -> dict[str, Any]:
    return {"checksum": learner.checksum(), "report": learner.report(), "masks": learner.method_arrays()}


def assert_same_snapshot(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    assert first["checksum"] == second["checksum"]
    assert first["report"] == second["report"]
    assert first["masks"].keys() == second["masks"].keys()
    assert all(np.array_equal(first["masks"][name], second["masks"][name]) for name in first["masks"])


RANDOM = {"score": "random", "accumulate": "min"}


@pytest.fixture
def interrupted() -> tuple[ContinualSACTorchLearner, dict[str, Any], dict[str, Any]]:
    """A learner that went on, its state in the middle, and where it came to."""
    learner = build_learner("nbsp", RANDOM)
    train(learner, range(3))
    end_visit(learner, 1, random_scores(1))
    train(learner, range(3, 6))
    state = pickle.loads(pickle.dumps(learner.get_state()))
    drift(learner, 6)
    return learner, state, snapshot(learner)


def test_a_restored_learner_never_parts_from_one_that_never_stopped(interrupted):
    _, state, expected = interrupted
    restored = build_learner("nbsp", RANDOM, seed=99)
    restored.set_state(state)
    drift(restored, 6)
    assert_same_snapshot(snapshot(restored), expected)


def test_an_older_state_really_is_applied(interrupted):
    learner, state, expected = interrupted
    for _ in range(2):  # the second time too: training must not change the state that was handed over
        learner.set_state(state)
        assert learner.get_state()["continual"]["updates"] == 6
        drift(learner, 6)
        assert_same_snapshot(snapshot(learner), expected)


def test_a_state_from_before_the_first_update_is_applied_too():
    learner = build_learner("nbsp", RANDOM)
    state = learner.get_state()
    drift(learner, 0)
    expected = snapshot(learner)
    learner.set_state(state)
    assert optimizer_steps(learner) == set()
    drift(learner, 0)
    assert_same_snapshot(snapshot(learner), expected)


def test_a_state_is_a_copy():
    learner = build_learner("nbsp", RANDOM)
    drift(learner, 0)
    state = learner.get_state()
    frozen = pickle.dumps(state)
    drift(learner, 8)
    assert pickle.dumps(pickle.loads(frozen)) == pickle.dumps(pickle.loads(pickle.dumps(state)))


def test_rllibs_checkpoint_keeps_temperature_masks_and_noise(interrupted, tmp_path: Path):
    _, state, expected = interrupted
    saved = build_learner("nbsp", RANDOM)
    saved.set_state(state)
    saved.save_to_path(tmp_path)
    restored = build_learner("nbsp", RANDOM, seed=7)
    restored.restore_from_path(tmp_path)
    assert restored.agent.log_alpha.item() == saved.agent.log_alpha.item() != 0.0
    assert restored.method.metrics()["masked_frac"] > 0.0
    drift(restored, 6)
    assert_same_snapshot(snapshot(restored), expected)


def test_weights_for_rollout_workers_carry_nothing_of_ours():
    learner = build_learner("nbsp")
    state = learner.get_state(components=f"rl_module/{DEFAULT_MODULE_ID}", inference_only=True)
    assert "continual" not in state
    assert "optimizer" not in state
    assert {name.split(".")[0] for name in state["rl_module"][DEFAULT_MODULE_ID]} == {"policy"}


def test_the_checksum_sees_every_weight_and_the_masks():
    learner = build_learner("nbsp")
    seen = {learner.checksum()}
    module = learner.module[DEFAULT_MODULE_ID]
    for param in (module.log_alpha, module.policy.head.bias, module.target_qf_twin.head.weight):
        with torch.no_grad():
            param.view(-1)[0] += 1e-6
        seen.add(learner.checksum())
    end_visit(learner, 1, random_scores(0))
    seen.add(learner.checksum())
    assert len(seen) == 5


# The module


def test_evaluation_acts_by_the_squashed_mean_and_exploration_by_a_sample():
    module = build_learner().module[DEFAULT_MODULE_ID]
    obs = 10 * torch.from_numpy(transitions(0, 2000)["obs"])
    mean, raw = module.policy(obs).chunk(2, 1)
    assert torch.equal(module.act(obs, explore=False), torch.tanh(mean))
    generator = torch.Generator().manual_seed(5)
    samples = module.act(obs, explore=True, generator=generator)
    noise = torch.empty(2000, ACT).normal_(generator=torch.Generator().manual_seed(5))
    log_std = -5 + 3.5 * (torch.tanh(raw) + 1)
    assert torch.allclose(samples, torch.tanh(mean + log_std.exp() * noise), atol=1e-6)
    assert float(samples.detach().abs().max()) <= 1.0


def test_the_actor_of_a_rollout_worker_is_the_learners_before_any_weights_are_sent():
    learner = build_learner(seed=4)
    spec = learner.config.get_rl_module_spec(spaces={DEFAULT_MODULE_ID: learner_spaces(learner)}, inference_only=True)
    worker = spec.build()
    assert not hasattr(worker, "qf")
    weights = {name: value for name, value in parameters(learner).items() if name.startswith("policy.")}
    assert_same(dict(worker.state_dict()), weights)


def learner_spaces(learner: ContinualSACTorchLearner) -> tuple[Any, Any]:
    module = learner.module[DEFAULT_MODULE_ID]
    return module.observation_space, module.action_space


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
