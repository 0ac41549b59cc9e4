"""A study whose processes are killed or told to stop, and that goes on with --resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.resume.killed import OF_TIME
from tests.studies import TIMEOUT_S, call, command, write_config

SECONDS_LONG = {"visit.max_env_steps": 3000, "state.every_env_steps": 400, "training.updates_per_env_step": 0.5}
OPTIONS = ("--set", *(f"{key}={value}" for key, value in SECONDS_LONG.items()))


OF_CHANCE = {*OF_TIME, "shared_from"}
"""Of arms that begin alike, the one that makes their first visit is whichever comes to it first."""


def left(study: Path) -> dict[str, Any]:
    """Rows and arrays of a study's trials, without what speaks of time or of who came first."""
    found: dict[str, Any] = {}
    for rows in sorted(study.glob("*/*/seed_*/*.jsonl")):
        read = [json.loads(line) for line in rows.read_text().splitlines()]
        found[str(rows.relative_to(study))] = [{k: v for k, v in row.items() if k not in OF_CHANCE} for row in read]
    for file in sorted(study.glob("*/*/seed_*/*/*.npz")):
        with np.load(file) as arrays:
            found[str(file.relative_to(study))] = {name: arrays[name].tobytes() for name in arrays}
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    done = call(write_config(folder), *OPTIONS, "--results-dir", folder / "results")
    assert done.returncode == 0, done.stderr
    return left(folder / "results" / "tiny")


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_study_goes_on_where_it_was_cut_off(number: signal.Signals, tmp_path: Path, whole: dict[str, Any]) -> None:
    config, results = write_config(tmp_path), tmp_path / "results"
    study = results / "tiny"
    process = subprocess.Popen(
        command(config, *OPTIONS, "--results-dir", results), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: len(list(study.glob("*/*/seed_0/state/bundle_*"))) >= 3)
    os.kill(process.pid, number)
    printed, _ = process.communicate(timeout=TIMEOUT_S)
    if number != signal.SIGKILL:
        assert "stopping: " in printed and "once more stops them at once" in printed
        assert "/seed_0 is saved at environment step" in printed
    wait_for(lambda: not _writing(study))
    done = call(config, *OPTIONS, "--results-dir", results, "--resume")
    assert done.returncode == 0, done.stderr
    assert "/seed_0 goes on from environment step" in done.stdout
    assert left(study) == whole
    assert not list(study.glob("*/*/seed_0/state")) and not list(study.glob("*/*/seed_0/*.stale"))


def _writing(study: Path) -> bool:
    """Whether trials whose driver was killed still write rows."""
    sizes = [rows.stat().st_size for rows in study.glob("*/*/seed_*/*.jsonl")]
    time.sleep(2.0)
    return sizes != [rows.stat().st_size for rows in study.glob("*/*/seed_*/*.jsonl")]


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_goes_on_in_the_same_study(tmp_path: Path, whole: dict[str, Any]) -> None:
    config, study = write_config(tmp_path), tmp_path / "results" / "tiny"
    process = subprocess.Popen(
        command(config, *OPTIONS, "--results-dir", tmp_path / "results"), stdout=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(list(study.glob("*/nbsp/seed_0/state/bundle_*"))) >= 2)
    [trial] = _trials(process.pid)[:1]
    os.kill(trial, signal.SIGKILL)
    printed, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, printed
    assert left(study) == whole


def _trials(driver: int) -> list[int]:
    """Processes of trials below a driver."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    below = {driver}
    for _ in range(4):
        below |= {int(pid) for pid, parent, _ in rows if int(parent) in below}
    return [int(pid) for pid, _, name in rows if int(pid) in below and "StudyTrial" in name]


@pytest.mark.slow
def test_a_changed_configuration_is_told_and_refused(tmp_path: Path) -> None:
    config, results = write_config(tmp_path, arms={"sac": {"method": "sac"}}), tmp_path / "results"
    process = subprocess.Popen(command(config, *OPTIONS, "--results-dir", results), stdout=subprocess.DEVNULL)
    wait_for(lambda: list((results / "tiny").glob("*/*/seed_0/state/bundle_*")))
    process.send_signal(signal.SIGINT)
    process.wait(timeout=TIMEOUT_S)
    done = call(config, *OPTIONS, "training.gamma=0.9", "--results-dir", results, "--resume")
    assert done.returncode == 3
    assert "training.gamma was 0.99 and is 0.9" in done.stderr
