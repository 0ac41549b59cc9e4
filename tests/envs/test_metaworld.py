"""Meta-World: that seeds take effect, and that ours is the public environment to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from rllib_nbsp.envs import SUITES, metaworld
from rllib_nbsp.envs.base import Env
from rllib_nbsp.envs.metaworld import MetaWorldEnv, MetaWorldSuite

SUITE = SUITES["metaworld"]
TASK = "window-open-v3"


@pytest.fixture(scope="module")
def make() -> Callable[[int], MetaWorldEnv]:
    """Environments by seed, built once: 0.7 s each."""
    built: dict[int, Env] = {}
    return lambda seed: built.setdefault(seed, SUITE.make_env(TASK, seed=seed))  # type: ignore[return-value]


def actions(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 4)).astype(np.float32)


def goals(env: Env, resets: int) -> np.ndarray:
    return np.stack([env.reset()[0][-3:] for _ in range(resets)])


def test_an_episode_is_cut_at_500_steps_and_never_terminates(make):
    env = make(1)
    obs, _ = env.reset()
    assert obs.dtype == np.float32 and obs.shape == (39,) and env.observation_space.contains(obs)
    assert np.any(obs[-3:] != 0), "the goal is hidden"
    steps = [env.step(action) for action in actions(500)]
    assert all(obs.dtype == np.float32 for obs, *_ in steps)
    assert not any(terminated for _, _, terminated, _, _ in steps)
    assert [i for i, (_, _, _, truncated, _) in enumerate(steps) if truncated] == [499]
    assert all(info["success"] in (0.0, 1.0) for *_, info in steps)


def test_equal_seeds_and_actions_give_equal_trajectories(make):
    first, second = make(1), MetaWorldSuite().make_env(TASK, seed=1)
    for env in (first, second):
        SUITE.reseed(env, 3)
    for _ in range(2):
        assert np.array_equal(first.reset()[0], second.reset()[0])
        for action in actions(60):
            a, b = first.step(action), second.step(action)
            assert np.array_equal(a[0], b[0]) and a[1:] == b[1:]


def test_another_seed_gives_other_goals(make):
    seen = [goals(make(seed), 30) for seed in (1, 2)]
    assert not np.isin(seen[0], seen[1]).all(axis=1).any()


def test_reseeding_repeats_the_order_of_the_goals_but_not_other_goals(make):
    env = make(1)
    SUITE.reseed(env, 5)
    first = goals(env, 10)
    goals(env, 3)
    SUITE.reseed(env, 5)
    assert np.array_equal(goals(env, 10), first)
    SUITE.reseed(env, 6)
    assert not np.array_equal(goals(env, 10), first)


def test_resetting_with_a_seed_takes_effect(make):
    env = make(1)
    first = env.reset(seed=3)[0]
    goals(env, 5)
    assert np.array_equal(env.reset(seed=3)[0], first)


def test_an_episode_does_not_depend_on_those_before_it(make):
    env = make(1)

    def episode() -> tuple[np.ndarray, list[float]]:
        obs = [env.reset(seed=3)[0]]
        steps = [env.step(action) for action in actions(60)]
        return np.stack(obs + [step[0] for step in steps]), [step[1] for step in steps]

    before = episode()
    env.reset()
    for action in -actions(200):
        env.step(action)
    after = episode()
    assert np.array_equal(before[0], after[0]) and before[1] == after[1]


def test_it_is_the_public_environment_without_its_wrappers(make):
    public = gym.make("Meta-World/MT1", env_name=TASK, seed=1, reward_function_version="v2", disable_env_checker=True)
    ours = make(1)
    assert [goal.data for goal in public.get_wrapper_attr("tasks")] == [goal.data for goal in ours.goals]
    public.reset()
    ours.reset()
    # Both on the same goal, whichever their streams chose.
    base: Any = public.unwrapped
    base.set_task(ours.goals[4])
    ours.base.set_task(ours.goals[4])
    theirs, mine = base.reset()[0], ours.base.reset()[0]
    assert np.array_equal(theirs, mine)
    for action in actions(100):
        theirs, mine = public.step(action), ours.step(action)
        assert np.array_equal(theirs[0].astype(np.float32), mine[0]) and theirs[1] == mine[1]
        assert theirs[4]["success"] == mine[4]["success"]


def test_building_environments_leaves_the_global_stream_alone():
    np.random.seed(123)
    expected = np.random.random(5)
    np.random.seed(123)
    suite = MetaWorldSuite()
    for _ in range(2):
        suite.make_env(TASK, seed=1).reset()
    assert np.array_equal(np.random.random(5), expected)


def test_a_sibling_shares_goals_and_their_order_and_nothing_else(make):
    env, sibling = make(1), SUITE.make_env(TASK, seed=1)
    assert isinstance(sibling, MetaWorldEnv) and env.base is not sibling.base
    for e in (env, sibling):
        SUITE.reseed(e, 4)
    assert np.array_equal(goals(env, 5), goals(sibling, 5))


def count_compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of models, as they are compiled from now on."""
    compiled: list[str] = []
    compile_model = mujoco.MjModel.from_xml_path

    def counted(path: str) -> Any:
        compiled.append(path)
        return compile_model(path)

    monkeypatch.setattr(mujoco.MjModel, "from_xml_path", counted)
    return compiled


def test_a_model_is_compiled_once_for_each_task_and_is_each_environments_own(monkeypatch):
    compiled = count_compilations(monkeypatch)
    suite = MetaWorldSuite()
    envs = [suite.make_env(TASK, seed=1) for _ in range(2)]
    assert len(compiled) == 1 + 1  # and one by Meta-World, which draws the goals
    first, second = (env.base.model for env in envs)
    first.body_pos[:] = 7.0
    assert not (second.body_pos == 7.0).any()
    assert not (suite.make_env(TASK, seed=1).base.model.body_pos == 7.0).any()
    assert len(compiled) == 2


def test_models_of_tasks_unused_for_long_are_compiled_again(monkeypatch):
    monkeypatch.setattr(metaworld, "KEPT_MODELS", 1)
    monkeypatch.setattr("metaworld.MT1", lambda task, seed: SimpleNamespace(train_tasks=[]))
    compiled = count_compilations(monkeypatch)
    suite = MetaWorldSuite()
    for task in (TASK, TASK, "drawer-close-v3", TASK):
        suite.make_env(task, seed=1)
    assert len(compiled) == 3


def test_two_tasks_share_their_spaces():
    tasks = [TASK, "drawer-close-v3"]
    assert SUITE.check_tasks(tasks) == []
    observation_space, action_space = SUITE.spaces(tasks)
    assert observation_space.shape == (39,) and action_space.shape == (4,)
    env = SUITE.make_env("drawer-close-v3", seed=0)
    assert observation_space.contains(env.reset()[0])
