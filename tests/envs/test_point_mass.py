"""The point mass."""

from __future__ import annotations

import numpy as np
import pytest

from rllib_nbsp.envs import SUITES
from rllib_nbsp.envs.point_mass import DIRECTIONS, HORIZON

SUITE = SUITES["point_mass"]


def test_one_step_by_hand():
    env = SUITE.make_env("reach-right", seed=0)
    (x, y, _, _, goal_x, goal_y), _ = env.reset()
    # From rest: velocity 0.05 * force, force clipped to [-1, 1]; then the position moves by the velocity.
    obs, reward, terminated, truncated, info = env.step(np.array([0.5, -3.0], np.float32))
    np.testing.assert_allclose(obs, [x + 0.025, y - 0.05, 0.025, -0.05, goal_x, goal_y], atol=1e-6)
    assert reward == pytest.approx(-np.hypot(x + 0.025 - goal_x, y - 0.05 - goal_y), abs=1e-6)
    assert (terminated, truncated, info["success"]) == (False, False, False)
    # Half the force again: 0.5 * 0.025 + 0.025.
    obs, *_ = env.step(np.array([0.5, 0.0], np.float32))
    assert obs[2] == pytest.approx(0.0375)


@pytest.mark.parametrize("task", DIRECTIONS)
def test_steering_to_the_goal_solves_every_task_and_pays_more(task: str):
    env = SUITE.make_env(task, seed=1)
    obs, _ = env.reset()
    for _ in range(HORIZON):
        position, velocity, goal = obs[:2], obs[2:4], obs[4:]
        obs, reward, terminated, truncated, info = env.step(np.clip(5 * (goal - position) - 5 * velocity, -1, 1))
    assert info["success"] and float(reward) > 0.9
    assert truncated and not terminated


def test_the_wrong_direction_never_succeeds():
    env = SUITE.make_env("reach-left", seed=1)
    env.reset()
    assert not any(env.step(np.array([1.0, 0.0], np.float32))[4]["success"] for _ in range(HORIZON))


def test_reseeding_repeats_starts_and_goals():
    env, other = SUITE.make_env("reach-up", seed=1), SUITE.make_env("reach-up", seed=2)
    assert not np.array_equal(env.reset()[0], other.reset()[0])
    SUITE.reseed(env, 7)
    SUITE.reseed(other, 7)
    for _ in range(3):
        assert np.array_equal(env.reset()[0], other.reset()[0])
