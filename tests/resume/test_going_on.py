"""What a run goes on from, what it refuses, and what it does when it is told to stop."""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from rllib_nbsp import ContinualSAC
from rllib_nbsp.resumption import Interruption
from rllib_nbsp.state.bundle import list_bundles
from rllib_nbsp.state.packing import StateError
from tests.resume import runs
from tests.resume.killed import everything, run_killed


@pytest.fixture(autouse=True)
def on_ray(ray_session: None) -> None:
    """All of these tests need it."""


def train(config: Any, iterations: int | None = None) -> ContinualSAC:
    """So many iterations, or all that are left."""
    algorithm = config.build_algo()
    while not algorithm.done and iterations != 0:
        algorithm.train()
        iterations = None if iterations is None else iterations - 1
    return algorithm


def stopped(config: Any, iterations: int) -> None:
    train(config, iterations).stop()


def ended(config: Any) -> dict[str, Any]:
    algorithm = train(config)
    seen = everything(algorithm)
    algorithm.stop()
    return seen


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_killed(functools.partial(runs.point_mass, method="nbsp"), tmp_path_factory.mktemp("whole"))


def test_a_run_that_is_stopped_goes_on_in_the_middle_of_its_episodes(tmp_path: Path, whole: dict[str, Any]) -> None:
    config = functools.partial(runs.point_mass, tmp_path, "nbsp")
    for iterations in (1, 3, 2):  # 100 steps each, or up to a boundary
        stopped(config(), iterations)
    algorithm = config().build_algo()
    assert algorithm.train()["env_steps"] == 480 + 100
    assert algorithm.iteration == 7
    algorithm.stop()
    assert ended(config()) == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_state(number: int, tmp_path: Path, whole: dict[str, Any]) -> None:
    config = functools.partial(runs.point_mass, tmp_path, "nbsp")
    run = train(config(), 1)
    told: list[int] = []
    before = signal.signal(number, lambda number, frame: told.append(number))
    try:
        learn = run._learn

        def learn_and_be_told() -> None:
            learn()
            if run.env_steps == 136:
                os.kill(os.getpid(), number)

        run._learn = learn_and_be_told  # type: ignore[method-assign]
        run.train()
    finally:
        signal.signal(number, before)
    assert told == [number]  # what was to happen at a signal did, once the state was written
    assert [path.name for path in list_bundles(tmp_path / "state")][-1] == "bundle_000000000136"
    run.resumption.save = lambda iterations: None  # type: ignore[method-assign]  # as if the process were gone
    run.stop()
    assert ended(config()) == whole


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        with Interruption(True) as interruption:
            signal.raise_signal(signal.SIGTERM)
            assert (interruption.signal, told) == (signal.SIGTERM, [])
            signal.raise_signal(signal.SIGTERM)
            assert told == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signals_are_left_alone_where_nothing_is_to_be_saved_and_beside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside: list[Any] = []

    def look(wanted: bool) -> None:
        with Interruption(wanted):
            inside.append(signal.getsignal(signal.SIGTERM))

    look(False)
    thread = threading.Thread(target=look, args=(True,))
    thread.start()
    thread.join()
    assert inside == [before, before]


