"""Does our SAC learn as CleanRL's does? Both on the same tasks, several seeds, their learning curves side by side.

    python -m benchmarks.learning [--tasks NAME ...] [--arms NAME ...] [--seeds N] [--env-steps N] [--warmup N]
        [--window N] [--json F] [--resume F] [--jobs N]

Everybody: one environment, random actions at first and then one update of 256 rows a step, two hidden layers of 256,
CleanRL's rates, which are our defaults. The arms:

- plain_torch: the benchmark's plain loop in CleanRL's order (`plain_sac.py`): critics, and every second step two actor
  and temperature steps against the new critics;
- sac: `ContinualSAC` with the method "sac" and its defaults, one visit, through the public API: everything steps
  together, after every step;
- sac_delayed: the same with `training.actor_interval: 2`, which is CleanRL's order but that the temperature learns from
  the actor's own pass, not from another one behind its step;
- sac_bf16: `sac` with `training.autocast: bf16`, on a processor that has it.

A seed means the same goals and starting states, and the same random actions at first, in every arm; all else differs.
A run is a process of its own, with one torch thread, and repeats itself by its seed. Its training episodes are written
to the JSON file as soon as it ends, and a figure of the curves lies beside the file at the end; `--resume` takes what
a file has and runs the rest.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import torch
from gymnasium.spaces import Box

from benchmarks.contender import BATCH_SIZE, Episode
from benchmarks.curves import TaskCurves, draw
from benchmarks.ours import base_config
from benchmarks.plain_sac import PlainLoop
from benchmarks.throughput import describe_machine, say
from rllib_nbsp import ContinualSACConfig
from rllib_nbsp.envs import SUITES
from rllib_nbsp.envs.base import Env
from rllib_nbsp.sampling.env_runner import ContinualEnvRunner
from rllib_nbsp.seeding import numpy_generator, seed_int

TASKS = ("Pendulum-v1@return>=-300", "button-press-v3")
HIDDEN = (256, 256)
FIRST_VERSION = 1
"""Of sampling, in a run's first visit: a part of its environments' seeds."""


@dataclass(frozen=True)
class Length:
    """How long a run is, in environment steps.

    Attributes:
        env_steps: of the whole run.
        warmup: of them with random actions, without updates.
        window: of the curves.
    """

    env_steps: int
    warmup: int
    window: int


LENGTHS = {"metaworld": Length(100_000, 5_000, 10_000)}
SHORT = Length(20_000, 1_000, 1_000)
"""For suites that `LENGTHS` does not name."""


@dataclass(frozen=True)
class Job:
    """One run."""

    task: str
    arm: str
    seed: int
    length: Length

    @property
    def suite(self) -> str:
        """The name of the task's suite."""
        return suite_name(self.task)


def suite_name(task: str) -> str:
    """The suite that knows a task by its name, or else the open one of gymnasium's registry."""
    return next(
        (name for name in ("point_mass", "metaworld") if task in (SUITES[name].task_names() or ())), "gymnasium"
    )


# The arms


class RecordingEnvRunner(ContinualEnvRunner):
    """Keeps an `Episode` of each training episode that ends."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ended: list[Episode] = []

    def sample(self, **request: Any) -> dict[str, Any]:
        """As RLlib's runner is asked."""
        reply = super().sample(**request)
        # One environment and one step a request: an episode in the reply ended with that step.
        env_steps = self.num_env_steps_sampled_lifetime
        self.ended += [Episode(env_steps, e["return"], e["success"]) for e in reply["episodes"]]
        return reply


def train_ours(job: Job, **training: Any) -> list[Episode]:
    """`ContinualSAC` through its public API, with these keys of the `training` section."""
    length = job.length
    config = (
        base_config(ContinualSACConfig(), HIDDEN)
        .curriculum(
            suite=job.suite,
            tasks=[job.task],
            cycles=1,
            visit_env_steps=length.env_steps,
            warmup_env_steps=length.warmup,
        )
        .training(**training)
        .evaluation(report_env_steps=1_000)
        .env_runners(env_runner_cls=RecordingEnvRunner)
        .debugging(seed=job.seed)
    )
    own_ray = not ray.is_initialized()
    if own_ray:
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    algo = config.build_algo()
    while not algo.train()["done"]:
        pass
    episodes: list[Episode] = algo.env_runner.ended
    algo.stop()
    if own_ray:
        ray.shutdown()
    return episodes


def training_env(suite: str, task: str, seed: int) -> Env:
    """The environment that our sampling builds for a run of this seed, in the state before its first reset."""
    env = SUITES[suite].make_env(task, seed=seed_int(seed, "environments", 0, 0, 0, 0))
    SUITES[suite].reseed(env, seed_int(seed, "environments", 0, 0, 0, 0, FIRST_VERSION))
    return env


def train_plain(job: Job) -> list[Episode]:
    """The plain loop in CleanRL's order."""
    torch.manual_seed(job.seed)
    loop = PlainLoop(
        training_env(job.suite, job.task, job.seed),
        HIDDEN,
        SUITES[job.suite].success,
        replay_seed=job.seed,
        uniform=numpy_generator(job.seed, "exploration", 0, FIRST_VERSION),
        freeze_critics=True,  # to the last bit the same, and faster
    )
    loop.warm_up(job.length.warmup)
    while loop.env_steps < job.length.env_steps:
        loop.train()
    loop.close()
    return loop.episodes


ARMS: dict[str, Callable[[Job], list[Episode]]] = {
    "plain_torch": train_plain,
    "sac": train_ours,
    "sac_delayed": partial(train_ours, actor_interval=2),
    "sac_bf16": partial(train_ours, autocast="bf16"),
}


