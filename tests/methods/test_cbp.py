"""CBP on a real Learner: utilities, ages, and which neurons are replaced when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from rllib_nbsp.checks import check_run
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.methods.cbp import CBPSettings
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

CONV = [[3, 4, 2], [2, 3, 1]]


def learner_on_images(keys: dict[str, Any], method: str = "cbp", **networks: Any) -> ContinualSACTorchLearner:
    return build_learner_of(build_config(method, keys).networks(conv=CONV, **networks), IMAGES, CHOICES)


def replaced(learner: ContinualSACTorchLearner) -> list[list[int]]:
    """Per layer the neurons that the last update replaced."""
    return [(part == 0).nonzero().flatten().tolist() for part in learner.method.age.split(learner.method.sizes)]


# When there is nothing to replace


def test_at_rate_zero_it_is_sac_bit_for_bit():
    for utility in ("contribution", "adaptable_contribution"):
        ours, plain = build_learner("cbp", {"rate": 0.0, "maturity": 0, "utility": utility}), build_learner("sac")
        for learner in (ours, plain):
            train(learner, range(10))
        assert_same(parameters(ours), parameters(plain))
    ours, plain = learner_on_images({"rate": 0.0}), learner_on_images({}, "sac")
    for learner in (ours, plain):
        for k in range(3):
            update(learner, game_transitions(k))
    assert_same(parameters(ours), parameters(plain))


# Utility


def activations(learner: ContinualSACTorchLearner, rows: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """What the next update's loss pass records, in double precision."""
    obs, actions = torch.from_numpy(rows["obs"]), torch.from_numpy(rows["actions"])
    recorded = {}
    for name, network in learner.agent.networks.items():
        record: list[Tensor] = []
        with torch.no_grad():
            network(obs if name == "policy" else learner.agent.critic_inputs(obs, actions), record=record)
        recorded[name] = [h.double().numpy().copy() for h in record]
    return recorded


def contributions(
    learner: ContinualSACTorchLearner, recorded: dict[str, list[np.ndarray]], *, centred: bool = False
) -> list[list[float]]:
    """Per layer each neuron's `mean |h| sum |w_out|`, neuron by neuron; `centred` on the mean of h over the batch."""
    layers = []
    for name in NETWORKS:
        weights = [layer.weight.detach().double().numpy() for layer in learner.agent.networks[name].layers()]
        crelu = learner.agent.networks[name].features_per_neuron == 2
        for h, after in zip(recorded[name], weights[1:], strict=True):
            layers.append([])
            for j in range(h.shape[1]):
                features = [np.maximum(h, 0.0), np.maximum(-h, 0.0)] if crelu else [h]
                total = 0.0
                for k, feature in enumerate(features):
                    channel = feature[:, j]
                    place = j + k * h.shape[1]
                    if after.ndim == 4:  # to a convolution
                        mean = channel.mean() if centred else 0.0
                        total += np.abs(channel - mean).mean() * np.abs(after[:, place]).sum()
                    else:  # every pixel has a column of its own
                        pixels = channel.reshape(len(channel), -1)
                        mean = pixels.mean(0) if centred else 0.0
                        columns = after[:, place * pixels.shape[1] : (place + 1) * pixels.shape[1]]
                        total += float((np.abs(pixels - mean).mean(0) * np.abs(columns).sum(0)).sum())
                layers[-1].append(total)
    return layers


def assert_utilities(learner: ContinualSACTorchLearner, expected: list[list[float]]) -> None:
    parts = learner.method.corrected_utility().split(learner.method.sizes)
    for part, values in zip(parts, expected, strict=True):
        np.testing.assert_allclose(part.numpy(), values, rtol=1e-4, atol=1e-6)
        assert max(values) > 0.0


