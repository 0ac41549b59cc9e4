"""What a study will do and take, before it does: trials, resources, memory, disk, time."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from rllib_nbsp.algorithm import ContinualSAC
from rllib_nbsp.envs import EnvironmentFailure
from rllib_nbsp.estimate import Speed, calibrate, duration, study_seconds, trial_seconds
from rllib_nbsp.preflight import (
    Bundle,
    PreflightError,
    check_disk,
    check_memory,
    check_resources,
    concurrent_trials,
    gigabytes,
    memory_bytes,
    needs,
    total,
)
from rllib_nbsp.settings import RunSettings

MAX_TABLE_ROWS = 40


def trial_bundles(run: RunSettings) -> list[dict[str, float]]:
    """The resource bundles that Tune reserves for a trial."""
    request = ContinualSAC.default_resource_request({"run": run.model_dump()})
    return [dict(bundle) for bundle in request.bundles]


def local_resources() -> dict[str, float]:
    """What a cluster of this machine alone would offer."""
    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(torch.cuda.device_count())}


def quiet_ray() -> None:
    """Ray's and Tune's own displays and advice off; errors stay."""
    os.environ.update(
        RAY_AIR_NEW_OUTPUT="0",
        RAY_CHDIR_TO_TRIAL_DIR="0",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S="0",
    )
    for name in ("ray", "ray.rllib"):  # each has a level of its own
        logging.getLogger(name).setLevel(logging.ERROR)
    # Tune logs every failed trial; the end of a study says which failed and why.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Plan:
    """A study checked against where it will run.

    Attributes:
        runs: the trials.
        bundles: Ray's resource bundles of the largest trial.
        concurrent: trials side by side.
        problems: why the study cannot run here, one line each.
    """

    runs: Sequence[RunSettings]
    bundles: Sequence[Bundle]
    concurrent: int
    problems: list[str]

    def seconds(self) -> float:
        """Of the whole study if no visit stops early, by a calibration of about three seconds.

        Raises:
            PreflightError: if a task's environment does not run here.
        """
        speeds: dict[str, Speed] = {}
        return study_seconds([trial_seconds(run, _speed(run, speeds)) for run in self.runs], self.concurrent)

    def show(self, console: Console, folder: Path) -> None:
        """Print the trial table and what it takes."""
        table = Table("sequence", "arm", "seed", "visits", "env steps at most", box=None, pad_edge=False)
        for run in self.runs[:MAX_TABLE_ROWS]:
            visits = run.num_visits
            steps = f"{visits * run.visit.max_env_steps:,}"
            table.add_row(run.sequence, run.arm, str(run.seed), str(visits), steps)
        console.print(table)
        if len(self.runs) > MAX_TABLE_ROWS:
            console.print(f"... and {len(self.runs) - MAX_TABLE_ROWS} more trials")
        largest = max((needs(run) for run in self.runs), key=lambda need: need.memory)
        bundles = " + ".join("{" + ", ".join(f"{n}: {a:g}" for n, a in b.items()) + "}" for b in self.bundles)
        disk = sum(needs(run).disk for run in self.runs)
        lines = (
            f"trials:     {len(self.runs)}, {self.concurrent} at once",
            f"resources:  {bundles} a trial, {self.runs[0].resources.placement_strategy}",
            f"memory:     {gigabytes(largest.memory)} a trial, {gigabytes(largest.replay)} of it replay",
            f"disk:       {gigabytes(disk)} in {folder}",
            f"time:       at most {duration(self.seconds())}, by a short calibration on this machine",
        )
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def make_plan(runs: Sequence[RunSettings], cluster: bool, max_concurrent: int | None, folder: Path) -> Plan:
    """Check what a study needs against this machine.

    Args:
        runs: the trials to come, at least one.
        cluster: whether they run on a cluster, whose processors and memory are not this machine's.
        max_concurrent: the user's limit of trials side by side.
        folder: of the results.
    """
    quiet_ray()
    available = local_resources()
    bundles = _distinct_bundles(runs)
    largest = max(bundles, key=lambda bundle: sum(total(bundle).values()))
    concurrent = min(len(runs), max_concurrent or len(runs))
    problems = check_disk(runs, folder)
    if not cluster:
        concurrent = min(concurrent, concurrent_trials(largest, available))
        lacking = [line for bundle in bundles for line in check_resources(bundle, available, "this machine")]
        problems = [*dict.fromkeys(lacking), *check_memory(runs, concurrent, memory_bytes()), *problems]
    return Plan(runs, largest, concurrent, problems)


def _distinct_bundles(runs: Sequence[RunSettings]) -> list[list[dict[str, float]]]:
    distinct = {run.resources.model_dump_json(): run for run in runs}
    return [trial_bundles(run) for run in distinct.values()]


def _speed(run: RunSettings, speeds: dict[str, Speed]) -> Speed:
    """Measured once for all trials with the same suite, networks and batch size."""
    key = f"{run.suite} {run.model.model_dump_json()} {run.training.batch_size}"
    if key not in speeds:
        try:
            speeds[key] = calibrate(run)
        except (EnvironmentFailure, ImportError, ValueError) as error:
            raise PreflightError([f"{run.suite} task {run.tasks[0]!r} does not run here: {error}"], 4) from error
    return speeds[key]