def test_a_damaged_state_is_said_and_the_one_before_it_taken(
    tmp_path: Path, whole: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = functools.partial(runs.point_mass, tmp_path, "nbsp")
    stopped(config(), 5)
    older, newest = list_bundles(tmp_path / "state")
    content = bytearray((newest / "learner.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "learner.npz").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert ended(config()) == whole
    assert f"{newest / 'learner.npz'}: damaged" in caplog.text and older.name in caplog.text


@pytest.mark.parametrize("change", ["seed", "settings", "versions"])
def test_a_state_of_another_run_is_refused_and_one_of_other_versions_named(
    change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(runs.point_mass(tmp_path, "sac"), 2)
    config = runs.point_mass(tmp_path, "sac")
    if change == "versions":
        monkeypatch.setattr("rllib_nbsp.resumption.versions", lambda: {"torch": "9.9"})
        with caplog.at_level(logging.WARNING):
            train(config, 1)
        assert "torch" in caplog.text and "-> '9.9'" in caplog.text and "not to the last bit" in caplog.text
        return
    if change == "seed":
        config, told = config.debugging(seed=5), "seed: 0 -> 5"
    else:
        config, told = config.training(gamma=0.9), "training.gamma: 0.99 -> 0.9"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StateError, match="a run of other settings is unfinished here") as error:
        config.build_algo()
    assert told in str(error.value) and str(tmp_path / "state") in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_rows_behind_the_state_are_made_again_and_a_file_that_lost_some_is_named(tmp_path: Path) -> None:
    config = functools.partial(runs.point_mass, tmp_path, "sac")
    stopped(config(), 3)
    rows = tmp_path / "training.jsonl"
    kept = rows.read_bytes()
    rows.write_bytes(kept + b'{"visit": 1, "torn')
    stopped(config(), 1)
    assert rows.read_bytes().startswith(kept) and b"torn" not in rows.read_bytes()
    rows.write_bytes(kept[:-5])
    with pytest.raises(ValueError, match=r"training.jsonl: .* bytes; the run had written"):
        config().build_algo().training_step()


def test_a_run_that_is_over_leaves_no_state_and_starts_anew(tmp_path: Path, whole: dict[str, Any]) -> None:
    config = functools.partial(runs.point_mass, tmp_path, "nbsp")
    assert ended(config()) == whole
    assert not (tmp_path / "state").exists()
    algorithm = train(config(), 1)
    assert algorithm.env_steps == 100
    assert (tmp_path / "training.jsonl.stale").exists()
    algorithm.stop()


def test_without_a_results_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = runs.point_mass(tmp_path, "sac")
    config.given.pop("results_dir")
    stopped(config, 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_remote_workers_go_on_as_they_would_have(tmp_path: Path) -> None:
    build = functools.partial(runs.point_mass, method="nbsp", num_env_runners=2, num_cpus_per_env_runner=0.2)
    whole, again = (run_killed(build, tmp_path / name) for name in ("whole", "again"))
    assert whole == again
    kills = [("update", 7), ("write", 30), ("boundary", 2), ("update", 3), ("rename", 2)]
    assert run_killed(build, tmp_path / "pieces", kills) == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout", [{"num_env_runners": 2, "num_cpus_per_env_runner": 0.2}, {"num_envs_per_env_runner": 4}]
)
def test_another_number_of_workers_keeps_all_but_the_running_episodes(layout: dict[str, Any], tmp_path: Path) -> None:
    stopped(runs.point_mass(tmp_path, "nbsp"), 5)
    before = train(runs.point_mass(tmp_path, "nbsp"), 0)
    before.resumption.begin()
    other = runs.point_mass(tmp_path, "nbsp", **layout).build_algo()
    other.resumption.begin()
    assert other.schedule.version == before.schedule.version + 1
    mine, theirs = everything(other), everything(before)
    assert [name for name in mine if mine[name] != theirs[name]] == ["schedule", "sampling"]
    while not other.done:
        other.train()
    assert other.env_steps == 960
    other.stop()


@pytest.mark.parametrize(("first", "then"), [(0, 1), (0, 2), (2, 0)])
def test_another_number_of_learners_keeps_everything(first: int, then: int, tmp_path: Path) -> None:
    def run(learners: int) -> Any:
        return runs.point_mass(tmp_path, "nbsp").learners(num_learners=learners, num_cpus_per_learner=0.2)

    stopped(run(first), 5)
    before, other = run(first).build_algo(), run(then).build_algo()
    for algorithm in (before, other):
        assert algorithm.resumption.begin() and algorithm.updates > 0
    assert everything(other) == everything(before)
    before.resumption.save = lambda iterations: None  # as if the process were gone
    before.stop()
    while not other.done:
        other.train()
    assert other.env_steps == 960
    other.stop()
