"""A run that was killed ends as one that never stopped, to the last bit, whenever it was killed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rllib_nbsp.methods import METHODS
from tests.resume import runs
from tests.resume.killed import Moment, run_killed

KILLS = 20
PASSES = {"step": 60, "update": 12, "write": 12, "rename": 3, "boundary": 2, "evaluation": 4}
"""By place, after how many passes a process is killed at most."""


@pytest.fixture(autouse=True)
def on_ray(ray_session: None) -> None:
    """All of these tests need it."""


def moments(seed: int, count: int) -> list[Moment]:
    """Moments all over a run, each place again and again."""
    rng = np.random.default_rng(seed)
    places = [list(PASSES)[i % len(PASSES)] for i in rng.permutation(count)]
    return [(place, int(rng.integers(1, PASSES[place] + 1))) for place in places]


def assert_equal_runs(build: Any, tmp_path: Path, killed_at: list[Moment]) -> None:
    whole = run_killed(build, tmp_path / "whole")
    pieces = run_killed(build, tmp_path / "pieces", killed_at)
    assert pieces.keys() == whole.keys()
    assert not [name for name in whole if pieces[name] != whole[name]]
    assert whole["left"] == []


@pytest.mark.parametrize("method", ["sac", "nbsp"])
def test_a_killed_run_ends_as_one_that_never_stopped(method: str, tmp_path: Path) -> None:
    build = functools.partial(runs.point_mass, method=method)
    assert_equal_runs(build, tmp_path, [("write", 5), ("step", 90), ("boundary", 2), ("rename", 2), ("update", 9)])


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_goes_on_from_twenty_kills(method: str, tmp_path: Path) -> None:
    build = functools.partial(runs.point_mass, method=method)
    assert_equal_runs(build, tmp_path, moments(sorted(METHODS).index(method), KILLS))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sac", "nbsp", "packnet", "cotasp"])
@pytest.mark.parametrize("environments", [runs.metaworld, runs.game])
def test_real_environments_go_on_where_they_were(environments: Any, method: str, tmp_path: Path) -> None:
    kills: list[Moment] = [("step", 180), ("write", 9), ("boundary", 2), ("step", 40), ("update", 3), ("rename", 1)]
    assert_equal_runs(functools.partial(environments, method=method), tmp_path, kills)
