"""Plasticity injection changes no output: of a network, of an update, of several injections."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from rllib_nbsp.nn.losses import squashed_gaussian
from tests.methods.plasticity_injection.learners import (
    EVERY_BOUNDARY,
    all_networks,
    images,
    inputs_of,
    start,
    sum_of_heads,
    trained,
    trained_on_images,
)
from tests.tiny import ACT, build_config, build_learner_of, game_transitions, train, transitions, update


@pytest.mark.parametrize("split", [0, 1, 2])
def test_no_output_changes_by_a_bit(split):
    learner = trained({"split": split})
    before = {name: net(inputs_of(name)) for name, net in all_networks(learner).items()}
    weights = copy.deepcopy(learner.agent.networks["policy"].head.weight)
    start(learner)
    assert not torch.equal(learner.agent.networks["policy"].head.weight, weights)
    for name, net in all_networks(learner).items():
        assert net.active == 1
        assert torch.equal(net(inputs_of(name)), before[name])


def test_no_output_changes_by_a_bit_on_images():
    learner = trained_on_images()
    before = {name: net(images()) for name, net in all_networks(learner).items()}
    start(learner)
    for name, net in all_networks(learner).items():
        assert net.active == 1 and net.first == 2
        assert torch.equal(net(images()), before[name])


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_values_targets_and_log_probabilities_of_an_update_stay(kind):
    learner, rows = (trained(), transitions(3)) if kind == "continuous" else (trained_on_images(), game_transitions(3))
    columns = {name: torch.from_numpy(column) for name, column in rows.items()}

    def quantities() -> dict[str, Tensor]:
        learner.sac.module.set_noise_state(None, torch.device("cpu"))
        return learner.sac.module.forward_train(columns)

    before = quantities()
    start(learner)
    after = quantities()
    assert before.keys() >= {"logp", "q", "q_twin", "q_policy", "next_q", "next_logp"}
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


def test_the_log_probability_of_a_given_action_stays():
    learner = trained()
    u = torch.linspace(-1.0, 1.0, 9 * ACT).reshape(9, ACT)

    def log_prob() -> Tensor:
        mean, log_std = squashed_gaussian(learner.agent.networks["policy"](inputs_of("policy")))
        return (Normal(mean, log_std.exp()).log_prob(u) - torch.log(1.0 - torch.tanh(u) ** 2)).sum(-1)

    before = log_prob()
    start(learner)
    assert torch.equal(log_prob(), before)


@pytest.mark.parametrize("split", [0, 1])
def test_three_injections_change_no_output_either_and_five_and_seven_heads_add_up(split):
    learner = trained({**EVERY_BOUNDARY, "split": split})
    for number in (2, 3, 4):
        before = {name: net(inputs_of(name)) for name, net in all_networks(learner).items()}
        start(learner, number)
        for name, net in all_networks(learner).items():
            assert net.active == number - 1
            assert torch.equal(net(inputs_of(name)), before[name])
        train(learner, range(10 * number, 10 * number + 5))
        for name, net in all_networks(learner).items():
            assert torch.allclose(net(inputs_of(name)), sum_of_heads(net, inputs_of(name)), atol=1e-6)


def test_with_crelu_the_encoder_hands_on_both_features():
    config = build_config("plasticity_injection", {"split": 1}).networks(activation="crelu")
    learner = build_learner_of(config)
    train(learner, range(3))
    before = {name: net(inputs_of(name)) for name, net in all_networks(learner).items()}
    start(learner)
    assert all(torch.equal(net(inputs_of(name)), before[name]) for name, net in all_networks(learner).items())
    train(learner, range(3, 6))


def test_everything_is_finite_after_three_injections_on_images():
    learner = trained_on_images(EVERY_BOUNDARY)
    for number in (2, 3, 4):
        start(learner, number)
        for k in range(3):
            update(learner, game_transitions(10 * number + k))
    assert all(np.isfinite(value).all() for value in learner.weights().values())
