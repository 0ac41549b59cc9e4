"""The sampler's training rows: their order, their summaries, versions and random streams."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_nbsp.sampling.episodes import Rows
from tests.sampling.samplers import LEFT, RIGHT, TASKS, Policy, equal, games, make_sampler, sample
from tests.toy_suite import ToyEnv, ToySuite

# Rows


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


class OnGlobalStreams(ToySuite):
    """Environments that draw from Python's and NumPy's global streams alone."""

    def __init__(self) -> None:
        super().__init__(
            on_reset=lambda env, obs: obs + draw(), on_step=lambda env, step: (step[0] + draw(), *step[1:])
        )


def draw() -> np.float32:
    return np.float32(random.random() + np.random.random())


@pytest.mark.parametrize("request_", ["evaluate", "rollout"])
def test_environments_on_the_global_streams_follow_the_seed_and_training_knows_nothing_of_other_requests(request_):
    def rows(*, asks: bool) -> np.ndarray:
        sampler = make_sampler(OnGlobalStreams())
        fragments = []
        for _ in range(3):
            fragments.append(sampler.sample(task="a", version=1, num_vector_steps=4)[0]["obs"])
            if asks and request_ == "evaluate":
                sampler.evaluate(task="b", version=1, episode_indices=[0, 1, 2])
            elif asks:
                sampler.rollout(task="b", version=1, num_env_steps=20, rollout_index=0)
        return np.concatenate(fragments)

    random.seed(1)
    alone = rows(asks=False)
    random.seed(2)
    assert np.array_equal(rows(asks=True), alone)


def test_an_evaluation_on_the_global_streams_repeats_itself_and_leaves_them():
    sampler = make_sampler(OnGlobalStreams())
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = sampler.rollout(task="a", version=1, num_env_steps=20, rollout_index=0)[0]["obs"]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    np.random.random(7)
    again = sampler.rollout(task="a", version=2, num_env_steps=20, rollout_index=0)[0]["obs"]
    drawn = [0, 3]  # the other columns count environments and episodes
    assert np.array_equal(again[:, drawn], first[:, drawn])


def test_what_a_network_does_with_its_input_stays_with_it():
    class InPlace(Policy):
        def __call__(self, obs: Tensor, **kwargs: Any) -> Tensor:
            return super().__call__(obs.mul_(255.0), **kwargs)

    sampler = make_sampler(act=InPlace(6))
    for columns in (sample(sampler), sampler.rollout(task=LEFT, version=1, num_env_steps=20, rollout_index=0)[0]):
        assert np.abs(columns["obs"]).max() <= 1.0


class DrawingAtConstruction(ToySuite):
    """Environments that draw what they are from the global streams, once."""

    def __init__(self) -> None:
        super().__init__(on_step=lambda env, step: (step[0] + env.drawn, *step[1:]))

    def make_env(self, task: str, *, seed: int, training: bool = True) -> ToyEnv:
        env = super().make_env(task, seed=seed)
        env.drawn = draw()  # type: ignore[attr-defined]
        return env


def test_what_environments_draw_when_they_are_built_follows_the_seed():
    def rows(seed: int, before: int) -> Rows:
        random.seed(before)
        np.random.seed(before)
        return sample(make_sampler(DrawingAtConstruction(), seed=seed), "a", steps=3)

    assert equal(rows(0, before=1), rows(0, before=2))
    assert not equal(rows(0, before=1), rows(1, before=1))
