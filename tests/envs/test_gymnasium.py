"""Users' own environments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from hypothesis import example, given
from hypothesis import strategies as st

from rllib_nbsp.envs import SUITES, EnvironmentContractError
from rllib_nbsp.envs.gymnasium import GymnasiumTask, GymnasiumTaskEnv, WithinBounds, within_bounds
from rllib_nbsp.sampling.vector import EnvVector

SUITE = SUITES["gymnasium"]


class Corridor(gym.Env[np.ndarray, np.ndarray]):
    """Float64 observation (start, last action); a reward of 1 a step; bounds of the action are free."""

    def __init__(self, low: float = -1.0, high: float = 1.0, flag: str | None = "is_success", dim: int = 2) -> None:
        self.shape = (dim,)
        self.observation_space = Box(-np.inf, np.inf, self.shape, np.float64)
        self.action_space = Box(low, high, (1,), np.float32)
        self._flag = flag

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.full(self.shape, self.np_random.random()), {}

    def step(self, action: np.ndarray) -> Any:
        obs = np.full(self.shape, float(action[0]))
        return obs, 1.0, False, False, {self._flag: action[0] > 0} if self._flag else {}


class Grid(Corridor):
    """A corridor with two choices at once."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = MultiDiscrete([3, 3])


def register(name: str, max_episode_steps: int | None = 4, entry_point: Any = Corridor, **kwargs: Any) -> str:
    if name not in gym.registry:
        gym.register(name, entry_point=entry_point, max_episode_steps=max_episode_steps, kwargs=kwargs)
    return name


@pytest.mark.parametrize("flag", ["success", "is_success"])
def test_success_comes_from_either_of_two_keys(flag: str):
    env = SUITE.make_env(register(f"Corridor_{flag}-v0", flag=flag), seed=0)
    env.reset()
    assert SUITE.success(env.step(np.array([0.5], np.float32))[4])
    assert not SUITE.success(env.step(np.array([-0.5], np.float32))[4])


def test_every_task_without_a_goal_must_report_success_before_anything_starts():
    task = register("CorridorSilent-v0", flag=None)
    with pytest.raises(
        ValueError, match=r"gymnasium task 'CorridorSilent-v0': .*neither info\['success'\].*@return>=X"
    ):
        SUITE.spaces([f"{task}@return>=4", register("Corridor-v0"), task])
    assert SUITE.spaces([f"{task}@return>=4", register("Corridor-v0")])


def test_an_environment_that_fails_at_its_first_step_is_named():
    class Broken(Corridor):
        def step(self, action: np.ndarray) -> Any:
            raise KeyError("wheel")

    gym.register("CorridorBroken-v0", entry_point=Broken, max_episode_steps=4)
    with pytest.raises(ValueError, match="task 'CorridorBroken-v0': fails at a first step: KeyError: 'wheel'"):
        SUITE.spaces(["CorridorBroken-v0"])


@pytest.mark.parametrize("module", [".x", "no_such_module_at_all"])
def test_a_module_that_cannot_be_imported_is_named(module: str):
    (error,) = SUITE.check_tasks([f"{module}:Foo-v0"])
    assert error.startswith(f"tasks[0]: gymnasium task '{module}:Foo-v0': cannot import '{module}': ")


def test_an_environment_without_a_success_flag_fails_at_its_first_step_with_the_way_out():
    task = register("CorridorSilent-v0", flag=None)
    space, _ = SUITE.spaces([f"{task}@return>=4"])
    vector = EnvVector(SUITE, task, 1, observation_space=space, env_seed=lambda env, incarnation: 0)
    vector.reset(lambda env, episode, incarnation: None)
    with pytest.raises(
        EnvironmentContractError, match=r"gymnasium task 'CorridorSilent-v0', sub-environment 0, .*@return>=X"
    ):
        vector.step(np.zeros((1, 1), np.float32))


@pytest.mark.parametrize(("goal", "solved"), [("4", True), ("4.5", False), ("-1e3", True)])
def test_a_return_goal_is_reached_at_the_last_step_only(goal: str, solved: bool):
    env = SUITE.make_env(register("CorridorSilent-v0", flag=None) + f"@return>={goal}", seed=0)
    for _ in range(2):  # The return starts again with each episode.
        env.reset()
        flags = [SUITE.success(env.step(np.array([0.0], np.float32))[4]) for _ in range(4)]
        assert flags == [False, False, False, solved]


