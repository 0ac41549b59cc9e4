"""The products that are counted are those that run: by hand, in the plain loops, in our Learner."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from ray.rllib.core import DEFAULT_MODULE_ID
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import (
    CLEANRL_DISCRETE_UPDATE,
    CLEANRL_FROZEN_UPDATE,
    CLEANRL_UPDATE,
    JOINT_DISCRETE_UPDATE,
    JOINT_UPDATE,
    GemmCeiling,
    Passes,
    UpdatePasses,
    cnn_update_gemms,
    gflop,
    mlp_gemms,
    update_gemms,
)
from benchmarks.ours import sac_config
from benchmarks.plain_atari import CONV, PlainDiscreteSAC
from benchmarks.plain_sac import POLICY_PERIOD, PlainSAC
from rllib_nbsp.learners import rllib_batch
from tests.benchmarks.batches import ACT, HIDDEN, OBS, ROWS, game_columns, learner_columns, make_learner, random_batch


def test_flops_of_a_small_perceptron_by_hand() -> None:
    # 3 -> 5 -> 2 with 4 rows: 2 * 4 * (3 * 5 + 5 * 2) = 200 a direction; downwards only the second layer's 2 * 4 * 10
    # = 80, and the first one's 2 * 4 * 15 = 120 if the gradient is wanted at the input.
    def flop(**passes: float) -> float:
        return 1e9 * gflop(mlp_gemms([3, 5, 2], 4, Passes(**{"forward": 0, "weights": 0, "inputs": 0, **passes})))

    assert flop(forward=1) == pytest.approx(200)
    assert flop(weights=3) == pytest.approx(600)
    assert flop(inputs=1) == pytest.approx(80)
    assert flop(inputs=1, to_input=1) == pytest.approx(200)


@pytest.mark.parametrize(("freeze", "passes"), [(False, CLEANRL_UPDATE), (True, CLEANRL_FROZEN_UPDATE)])
def test_the_plain_loop_executes_the_products_that_are_counted(freeze: bool, passes: UpdatePasses) -> None:
    agent = PlainSAC(OBS, ACT, HIDDEN, freeze_critics=freeze)
    with FlopCounterMode(display=False) as counter:
        for _ in range(POLICY_PERIOD):
            agent.update(random_batch())
    counted = POLICY_PERIOD * gflop(update_gemms(OBS, ACT, HIDDEN, ROWS, passes))
    assert counter.get_total_flops() == pytest.approx(1e9 * counted)


def test_our_learner_executes_the_products_that_are_counted() -> None:
    learner = make_learner()
    with FlopCounterMode(display=False) as counter:
        learner.update(batch=rllib_batch(learner_columns()), minibatch_size=ROWS)
    assert counter.get_total_flops() == pytest.approx(1e9 * gflop(update_gemms(OBS, ACT, HIDDEN, ROWS, JOINT_UPDATE)))


def test_the_plain_loop_on_a_game_executes_the_products_that_are_counted() -> None:
    agent = PlainDiscreteSAC(6, (16, 8))
    columns = game_columns(4)
    batch = {name: torch.from_numpy(column) for name, column in columns.items()}
    with FlopCounterMode(display=False) as counter:
        agent.update(batch["obs"], batch["actions"], batch["rewards"], batch["new_obs"], batch["terminateds"].float())
    gemms = cnn_update_gemms((4, 84, 84), CONV, (16, 8), 6, 4, CLEANRL_DISCRETE_UPDATE)
    assert counter.get_total_flops() == pytest.approx(1e9 * gflop(gemms))


def test_our_learner_on_a_game_executes_the_products_that_are_counted() -> None:
    config = sac_config((16, 8), 4).networks(conv=[list(layer) for layer in CONV]).training(batch_size=4)
    spaces = (Box(0, 255, (4, 84, 84), np.uint8), Discrete(6))
    config = config.environment(observation_space=spaces[0], action_space=spaces[1])
    learner = config.build_learner(spaces={DEFAULT_MODULE_ID: spaces})
    with FlopCounterMode(display=False) as counter:
        learner.update(batch=rllib_batch(game_columns(4)), minibatch_size=4)
    gemms = cnn_update_gemms((4, 84, 84), CONV, (16, 8), 6, 4, JOINT_DISCRETE_UPDATE)
    assert counter.get_total_flops() == pytest.approx(1e9 * gflop(gemms))


def test_the_ceiling_runs_the_products_that_are_counted() -> None:
    gemms = update_gemms(OBS, ACT, HIDDEN, ROWS, JOINT_UPDATE)
    ceiling = GemmCeiling(gemms)
    with FlopCounterMode(display=False) as counter:
        assert ceiling.run(1e-9) > 0
    assert counter.get_total_flops() == pytest.approx(1e9 * gflop(gemms))
