"""What a training row says of the networks: against plain oracles, of any method, and without a trace in training."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_nbsp.nn.losses import squashed_gaussian
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from tests.sac.inside import gradients
from tests.tiny import (
    ACTIONS,
    CHOICES,
    HIDDEN,
    IMAGES,
    OBSERVATIONS,
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

ROW = transitions(7, 50)


def begun(method: str = "sac", every: int = 1, **sections: Any) -> ContinualSACTorchLearner:
    """A Learner in its first visit, every row of which is measured."""
    config = build_config(method, **sections)
    config.evaluation(mechanism_rows=every)
    learner = build_learner_of(config, OBSERVATIONS, ACTIONS)
    learner.visit_start(visit(1), None)
    return learner


def own(weights: dict[str, Tensor], network: str) -> Tensor:
    """All parameters of a network in one row."""
    return torch.cat([value.flatten() for name, value in weights.items() if name.startswith(f"{network}.")])


# Against plain oracles


def test_weights_are_compared_with_the_visits_start_and_with_the_last_row():
    learner = begun()
    start = parameters(learner)
    train(learner, range(3))
    learner.report(ROW)
    last = parameters(learner)
    train(learner, range(3, 8))
    numbers, now = learner.report(ROW), parameters(learner)
    for name in NETWORKS:
        weights = own(now, name)
        assert numbers[f"weight_norm_{name}"] == pytest.approx(float(weights.norm()), rel=1e-5)
        assert numbers[f"weight_diff_{name}"] == pytest.approx(float((weights - own(start, name)).norm()), rel=1e-5)
        moved = float((weights - own(last, name)).norm() / own(last, name).norm() / 5)
        assert numbers[f"effective_lr_{name}"] == pytest.approx(moved, rel=1e-5)
    learner.visit_start(visit(2), None)
    again = learner.report(ROW)
    assert all(again[f"weight_diff_{name}"] == 0.0 for name in NETWORKS)
    assert not any(name.startswith(("churn", "effective_lr")) for name in again)  # no update since


def test_neurons_and_features_are_those_of_a_plain_pass():
    learner = begun()
    train(learner, range(3))
    numbers, weights = learner.report(ROW), parameters(learner)
    obs, actions = torch.from_numpy(ROW["obs"]), torch.from_numpy(ROW["actions"])
    for name in NETWORKS:
        h = obs if name == "policy" else torch.cat([obs, actions], 1)
        for i in range(len(HIDDEN)):
            h = torch.relu(h @ weights[f"{name}.hidden.{i}.weight"].T + weights[f"{name}.hidden.{i}.bias"])
            mean = h.mean(0)
            assert numbers[f"dead_frac_{name}_{i}"] == pytest.approx(float((mean == 0).float().mean()), rel=1e-5)
            assert numbers[f"dormant_frac_{name}_{i}"] == pytest.approx(
                float((mean <= 0.025 * mean.mean()).float().mean()), rel=1e-5
            )
            assert numbers[f"active_frac_{name}_{i}"] == pytest.approx(float((h > 0).float().mean()), rel=1e-5)
        values = np.linalg.svd(h.numpy(), compute_uv=False)
        assert numbers[f"feature_norm_{name}"] == pytest.approx(float(h.norm(dim=1).mean()), rel=1e-5)
        assert numbers[f"stable_rank_{name}"] == pytest.approx(float((values**2).sum() / values[0] ** 2), rel=1e-4)


def test_gradients_are_those_that_the_optimizers_saw():
    learner = begun()
    train(learner, range(1))
    numbers, seen = learner.report(ROW), gradients(learner)
    for name in NETWORKS:
        assert numbers[f"grad_norm_{name}"] == pytest.approx(float(own(seen, name).norm()), rel=1e-3)
        for i in range(len(HIDDEN)):
            of_neurons = seen[f"{name}.hidden.{i}.weight"].norm(dim=1)
            dormant = (of_neurons <= 0.025 * of_neurons.mean()).float().mean()
            assert numbers[f"grad_dormant_frac_{name}_{i}"] == pytest.approx(float(dormant), rel=1e-5)


@pytest.mark.parametrize("method", ["sac", "crelu", "packnet", "cotasp", "plasticity_injection"])
def test_churn_and_its_parts_are_those_of_networks_with_exchanged_heads(method):
    learner = begun(method)
    if method == "plasticity_injection":
        learner.visit_start(visit(2), None)
    before = copy.deepcopy({name: learner.agent.networks[name] for name in NETWORKS})
    train(learner, range(4))
    numbers = learner.report(ROW)
    obs, actions = torch.from_numpy(ROW["obs"]), torch.from_numpy(ROW["actions"])
    for name, old in before.items():
        new = learner.agent.networks[name]
        old_head, new_head = copy.deepcopy(new), copy.deepcopy(old)
        old_head.head.load_state_dict(old.head.state_dict())
        new_head.head.load_state_dict(new.head.state_dict())
        inputs = obs if name == "policy" else torch.cat([obs, actions], 1)
        with torch.no_grad():
            was, *become = (network(inputs, task=0) for network in (old, new, old_head, new_head))
        if name == "policy":
            was, *become = (squashed_gaussian(outputs)[0].tanh() for outputs in (was, *become))
        for part, outputs in zip(("churn", "churn_representation", "churn_head"), become, strict=True):
            expected = float((outputs - was).abs().mean())
            assert numbers[f"{part}_{name}"] == pytest.approx(expected, rel=1e-4, abs=1e-7), (part, name)
            assert expected > 0.0


def test_where_the_head_alone_changes_all_churn_is_of_the_head():
    learner = begun()
    with torch.no_grad():
        for network in learner.agent.networks.values():
            network.head.bias += 0.1
    learner.sac.updates += 1
    numbers = learner.report(ROW)
    for name in NETWORKS:
        assert numbers[f"churn_representation_{name}"] == 0.0
        assert numbers[f"churn_head_{name}"] == numbers[f"churn_{name}"] > 0.0
    assert numbers["churn_qf"] == pytest.approx(0.1, rel=1e-4)


def test_of_discrete_actions_the_actors_churn_is_a_total_variation_of_its_probabilities():
    config = build_config().networks(conv=[[4, 4, 2], [5, 3, 1]])
    config.evaluation(mechanism_rows=1)
    learner = build_learner_of(config, IMAGES, CHOICES)
    learner.visit_start(visit(1), None)
    rows = game_transitions(3)
    old = copy.deepcopy(learner.agent.networks["policy"])
    for k in range(3):
        update(learner, game_transitions(k))
    numbers = learner.report(rows)
    with torch.no_grad():
        was, now = (n(torch.from_numpy(rows["obs"])).softmax(-1) for n in (old, learner.agent.networks["policy"]))
    assert numbers["churn_policy"] == pytest.approx(float(0.5 * (now - was).abs().sum(-1).mean()), rel=1e-4)
    assert {f"dead_frac_qf_{i}" for i in range(4)} <= numbers.keys()  # two convolutions and two layers


# Which rows


def test_a_visits_first_row_and_every_third_are_measured_whether_or_not_there_are_observations():
    learner = begun(every=3)
    for number in (1, 2):
        learner.visit_start(visit(number), None)
        train(learner, range(1))
        measured = ["weight_norm_qf" in learner.report(None if row == 4 else ROW) for row in range(1, 8)]
        assert measured == [True, False, True, False, False, True, False]
        assert "dormant_frac" in learner.report(ROW)  # in every row


def test_a_row_is_compared_with_the_last_one_that_was_measured():
    learner = begun(every=3)
    train(learner, range(1))
    learner.report(ROW)
    before = own(parameters(learner), "qf")
    train(learner, range(1, 3))
    learner.report(ROW)
    train(learner, range(3, 6))
    numbers, now = learner.report(ROW), own(parameters(learner), "qf")
    assert numbers["effective_lr_qf"] == pytest.approx(float((now - before).norm() / before.norm() / 5), rel=1e-5)


def test_it_can_be_switched_off():
    learner = begun(every=0)
    train(learner, range(2))
    assert learner.mechanism is None
    assert "mechanism" not in learner.get_state()["continual"]
    assert not any(name.startswith("weight_norm") for name in learner.report(ROW))


# Without a trace


@pytest.mark.parametrize("method", ["nbsp", "cbp", "cotasp"])
def test_training_is_the_same_whether_or_not_it_is_measured(method):
    measured, other = begun(method, every=1), begun(method, every=0)
    for k in range(12):
        for learner in (measured, other):
            train(learner, range(k, k + 1))
        measured.report(ROW)
    assert_same(parameters(measured), parameters(other))
    assert measured.checksum() == other.checksum()
    states = [learner.get_state()["continual"] for learner in (measured, other)]
    for name in ("noise", "method_generator"):
        assert np.array_equal(states[0][name], states[1][name])
    if measured.graphs is not None and other.graphs is not None:
        assert measured.graphs.replayed == other.graphs.replayed > 0


# State


def test_a_row_after_a_restored_state_is_the_row_that_would_have_been():
    learner, other = begun(every=2), begun(every=2, seed=5)
    train(learner, range(3))
    learner.report(ROW)
    train(learner, range(3, 5))
    other.set_state(copy.deepcopy(learner.get_state()))
    for one in (learner, other):
        train(one, range(5, 6))
    first, second = learner.report(ROW), other.report(ROW)
    assert first == second
    assert "churn_policy" in first


def test_with_a_state_of_an_earlier_version_rows_are_compared_with_its_weights():
    learner, other = begun(), begun(seed=5)
    train(learner, range(3))
    state = copy.deepcopy(learner.get_state())
    del state["continual"]["mechanism"]
    other.set_state(state)
    assert other.report(ROW)["weight_diff_qf"] == 0.0


def test_what_it_keeps_is_two_copies_of_the_networks_weights():
    learner = build_learner()
    state = learner.get_state()["continual"]["mechanism"]
    weights = sum(p.nbytes for network in learner.agent.networks.values() for p in network.parameters())
    kept = sum(array.nbytes for kind in ("start", "last") for part in state[kind].values() for array in part.values())
    assert kept == 2 * weights


def test_copies_are_no_views_of_weights_that_train_on():
    learner = begun()
    state = learner.get_state()["continual"]["mechanism"]
    before = copy.deepcopy(state)
    train(learner, range(2))
    assert np.array_equal(state["last"]["qf"]["head.weight"], before["last"]["qf"]["head.weight"])
    assert not np.array_equal(learner.weights()["qf.head.weight"], before["last"]["qf"]["head.weight"])
