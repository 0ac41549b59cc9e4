"""RLlib's checkpoints: a run goes on from one to the last bit, and not at all from a damaged or a foreign one."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from rllib_nbsp import ContinualSAC
from rllib_nbsp.state.packing import StateError
from rllib_nbsp.state.sealed import SEAL
from tests.resume import runs
from tests.resume.killed import everything, run_killed


@pytest.fixture(autouse=True)
def on_ray(ray_session: None) -> None:
    """All of these tests need it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_killed(functools.partial(runs.point_mass, method="nbsp"), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of visit 2, in the middle of its episodes."""
    algorithm = runs.point_mass(tmp_path_factory.mktemp("run"), "nbsp").build_algo()
    for _ in range(4):
        algorithm.train()
    place = algorithm.save_to_path(tmp_path_factory.mktemp("checkpoint") / "of_visit_2")
    algorithm.stop()
    return Path(place)


def finished(algorithm: Any) -> dict[str, Any]:
    while not algorithm.done:
        algorithm.train()
    seen = everything(algorithm)
    algorithm.stop()
    return seen


def test_a_run_goes_on_from_a_checkpoint_wherever_it_lies(tmp_path: Path, whole: dict[str, Any]) -> None:
    algorithm = runs.point_mass(tmp_path / "run", "nbsp").build_algo()
    for _ in range(4):
        algorithm.train()
    assert algorithm.save_to_path(tmp_path / "here") == str(tmp_path / "here")
    remote = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    assert algorithm.save_to_path("there", filesystem=remote) == "there"
    algorithm.train()
    algorithm.stop()
    rows = (tmp_path / "run" / "training.jsonl").read_bytes()
    looked = ContinualSAC.from_checkpoint(tmp_path / "here")
    assert (looked.visit.number, looked.env_steps, looked.iteration) == (2, 340, 4)
    assert (tmp_path / "run" / "training.jsonl").read_bytes() == rows  # to look at it takes no rows back
    looked.resumption.save_in = None  # and it is stopped without a trace
    looked.stop()
    again = runs.point_mass(tmp_path / "run", "nbsp").build_algo()
    again.restore_from_path("there", filesystem=remote)
    assert finished(again) == whole


def test_a_phase_without_collecting_is_gone_on_with_too(tmp_path: Path) -> None:
    whole = run_killed(functools.partial(runs.point_mass, method="packnet"), tmp_path / "whole")
    algorithm = runs.point_mass(tmp_path / "run", "packnet").build_algo()
    while algorithm.visit.number < 2 or algorithm.schedule.phase.collect:
        algorithm.train()
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    algorithm.stop()
    shutil.rmtree(tmp_path / "run" / "state")
    again = runs.point_mass(tmp_path / "run", "packnet").build_algo()
    again.restore_from_path(path)
    assert finished(again) == whole


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "add"])
def test_whatever_was_done_to_a_file_is_found_and_named(harm: str, checkpoint: Path, tmp_path: Path) -> None:
    algorithm = runs.point_mass(tmp_path / "run", "nbsp").build_algo()
    before = algorithm.learners.first("checksum")
    files = sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())
    assert len(files) > 20 and {"learner.npz", "module_state.pkl"} <= {file.name for file in files}
    for file in files:
        copy = tmp_path / "copy"
        shutil.copytree(checkpoint, copy)
        target = copy / file
        content = bytearray(target.read_bytes())
        if harm == "flip" and content:
            content[len(content) // 2] ^= 4
            target.write_bytes(content)
        elif harm == "cut" and content:
            target.write_bytes(content[: len(content) // 2])
        elif harm == "add":
            target = target.with_name("more.pkl")
            target.write_bytes(b"x")
        else:
            target.unlink()
        with pytest.raises(StateError) as error:
            algorithm.restore_from_path(copy)
        named = copy / SEAL if file.name == SEAL and harm != "add" else target
        assert str(named) in str(error.value) or file.name == SEAL
        assert algorithm.learners.first("checksum") == before
        shutil.rmtree(copy)
    algorithm.stop()


def test_another_runs_checkpoint_and_what_is_none_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    algorithm = runs.point_mass(tmp_path, "nbsp").training(gamma=0.9).build_algo()
    with pytest.raises(StateError, match=r"training.gamma: 0.99 -> 0.9"):
        algorithm.restore_from_path(checkpoint)
    with pytest.raises(StateError, match="there is no such checkpoint"):
        algorithm.restore_from_path(tmp_path / "nothing")
    with pytest.raises(StateError, match=f"{SEAL} is missing"):
        algorithm.restore_from_path(checkpoint / "learner_group")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / SEAL).write_text(json.dumps(["a"]))
    with pytest.raises(StateError, match="not a list of files"):
        algorithm.restore_from_path(tmp_path / "list")
    algorithm.stop()


def test_a_learners_weights_alone_come_from_any_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    algorithm = runs.point_mass(tmp_path, "nbsp").training(gamma=0.9).build_algo()
    before = algorithm.learners.first("checksum")
    algorithm.restore_from_path(checkpoint / "learner_group", component="learner_group")
    assert algorithm.learners.first("checksum") != before and not algorithm.schedule.started
    algorithm.stop()
