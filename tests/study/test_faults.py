"""What will come again is not tried again, and seeds of two environments are not averaged."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.exceptions import ActorDiedError, RayTaskError, WorkerCrashedError

from rllib_nbsp import ContinualSACConfig
from rllib_nbsp.envs import EnvironmentContractError, EnvironmentFailure, suite_of
from rllib_nbsp.locks import FolderInUse
from rllib_nbsp.records import RecordsError, TrialFolder
from rllib_nbsp.study.command import Told, _parser, _report, main
from rllib_nbsp.study.errors import PreflightError
from rllib_nbsp.study.folder import open_trials, planned, write_study
from rllib_nbsp.study.reader import load_study
from rllib_nbsp.study.trials import COUNTED_ANEW_FRAC, MAX_FAILURES, Progress, StudyTrial, may_pass
from tests.studies import TINY, call, tiny_study, write_config
from tests.tiny import short_run

ENVIRONMENT = """
import ray
import gymnasium as gym, numpy as np
from gymnasium.spaces import Box

class Line(gym.Env):
    observation_space, action_space = Box(-np.inf, np.inf, (2,), np.float32), Box(-1, 1, (1,), np.float32)

    def __init__(self, goal):
        self.goal = goal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.goal < 0 and self.steps == 3 and ray.is_initialized():  # a trial, not the plan before it
            raise ZeroDivisionError("a mistake in the third step")
        return np.zeros(2, np.float32), 0.0, False, False, {"is_success": False}

gym.register("Line-v0", entry_point=Line, max_episode_steps=10, kwargs={"goal": GOAL})
"""


FAILING = """
import pathlib, os
import ray
from rllib_nbsp import register_method
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings

class Settings(MethodSettings):
    at: str = ""
    folder: str = ""

class Failing(ContinualMethod):
    Config = Settings

    def __init__(self, config, agent, replay):
        super().__init__(config, agent, replay)
        if not ray.is_initialized():  # the plan before the trials
            return
        started = pathlib.Path(config.folder) / f"{config.at}.started"
        with open(started, "a") as file:
            file.write("x")
        self.first = started.read_text() == "x"
        if config.at == "start":
            raise KeyError("not at the start")

    def on_visit_end(self, visit, data):
        if self.config.at == "end":
            raise KeyError("not at the end")
        if self.config.at == "lost" and self.first:
            os._exit(1)

register_method("failing", Failing)
"""


def write_environment(folder: Path, name: str, goal: float) -> Path:
    (folder / f"{name}.py").write_text(ENVIRONMENT.replace("GOAL", str(goal)))
    config = {**TINY, "suite": "gymnasium", "sequences": {"lines": [f"{name}:Line-v0"]}, "cycles": 1}
    config["arms"] = {"sac": {"method": "sac"}}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def test_an_environments_own_error_ends_its_trial_at_the_first_time(tmp_path: Path) -> None:
    config = write_environment(tmp_path, "failing_lines", -1.0)
    done = call(config, "--results-dir", tmp_path / "results")
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert "EnvironmentFailure: gymnasium task 'failing_lines:Line-v0', sub-environment 0, episode step 2" in line
    assert "ZeroDivisionError: a mistake in the third step" in line
    trial = tmp_path / "results" / "tiny" / "lines" / "sac" / "seed_0"
    assert "a mistake in the third step" in (trial / "error.txt").read_text()
    assert not json.loads((trial / "status.json").read_text())["done"]
    assert "starting again" not in done.stdout
    assert not list(trial.glob("*.stale"))


@pytest.mark.slow
def test_what_will_come_again_ends_its_trial_and_a_lost_process_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    arms = {at: {"method": "failing", "at": at, "folder": str(tmp_path)} for at in ("start", "end", "lost")}
    config = write_config(tmp_path, plugins=["failing"], arms={**arms, "sac": {"method": "sac"}}, cycles=1)
    done = call(config, "--results-dir", tmp_path / "results", "--max-concurrent", "1")
    assert done.returncode == 1, done.stderr
    lines = [line.removeprefix("failed: ") for line in done.stdout.splitlines() if line.startswith("failed: ")]
    failed = {line.partition(":")[0]: line for line in lines}
    assert failed.keys() == {"left_right/start/seed_0", "left_right/end/seed_0"}
    folder = tmp_path / "results" / "tiny" / "left_right"
    for arm, starts, finished in (("start", 1, False), ("end", 1, False), ("lost", 2, True), ("sac", 0, True)):
        trial = folder / arm / "seed_0"
        if starts:
            assert len((tmp_path / f"{arm}.started").read_text()) == starts
        if not finished:
            assert f"not at the {arm}" in failed[f"left_right/{arm}/seed_0"]
            assert f"not at the {arm}" in (trial / "error.txt").read_text()
        status = trial / "status.json"
        assert finished == (status.is_file() and json.loads(status.read_text())["done"])


TASK = RayTaskError("f", "the traceback", KeyError("x")).as_instanceof_cause()


def asked_by_ray(error: SystemExit) -> SystemExit:
    """As Ray raises it in a process that is to end (`_raylet.pyx`)."""
    error.ray_terminate_msg = "the node is drained"
    return error


def raised(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ActorDiedError(), True),
        (WorkerCrashedError(), True),
        (ConnectionError("1 of 2 Learners answered"), True),
        (TimeoutError("no rollout worker has answered"), True),
        (OSError(5, "the file system is away"), True),
        (OSError(116, "stale file handle"), True),
        (OSError(28, "no space left on device"), False),
        (OSError(30, "read-only file system"), False),
        (FileNotFoundError(2, "of a hook's own"), False),
        (OSError("of a library, without a number"), False),
        (RecordsError("the folder is gone"), False),
        (FolderInUse(Path("here"), "another"), False),
        (SystemExit("not now"), False),
        (asked_by_ray(SystemExit(1)), True),
        (raised(RuntimeError("no weights"), ActorDiedError()), True),
        (RayTaskError("f", "the traceback", ActorDiedError()), True),
        (TASK, False),
        (raised(RuntimeError("no weights"), TASK), False),
        (FloatingPointError("the loss is not finite"), False),
        (RayTaskError("f", "the traceback", FloatingPointError()).as_instanceof_cause(), False),
        (RuntimeError("Learner.visit_end: KeyError"), False),
        (EnvironmentContractError("the reward must be a number"), False),
        (raised(EnvironmentFailure("4 attempts"), OSError("no simulator")), False),
    ],
)
def test_lost_processes_may_pass_and_what_code_does_will_come_again(error: Exception, passes: bool) -> None:
    assert may_pass(error) == passes


LEAVING = """
import sys
from rllib_nbsp import register_method
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings

class Settings(MethodSettings):
    at: str = ""

class Leaving(ContinualMethod):
    Config = Settings

    def __init__(self, config, agent, replay):
        super().__init__(config, agent, replay)
        self.leave("construction")

    def leave(self, where):
        if self.config.at == where:
            sys.exit(f"leaving at {where}")

    def on_visit_start(self, visit, data):
        self.leave("visit_start")

    def loss_terms(self, batch):
        self.leave("loss_terms")
        return {}

register_method("leaving", Leaving)
"""


HOOKS = ("construction", "visit_start", "loss_terms")


@pytest.mark.parametrize("at", HOOKS)
def test_an_exit_in_a_hook_is_the_methods_error(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None, forgotten: None
) -> None:
    module = f"leaving_at_{at}"
    (tmp_path / f"{module}.py").write_text(LEAVING)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = short_run(ContinualSACConfig(), tmp_path / "rows").plugins(module).method("leaving", at=at)
    trial = StudyTrial(config=config.to_dict())
    result: dict[str, Any] = {}
    for _ in range(20):
        result = trial.step()
        if result["done"]:
            break
    assert f"SystemExit: leaving at {at}" in result["failure"]
    assert f"leaving at {at}" in (tmp_path / "rows" / "error.txt").read_text()
    if at != "construction":
        trial.stop()


@pytest.mark.slow
def test_an_exit_in_a_hook_of_a_remote_learner_is_the_methods_error(tmp_path: Path) -> None:
    in_trials = LEAVING.replace("self.leave(", "ray.is_initialized() and self.leave(")  # not in the plan before them
    (tmp_path / "leaving_method.py").write_text(f"import ray\n{in_trials}")
    arms = {at: {"method": "leaving", "at": at} for at in HOOKS}
    config = write_config(tmp_path, plugins=["leaving_method"], arms=arms, cycles=1)
    options = ("--num-learners", "1", "--set", "resources.num_cpus_for_main_process=0.5", "--max-concurrent", "1")
    done = call(config, "--results-dir", tmp_path / "results", *options)
    assert done.returncode == 1, done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert len(failed) == len(HOOKS) and "starting again" not in done.stdout
    for at, line in zip(HOOKS, failed, strict=True):
        assert line.startswith(f"failed: left_right/{at}/seed_0: ")
        error = tmp_path / "results" / "tiny" / "left_right" / at / "seed_0" / "error.txt"
        assert f"SystemExit: leaving at {at}" in error.read_text()


class Lost:
    """What Tune knows of a trial."""

    def __init__(self, settings: Any) -> None:
        self.config = {"run": settings.model_dump()}
        self.run_metadata = SimpleNamespace(num_failures=0)

    def fails(self, progress: Progress, *env_steps: int) -> int:
        """It reports so many steps and is lost; returns how often it was, as Tune counts."""
        for steps in env_steps:
            progress.on_trial_result(1, [], self, {"done": False, "env_steps": steps})
        self.run_metadata.num_failures += 1
        return self.run_metadata.num_failures


def test_a_limit_of_failures_that_finished_work_resets(tmp_path: Path) -> None:
    settings = tiny_study(tmp_path).trials(tmp_path / "results")[0]
    further = int(COUNTED_ANEW_FRAC * settings.visit.max_env_steps)
    progress, trial = Progress([settings]), Lost(settings)
    # At one place, again and again: it counts.
    assert [trial.fails(progress, 100, 200, 200 + k) for k in range(MAX_FAILURES + 1)] == [1, 2, 3, 4]
    # Ever further: each is the first one.
    assert [trial.fails(progress, 100, 200 + k * further) for k in range(1, 20)] == [1] * 19
    # Before its first report it got nowhere.
    assert [trial.fails(progress) for _ in range(3)] == [2, 3, 4]


@pytest.mark.parametrize(
    ("change", "said"), [(("1.0", "0.5"), "kwargs.goal was 1.0 and is 0.5"), (("0.0, F", "0.1, F"), "code was")]
)
def test_a_seed_of_another_environment_is_not_averaged(change, said, tmp_path, monkeypatch):
    name = f"changing_lines_{said.partition(' ')[0].replace('.', '_')}"
    monkeypatch.syspath_prepend(str(tmp_path))
    path = write_environment(tmp_path, name, 1.0)
    study = load_study(str(path))
    trials = study.trials(tmp_path / "results")
    folder = Path(str(trials[0].results_dir))
    folder.mkdir(parents=True)
    environments = suite_of(trials[0]).environments(trials[0].tasks)
    TrialFolder(folder, trials[0], fresh=True, environments=environments).finish()
    write_study(study, [], tmp_path / "results", resume=False)
    again = load_study(str(path), seeds=[1])
    assert len(open_trials(again, again.trials(tmp_path / "results"), tmp_path / "results", resume=True)) == 1

    module = sys.modules.pop(name)
    Path(str(module.__file__)).write_text(Path(str(module.__file__)).read_text().replace(*change))
    with pytest.raises(PreflightError) as caught:
        open_trials(again, again.trials(tmp_path / "results"), tmp_path / "results", resume=True)
    (problem,) = caught.value.problems
    assert f"has results of another environment ({name}:Line-v0." in problem and said in problem


@pytest.mark.parametrize(
    ("given", "seeds"), [(["0-4"], [0, 1, 2, 3, 4]), (["3"], [3]), (["7", "1-2", "9"], [7, 1, 2, 9]), (["5-5"], [5])]
)
def test_seeds_may_be_ranges(given, seeds):
    options = _parser([]).parse_args(["--seeds", *given])
    assert [seed for several in options.seeds for seed in several] == seeds


@pytest.mark.parametrize("given", ["4-0", "a", "0-", "-", "1.5", "0-10000000000"])
def test_what_is_no_range_of_seeds_is_refused(given, capsys):
    with pytest.raises(SystemExit):
        _parser([]).parse_args(["--seeds", given])
    assert given in capsys.readouterr().err


def test_a_study_knows_what_it_should_hold(tmp_path):
    path = write_config(tmp_path)
    write_study(load_study(str(path), seeds=[0, 3]), [], tmp_path, resume=False)
    write_study(load_study(str(path), arms=["sac"], seeds=[2]), [], tmp_path, resume=True)
    assert planned(tmp_path) == (["left_right"], ["sac", "nbsp"], [0, 3, 2])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("my.yaml", "my.yaml --seeds 7 --resume"),
        ("my.yaml --seeds 0-4 6 --arms sac", "my.yaml --arms sac --seeds 7 --resume"),
        ("--seeds=0-4 my.yaml --resume", "my.yaml --seeds 7 --resume"),
        ("--set a.b=1 --seeds 0 --set plugins=[mine]", "--set a.b=1 --set 'plugins=[mine]' --seeds 7 --resume"),
    ],
)
def test_the_command_for_one_more_seed_is_the_users_own(argv, said):
    told = Told(["rllib-nbsp", "run"], argv.split(), lambda arguments: 0)
    assert told.with_seed(7) == f"rllib-nbsp run {said}"


def test_one_more_seed_is_one_that_the_folder_has_not(tmp_path, capsys):
    study = load_study(str(write_config(tmp_path)), seeds=[0, 5])
    write_study(study, [], tmp_path, resume=False)
    part = load_study(str(tmp_path / "tiny.yaml"), seeds=[1])
    write_study(part, [], tmp_path, resume=True)
    asked = []

    def report(arguments: list[str]) -> int:
        asked.append(arguments)
        return 0

    assert _report(part, tmp_path, Told(["run"], ["tiny.yaml", "--seeds", "1"], report)) == 0
    assert capsys.readouterr().out == "one more seed: run tiny.yaml --seeds 6 --resume\n"
    assert asked == [[str(tmp_path), "--allow-partial"]]


def test_a_user_without_a_home_is_told_so_before_anything_is_made(tmp_path, monkeypatch, capsys):
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    handler = signal.getsignal(signal.SIGTERM)
    argv = [str(write_config(tmp_path)), "--results-dir", str(tmp_path / "results")]
    try:
        code = main(argv, program=["run"], report=lambda arguments: 0)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert code == 4
    said = f"error: user id {os.getuid()} has no home folder; set HOME to a folder that can be written, or "
    assert capsys.readouterr().err == f"{said}RAY_AUTH_TOKEN_PATH to a file with a token\n"
    assert not (tmp_path / "results").exists()