def test_actions_are_rescaled_to_the_bounds_of_the_environment():
    env = SUITE.make_env(register("CorridorWide-v0", low=0.0, high=10.0), seed=0)
    env.reset()
    assert [env.step(np.array([a], np.float32))[0][0] for a in (-1.0, 0.0, 1.0)] == [0.0, 5.0, 10.0]


def test_observations_become_float32():
    env = SUITE.make_env(register("Corridor-v0"), seed=0)
    assert env.observation_space.dtype == np.float32
    assert env.reset()[0].dtype == np.float32
    assert env.step(np.array([0.1], np.float32))[0].dtype == np.float32


def test_the_first_reset_has_the_seed_and_later_ones_go_on():
    name = register("Corridor-v0")

    def starts(seed: int, resets: int) -> list[float]:
        env = SUITE.make_env(name, seed=seed)
        return [float(env.reset()[0][0]) for _ in range(resets)]

    assert starts(3, 4) == starts(3, 4)
    assert len(set(starts(3, 4))) == 4
    assert starts(3, 1) != starts(4, 1)


def test_reseeding_acts_on_the_next_reset():
    env = SUITE.make_env(register("Corridor-v0"), seed=0)
    env.reset()
    SUITE.reseed(env, 9)
    first = [env.reset()[0][0] for _ in range(3)]
    SUITE.reseed(env, 9)
    assert [env.reset()[0][0] for _ in range(3)] == first


def test_an_id_may_name_the_module_that_registers_it(monkeypatch):
    module = types.ModuleType("corridors_of_a_user")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    register("Corridor-v0")
    assert SUITE.check_tasks(["corridors_of_a_user:Corridor-v0@return>=1"]) == []
    assert SUITE.make_env("corridors_of_a_user:Corridor-v0", seed=0).reset()[0].shape == (2,)


def test_every_bad_task_gets_its_own_line():
    register("Corridor-v0")
    register("CorridorEndless-v0", max_episode_steps=None)
    lines = SUITE.check_tasks(
        ["Corridor-v0", "Coridor-v0", "CorridorEndless-v0", "no_such_module:X-v0", "Corridor-v0@reward>3", "@return>=1"]
    )
    assert [line.split(":")[0] for line in lines] == [f"tasks[{i}]" for i in range(1, 6)]
    assert "'Coridor-v0': no such environment is registered; did you mean 'Corridor-v0'" in lines[0]
    assert "'CorridorEndless-v0' has no time limit; register it with max_episode_steps" in lines[1]
    assert "cannot import 'no_such_module'" in lines[2]
    assert "'@reward>3' is not a goal; write ENV_ID or ENV_ID@return>=X" in lines[3]
    assert "no such environment" in lines[4]


def test_an_environment_that_cannot_be_built_is_named():
    def broken(**_: object) -> gym.Env[Any, Any]:
        raise RuntimeError("no display")

    gym.register("Broken-v0", entry_point=broken, max_episode_steps=5)
    try:
        with pytest.raises(ValueError, match="gymnasium task 'Broken-v0': cannot be built: RuntimeError: no display"):
            SUITE.spaces(["Broken-v0"])
    finally:
        del gym.registry["Broken-v0"]


@pytest.mark.parametrize("goal", ["@return>=", "@return>=abc", "@return>=nan", "@return>=inf", "@return>3"])
def test_a_goal_must_be_a_finite_number(goal: str):
    with pytest.raises(ValueError, match="is not a goal"):
        GymnasiumTask.parse("Corridor-v0" + goal)


def test_actions_that_have_no_bounds_or_are_lists_of_choices_are_refused():
    with pytest.raises(ValueError, match=r"the action space must be a 1-d Box or Discrete, got MultiDiscrete"):
        SUITE.spaces([register("CorridorGrid-v0", entry_point=Grid)])
    with pytest.raises(ValueError, match="actions need finite bounds"):
        SUITE.spaces([register("CorridorUnbounded-v0", high=np.inf)])


