"""What a run's settings come to: its networks."""

from __future__ import annotations

import math

import pytest
import torch

from rllib_nbsp.methods import METHODS
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.run import ResolvedRun
from tests.tiny import CHOICES, IMAGES, build_config, build_learner_of


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_methods_networks_begin_as_the_run_says(method):
    config = build_config(method, hidden=(40, 40)).networks(conv=[[32, 4, 2], [32, 3, 1]], init="kaiming_normal")
    run = ResolvedRun(config.settings, (IMAGES, CHOICES))
    for name in NETWORKS:
        for layer in run.build_network(name).layers():
            assert not layer.bias.any()
            # 120 or more draws, whose standard deviation has an error of at most 6.5 %.
            expected = math.sqrt(2 / layer.weight[0].numel())
            assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.25)


def test_a_learner_draws_layers_anew_as_its_networks_began():
    for init, biased in (("fan_in_uniform", True), ("kaiming_normal", False)):
        agent = build_learner_of(build_config().networks(init=init)).agent
        assert agent.init == init and agent.twin().init == init
        layer = agent.networks["qf"].hidden[0]
        before = layer.weight.detach().clone()
        agent.init_layer(layer, agent.generator)
        assert not bool((layer.weight == before).any())
        assert bool(layer.bias.any()) is biased


def test_one_seed_is_one_network_whatever_the_distribution():
    first, second, uniform = (
        ResolvedRun(build_config(seed=3).networks(init=init).settings).build_network("policy")
        for init in ("kaiming_normal", "kaiming_normal", "fan_in_uniform")
    )
    for a, b, c in zip(first.layers(), second.layers(), uniform.layers(), strict=True):
        assert torch.equal(a.weight, b.weight) and not torch.equal(a.weight, c.weight)
