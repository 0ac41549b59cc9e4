"""A study's result folder: locks, what is finished, what may be resumed."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from analysis import load_study as load_written_study
from rllib_nbsp.study.errors import PreflightError
from rllib_nbsp.study.folder import open_trials, study_folder, study_lock, write_study
from rllib_nbsp.study.reader import load_study
from rllib_nbsp.study.study import CheckedStudy
from tests.studies import leave, tiny_study, write_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "tiny"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def study(tmp_path: Path) -> CheckedStudy:
    return tiny_study(tmp_path, seeds=[0, 1])


def refusal(study: CheckedStudy, folder: Path, resume: bool) -> PreflightError:
    with pytest.raises(PreflightError) as caught:
        open_trials(study, study.trials(folder), folder, resume)
    return caught.value


# The folder


def test_a_relative_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert study_folder("results", "tiny", resume=False) == tmp_path / "results" / "tiny"


def test_a_results_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightError, match=r"--results-dir .*/file: .*/file is a file, not a folder") as caught:
        study_folder(str(tmp_path / "file"), "tiny", resume=False)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["a" * 300, "~nobody_of_that_name/x"])
def test_a_results_dir_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(PreflightError, match="--results-dir ") as caught:
        study_folder(name, "tiny", resume=False)
    assert caught.value.exit_code == 4


def test_an_unwritable_results_dir_is_refused() -> None:
    # Not even root makes a folder in /proc, though the kernel says that root may.
    with (
        pytest.raises(PreflightError, match="/proc") as caught,
        study_lock(study_folder("/proc/results", "tiny", resume=False)),
    ):
        pass
    assert caught.value.exit_code == 4


def test_a_study_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny").symlink_to(tmp_path.parent)
    with pytest.raises(PreflightError, match="symbolic link"):
        study_folder(str(tmp_path), "tiny", resume=False)


def test_resuming_where_nothing_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"there is no study in .*; leave --resume out") as caught:
        study_folder(str(tmp_path), "tiny", resume=True)
    assert caught.value.exit_code == 2


# The lock


def hold(folder: Path, held: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    with study_lock(folder):
        held.set()
        done.wait(30)


def test_a_folder_in_use_names_who_holds_it(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(folder, held, done))
    holder.start()
    try:
        assert held.wait(30)
        with (
            pytest.raises(PreflightError, match=f"in use by {socket.gethostname()}:{holder.pid}") as caught,
            study_lock(folder),
        ):
            pass
        assert caught.value.exit_code == 4
    finally:
        done.set()
        holder.join(30)


def test_a_killed_process_leaves_no_lock(folder: Path) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom rllib_nbsp.study.folder import study_lock\n"
        "with study_lock(Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], timeout=60).returncode == -9
    with study_lock(folder):
        assert (folder / ".lock").read_text() == f"{socket.gethostname()}:{os.getpid()} (host:pid)"


# What is left to run


def test_a_new_study_runs_every_trial(study: CheckedStudy, folder: Path) -> None:
    trials = study.trials(folder)
    assert open_trials(study, trials, folder, resume=False) == trials


def test_earlier_results_are_never_overwritten_and_both_ways_out_are_named(study: CheckedStudy, folder: Path) -> None:
    for run, done in zip(study.trials(folder)[:2], (True, False), strict=True):
        leave(run, done=done)
    error = refusal(study, folder, resume=False)
    assert error.exit_code == 2
    assert "has 2 runs of an earlier start, 1 of them finished: go on with --resume, or" in error.problems[0]
    assert "--name" in error.problems[0]


def test_resuming_skips_finished_trials_and_repeats_the_others(study: CheckedStudy, folder: Path) -> None:
    trials = study.trials(folder)
    write_study(study, [], folder, resume=False)
    leave(trials[0], done=True)
    leave(trials[1], done=False)
    assert open_trials(study, trials, folder, resume=True) == trials[1:]


@pytest.mark.parametrize("status", ["", "{", "[]", "null", '{"done": fal'])
def test_a_torn_status_is_an_unfinished_trial(study: CheckedStudy, folder: Path, status: str) -> None:
    trials = study.trials(folder)
    write_study(study, [], folder, resume=False)
    leave(trials[0], done=True)
    (Path(str(trials[0].results_dir)) / "status.json").write_text(status)
    assert open_trials(study, trials, folder, resume=True) == trials


def test_results_of_other_settings_are_refused_with_what_changed(
    study: CheckedStudy, folder: Path, tmp_path: Path
) -> None:
    write_study(study, [], folder, resume=False)
    leave(study.trials(folder)[0], done=True)
    error = refusal(tiny_study(tmp_path, "training.gamma=0.9", "model.hidden=[9]"), folder, resume=True)
    assert error.exit_code == 3
    assert "training.gamma was 0.99 and is 0.9" in error.problems[0]
    assert "model.hidden was [8, 8] and is [9]" in error.problems[0]
    assert "sac/seed_0" in error.problems[0]


@pytest.mark.parametrize("text", ["[1, 2]", "training: [1]", "{", "null"])
def test_settings_that_cannot_be_told_are_said_to_be_so(
    text: str, study: CheckedStudy, folder: Path, tmp_path: Path
) -> None:
    write_study(study, [], folder, resume=False)
    [run, *_] = study.trials(folder)
    leave(run, done=True)
    (Path(str(run.results_dir)) / "config.yaml").write_text(text)
    [problem] = refusal(tiny_study(tmp_path, "training.gamma=0.9"), folder, resume=True).problems
    assert "has results of other settings (which ones is not known: config.yaml: " in problem


def test_a_new_seed_of_changed_settings_is_refused_beside_finished_ones(
    study: CheckedStudy, folder: Path, tmp_path: Path
) -> None:
    write_study(study, [], folder, resume=False)
    leave(study.trials(folder)[0], done=True)
    error = refusal(tiny_study(tmp_path, "training.gamma=0.9", seeds=[5]), folder, resume=True)
    assert "training.gamma was 0.99 and is 0.9" in error.problems[0]


def test_a_new_seed_is_refused_beside_unfinished_ones_of_other_settings_that_stay(
    study: CheckedStudy, folder: Path, tmp_path: Path
) -> None:
    write_study(study, [], folder, resume=False)
    leave(study.trials(folder)[0], done=False)
    error = refusal(tiny_study(tmp_path, "training.gamma=0.9", seeds=[5]), folder, resume=True)
    assert "sac/seed_0 has results of other settings (training.gamma was 0.99 and is 0.9)" in error.problems[0]


def test_another_arm_is_refused_beside_results_of_other_shared_settings(
    study: CheckedStudy, folder: Path, tmp_path: Path
) -> None:
    write_study(study, [], folder, resume=False)
    leave(study.trials(folder)[0], done=True)
    changed = tiny_study(tmp_path, "visit.max_env_steps=500", arms=["nbsp"])
    error = refusal(changed, folder, resume=True)
    assert error.exit_code == 3
    assert "sac/seed_0 has results of other settings (visit.max_env_steps was 400 and is 500)" in error.problems[0]


def test_another_arm_may_run_beside_results_of_an_arms_own_settings(
    study: CheckedStudy, folder: Path, tmp_path: Path
) -> None:
    write_study(study, [], folder, resume=False)
    leave(study.trials(folder)[1], done=True)
    for own in ("arms.nbsp.skill_frac=0.3", "arms.nbsp.replay={interval: 5}"):
        changed = tiny_study(tmp_path, own, arms=["sac"])
        assert len(open_trials(changed, changed.trials(folder), folder, resume=True)) == 1


def test_another_arm_may_run_beside_an_earlier_start_with_options_of_its_own(
    study: CheckedStudy, folder: Path, tmp_path: Path
) -> None:
    own = "arms.nbsp.replay.interval=5"
    earlier = tiny_study(tmp_path, own, arms=["nbsp"])
    write_study(earlier, [own], folder, resume=False)
    leave(earlier.trials(folder)[0], done=True)
    plain = tiny_study(tmp_path, arms=["sac"])
    assert len(open_trials(plain, plain.trials(folder), folder, resume=True)) == 1


@pytest.mark.parametrize("arm", ["sac", "nbsp"])
def test_a_section_that_became_null_is_a_change(study: CheckedStudy, folder: Path, tmp_path: Path, arm: str) -> None:
    stop = tiny_study(tmp_path, "visit.early_stop={success_rate: 0.5, min_env_steps: 200}")
    write_study(stop, [], folder, resume=False)
    leave(stop.trials(folder)[0], done=True)
    error = refusal(tiny_study(tmp_path, arms=[arm], seeds=[3]), folder, resume=True)
    assert "visit.early_stop did not exist and is None" in error.problems[0]
    assert "visit.early_stop.success_rate was 0.5 and is gone" in error.problems[0]


def test_an_empty_section_of_an_arm_exempts_nothing(study: CheckedStudy, folder: Path, tmp_path: Path) -> None:
    arms = {"sac": {"method": "sac", "replay": {}}, "nbsp": {"method": "nbsp", "score_env_steps": 200}}
    first = load_study(write_config(tmp_path, arms=arms))
    write_study(first, [], folder, resume=False)
    leave(first.trials(folder)[0], done=True)
    changed = load_study(tmp_path / "tiny.yaml", ["replay.capacity=3000"], arms=["nbsp"])
    assert "replay.capacity was 2000 and is 3000" in refusal(changed, folder, resume=True).problems[0]


def test_another_sequence_may_have_other_settings(folder: Path, tmp_path: Path) -> None:
    two = {"left_right": ["reach-left", "reach-right"], "up_down": ["reach-up", "reach-down"]}
    config = write_config(tmp_path, sequences=two)
    first = load_study(config, sequences=["left_right"])
    write_study(first, [], folder, resume=False)
    leave(first.trials(folder)[0], done=True)
    second = load_study(config, ["visit.max_env_steps=800"], sequences=["up_down"])
    assert len(open_trials(second, second.trials(folder), folder, resume=True)) == 2


def test_results_of_an_arm_that_the_file_no_longer_has_are_left_alone(
    study: CheckedStudy, folder: Path, tmp_path: Path
) -> None:
    write_study(study, [], folder, resume=False)
    leave(study.trials(folder)[1], done=True)
    changed = load_study(write_config(tmp_path, arms={"sac": {"method": "sac"}}), ["training.gamma=0.9"])
    assert len(open_trials(changed, changed.trials(folder), folder, resume=True)) == 1


def test_an_unfinished_trial_of_other_settings_is_run_again(study: CheckedStudy, folder: Path, tmp_path: Path) -> None:
    write_study(study, [], folder, resume=False)
    leave(study.trials(folder)[0], done=False)
    changed = tiny_study(tmp_path, "training.gamma=0.9")
    assert len(open_trials(changed, changed.trials(folder), folder, resume=True)) == 2


def test_the_folder_of_another_experiment_is_not_resumed(study: CheckedStudy, folder: Path, tmp_path: Path) -> None:
    write_study(study, [], folder, resume=False)
    error = refusal(tiny_study(tmp_path, "experiment=other"), folder, resume=True)
    assert error.exit_code == 3
    assert "holds the experiment 'tiny', not 'other'" in error.problems[0]


def test_an_unreadable_study_file_is_named(study: CheckedStudy, folder: Path) -> None:
    (folder / "study.yaml").write_text("a: [")
    error = refusal(study, folder, resume=True)
    assert error.exit_code == 3
    assert "study.yaml cannot be read" in error.problems[0]


# study.yaml


def test_the_analysis_reads_what_the_study_should_hold(study: CheckedStudy, folder: Path) -> None:
    write_study(study, ["cycles=2"], folder, resume=False)
    written = load_written_study(folder)
    assert written is not None
    assert written.sequences == {"left_right": ["reach-left", "reach-right"]}
    assert (written.arms, written.seeds) == (["sac", "nbsp"], [0, 1])


def test_the_study_keeps_its_own_text(study: CheckedStudy, folder: Path) -> None:
    write_study(study, ["cycles=2"], folder, resume=False)
    content = yaml.safe_load((folder / "study.yaml").read_text())
    assert content["text"] == study.text
    assert content["overrides"] == ["cycles=2"]


def test_overrides_of_every_start_are_kept(study: CheckedStudy, folder: Path) -> None:
    write_study(study, ["cycles=2", "arms.sac.replay={}"], folder, resume=False)
    write_study(study, ["cycles=2", "arms.nbsp.skill_frac=0.2"], folder, resume=True)
    content = yaml.safe_load((folder / "study.yaml").read_text())
    assert content["overrides"] == ["cycles=2", "arms.sac.replay={}", "arms.nbsp.skill_frac=0.2"]


def test_resuming_with_other_seeds_adds_them(study: CheckedStudy, folder: Path, tmp_path: Path) -> None:
    write_study(study, [], folder, resume=False)
    write_study(tiny_study(tmp_path, seeds=[7], arms=["nbsp"]), [], folder, resume=True)
    written = load_written_study(folder)
    assert written is not None
    assert (written.arms, written.seeds) == (["sac", "nbsp"], [0, 1, 7])
