"""The sampler beside training: episodes of evaluations, and rollouts for scoring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rllib_nbsp.envs.point_mass import HORIZON
from rllib_nbsp.sampling.episodes import Rows
from tests.sampling.samplers import LEFT, RIGHT, TASKS, Policy, equal, games, make_sampler, sample
from tests.toy_suite import ToyEnv, ToySuite

# Evaluation


def test_evaluation_does_not_touch_training():
    undisturbed, evaluated = make_sampler(), make_sampler()
    for sampler in (undisturbed, evaluated):
        sample(sampler, steps=30)

    def global_draws() -> tuple[float, float]:
        return torch.rand(()).item(), np.random.random()

    torch.manual_seed(0)
    np.random.seed(0)
    expected = global_draws()
    torch.manual_seed(0)
    np.random.seed(0)
    for task in TASKS:
        evaluated.evaluate(task=task, version=1, episode_indices=range(3), explore=True)
        evaluated.rollout(task=task, version=1, num_env_steps=70, rollout_index=0)
    assert global_draws() == expected
    assert equal(sample(undisturbed), sample(evaluated))


@pytest.mark.parametrize("num_envs", [2, 5])
@pytest.mark.parametrize(
    "split", [[range(11)], [range(5), range(5, 11)], [[i] for i in range(11)], [[10, 3], range(3)]]
)
def test_an_evaluation_episode_is_the_same_in_any_split_on_any_worker_of_any_run(split: list[Any], num_envs: int):
    expected = make_sampler(evaluation_envs=num_envs).evaluate(task=LEFT, version=1, episode_indices=range(11))
    assert [e["episode"] for e in expected] == list(range(11))
    assert len({e["return"] for e in expected}) == 11
    for i, indices in enumerate(split):
        sampler = make_sampler(seed=9, worker=i + 1, num_envs=2, evaluation_envs=num_envs)
        sample(sampler, steps=5)
        assert sampler.evaluate(task=LEFT, version=i, episode_indices=list(indices)) == [expected[j] for j in indices]


def test_a_sub_environment_that_fails_during_evaluation_plays_its_episode_again():
    failures = []

    def hook(env: ToyEnv, result: Any) -> Any:
        if env.number == 1 and env.episode == 1 and env.steps == 3:
            failures.append(env)
            raise RuntimeError("broken")
        return (result[0], float(result[0][0]), *result[2:])

    clean = ToySuite(on_step=lambda env, result: (result[0], float(result[0][0]), *result[2:]))
    expected = make_sampler(clean).evaluate(task="a", version=1, episode_indices=range(12))
    assert make_sampler(ToySuite(on_step=hook)).evaluate(task="a", version=1, episode_indices=range(12)) == expected
    assert len(failures) == 1


def test_an_evaluation_of_no_episodes_is_empty():
    assert make_sampler().evaluate(task=LEFT, version=1, episode_indices=[]) == []


def test_exploring_evaluation_is_reproducible_and_explores():
    def returns(explore: bool, seed: int = 0) -> list[float]:
        episodes = make_sampler(seed=seed).evaluate(task=LEFT, version=1, episode_indices=range(4), explore=explore)
        return [e["return"] for e in episodes]

    assert returns(True) == returns(True)
    assert len({tuple(returns(True)), tuple(returns(True, seed=1)), tuple(returns(False))}) == 3


# Rollouts for scoring


@pytest.mark.parametrize("num_env_steps", [1, 4, 103, 5 * HORIZON, 777])
def test_a_rollout_has_exactly_its_steps_and_true_summaries(num_env_steps: int):
    rows, episodes = make_sampler().rollout(task=LEFT, version=1, num_env_steps=num_env_steps, rollout_index=0)
    assert rows.keys() == {"obs", "actions", "rewards", "success", "env", "episode"}
    assert {len(column) for column in rows.values()} == {num_env_steps}
    assert [e["episode"] for e in episodes] == list(range(len(episodes))) == np.unique(rows["episode"]).tolist()
    for e in episodes:
        mine = rows["episode"] == e["episode"]
        assert len(np.unique(rows["env"][mine])) == 1
        assert e["length"] == mine.sum() and e["complete"] == (e["length"] == HORIZON)
        assert e["return"] == pytest.approx(rows["rewards"][mine].astype(float).sum())
        assert e["success"] == rows["success"][mine].any() and e["final_success"] == rows["success"][mine][-1]
        # One goal an episode, and the mass moves on from row to row, by at most 0.1 in each direction.
        assert len(np.unique(rows["obs"][mine][:, 4:], axis=0)) == 1
        assert np.abs(np.diff(rows["obs"][mine][:, :2], axis=0)).max(initial=0.0) <= 0.1001


def test_rollouts_differ_by_index_and_run_but_not_by_worker():
    def rollout(index: int, seed: int = 0, worker: int = 0) -> Rows:
        sampler = make_sampler(seed=seed, worker=worker)
        sampler.rollout(task=RIGHT, version=1, num_env_steps=30, rollout_index=5)
        return sampler.rollout(task=RIGHT, version=1, num_env_steps=100, rollout_index=index)[0]

    assert equal(rollout(0), rollout(0, worker=3))
    assert not equal(rollout(0), rollout(1)) and not equal(rollout(0), rollout(0, seed=1))


def test_a_rollout_does_not_use_the_environments_of_evaluation_or_training():
    suite = ToySuite()
    sampler = make_sampler(suite)
    sample(sampler, "a", steps=1)
    sampler.evaluate(task="a", version=1, episode_indices=range(5))
    sampler.rollout(task="a", version=1, num_env_steps=5, rollout_index=0)
    training, evaluation, scoring = suite.seeds[:3], suite.seeds[3:8], suite.seeds[8:]
    assert len(set(evaluation)) == len(set(scoring)) == 1
    assert len({*training, *evaluation, *scoring}) == 5


def test_a_rollout_without_exploration_takes_the_mean():
    rows, _ = make_sampler().rollout(task=LEFT, version=1, num_env_steps=50, rollout_index=0, explore=False)
    expected = Policy(6)(torch.from_numpy(rows["obs"]), explore=False, generator=None, task=0)
    np.testing.assert_allclose(rows["actions"], expected, atol=1e-5)


def test_a_rollout_through_a_failure_keeps_the_broken_episode_incomplete():
    def hook(env: ToyEnv, result: Any) -> Any:
        if env.number == 2 and env.steps == 4:
            raise RuntimeError("broken")
        return result

    rows, episodes = make_sampler(ToySuite(on_step=hook)).rollout(
        task="a", version=1, num_env_steps=50, rollout_index=0
    )
    assert len(rows["obs"]) == 50
    assert [e["length"] for e in episodes if not e["complete"]] == [3, 2]
    assert all(len(np.unique(rows["obs"][rows["episode"] == e["episode"]][:, :3], axis=0)) == 1 for e in episodes)


def test_a_rollout_of_a_game_keeps_frames_once_and_gives_whole_games():
    columns, episodes = games().rollout(task="Breakout", version=1, num_env_steps=501, rollout_index=0)
    obs = np.asarray(columns["obs"])
    assert obs.shape == (501, 4, 84, 84)
    assert len(columns["obs"]._frames) <= 501 + len(episodes)
    assert any(episode["complete"] for episode in episodes)
    for episode in range(len(episodes)):
        own = obs[columns["episode"] == episode]
        assert np.array_equal(own[1:, :-1], own[:-1, 1:])
