"""Environments whose observations are moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.spaces import Box, Discrete

from rllib_nbsp import ContinualSACConfig
from rllib_nbsp.envs import SUITES, EnvironmentContractError
from rllib_nbsp.envs.offset import OffsetSettings, OffsetSuite
from rllib_nbsp.run import run_settings
from rllib_nbsp.sampling.vector import EnvVector
from rllib_nbsp.settings import ConfigError
from rllib_nbsp.study.reader import load_study
from tests.studies import write_config
from tests.tiny import short_run

PENDULUM = "Pendulum-v1@return>=-300"
BASES = {  # as the section has it: (the suite that it is of, its task there)
    PENDULUM: ("gymnasium", PENDULUM),
    "point_mass:reach-left": ("point_mass", "reach-left"),
}
PAIR = ["plain", "offset-1"]


def suite_with(**section: Any) -> OffsetSuite:
    return OffsetSuite(OffsetSettings(**section))


def episode(env: gym.Env[Any, Any], steps: int = 220) -> tuple[list[np.ndarray], list[Any]]:
    """Observations, and what else the steps return, under actions that are always the same."""
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)
    observations, rest = [env.reset()[0]], []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        observations.append(obs)
        rest.append((reward, terminated, truncated, info["success"]))
        if terminated or truncated:
            observations.append(env.reset()[0])
    return observations, rest


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("task", ["plain", "offset-1", "offset-7", "far"])
def test_an_episode_is_the_bases_with_observations_that_are_moved_to_the_last_bit(base: str, task: str):
    suite_name, base_task = BASES[base]
    of_base = SUITES[suite_name]
    dim = of_base.task_spaces(base_task)[0].shape[0]
    suite = suite_with(base=base, offsets={"far": [0.1 * i - 3 for i in range(dim)]})
    env, plain = suite.make_env(task, seed=5), of_base.make_env(base_task, seed=5)
    for seed in (None, 11):
        if seed is not None:
            suite.reseed(env, seed)
            of_base.reseed(plain, seed)
        (moved, rest), (observations, expected) = episode(env), episode(plain)
        assert rest == expected
        for obs, base_obs in zip(moved, observations, strict=True):
            assert obs.dtype == base_obs.dtype == np.float32
            assert np.array_equal(obs, base_obs + suite.offset(task))


def test_a_drawn_offset_is_numpys_for_that_seed_and_the_same_in_every_run():
    suite = suite_with(base=PENDULUM, std=2.0)
    assert np.array_equal(suite.offset("offset-1"), np.random.default_rng(1).normal(0, 2, 3).astype(np.float32))
    np.testing.assert_allclose(suite.offset("offset-1"), [0.69116837, 1.6432363, 0.6608741], rtol=1e-6)
    assert np.array_equal(suite.offset("plain"), np.zeros(3))
    assert np.array_equal(suite_with(base=PENDULUM, std=4.0).offset("offset-1"), 2 * suite.offset("offset-1"))
    assert not np.array_equal(suite.offset("offset-2"), suite.offset("offset-1"))


def test_a_given_offset_is_taken_as_it_is():
    suite = suite_with(offsets={"far": [5.0, 0.0, -1.5]})
    assert suite.offset("far").tolist() == [5.0, 0.0, -1.5]
    assert suite.check_tasks(["plain", "far", "offset-0", "offset-123456789"]) == []


@pytest.mark.parametrize(("base", "obs_dim", "act_dim"), [(PENDULUM, 3, 1), ("point_mass:reach-left", 6, 2)])
def test_all_tasks_have_one_space_without_bounds_and_the_actions_of_the_base(base: str, obs_dim: int, act_dim: int):
    suite = suite_with(base=base, offsets={"far": [100.0] * obs_dim})
    tasks = ["plain", "offset-1", "far"]
    observation_space, action_space = suite.spaces(tasks)
    assert observation_space == Box(-np.inf, np.inf, (obs_dim,), np.float32)
    assert action_space == Box(-1.0, 1.0, (act_dim,), np.float32)
    for task in tasks:
        env = suite.make_env(task, seed=0)
        assert env.observation_space == observation_space
        assert env.observation_space.contains(env.reset()[0])


def test_success_is_the_bases():
    for goal, solved in (("-1e5", True), ("-1", False)):
        env = suite_with(base=f"Pendulum-v1@return>={goal}").make_env("offset-1", seed=0)
        env.reset()
        infos = [env.step(np.zeros(1, np.float32))[4] for _ in range(200)]
        assert [SUITES["offset"].success(info) for info in infos] == [False] * 199 + [solved]


def test_a_base_may_have_discrete_actions_or_be_of_metaworld_or_run_in_mujoco():
    cart = suite_with(base="CartPole-v1@return>=20")
    assert cart.check_section() == []
    assert cart.spaces(PAIR)[1] == Discrete(2)
    for base, dim in (("Reacher-v5@return>=-6", 10), ("metaworld:button-press-v3", 39)):
        suite = suite_with(base=base)
        assert suite.check_section() == [] and suite.spaces(PAIR)[0].shape == (dim,)


def test_a_suites_name_before_a_colon_is_the_suite_and_any_other_is_a_module():
    for base in (f"gymnasium:{PENDULUM}", f"gymnasium.envs:{PENDULUM}"):
        assert suite_with(base=base).check_section() == []


class Shrinking(gym.Env[np.ndarray, np.ndarray]):
    """Its third observation has another shape than its space."""

    observation_space = Box(-1, 1, (3,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.steps += 1
        return np.zeros(3 if self.steps == 1 else 1, np.float32), 0.0, False, False, {}


class Broken(Shrinking):
    """Each step but the first fails."""

    def step(self, action: np.ndarray) -> Any:
        if self.steps == 1:
            raise RuntimeError("no torque")
        return super().step(action)


@pytest.mark.parametrize(
    ("entry_point", "error"),
    [
        (Shrinking, r"the observation must be a float32 array of shape \(3,\), got float32 array of shape \(1,\)"),
        (Broken, r"RuntimeError: no torque \(11 episodes in a row failed, none ended by itself\)"),
    ],
)
def test_a_fault_of_the_base_is_named_as_one_of_the_task(entry_point: Any, error: str):
    name = f"Offset{entry_point.__name__}-v0"
    gym.register(name, entry_point=entry_point, max_episode_steps=5)
    try:
        suite = suite_with(base=f"{name}@return>=1")
        space, _ = suite.spaces(PAIR)
        vector = EnvVector(suite, "offset-1", 1, observation_space=space, env_seed=lambda env, incarnation: 0)
        vector.reset(lambda env, episode, incarnation: None)
        kind = EnvironmentContractError if entry_point is Shrinking else RuntimeError
        with pytest.raises(kind, match=f"offset task 'offset-1', sub-environment 0, .*{error}"):
            for _ in range(20):
                vector.step(np.zeros((1, 1), np.float32))
    finally:
        del gym.registry[name]


# What a wrong study says

ALLOWED_BASES = "allowed: a gymnasium task, or SUITE:TASK of metaworld or point_mass"
TAKEN = "is a name that is taken; allowed: any but plain and offset-N"
NAMES = "allowed: plain, offset-N with a whole number N of at most 9 digits, or a name of offset.offsets"
VECTORS = {"far": [1.0, 2.0, 3.0], "near": [1.0, 2.0, 3.0]}
WRONG: list[tuple[dict[str, Any], list[str], list[str]]] = [  # (section, tasks, what the one line must say)
    (
        {"base": "Pendulm-v1@return>=-300"},
        PAIR,
        ["offset.base is 'Pendulm-v1@return>=-300'", ALLOWED_BASES, "did you mean 'Pendulum-v1'"],
    ),
    ({"base": "pointmass:reach-left"}, PAIR, ["offset.base is 'pointmass:reach-left'", "did you mean 'point_mass'?"]),
    ({"base": "point_mass:reach-lft"}, PAIR, ["offset.base is 'point_mass:reach-lft'", "did you mean 'reach-left'"]),
    ({"base": "offset:plain"}, PAIR, ["offset.base is 'offset:plain'", ALLOWED_BASES]),
    ({"base": "Pendulum-v1"}, PAIR, ["offset.base is 'Pendulum-v1'", "give the task a return goal: ENV_ID@return>=X"]),
    ({"base": "Pendulum-v1@goal"}, PAIR, ["offset.base is 'Pendulum-v1@goal'", "'@goal' is not a goal"]),
    ({"base": "atari:Pong"}, PAIR, ["offset.base is 'atari:Pong'", "(4, 84, 84)", "an offset moves vectors"]),
    ({"base": "FrozenLake-v1@return>=1"}, PAIR, ["offset.base is 'FrozenLake-v1@return>=1'", "must be a 1-d Box"]),
    (
        {"offsets": {"far": [1.0, 2.0]}},
        ["plain", "far"],
        ["offset.offsets.far has 2 numbers; allowed: 3, as the observations of 'Pendulum-v1@return>=-300' have"],
    ),
    ({"offsets": {"far": []}}, PAIR, ["offset.offsets.far has 0 numbers; allowed: 3"]),
    ({"offsets": {"plain": [1.0, 2.0, 3.0]}}, PAIR, [f"offset.offsets.plain {TAKEN}"]),
    ({"offsets": {"offset-3": [1.0, 2.0, 3.0]}}, PAIR, [f"offset.offsets.offset-3 {TAKEN}"]),
    ({"offsets": VECTORS}, PAIR, ["offset.offsets: 'far' and 'near' have the same offset, [1, 2, 3]"]),
    ({"offsets": {"far": [0.0, -0.0, 0.0]}}, PAIR, ["'plain' and 'far' have the same offset", "one name for each"]),
    ({"std": 1e-300}, PAIR, ["tasks: 'plain' and 'offset-1' have the same offset, [0, 0, 0]"]),
    (
        {"offsets": {"far": np.random.default_rng(1).normal(0, 2, 3).tolist()}},
        ["far", "offset-1"],
        ["tasks: 'far' and 'offset-1' have the same offset, [0.691168, 1.64324, 0.660874]"],
    ),
    ({}, ["plain", "far"], ["tasks[1]: unknown offset task 'far'", NAMES]),
    *(
        ({}, ["plain", name], [f"tasks[1]: unknown offset task {name!r}", NAMES, "did you mean 'offset-1'?"])
        for name in ("offset-01", "offset", "offset--1", "offset-1.5", "offset-1234567890", "offset_1", "offset-1\n")
    ),
    ({}, ["Plain", "offset-1"], ["tasks[0]: unknown offset task 'Plain'", "did you mean 'plain'?"]),
]


def ids(case: Any) -> str:
    return str(case)[:60]


@pytest.mark.parametrize(("section", "tasks", "said"), WRONG, ids=ids)
def test_a_wrong_study_says_one_thing_before_anything_starts(
    tmp_path: Path, section: dict[str, Any], tasks: list[str], said: list[str]
):
    path = write_config(tmp_path, suite="offset", offset=section, sequences={"pair": tasks, "again": tasks[::-1]})
    with pytest.raises(ConfigError) as caught:
        load_study(path, sequences=["pair"])
    problems = [line for line in caught.value.problems if "sequences.again: " not in line]
    assert len(problems) == 1
    for words in said:
        assert words in problems[0]


@pytest.mark.parametrize(("section", "tasks", "said"), WRONG, ids=ids)
def test_a_wrong_configuration_from_python_says_the_same(section: dict[str, Any], tasks: list[str], said: list[str]):
    with pytest.raises(ValueError) as caught:
        ContinualSACConfig().suite("offset", **section).curriculum(tasks=tasks).validate()
    assert len(str(caught.value).splitlines()) == 1
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("offset.std=0", "offset.std is 0; allowed: a number > 0 and <= 1000000"),
        ("offset.std=.inf", "offset.std is inf; allowed: a number > 0 and <= 1000000"),
        ("offset.base=3", "offset.base is 3; allowed: text"),
        ("offset.offset={far: [1, 2, 3]}", "unknown key 'offset.offset': did you mean 'offsets'?"),
        ("offset.offsets={far: 5}", "offset.offsets.far is 5; allowed: a list: a number >= -1000000 and <= 1000000"),
        ("offset.offsets={far: [1, .nan, 3]}", "offset.offsets.far[1] is nan; allowed: a number >= -1000000"),
        ("offset.offsets={far: [1, 1.0e+39, 3]}", "offset.offsets.far[1] is 1e+39; allowed: a number >= -1000000"),
    ],
)
def test_a_wrong_value_of_the_section_is_named_alone(tmp_path: Path, override: str, said: str):
    path = write_config(tmp_path, suite="offset", sequences={"pair": ["plain", "far"]})
    with pytest.raises(ConfigError) as caught:
        load_study(path, [override])
    [problem] = caught.value.problems  # tasks are not judged by a section that is wrong
    assert said in problem


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"base": "Pendulm-v1@return>=-300"}, "arms.sac.offset.base is 'Pendulm-v1@return>=-300'; allowed: "),
        ({"std": 1e-300}, "arms.sac.offset: sequences.pair: tasks: 'plain' and 'offset-1' have the same offset"),
        ({"base": "point_mass:reach-left"}, "offset.offsets.far has 3 numbers; allowed: 6"),
    ],
)
def test_the_section_is_also_checked_as_an_arm_has_it(tmp_path: Path, section: dict[str, Any], said: str):
    arms = {"sac": {"method": "sac", "offset": section}}
    path = write_config(
        tmp_path,
        suite="offset",
        offset={"base": PENDULUM, "offsets": {"far": [1.0, 2.0, 3.0]}},
        sequences={"pair": PAIR},
        arms=arms,
    )
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    [problem] = caught.value.problems
    assert said in problem


# A run


def test_a_run_learns_two_tasks_of_one_environment_and_is_read_back(tmp_path: Path):
    config = ContinualSACConfig().suite("offset", base="point_mass:reach-left", offsets={"far": [3.0] * 6})
    config = short_run(config, tmp_path).suite("offset").curriculum(tasks=["plain", "far"], cycles=1)
    algo = config.build_algo()
    try:
        while not (result := algo.train())["done"]:
            pass
    finally:
        algo.stop()
    assert result["task"] == "far"
    rows = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert {(row["suite"], row["trained_task"], row["eval_task"]) for row in rows} == {
        ("offset", trained, evaluated) for trained in ("plain", "far") for evaluated in ("plain", "far")
    }
    read = run_settings(**yaml.safe_load((tmp_path / "config.yaml").read_text()))
    assert read == config.settings
    # The goals of the last visit's transitions lie to the left, as the base has them, and 3 away from there.
    batch = algo.replay.sample(range(1, 9), 1)
    assert (batch["obs"][:, 4] < 3.0).all() and (batch["obs"][:, 4] > 2.0).all()
