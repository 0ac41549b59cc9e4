"""A study goes on with the versions that it was begun with, or says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rllib_nbsp.records import versions
from rllib_nbsp.study.command import main
from rllib_nbsp.study.versions import COMPARED, check_versions
from tests.studies import leave, tiny_study


def begun(tmp_path: Path, **changed: str | None) -> tuple[Path, list[Any]]:
    """A finished trial of these versions and one to be run."""
    tmp_path.mkdir(exist_ok=True)
    trials = tiny_study(tmp_path).trials(tmp_path / "tiny")
    leave(trials[0], done=True)
    then = {name: version for name, version in {**versions(), **changed}.items() if version is not None}
    (Path(trials[0].results_dir) / "versions.json").write_text(json.dumps(then))
    return tmp_path / "tiny", trials[1:]


def bumped(version: str, place: int) -> str:
    parts = version.partition("+")[0].split(".")
    parts[place] = str(int(parts[place]) + 1)
    return ".".join(parts)


@pytest.mark.parametrize("package", COMPARED)
def test_a_study_is_resumed_with_the_versions_that_it_was_begun_with(package: str, tmp_path: Path) -> None:
    now = versions()[package]
    folder, to_run = begun(tmp_path / "same")
    assert check_versions(folder, to_run) == ([], [])

    series = 1 if now.startswith("0.") else 0
    folder, to_run = begun(tmp_path / "other", **{package: bumped(now, series)})
    (refused,), said = check_versions(folder, to_run)
    assert said == []
    assert refused.startswith(
        f"--resume: 1 trials of {folder} were run with {package} {bumped(now, series)}, and here "
    )
    assert f" is {now}: install " in refused and refused.endswith("or use another --name")

    folder, to_run = begun(tmp_path / "patch", **{package: bumped(now, 2)})
    refused_too, (note,) = check_versions(folder, to_run)
    assert refused_too == [] and f"{package} {bumped(now, 2)}, and here is {now}; with " in note


def test_a_package_that_is_gone_is_another_version_and_one_that_is_new_is_not(tmp_path: Path) -> None:
    folder, to_run = begun(tmp_path, ray=None)
    assert check_versions(folder, to_run) == ([], [])
    (Path(folder) / "left_right" / "sac" / "seed_0" / "versions.json").write_text('{"ray": "1.2.3')
    assert check_versions(folder, to_run) == ([], [])


def test_trials_that_run_again_are_not_held_to_their_versions(tmp_path: Path) -> None:
    folder, _ = begun(tmp_path, torch="1.0.0")
    assert check_versions(folder, tiny_study(tmp_path).trials(folder)) == ([], [])


def test_the_command_refuses_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = begun(tmp_path, torch="1.0.0")
    (folder / "study.yaml").write_text("experiment: tiny\n")
    argv = [str(tmp_path / "tiny.yaml"), "--results-dir", str(tmp_path), "--resume", "--dry-run"]
    assert main(argv, program=["run"], report=lambda arguments: 0) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --resume: 1 trials of ") and "install torch==1.0.0" in line
