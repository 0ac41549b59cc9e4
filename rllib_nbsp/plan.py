"""What a study will do and take, before it does: trials, resources, memory, disk, time."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
        bundles: Ray's resource bundles of each kind of trial, the largest first.
        concurrent: trials side by side, on a cluster before it is known.
        problems: why the study cannot run here, one line each.
    """

    runs: Sequence[RunSettings]
    bundles: Sequence[Sequence[Bundle]]
    concurrent: int
    problems: list[str]

    def trial_seconds(self) -> list[float]:
        """Of each trial if no visit stops early, by a calibration of about three seconds.

        Raises:
            PreflightError: if a task's environment does not run here.
        """
        speeds: dict[str, Speed] = {}
        return [trial_seconds(run, _speed(run, speeds)) for run in self.runs]

    def on_cluster(self, where: str, available: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> Plan:
        """The plan checked against a cluster that was joined: what all of it has, and what each node has."""
        lacking = [line for bundles in self.bundles for line in check_resources(bundles, available, where, nodes)]
        concurrent = min(self.concurrent, concurrent_trials(self.bundles[0], available))
        return replace(self, concurrent=concurrent, problems=list(dict.fromkeys(lacking)))

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
        bundles = " + ".join("{" + ", ".join(f"{n}: {a:g}" for n, a in b.items()) + "}" for b in self.bundles[0])
        disk = sum(needs(run).disk for run in self.runs)
        seconds = study_seconds(self.trial_seconds(), self.concurrent)
        lines = (
            f"trials:     {len(self.runs)}, {self.concurrent} at once",
            f"resources:  {bundles} a trial, {self.runs[0].resources.placement_strategy}",
            f"memory:     {gigabytes(largest.memory)} a trial, {gigabytes(largest.replay)} of it replay",
            f"disk:       {gigabytes(disk)} in {folder}",
            f"time:       at most {duration(seconds)}, by a short calibration on this machine",
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
    concurrent = min(len(runs), max_concurrent or len(runs))
    problems = check_disk(runs, folder)
    if not cluster:
        concurrent = min(concurrent, concurrent_trials(bundles[0], available))
        lacking = [line for kind in bundles for line in check_resources(kind, available, "this machine")]
        problems = [*dict.fromkeys(lacking), *check_memory(runs, concurrent, memory_bytes()), *problems]
    return Plan(runs, bundles, concurrent, problems)


def _distinct_bundles(runs: Sequence[RunSettings]) -> list[list[dict[str, float]]]:
    """The bundles of each kind of trial, the largest first."""
    distinct = {run.resources.model_dump_json(): run for run in runs}
    bundles = [_placed_together(run, trial_bundles(run)) for run in distinct.values()]
    return sorted(bundles, key=lambda kind: sum(total(kind).values()), reverse=True)


def _placed_together(run: RunSettings, bundles: list[dict[str, float]]) -> list[dict[str, float]]:
    return [total(bundles)] if run.resources.placement_strategy == "STRICT_PACK" else bundles


def _speed(run: RunSettings, speeds: dict[str, Speed]) -> Speed:
    """Measured once for all trials with the same suite, networks and batch size."""
    key = f"{run.suite} {run.model.model_dump_json()} {run.training.batch_size}"
    if key not in speeds:
        try:
            speeds[key] = calibrate(run)
        except (EnvironmentFailure, ImportError, ValueError) as error:
            raise PreflightError([f"{run.suite} task {run.tasks[0]!r} does not run here: {error}"], 4) from error
    return speeds[key]
