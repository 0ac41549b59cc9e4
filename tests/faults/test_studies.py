"""Whole studies through the command line, whose processes, disks and folders are taken away."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rllib_nbsp.state.bundle import newest
from rllib_nbsp.state.own import STATE
from tests.faults.conftest import Figures
from tests.processes import cmdline, descendants
from tests.studies import TIMEOUT_S, TINY, call, command, write_config

CLOCK = ("wall_s", "env_steps_per_s", "updates_per_s")
SAC = {"sac": {"method": "sac"}}
LONG, SHORT = (("--set", f"visit.max_env_steps={n}", "training.updates_per_env_step=0.05") for n in (8000, 3000))
KILLS, LIFE_S = 20, 6.0
"""Of a study's process, and the seconds that it lives at most once its trial has begun."""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def rows(trial: Path, name: str = "evaluations.jsonl") -> list[dict[str, Any]]:
    """A file's rows, without what a clock says."""
    lines = (trial / name).read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCK} for line in lines]


class Study:
    """A study that runs beside the test.

    Args:
        arguments: of its command.
        env: further variables of its environment.
    """

    def __init__(self, *arguments: str | Path, **env: str) -> None:
        self.output = Path(str(arguments[2])).parent / "output.txt"
        with open(self.output, "w") as file:
            self.process = subprocess.Popen(
                command(*arguments), stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **env}
            )

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds; the study must go on so long."""
        deadline = time.monotonic() + TIMEOUT_S
        while not holds():
            assert time.monotonic() < deadline and self.process.poll() is None, self.output.read_text()
            time.sleep(0.2)

    def ends(self) -> tuple[int, str]:
        """Its exit code, and all that it said."""
        return self.process.wait(TIMEOUT_S), self.output.read_text()

    def session(self, name: str) -> list[int]:
        """Processes of its Ray whose command line has a word: descendants of its own process alone."""
        return [pid for pid in descendants(self.process.pid) if name in cmdline(pid)]


Begin = Callable[..., Study]


def go_on(said: str) -> list[str]:
    """The command that the study has told."""
    (told,) = {line.rpartition("go on with: ")[2] for line in said.splitlines() if "go on with: " in line}
    assert told.startswith("python run_tune.py ") and told.endswith(" --resume")
    return told.removeprefix("python run_tune.py ").split()


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts studies; one that still runs after its test is stopped."""
    begun: list[Study] = []

    def start(*arguments: str | Path, **env: str) -> Study:
        begun.append(Study(*arguments, **env))
        return begun[-1]

    yield start
    for study in begun:
        if study.process.poll() is None:
            study.process.terminate()
            study.process.wait(60)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[Path, str], Path]]:
    """Mounts file systems in memory, of a size."""
    mounted: list[Path] = []

    def mount(path: Path, options: str) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)
        shutil.rmtree(path)


def test_a_trial_whose_processes_are_killed_starts_again_and_no_row_is_there_twice(
    tmp_path: Path, begin: Begin, figures: Figures
) -> None:
    config = write_config(tmp_path, arms=SAC, cycles=1)
    study = begin(config, "--results-dir", tmp_path / "results", *SHORT, "--num-learners", "1")
    trial = tmp_path / "results" / "tiny" / "left_right" / "sac" / "seed_0"
    recovery = []
    for name in ("ray::StudyTrial", "ray::_WrappedExecutable"):
        study.until(lambda: (trial / "training.jsonl").is_file() and len(rows(trial, "training.jsonl")) > 3)
        before = len(list(trial.glob("training*.stale")))
        (pid,) = study.session(name)[:1]
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        study.until(lambda before=before: len(list(trial.glob("training*.stale"))) > before)
        study.until(lambda: (trial / "training.jsonl").is_file())
        recovery.append(time.monotonic() - killed)
    code, said = study.ends()
    assert code == 0, said
    places = [(row["visit"], row["eval_task"]) for row in rows(trial)]
    assert len(places) == len({*places}) == 4
    figures(recovery_s=max(recovery), doubled_env_steps=0)


