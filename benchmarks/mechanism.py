"""What it costs to say in training rows how the networks fare: its share of the time that updates take.

    python -m benchmarks.mechanism [--json F] [--windows N] [--seconds S]

NBSP in its second visit, at Meta-World's shapes, one torch thread. An update is timed as a run makes it, four a call,
the drawing of its batch included; a row is `Learner.report` on 256 rows of D, measured or not. Windows are interleaved.
The share is of a row every `evaluation.report_env_steps`, at one update a step; what environments take is left out, so
that a run's share is smaller.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contender import BATCH_SIZE
from benchmarks.methods import MethodAtWork
from benchmarks.ours import SMALL_BATCH_SIZE, SMALL_HIDDEN, SMALL_UPDATES
from benchmarks.throughput import describe_machine, say
from benchmarks.timing import milliseconds, ratio_interval
from rllib_nbsp.algorithm import REFERENCE_ROWS
from rllib_nbsp.settings import EvaluationSettings

SIZES: dict[str, tuple[Sequence[int], int]] = {
    "x".join(map(str, hidden)): (hidden, batch)
    for hidden, batch in ((SMALL_HIDDEN, SMALL_BATCH_SIZE), ([768, 768, 768], BATCH_SIZE))
}
"""Hidden layers and rows of a batch: of the fast studies and of the paper."""
MAX_SHARE = 0.02


def measure(hidden: Sequence[int], batch_size: int, windows: int, seconds: float) -> dict[str, Any]:
    """ms of an update, of a measured row and of another one, and the rows' share of the time of updates.

    Returns:
        Medians `update_ms`, `measured_ms` and `other_ms`; `share` at the default `mechanism_rows`, and `share_of_every`
        if every row is measured, with its `interval`; and the `windows` of all three in ms.
    """
    worker = MethodAtWork("nbsp", {}, hidden, 2_000, training={"batch_size": batch_size})
    learner, rows = worker.learner, worker.replay.newest(REFERENCE_ROWS)
    mechanism = learner.mechanism
    assert mechanism is not None

    def report(*, measured: bool) -> None:
        mechanism.every = 1 if measured else 2**62
        learner.sac.updates += 1  # as if there had been updates since the last row
        learner.report(rows, worker.schedule.visit.task.index)

    calls = {
        "update": lambda: worker.update(count=SMALL_UPDATES),
        "measured": lambda: report(measured=True),
        "other": lambda: report(measured=False),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    report(measured=False)  # a visit's first row is measured
    for _ in range(windows):
        for name, call in calls.items():
            call()
            times[name].append(milliseconds(call, seconds) / (SMALL_UPDATES if name == "update" else 1))
    medians = {name: statistics.median(window) for name, window in times.items()}
    evaluation = EvaluationSettings()
    between = evaluation.report_env_steps
    every = evaluation.mechanism_rows
    each = (medians["measured"] + (every - 1) * medians["other"]) / every
    return {
        **{f"{name}_ms": value for name, value in medians.items()},
        "share": each / (between * medians["update"]),
        "share_of_every": medians["measured"] / (between * medians["update"]),
        "interval": [bound / between for bound in ratio_interval([times["measured"]], [times["update"]])],
        "windows": times,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns 1 if a share is too large."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to F")
    parser.add_argument("--windows", type=int, default=9, metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="of a window")
    options = parser.parse_args(argv)
    results = {name: measure(*size, options.windows, options.seconds) for name, size in SIZES.items()}
    say("hidden layers | update, ms | measured row, ms | other row, ms | share of time | were every row measured")
    for name, one in results.items():
        low, high = one["interval"]
        times = f"{one['update_ms']:.2f} | {one['measured_ms']:.1f} | {one['other_ms']:.1f}"
        say(f"{name} | {times} | {one['share']:.2%} | {one['share_of_every']:.2%} [{low:.2%}, {high:.2%}]")
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "results": results}, indent=1) + "\n")
    return int(any(one["share"] > MAX_SHARE for one in results.values()))


if __name__ == "__main__":
    sys.exit(main())
