"""Main memory of a process that steps environments, by the number of tasks, with and without `resources.max_idle_envs`.

    python -m benchmarks.memory [--tasks N ...] [--json F]

Each figure is of a process of its own, which goes through Meta-World's first N tasks as a run does: training in each, a
scoring rollout, and an evaluation of every task after each of the first two and the last. Beside the peak stands what
the evaluations of the last round took, all of whose environments were built before. No networks, no Ray, no Learner.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.throughput import describe_machine, say
from rllib_nbsp.envs import SUITES
from rllib_nbsp.run import run_settings
from rllib_nbsp.sampling.sampler import Sampler
from rllib_nbsp.settings import ResourceSettings

KEPT = 10_000  # environments: all of them
SCORED_STEPS = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 8, 20], metavar="N", help="how many, at most 50")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to F")
    options = parser.parse_args(argv)
    limit = ResourceSettings().max_idle_envs
    spawn = multiprocessing.get_context("spawn")
    results: list[dict[str, Any]] = []
    say("tasks | idle environments kept | peak MB of the process | evaluation of every task, s")
    for tasks in options.tasks:
        for name, kept in (("all", KEPT), (f"at most {limit}", limit)):
            with spawn.Pool(1) as pool:
                one = pool.apply(measure, (tasks, kept))
            results.append({"tasks": tasks, "kept": name, **one})
            say(f"{tasks} | {name} | {one['peak_bytes'] / 1e6:.0f} | {one['evaluation_s']:.1f}")
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "results": results}, indent=1) + "\n")
    return 0


def measure(tasks: int, kept: int) -> dict[str, Any]:
    """Go through so many tasks with so many idle environments; what the process took at its peak."""
    suite = SUITES["metaworld"]
    names = (suite.task_names() or [])[:tasks]
    settings = run_settings(suite=suite.name, tasks=names, resources=ResourceSettings(max_idle_envs=kept))
    sampler = Sampler(suite, *suite.spaces(names), _still, settings)
    evaluation_s = 0.0
    for visit, name in enumerate(names):
        sampler.sample(task=name, version=visit, num_vector_steps=1)
        sampler.rollout(task=name, version=visit, num_env_steps=SCORED_STEPS, rollout_index=visit)
        if visit < 2 or name == names[-1]:
            start = time.perf_counter()
            for task in names:
                sampler.evaluate(task=task, version=visit, episode_indices=range(settings.evaluation.num_envs))
            evaluation_s = time.perf_counter() - start
    sampler.close()
    return {"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "evaluation_s": evaluation_s}


def _still(obs: torch.Tensor, **_: Any) -> torch.Tensor:
    return torch.zeros(len(obs), 4)


if __name__ == "__main__":
    sys.exit(main())