def test_a_killed_driver_has_said_how_to_go_on_and_the_resumed_rows_are_those_of_a_run_that_never_stopped(
    tmp_path: Path, begin: Begin, figures: Figures
) -> None:
    config = write_config(tmp_path, cycles=1)
    whole = call(config, "--results-dir", tmp_path / "whole", "--max-concurrent", "1")
    assert whole.returncode == 0, whole.stderr
    study = begin(config, "--results-dir", tmp_path / "results", "--max-concurrent", "1")
    folder = tmp_path / "results" / "tiny" / "left_right"
    study.until((folder / "nbsp" / "seed_0" / "config.yaml").is_file)
    study.process.send_signal(signal.SIGKILL)
    code, said = study.ends()
    assert code == -signal.SIGKILL
    done = call(*go_on(said))
    assert done.returncode == 0, done.stderr
    for arm in ("sac", "nbsp"):
        assert_same_rows(folder / arm / "seed_0", tmp_path / "whole" / "tiny" / "left_right" / arm / "seed_0")
    figures(doubled_env_steps=0)


@pytest.mark.timeout(2400)  # twenty starts of Ray on a busy machine
def test_a_driver_killed_at_twenty_random_moments_leaves_a_whole_state_and_the_rows_of_a_run_that_never_stopped(
    tmp_path: Path, begin: Begin, figures: Figures
) -> None:
    config = write_config(tmp_path, arms={"nbsp": TINY["arms"]["nbsp"]})
    keys = ("--set", "visit.max_env_steps=2000", "state.every_env_steps=200")
    whole = call(config, "--results-dir", tmp_path / "whole", *keys)
    assert whole.returncode == 0, whole.stderr
    kills, rng, results = 0, np.random.default_rng(16), tmp_path / "results"
    trial = Path("tiny", "left_right", "nbsp", "seed_0")
    while kills < KILLS:
        again = ["--resume"] if (results / "tiny" / "study.yaml").is_file() else []
        study = begin(config, "--results-dir", results, *keys, *again)
        while study.process.poll() is None and not study.session("ray::StudyTrial"):
            time.sleep(0.2)  # it ends without a trial if the last kill came after the trial's end
        with contextlib.suppress(subprocess.TimeoutExpired):
            study.process.wait(rng.uniform(0.0, LIFE_S))
        if study.process.poll() is None:
            study.process.send_signal(signal.SIGKILL)
            kills += 1
        code, said = study.ends()
        assert code in (0, -signal.SIGKILL), said
        _, damaged = newest(results / trial / STATE)
        assert not damaged
        if code == 0:
            assert_same_rows(results / trial, tmp_path / "whole" / trial)
            results = tmp_path / f"results_{kills}"
    last = call(config, "--results-dir", results, *keys, "--resume")
    assert last.returncode == 0, last.stderr
    assert_same_rows(results / trial, tmp_path / "whole" / trial)
    figures(doubled_env_steps=0)


def assert_same_rows(again: Path, whole: Path) -> None:
    """Two trials have the same rows, but for what a clock says."""
    for name in ("evaluations.jsonl", "training.jsonl"):
        assert rows(again, name) == rows(whole, name)


def test_a_study_that_is_interrupted_twice_ends_at_once_and_can_be_resumed(tmp_path: Path, begin: Begin) -> None:
    config = write_config(tmp_path, arms=SAC, cycles=1)
    study = begin(config, "--results-dir", tmp_path / "results", *LONG)
    trial = tmp_path / "results" / "tiny" / "left_right" / "sac" / "seed_0"
    study.until((trial / "training.jsonl").is_file)
    for _ in range(2):
        study.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    code, said = study.ends()
    assert code == 130 and "Traceback" not in said
    _, damaged = newest(trial / STATE)
    assert not damaged
    done = call(*go_on(said))
    assert done.returncode == 0, done.stderr
    assert len(rows(trial)) == 4


def test_a_lost_cluster_is_said_with_the_command_that_goes_on(tmp_path: Path, begin: Begin, figures: Figures) -> None:
    config = write_config(tmp_path, arms=SAC, cycles=1)
    study = begin(config, "--results-dir", tmp_path / "results", *LONG)
    trial = tmp_path / "results" / "tiny" / "left_right" / "sac" / "seed_0"
    study.until((trial / "training.jsonl").is_file)
    below = descendants(study.process.pid)
    (gcs,) = [pid for pid in below if cmdline(pid).partition(" ")[0].endswith("gcs_server")]
    os.kill(gcs, signal.SIGKILL)
    killed = time.monotonic()
    code, said = study.ends()
    assert time.monotonic() - killed < 90
    assert code == 4 and re.search(
        r"error: the Ray cluster at \S+ is lost; finished trials are kept; go on with: ", said
    )
    figures(seconds=time.monotonic() - killed)
    deadline = time.monotonic() + 30
    while any("ray::StudyTrial" in cmdline(pid) for pid in below):
        assert time.monotonic() < deadline, "the trial outlives its cluster"
        time.sleep(0.5)
    done = call(*go_on(said))
    assert done.returncode == 0, done.stderr


