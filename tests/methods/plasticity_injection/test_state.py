"""What of an injection travels with the weights: states, snapshots, rollout workers."""

from __future__ import annotations

import copy

import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_nbsp.nn.networks import Network
from tests.methods.plasticity_injection.learners import EVERY_BOUNDARY, all_networks, inputs_of, start, trained
from tests.tiny import ACTIONS, OBSERVATIONS, assert_same, build_config, build_learner, parameters, train


@pytest.mark.parametrize("schedule", [{}, EVERY_BOUNDARY])
def test_state_round_trip_in_the_middle_of_a_visit(schedule):
    learner, other = trained(schedule), build_learner("plasticity_injection", schedule, seed=7)
    start(learner)
    train(learner, range(5, 8))
    other.set_state(copy.deepcopy(learner.get_state()))
    assert all(net.active == 1 for net in all_networks(other).values())
    for one in (learner, other):
        train(one, range(8, 11))
        start(one, 3)
        train(one, range(11, 14))
    assert_same(parameters(other), parameters(learner))
    assert {net.active for net in all_networks(other).values()} == {2 if schedule else 1}


def test_a_snapshot_from_before_an_injection_takes_it_back():
    learner = trained()
    snapshot, before = learner.agent.snapshot(), parameters(learner)
    start(learner)
    train(learner, range(5, 8))
    learner.agent.restore(snapshot)
    assert all(net.active == 0 for net in all_networks(learner).values())
    assert_same(parameters(learner), before)


def test_rollout_workers_act_with_all_heads():
    learner = trained()
    config = build_config("plasticity_injection", seed=3)
    spec = config.get_rl_module_spec(spaces={DEFAULT_MODULE_ID: (OBSERVATIONS, ACTIONS)}, inference_only=True)
    worker = spec.build()
    obs = inputs_of("policy")
    start(learner)
    train(learner, range(5, 10))
    worker.set_state(learner.module[DEFAULT_MODULE_ID].get_state(inference_only=True))
    assert worker.policy.active == 1
    assert torch.equal(worker.act(obs, explore=False), learner.sac.module.act(obs, explore=False))
    assert not torch.equal(worker.policy(obs), Network.forward(worker.policy, obs))
