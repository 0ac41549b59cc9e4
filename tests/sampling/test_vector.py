"""Lock-step environments: rows, resets and failures."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_nbsp.envs import EnvironmentContractError, EnvironmentFailure, NonFiniteObservation, NonFiniteReward
from rllib_nbsp.sampling import vector as vector_module
from rllib_nbsp.sampling.vector import MAX_ABORTED, EnvVector, VectorStep
from tests.toy_suite import OBSERVATION_SPACE, ToyEnv, ToySuite

ZERO = np.zeros((3, 2), np.float32)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(vector_module, "RESET_BACKOFF_S", 0.0)


def make_vector(suite: ToySuite, num_envs: int = 3, episodes: list[int] | None = None) -> EnvVector:
    vector = EnvVector(
        suite,
        "a",
        num_envs,
        observation_space=OBSERVATION_SPACE,
        env_seed=lambda env, incarnation: 100 * env + incarnation,
    )
    vector.reset(lambda env, episode, incarnation: None, episodes)
    return vector


def raising(error: Callable[[], BaseException], when: Callable[[ToyEnv], bool]) -> Callable[[ToyEnv, Any], Any]:
    """A hook that raises."""

    def hook(env: ToyEnv, result: Any) -> Any:
        if when(env):
            raise error()
        return result

    return hook


def altered(when: Callable[[ToyEnv], bool], **changes: Any) -> Callable[[ToyEnv, Any], Any]:
    """A hook that returns something else in place of parts of the step's result."""

    def hook(env: ToyEnv, result: Any) -> Any:
        if not when(env):
            return result
        named = dict(zip(("obs", "reward", "terminated", "truncated", "info"), result, strict=True))
        return tuple({**named, **changes}.values())

    return hook


def test_the_true_last_observation_is_returned_and_the_next_one_is_of_a_new_episode():
    vector = make_vector(ToySuite(horizon=2))
    first = vector.obs.copy()
    step = vector.step(ZERO)
    assert np.array_equal(step.obs, first) and step.ended == []
    step = vector.step(ZERO)
    assert step.ended == [0, 1, 2]
    assert np.array_equal(step.next_obs[:, 3], [2, 2, 2]) and np.array_equal(step.next_obs[:, 0], first[:, 0])
    assert step.truncateds.all() and not step.terminateds.any() and step.success.all()
    assert np.array_equal(vector.obs[:, 2:], [[1, 0]] * 3)
    assert not np.isin(vector.obs[:, 0], first[:, 0]).any()


def test_every_sub_environment_has_its_own_action_and_reward():
    step = make_vector(ToySuite()).step(np.array([[0.1, 0], [0.2, 0], [-0.3, 0]], np.float32))
    assert np.array_equal(step.rewards, np.array([0.1, 0.2, -0.3], np.float32))


def test_sub_environments_leave_when_their_episodes_are_played():
    suite = ToySuite(horizon=2)
    vector = make_vector(suite, episodes=[2, 0, 1])
    assert vector.active == [0, 2]
    ended = [vector.step(ZERO).ended for _ in range(4)]
    assert ended == [[], [0, 2], [], [0]] and vector.active == []
    # Nothing is reset for episodes that nobody plays.
    assert [env.episode for env in suite.envs] == [1, -1, 0]


def test_episode_seeds_are_asked_for_by_place_and_used():
    asked = []

    def episode_seed(env: int, episode: int, incarnation: int) -> int | None:
        asked.append((env, episode, incarnation))
        return 7 if episode == 1 else None

    vector = make_vector(ToySuite(horizon=1), num_envs=2)
    vector.reset(episode_seed)
    assert vector.obs[0, 0] != vector.obs[1, 0]
    vector.step(ZERO)
    assert asked == [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)]
    assert vector.obs[0, 0] == vector.obs[1, 0]


