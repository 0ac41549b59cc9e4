"""The metrics of `rllib_nbsp.metrics` by name, steps to a threshold, and what seeds say together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from rllib_nbsp.metrics import (
    METRICS,
    PROTOCOLS,
    FloatArray,
    IntArray,
    Order,
    Protocol,
    average_success,
    cycle_length,
    cyclic_order,
    final_success,
    forgetting,
    forgetting_by_visit,
    forward_transfer,
    learning_by_visit,
    needed_cells,
    per_cycle,
    relearn,
    success_by_visit,
    visits_of,
)

from .errors import UnknownNameError

__all__ = [
    "BOOTSTRAP_FROM",
    "METRICS",
    "PROTOCOLS",
    "FloatArray",
    "IntArray",
    "Interval",
    "Order",
    "Protocol",
    "average_success",
    "cycle_length",
    "cyclic_order",
    "env_steps_to_threshold",
    "final_success",
    "forgetting",
    "forgetting_by_visit",
    "forward_transfer",
    "get_metric",
    "get_protocol",
    "interval",
    "learning_by_visit",
    "needed_cells",
    "per_cycle",
    "relearn",
    "success_by_visit",
    "visits_of",
]

BOOTSTRAP_FROM = 10
"""Seeds from which a percentile bootstrap is used; with fewer it covers far less than it says, and t does not."""


def get_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UnknownNameError: with the close names.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def get_metric(name: str) -> Callable[..., FloatArray]:
    """The metric function of that name.

    Raises:
        UnknownNameError: with the close names.
    """
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    return METRICS[name]


def env_steps_to_threshold(env_steps: ArrayLike, success: ArrayLike, threshold: float = 0.9) -> float:
    """First step count at which success reaches the threshold; NaN if it never does.

    Args:
        env_steps: environment steps since the start of the visit, increasing, shape (n,).
        success: success rates at those steps, shape (n,); NaN where nothing was measured yet.
        threshold: success rate to reach.
    """
    steps, rates = np.asarray(env_steps, dtype=float), np.asarray(success, dtype=float)
    if steps.shape != rates.shape or steps.ndim != 1:
        raise ValueError(f"env_steps and success must be 1-D and equally long, got {steps.shape} and {rates.shape}")
    reached = np.flatnonzero(rates >= threshold)
    return float(steps[reached[0]]) if len(reached) else float("nan")


# Seeds to intervals


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval; `low` and `high` are NaN when there is none."""

    mean: float
    low: float
    high: float
    n: int
    kind: Literal["none", "t", "bootstrap"]

    @property
    def half_width(self) -> float:
        """Half the interval's width; NaN when there is no interval."""
        return (self.high - self.low) / 2.0


def interval(values: ArrayLike, rng: np.random.Generator | None = None, *, level: float = 0.95) -> Interval:
    """Mean over seeds and its interval: none for one seed, Student's t under 10 seeds, percentile bootstrap from 10.

    Args:
        values: one value per seed, shape (n,); NaN entries are left out and not counted.
        rng: draws the bootstrap; None: a generator with seed 0, so that the same values give the same interval.
        level: coverage that is aimed at.
    """
    finite = np.asarray(values, dtype=float).ravel()
    finite = finite[np.isfinite(finite)]
    n = len(finite)
    mean = float(finite.mean()) if n else float("nan")
    if n < 2:
        return Interval(mean, float("nan"), float("nan"), n, "none")
    if n < BOOTSTRAP_FROM:
        half = float(stdtrit(n - 1, 0.5 + level / 2) * finite.std(ddof=1) / np.sqrt(n))
        return Interval(mean, mean - half, mean + half, n, "t")
    rng = np.random.default_rng(0) if rng is None else rng
    means = rng.choice(finite, size=(10_000, n)).mean(axis=1)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(mean, float(low), float(high), n, "bootstrap")
