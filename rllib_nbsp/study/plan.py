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
from rllib_nbsp.plugins import USER_ERRORS
from rllib_nbsp.settings import RunSettings
from rllib_nbsp.sharing import shared_by
from rllib_nbsp.study.errors import PreflightError
from rllib_nbsp.study.estimate import Estimate, Speed, calibrate, duration, study_seconds, trial_estimate
from rllib_nbsp.study.needs import check_disk, check_memory, disk_bytes, gigabytes, memory_bytes, needs
from rllib_nbsp.study.packing import check_resources, concurrent_trials, total

MAX_TABLE_ROWS = 40
MUCH_EVALUATION = 0.15
"""Share of a study's time from which on the plan says how evaluations cost less."""


def trial_bundles(trial: RunSettings) -> list[dict[str, float]]:
    """The resource bundles that Tune reserves for a trial."""
    request = ContinualSAC.default_resource_request({"run": trial.model_dump()})
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
        trials: what is to run.
        kinds: a trial for each way to use resources, the largest first.
        concurrent: trials side by side, on a cluster before it is known.
        problems: why the study cannot run here, one line each.
    """

    trials: Sequence[RunSettings]
    kinds: Sequence[RunSettings]
    concurrent: int
    problems: list[str]

    def estimates(self) -> list[Estimate]:
        """What each trial takes if no visit stops early, by a calibration of a few seconds.

        Raises:
            PreflightError: if a task's environment does not run here.
        """
        speeds: dict[str, Speed] = {}
        beginning = {trial.results_dir for group in shared_by(self.trials) for trial in group[1:]}
        return [
            trial_estimate(trial, _speed(trial, speeds), given=int(trial.results_dir in beginning))
            for trial in self.trials
        ]

    def shared(self) -> list[str]:
        """A line on first visits that trials have in common, if they do."""
        groups = shared_by(self.trials)
        if not groups:
            return []
        spared = sum((len(group) - 1) * group[0].visit_env_steps[0] for group in groups)
        every = sum(sum(trial.visit_env_steps) for trial in self.trials)
        visits = "a first visit is" if len(groups) == 1 else f"{len(groups)} first visits are"
        return [
            f"shared:     {visits} made once for {sum(map(len, groups))} trials, which spares up to {spared:,} "
            f"environment steps ({spared / every:.0%}; share_visits)"
        ]

    def on(self, nodes: Sequence[Mapping[str, float]], where: str) -> Plan:
        """The plan checked against what each node has, of this machine or of a cluster that was joined."""
        lacking = [
            line
            for kind in self.kinds
            for line in check_resources(trial_bundles(kind), nodes, where, kind.resources.placement_strategy)
        ]
        bundles = {_kind(kind): trial_bundles(kind) for kind in self.kinds}
        wanted = [(bundles[_kind(trial)], trial.resources.placement_strategy) for trial in self.trials]
        concurrent = concurrent_trials(wanted[: self.concurrent], nodes)
        return replace(self, concurrent=concurrent, problems=[*self.problems, *dict.fromkeys(lacking)])

    def show(self, console: Console, folder: Path) -> None:
        """Print the trial table and what it takes."""
        table = Table("sequence", "arm", "seed", "visits", "env steps at most", box=None, pad_edge=False)
        for trial in self.trials[:MAX_TABLE_ROWS]:
            lengths = trial.visit_env_steps
            seen = "" if trial.stop_env_steps is None else f"{len(lengths)} of "
            visits, steps = f"{seen}{trial.num_visits}", f"{sum(lengths):,}"
            table.add_row(trial.sequence, trial.arm, str(trial.seed), visits, steps)
        console.print(table)
        if len(self.trials) > MAX_TABLE_ROWS:
            console.print(f"... and {len(self.trials) - MAX_TABLE_ROWS} more trials")
        largest = max((needs(trial) for trial in self.trials), key=lambda need: need.memory)
        bundles = " + ".join(
            "{" + ", ".join(f"{n}: {a:g}" for n, a in b.items()) + "}" for b in trial_bundles(self.kinds[0])
        )
        disk = disk_bytes(self.trials, self.concurrent, shared_by(self.trials))
        estimates = self.estimates()
        seconds = study_seconds([estimate.seconds for estimate in estimates], self.concurrent)
        lines = (
            f"trials:     {len(self.trials)}, {self.concurrent} at once",
            f"resources:  {bundles} a trial, {self.trials[0].resources.placement_strategy}",
            f"memory:     {gigabytes(largest.memory)} a trial, {gigabytes(largest.replay)} of it replay, "
            f"{gigabytes(largest.environments)} environments, {gigabytes(largest.batches)} batches",
            f"disk:       {gigabytes(disk)} in {folder}",
            f"time:       at most {duration(seconds)}, by a short calibration on this machine",
            f"evaluation: {evaluation_share(estimates)}",
            *self.shared(),
        )
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def make_plan(trials: Sequence[RunSettings], cluster: bool, max_concurrent: int | None, folder: Path) -> Plan:
    """Check what a study needs against this machine.

    Args:
        trials: what is to run, at least one.
        cluster: whether they run on a cluster, whose processors and memory are not this machine's.
        max_concurrent: the user's limit of trials side by side.
        folder: of the results.
    """
    quiet_ray()
    kinds = sorted(_kinds(trials), key=lambda kind: sum(total(trial_bundles(kind)).values()), reverse=True)
    plan = Plan(trials, kinds, min(len(trials), max_concurrent or len(trials)), [])
    if not cluster:
        plan = plan.on([local_resources()], "this machine")
    problems = [*plan.problems, *check_disk(trials, plan.concurrent, folder, shared_by(trials))]
    if not cluster:
        problems += check_memory(trials, plan.concurrent, memory_bytes())
    return replace(plan, problems=problems)


def evaluation_share(estimates: Sequence[Estimate]) -> str:
    """What evaluations take of the trials together."""
    steps = sum(estimate.evaluation_env_steps for estimate in estimates)
    share = steps / sum(estimate.env_steps for estimate in estimates)
    of_time = sum(estimate.evaluation_s for estimate in estimates) / sum(estimate.seconds for estimate in estimates)
    advice = "; evaluation.periodic_tasks and boundary_episodes lower it" if of_time > MUCH_EVALUATION else ""
    return f"{steps:,} env steps, {share:.0%} of those in training, {of_time:.0%} of the time{advice}"


def _kinds(trials: Sequence[RunSettings]) -> list[RunSettings]:
    """One trial for each way to use resources."""
    return list({_kind(trial): trial for trial in trials}.values())


def _kind(trial: RunSettings) -> str:
    return trial.resources.model_dump_json()


def _speed(trial: RunSettings, speeds: dict[str, Speed]) -> Speed:
    """Measured once for all trials with the same suite, networks and batch size."""
    key = f"{trial.suite} {trial.model.model_dump_json()} {trial.training.batch_size}"
    if key not in speeds:
        try:
            speeds[key] = calibrate(trial)
        except USER_ERRORS as error:  # an environment's, or memory that is not there
            what = error if isinstance(error, EnvironmentFailure) else f"{type(error).__name__}: {error}"
            raise PreflightError([f"{trial.suite} task {trial.tasks[0]!r} does not run here: {what}"], 4) from error
    return speeds[key]
