"""A study as Ray Tune trials: start Ray, run what is left to run, stop cleanly.

One trial is one run of `CheckedStudy.trials`. Rows are written by the trials themselves; Tune schedules,
restarts what fails, and keeps its own files in `_tune` beside the results.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from rich.console import Console

from rllib_nbsp.algorithm import ContinualSAC
from rllib_nbsp.envs import EnvironmentFailure
from rllib_nbsp.nodes import blind_to, import_errors
from rllib_nbsp.plugins import USER_ERRORS, of_ray, runtime_env, sources
from rllib_nbsp.reading import read_bytes
from rllib_nbsp.records import FULL
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.settings import RunSettings
from rllib_nbsp.sharing import is_left, shared_by
from rllib_nbsp.study.cluster_watch import cluster_watched
from rllib_nbsp.study.display import LiveDisplay
from rllib_nbsp.study.errors import PreflightError
from rllib_nbsp.study.estimate import duration, study_seconds
from rllib_nbsp.study.folder import existing, is_finished
from rllib_nbsp.study.loggers import make_loggers, where_logged
from rllib_nbsp.study.needs import needs
from rllib_nbsp.study.plan import local_resources, make_plan
from rllib_nbsp.study.private import loopback, protect_token
from rllib_nbsp.study.stages import stage
from rllib_nbsp.study.stop_signal import StopSignal
from rllib_nbsp.study.study import SHARED, trial_label

MAX_FAILURES = 3
MAY_PASS = (RayError, ConnectionError, TimeoutError)
"""What a lost process or connection ends with."""
PASSING = {
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "EAGAIN", "EBUSY", "ENOMEM", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH")
}
"""What a file system says that is away for a while, of all that an `OSError` may be; a full disk stays full."""
COUNTED_ANEW_FRAC = 0.1
FAILURE = "failure"
"""In a trial's last result, the error that ended it."""
CONNECT_TIMEOUT_S = 10.0
SESSION_BYTES = 100_000_000  # logs, sockets and what Tune stages


@dataclass(frozen=True)
class Outcome:
    """How a study ended.

    Attributes:
        failed: trials that failed for good, with their errors' last lines.
        stopped: whether some trials have neither come to their end nor failed: a signal has ended the study early, or
            what `cut_off` says.
        seconds: wall time of the trials.
        cut_off: what kept Ray Tune from going on, if anything did.
    """

    failed: dict[str, str]
    stopped: bool
    seconds: float
    cut_off: Exception | None


def run_study(
    trials: Sequence[RunSettings],
    folder: Path,
    *,
    address: str | None,
    max_concurrent: int | None,
    loggers: Sequence[str],
    stop: StopSignal,
    console: Console,
    on_start: Callable[[], None],
    go_on: str,
) -> Outcome:
    """Plan, start Ray, run the trials to their ends, and say how it went.

    SIGTERM and Ctrl-C stop all trials; the study can then be resumed. `loggers` are names of `study.LoggerName`.
    `on_start` is called when everything is checked; `go_on` is the command that resumes.

    Raises:
        PreflightError: if the study cannot run here; `on_start` was not called then.
    """
    plan = make_plan(trials, address is not None, max_concurrent, folder)
    if plan.problems:
        raise PreflightError(plan.problems, 4)
    logging_to = make_loggers(loggers, folder, console)
    with stage(console, "timing environments and updates on this machine"):
        trial_times = [estimate.seconds for estimate in plan.estimates()]
    modules = list(dict.fromkeys(module for trial in trials for module in ResolvedRun(trial).modules))
    threads = max(trial.resources.torch_threads for trial in trials)
    with contextlib.ExitStack() as running:
        with stage(console, "starting Ray" if address is None else f"joining the cluster at {address}"):
            nodes = running.enter_context(ray_session(address, threads, modules, stop))
        if address is not None:
            plan = plan.on(nodes, f"the cluster at {address}")
            if plan.problems:
                raise PreflightError(plan.problems, 4)
        if problems := _node_problems(folder if address is not None else None, modules):
            raise PreflightError(problems, 4)
        seconds = study_seconds(trial_times, plan.concurrent)
        console.print(f"{len(trials)} trials, {plan.concurrent} at once, at most {duration(seconds)}", highlight=False)
        for line in plan.shared():
            console.print(line, highlight=False)
        on_start()
        resumes = f"finished trials are kept; go on with: {go_on}"
        console.print(f"if it is cut off, {resumes}", markup=False, highlight=False, soft_wrap=True)
        with cluster_watched(resumes):
            outcome = run_trials(trials, folder, max_concurrent, logging_to, console)
    for line in where_logged(loggers, folder):
        console.print(f"logged: {line}", markup=False, highlight=False, soft_wrap=True)
    for label, error in outcome.failed.items():
        console.print(f"failed: {label}: {error}", markup=False, highlight=False, soft_wrap=True)
    if not outcome.stopped and not outcome.failed:
        ratio = f"{outcome.seconds / seconds:.2g} times the estimate, which knows no early stop"
        console.print(f"took {duration(outcome.seconds)}, {ratio}", highlight=False)
    return outcome


