"""The clock, and how well it knows a ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2_000


def repeat_for(seconds: float, call: Callable[[], object]) -> tuple[int, float]:
    """Call again and again until `seconds` are over, at least once; the last call is finished.

    Returns:
        How often, and the seconds that all calls took.
    """
    calls = 0
    start = time.perf_counter()
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return calls, elapsed


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    """Mean ms of a call, repeated for at least `seconds`."""
    calls, elapsed = repeat_for(seconds, call)
    return 1e3 * elapsed / calls


def ratio_interval(over: Sequence[Sequence[float]], under: Sequence[Sequence[float]]) -> list[float]:
    """95 % bootstrap interval of the ratio of two medians, [low, high].

    Args:
        over, under: figures of interleaved windows, one list a build; the k-th window of both was measured side by
            side, so that they are drawn together: first builds, then windows of each, both with replacement.
    """
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(RESAMPLES):
        builds = rng.integers(len(over), size=len(over))
        drawn = [(build, rng.integers(len(over[build]), size=len(over[build]))) for build in builds]
        sides = (
            np.concatenate([np.asarray(side[build])[windows] for build, windows in drawn]) for side in (over, under)
        )
        ratios.append(np.divide(*map(np.median, sides)))
    return [float(bound) for bound in np.quantile(ratios, [0.025, 0.975])]
