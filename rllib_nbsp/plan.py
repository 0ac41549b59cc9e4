"""What a study will do and take, before it does: trials, resources, memory, disk, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

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
)
from rllib_nbsp.settings import RunSettings
from rllib_nbsp.study import local_resources, trial_bundles

MAX_TABLE_ROWS = 40


@dataclass(frozen=True)
class Plan:
    """A checked plan.

    Attributes:
        runs: the trials.
        bundles: Ray's resource bundles of the largest trial.
        concurrent: trials side by side.
        seconds: of the whole study if no visit stops early.
    """

    runs: Sequence[RunSettings]
    bundles: Sequence[Bundle]
    concurrent: int
    seconds: float

    def show(self, console: Console, folder: Path) -> None:
        """Print the trial table and what it takes."""
        table = Table("sequence", "arm", "seed", "visits", "env steps at most", box=None, pad_edge=False)
        for run in self.runs[:MAX_TABLE_ROWS]:
            visits = run.cycles * len(run.tasks)
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
            f"memory:     {gigabytes(largest.memory)} a trial, {gigabytes(largest.buffer)} of it replay",
            f"disk:       {gigabytes(disk)} in {folder}",
            f"time:       at most {duration(self.seconds)}, by a short calibration on this machine",
        )
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def make_plan(runs: Sequence[RunSettings], cluster: bool, max_concurrent: int | None, folder: Path) -> Plan:
    """Check what a study needs against this machine, and time it.

    Args:
        runs: the trials to come, at least one.
        cluster: whether they run on a cluster, whose processors and memory are not this machine's.
        max_concurrent: the user's limit of trials side by side.
        folder: of the results.

    Raises:
        PreflightError: if the study cannot run here.
    """
    available = local_resources()
    largest: list[dict[str, float]] = []
    for bundles in _distinct_bundles(runs):
        if not cluster:
            check_resources(bundles, available, "this machine")
        largest = max(largest, bundles, key=lambda b: sum(amount for bundle in b for amount in bundle.values()))
    concurrent = min(len(runs), max_concurrent or len(runs) if cluster else concurrent_trials(largest, available, max_concurrent))
    if not cluster:
        check_memory(runs, concurrent, memory_bytes())
    check_disk(runs, folder)
    speeds: dict[str, Speed] = {}
    times = [trial_seconds(run, _speed(run, speeds)) for run in runs]
    return Plan(runs, largest, concurrent, study_seconds(times, concurrent))


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
