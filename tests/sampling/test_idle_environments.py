"""Environments that are not at work: how many of them are kept, and that nobody can tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_nbsp.envs.base import Suite
from rllib_nbsp.envs.point_mass import DIRECTIONS, PointMassEnv, PointMassSuite
from rllib_nbsp.run import run_settings
from rllib_nbsp.sampling.sampler import Sampler
from rllib_nbsp.settings import EvaluationSettings, ResourceSettings
from tests.sampling.samplers import Policy

TASKS = list(DIRECTIONS)
TRAINING, EVALUATION = 3, 2  # environments of a vector
FAILS = 0.01


class BrittleEnv(PointMassEnv):
    """A point mass whose place is drawn as it is built, and which breaks now and then in training.

    An evaluation's episode is seeded by its index alone, so that there it would break again and again.
    """

    def __init__(self, suite: BrittleSuite, direction: tuple[float, float], seed: int, training: bool) -> None:
        super().__init__(direction, seed)
        self._suite, self._training = suite, training
        self._centre = (self._centre[0] + self.np_random.normal(), self._centre[1])
        suite.alive += 1
        suite.most = max(suite.most, suite.alive)

    def step(self, action: np.ndarray) -> Any:
        if self._training and self.np_random.random() < FAILS:
            raise RuntimeError("broken")
        return super().step(action)

    def close(self) -> None:
        self._suite.alive -= 1


class BrittleSuite(PointMassSuite):
    """Counts the environments that are alive, and the most that there were at once."""

    def __init__(self) -> None:
        self.alive = self.most = 0

    def make_env(self, task: str, *, seed: int, training: bool = True) -> BrittleEnv:
        return BrittleEnv(self, DIRECTIONS[task], seed, training)


def sampler_of(suite: Suite, max_idle_envs: int) -> Sampler:
    run = run_settings(
        suite="point_mass",
        tasks=TASKS,
        resources=ResourceSettings(num_envs_per_env_runner=TRAINING, max_idle_envs=max_idle_envs),
        evaluation=EvaluationSettings(num_envs=EVALUATION),
    )
    spaces: tuple[Box, Box] = suite.task_spaces(TASKS[0])  # type: ignore[assignment]
    return Sampler(suite, *spaces, Policy(6, width=8), run)


def ask(sampler: Sampler, request: tuple[str, int, int]) -> Any:
    use, task, number = request
    if use == "training":
        return sampler.sample(task=TASKS[task], version=number, num_vector_steps=30)
    if use == "evaluation":
        return sampler.evaluate(task=TASKS[task], version=0, episode_indices=range(number + 1))
    return sampler.rollout(task=TASKS[task], version=0, num_env_steps=40, rollout_index=number)


requests = st.tuples(
    st.sampled_from(["training", "evaluation", "scoring"]), st.integers(0, len(TASKS) - 1), st.integers(0, 3)
)


def state(sampler: Sampler) -> Any:
    found = sampler.get_state()
    if found["running"]:
        found["running"]["noise"] = found["running"]["noise"].numpy()
    return found


def same(one: Any, other: Any) -> bool:
    np.testing.assert_equal(one, other)
    return True


@settings(max_examples=15, deadline=None)
@given(st.lists(requests, min_size=2, max_size=15), st.integers(0, 2 * TRAINING + EVALUATION))
def test_rows_and_states_are_the_same_whatever_is_kept(asked: list[tuple[str, int, int]], max_idle_envs: int) -> None:
    keeping, dropping = sampler_of(BrittleSuite(), 10_000), sampler_of(BrittleSuite(), max_idle_envs)
    for request in asked:
        assert same(ask(dropping, request), ask(keeping, request)), request
        assert same(state(dropping), state(keeping)), request
    assert dropping.take_rebuilt() == keeping.take_rebuilt()


@pytest.mark.parametrize("max_idle_envs", [0, 4, 7])
def test_what_is_alive_does_not_grow_with_tasks(max_idle_envs: int) -> None:
    suite = BrittleSuite()
    sampler = sampler_of(suite, max_idle_envs)
    for visit, _ in enumerate(TASKS):
        ask(sampler, ("training", visit, visit))
        for task, _ in enumerate(TASKS):
            ask(sampler, ("evaluation", task, 3))
        ask(sampler, ("scoring", visit, 0))
    # Beside the idle ones: the running episodes', and those of the request.
    assert max_idle_envs <= suite.most <= max_idle_envs + TRAINING + max(TRAINING, EVALUATION)
    sampler.close()
    assert suite.alive == 0


def test_running_episodes_go_on_whatever_else_is_asked() -> None:
    sampler, undisturbed = (sampler_of(PointMassSuite(), 0) for _ in range(2))
    for _ in range(3):
        for task, _ in enumerate(TASKS):
            ask(sampler, ("evaluation", task, 1))
        assert same(ask(sampler, ("training", 0, 1)), ask(undisturbed, ("training", 0, 1)))


def test_the_longest_unused_are_closed_first() -> None:
    suite = BrittleSuite()
    sampler = sampler_of(suite, 2 * EVALUATION)
    built = []
    for task in (0, 1, 2, 0, 1, 2, 3, 1, 0):  # three stay; then 3 takes the place of 0
        before = suite.most, len(built)
        counted, suite.most = suite.alive, 0
        ask(sampler, ("evaluation", task, 0))
        built.append(suite.most > 0)
        suite.most = max(before[0], counted)
    assert built == [True, True, True, False, False, False, True, False, True]
