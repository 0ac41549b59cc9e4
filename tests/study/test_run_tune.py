"""The command line: exit codes, plans, and real trials on the point mass."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.cluster_utils import Cluster

from rllib_nbsp.cli import report
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sampling.env_runner import ContinualEnvRunner
from rllib_nbsp.settings import RunSettings
from rllib_nbsp.study.command import Told
from rllib_nbsp.study.command import main as command_line
from rllib_nbsp.study.estimate import (
    Estimate,
    Speed,
    calibrate,
    duration,
    evaluation_env_steps,
    study_seconds,
    trial_estimate,
)
from rllib_nbsp.study.folder import study_lock
from rllib_nbsp.study.plan import evaluation_share, make_plan, trial_bundles
from rllib_nbsp.study.reader import load_study
from tests.studies import TINY, call, command, tiny_study, write_config


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def call_here(arguments: Sequence[str]) -> int:
    return command_line(arguments, program=["python", "run_tune.py"], report=report)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The command line in this process, with its signal handler taken back."""
    handler = signal.getsignal(signal.SIGTERM)
    yield lambda *arguments: call_here([str(argument) for argument in arguments])
    signal.signal(signal.SIGTERM, handler)


# Errors before anything starts


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--set", "training.gama=1"], 2, "did you mean 'gamma'?"),
        (["--set", "training.gama=1", "--set", "cycles=0"], 2, "cycles is 0"),
        (["--name", "../../x"], 2, "--name is '../../x'; allowed: 1 to 64 letters"),
        (["--name", ""], 2, "--name is ''; allowed: 1 to 64 letters"),
        (["--arms", "nope"], 2, "--arms nope: known arms: nbsp, sac"),
        (["--num-env-runners", "-1"], 2, "resources.num_env_runners is -1; allowed: a whole number >= 0"),
        (["--num-gpus-per-learner", "half"], 2, "resources.num_gpus_per_learner is 'half'; allowed: a number >= 0"),
        (["--resume"], 2, "--resume: there is no study in"),
        (["--num-env-runners", "500"], 4, "a trial needs 501 CPU, and this machine has"),
        (["--num-gpus-per-learner", "100"], 4, "a trial needs 100 GPU, and this machine has"),
        (["--set", "resources.custom_resources_per_env_runner={rollout: 1}", "resources.num_env_runners=1",
          "resources.num_cpus_per_env_runner=0.0"], 4, "a trial needs 1 rollout, and this machine has 0"),
        (["--set", "replay.capacity=1000000000000", "visit.max_env_steps=1000000000000"], 4, "memory: "),
    ],
)  # fmt: skip
def test_an_error_is_told_in_lines_with_its_exit_code(
    main: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    results = tmp_path / "results"
    assert main(write_config(tmp_path), "--results-dir", results, *arguments) == code
    errors = capsys.readouterr().err.splitlines()
    assert any(said in line for line in errors)
    assert all(line.startswith("error: ") for line in errors)
    assert not list(results.glob("*/*/*/seed_*"))


def test_usage_errors_have_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--seeds", "abc"], ["--max-concurrent", "0"], ["--frobnicate"]):
        with pytest.raises(SystemExit) as caught:
            call_here(arguments)
        assert caught.value.code == 2


def test_a_study_in_use_is_left_alone(main: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with study_lock(tmp_path / "tiny"):
        assert main(write_config(tmp_path), "--results-dir", tmp_path) == 4
    assert f"is in use by {os.uname().nodename}:{os.getpid()}" in capsys.readouterr().err


def test_debug_gives_the_traceback(main: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cycles is 0"):
        main(write_config(tmp_path, cycles=0), "--debug")


# Plans


@pytest.mark.parametrize(
    ("num_learners", "gpus", "bundles"),
    [
        (0, 0.0, [{"CPU": 1.0}]),
        (0, 0.25, [{"CPU": 1.0, "GPU": 0.25}]),
        (0, 1.0, [{"CPU": 1.0, "GPU": 1.0}]),
        (1, 0.0, [{"CPU": 1.0}, {"CPU": 1.0}]),
        (1, 0.25, [{"CPU": 1.0}, {"GPU": 0.25}]),
        (1, 1.0, [{"CPU": 1.0}, {"GPU": 1.0}]),
        (2, 0.0, [{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}]),
        (2, 0.25, [{"CPU": 1.0}, {"GPU": 0.25}, {"GPU": 0.25}]),
        (2, 1.0, [{"CPU": 1.0}, {"GPU": 1.0}, {"GPU": 1.0}]),
    ],
)
def test_resource_bundles_of_learners_and_gpus(
    tmp_path: Path, num_learners: int, gpus: float, bundles: list[dict[str, float]]
) -> None:
    options = (f"resources.num_learners={num_learners}", f"resources.num_gpus_per_learner={gpus}")
    assert trial_bundles(tiny_study(tmp_path, *options).trials()[0]) == bundles


def test_resource_bundles_of_rollout_workers(tmp_path: Path) -> None:
    options = ("resources.num_env_runners=2", "resources.num_cpus_per_env_runner=0.5")
    pinned = (*options, "resources.custom_resources_per_env_runner={rollout: 1}")
    assert trial_bundles(tiny_study(tmp_path, *options).trials()[0]) == [{"CPU": 1.0}, {"CPU": 0.5}, {"CPU": 0.5}]
    worker = {"CPU": 0.5, "rollout": 1.0}
    assert trial_bundles(tiny_study(tmp_path, *pinned).trials()[0]) == [{"CPU": 1.0}, worker, worker]


def test_a_plan_has_no_more_trials_at_once_than_the_user_wants(tmp_path: Path) -> None:
    runs = tiny_study(tmp_path, "resources.num_cpus_for_main_process=0.01").trials()
    assert make_plan(runs, False, None, tmp_path).concurrent == 2
    assert make_plan(runs, False, 1, tmp_path).concurrent == 1


def test_a_plan_for_a_cluster_does_not_ask_this_machine_for_gpus(tmp_path: Path) -> None:
    runs = tiny_study(tmp_path, "resources.num_gpus_per_learner=100").trials()
    assert make_plan(runs, True, None, tmp_path).problems == []
    assert len(make_plan(runs, False, None, tmp_path).problems) == 1


def test_every_kind_of_trial_must_fit_on_the_cluster(tmp_path: Path) -> None:
    arms = {
        "many": {"method": "sac", "resources": {"num_env_runners": 5}},
        "pinned": {"method": "sac", "resources": {"num_env_runners": 1, "custom_resources_per_env_runner": {"far": 1}}},
    }
    runs = load_study(write_config(tmp_path, arms=arms)).trials()
    plan = make_plan(runs, True, None, tmp_path)
    fits = plan.on([{"CPU": 11.0}, {"CPU": 1.0, "far": 1.0}], "it")
    assert (fits.problems, fits.concurrent) == ([], 2)
    # The larger one needs 6 CPU, and the other 1 beside it.
    assert plan.on([{"CPU": 7.0}, {"CPU": 1.0, "far": 1.0}], "it").concurrent == 2
    assert plan.on([{"CPU": 6.0}, {"CPU": 1.0, "far": 1.0}], "it").concurrent == 1
    (line,) = plan.on([{"CPU": 12.0}], "it").problems
    assert line.startswith("a trial needs 1 far, and it has 0")
    (line,) = plan.on([{"CPU": 12.0}, {"far": 1.0}], "it").problems
    assert line == "a trial needs 1 CPU and 1 far on one node, and no node of it has that"


def test_a_placement_that_this_machine_cannot_give_is_refused(tmp_path: Path) -> None:
    spread = ("resources.placement_strategy=STRICT_SPREAD", "resources.num_env_runners=1")
    few = ("resources.num_cpus_per_env_runner=0.5", "resources.num_cpus_for_main_process=0.5")
    plan = make_plan(tiny_study(tmp_path, *spread, *few).trials(), False, None, tmp_path)
    (line,) = plan.problems
    assert line.endswith("on as many nodes, and this machine has 1: use SPREAD")


def test_an_address_where_nothing_answers_is_refused_at_once(
    main: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = time.monotonic()
    address = f"127.0.0.1:{port}"
    assert main(write_config(tmp_path), "--results-dir", tmp_path / "results", "--address", address) == 4
    assert f"error: --address {address}: nothing answers there (" in capsys.readouterr().err
    assert time.monotonic() - started < 30


SPEED = Speed(env_step_s=0.5, evaluation_step_s=0.25, update_s=10.0, horizon=50)
NO_TIME = Speed(0.0, 0.0, 0.0, 50)


def seconds(trial: RunSettings, speed: Speed, given: int = 0) -> float:
    return trial_estimate(trial, speed, given=given).seconds


def test_a_trials_time_by_hand(tmp_path: Path) -> None:
    sac, nbsp = tiny_study(tmp_path).trials()
    # 4 visits x 400 steps, 4 x (400 - 100) x 0.1 updates, 4 x 2 tasks x 2 episodes x 50 steps.
    start = seconds(sac, NO_TIME)
    assert seconds(sac, SPEED) == start + 4 * 400 * 0.5 + 120 * 10.0 + 800 * 0.25
    assert seconds(nbsp, SPEED) == seconds(sac, SPEED) + 4 * 200 * 0.25
    # Without its first visit, which another trial makes.
    assert seconds(nbsp, SPEED, given=1) == start + 3 * 400 * 0.5 + 90 * 10.0 + 600 * 0.25 + 3 * 200 * 0.25
    # With rollout workers, sampling hides behind the updates.
    remote = sac.model_copy(update={"resources": sac.resources.model_copy(update={"num_env_runners": 2})})
    assert seconds(remote, SPEED) == start + 120 * 10.0 + 800 * 0.25 / 2


def test_a_trials_time_counts_the_phases_of_its_method(tmp_path: Path) -> None:
    sac, _ = tiny_study(tmp_path).trials()
    # Visits 2 to 4 run twice: 3 x 400 steps and 3 x 30 updates more.
    ancl = sac.model_copy(update={"method": "ancl"})
    assert seconds(ancl, SPEED) == seconds(sac, SPEED) + 3 * 400 * 0.5 + 3 * 30 * 10.0
    # Retraining after visits 1 to 3.
    packnet = sac.model_copy(update={"method": "packnet", "method_settings": {"retrain_updates": 7}})
    assert seconds(packnet, SPEED) == seconds(sac, SPEED) + 3 * 7 * 10.0


def test_a_trial_that_ends_within_a_visit_takes_less_by_hand(tmp_path: Path) -> None:
    sac, nbsp = (run.model_copy(update={"stop_env_steps": 600}) for run in tiny_study(tmp_path).trials())
    start = seconds(sac, NO_TIME)
    # A visit of 400 steps and one of 200, 100 of each warm-up: 30 + 10 updates; 2 x 2 tasks x 2 episodes x 50 steps.
    assert seconds(sac, SPEED) == start + 600 * 0.5 + 40 * 10.0 + 400 * 0.25
    assert seconds(nbsp, SPEED) == seconds(sac, SPEED) + 2 * 200 * 0.25
    assert seconds(nbsp, SPEED, given=1) == start + 200 * 0.5 + 10 * 10.0 + 200 * 0.25 + 200 * 0.25
    ancl = sac.model_copy(update={"method": "ancl"})  # whose second visit runs whole once before
    assert seconds(ancl, SPEED) == seconds(sac, SPEED) + 400 * 0.5 + 30 * 10.0
    # With an evaluation each 100 steps: three in the first visit, one in the second, of two tasks and one episode.
    periodic = {"periodic_env_steps": 100, "periodic_episodes": 1}
    often = sac.model_copy(update={"evaluation": sac.evaluation.model_copy(update=periodic)})
    assert trial_estimate(often, SPEED).evaluation_env_steps == (8 + 2 * 4) * 50


@pytest.mark.parametrize(
    ("which", "periodic"),
    # Visits of 400 steps with one evaluation each 100, and the boundary's in the place of the fourth: three a visit.
    # Two tasks in each of four visits; those seen are 1, 2, 2, 2; the own one.
    [("all", 3 * 8), ("seen", 3 * 7), ("current", 3 * 4)],
)
def test_the_share_of_evaluations_by_hand(which: str, periodic: int, tmp_path: Path) -> None:
    keys = {"periodic_episodes": 5, "periodic_env_steps": 100, "periodic_tasks": which}
    sac = tiny_study(tmp_path, *(f"evaluation.{key}={value}" for key, value in keys.items())).trials()[0]
    estimate = trial_estimate(sac, SPEED)
    assert estimate.env_steps == 4 * 400
    assert estimate.evaluation_env_steps == (8 * 2 + 5 * periodic) * 50
    assert estimate.evaluation_s == estimate.evaluation_env_steps * 0.25
    rounds = tiny_study(tmp_path, "evaluation.eval_env_steps=120").trials()[0]
    assert evaluation_env_steps(ResolvedRun(rounds), 50) == 8 * 150  # whole episodes


@pytest.mark.parametrize(("of_time", "advice"), [(0.14, False), (0.16, True)])
def test_evaluations_that_take_much_of_the_time_can_be_thinned(of_time: float, advice: bool) -> None:
    # Next to updates, twice the steps of training can be a few per cent of the time.
    trials = 3 * [Estimate(seconds=100.0, evaluation_s=100 * of_time, env_steps=1000, evaluation_env_steps=2000)]
    said = f"6,000 env steps, 200% of those in training, {of_time:.0%} of the time"
    lower = "; evaluation.periodic_tasks and boundary_episodes lower it"
    assert evaluation_share(trials) == said + lower * advice


@pytest.mark.usefixtures("three_threads")
def test_a_calibration_times_training_and_evaluation_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = []
    rollout = ContinualEnvRunner.rollout

    def watched(self: ContinualEnvRunner, **asked: Any) -> dict[str, Any]:
        played.append((asked["num_env_steps"], torch.get_num_threads()))
        return rollout(self, **asked)

    monkeypatch.setattr(ContinualEnvRunner, "rollout", watched)
    offset = {"base": "Pendulum-v1@return>=-300", "std": 2.0}
    pair = ("suite=offset", f"offset={offset}", "sequences={pair: [plain, offset-1]}", "evaluation.num_envs=100")
    trial = tiny_study(tmp_path, *pair).trials()[0]
    speed = calibrate(trial)
    assert speed.horizon == 200 and min(speed.env_step_s, speed.evaluation_step_s, speed.update_s) > 0
    # As a trial would, with one thread. It is to take a moment: an episode in each of eight environments at most.
    assert [threads for _, threads in played] == [1, 1] and torch.get_num_threads() == 3
    assert played[0][0] == 1 and 8 <= played[1][0] <= 8 * 200


def test_trials_take_the_first_free_place() -> None:
    assert study_seconds([4.0, 1.0, 2.0, 5.0], 2) == 8.0  # 4 | 1 2 5
    assert study_seconds([4.0, 1.0], 5) == 4.0


@pytest.mark.parametrize(("seconds", "text"), [(3.2, "3 s"), (600, "10 min"), (9000, "2.5 h"), (864000, "10.0 days")])
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# Real trials


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished study of two arms, and what was printed."""
    folder = tmp_path_factory.mktemp("run")
    done = call(write_config(folder), "--results-dir", folder / "results")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder / "results" / "tiny", done.stdout


def test_a_study_leaves_rows_of_every_visit_and_task(finished: tuple[Path, str]) -> None:
    for arm in ("sac", "nbsp"):
        folder = finished[0] / "left_right" / arm / "seed_0"
        tasks = ["reach-left", "reach-right"]
        assert [(row["visit"], row["env_steps"], row["eval_task"]) for row in rows(folder / "evaluations.jsonl")] == [
            (visit, 400 * visit, task) for visit in (1, 2, 3, 4) for task in tasks
        ]
        assert json.loads((folder / "status.json").read_text())["done"] is True
        assert rows(folder / "training.jsonl")[-1]["updates"] == 4 * 30


def test_a_study_ends_with_its_table_its_report_and_the_next_command(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    assert re.search(r"\| left_right +\| nbsp ", printed)
    assert str(folder / "report" / "report.html") in printed
    assert (folder / "report" / "report.html").stat().st_size > 10_000
    assert "times the estimate" in printed
    assert printed.splitlines()[-1].startswith("one more seed: python run_tune.py ")
    assert printed.splitlines()[-1].endswith("--seeds 1 --resume")


def test_a_study_logs_evaluation_success_for_tensorboard_and_as_csv(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    logs = [path.parent for path in folder.glob("_tune/*/*/progress.csv")]
    assert len(logs) == 2
    for log in logs:
        with open(log / "progress.csv", newline="") as file:
            last = list(csv.DictReader(file))[-1]
        assert float(last["evaluation/reach-left/success_rate"]) in (0.0, 0.5, 1.0)
        assert 0.0 <= float(last["asr"]) <= 1.0
        (events,) = log.glob("events.out.tfevents.*")
        assert b"evaluation/reach-right/success_rate" in events.read_bytes()
    assert f"logged: tensorboard --logdir {folder / '_tune'}\n" in printed


def test_starting_a_finished_study_again_is_refused(
    finished: tuple[Path, str], main: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    config = finished[0].parent.parent / "tiny.yaml"
    assert main(config, "--results-dir", finished[0].parent) == 2
    assert "go on with --resume, or start another study with --name" in capsys.readouterr().err


def test_resume_runs_the_unfinished_trial_and_no_other(finished: tuple[Path, str]) -> None:
    folder = finished[0] / "left_right"
    sac, nbsp = (folder / arm / "seed_0" for arm in ("sac", "nbsp"))
    untouched = (sac / "evaluations.jsonl").stat()
    before = rows(nbsp / "evaluations.jsonl")
    status = json.loads((nbsp / "status.json").read_text())
    (nbsp / "status.json").write_text(json.dumps(status | {"done": False}))
    done = call(finished[0].parent.parent / "tiny.yaml", "--results-dir", finished[0].parent, "--resume")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 trials are finished already" in done.stdout
    assert (sac / "evaluations.jsonl").stat() == untouched
    assert (nbsp / "evaluations.jsonl.stale").is_file()
    measured = {"wall_s", "shared_from"}  # alone, it makes its first visit itself
    again = rows(nbsp / "evaluations.jsonl")
    assert [{k: v for k, v in row.items() if k not in measured} for row in again] == [
        {k: v for k, v in row.items() if k not in measured} for row in before
    ]
    assert json.loads((nbsp / "status.json").read_text())["done"] is True


def test_a_dry_run_prints_the_plan_and_leaves_nothing(tmp_path: Path) -> None:
    done = call(write_config(tmp_path), "--results-dir", tmp_path / "results", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"left_right +nbsp +0 +4 +1,600", done.stdout)
    for words in (
        r"trials: +2, [12] at once",
        r"resources: +\{CPU: 1\} a trial",
        "memory: ",
        "disk: ",
        r"time: +at most",
    ):
        assert re.search(words, done.stdout)
    assert not (tmp_path / "results").exists()


def test_a_dry_run_lists_the_samples_of_a_search(main: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"ewc": {"method": "ewc", "search": {"coef": [1.0, 10.0, 100.0]}}}
    config = write_config(tmp_path, arms=arms, search={"samples": 2})
    assert main(config, "--results-dir", tmp_path / "results", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert re.search(r"left_right +ewc-s00 +0 .*\nleft_right +ewc-s01 +0 ", printed)
    assert "note: ewc: 2 of 3 combinations, drawn with seed 0\n" in printed
    part = ("--set", "search.lifetime_percent=30")
    assert main(config, "--results-dir", tmp_path / "results", "--dry-run", *part) == 0
    printed = capsys.readouterr().out
    assert re.search(r"left_right +ewc-s00 +0 +2 of 4 +480 *\n", printed)
    seen = "they see the first 30 % of a lifetime, 480 of 1,600 env steps, to within visit 2 of 4"
    assert f"note: ewc: 2 of 3 combinations, drawn with seed 0; {seen}\n" in printed


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_trials_and_the_study_can_be_resumed(tmp_path: Path, number: int, code: int) -> None:
    config = write_config(tmp_path, seeds=[0], arms={"sac": {"method": "sac"}})
    endless = ("--set", "visit.max_env_steps=10000000", "replay.capacity=2000", "--results-dir", tmp_path / "results")
    process = subprocess.Popen(command(config, *endless), stdout=subprocess.PIPE, text=True)
    training = tmp_path / "results" / "tiny" / "left_right" / "sac" / "seed_0" / "training.jsonl"
    deadline = time.monotonic() + 120
    while not training.is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert "go on with: python run_tune.py" in printed
    assert json.loads((training.parent / "status.json").read_text())["done"] is False


@pytest.mark.slow
def test_rollout_workers_run_on_another_node_of_a_cluster(tmp_path: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1, resources={"rollout": 1})
        cluster.wait_for_nodes()
        done = call(
            write_config(tmp_path, arms={"nbsp": TINY["arms"]["nbsp"]}),
            "--results-dir", tmp_path / "results", "--address", cluster.address, "--num-env-runners", "1",
            "--set", "resources.custom_resources_per_env_runner={rollout: 1}", "resources.num_envs_per_env_runner=4",
        )  # fmt: skip
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stderr
    trial = tmp_path / "results" / "tiny" / "left_right" / "nbsp" / "seed_0"
    measured = rows(trial / "evaluations.jsonl")
    assert [(row["visit"], row["trained_task"], row["eval_task"]) for row in measured] == [
        (visit, ("reach-left", "reach-right")[(visit - 1) % 2], task)
        for visit in (1, 2, 3, 4)
        for task in ("reach-left", "reach-right")
    ]
    assert [row["env_steps"] for row in measured[::2]] == [400, 800, 1200, 1600]
    last = rows(trial / "training.jsonl")[-1]
    assert last["updates"] == pytest.approx(4 * 300 * 0.1, abs=4)


def test_the_next_command_is_this_one_with_another_seed() -> None:
    given = ["a study.yaml", "--arms", "nbsp", "--seeds", "0", "1", "--set", "gamma=0.9", "--resume", "--name", "mine"]
    told = Told(["rllib-nbsp", "run"], given, report)
    assert told.with_seed(2) == (
        "rllib-nbsp run 'a study.yaml' --arms nbsp --set gamma=0.9 --name mine --seeds 2 --resume"
    )
    assert told.again() == (
        "rllib-nbsp run 'a study.yaml' --arms nbsp --seeds 0 1 --set gamma=0.9 --name mine --resume"
    )