@contextlib.contextmanager
def ray_session(
    address: str | None, torch_threads: int, modules: Sequence[str], stop: StopSignal
) -> Iterator[list[dict[str, float]]]:
    """Start Ray on this machine, for this user and on loopback, or join a cluster to which the package then travels.

    Yields what each node has.

    The modules, plugins and the like, go to every process that Ray starts.

    Raises:
        PreflightError: if there is no cluster at the address.
    """
    threads = {"OMP_NUM_THREADS": str(torch_threads)}
    os.environ.update(threads)  # inherited by the workers of a local cluster
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        protect_token(make=address is None)
        if address is None:
            _check_session_room()
            # "local": a cluster that happens to run on this machine is not joined unasked
            beside: dict[str, Any] = {"py_modules": sources(modules)} if sources(modules) else {}
            with loopback():
                ray.init(address="local", num_cpus=int(local_resources()["CPU"]), runtime_env=beside, **quiet)
        else:
            _check_reachable(address)
            travels = {**runtime_env(*modules), "env_vars": threads}
            ray.init(address=address, runtime_env=travels, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # bare ones too
        raise PreflightError([f"--address {address or 'local'}: {_first_line(error)}"], 4) from error
    try:
        stop.install()
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _first_line(error: Exception) -> str:
    if "InvalidAuthToken" in str(error.__cause__):  # which Ray tells as any failure to connect
        return "it asks for its head's ~/.ray/auth_token and for RAY_AUTH_MODE=token"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_session_room() -> None:
    """Ray by itself waits for half a minute, and does not say for what.

    Raises:
        OSError: if there is no room for its files.
    """
    folder = existing(Path(os.environ.get("RAY_TMPDIR", "/tmp")))
    free = shutil.disk_usage(folder).free
    if free < SESSION_BYTES:
        raise OSError(f"{folder}, where Ray keeps its files, has {free:,} bytes free; RAY_TMPDIR names another folder")


def _check_reachable(address: str) -> None:
    """Ray by itself tries for minutes.

    Raises:
        OSError: if nothing answers at HOST:PORT.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise ConnectionError(f"nothing answers there ({error})") from error


def _node_problems(shared: Path | None, modules: Sequence[str]) -> list[str]:
    """Why the nodes cannot run trials that import these modules and write to a folder that all must see."""
    try:
        return (check_shared(shared) if shared is not None else []) or import_errors(modules)
    except TimeoutError as error:
        return [str(error)]


def check_shared(folder: Path) -> list[str]:
    """A line if some nodes do not see the result folder, to which the trials write their rows themselves."""
    marker = folder / f".shared-{uuid.uuid4().hex}"
    marker.touch()
    try:
        blind = blind_to(marker)
    finally:
        marker.unlink()
    if not blind:
        return []
    return [f"--results-dir: {folder} is not shared with {', '.join(blind)}; use a folder that all nodes see"]


class StudyTrial(ContinualSAC):
    """A run as a trial of a study: an error that would come again ends it.

    Tune starts a trial that fails anew, from its first step and with the same seed: what an environment, a method or
    the arithmetic did then, they do again. What may pass still fails for Tune.
    """

    _failure: str | None = None

    def setup(self, config: AlgorithmConfig) -> None:
        """RLlib's hook; an error waits for the first step, for Tune to see a result."""
        self._failure = None
        self._settings = config.settings
        try:
            super().setup(config)
        except USER_ERRORS as error:
            self._failure = self._noted(error)

    def step(self) -> dict[str, Any]:
        """RLlib's hook; the result of a failed trial says so under `FAILURE`."""
        try:
            if self._failure is None:
                return super().step()
        except USER_ERRORS as error:
            self._failure = self._noted(error)
        return {"done": True, FAILURE: self._failure}

    def log_result(self, result: dict[str, Any]) -> None:
        """RLlib's hook, which hands a result to callbacks; that of a failed trial has nothing that they know."""
        if self._failure is None:
            super().log_result(result)

    def _noted(self, error: BaseException) -> str:
        """An error in one line, once its traceback is filed.

        Raises:
            BaseException: the error itself, if it may pass.
        """
        if may_pass(error):
            raise error
        folder = Path(str(self._settings.results_dir))  # a trial of a study always has one
        told = error.cause if isinstance(error, RayTaskError) else error
        lines = str(told).strip().splitlines() or ["(no message)"]
        filed = ""
        with contextlib.suppress(OSError):  # of a full disk or a folder that is gone, which is then what is told
            if self.records is None:
                folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
            filed = f" ({folder / 'error.txt'})"
        return f"{type(told).__name__}: {lines[0]}{self._room(told, folder)}{filed}"

    def _room(self, error: BaseException, folder: Path) -> str:
        """What the trial needs beside what there is, if a disk is full."""
        if not isinstance(error, OSError) or error.errno not in FULL:
            return ""
        free = shutil.disk_usage(existing(folder)).free
        return f"; {free:,} bytes are free there, and a trial needs about {needs(self._settings).disk:,}"


def may_pass(error: BaseException | None) -> bool:
    """Whether it came of a lost process, connection or file system, so that another start may go well."""
    if error is None or isinstance(error, EnvironmentFailure):  # which were tried again already
        return False
    if isinstance(error, RayTaskError):  # of a remote function; a bare RayError stands for a cause that cannot travel
        return type(error.cause) is not RayError and may_pass(error.cause)
    away = isinstance(error, OSError) and error.errno in PASSING
    return isinstance(error, MAY_PASS) or away or of_ray(error) or may_pass(error.__cause__)


class Progress(tune.Callback):
    """How each trial has ended so far, and how often one that was lost may still start again.

    That is `MAX_FAILURES` times, counted anew whenever it gets further than ever before, by `COUNTED_ANEW_FRAC` of a
    visit: what is lost now and then must not end a run of days, and what kills a process at one place must.

    Args:
        trials: those to come.

    Attributes:
        done: labels of those that came to their ends.
        failed: of those that failed for good, with the errors' last lines.
    """

    def __init__(self, trials: Sequence[RunSettings]) -> None:
        self._trials = {trial.results_dir: trial for trial in trials}
        self._mark: dict[str, float] = {}
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune files a copy of all it was given, and needs none of this."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Tune's hook."""
        settings = self._settings(trial)
        label = trial_label(settings)
        if FAILURE in result:
            self.failed[label] = result[FAILURE]
        elif result["done"]:
            self.done.add(label)
        elif result["env_steps"] >= self._mark.get(label, 0.0):
            self._mark[label] = result["env_steps"] + COUNTED_ANEW_FRAC * settings.visit.max_env_steps
            trial.run_metadata.num_failures = 0

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune's hook."""
        lines = ["its process was lost"]
        with contextlib.suppress(OSError, ValueError):
            lines = read_bytes(Path(trial.error_file)).decode(errors="replace").strip().splitlines()
        self.failed[trial_label(self._settings(trial))] = f"{lines[-1]} ({trial.path}/error.txt)"

    def _settings(self, trial: Any) -> RunSettings:
        return self._trials[trial.config["run"]["results_dir"]]


class ErrorsAsText(tune.Callback):
    """Leaves Tune the text of what a trial failed with: it would unpickle the error from the results folder."""

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Tune's hook."""
        for trial in trials:
            trial.run_metadata.pickled_error_filename = None


def run_trials(
    trials: Sequence[RunSettings],
    folder: Path,
    max_concurrent: int | None,
    loggers: Sequence[tune.Callback],
    console: Console,
) -> Outcome:
    """Run trials to their ends; SIGTERM and Ctrl-C stop all of them, and the study can then be resumed."""
    start, progress = time.monotonic(), Progress(trials)
    cut_off: Exception | None = None
    with LiveDisplay(trials, console) as display:
        tuner = tune.Tuner(
            StudyTrial,
            param_space={"run": tune.grid_search([trial.model_dump() for trial in in_order(trials)])},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=max_concurrent,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d-%H%M%S"),
                storage_path=str(folder / "_tune"),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=[progress, display, ErrorsAsText(), *loggers],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except Exception as error:  # of its own files, on a disk that is full or gone
            cut_off = error
    labels = {trial_label(trial): trial for trial in trials}
    # A driver reads back what the trials have written: nobody else would miss it.
    lost = {
        label: f"it is finished, and its results are gone from {labels[label].results_dir}"
        for label in sorted(progress.done)
        if not is_finished(Path(str(labels[label].results_dir)))
    }
    failed = {**progress.failed, **lost}
    stopped = bool(labels.keys() - failed.keys() - progress.done)
    if not (failed or stopped):
        shutil.rmtree(folder / SHARED, ignore_errors=True)
    return Outcome(failed, stopped, time.monotonic() - start, cut_off if stopped else None)


def in_order(trials: Sequence[RunSettings]) -> list[RunSettings]:
    """The trials as they are started: those that make a first visit for others, those that share none, the others."""
    groups = shared_by(trials)
    rank = {id(trial): (0 if trial is group[0] else 2) for group in groups for trial in group}
    ordered = sorted(trials, key=lambda trial: rank.get(id(trial), 1))
    # What nobody else will take need not be left, nor be on the disk until the study ends.
    return [
        trial if id(trial) in rank or is_left(trial) else trial.model_copy(update={"shared_dir": None})
        for trial in ordered
    ]


def _trial_name(trial: Any) -> str:
    return f"{_file_name(trial.config['run'])}-{trial.trial_id}"


def _file_name(settings: dict[str, Any]) -> str:
    return f"{settings['sequence']}-{settings['arm']}-{settings['seed']}"
