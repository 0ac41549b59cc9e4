"""Loggers: their names, what cannot log, a failure that ends a log and no study, and what MLflow takes of a result."""

from __future__ import annotations

import importlib.util
import io
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from ray.tune.logger import CSVLoggerCallback, LoggerCallback, TBXLoggerCallback
from rich.console import Console

from rllib_nbsp.study.errors import PreflightError
from rllib_nbsp.study.loggers import NO_MLFLOW_NAME, Unbreaking, for_mlflow, make_loggers, where_logged
from tests.study.conftest import Load, problems_of


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without what a user may have set."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_tensorboard_and_csv_are_the_default_and_a_list_takes_their_place(load: Load) -> None:
    assert load({}).settings.loggers == ["tensorboard", "csv"]
    assert load({"loggers": []}).settings.loggers == []
    made = make_loggers(load({}).settings.loggers, Path(), Console())
    assert [type(logger._logger) for logger in made] == [TBXLoggerCallback, CSVLoggerCallback]


def test_an_unknown_logger_is_told_with_its_place(load: Load) -> None:
    (problem,) = problems_of(load, {"loggers": ["csv", "tensorbord"]})
    assert "loggers[1] is 'tensorbord'; allowed: 'tensorboard', 'csv', 'wandb', 'mlflow'" in problem


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_told_with_its_place(
    load: Load, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == name else found(asked))
    (problem,) = problems_of(load, {"loggers": ["csv", name]})
    assert problem.endswith(f"loggers[1] is {name!r}, which is not installed: pip install 'rllib-nbsp[{name}]'")


def test_loggers_are_no_part_of_a_run(load: Load) -> None:
    with_csv, without = load({"loggers": ["csv"]}), load({"loggers": []})
    assert with_csv.trials() == without.trials()


def test_a_logger_that_fails_ends_its_log_and_says_so_once() -> None:
    calls: list[str] = []

    class Full(LoggerCallback):
        def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
            calls.append("result")
            raise OSError("no space left\nat all")

    console = Console(file=io.StringIO(), width=200)
    logger = Unbreaking("csv", Full(), console)
    for _ in range(3):
        logger.on_trial_result(iteration=1, trials=[], trial=None, result={})
        logger.on_trial_complete(iteration=1, trials=[], trial=None)
    assert calls == ["result"]
    assert console.file.getvalue() == "the log of csv ends here, and the study goes on: OSError: no space left\n"
    assert pickle.loads(pickle.dumps(logger)).__dict__ == {}


def test_every_hook_that_a_logger_of_rays_has_is_handed_on() -> None:
    hooks = {name for name in vars(LoggerCallback) if name.startswith("on_")} - {"on_trial_save"}
    assert hooks | {"setup", "on_experiment_end"} <= vars(Unbreaking).keys()


def test_mlflow_is_given_measured_numbers_under_names_that_it_takes() -> None:
    result = {
        "config": {"lr": 1.0},
        "asr": math.nan,
        "visit": 1,
        "evaluation": {"Walker2d-v5@return>=1000": {"success_rate": 0.5, "mean_return": math.nan}},
    }
    assert for_mlflow(result) == {"visit": 1, "evaluation/Walker2d-v5_return__1000/success_rate": 0.5}
    assert not any(NO_MLFLOW_NAME.search(name) for name in for_mlflow(result))


def test_each_log_is_named_with_the_program_that_shows_it(environment: pytest.MonkeyPatch) -> None:
    lines = where_logged(["csv", "tensorboard", "wandb", "mlflow"], Path("/results/pair"))
    assert [line.split()[0] for line in lines] == ["tensorboard", "wandb", "MLFLOW_ALLOW_FILE_STORE=true"]
    environment.setenv("WANDB_MODE", "online")
    environment.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert len(where_logged(["csv", "tensorboard", "wandb", "mlflow"], Path("/results/pair"))) == 1


def test_wandb_is_offline_unless_asked_and_without_a_key_is_not_online(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    environment.setenv("NETRC", str(tmp_path / "none"))
    environment.setenv("HOME", str(tmp_path))
    make_loggers(["wandb"], tmp_path, Console())
    assert os.environ["WANDB_MODE"] == "offline"
    environment.setenv("WANDB_MODE", "online")
    with pytest.raises(PreflightError, match=r"loggers: wandb: .*key"):
        make_loggers(["wandb"], tmp_path, Console())


def test_a_tracking_server_that_does_not_answer_is_told_at_once(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("mlflow")
    environment.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(PreflightError, match=r"MLFLOW_TRACKING_URI is 'http://127\.0\.0\.1:9', which does not answer"):
        make_loggers(["mlflow"], tmp_path, Console())
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
