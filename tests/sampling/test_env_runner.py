"""Sampling: rows, versions, random streams, and what a killed runner may not do."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED, NUM_EPISODES, WEIGHTS_SEQ_NO
from torch import Tensor
from torch.nn.functional import linear

from rllib_nbsp.algorithm_config import ContinualSACConfig
from rllib_nbsp.envs import SUITES, Suite
from rllib_nbsp.envs.point_mass import HORIZON
from rllib_nbsp.run import run_settings
from rllib_nbsp.sampling.env_runner import ContinualEnvRunner
from rllib_nbsp.sampling.sampler import Rows, Sampler
from rllib_nbsp.settings import EvaluationSettings, ResourceSettings
from tests.toy_suite import ToyEnv, ToySuite

TASKS = ["reach-left", "reach-right"]
LEFT, RIGHT = TASKS


class Policy:
    """A small fixed network with Gaussian noise."""

    def __init__(self, obs_size: int, seed: int = 0, width: int = 256) -> None:
        generator = torch.Generator().manual_seed(seed)
        sizes = [obs_size, width, width, 2]
        self.weights = [
            torch.empty(o, i).normal_(0, i**-0.5, generator=generator) for i, o in itertools.pairwise(sizes)
        ]

    def __call__(self, obs: Tensor, *, explore: bool, generator: torch.Generator | None, task: Tensor | int) -> Tensor:
        for weight in self.weights[:-1]:
            obs = torch.relu(linear(obs, weight))
        mean = linear(obs, self.weights[-1])
        if explore:
            mean = mean + torch.empty_like(mean).normal_(generator=generator)
        return torch.tanh(mean)


def make_sampler(
    suite: Suite | None = None,
    *,
    seed: int = 0,
    worker: int = 0,
    num_envs: int = 3,
    evaluation_envs: int = 5,
    act: Any = None,
    process_tag: int = 0,
) -> Sampler:
    suite = suite or SUITES["point_mass"]
    settings = run_settings(
        suite=suite.name,
        tasks=["a", "b"] if isinstance(suite, ToySuite) else TASKS,
        seed=seed,
        resources=ResourceSettings(num_envs_per_env_runner=num_envs),
        evaluation=EvaluationSettings(num_envs=evaluation_envs),
    )
    observation_space, action_space = suite.spaces(settings.tasks)
    act = act or Policy(observation_space.shape[0])
    return Sampler(suite, observation_space, action_space, act, settings, worker_index=worker, process_tag=process_tag)


def sample(sampler: Sampler, task: str = LEFT, version: int = 1, steps: int = 60, **kwargs: Any) -> Rows:
    return sampler.sample(task=task, version=version, num_vector_steps=steps, **kwargs)[0]


def equal(first: Rows, second: Rows) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


# Rows


def games(name: str = "Breakout", num_envs: int = 2) -> Sampler:
    """Random players of a game."""
    suite = SUITES["atari"]
    settings = run_settings(
        suite="atari",
        tasks=[name],
        resources=ResourceSettings(num_envs_per_env_runner=num_envs),
        evaluation=EvaluationSettings(num_envs=num_envs),
    )
    observation_space, action_space = suite.spaces([name])

    def act(obs: Tensor, *, explore: bool, generator: torch.Generator | None, task: Tensor | int) -> Tensor:
        return torch.randint(int(action_space.n), (len(obs),), generator=generator)

    return Sampler(suite, observation_space, action_space, act, settings)


def test_a_games_summary_is_its_whole_return_though_a_lost_life_ends_an_episode():
    rows, games_ended = games().sample(task="Breakout", version=1, num_vector_steps=600)
    assert rows["obs"].dtype == np.uint8
    assert rows["actions"].dtype == np.int64
    assert set(np.unique(rows["rewards"])) <= {0.0, 1.0}
    lives_lost = int(rows["terminateds"].sum())
    assert 5 * len(games_ended) <= lives_lost < 5 * len(games_ended) + 10  # two games are running
    assert len(games_ended) >= 4
    # A brick of the lower rows is worth 1 point, so clipping changes nothing there.
    assert sum(game["return"] for game in games_ended) == pytest.approx(rows["rewards"].sum(), abs=6)


def test_a_rollout_of_a_game_keeps_frames_once_and_gives_whole_games():
    columns, episodes = games().rollout(task="Breakout", version=1, num_env_steps=501, rollout_index=0)
    obs = np.asarray(columns["obs"])
    assert obs.shape == (501, 4, 84, 84)
    assert len(columns["obs"]._frames) <= 501 + len(episodes)
    assert any(episode["complete"] for episode in episodes)
    for episode in range(len(episodes)):
        own = obs[columns["episode"] == episode]
        assert np.array_equal(own[1:, :-1], own[:-1, 1:])


def test_rows_are_ordered_by_step_then_sub_environment_and_follow_each_other():
    rows = sample(make_sampler(ToySuite()), "a", steps=12)
    assert {name: (column.shape, column.dtype.name) for name, column in rows.items()} == {
        "obs": ((36, 4), "float32"),
        "actions": ((36, 2), "float32"),
        "rewards": ((36,), "float32"),
        "new_obs": ((36, 4), "float32"),
        "terminateds": ((36,), "bool"),
        "truncateds": ((36,), "bool"),
        "success": ((36,), "bool"),
        "episode": ((36,), "int64"),
    }
    # Horizon 5: steps 0-4 are episode 0, 5-9 episode 1, 10-11 episode 2.
    assert np.array_equal(rows["obs"][:, 1], np.tile([0, 1, 2], 12))
    assert np.array_equal(rows["obs"][:, 2], np.repeat([0] * 5 + [1] * 5 + [2] * 2, 3))
    assert np.array_equal(rows["obs"][:, 3], np.repeat([*range(5), *range(5), 0, 1], 3))
    assert np.array_equal(rows["new_obs"][:, :3], rows["obs"][:, :3])
    assert np.array_equal(rows["new_obs"][:, 3], rows["obs"][:, 3] + 1)
    assert np.array_equal(rows["rewards"], rows["actions"][:, 0])
    last = rows["obs"][:, 3] == 4
    assert np.array_equal(rows["truncateds"], last) and np.array_equal(rows["success"], last)
    assert not rows["terminateds"].any()


def test_summaries_say_what_the_rows_say():
    sampler = make_sampler(ToySuite())
    columns, episodes = [], []
    for steps in (3, 4, 8):  # Episodes run on from one request to the next.
        rows, ended = sampler.sample(task="a", version=1, num_vector_steps=steps)
        columns.append(rows)
        episodes += ended
    rows = {name: np.concatenate([c[name] for c in columns]) for name in columns[0]}
    assert len(episodes) == 9
    for episode in episodes:
        mine = rows["episode"] == episode["episode"]
        assert episode["length"] == mine.sum() == 5
        assert episode["return"] == pytest.approx(rows["rewards"][mine].sum(), abs=1e-6)
        assert episode["success"] and episode["final_success"]


def test_success_at_any_step_and_at_the_last_one_are_told_apart():
    suite = ToySuite(on_step=lambda env, result: (*result[:4], {"success": env.steps == 2 and env.number == 0}))
    _, episodes = make_sampler(suite, num_envs=2).sample(task="a", version=1, num_vector_steps=5)
    assert [(e["success"], e["final_success"]) for e in episodes] == [(True, False), (False, False)]


def test_fragments_do_not_change_the_rows():
    whole, parts = make_sampler(), make_sampler()
    expected = sample(whole, steps=130, random_actions=False)
    pieces = [sample(parts, steps=steps) for steps in (1, 60, 9, 60)]
    assert equal(expected, {name: np.concatenate([piece[name] for piece in pieces]) for name in expected})


def test_random_actions_are_uniform_and_of_a_stream_of_their_own():
    sampler, other = make_sampler(), make_sampler()
    rows = sample(sampler, steps=2000, random_actions=True)
    assert np.abs(rows["actions"]).max() <= 1.0
    counts = np.histogram(rows["actions"], bins=10, range=(-1, 1))[0] / rows["actions"].size
    assert np.abs(counts - 0.1).max() < 0.01
    # They do not move the policy's noise on.
    noise = []
    for rows in (sample(sampler, steps=1), sample(other, steps=1)):
        mean = Policy(6)(torch.from_numpy(rows["obs"]), explore=False, generator=None, task=0).numpy()
        noise.append(np.arctanh(rows["actions"]) - np.arctanh(mean))
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-4)


def test_a_failed_sub_environment_cuts_its_episode_and_keeps_the_row_count():
    def hook(env: ToyEnv, result: Any) -> Any:
        if env.number == 1 and env.steps == 3:
            raise RuntimeError("broken")
        return result

    rows, episodes = make_sampler(ToySuite(on_step=hook)).sample(task="a", version=1, num_vector_steps=8)
    assert len(rows["obs"]) == 24
    mine = {name: column[1::3] for name, column in rows.items()}
    assert np.array_equal(mine["obs"][:, 1], [1, 1, 3, 3, 3, 3, 3, 3])
    assert np.array_equal(mine["truncateds"], [False, True, False, False, False, False, True, False])
    assert len(set(mine["episode"][:2])) == 1 and mine["episode"][2] not in mine["episode"][:2]
    # The cut episode is in no summary, and its steps are in nobody's return.
    assert sorted(e["length"] for e in episodes) == [5, 5, 5]
    assert mine["episode"][0] not in [e["episode"] for e in episodes]


class Listening:
    """A policy that keeps which task it was asked to act in."""

    def __init__(self) -> None:
        self.tasks: list[Tensor | int] = []

    def __call__(self, obs: Tensor, *, explore: bool, generator: torch.Generator | None, task: Tensor | int) -> Tensor:
        self.tasks.append(task)
        return torch.zeros(len(obs), 2)


def test_the_policy_is_told_which_task_it_acts_in():
    policy = Listening()
    sampler = make_sampler(act=policy)
    for task in (LEFT, RIGHT):
        policy.tasks.clear()
        sample(sampler, task, steps=3)
        sampler.evaluate(task=task, version=1, episode_indices=[0])
        sampler.rollout(task=task, version=1, num_env_steps=8, rollout_index=0)
        assert set(policy.tasks) == {TASKS.index(task)}


def test_each_step_may_act_as_in_a_task_drawn_from_those_that_are_named():
    policy = Listening()
    sampler = make_sampler(act=policy, num_envs=4)
    sample(sampler, LEFT, steps=100, act_as=[RIGHT])
    assert all(torch.equal(task, torch.full((4,), TASKS.index(RIGHT))) for task in policy.tasks)
    policy.tasks.clear()
    sample(sampler, LEFT, version=2, steps=100, act_as=[LEFT, RIGHT])
    # 400 fair draws: 200, standard deviation 10.
    assert abs(int(torch.stack(policy.tasks).sum()) - 200) < 50
    drawn = list(policy.tasks)
    policy.tasks.clear()
    sample(make_sampler(act=policy, num_envs=4), LEFT, version=2, steps=100, act_as=[LEFT, RIGHT])
    assert all(torch.equal(a, b) for a, b in zip(drawn, policy.tasks, strict=True))


def test_actions_that_are_not_finite_are_refused():
    def diverged(obs: Tensor, *, explore: bool, generator: torch.Generator | None, task: Tensor | int) -> Tensor:
        return torch.full((len(obs), 2), torch.nan)

    with pytest.raises(FloatingPointError, match="actions in task 'reach-left' are not finite"):
        sample(make_sampler(act=diverged))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"task": "reach-lft"}, "task is 'reach-lft'; the run's tasks are reach-left, reach-right"),
        ({"version": -1}, "version is -1; it must be 0 or more"),
        ({"num_vector_steps": 0}, "num_vector_steps is 0; it must be 1 or more"),
    ],
)
def test_bad_requests_are_named(request_: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make_sampler().sample(**{"task": LEFT, "version": 0, "num_vector_steps": 1, **request_})


# Versions and seeds


def test_the_same_version_goes_on_and_another_one_starts_anew():
    sampler = make_sampler(ToySuite())
    sample(sampler, "a", version=1, steps=3)
    assert (sample(sampler, "a", version=1, steps=1)["obs"][:, 3] == 3).all()
    rows = sample(sampler, "a", version=2, steps=1)
    assert (rows["obs"][:, 3] == 0).all()


def test_another_task_starts_anew_in_environments_that_are_kept():
    suite = ToySuite()
    sampler = make_sampler(suite)
    sample(sampler, "a", version=1, steps=3)
    sample(sampler, "b", version=2, steps=3)
    rows = sample(sampler, "a", version=3, steps=1)
    assert (rows["obs"][:, 3] == 0).all() and len(suite.envs) == 6


def test_an_error_ends_the_running_episodes():
    broken = [False]

    def hook(env: ToyEnv, result: Any) -> Any:
        return (result[0], np.zeros(2), *result[2:]) if broken[0] else result

    sampler = make_sampler(ToySuite(on_step=hook))
    sample(sampler, "a", steps=2)
    broken[0] = True
    with pytest.raises(RuntimeError):
        sample(sampler, "a", steps=2)
    broken[0] = False
    assert (sample(sampler, "a", steps=1)["obs"][:, 3] == 0).all()


def test_one_seed_gives_one_result():
    first, second = make_sampler(seed=4, worker=2), make_sampler(seed=4, worker=2)
    for task, version in ((LEFT, 1), (RIGHT, 2), (LEFT, 3)):
        assert equal(sample(first, task, version), sample(second, task, version))


def test_what_happened_in_earlier_versions_does_not_matter():
    # So a run that goes on from a visit's start sees what it would have seen without the stop.
    veteran, fresh = make_sampler(), make_sampler()
    sample(veteran, LEFT, 1, steps=77)
    sample(veteran, RIGHT, 2, steps=5, random_actions=True)
    assert equal(sample(veteran, LEFT, 3), sample(fresh, LEFT, 3))


def test_every_training_environment_has_its_own_seed():
    seeds = []
    for seed in (0, 1):
        for worker in (0, 1, 2):
            suite = ToySuite()
            sampler = make_sampler(suite, seed=seed, worker=worker)
            sample(sampler, "a", 1, steps=1)
            sample(sampler, "b", 2, steps=1)
            seeds += suite.seeds
    assert len(set(seeds)) == len(seeds) == 36


def test_workers_versions_and_run_seeds_start_differently():
    rows = [sample(make_sampler(seed=seed, worker=worker), steps=1) for seed, worker in ((0, 0), (0, 1), (1, 0))]
    rows.append(sample(make_sampler(), version=2, steps=1))
    starts = np.concatenate([r["obs"][:, 0] for r in rows])
    assert len(set(starts.tolist())) == len(starts)


def test_episode_numbers_are_never_used_twice():
    numbers = []
    for worker, tag in ((0, 0), (1, 0), (1, 7), (2047, 255)):
        for version in (1, 2):
            rows = sample(make_sampler(worker=worker, process_tag=tag), version=version, steps=120)
            numbers += np.unique(rows["episode"]).tolist()
    assert len(set(numbers)) == len(numbers) == 8 * 9 and min(numbers) >= 0


@pytest.mark.parametrize("random_actions", [False, True])
def test_a_process_started_anew_in_a_version_does_not_bring_its_transitions_again(random_actions: bool):
    first, anew = (sample(make_sampler(process_tag=tag), random_actions=random_actions) for tag in (0, 7))
    assert not np.isin(first["actions"], anew["actions"]).any()
    assert not np.isin(first["obs"][:, :2], anew["obs"][:, :2]).any()


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
    assert rows.keys() == {"obs", "actions", "rewards", "success", "episode"}
    assert {len(column) for column in rows.values()} == {num_env_steps}
    assert [e["episode"] for e in episodes] == list(range(len(episodes))) == np.unique(rows["episode"]).tolist()
    for e in episodes:
        mine = rows["episode"] == e["episode"]
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


# The runner in RLlib's hands


def make_config(**resources: Any) -> ContinualSACConfig:
    config = ContinualSACConfig().curriculum(suite="point_mass", tasks=TASKS, cycles=1)
    config.networks(hidden=[8, 8])
    config.seed = 3
    for name, value in {"num_envs_per_env_runner": 2, **resources}.items():
        setattr(config, name, value)
    return config


def make_runner(worker_index: int = 0) -> ContinualEnvRunner:
    return ContinualEnvRunner(config=make_config(), worker_index=worker_index)


def test_the_runner_names_task_version_and_worker_in_every_reply():
    runner = make_runner()
    replies = [
        runner.sample(task=RIGHT, version=4, num_vector_steps=3),
        runner.evaluate(task=LEFT, version=5, episode_indices=[0, 1]),
        runner.rollout(task=RIGHT, version=6, num_env_steps=7, rollout_index=0),
    ]
    assert [(r["task"], r["version"], r["worker_index"], r[WEIGHTS_SEQ_NO]) for r in replies] == [
        (RIGHT, 4, 0, 0),
        (LEFT, 5, 0, 0),
        (RIGHT, 6, 0, 0),
    ]
    assert [len(r["columns"]["obs"]) if "columns" in r else None for r in replies] == [6, None, 7]
    runner.stop()


def test_an_error_is_an_answer_too():
    runner = make_runner(2)
    request: dict[str, Any] = {"task": RIGHT, "version": 1, "num_vector_steps": 4}
    assert equal(runner.answer("sample", **request)["columns"], make_runner(2).sample(**request)["columns"])
    answer = runner.answer("sample", task="reach-lft", version=1, num_vector_steps=4)
    assert answer["worker_index"] == 2
    assert type(answer["failure"]) is RuntimeError
    assert str(answer["failure"]).startswith("rollout worker 2, sample: ValueError: task is 'reach-lft'; the run's")


def test_the_runner_takes_pushed_weights_even_of_an_older_sequence_number():
    runner = make_runner()
    weights = runner.get_state(components=COMPONENT_RL_MODULE)[COMPONENT_RL_MODULE]
    for seq_no, value in ((5, 0.25), (3, -0.5)):
        pushed = {name: np.full_like(array, value) for name, array in weights.items()}
        runner.set_state({COMPONENT_RL_MODULE: {DEFAULT_MODULE_ID: pushed}, WEIGHTS_SEQ_NO: seq_no})
        state = runner.get_state()
        assert state[WEIGHTS_SEQ_NO] == seq_no
        assert all((array == value).all() for array in state[COMPONENT_RL_MODULE].values())
    assert runner.sample(task=LEFT, version=1, num_vector_steps=1)[WEIGHTS_SEQ_NO] == 3


def test_the_module_that_acts_is_looked_up_at_each_step():
    runner = make_runner()
    learning = make_runner().module
    with torch.no_grad():
        for parameter in learning.parameters():
            parameter.fill_(0.0)
    runner.module = learning
    reply = runner.rollout(task=LEFT, version=1, num_env_steps=5, rollout_index=0, explore=False)
    assert (reply["columns"]["actions"] == 0.0).all()


def test_the_runner_counts_its_steps_and_episodes():
    runner = make_runner()
    for _ in range(2):
        runner.sample(task=LEFT, version=1, num_vector_steps=HORIZON)
    metrics = runner.get_metrics()
    assert metrics[NUM_ENV_STEPS_SAMPLED].peek() == 4 * HORIZON and metrics[NUM_EPISODES].peek() == 4
    assert runner.get_metrics()[NUM_ENV_STEPS_SAMPLED].peek() == 0
    assert runner.get_state()["num_env_steps_sampled_lifetime"] == 4 * HORIZON


def test_no_environment_is_built_before_a_request():
    runner = make_runner()
    runner.assert_healthy()
    assert [space.shape for space in runner.get_spaces()[DEFAULT_MODULE_ID]] == [(6,), (2,)]
    assert not runner._sampler._vectors


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=150_000_000, logging_level="error")
    yield
    ray.shutdown()


def test_a_remote_runner_gives_the_rows_of_a_local_one(cluster):
    actor = ray.remote(num_cpus=0)(ContinualEnvRunner).remote(config=make_config(), worker_index=1)
    request: dict[str, Any] = {"task": RIGHT, "version": 2, "num_vector_steps": 40}
    reply = ray.get(actor.sample.remote(**request))
    assert reply["worker_index"] == 1
    assert equal(reply["columns"], make_runner(1).sample(**request)["columns"])
    evaluation = ray.get(actor.evaluate.remote(task=LEFT, version=2, episode_indices=[4, 2]))
    assert evaluation["episodes"] == make_runner().evaluate(task=LEFT, version=2, episode_indices=[4, 2])["episodes"]
    ray.kill(actor)


def test_an_idle_killed_env_runner_brings_no_wrong_task_transition(cluster):
    config = make_config(num_env_runners=1, num_cpus_per_env_runner=0.5)
    config.visit(max_env_steps=200, warmup_env_steps=20, early_stop=None)
    config.evaluation(boundary_episodes=1, periodic_episodes=0, num_envs=1, report_env_steps=40)
    config.training(batch_size=8, rollout_fragment_length=5, updates_per_env_step=0.1)
    algo = config.build_algo()

    while algo.train()["visit"] == 1:
        pass
    algo.train()
    # Behind RLlib's back: it notices nothing, since Ray has restarted the actor when it is next asked.
    worker = algo.env_runner_group._worker_manager.actors()[1]
    pid = ray.get(worker.apply.remote(lambda runner: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    while True:
        try:
            time.sleep(0.5)
            new_pid, tag = ray.get(worker.apply.remote(lambda runner: (os.getpid(), runner._sampler._process_tag)))
            break
        except ray.exceptions.RayActorError:
            continue
    assert new_pid != pid and tag > 0
    result = algo.train()
    while not result["done"]:
        goals = algo.replay.newest_obs(len(algo.replay))[:, 4]
        # Goals of reach-right have a positive x; an untold runner would be back at reach-left.
        assert len(goals) == algo.schedule.progress.env_steps and (goals > 0).all()
        result = algo.train()
    assert result["fault_tolerance"]["num_remote_worker_restarts"] == 0
    algo.stop()
