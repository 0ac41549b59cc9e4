"""The metrics of `rllib_nbsp.metrics` by name, their limits, and steps to a threshold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

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
    forgetting_by_task,
    forgetting_by_visit,
    forward_transfer,
    learning_by_visit,
    needed_cells,
    per_cycle,
    relearn,
    relearn_by_task,
    success_by_visit,
    visits_of,
)

from .errors import UnknownNameError

__all__ = [
    "LIMITS",
    "METRICS",
    "PROTOCOLS",
    "FloatArray",
    "IntArray",
    "Order",
    "Protocol",
    "average_success",
    "cycle_length",
    "cyclic_order",
    "difference_limits",
    "env_steps_to_threshold",
    "final_success",
    "forgetting",
    "forgetting_by_task",
    "forgetting_by_visit",
    "forward_transfer",
    "get_metric",
    "get_protocol",
    "learning_by_visit",
    "limits_of",
    "needed_cells",
    "per_cycle",
    "relearn",
    "relearn_by_task",
    "success_by_visit",
    "visits_of",
]

LIMITS = {"asr": (0.0, 1.0), "fm": (-1.0, 1.0), "fwt": (0.0, 1.0), "final_success": (0.0, 1.0), "relearn": (0.0, 1.0)}
"""The least and the greatest that each metric of success rates can be; normalised returns have no limits."""


def limits_of(name: str, of_returns: bool, protocol: str = "nbsp-visits") -> tuple[float, float]:
    """The limits of a metric; none of returns, nor of what Eq. 8 and 9 as printed make, which are no means."""
    unlimited = of_returns or (PROTOCOLS[protocol].metric_k == "equations" and name in ("asr", "fm"))
    return (-np.inf, np.inf) if unlimited else LIMITS[name]


def difference_limits(name: str, of_returns: bool, protocol: str = "nbsp-visits") -> tuple[float, float]:
    """The limits of a difference between two values of a metric."""
    low, high = limits_of(name, of_returns, protocol)
    return low - high, high - low


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