@pytest.mark.parametrize("activation", ["relu", "tanh", "crelu"])
def test_utility_is_mean_activation_times_outgoing_weights(activation):
    learner = build_learner_of(build_config("cbp").networks(activation=activation))
    recorded = activations(learner, transitions(1000))
    train(learner, range(1))
    # The activations of the loss pass, the weights after the step. Both halves of the actor's head count.
    assert_utilities(learner, contributions(learner, recorded))


@pytest.mark.parametrize("activation", ["relu", "crelu"])
def test_utility_of_channels(activation):
    learner = learner_on_images({}, activation=activation)
    rows = game_transitions(0)
    recorded = activations(learner, rows)
    update(learner, rows)
    assert_utilities(learner, contributions(learner, recorded))


def test_utility_is_a_running_mean_without_the_bias_of_its_start():
    learner = build_learner("cbp", {"decay": 0.8})
    measured = []
    for k in range(2):
        recorded = activations(learner, transitions(1000 + k))
        train(learner, range(k, k + 1))
        measured.append(contributions(learner, recorded))
    # (0.8 * 0.2 first + 0.2 second) / (1 - 0.8^2)
    expected = [
        [(0.16 * first + 0.2 * second) / 0.36 for first, second in zip(*layers, strict=True)]
        for layers in zip(*measured, strict=True)
    ]
    assert_utilities(learner, expected)


@pytest.mark.parametrize("images", [False, True])
def test_zero_contribution_is_centred_and_adaptable_contribution_divides_by_incoming_weights(images):
    for utility in ("zero_contribution", "adaptable_contribution"):
        keys = {"utility": utility}
        learner = learner_on_images(keys) if images else build_learner("cbp", keys)
        rows = game_transitions(0) if images else transitions(0)
        recorded = activations(learner, rows)
        update(learner, rows)
        expected = contributions(learner, recorded, centred=True)
        if utility == "adaptable_contribution":
            incoming = [layer.weight for name in NETWORKS for layer in learner.agent.networks[name].layers()[:-1]]
            expected = [
                [value / float(row.abs().sum()) for value, row in zip(values, weight.detach(), strict=True)]
                for values, weight in zip(expected, incoming, strict=True)
            ]
        assert_utilities(learner, expected)


def test_running_means_of_activations_are_kept_for_the_bias_transfer():
    learner = build_learner("cbp", {"bias_transfer": True, "decay": 0.5})
    first = activations(learner, transitions(1000))
    train(learner, range(1))
    second = activations(learner, transitions(1001))
    train(learner, range(1, 2))
    means = learner.method.means()
    for i, name in enumerate(NETWORKS):
        for k in range(len(HIDDEN)):
            # (0.25 first + 0.5 second) / 0.75
            expected = (first[name][k].mean(0) + 2.0 * second[name][k].mean(0)) / 3.0
            np.testing.assert_allclose(means[i * len(HIDDEN) + k].numpy(), expected, rtol=1e-4, atol=1e-6)


# Which neurons go


def test_no_neuron_goes_before_it_is_mature_and_at_rate_one_all_go_then():
    learner = build_learner("cbp", {"rate": 1.0, "maturity": 4})
    train(learner, range(4))
    assert learner.method.metrics()["replaced_neurons"] == 0.0
    assert learner.method.age.tolist() == [4] * 3 * sum(HIDDEN)
    train(learner, range(4, 5))
    assert replaced(learner) == [list(range(n)) for n in HIDDEN * 3]
    assert learner.method.metrics() == {"replaced_neurons": 3.0 * sum(HIDDEN), "mean_utility": 0.0}
    train(learner, range(5, 9))
    assert learner.method.metrics()["replaced_neurons"] == 3.0 * sum(HIDDEN)


