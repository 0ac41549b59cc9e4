"""What all suites have in common."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from gymnasium.spaces import Box

from rllib_nbsp.envs import SUITES, EnvironmentContractError
from tests.toy_suite import ACTION_SPACE, ToySuite


class DifferingSuite(ToySuite):
    """Tasks "a" and "b" with two observation spaces."""

    def __init__(self, a: Box, b: Box) -> None:
        super().__init__()
        self._boxes = {"a": a, "b": b}

    def task_spaces(self, task: str) -> tuple[Box, Box]:
        return self._boxes[task], ACTION_SPACE


def test_importing_the_suites_imports_no_simulator():
    code = "import sys, rllib_nbsp.envs; print([m for m in ('metaworld', 'mujoco') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_suites_are_registered_under_their_own_names():
    assert {"metaworld", "point_mass", "gymnasium"} <= SUITES.keys()
    assert all(suite.name == name for name, suite in SUITES.items())


def test_an_unknown_task_is_named_with_its_place_and_the_nearest_name():
    assert SUITES["metaworld"].check_tasks(["window-open-v3", "windw-open-v3"]) == [
        "tasks[1]: unknown metaworld task 'windw-open-v3'; did you mean 'window-open-v3' or 'window-close-v3' or "
        "'drawer-open-v3'?"
    ]
    assert SUITES["point_mass"].check_tasks(["reach-left", "reach-down"]) == []


@pytest.mark.parametrize(
    ("a", "b", "difference"),
    [
        (Box(-1, 1, (39,)), Box(-1, 1, (40,)), r"shape \(39,\) against \(40,\)"),
        (Box(-1, 1, (3,), np.float32), Box(-1, 1, (3,), np.float64), "dtype float32 against float64"),
        (
            Box(-1, 1, (2,)),
            Box(np.array([-1, -1], np.float32), np.array([1, 8], np.float32)),
            r"\[-1.0, 1.0\] against \[-1.0, 8.0\] at",
        ),
    ],
)
def test_tasks_with_different_observation_spaces_are_refused_by_name(a: Box, b: Box, difference: str):
    with pytest.raises(ValueError, match=f"tasks 'a' and 'b' differ in their observation space: .*{difference}"):
        DifferingSuite(a, b).spaces(["a", "b", "a"])


def test_an_info_without_success_is_an_error():
    with pytest.raises(EnvironmentContractError, match=r"no info\['success'\] \(got keys \['foo'\]\)"):
        ToySuite().success({"foo": 1.0})


@pytest.mark.parametrize(("value", "expected"), [(1.0, True), (0.0, False), (True, True), (np.float64(0.5), True)])
def test_success_is_a_positive_number(value: float, expected: bool):
    assert ToySuite().success({"success": value}) is expected