def test_a_failed_step_leaves_no_row_and_its_sub_environment_starts_again_with_a_new_seed(caplog):
    suite = ToySuite(
        on_step=raising(lambda: OSError("the simulator is gone"), lambda env: env.number == 1 and env.steps == 3)
    )
    vector = make_vector(suite)
    for _ in range(2):
        assert vector.step(ZERO).restarted == []
    with caplog.at_level(logging.WARNING):
        step = vector.step(ZERO)
    assert "toy task 'a', sub-environment 1, episode step 2: OSError: the simulator is gone" in caplog.text
    assert step.restarted == [1]
    # The row is the first of the new environment, number 3; the others go on.
    assert np.array_equal(step.obs[:, 1:], [[0, 0, 2], [3, 0, 0], [2, 0, 2]])
    assert np.array_equal(step.next_obs[:, 1:], [[0, 0, 3], [3, 0, 1], [2, 0, 3]])
    assert suite.seeds == [0, 100, 200, 101]
    assert suite.envs[1].closed
    assert vector.step(ZERO).restarted == []


@pytest.mark.parametrize(("failures", "survives"), [(3, True), (4, False)])
def test_three_failures_in_a_row_are_survived_and_a_fourth_ends_it(failures: int, survives: bool):
    left = [failures]

    def hook(env: ToyEnv, result: Any) -> Any:
        if env.number != 1 and env.number < 3:
            return result
        left[0] -= 1
        if left[0] >= 0:
            raise RuntimeError("again")
        return result

    vector = make_vector(ToySuite(on_step=hook))
    if survives:
        assert vector.step(ZERO).restarted == [1]
    else:
        with pytest.raises(
            EnvironmentFailure, match=r"task 'a', sub-environment 1, .* RuntimeError: again \(failure 4 in a row\)"
        ):
            vector.step(ZERO)


def test_an_exception_without_a_message_is_named_by_its_type():
    vector = make_vector(ToySuite(on_step=raising(lambda: KeyError(), lambda env: True)))
    with pytest.raises(EnvironmentFailure, match=r"KeyError \(no message\)") as caught:
        vector.step(ZERO)
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_environment_that_cannot_be_rebuilt_counts_as_failing():
    suite = ToySuite(on_step=raising(lambda: RuntimeError("first"), lambda env: env.number == 0))
    vector = make_vector(suite, num_envs=1)
    attempts = []

    def make_env(task: str, *, seed: int, training: bool = True) -> ToyEnv:
        attempts.append(seed)
        raise MemoryError("no memory for a simulator")

    suite.make_env = make_env  # type: ignore[method-assign]
    with pytest.raises(EnvironmentFailure, match="MemoryError: no memory for a simulator"):
        vector.step(ZERO)
    assert attempts == [1, 2, 3]


def test_an_environment_that_cannot_be_built_at_all_is_named_and_the_others_closed():
    suite = ToySuite()
    built = suite.make_env

    def make_env(task: str, *, seed: int, training: bool = True) -> ToyEnv:
        if len(suite.envs) == 2:
            raise ValueError("no display")
        return built(task, seed=seed)

    suite.make_env = make_env  # type: ignore[method-assign]
    with pytest.raises(EnvironmentFailure, match=r"toy task 'a', sub-environment 2, .*ValueError: no display"):
        make_vector(suite)
    assert all(env.closed for env in suite.envs)