def test_the_least_useful_of_the_mature_go_first():
    learner = build_learner("cbp", {"rate": 0.25, "maturity": 10, "decay": 0.0})
    learner.agent.optimizers["policy"].param_groups[0]["lr"] = 0.0
    with torch.no_grad():
        outgoing = learner.agent.networks["policy"].layers()[1].weight
        outgoing[:, 3] = 0.0
        outgoing[:, 5] *= 1e-6
        learner.agent.networks["policy"].layers()[0].bias.add_(1.0)  # so that no other neuron is dead
    learner.method.age[:8] = 100
    learner.method.age[3] = 5  # the least useful of all, but not old enough
    rows = transitions(3)
    # 7 mature neurons at 0.25: 1.75 are due, one goes.
    update(learner, rows)
    assert replaced(learner) == [[5], *[[]] * 5]
    assert float(learner.method.due[0]) == pytest.approx(0.75)
    # 6 are left: 0.75 + 1.5 are due, two go. The same batch and, at decay 0, the same utilities.
    utility = learner.method.corrected_utility()[:8]
    update(learner, rows)
    expected = [int(j) for j in utility.argsort() if j not in (3, 5)][:2]
    assert replaced(learner) == [sorted(expected), *[[]] * 5]


def test_a_young_average_is_no_disadvantage():
    learner = build_learner("cbp", {"rate": 0.0, "maturity": 1})
    train(learner, range(1))
    method = learner.method
    method.age[:8] = 1000
    method.utility[:8] = 1.0
    method.age[6], method.utility[6] = 2, 0.03  # 0.03 / (1 - 0.99^2) = 1.51
    assert float(method.corrected_utility()[6]) == pytest.approx(0.03 / (1.0 - 0.99**2), rel=1e-4)
    method.due[0] = 7.0
    method._replace(method.age > 1)
    assert replaced(learner)[0] == [0, 1, 2, 3, 4, 5, 7]


def test_over_many_updates_as_many_go_as_rate_times_mature_neurons():
    rate, maturity = 0.03, 7
    learner = build_learner("cbp", {"rate": rate, "maturity": maturity})
    due, gone = np.zeros(6), np.zeros(6)
    for k in range(200):
        ages = [part + 1 for part in learner.method.age.split(learner.method.sizes)]
        due += [rate * int((part > maturity).sum()) for part in ages]
        train(learner, range(k, k + 1))
        gone += [len(part) for part in replaced(learner)]
        for before, neurons in zip(ages, replaced(learner), strict=True):
            assert all(int(before[j]) > maturity for j in neurons)
    assert gone.min() > 10
    assert float(np.abs(gone - due).max()) < 1.0
    assert learner.method.metrics()["replaced_neurons"] == gone.sum()


def test_a_replaced_neuron_begins_without_utility_and_age():
    learner = build_learner("cbp", {"rate": 0.2, "maturity": 3, "bias_transfer": True})
    train(learner, range(4))
    gone = replaced(learner)
    assert [len(part) for part in gone] == [1, 1] * 3  # 8 * 0.2 = 1.6 and 6 * 0.2 = 1.2 are due
    utilities = learner.method.utility.split(learner.method.sizes)
    means = learner.method.means()
    for part, utility, mean in zip(gone, utilities, means, strict=True):
        assert float(utility[part].abs().max()) == float(mean[part].abs().max()) == 0.0
        assert int((utility == 0.0).sum()) < len(utility)
    for i, name in enumerate(NETWORKS):
        layers = learner.agent.networks[name].layers()
        for k in range(2):
            assert not layers[k + 1].weight[:, gone[2 * i + k]].any()
            assert layers[k].bias[gone[2 * i + k]].tolist() == [0.0]


def test_a_replaced_neurons_first_step_is_at_most_the_learning_rate():
    learner = build_learner("cbp", {"rate": 0.2, "maturity": 3})
    train(learner, range(3))
    for state in (state for name in NETWORKS for state in learner.agent.optimizers[name].state.values()):
        state["step"].fill_(1e6)  # where zeroed moments alone give 3.2 learning rates
    train(learner, range(3, 4))
    gone = replaced(learner)
    learner.method.due[:] = -10.0  # no more of them at the next update
    train(learner, range(4, 5))
    for i, name in enumerate(NETWORKS):
        rate = learner.agent.optimizers[name].param_groups[0]["lr"]
        moved = [
            float(learner.agent.networks[name].layers()[k + 1].weight.detach()[:, gone[2 * i + k]].abs().max())
            for k in range(2)
        ]
        assert 0.9 * rate < max(moved) <= rate * (1.0 + 1e-5)