def test_two_environments_of_different_size_are_refused_by_name():
    tasks = [register("Corridor-v0"), register("Corridor3-v0", dim=3)]
    with pytest.raises(ValueError, match="tasks 'Corridor-v0' and 'Corridor3-v0' differ in their observation space"):
        SUITE.spaces(tasks)


def test_a_registered_environment_of_gymnasium_itself_runs():
    task = "Pendulum-v1@return>=-200"
    assert SUITE.check_tasks([task]) == []
    observation_space, action_space = SUITE.spaces([task])
    assert (observation_space.shape, action_space.shape) == ((3,), (1,))
    env = SUITE.make_env(task, seed=0)
    env.reset()
    steps = [env.step(np.array([1.0], np.float32)) for _ in range(200)]
    assert steps[-1][3] and not steps[-1][4]["success"]


def test_discrete_actions_run():
    task = "CartPole-v1@return>=20"
    observation_space, action_space = SUITE.spaces([task])
    assert (observation_space.shape, action_space) == ((4,), Discrete(2))
    env = SUITE.make_env(task, seed=0)
    env.reset()
    steps = [env.step(t % 2) for t in range(19)]
    assert not any(terminated for _, _, terminated, _, _ in steps)
    assert not steps[-1][4]["success"]


BOUNDS = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.sampled_from([0.0, -1.0, 1.0, 0.1])


class Bounded(Corridor):
    """Remembers what it was given."""

    def __init__(self, low: np.ndarray, high: np.ndarray, kind: type) -> None:
        super().__init__(flag="success")
        self.action_space = Box(low, high, dtype=kind)
        self.seen: list[np.ndarray] = []

    def step(self, action: np.ndarray) -> Any:
        self.seen.append(action)
        return np.zeros(2), 1.0, False, False, {"success": False}


@given(
    bounds=st.lists(st.tuples(BOUNDS, BOUNDS), min_size=1, max_size=4),
    kind=st.sampled_from([np.float16, np.float32, np.float64]),
    between=st.floats(-1.0, 1.0, width=32),
)
def test_whatever_the_bounds_an_action_is_within_them_and_reaches_both(bounds, kind, between):
    most = np.finfo(kind).max
    sides = zip(*(sorted(np.clip(pair, -most, most)) for pair in bounds), strict=True)
    low, high = (np.array(side, kind) for side in sides)
    env = within_bounds(inner := Bounded(low, high, kind), inner.action_space)
    for value in (-1.0, 0.0, 1.0, between):
        env.step(np.full(len(bounds), value, np.float32))
    assert all(inner.action_space.contains(action) for action in inner.seen)
    assert np.array_equal(inner.seen[0], low) and np.array_equal(inner.seen[2], high)


def test_half_of_the_way_is_the_middle():
    env = WithinBounds(Bounded(np.array([-2.0, 0.5], np.float32), np.array([2.0, 0.5], np.float32), np.float32))
    env.step(np.array([0.25, 0.25], np.float32))
    assert env.unwrapped.seen[0].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_integers_as_actions_are_refused(kind: type):
    task = register(f"Whole{kind.__name__}-v0", entry_point=Bounded, low=np.zeros(1), high=np.full(1, 10), kind=kind)
    with pytest.raises(ValueError, match="actions must be floats or Discrete, got Box"):
        SUITE.make_env(task, seed=0)


class Paying(Corridor):
    """Gives the rewards that it is told."""

    def __init__(self, rewards: list[float]) -> None:
        super().__init__(flag=None)
        self.rewards = rewards

    def step(self, action: np.ndarray) -> Any:
        self.given = [*getattr(self, "given", []), action]
        return np.zeros(2), self.rewards[len(self.given) - 1], len(self.given) == len(self.rewards), False, {}


@given(rewards=st.lists(st.floats(-10, 10), min_size=1, max_size=12), below=st.booleans())
@example(rewards=[0.1] * 10, below=False)
def test_a_goal_is_reached_if_the_return_that_is_recorded_reaches_it(rewards, below):
    recorded = float(sum(np.float32(reward).astype(float) for reward in rewards))
    goal = np.nextafter(recorded, np.inf) if below else recorded
    env = GymnasiumTaskEnv(Paying(rewards), goal, seed=0)
    env.reset()
    for _ in rewards:
        info = env.step(np.zeros(1))[4]
    assert info["success"] is not below


