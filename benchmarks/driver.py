"""What the driver costs by itself: CPU ms of its process an environment step, beside a Learner that does no arithmetic.

    python -m benchmarks.driver [--json F] [--against COMMIT] [--runners N ...] [--fragments N ...] [--width N]
        [--learners N] [--builds N] [--windows N] [--seconds S] [--suite NAME]

The case is the paper's preset: three hidden layers of one width, 4 environments a rollout worker, 2 updates of 256 rows
a step, a remote Learner. That Learner is handed its batches and drops them; it gives its weights away as ever. The
environment is the point mass, whose steps cost next to nothing; they are taken in the workers' processes in any case.
What is left is what the driver does: take fragments, store them, draw batches, hand them over, see to the weights.

With `--against`, the code of another commit is measured beside this one's, in turns. Every case is a process of its
own, with a Ray of its own. CPU time is that of the driver's process, the threads of Ray in it included, and does not
depend on how many cores the workers find; the steps per second do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks.timing import repeat_for
from rllib_nbsp import ContinualSACConfig
from rllib_nbsp.sac.learner import ContinualSACTorchLearner

ROOT = Path(__file__).resolve().parents[1]
BATCH_SIZE, UPDATES_PER_ENV_STEP, ENVS = 256, 2.0, 4
TASKS = {"point_mass": "reach-left", "metaworld": "window-open-v3"}
MEASURE = "--measure"  # to a process of our own, with a `Case`


@dataclass(frozen=True)
class Case:
    """One figure.

    Attributes:
        runners: remote rollout workers.
        fragment: steps of each environment in a fragment.
        width: of the three hidden layers.
        learners: remote Learners; 0: one in the driver's process.
        windows, seconds: how many, and how long.
        suite: of the environment.
    """

    runners: int
    fragment: int
    width: int = 768
    learners: int = 1
    windows: int = 5
    seconds: float = 4.0
    suite: str = "point_mass"


# In the process of a case


class IdleLearner(ContinualSACTorchLearner):
    """Takes the batches of an update and makes none of it."""

    def update(self, batch: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Only count the call."""
        self._weights_seq_no += 1
        return {}


class IdleConfig(ContinualSACConfig):
    """The configuration of a run that does not learn."""

    def get_default_learner_class(self) -> type:
        """RLlib's hook."""
        return IdleLearner


def config_of(case: Case) -> ContinualSACConfig:
    """A visit that no window comes to the end of."""
    return (
        IdleConfig()
        .curriculum(suite=case.suite, tasks=[TASKS[case.suite]], cycles=1)
        .visit(max_env_steps=10**9, warmup_env_steps=2 * BATCH_SIZE, early_stop=None)
        .networks(hidden=[case.width] * 3)
        .training(batch_size=BATCH_SIZE, updates_per_env_step=UPDATES_PER_ENV_STEP)
        .training(rollout_fragment_length=case.fragment)
        .evaluation(periodic_episodes=0, boundary_episodes=1, num_envs=1)
        .env_runners(num_env_runners=case.runners, num_envs_per_env_runner=ENVS, num_cpus_per_env_runner=0.01)
        .learners(num_learners=case.learners)
        .debugging(seed=0, log_level="ERROR")
    )


def measure(case: Case) -> dict[str, Any]:
    """Train for some windows, after one that does not count.

    Returns:
        `cpu_ms` and `wall_ms` an environment step, each a list over the windows.
    """
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    for name in ("ray", "ray.rllib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    algo = config_of(case).build_algo()
    times: dict[str, list[float]] = {"cpu_ms": [], "wall_ms": []}
    for _ in range(1 + case.windows):
        env_steps, cpu = algo.env_steps, time.process_time()
        _, wall = repeat_for(case.seconds, algo.train)
        steps = algo.env_steps - env_steps
        times["cpu_ms"].append(1e3 * (time.process_time() - cpu) / steps)
        times["wall_ms"].append(1e3 * wall / steps)
    algo.stop()
    ray.shutdown()
    return {name: values[1:] for name, values in times.items()}


# In the process that compares


def measured(case: Case, tree: Path) -> dict[str, Any]:
    """`measure` by the code in another folder.

    Raises:
        RuntimeError: with the process's last words, if it failed.
    """
    done = subprocess.run(
        [sys.executable, "-P", __file__, MEASURE, json.dumps(asdict(case))],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{case} in {tree} failed:\n{done.stderr[-2000:]}")
    times: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return times


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the code of a commit, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(tree), commit], check=True, capture_output=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True, capture_output=True)


