"""What a run has written, when others write, read or remove it too."""

from __future__ import annotations

import multiprocessing.connection
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import load_evaluations
from rllib_nbsp.locks import FolderInUse
from rllib_nbsp.records import RecordsError, TrialFolder
from rllib_nbsp.study.folder import open_trials, study_folder, write_study
from rllib_nbsp.study.trials import may_pass
from tests.studies import call, leave, tiny_study, write_config


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    return TrialFolder(tmp_path / "seed_0", tiny_study(tmp_path).trials()[0], fresh=True)


def test_a_second_process_is_kept_from_a_trials_folder(
    folder: TrialFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rllib_nbsp.records.LOCK_WAIT_S", 0.2)
    run = tiny_study(tmp_path).trials()[0]

    def tries(pipe: multiprocessing.connection.Connection) -> None:
        folder._writers.clear()  # which another process does not know
        try:
            TrialFolder(folder.path, run, fresh=True)
            pipe.send("written")
        except FolderInUse as error:
            pipe.send(str(error))

    def other() -> str:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=tries, args=(theirs,))
        process.start()
        process.join(30)
        return ours.recv()

    folder.training({"env_steps": 1})
    assert other() == f"{folder.path} is in use by {os.uname().nodename}:{os.getpid()} (host:pid)"
    assert [file.name for file in folder.path.glob("training*")] == ["training.jsonl"]
    folder.close()
    with pytest.raises(RecordsError, match="was closed"):
        folder.training({"env_steps": 2})


def test_a_new_run_of_the_same_process_takes_the_folder_over(folder: TrialFolder, tmp_path: Path) -> None:
    newer = TrialFolder(folder.path, tiny_study(tmp_path).trials()[0], fresh=True)
    with pytest.raises(RecordsError, match="was closed, by the end of this run or another run of this process"):
        folder.training({"env_steps": 1})
    newer.training({"env_steps": 1})


def test_rows_that_another_has_touched_end_the_run(folder: TrialFolder) -> None:
    folder.training({"env_steps": 1})
    file = folder.path / "training.jsonl"
    size = file.stat().st_size
    with open(file, "a") as other:
        other.write("{}\n")
    with pytest.raises(RecordsError, match=rf"training.jsonl has {size + 3} bytes and had {size} after the run's last"):
        folder.training({"env_steps": 2})
    file.unlink()
    with pytest.raises(RecordsError, match=r"training.jsonl has 0 bytes and had"):
        folder.training({"env_steps": 2})


def test_a_folder_that_is_removed_ends_the_run(folder: TrialFolder) -> None:
    folder.training({"env_steps": 1})
    shutil.rmtree(folder.path)
    for write in (lambda: folder.training({"env_steps": 2}), lambda: folder.cost({"method_bytes": 1})):
        with pytest.raises(RecordsError, match="is gone: it was removed or moved while the run wrote to it") as caught:
            write()
        assert not may_pass(caught.value)
    assert not folder.path.exists()


def test_a_torn_state_of_tune_keeps_nothing_from_going_on(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    results = tmp_path / "tiny"
    trials = study.trials(results)
    leave(trials[0], done=True)
    write_study(study, [], results, resume=False)
    state = results / "_tune" / "20260101-000000" / "experiment_state-2026-01-01_00-00-00.json"
    state.parent.mkdir(parents=True)
    state.write_text('{"trial_data": [')
    assert study_folder(str(tmp_path), "tiny", resume=True) == results
    assert open_trials(study, trials, results, resume=True) == trials[1:]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_read_only_folder_is_refused_before_anything_starts(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(results)], check=True)
    try:
        done = call(write_config(tmp_path), "--results-dir", results)
    finally:
        subprocess.run(["umount", str(results)], check=True)
    assert done.returncode == 4
    assert done.stderr.splitlines() == [f"error: --results-dir {results}: {results} is not writable"]


WRITES = """
import json, sys
from pathlib import Path
file = Path(sys.argv[1])
rows = [line + "\\n" for line in Path(sys.argv[2]).read_text().splitlines()]
for line in rows * 200:
    with open(file, "a") as open_file:
        open_file.write(line[: len(line) // 2]); open_file.flush()
        open_file.write(line[len(line) // 2 :])
"""


def test_rows_are_read_while_they_are_written(tmp_path: Path) -> None:
    source = Path("results/published/cpu_button_drawer")
    (trial, *_) = sorted(source.glob("*/*/seed_0"))
    copy = tmp_path / "study" / trial.parent.parent.name / trial.parent.name / trial.name
    shutil.copytree(trial, copy)
    for packed in copy.glob("*.jsonl.gz"):
        subprocess.run(["gzip", "-d", str(packed)], check=True)
    whole = len(load_evaluations(tmp_path / "study"))
    rows = copy / "evaluations.jsonl"
    written = tmp_path / "written.jsonl"
    rows.rename(written)
    rows.touch()  # as a run begins: what is read grows from here, and never shrinks
    writer = subprocess.Popen([sys.executable, "-c", WRITES, str(rows), str(written)])
    seen: list[int] = []
    try:
        while writer.poll() is None:
            if rows.read_text().count("\n"):
                seen.append(len(load_evaluations(tmp_path / "study")))
    finally:
        writer.wait(60)
    seen.append(len(load_evaluations(tmp_path / "study")))
    assert writer.returncode == 0
    assert seen == sorted(seen) and seen[-1] == whole
