"""Whether published numbers can be: what ASR, FM and FWT of one set of runs can be together."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from . import metrics

MOST_VISITS = 12
"""Visits to which a row can be checked: all ways to succeed or fail at a task after each of them are looked at."""


@dataclass(frozen=True)
class RowCheck:
    """What goes with a row's ASR and FWT."""

    possible: bool
    """Whether any runs can have the row's numbers."""
    fm_low: float
    """The least FM that goes with that ASR and FWT, each to the digits it is given in; NaN if these two cannot be."""
    fm_high: float
    """The greatest."""


def check_row(
    asr: float,
    fm: float,
    fwt: float,
    *,
    num_tasks: int,
    cycles: int = 2,
    protocol: str = "nbsp-visits",
    rounding: float = 0.005,
) -> RowCheck:
    """Whether means over runs of success rates in [0, 1] can be these three.

    Exact for means over any number of runs. ASR and FWT are linear in the success rates and FM is convex, so what means
    can be is the convex hull of the triples of runs that succeed or fail at everything; and as each metric is a sum
    over tasks, the hull is a sum of one hull a task. Whether a row lies in it is a linear program.

    Args:
        asr, fm, fwt: the row.
        num_tasks: distinct tasks of a cycle.
        cycles: how often each was visited.
        protocol: the reading; a name in `metrics.PROTOCOLS`.
        rounding: how far each number may be from what was measured.

    Raises:
        UnknownNameError: if there is no such protocol.
        ValueError: if there are more than `MOST_VISITS` visits, or less than one.
    """
    metrics.get_protocol(protocol)
    visits = num_tasks * cycles
    if not 1 <= visits <= MOST_VISITS or min(num_tasks, cycles) < 1:
        raise ValueError(f"num_tasks x cycles is {num_tasks} x {cycles}; allowed: 1 to {MOST_VISITS} visits")
    hulls = [_triples(task, num_tasks, visits, protocol) for task in range(num_tasks)]
    points = np.concatenate(hulls)
    shares = np.zeros((num_tasks, len(points)))
    ends = np.cumsum([0, *map(len, hulls)])
    for task, (start, end) in enumerate(itertools.pairwise(ends)):
        shares[task, start:end] = 1.0
    # ASR and FWT, from both sides.
    sides = np.stack([points[:, 0], -points[:, 0], points[:, 2], -points[:, 2]])
    bounds = np.array([asr + rounding, rounding - asr, fwt + rounding, rounding - fwt]) + 1e-9
    extremes = []
    for sign in (1.0, -1.0):
        found = linprog(sign * points[:, 1], A_ub=sides, b_ub=bounds, A_eq=shares, b_eq=np.ones(num_tasks))
        extremes.append(sign * found.fun if found.success else np.nan)
    low, high = extremes
    return RowCheck(bool(low - rounding - 1e-9 <= fm <= high + rounding + 1e-9), float(low), float(high))


def _triples(task: int, num_tasks: int, visits: int, protocol: str) -> np.ndarray:
    """ASR, FM and FWT of succeeding or failing at one task after each visit, and at no other, shape (P, 3)."""
    success = np.zeros((2**visits, visits, num_tasks))
    success[:, :, task] = list(itertools.product([0.0, 1.0], repeat=visits))
    triples = np.stack([metric(success, protocol=protocol) for metric in metrics.METRICS.values()], axis=-1)
    return np.unique(np.round(triples, 12), axis=0)
