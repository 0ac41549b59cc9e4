"""Do memory and open files of a run's processes grow with its visits? Hours of NBSP on tiny networks.

    python -m benchmarks.soak [--minutes N] [--visit-env-steps N] [--json F]

One run goes back and forth between two tasks of the point mass: its own process, a remote rollout worker and a remote
Learner, whose stores are full after the first visits. After each visit, each process says what memory of its own it has
(resident, without what it maps from files and shares) and how many files are open. The slope is Theil-Sen's over the
visits of the second half of the time, per hour and per visit: a leak of a visit or of a step is in both.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from scipy.stats import theilslopes

from benchmarks.processes import open_files, resident_bytes
from benchmarks.throughput import describe_machine, say
from rllib_nbsp import ContinualSAC, NBSPConfig

WARM = 0.5
"""Of the time, in which stores fill and allocators find their size."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120.0, metavar="N", help="default: %(default)g")
    parser.add_argument("--visit-env-steps", type=int, default=5000, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="F", help="write every reading to F")
    options = parser.parse_args(argv)
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        readings = soak(60 * options.minutes, options.visit_env_steps, Path(folder))
    ray.shutdown()
    slopes = {name: slope(readings, name) for name in ("run", "rollout worker", "Learner")}
    say(f"{len(readings)} visits, {readings[-1]['seconds'] / 60:.0f} minutes, {readings[-1]['env_steps']:,} env steps")
    say("process | MB at last | MB an hour | kB a visit | open files, least and most")
    for name, own in slopes.items():
        say(
            f"{name} | {own['last_bytes'] / 1e6:.1f} | {own['bytes_per_hour'] / 1e6:+.2f} | "
            f"{own['bytes_per_visit'] / 1e3:+.1f} | {own['least_files']}, {own['most_files']}"
        )
    if options.json:
        report = {"machine": describe_machine(), "slopes": slopes, "readings": readings}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def soak(seconds: float, visit_env_steps: int, results: Path) -> list[dict[str, Any]]:
    """Make visits for so long; after each, what every process holds.

    Args:
        seconds: after which the next visit that ends is the last.
        visit_env_steps: of each.
        results: folder of the run's rows and states.
    """
    algo = tiny_run(visit_env_steps, results).build_algo()
    readings: list[dict[str, Any]] = []
    start, visit = time.monotonic(), 1
    try:
        while not readings or readings[-1]["seconds"] < seconds:
            algo.train()
            if algo.visit.number != visit:
                visit = algo.visit.number
                readings.append(
                    {"seconds": time.monotonic() - start, "env_steps": algo.env_steps, "processes": held_by(algo)}
                )
    finally:
        algo.stop()
    return readings


def tiny_run(visit_env_steps: int, results: Path) -> NBSPConfig:
    """NBSP with everything that a visit does, saved twice in each, and more visits than anybody waits for."""
    config = (
        NBSPConfig()
        .curriculum(suite="point_mass", tasks=["reach-left", "reach-right"], cycles=10_000)
        .curriculum(visit_env_steps=visit_env_steps, warmup_env_steps=200)
        .visit(early_stop=None)
        .training(batch_size=32, updates_per_env_step=0.5, rollout_fragment_length=8, score_env_steps=1000)
        .networks(hidden=[16, 16])
        .replay(capacity=visit_env_steps, prior_capacity=500)
        .evaluation(boundary_episodes=2, periodic_episodes=1, periodic_env_steps=visit_env_steps // 2, num_envs=2)
        .state(every_env_steps=visit_env_steps // 2)
        .debugging(seed=0)
    )
    return config.env_runners(num_env_runners=1).learners(num_learners=1).results(results)


def held_by(algo: ContinualSAC) -> dict[str, dict[str, int]]:
    """What each of a run's processes holds now."""
    (worker,) = algo.env_runner_group.foreach_env_runner(lambda _: held(), local_env_runner=False)
    return {"run": held(), "rollout worker": worker, "Learner": algo.learners.first("apply", lambda _: held())}


def held() -> dict[str, int]:
    """This process's own resident bytes, and how many files it has open."""
    return {"bytes": resident_bytes(shared=False), "files": open_files()}


def slope(readings: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    """How a process grew once it was warm."""
    warm = [reading for reading in readings if reading["seconds"] >= WARM * readings[-1]["seconds"]]
    held_then = [reading["processes"][name]["bytes"] for reading in warm]
    files = [reading["processes"][name]["files"] for reading in warm]
    return {
        "bytes_per_hour": float(theilslopes(held_then, [reading["seconds"] / 3600 for reading in warm]).slope),
        "bytes_per_visit": float(theilslopes(held_then).slope),
        "last_bytes": held_then[-1],
        "least_files": min(files),
        "most_files": max(files),
    }


if __name__ == "__main__":
    sys.exit(main())