def compare(cases: Sequence[Case], trees: dict[str, Path], builds: int) -> list[dict[str, Any]]:
    """Every case by the code of every folder, in turns.

    Returns:
        One row a case: its fields, and by the folder's name the medians `cpu_ms`, `env_steps_per_s`, and the windows.
    """
    rows = []
    for case in cases:
        windows: dict[str, dict[str, list[float]]] = {name: {"cpu_ms": [], "wall_ms": []} for name in trees}
        for build in range(builds):
            for name, tree in trees.items():
                what = f"{case.runners} runners, fragment {case.fragment}, {name}, build {build + 1} of {builds}"
                print(what, file=sys.stderr, flush=True)
                for key, values in measured(case, tree).items():
                    windows[name][key] += values
        row: dict[str, Any] = asdict(case)
        for name, times in windows.items():
            row[name] = {
                "cpu_ms": statistics.median(times["cpu_ms"]),
                "env_steps_per_s": 1e3 / statistics.median(times["wall_ms"]),
                "windows": times,
            }
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The rows as Markdown, with how much of its CPU time a step keeps, and how its cost grows with the runners."""
    titles = [f"{name}: {figure}" for figure in ("CPU ms/step", "env steps/s") for name in names]
    titles += ["CPU after/before"] if len(names) > 1 else []
    head = ["runners", "fragment", *titles]
    lines = ["| " + " | ".join(head) + " |", "|" + " ---: |" * len(head)]
    for row in rows:
        cells = [f"{row[name]['cpu_ms']:.2f}" for name in names]
        cells += [f"{row[name]['env_steps_per_s']:.0f}" for name in names]
        cells += [f"{row[names[1]]['cpu_ms'] / row[names[0]]['cpu_ms']:.2f}"] if len(names) > 1 else []
        lines.append("| " + " | ".join([str(row["runners"]), str(row["fragment"]), *cells]) + " |")
    for fragment in dict.fromkeys(row["fragment"] for row in rows):
        of = sorted((row for row in rows if row["fragment"] == fragment), key=lambda row: row["runners"])
        if len(of) > 1:
            grows = (f"{name} {of[-1][name]['cpu_ms'] / of[0][name]['cpu_ms']:.2f}x" for name in names)
            lines.append(
                f"\nCPU a step at fragment {fragment}, from {of[0]['runners']} to {of[-1]['runners']} runners: "
                + ", ".join(grows)
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.driver", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="F", help="write all figures to F")
    parser.add_argument("--against", metavar="COMMIT", help="also measure the code of this commit, as `before`")
    parser.add_argument("--runners", type=int, nargs="+", default=[2, 4, 16], metavar="N")
    parser.add_argument("--fragments", type=int, nargs="+", default=[1, 8], metavar="N")
    parser.add_argument("--width", type=int, default=Case.width, metavar="N", help="of the three hidden layers")
    parser.add_argument("--learners", type=int, default=Case.learners, metavar="N", help="0: in the driver's process")
    parser.add_argument("--builds", type=int, default=1, metavar="N", help="how often each case is made anew")
    parser.add_argument("--windows", type=int, default=Case.windows, metavar="N", help="windows of a build")
    parser.add_argument("--seconds", type=float, default=Case.seconds, metavar="S", help="length of a window")
    parser.add_argument("--suite", choices=TASKS, default=Case.suite)
    options = parser.parse_args(arguments)
    given = {name: getattr(options, name) for name in ("width", "learners", "windows", "seconds", "suite")}
    cases = [replace(Case(n, f), **given) for f in options.fragments for n in options.runners]
    with contextlib.ExitStack() as stack:
        trees = {"after": ROOT}
        if options.against:
            trees = {"before": stack.enter_context(checked_out(options.against)), **trees}
        rows = compare(cases, trees, options.builds)
    print(table(rows, list(trees)))
    if options.json:
        options.json.write_text(json.dumps({"against": options.against, "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == [MEASURE]:
        print(json.dumps(measure(Case(**json.loads(sys.argv[2])))))
        sys.exit()
    sys.exit(main())
