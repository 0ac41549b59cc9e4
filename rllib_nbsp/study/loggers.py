"""Ray Tune's loggers of a study, by the names of its key `loggers`. They write beside the rows and never in their way.

What they log is the result of each iteration: evaluation success of every task, the metrics so far, losses. The CSV
file has the columns of a trial's first result; `training.jsonl` has all.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.air.integrations.wandb import WandbLoggerCallback
from ray.tune.logger import CSVLoggerCallback, LoggerCallback, TBXLoggerCallback
from rich.console import Console

from rllib_nbsp.study.errors import PreflightError

NO_MLFLOW_NAME = re.compile(r"[^\w\-. /:]")
HTTP_TIMEOUT_S = "10"


class Unbreaking(tune.Callback):
    """A logger whose failure ends its log, not the study.

    Args:
        name: as the user wrote it.
        logger: what logs.
        console: where a failure is told.
    """

    def __init__(self, name: str, logger: LoggerCallback, console: Console) -> None:
        self._name = name
        self._logger: LoggerCallback | None = logger
        self._console = console

    def __getstate__(self) -> dict[str, Any]:
        """Tune files a copy of all it was given; a screen cannot be filed."""
        return {}

    def _hand_on(self, hook: str, *args: Any, **info: Any) -> None:
        if self._logger is None:
            return
        try:
            getattr(self._logger, hook)(*args, **info)
        except Exception as error:
            self._logger = None
            lines = f"{type(error).__name__}: {error}".splitlines()
            told = f"the log of {self._name} ends here, and the study goes on: {lines[0]}"
            self._console.print(told, markup=False, highlight=False, soft_wrap=True)

    def setup(self, *args: Any, **info: Any) -> None:
        """Tune's hook."""
        self._hand_on("setup", *args, **info)

    def on_trial_start(self, *args: Any, **info: Any) -> None:
        """Tune's hook."""
        self._hand_on("on_trial_start", *args, **info)

    def on_trial_restore(self, *args: Any, **info: Any) -> None:
        """Tune's hook."""
        self._hand_on("on_trial_restore", *args, **info)

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        """Tune's hook."""
        self._hand_on("on_trial_result", *args, **info)

    def on_trial_complete(self, *args: Any, **info: Any) -> None:
        """Tune's hook."""
        self._hand_on("on_trial_complete", *args, **info)

    def on_trial_error(self, *args: Any, **info: Any) -> None:
        """Tune's hook."""
        self._hand_on("on_trial_error", *args, **info)

    def on_experiment_end(self, *args: Any, **info: Any) -> None:
        """Tune's hook."""
        self._hand_on("on_experiment_end", *args, **info)


class MLflow(MLflowLoggerCallback):
    """Ray's, with what MLflow takes of a result."""

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """Ray's hook."""
        super().log_trial_result(iteration, trial, for_mlflow(result))


def for_mlflow(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without its configuration, which is logged once, and without what is not measured yet.

    What MLflow allows in no name is `_`, as in `Walker2d-v5_return__1000`.
    """
    values = tune.utils.flatten_dict({key: value for key, value in result.items() if key != "config"})
    return {NO_MLFLOW_NAME.sub("_", key): value for key, value in values.items() if value == value}


def make_loggers(names: Sequence[str], folder: Path, console: Console) -> list[tune.Callback]:
    """The loggers of a study.

    Args:
        names: of `study.LoggerName`.
        folder: of the study's results.
        console: where a failure is told.

    Raises:
        PreflightError: if one cannot log.
    """
    makers = {"tensorboard": _tensorboard, "csv": _csv, "wandb": _wandb, "mlflow": _mlflow}
    return [Unbreaking(name, makers[name](folder), console) for name in dict.fromkeys(names)]


def where_logged(names: Sequence[str], folder: Path) -> list[str]:
    """The command for each logger whose files are looked at with a program of its own."""
    lines = {"tensorboard": f"tensorboard --logdir {folder / '_tune'}"}
    if _wandb_mode() == "offline":
        lines["wandb"] = f"wandb sync {folder / '_tune' / 'wandb'}/offline-run-*"
    if not _mlflow_uri():
        lines["mlflow"] = f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {_mlflow_files(folder)}"
    return [lines[name] for name in dict.fromkeys(names) if name in lines]


def _tensorboard(folder: Path) -> LoggerCallback:
    return TBXLoggerCallback()


def _csv(folder: Path) -> LoggerCallback:
    return CSVLoggerCallback()


def _wandb(folder: Path) -> LoggerCallback:
    """Weights & Biases, offline unless `WANDB_MODE` says otherwise."""
    mode = os.environ["WANDB_MODE"] = _wandb_mode()
    where = folder / "_tune"
    where.mkdir(parents=True, exist_ok=True)
    logger = WandbLoggerCallback(project=folder.name, mode=mode, dir=str(where))
    try:
        logger.setup()
    except Exception as error:  # without a key, or in looking for one
        raise PreflightError([f"loggers: wandb: {str(error).splitlines()[0]}"], 4) from error
    return logger


def _wandb_mode() -> str:
    return os.environ.get("WANDB_MODE", "offline")


def _mlflow(folder: Path) -> LoggerCallback:
    """MLflow, into files beside the results unless `MLFLOW_TRACKING_URI` names a server."""
    uri = _mlflow_uri()
    if uri:
        _ask(uri)
    else:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # its database needs packages that its client has not
    return MLflow(tracking_uri=uri or _mlflow_files(folder), experiment_name=folder.name)


def _mlflow_uri() -> str | None:
    return os.environ.get("MLFLOW_TRACKING_URI")


def _mlflow_files(folder: Path) -> str:
    return (folder / "_tune" / "mlflow").absolute().as_uri()


def _ask(uri: str) -> None:
    """Whether a tracking server answers; MLflow by itself tries for minutes.

    Raises:
        PreflightError: if it does not.
    """
    from mlflow import MlflowClient

    impatient = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": HTTP_TIMEOUT_S}
    with _environment(impatient):
        try:
            MlflowClient(uri).search_experiments(max_results=1)
        except Exception as error:  # of any of the libraries beneath
            what = str(error).splitlines()[0]
            raise PreflightError(
                [f"loggers: MLFLOW_TRACKING_URI is {uri!r}, which does not answer: {what}"], 4
            ) from error


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables of the environment that the user has not set, for a while."""
    ours = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
