"""What it costs to save a run's state: seconds, bytes, and its share of a run's time.

    python -m benchmarks.state [--rows N ...] [--hidden N ...] [--json F]

A D of Meta-World's rows and NBSP's networks, optimizers and masks, saved, saved again after 25,000 new transitions (the
default period), and read back. The share is of the time that these 25,000 steps take with one update each, of which
some are measured here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ours import OBS_SIZE, nbsp_config
from benchmarks.throughput import describe_machine, say
from rllib_nbsp import NBSP
from rllib_nbsp.settings import StateSettings
from rllib_nbsp.state.bundle import BundleWriter, read_bundle

PERIOD = StateSettings().every_env_steps or 0
REPEATS = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[100_000, 1_000_000], metavar="N", help="transitions in D"
    )
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256, 256], metavar="N", help="widths of layers")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to F")
    options = parser.parse_args(argv)
    algorithm = nbsp_config(options.hidden, prior_rows=1000).replay(capacity=max(options.rows) + PERIOD).build_algo()
    while algorithm.visit.number == 1:
        algorithm.train()
    step_s = _step_seconds(algorithm)
    results = [_measure(algorithm, rows, step_s) for rows in sorted(options.rows)]
    algorithm.stop()
    say(f"{len(options.hidden)} layers of {options.hidden[0]}; a step with its update takes {1e3 * step_s:.2f} ms")
    say("rows in D | first, s | MB | again, s | new MB | read and verified, s | share of time")
    for one in results:
        say(
            f"{one['rows']:,} | {one['first_s']:.2f} | {one['first_bytes'] / 1e6:.0f} | {one['again_s']:.2f} | "
            f"{one['again_bytes'] / 1e6:.0f} | {one['read_s']:.2f} | {one['share']:.1%}"
        )
    if options.json:
        figures = {"machine": describe_machine(), "hidden": options.hidden, "step_s": step_s, "results": results}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def _step_seconds(algorithm: NBSP) -> float:
    """Of an environment step with its update, sampling included."""
    algorithm.train()
    seconds = []
    for _ in range(REPEATS):
        steps, start = algorithm.env_steps, time.perf_counter()
        algorithm.train()
        seconds.append((time.perf_counter() - start) / (algorithm.env_steps - steps))
    return statistics.median(seconds)


def _measure(algorithm: NBSP, rows: int, step_s: float) -> dict[str, Any]:
    _fill(algorithm, rows)
    root = Path(tempfile.mkdtemp())
    try:
        writer = BundleWriter(root)

        def write() -> None:
            parts = algorithm.resumption.parts(algorithm.iteration)
            writer.write(len(algorithm.replay), {}, parts, algorithm.replay.series())

        first_s, first_bytes = _timed(write), _bytes(root)
        _fill(algorithm, rows + PERIOD)
        again_s = _timed(write)
        again_bytes = _bytes(root) - first_bytes
        read_s = _timed(lambda: read_bundle(max(root.glob("bundle_*"))))
    finally:
        shutil.rmtree(root)
    return {
        "rows": rows,
        "first_s": first_s,
        "first_bytes": first_bytes,
        "again_s": again_s,
        "again_bytes": again_bytes,
        "read_s": read_s,
        "share": again_s / (again_s + PERIOD * step_s),
    }


def _fill(algorithm: NBSP, rows: int) -> None:
    """D up to so many transitions."""
    rng = np.random.default_rng(rows)
    while (missing := rows - len(algorithm.replay)) > 0:
        count = min(missing, 50_000)
        columns = {
            "obs": rng.normal(size=(count, OBS_SIZE)).astype(np.float32),
            "new_obs": rng.normal(size=(count, OBS_SIZE)).astype(np.float32),
            "actions": rng.uniform(-1, 1, (count, *algorithm.replay.spec.act_shape)).astype(np.float32),
            "rewards": rng.normal(size=count).astype(np.float32),
            "terminateds": np.zeros(count, bool),
            "truncateds": np.zeros(count, bool),
            "success": np.zeros(count, bool),
            "episode": np.zeros(count, np.int64),
        }
        algorithm.replay.add(columns, algorithm.visit.task.index)


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _bytes(root: Path) -> int:
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(main())
