"""ReDo on a real Learner: which neurons are dormant, when they are recycled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rllib_nbsp.checks import check_run
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
    update,
    visit,
)


def silence(learner: ContinualSACTorchLearner, name: str, layer: int, neurons: list[int]) -> None:
    """Make ReLU neurons dead, whatever comes in."""
    with torch.no_grad():
        learner.agent.networks[name].layers()[layer].weight[neurons] = 0.0
        learner.agent.networks[name].layers()[layer].bias[neurons] = -1.0


def test_dormant_neurons_by_hand():
    method = build_learner("redo", {"threshold": 0.5}).method
    # Mean |h|: 2, 0.75, 0.25, 1; their mean is 1, half of which is the limit.
    hidden = torch.tensor([[2.0, 1.0, 0.5, -1.0], [-2.0, 0.5, 0.0, 1.0]])
    assert method.is_dormant(hidden).tolist() == [False, False, True, False]
    # The limit itself counts: 1.5 and 0.5 with mean 1.
    assert method.is_dormant(torch.tensor([[1.5, 0.5]])).tolist() == [False, True]
    # A channel's |h| is averaged over its pixels, so that signs do not cancel: 1 and 0.25.
    channels = torch.tensor([[[[1.0, -1.0]], [[0.5, 0.0]]]])
    assert method.is_dormant(channels).tolist() == [False, True]
    assert method.is_dormant(torch.zeros(3, 2)).tolist() == [True, True]


def test_dormant_neurons_start_afresh_and_others_do_not():
    learner, plain = build_learner("redo", {"interval": 1, "threshold": 0.0}), build_learner("sac")
    for one in (learner, plain):
        with torch.no_grad():
            for layer in (layer for name in NETWORKS for layer in one.agent.networks[name].hidden):
                layer.weight.mul_(0.1)
                layer.bias.fill_(2.0)  # so that no neuron is dead by itself
        silence(one, "policy", 0, [1, 6])
        train(one, range(1))
    layer, outgoing = learner.agent.networks["policy"].layers()[:2]
    assert bool((layer.weight[[1, 6]] != 0.0).all())
    assert layer.bias[[1, 6]].tolist() == [0.0, 0.0]
    assert not outgoing.weight[:, [1, 6]].any()
    ours, theirs = parameters(learner), parameters(plain)
    for name, place in (
        ("policy.hidden.0.weight", [1, 6]),
        ("policy.hidden.0.bias", [1, 6]),
        ("policy.hidden.1.weight", (slice(None), [1, 6])),
    ):
        ours[name][place] = theirs[name][place]
    assert_same(ours, theirs)
    assert learner.method.metrics() == {"recycled_neurons": 2.0, "recycled_frac": 2 / (3 * sum(HIDDEN))}


def test_it_looks_every_so_many_updates_and_is_sac_in_between():
    learner, plain = build_learner("redo", {"interval": 4, "threshold": 1.0}), build_learner("sac")
    for one in (learner, plain):
        train(one, range(3))
    assert_same(parameters(learner), parameters(plain))
    counts = []
    for k in range(3, 9):
        train(learner, range(k, k + 1))
        counts.append(learner.method.metrics()["recycled_neurons"])
    assert 0.0 < counts[0] == counts[1] == counts[3] < counts[4] == counts[5]


def test_the_count_of_updates_goes_on_over_a_boundary():
    learner = build_learner("redo", {"interval": 8, "threshold": 1.0})
    train(learner, range(5))
    learner.boundary_reset(BoundarySettings())
    learner.visit_start(visit(2), None)
    train(learner, range(5, 7))
    assert learner.method.metrics()["recycled_neurons"] == 0.0
    train(learner, range(7, 8))
    assert learner.method.metrics()["recycled_neurons"] > 0.0


def test_a_layer_that_is_all_dead_starts_afresh():
    learner = build_learner("redo", {"interval": 1})
    silence(learner, "qf", 1, list(range(6)))
    train(learner, range(1))
    layers = learner.agent.networks["qf"].layers()
    assert bool((layers[1].weight.abs().amax(1) > 0.0).all())
    assert not layers[2].weight.any()
    train(learner, range(1, 30))
    assert all(bool(torch.isfinite(value).all()) for value in parameters(learner).values())


@pytest.mark.parametrize("activation", ["relu", "crelu"])
def test_on_images_a_dead_channel_is_silenced_in_all_its_pixels(activation):
    config = build_config("redo", {"interval": 1, "threshold": 0.0}).networks(
        conv=[[3, 4, 2], [2, 3, 1]], activation=activation
    )
    learner = build_learner_of(config, IMAGES, CHOICES)
    for name in NETWORKS:
        with torch.no_grad():
            learner.agent.networks[name].hidden[1].weight[1] = 0.0
            learner.agent.networks[name].hidden[1].bias[1] = 0.0
    update(learner, game_transitions(0))
    for name in NETWORKS:
        network = learner.agent.networks[name]
        features = (network.hidden[2].weight == 0.0).all(0).view(2 * network.features_per_neuron, -1)
        assert features.all(1).tolist() == [False, True] * network.features_per_neuron


def test_state_round_trip_between_two_searches():
    keys = {"interval": 5, "threshold": 0.6}
    learner, other = build_learner("redo", keys), build_learner("redo", keys, seed=3)
    train(learner, range(7))
    state = learner.get_state()
    assert state["continual"]["method"]["recycler"]["young"]
    other.set_state(state)
    for one in (learner, other):
        train(one, range(7, 12))
    assert learner.checksum() == other.checksum()
    assert learner.report() == other.report()


def test_an_interval_beyond_the_run_is_refused():
    assert check_run(build_config("redo", {"interval": 3_960_001}).settings) == [
        "interval is 3960001; the run makes at most 3960000 updates, so that no neuron is ever recycled: lower it"
    ]
    assert check_run(build_config("redo", {"interval": 3_960_000}).settings) == []


def test_the_report_has_finite_numbers():
    learner = build_learner("redo", {"interval": 2, "threshold": 0.5})
    train(learner, range(6))
    assert all(np.isfinite(value) for value in learner.report().values())
