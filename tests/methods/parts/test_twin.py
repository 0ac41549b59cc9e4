"""A twin is SAC beside SAC: what it learns is what a Learner without a method learns, and nobody else's."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from rllib_nbsp.methods.agent import Batch, Twin, make_batch
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from tests.tiny import (
    CHOICES,
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
)


def twin_of(learner: ContinualSACTorchLearner) -> Twin:
    assert learner.agent.twin is not None
    return learner.agent.twin()


def batch(columns: dict[str, np.ndarray]) -> Batch:
    return make_batch({name: torch.from_numpy(column) for name, column in columns.items()})


def weights(twin: Twin) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in twin._module.state_dict().items()}


def share_noise(twin: Twin, learner: ContinualSACTorchLearner) -> None:
    learner.sac.module.set_noise_state(twin.get_state()["noise"], torch.device("cpu"))


@pytest.mark.parametrize(
    "training", [{}, {"grad_clip": 0.05}, {"target_update_env_steps": 3, "tau": 0.5}, {"actor_interval": 3}]
)
def test_its_updates_are_those_of_sac_to_the_last_bit(training: dict[str, Any]):
    learner = build_learner(training=training)
    twin = twin_of(learner)
    share_noise(twin, learner)
    for k in range(7):
        twin.update(batch(transitions(1000 + k)))
    train(learner, range(7))
    assert_same(weights(twin), parameters(learner))


def test_its_updates_are_those_of_sac_on_images_and_discrete_actions():
    learner = build_learner_of(build_config().networks(conv=[[3, 4, 2], [2, 3, 1]]), IMAGES, CHOICES)
    twin = twin_of(learner)
    for k in range(4):
        twin.update(batch(game_transitions(k)))
        update(learner, game_transitions(k))
    assert_same(weights(twin), parameters(learner))


def test_it_starts_from_the_agents_weights_with_fresh_optimizers_and_leaves_the_agent_alone():
    learner = build_learner()
    train(learner, range(3))
    before, moments = parameters(learner), learner.agent.snapshot()["optimizers"]["qf"]["0"]["exp_avg"]
    noise = learner.sac.module.noise_state()
    twin = twin_of(learner)
    assert_same(weights(twin), before)
    assert not any(optimizer.state for optimizer in twin.optimizers.values())
    for k in range(3):
        twin.update(batch(transitions(k)))
    assert_same(parameters(learner), before)
    assert torch.equal(learner.agent.snapshot()["optimizers"]["qf"]["0"]["exp_avg"], moments)
    assert np.array_equal(learner.sac.module.noise_state(), noise)
    assert not torch.equal(weights(twin)["policy.head.weight"], before["policy.head.weight"])


def test_noise_is_its_own_and_hangs_on_the_agents_generator_alone():
    learner, same = build_learner(), build_learner()
    states = [twin_of(one).get_state()["noise"] for one in (learner, learner, same, same)]
    assert np.array_equal(states[0], states[2])
    assert np.array_equal(states[1], states[3])
    assert not np.array_equal(states[0], states[1])


def test_it_goes_on_from_its_state():
    learner, other = build_learner(), build_learner(seed=5)
    twin, restored = twin_of(learner), twin_of(other)
    for k in range(4):
        twin.update(batch(transitions(k)))
    state = pickle.loads(pickle.dumps(twin.get_state()))
    restored.set_state(state)
    for one in (twin, restored):
        for k in range(4, 8):
            one.update(batch(transitions(k)))
    assert_same(weights(restored), weights(twin))
    assert restored.updates == twin.updates == 8
