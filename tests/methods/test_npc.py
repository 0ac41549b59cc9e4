"""NPC (reconstruction) on a real Learner: what a neuron's importance is, what it brakes and when."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from rllib_nbsp.checks import check_run
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import BoundarySettings
from tests.tiny import (
    CHOICES,
    HIDDEN,
    IMAGES,
    assert_same,
    build_config,
    build_learner,
    build_learner_of,
    game_transitions,
    parameters,
    train,
    transitions,
    update,
    visit,
)

FAST = {"delta": 0.5}
WIDTH = sum(HIDDEN)


def npc(keys: Mapping[str, Any] | None = None, **sections: Any) -> ContinualSACTorchLearner:
    return build_learner("npc", {**FAST, **(keys or {})}, **sections)


def end(learner: ContinualSACTorchLearner, number: int = 1) -> None:
    """A boundary."""
    learner.visit_end(visit(number), VisitData(visit(number)))
    learner.boundary_reset(BoundarySettings())
    learner.visit_start(visit(number + 1), VisitData(visit(number)))


def in_visit_2(keys: Mapping[str, Any] | None = None, **sections: Any) -> ContinualSACTorchLearner:
    learner = npc(keys, **sections)
    train(learner, range(5))
    end(learner)
    return learner


def by_layer(learner: ContinualSACTorchLearner, values: Tensor) -> dict[str, list[Tensor]]:
    """Numbers of all hidden neurons by network and layer, from the order that the arrays promise."""
    parts = iter(values.split([n for net in learner.agent.networks.values() for n in net.num_neurons()]))
    return {name: [next(parts) for _ in net.num_neurons()] for name, net in learner.agent.networks.items()}


def spy_on_changes(learner: ContinualSACTorchLearner) -> list[Tensor]:
    """What `loss_changes` returns from now on."""
    seen, own = [], learner.method.loss_changes

    def spy(batch: Any) -> Tensor:
        seen.append(own(batch).clone())
        return seen[-1]

    learner.method.loss_changes = spy
    return seen


# Importance


def changes_row_by_row(net: Any, inputs: Tensor, row_loss: Any) -> list[Tensor]:
    """`mean_i |sum_space h dL_i/dh|`, each row passed and differentiated alone."""
    totals: list[Tensor] = []
    for i in range(len(inputs)):
        record: list[Tensor] = []
        gradients = torch.autograd.grad(row_loss(net(inputs[i : i + 1], record=record), i), record)
        parts = [(h * g)[0].reshape(h.shape[1], -1).sum(1).abs() for h, g in zip(record, gradients, strict=True)]
        totals = [a + b for a, b in zip(totals, parts, strict=True)] if totals else parts
    return [total.detach() / len(inputs) for total in totals]


def test_importance_is_the_mean_change_of_a_rows_loss():
    learner = npc()
    seen, nets = spy_on_changes(learner), copy.deepcopy(learner.agent.networks)
    rows = {**transitions(3), "terminateds": np.ones(16, bool)}  # so that the critics' target is the reward
    update(learner, rows)
    rewards = torch.from_numpy(rows["rewards"])
    inputs = torch.from_numpy(np.concatenate([rows["obs"], rows["actions"]], 1))
    for name in ("qf", "qf_twin"):
        expected = changes_row_by_row(nets[name], inputs, lambda q, i: (q - rewards[i]).square().sum())
        for part, own in zip(expected, by_layer(learner, seen[0])[name], strict=True):
            assert float(part.max()) > 0.0
            assert torch.allclose(own, part, rtol=1e-4, atol=1e-7)


def test_a_channels_change_is_summed_over_space_and_actors_have_their_own_loss():
    config = build_config("npc", FAST, training={"discrete_reduce": "sum"}).networks(conv=[[4, 4, 2], [5, 3, 1]])
    learner = build_learner_of(config, IMAGES, CHOICES)
    seen, nets = spy_on_changes(learner), copy.deepcopy(learner.agent.networks)
    rows = {**game_transitions(3), "terminateds": np.ones(16, bool)}
    update(learner, rows)
    images, actions = torch.from_numpy(rows["obs"]), torch.from_numpy(rows["actions"])
    rewards = torch.from_numpy(rows["rewards"])
    q = torch.min(nets["qf"](images), nets["qf_twin"](images)).detach()

    def policy_loss(logits: Tensor, i: int) -> Tensor:  # alpha is 1
        log_probs = F.log_softmax(logits[0], 0)
        return (log_probs.exp() * (log_probs - q[i])).sum()

    losses = {
        "policy": policy_loss,
        "qf": lambda out, i: (out[0, actions[i]] - rewards[i]).square(),
        "qf_twin": lambda out, i: (out[0, actions[i]] - rewards[i]).square(),
    }
    for name, loss in losses.items():
        expected = changes_row_by_row(nets[name], images, loss)
        assert [len(part) for part in expected] == [4, 5, *HIDDEN]
        for part, own in zip(expected, by_layer(learner, seen[0])[name], strict=True):
            assert torch.allclose(own, part, rtol=1e-3, atol=1e-6)


def test_each_layers_importances_have_a_root_mean_square_of_1():
    learner = npc({"delta": 0.0})
    train(learner, range(1))
    for layers in by_layer(learner, learner.method.importance).values():
        for part in layers:
            assert float(part.square().mean().sqrt()) == pytest.approx(1.0, rel=1e-3)
    # sqrt((3^2 + 4^2) / 2) = 3.5355, and the other layers have nothing to divide
    changes = torch.zeros(3 * WIDTH)
    changes[0], changes[1] = 3.0, 4.0
    expected = torch.zeros(3 * WIDTH)
    expected[:2] = torch.tensor([3.0, 4.0]) / (25.0 / HIDDEN[0]) ** 0.5
    assert torch.allclose(learner.method.normalised(changes), expected)


def test_importances_are_a_running_mean_over_updates_and_visits():
    learner = npc({"delta": 0.75})
    seen = spy_on_changes(learner)
    train(learner, range(2))
    end(learner)
    train(learner, range(2, 3))
    expected = torch.zeros(3 * WIDTH)
    for changes in seen:
        expected = 0.75 * expected + 0.25 * learner.method.normalised(changes)
    assert len(seen) == 3
    assert torch.allclose(learner.method.importance, expected, rtol=1e-5, atol=1e-7)


def test_a_dead_neuron_has_no_importance_and_is_not_braked():
    learner = npc()
    layer = learner.agent.networks["qf"].hidden[0]
    with torch.no_grad():
        layer.weight[2], layer.bias[2] = 0.0, -1.0
    train(learner, range(5))
    end(learner)
    assert float(by_layer(learner, learner.method.importance)["qf"][0][2]) == 0.0
    assert float(by_layer(learner, learner.method.multiplier)["qf"][0][2]) == 1.0
    assert float(learner.method.multiplier.min()) < 0.5


# From importance to rate


def test_multipliers_by_hand():
    method = npc({"kappa": 0.04}).method
    # sqrt(0.04 / 1) = 0.2, sqrt(0.04 / 0.16) = 0.5, and 1 from 0.04 down
    importance = torch.tensor([1.0, 0.16, 0.04, 0.01, 0.0])
    assert torch.allclose(method.multipliers(importance), torch.tensor([0.2, 0.5, 1.0, 1.0, 1.0]))


def test_the_more_important_a_neuron_the_smaller_its_multiplier():
    method = in_visit_2().method
    order = method.consolidated.argsort()
    multiplier = method.multiplier[order]
    assert bool((multiplier > 0.0).all() and (multiplier <= 1.0).all())
    assert bool((multiplier.diff() <= 0.0).all())
    assert torch.unique(multiplier).numel() > WIDTH


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_a_braked_rows_step_is_its_multiplier_times_the_free_one(eps):
    braked = in_visit_2({"kappa": 0.2}, training={"adam_eps": eps})
    free = build_learner("npc", {**FAST, "kappa": 1e9}, training={"adam_eps": eps})
    train(free, range(5))
    end(free)
    before = parameters(braked)
    assert_same(parameters(free), before)
    for learner in (braked, free):
        train(learner, range(5, 6))
    ours, theirs = parameters(braked), parameters(free)
    for name, layers in by_layer(braked, braked.method.multiplier).items():
        for i, m in enumerate(layers):
            for part, factor in (("weight", m.unsqueeze(1)), ("bias", m)):
                key = f"{name}.hidden.{i}.{part}"
                expected = factor * (theirs[key] - before[key])
                # Weights are of order 0.1, with 1e-8 to their last digit.
                assert torch.allclose(ours[key] - before[key], expected, rtol=0.0, atol=5e-8)
    assert 0.0 < float((braked.method.multiplier < 1.0).double().mean()) < 1.0


def test_a_multiplier_of_0_holds_incoming_weights_and_bias_and_frees_outgoing_ones():
    learner = npc()
    train(learner, range(5))
    learner.method.importance[:] = 0.0
    learner.method.importance[3] = torch.inf  # neuron 3 of the actor's first layer
    end(learner)
    assert learner.method.multiplier[3] == 0.0
    policy = learner.agent.networks["policy"]
    before = copy.deepcopy(policy)
    train(learner, range(5, 25))
    first, old = policy.hidden[0], before.hidden[0]
    held = torch.tensor([j == 3 for j in range(HIDDEN[0])])
    assert torch.equal((first.weight == old.weight).all(1), held)
    assert torch.equal(first.bias == old.bias, held)
    assert bool((policy.hidden[1].weight[:, 3] != before.hidden[1].weight[:, 3]).any())


# When


def test_the_first_visit_is_sac_bit_for_bit():
    ours, plain = npc(), build_learner("sac")
    for learner in (ours, plain):
        train(learner, range(10))
    assert_same(parameters(ours), parameters(plain))
    assert ours.method.metrics() == {"multiplier_mean": 1.0, "masked_frac": 0.0}


def test_a_running_mean_that_never_moves_is_refused():
    with pytest.raises(ValidationError, match="less than 1"):
        METHODS["npc"].Config(**{"delta": 1.0})


@pytest.mark.parametrize("mode", ["snapshot", "online"])
def test_without_a_limit_it_is_sac_bit_for_bit_in_later_visits_too(mode):
    ours, plain = in_visit_2({"kappa": 1e9, "mode": mode}), build_learner("sac")
    train(plain, range(5))
    end(plain)
    for learner in (ours, plain):
        train(learner, range(5, 15))
    assert_same(parameters(ours), parameters(plain))


def test_snapshots_brake_alike_from_one_boundary_to_the_next():
    learner = in_visit_2()
    method = learner.method
    multiplier, brakes, importance = method.multiplier.clone(), method.brakes, method.importance.clone()
    train(learner, range(5, 10))
    assert method.brakes is brakes and torch.equal(method.multiplier, multiplier)
    assert not torch.equal(method.importance, importance)
    end(learner, 2)
    assert method.brakes is not brakes
    assert torch.equal(method.multiplier, method.multipliers(torch.maximum(importance, method.importance)))
    assert not torch.equal(method.multiplier, multiplier)


def test_online_brakes_by_the_importance_of_now_from_the_first_visit_on():
    ours, plain = npc({"mode": "online"}), build_learner("sac")
    for learner in (ours, plain):
        train(learner, range(5))
    assert torch.equal(ours.method.multiplier, ours.method.multipliers(ours.method.importance))
    assert ours.method.metrics()["masked_frac"] > 0.5
    before, multiplier = parameters(ours), ours.method.multiplier
    assert not torch.equal(before["qf.hidden.0.weight"], parameters(plain)["qf.hidden.0.weight"])
    end(ours)
    assert torch.equal(ours.method.multiplier, multiplier)


@pytest.mark.parametrize(
    ("accumulate", "expected"), [("max", [4.0, 3.0, 6.0]), ("sum", [7.0, 6.0, 6.0]), ("mean", [7 / 3, 2.0, 2.0])]
)
def test_importances_accumulate_over_three_visits(accumulate, expected):
    learner = npc({"accumulate": accumulate})
    for number, values in enumerate(([1.0, 3.0, 0.0], [4.0, 2.0, 0.0], [2.0, 1.0, 6.0]), start=1):
        learner.method.importance = torch.zeros(3 * WIDTH)
        learner.method.importance[:3] = torch.tensor(values)
        end(learner, number)
    assert torch.allclose(learner.method.consolidated[:3], torch.tensor(expected))
    assert torch.equal(learner.method.multiplier, learner.method.multipliers(learner.method.consolidated))


# Heads, targets, records, state


def test_heads_are_free_or_braked_by_their_networks_mean():
    learners = [in_visit_2({"last_layer": last_layer}) for last_layer in (False, True)]
    before = parameters(learners[0])
    assert_same(parameters(learners[1]), before)
    for learner in learners:
        train(learner, range(5, 6))
    free, braked = map(parameters, learners)
    for name, layers in by_layer(learners[1], learners[1].method.multiplier).items():
        mean = torch.cat(layers).mean()
        for part in ("weight", "bias"):
            key = f"{name}.head.{part}"
            expected = mean * (free[key] - before[key])
            assert float(expected.abs().max()) > 1e-6
            assert torch.allclose(braked[key] - before[key], expected, rtol=0.0, atol=5e-8)


def test_targets_follow_the_braked_weights():
    learner = in_visit_2(training={"tau": 0.25})
    before = parameters(learner)
    train(learner, range(5, 6))
    after = parameters(learner)
    for name, value in after.items():
        if name.startswith("target_"):
            online = after[name.removeprefix("target_")]
            assert torch.allclose(value, 0.75 * before[name] + 0.25 * online, atol=1e-7)


def test_every_neuron_is_recorded_with_importance_and_multiplier():
    learner = in_visit_2()
    arrays = learner.method_arrays()
    assert set(arrays) == {f"{n}/{i}/{q}" for n in NETWORKS for i in (0, 1) for q in ("importance", "multiplier")}
    for quantity in ("importance", "multiplier"):
        joined = np.concatenate([arrays[f"{name}/{i}/{quantity}"] for name in NETWORKS for i in (0, 1)])
        assert np.array_equal(joined, getattr(learner.method, quantity).numpy())
    metrics = learner.report()
    assert metrics["multiplier_mean"] == pytest.approx(float(learner.method.multiplier.mean()))
    assert metrics["masked_frac"] == float((learner.method.multiplier < 1.0).double().mean())


@pytest.mark.parametrize("keys", [{"accumulate": "mean"}, {"mode": "online", "last_layer": True}])
def test_state_round_trip_in_the_middle_of_a_visit(keys):
    learner, other = in_visit_2(keys), npc(keys, seed=7)
    train(learner, range(5, 8))
    state = learner.get_state()
    train(learner, range(8, 9))  # a state is no view of what goes on
    other.set_state(state)
    train(other, range(8, 9))
    for one in (learner, other):
        end(one, 2)
        train(one, range(9, 12))
    assert_same(parameters(other), parameters(learner))
    assert other.checksum() == learner.checksum()


def test_snapshots_are_not_accumulated_online():
    errors = check_run(build_config("npc", {"mode": "online", "accumulate": "sum"}).settings)
    assert errors == ["accumulate is 'sum'; mode 'online' takes no snapshots: leave it out"]
    assert check_run(build_config("npc", {"mode": "online"}).settings) == []
