"""Environments that fail now and then cost nothing that the books know of; those that fail for good say where."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rllib_nbsp.envs import EnvironmentContractError, EnvironmentFailure
from rllib_nbsp.study.trials import may_pass
from tests.faults.conftest import Figures, Start
from tests.faults.ledger import config, finish


@pytest.mark.parametrize("fault", ["raise", "raise_bare", "exit", "nan_obs", "inf_reward"])
def test_an_environment_that_fails_now_and_then(fault: str, start: Start, figures: Figures, tmp_path: Path) -> None:
    ledger = start(config(tmp_path, fault=fault, frac=0.02))
    finish(ledger)
    rebuilt = ledger.algo.schedule.faults["rebuilt_envs"]
    assert rebuilt > 0
    figures(ledger, injected=rebuilt)


@pytest.mark.parametrize(
    "fault", ["reset", "construct", "shape", "dtype", "raise", "raise_bare", "nan_obs", "inf_reward"]
)
def test_an_environment_that_fails_for_good_ends_the_run_and_says_where(
    fault: str, start: Start, figures: Figures, tmp_path: Path
) -> None:
    started = time.monotonic()
    ledger = start(config(tmp_path, fault=fault, frac=1.0))
    with pytest.raises((EnvironmentFailure, EnvironmentContractError), match="ledger task 'left', sub-env") as caught:
        finish(ledger)
    said = {
        "reset": "OSError: no reset",
        "construct": "OSError: no simulator",
        "shape": r"shape \(6,\)",
        "dtype": "'high'",
        "raise": "OSError: the simulator diverged",
        "raise_bare": r"RuntimeError \(no message\)",
        "nan_obs": "the observation is nan",
        "inf_reward": "the reward is inf",
    }
    caught.match(said[fault])
    assert not may_pass(caught.value)
    figures(ledger, seconds=time.monotonic() - started)


def test_a_reset_that_fails_once(start: Start, figures: Figures, tmp_path: Path) -> None:
    ledger = start(config(tmp_path / "rows", fault="reset", once=str(tmp_path / "once")))
    finish(ledger)
    assert (tmp_path / "once").exists()
    figures(ledger)


@pytest.mark.slow
def test_a_worker_whose_environments_cannot_be_built_ends_the_run(
    start: Start, figures: Figures, tmp_path: Path
) -> None:
    started = time.monotonic()
    ledger = start(config(tmp_path, fault="construct", workers=1))
    with pytest.raises(EnvironmentFailure, match=r"rollout worker 1, .*ledger task 'left'.*OSError: no simulator"):
        finish(ledger)
    assert time.monotonic() - started < 60
    figures(ledger)