@pytest.mark.parametrize("failures", [1, 3])
def test_a_reset_is_tried_four_times(failures: int):
    left = [failures]

    def hook(env: ToyEnv, obs: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionError
        return obs

    assert make_vector(ToySuite(on_reset=hook)).active == [0, 1, 2]


def test_a_reset_that_always_raises_names_environment_and_task():
    with pytest.raises(
        EnvironmentFailure, match=r"task 'a', sub-environment 0, .*reset: ConnectionError: x \(4 attempts\)"
    ):
        make_vector(ToySuite(on_reset=raising(lambda: ConnectionError("x"), lambda env: True)))


NAN_OBS = np.array([0, np.nan, 0, np.inf], np.float32)


def test_one_observation_with_nan_costs_its_episode_and_no_row_holds_it():
    vector = make_vector(ToySuite(on_step=altered(lambda env: env.number == 2 and env.steps == 2, obs=NAN_OBS)))
    vector.step(ZERO)
    step = vector.step(ZERO)
    assert step.restarted == [2]
    assert np.isfinite(step.obs).all() and np.isfinite(step.next_obs).all()


def test_observations_that_stay_nan_end_the_run_and_say_where():
    vector = make_vector(ToySuite(on_step=altered(lambda env: env.number >= 2, obs=NAN_OBS)))
    expected = r"task 'a', sub-environment 2, episode step 0: .*the observation is nan at index \[1\] \(2 of 4"
    with pytest.raises(NonFiniteObservation, match=expected):
        vector.step(ZERO)


def test_what_a_failure_left_behind_is_gone_after_a_reset():
    broken = [True]
    vector = make_vector(ToySuite(on_step=altered(lambda env: broken[0] and env.number >= 2, obs=NAN_OBS)))
    with pytest.raises(NonFiniteObservation):
        vector.step(ZERO)
    broken[0] = False
    vector.reset(lambda env, episode, incarnation: None, [1, 1, 0])
    vector.step(ZERO)
    assert np.isfinite(vector.obs).all()


def test_rewards_that_stay_infinite_end_the_run_and_say_where():
    vector = make_vector(ToySuite(on_step=altered(lambda env: env.number >= 2, reward=float("inf"))))
    with pytest.raises(NonFiniteReward, match=r"sub-environment 2, .*the reward is inf"):
        vector.step(ZERO)


def test_a_first_observation_with_nan_is_refused():
    with pytest.raises(NonFiniteObservation, match=r"sub-environment 0, .*reset: "):
        make_vector(ToySuite(on_reset=lambda env, obs: NAN_OBS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs": np.zeros(5, np.float32)}, r"float32 array of shape \(4,\), got float32 array of shape \(5,\)"),
        ({"obs": np.zeros(4)}, r"must be a float32 array of shape \(4,\), got float64"),
        ({"obs": [0.0] * 4}, r"must be a float32 array of shape \(4,\), got list"),
        ({"obs": None}, r"must be a float32 array of shape \(4,\), got NoneType None"),
        ({"reward": None}, "the reward must be a number, got NoneType None"),
        ({"reward": "1.0"}, "the reward must be a number, got str '1.0'"),
        ({"reward": np.array(None)}, r"the reward must be a number, got object array of shape \(\)"),
        ({"reward": 1j}, "the reward must be a number, got complex 1j"),
        ({"info": None}, "info must be a dict, got NoneType None"),
        ({"info": {"success": None}}, r"info\['success'\] must be a bool or a number, got None"),
        ({"info": {"success": np.zeros(2)}}, r"info\['success'\] must be a bool or a number"),
        ({"reward": np.zeros(1)}, r"the reward must be a number, got float64 array of shape \(1,\)"),
        ({"terminated": 0}, "terminated and truncated must be bool, got int 0 and bool False"),
        ({"truncated": None}, "got bool False and NoneType None"),
        ({"info": {}}, r"reports no info\['success'\]"),
    ],
)
def test_values_of_a_wrong_kind_are_refused_at_once(change: dict[str, Any], message: str):
    suite = ToySuite(on_step=altered(lambda env: env.number == 1, **change))
    vector = make_vector(suite)
    with pytest.raises(
        EnvironmentContractError, match=f"^toy task 'a', sub-environment 1, episode step 0: .*{message}"
    ):
        vector.step(ZERO)
    assert len(suite.envs) == 3


def test_a_first_observation_of_a_wrong_shape_is_refused():
    with pytest.raises(EnvironmentContractError, match=r"sub-environment 0, .*reset: .*got float32 array"):
        make_vector(ToySuite(on_reset=lambda env, obs: obs[:3]))


def test_no_row_mixes_two_episodes_under_random_failures():
    rng = np.random.default_rng(0)
    suite = ToySuite(
        horizon=7,
        on_step=raising(lambda: RuntimeError("bad luck"), lambda env: rng.random() < 0.05),
        on_reset=raising(lambda: RuntimeError("bad luck"), lambda env: rng.random() < 0.05),
    )
    vector = make_vector(suite, num_envs=4)
    zero = np.zeros((4, 2), np.float32)
    seen: set[tuple[float, ...]] = set()
    restarts = 0
    for _ in range(500):
        step: VectorStep = vector.step(zero)
        restarts += len(step.restarted)
        assert np.array_equal(step.obs[:, :3], step.next_obs[:, :3]), "draw, environment and episode"
        assert np.array_equal(step.obs[:, 3] + 1, step.next_obs[:, 3])
        assert all(step.obs[e, 3] == 0 for e in step.restarted)
        rows = {tuple(row) for row in step.obs.tolist()}
        assert len(rows) == 4 and not rows & seen
        seen |= rows
    assert restarts > 50


@pytest.mark.parametrize("result", [None, (), (np.zeros(4, np.float32), 0.0, False, {})])
def test_a_step_that_returns_something_else_is_refused_at_once(result: Any):
    suite = ToySuite(on_step=lambda env, step: result)
    vector = make_vector(suite)
    with pytest.raises(EnvironmentContractError, match=r"step must return \(observation, reward, terminated, trunc"):
        vector.step(ZERO)
    assert len(suite.envs) == 3


def test_what_an_environment_does_with_its_action_stays_with_it():
    def scales(env: ToyEnv, result: Any) -> Any:
        env.given *= 5.0
        return result

    actions = np.full((3, 2), 0.5, np.float32)
    make_vector(ToySuite(on_step=scales)).step(actions)
    assert np.all(actions == 0.5)


@pytest.mark.parametrize("altered_training", [False, True])
@pytest.mark.parametrize("told", [7, {"length": 3}, {"r": "high"}, {"r": [1.0, 2.0]}])
def test_an_episode_key_matters_to_suites_that_read_it_alone(told: Any, altered_training: bool):
    suite = ToySuite(on_step=altered(lambda env: True, info={"success": False, "episode": told}))
    suite.alters_training = altered_training
    vector = make_vector(suite)
    if not altered_training:
        assert vector.step(ZERO).own_returns == {}
        return
    with pytest.raises(EnvironmentContractError, match=r"info\['episode'\].*must be"):
        vector.step(ZERO)
    assert len(suite.envs) == 3


@given(at=st.integers(1, 4), horizon=st.integers(5, 6), envs=st.integers(1, 3), episodes=st.booleans())
def test_a_failure_in_every_episode_ends_the_run_wherever_it_is(at: int, horizon: int, envs: int, episodes: bool):
    suite = ToySuite(horizon=horizon, on_step=raising(lambda: OSError("late"), lambda env: env.steps == at))
    vector = make_vector(suite, envs, [2] * envs if episodes else None)
    with pytest.raises(EnvironmentFailure, match=r"OSError: late .*in a row"):
        for _ in range(horizon * (MAX_ABORTED + 2)):
            vector.step(ZERO[:envs])
    assert vector.rebuilt <= envs * MAX_ABORTED


def test_episodes_that_end_between_failures_let_the_run_go_on():
    # Every second episode of an environment fails, for ever.
    failing = raising(lambda: OSError("now and then"), lambda env: env.episode % 2 == 1 and env.steps == 2)
    vector = make_vector(ToySuite(horizon=3, on_step=failing), 1)
    for _ in range(20 * MAX_ABORTED):
        vector.step(ZERO[:1])
    assert vector.rebuilt > MAX_ABORTED


@pytest.mark.parametrize("where", ["construction", "reset", "step"])
def test_an_environment_that_wants_to_end_the_program_fails_with_its_own_words(where: str):
    leaving = raising(lambda: SystemExit("no display"), lambda env: True)
    suite = ToySuite(**{"step": {"on_step": leaving}, "reset": {"on_reset": leaving}}.get(where, {}))
    if where == "construction":
        suite.make_env = lambda *_, **__: sys.exit("no display")  # type: ignore[method-assign]
    with pytest.raises(EnvironmentFailure, match=r"task 'a', sub-environment 0, .*SystemExit: no display"):
        make_vector(suite, 1).step(ZERO[:1])