@pytest.mark.parametrize("obs", [None, "ab", {"x": 1}, [object()], [[1.0], [1.0, 2.0]], 3.5, 1j])
def test_an_observation_that_is_no_numbers_is_named_as_it_came(obs: Any):
    class Odd(Corridor):
        def step(self, action: np.ndarray) -> Any:
            self.steps = getattr(self, "steps", 0) + 1
            return np.zeros(2) if self.steps == 1 else obs, 1.0, False, False, {"success": False}

    name = f"Odd{type(obs).__name__}{np.ndim(np.array(obs, object))}-v0"
    gym.register(name, entry_point=Odd, max_episode_steps=5)
    vector = EnvVector(SUITE, name, 1, observation_space=SUITE.spaces([name])[0], env_seed=lambda e, i: 0)
    vector.reset(lambda *_: None)
    vector.step(np.zeros((1, 1), np.float32))
    with pytest.raises(EnvironmentContractError, match=f"episode step 1: .* got {type(obs).__name__}"):
        vector.step(np.zeros((1, 1), np.float32))


@pytest.mark.parametrize("goal", ["", "@return>=1"])
@pytest.mark.parametrize(
    ("altered", "said"),
    [
        ({"reset": np.zeros(2)}, r"reset must return \(observation, info\), got float64 array of shape \(2,\)"),
        ({"step": (np.zeros(3), 1.0, False, False, {"success": False})}, r"the observation must be .*\(3,\)"),
        ({"step": (np.zeros(2), "1", False, False, {"success": False})}, "the reward must be a number, got str '1'"),
        ({"step": (np.zeros(2), 1.0, np.zeros(2, bool), False, {"success": False})}, ".* must be bool, got bool array"),
    ],
)
def test_what_a_first_step_returns_is_judged_before_anything_starts(altered: dict[str, Any], said: str, goal: str):
    class Wrong(Corridor):
        def reset(self, **kwargs: Any) -> Any:
            return altered.get("reset", super().reset(**kwargs))

        def step(self, action: np.ndarray) -> Any:
            return altered.get("step", super().step(action))

    gym.register("Wrong-v0", entry_point=Wrong, max_episode_steps=5)
    try:
        with pytest.raises(ValueError, match=f"gymnasium task 'Wrong-v0{goal}': {said}"):
            SUITE.spaces([f"Wrong-v0{goal}"])
    finally:
        del gym.registry["Wrong-v0"]


REGISTERS = """
import functools, json
import gymnasium as gym, numpy as np
from rllib_nbsp.envs.gymnasium import GymnasiumSuite

class Goal:
    pass

def reward(x):
    return x

class Maker:
    def __call__(self, **kwargs):
        raise NotImplementedError

kwargs = {
    "number": 0.5, "text": "a", "goal": Goal(), "reward": reward, "scaled": functools.partial(reward, x=Goal()),
    "lines": lambda x: x, "names": {"a", "b", "c", "d"}, "space": gym.spaces.Box(-1, 1, (2,)), "map": np.arange(3),
    "deep": {"of": [Goal(), (reward, {"x"})]},
}
for name, maker in {"Class": Goal, "Function": reward, "Instance": Maker(), "Part": functools.partial(reward)}.items():
    gym.register(f"{name}-v0", entry_point=maker, max_episode_steps=5, kwargs=kwargs)
print(json.dumps(GymnasiumSuite().environments([f"{n}-v0" for n in ("Class", "Function", "Instance", "Part")])))
"""


def test_what_is_filed_of_an_environment_is_the_same_in_every_process():
    def filed(hash_seed: int) -> Any:
        padding = f"held = [object() for _ in range({1000 * hash_seed})]"  # other addresses
        done = subprocess.run(
            [sys.executable, "-c", padding + REGISTERS],
            env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    first = filed(1)
    assert filed(2) == filed(3) == first
    assert first["Class-v0"]["kwargs"]["number"] == 0.5
    assert first["Class-v0"]["kwargs"]["reward"] == first["Function-v0"]["entry_point"] == "__main__:reward"