def run(job: Job) -> dict[str, Any]:
    """A run as the JSON file has it; in a process of its own."""
    warnings.filterwarnings("ignore")
    for name in ("ray", "ray.rllib"):  # RLlib warns, twice an algorithm, that its default is its default
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    start = time.perf_counter()
    episodes = ARMS[job.arm](job)
    seconds = time.perf_counter() - start
    return {**asdict(job), "seconds": seconds, "episodes": [list(episode) for episode in episodes]}


# Many runs


class Report:
    """The JSON file: all finished runs, and what they come to.

    Args:
        runs: that are there already.
        file: where it is written after every run; None keeps it in memory.
    """

    def __init__(self, runs: list[dict[str, Any]], file: Path | None) -> None:
        self.runs = runs
        self._file = file
        self._head = {
            "settings": {"hidden": list(HIDDEN), "batch_size": BATCH_SIZE, "updates_per_env_step": 1},
            "versions": {name: version(name) for name in ("ray", "torch", "numpy", "gymnasium", "metaworld", "mujoco")},
            "machine": describe_machine(),
        }

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that are not there.

        Raises:
            ValueError: if one is there in another length.
        """
        there = {(run["task"], run["arm"], run["seed"]): Length(**run["length"]) for run in self.runs}
        for job in jobs:
            other = there.get((job.task, job.arm, job.seed), job.length)
            if other != job.length:
                raise ValueError(f"{job.task}, {job.arm}, seed {job.seed} is there with {other}, not {job.length}")
        return [job for job in jobs if (job.task, job.arm, job.seed) not in there]

    def add(self, run: dict[str, Any]) -> None:
        """Take a finished run in."""
        self.runs.append(run)
        if self._file is None:
            return
        report = {
            "tasks": {task: curves.report() for task, curves in self.curves().items()},
            **self._head,
            "runs": self.runs,
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps(report) + "\n")
        os.replace(temporary, self._file)

    def curves(self) -> dict[str, TaskCurves]:
        """What the runs of each task come to."""
        curves = {}
        for task in dict.fromkeys(run["task"] for run in self.runs):
            own = [run for run in self.runs if run["task"] == task]
            arms = {
                arm: {run["seed"]: [Episode(*e) for e in run["episodes"]] for run in own if run["arm"] == arm}
                for arm in ARMS
            }
            length = Length(**own[0]["length"])
            curves[task] = TaskCurves.of({arm: arms[arm] for arm in arms if arms[arm]}, length.env_steps, length.window)
        return curves


def run_all(jobs: Sequence[Job], report: Report, processes: int) -> None:
    """Run all jobs, so many at a time, and add each to the report when it is finished."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        futures = {pool.submit(run, job): job for job in jobs}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                job, finished = futures[future], future.result()
                report.add(finished)
                minutes = finished["seconds"] / 60
                say(f"{done} of {len(jobs)}: {job.task}, {job.arm}, seed {job.seed}, {minutes:.1f} min")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def check(task: str) -> None:
    """Whether the plain loop knows what to do with a task.

    Raises:
        ValueError: if it does not.
    """
    suite = SUITES[suite_name(task)]
    problems = suite.check_tasks([task])
    if problems:
        raise ValueError(problems[0])
    observations, actions = suite.task_spaces(task)
    if len(observations.shape) != 1 or not isinstance(actions, Box):
        raise ValueError(f"{task}: the plain loop takes vectors and continuous actions, not {observations}, {actions}")


# The command line


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    jobs: list[Job]
    json_file: Path | None
    resume: Path | None
    processes: int


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS, metavar="NAME", help="of any suite (%(default)s)")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="NAME", help="%(choices)s")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N - 1 (%(default)s)")
    parser.add_argument("--env-steps", type=int, metavar="N", help="of a run (20,000; Meta-World 100,000)")
    parser.add_argument("--warmup", type=int, metavar="N", help="random steps before (1,000; Meta-World 5,000)")
    parser.add_argument("--window", type=int, metavar="N", help="of the curves (1,000; Meta-World 10,000)")
    parser.add_argument("--json", type=Path, metavar="F", help="write runs and figures to F (as --resume)")
    parser.add_argument("--resume", type=Path, metavar="F", help="leave out the runs that F has")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (%(default)s)")
    options = parser.parse_args(arguments)
    given = {name: getattr(options, name) for name in ("env_steps", "warmup", "window") if getattr(options, name)}
    lengths = {}
    for task in options.tasks:
        try:
            check(task)
        except ValueError as error:
            parser.error(str(error))
        lengths[task] = Length(**{**asdict(LENGTHS.get(suite_name(task), SHORT)), **given})
        if lengths[task].warmup >= lengths[task].env_steps:
            parser.error(f"{task}: no step is left to learn from: {lengths[task]}")
    jobs = [
        Job(task, arm, seed, lengths[task])
        for task in options.tasks
        for seed in range(options.seeds)
        for arm in options.arms
    ]
    return Options(jobs, options.json or options.resume, options.resume, options.jobs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the JSON file and the figure, print the tables and the verdicts. Returns the exit code."""
    options = parse(arguments)
    runs = json.loads(options.resume.read_text())["runs"] if options.resume and options.resume.exists() else []
    report = Report(runs, options.json_file)
    try:
        missing = report.missing(options.jobs)
    except ValueError as error:
        say(f"error: {error}")
        return 2
    run_all(missing, report, options.processes)
    curves = report.curves()
    print("\n\n".join(result.table(task) for task, result in curves.items()))
    if options.json_file:
        draw(curves, options.json_file.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