def test_channels_are_replaced_with_all_their_pixels():
    learner = learner_on_images({"rate": 0.5, "maturity": 0})
    update(learner, game_transitions(0))
    # 3, 2, 8 and 6 neurons at rate 0.5
    assert [len(part) for part in replaced(learner)] == [1, 1, 4, 3] * 3
    channel = replaced(learner)[1][0]
    dense = learner.agent.networks["policy"].hidden[2].weight
    assert (dense == 0.0).all(0).view(2, -1).all(1).nonzero().flatten().tolist() == [channel]


def test_targets_move_with_a_replaced_neuron_only_if_they_are_to():
    same = {}
    for mirror in (False, True):
        learner = build_learner("cbp", {"rate": 1.0, "maturity": 0, "mirror_target": mirror})
        train(learner, range(1))
        weights = parameters(learner)
        same[mirror] = torch.equal(weights["target_qf.hidden.0.weight"], weights["qf.hidden.0.weight"])
    assert same == {False: False, True: True}


# Visits, records, state, keys


def test_boundaries_mean_nothing_to_it():
    learner = build_learner("cbp", {"rate": 0.03, "maturity": 3})
    train(learner, range(10))
    state = learner.method.get_state()
    assert 0.0 < state["due"].max() < 1.0
    learner.visit_end(visit(1), VisitData(visit(1)))
    learner.boundary_reset(BoundarySettings())
    learner.visit_start(visit(2), VisitData(visit(1)))
    after = learner.method.get_state()
    for name in ("utility", "age", "due", "mean"):
        assert np.array_equal(state[name], after[name])


def test_a_state_is_a_copy_and_goes_on_where_it_was_taken():
    keys = {"rate": 0.05, "maturity": 3, "bias_transfer": True, "utility": "adaptable_contribution"}
    learner, other = build_learner("cbp", keys), build_learner("cbp", keys, seed=3)
    train(learner, range(8))
    state = learner.get_state()
    assert state["continual"]["method"]["recycler"]["young"]
    train(learner, range(8, 16))
    other.set_state(state)
    train(other, range(8, 16))
    assert learner.checksum() == other.checksum()


def test_utility_and_age_are_recorded_per_layer():
    learner = build_learner("cbp", {"rate": 0.05, "maturity": 3})
    train(learner, range(6))
    arrays = learner.method_arrays()
    assert set(arrays) == {f"{name}/{i}/{what}" for name in NETWORKS for i in range(2) for what in ("utility", "age")}
    utility = np.concatenate([arrays[f"{name}/{i}/utility"] for name in NETWORKS for i in range(2)])
    assert learner.method.metrics()["mean_utility"] == pytest.approx(float(utility.mean()), rel=1e-5)
    assert arrays["policy/0/age"].max() == 6


def test_a_maturity_beyond_the_run_is_refused():
    config = build_config("cbp", {"maturity": 3_960_000})
    assert check_run(config.settings) == [
        "maturity is 3960000; the run makes at most 3960000 updates, so that no neuron is ever replaced: lower it, or "
        "write rate: 0.0"
    ]
    assert check_run(build_config("cbp", {"maturity": 3_959_999}).settings) == []
    assert check_run(build_config("cbp", {"maturity": 3_960_000, "rate": 0.0}).settings) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"rate": 1.1},
        {"decay": 1.0},
        {"maturity": -1},
        {"utility": "weight"},
        {"betas": [0.9]},
        {"betas": [0.9, 1.0]},
        {"weight_decay": -1e-4},
    ],
)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(ValidationError):
        CBPSettings(**bad)
