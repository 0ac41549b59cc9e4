"""What grows with the number of trials in a study, and of rollout workers in a run, on one machine.

    python -m benchmarks.scale [--trials N] [--runners N ...] [--seconds S] [--json F]

The trials are of the point mass, two visits of 100 environment steps each, and go through Ray Tune in one driver, this
process, as those of any study do: its main memory, its open files and what a trial takes, at the study's beginning and
further on. The runs have so many rollout workers on this machine, each a process, whatever cores there are: environment
steps a second with updates, and main memory of the run's process and of all workers together.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import tune
from rich.console import Console

from benchmarks.processes import open_files, resident_bytes
from benchmarks.throughput import describe_machine, say
from benchmarks.timing import repeat_for
from rllib_nbsp import ContinualSACConfig
from rllib_nbsp.study.errors import PreflightError
from rllib_nbsp.study.plan import quiet_ray
from rllib_nbsp.study.reader import load_study
from rllib_nbsp.study.stop_signal import StopSignal
from rllib_nbsp.study.trials import ray_session, run_trials

STRETCHES = 5
"""Parts of the study that are told apart."""
STUDY: dict[str, Any] = {
    "experiment": "scale",
    "suite": "point_mass",
    "sequences": {"left_right": ["reach-left", "reach-right"]},
    "cycles": 1,
    "arms": {"sac": {"method": "sac"}},
    "replay": {"capacity": 200, "prior_capacity": 0},
    "visit": {"max_env_steps": 100, "warmup_env_steps": 50, "early_stop": None},
    "training": {"updates_per_env_step": 0.1, "batch_size": 16},
    "model": {"hidden": [16, 16]},
    "evaluation": {"boundary_episodes": 1, "periodic_episodes": 0, "report_env_steps": 100},
}


class Ledger(tune.Callback):
    """What the driver has whenever a trial is over."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def __getstate__(self) -> dict[str, Any]:
        """Tune files a copy of all it was given, and needs none of this."""
        return {}

    def note(self) -> None:
        """Add a row for now."""
        self.rows.append({"at_s": time.monotonic(), "driver_bytes": resident_bytes(), "open_files": open_files()})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune's hook."""
        self.note()


def measure_trials(count: int) -> list[dict[str, float]]:
    """Run a study of so many trials.

    Returns:
        For the end of each of `STRETCHES` parts of it: `trials` that are over, `driver_bytes`, `open_files`, and
        `seconds`, the mean of the part's trials, which run side by side.

    Raises:
        RuntimeError: if Ray does not start, or a trial failed.
    """
    quiet_ray()
    ledger, silent = Ledger(), Console(file=io.StringIO())
    with tempfile.TemporaryDirectory() as name:
        file, folder = Path(name) / "scale.yaml", Path(name) / "results"
        file.write_text(yaml.safe_dump({**STUDY, "seeds": list(range(count))}), encoding="utf-8")
        folder.mkdir()
        try:
            with ray_session(None, 1, [], StopSignal()):
                ledger.note()
                outcome = run_trials(load_study(file).trials(folder), folder, None, [ledger], silent)
        except PreflightError as error:  # which does not travel between processes
            raise RuntimeError(str(error)) from error
    if outcome.failed or outcome.stopped:
        raise RuntimeError(f"{len(ledger.rows) - 1} of {count} trials ended: {outcome}")
    return stretches(ledger.rows)


def stretches(rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The ends of `STRETCHES` parts, from a row before the first trial and one after each."""
    ends = [round(part * (len(rows) - 1) / STRETCHES) for part in range(STRETCHES + 1)]
    return [
        {
            "trials": end,
            "driver_bytes": rows[end]["driver_bytes"],
            "open_files": rows[end]["open_files"],
            "seconds": (rows[end]["at_s"] - rows[start]["at_s"]) / (end - start),
        }
        for start, end in itertools.pairwise(ends)
    ]


def measure_runners(count: int, seconds: float) -> dict[str, float]:
    """Train with so many rollout workers.

    Returns:
        `env_steps_per_s`, `driver_bytes`, and `runner_bytes` of all workers together.
    """
    quiet_ray()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    config = (
        ContinualSACConfig()
        .curriculum(suite="point_mass", tasks=["reach-left"], cycles=1)
        .visit(max_env_steps=10**9, warmup_env_steps=100, early_stop=None)
        .networks(hidden=[64, 64])
        .training(batch_size=64, updates_per_env_step=0.1, rollout_fragment_length=8)
        .replay(capacity=100_000, prior_capacity=0)
        .evaluation(periodic_episodes=0)
        .env_runners(num_env_runners=count, num_cpus_per_env_runner=0.01)
        .debugging(seed=0, log_level="ERROR")
    )
    algo = config.build_algo()
    repeat_for(seconds, algo.train)  # does not count
    before = algo.env_steps
    _, took = repeat_for(seconds, algo.train)
    steps = (algo.env_steps - before) / took
    own = resident_bytes()
    workers = algo.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    of_workers = sum(resident_bytes(worker) for worker in workers)
    row = {"runners": len(workers), "env_steps_per_s": steps, "driver_bytes": own, "runner_bytes": of_workers}
    algo.stop()
    ray.shutdown()
    return row


def report(trials: Sequence[dict[str, float]], runs: Sequence[dict[str, float]]) -> str:
    """Two tables, as Markdown."""
    lines = ["| trials over | driver, MB | open files | s a trial |", "| ---: | ---: | ---: | ---: |"]
    for row in trials:
        cells = (f"{row['trials']:.0f}", f"{row['driver_bytes'] / 1e6:.0f}", f"{row['open_files']:.0f}")
        lines.append(f"| {' | '.join(cells)} | {row['seconds']:.2f} |")
    lines += [
        "",
        "| rollout workers | env steps/s | run's process, MB | workers, MB |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for row in runs:
        memory = (f"{row[name] / 1e6:.0f}" for name in ("driver_bytes", "runner_bytes"))
        lines.append(f"| {row['runners']:.0f} | {row['env_steps_per_s']:.0f} | {' | '.join(memory)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=200, metavar="N", help=f"at least {STRETCHES}")
    parser.add_argument("--runners", type=int, nargs="*", default=[1, 4, 16], metavar="N", help="a run for each number")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="that a run is timed for")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to F")
    options = parser.parse_args(arguments)
    if options.trials < STRETCHES:
        parser.error(f"--trials is {options.trials}; allowed: {STRETCHES} or more")
    machine, runs = describe_machine(), []
    spawn = multiprocessing.get_context("spawn")
    say(f"{options.trials} trials in one study")
    with spawn.Pool(1) as pool:
        trials = pool.apply(measure_trials, (options.trials,))
    for count in options.runners:
        say(f"a run with {count} rollout workers")
        with spawn.Pool(1) as pool:
            runs.append(pool.apply(measure_runners, (count, options.seconds)))
    print(report(trials, runs))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "trials": trials, "runs": runs}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
