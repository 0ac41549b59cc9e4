"""What an environment returns is taken as it is meant, or refused by name: over all that Python has."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rllib_nbsp.envs import EnvironmentContractError, EnvironmentFailure
from rllib_nbsp.envs.contract import as_number, kind_of
from rllib_nbsp.sampling.vector import EnvVector
from tests.toy_suite import OBSERVATION_SPACE, ToyEnv, ToySuite

NUMBERS = st.floats() | st.integers() | st.booleans() | st.fractions() | st.decimals(allow_nan=False)
ARRAYS = arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, max_dims=2, max_side=4))
ANYTHING = st.recursive(
    st.none() | NUMBERS | st.complex_numbers() | st.text() | st.binary() | ARRAYS | st.builds(object),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)
NAMES = {
    "obs": "the observation must be",
    "reward": "the reward must be",
    "terminated": "terminated and truncated must be",
    "truncated": "terminated and truncated must be",
    "info": r"info must be|info\['success'\]",
    "success": r"info\['success'\] must be",
    "step": "step must return",
    "reset": "reset must return|the observation must be",
}


@given(st.floats(width=16), st.sampled_from([float, np.float16, np.float32, np.float64, np.array, torch.tensor]))
def test_a_number_is_the_same_number_whichever_library_it_is_of(value: float, library: Any):
    assert np.array_equal(as_number(library(value)), value, equal_nan=True)


@pytest.mark.parametrize(
    "value",
    [1, True, np.int8(1), np.bool_(True), Decimal(1), Fraction(1), torch.tensor(1), torch.tensor(True), np.array(1)],
)
def test_one_is_one(value: Any):
    assert as_number(value) == 1.0


@pytest.mark.parametrize(
    "value",
    [None, "1.0", b"1", 1j, np.complex64(1), np.array("1"), np.array(None), np.datetime64("2026"), np.ones(1), [1.0],
     torch.ones(1), 10**400, object()],
)  # fmt: skip
def test_what_is_no_number_is_none(value: Any):
    assert as_number(value) is None


class Returning(ToySuite):
    """Environments that return a value in one place."""

    def __init__(self, place: str, value: Any) -> None:
        super().__init__(on_step=self.alter)
        self.place, self.value = place, value

    def make_env(self, task: str, *, seed: int, training: bool = True) -> ToyEnv:
        env = super().make_env(task, seed=seed)
        if self.place == "reset":
            env.reset = lambda **_: self.value  # type: ignore[method-assign]
        return env

    def alter(self, env: ToyEnv, result: Any) -> Any:
        names = ("obs", "reward", "terminated", "truncated", "info")
        parts = dict(zip(names, result, strict=True))
        parts["info"] = {"success": self.value} if self.place == "success" else parts["info"]
        return self.value if self.place == "step" else tuple((parts | {self.place: self.value})[name] for name in names)


@given(place=st.sampled_from(sorted(NAMES)), value=ANYTHING)
@example(place="info", value={"success": True})
@example(place="reward", value=10**400)
@example(place="reward", value=1e39)
@example(place="success", value=math.nan)
def test_whatever_an_environment_returns_is_taken_or_refused_by_name(place: str, value: Any):
    suite = Returning(place, value)
    vector = EnvVector(suite, "a", 1, observation_space=OBSERVATION_SPACE, env_seed=lambda env, incarnation: 0)
    try:
        vector.reset(lambda env, episode, incarnation: None)
        step = vector.step(np.zeros((1, 2), np.float32))
    except EnvironmentContractError as error:
        with pytest.raises(EnvironmentContractError, match=NAMES[place]):
            raise error
        assert len(suite.envs) == 1, "it was tried again"
    except EnvironmentFailure as error:  # not of a wrong kind: another episode may have another value
        assert re.search("is nan|is -?inf|beyond float32", str(error))
    else:
        assert np.isfinite(step.next_obs).all() and np.isfinite(step.rewards).all()


@given(ANYTHING)
def test_a_value_is_shown_in_one_short_text(value: Any):
    assert len(kind_of(value)) < 200
