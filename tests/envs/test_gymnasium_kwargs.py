"""Keyword arguments of a user's own environments."""

from __future__ import annotations

import keyword
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_nbsp import ContinualSACConfig
from rllib_nbsp.envs import SUITES
from rllib_nbsp.envs.gymnasium import GymnasiumTask
from tests.envs.test_gymnasium import Corridor, register

SUITE = SUITES["gymnasium"]

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda v: st.lists(v) | st.dictionaries(st.text(), v) | st.tuples(v, v), max_leaves=5)
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))
GOALS = st.none() | st.floats(-1e9, 1e9)


@given(kwargs=st.dictionaries(NAMES, VALUES, max_size=4), goal=GOALS, env_id=st.sampled_from(["A-v0", "m.n:ns/A-v1"]))
def test_any_plain_values_come_back_from_a_task(kwargs: dict[str, Any], goal: float | None, env_id: str) -> None:
    call = f"({', '.join(f'{key}={value!r}' for key, value in kwargs.items())})" if kwargs else ""
    task = GymnasiumTask.parse(f"{env_id}{call}{'' if goal is None else f'@return>={goal!r}'}")
    assert task == GymnasiumTask(env_id, goal, kwargs)


def test_an_environment_is_built_with_its_arguments():
    name = register("Corridor-v0")
    env = SUITE.make_env(f"{name}(low=0.0, high=10.0, dim=3)", seed=0)
    assert env.reset()[0].shape == (3,)
    assert [env.step(np.array([a], np.float32))[0][0] for a in (-1.0, 0.0, 1.0)] == [0.0, 5.0, 10.0]
    env = SUITE.make_env(f"{name}(flag=None)@return>=4", seed=0)
    env.reset()
    assert [SUITE.success(env.step(np.zeros(1, np.float32))[4]) for _ in range(4)] == [False, False, False, True]


def test_the_time_limit_may_be_an_argument():
    endless = register("CorridorEndless-v0", max_episode_steps=None)
    assert "has no time limit" in SUITE.check_tasks([endless])[0]
    assert "has no time limit" in SUITE.check_tasks([f"{register('Corridor-v0')}(max_episode_steps=-1)"])[0]
    assert SUITE.check_tasks([f"{endless}(max_episode_steps=2)"]) == []
    env = SUITE.make_env(f"{endless}(max_episode_steps=2)", seed=0)
    env.reset()
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(2)] == [False, True]


def test_tasks_of_one_environment_differ_by_their_arguments():
    name = register("Corridor-v0")
    SUITE.spaces([f"{name}(high=1.0)", f"{name}(high=2.0)"])
    with pytest.raises(ValueError, match=r"differ in their observation space: shape \(2,\) against \(3,\)"):
        SUITE.spaces([name, f"{name}(dim=3)"])


@pytest.mark.parametrize(
    "call",
    ["(1)", "(high=low)", "(high=__import__('os'))", "(**{})", "(high=1", "high=1)", "(high=1)(low=1)", "(a=1, a=2)"],
)
def test_malformed_arguments_are_one_line(call: str):
    register("Corridor-v0")
    (error,) = SUITE.check_tasks([f"Corridor-v0{call}@return>=1"])
    task = f"Corridor-v0{call}@return>=1"
    assert error.startswith(f"tasks[0]: gymnasium task {task!r}: ") and "\n" not in error


class Refusing(Corridor):
    def __init__(self, wheels: int = 4) -> None:
        super().__init__()
        if wheels < 3:
            raise RuntimeError(f"{wheels} wheels are too few")


@pytest.mark.parametrize(
    ("call", "said"), [("(doors=2)", "'doors'"), ("(wheels=2)", "RuntimeError: 2 wheels are too few")]
)
def test_arguments_that_an_environment_refuses_are_told_before_anything_starts(call: str, said: str):
    name = register("CorridorRefusing-v0", entry_point=Refusing)
    config = ContinualSACConfig().curriculum(suite="gymnasium", tasks=[f"{name}{call}"]).env_runners(num_env_runners=1)
    with pytest.raises(ValueError, match=r"task 'CorridorRefusing-v0\(.*cannot be built: ") as caught:
        config.build_algo()
    assert said in str(caught.value)


def test_the_modules_that_tasks_are_imported_from_are_known():
    tasks = ["one:A-v0@return>=1", "B-v0", "two.three:C-v0(x='four:D')", "one:E-v0"]
    assert SUITE.modules(tasks) == ["one", "two.three"]