@as_root
def test_a_full_disk_ends_its_trial_with_the_bytes_that_it_needs_and_the_others_go_on(
    tmp_path: Path, small_disk: Callable[[Path, str], Path], figures: Figures
) -> None:
    results = tmp_path / "results"
    full = small_disk(results / "tiny" / "left_right" / "sac", "size=24k")
    config = write_config(tmp_path, cycles=1)
    done = call(config, "--results-dir", results, "--max-concurrent", "1")
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: left_right/sac/seed_0: OSError: [Errno 28] No space left on device: ")
    assert str(full) in line and re.search(r"; [\d,]+ bytes are free there, and a trial needs about [\d,]+", line)
    assert "Traceback" not in done.stdout + done.stderr and "starting again" not in done.stdout
    assert json.loads((results / "tiny/left_right/nbsp/seed_0/status.json").read_text())["done"]
    subprocess.run(["mount", "-o", "remount,size=10m", str(full)], check=True)
    again = call(*go_on(done.stdout))
    assert again.returncode == 0, again.stderr
    assert len(rows(full / "seed_0")) == 4
    figures(doubled_env_steps=0)


@as_root
def test_a_study_whose_disk_is_full_says_so_and_goes_on_once_there_is_room(
    tmp_path: Path, begin: Begin, small_disk: Callable[[Path, str], Path], figures: Figures
) -> None:
    results = small_disk(tmp_path / "results", "size=12m")
    config = write_config(tmp_path, arms=SAC, cycles=1)
    study = begin(config, "--results-dir", results, *SHORT)
    trial = results / "tiny" / "left_right" / "sac" / "seed_0"
    study.until((trial / "training.jsonl").is_file)
    with open(results / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass
    code, said = study.ends()
    assert code in (1, 4), said
    assert "No space left on device" in said and "Traceback" not in said
    (results / "filler").unlink()
    again = call(*go_on(said))
    assert again.returncode == 0, again.stderr
    assert len(rows(trial)) == 4
    figures(doubled_env_steps=0)


@as_root
def test_a_full_disk_under_rays_session_is_told_in_a_line(
    tmp_path: Path, begin: Begin, small_disk: Callable[[Path, str], Path], figures: Figures
) -> None:
    session = small_disk(Path(f"/tmp/rs{os.getpid()}"), "size=16k")  # a socket's path must be short
    study = begin(write_config(tmp_path, arms=SAC), "--results-dir", tmp_path / "results", RAY_TMPDIR=str(session))
    code, said = study.ends()
    assert code == 4, said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert re.match(
        rf"error: --address local: {session}, where Ray keeps its files, has [\d,]+ bytes free; RAY_TMP", line
    )
    assert "Traceback" not in said and not (tmp_path / "results" / "tiny" / "study.yaml").exists()
    figures()


@as_root
def test_results_that_become_read_only_end_their_trial_and_say_so(
    tmp_path: Path, begin: Begin, small_disk: Callable[[Path, str], Path], figures: Figures
) -> None:
    results = tmp_path / "results"
    arm = results / "tiny" / "left_right" / "sac"
    config = write_config(tmp_path, arms=SAC, cycles=1)
    study = begin(config, "--results-dir", results, *SHORT)
    study.until((arm / "seed_0" / "training.jsonl").is_file)
    small_disk(arm / "seed_0", "ro")  # over what is there, as a disk turns that has had an error
    code, said = study.ends()
    assert code == 1, said
    assert re.search(
        r"^failed: left_right/sac/seed_0: OSError: .*Read-only file system: '" + str(arm), said, re.MULTILINE
    )
    assert "go on with: " in said and "Traceback" not in said
    figures()


def test_results_that_are_removed_end_their_trial_and_the_study_says_so(
    tmp_path: Path, begin: Begin, figures: Figures
) -> None:
    config = write_config(tmp_path, arms=SAC, cycles=1)
    study = begin(config, "--results-dir", tmp_path / "results", *SHORT)
    folder = tmp_path / "results" / "tiny"
    trial = folder / "left_right" / "sac" / "seed_0"
    study.until((trial / "training.jsonl").is_file)
    shutil.rmtree(folder, ignore_errors=True)
    code, said = study.ends()
    assert code in (1, 4), said
    assert f"{trial} is gone: it was removed or moved while the run wrote to it" in said
    assert f"error: {folder / 'study.yaml'} was removed during the run, and is written anew" in said
    assert (folder / "study.yaml").is_file() and "Traceback" not in said
    assert go_on(said)
    figures()
