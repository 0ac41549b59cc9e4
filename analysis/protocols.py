"""What other papers measure, as pure functions of one array of success rates.

`success[..., visit, task]` and `order[visit]` are those of `rllib_nbsp.metrics`. These measures know no cycles. They
take every visit for a task of its own, as Continual World itself does where its ten tasks come twice (CW20); CORA's are
of the first cycle, as in its code. Those of continual evaluation (De Lange et al., Caccia et al.) are of all
evaluations, those during visits too, and so see what comes and goes between two visits' ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .metrics import FloatArray, Order, cycle_length, cyclic_order


@dataclass(frozen=True)
class Measure:
    """One number of another paper."""

    protocol: str
    heading: str
    better: Literal["higher", "lower"]
    limits: tuple[float, float]
    """The least and the greatest that it can be of success rates."""
    meaning: str
    source: str


MEASURES: Mapping[str, Measure] = {
    "chaudhry_a": Measure(
        "chaudhry",
        "Chaudhry A ↑",
        "higher",
        (0.0, 1.0),
        "average accuracy: mean success on all visits' tasks after the last visit",
        "Chaudhry et al. 2018, arXiv:1801.10112",
    ),
    "chaudhry_f": Measure(
        "chaudhry",
        "Chaudhry F ↓",
        "lower",
        (-1.0, 1.0),
        "forgetting: how far all but the last visit's task are below their best after the last visit",
        "Chaudhry et al. 2018, arXiv:1801.10112",
    ),
    "continual_world_p": Measure(
        "continual-world",
        "CW P ↑",
        "higher",
        (0.0, 1.0),
        "average performance: mean success on all visits' tasks after the last visit",
        "Wolczyk et al. 2021, arXiv:2105.10919",
    ),
    "continual_world_f": Measure(
        "continual-world",
        "CW F ↓",
        "lower",
        (-1.0, 1.0),
        "forgetting: success at the end of each visit less that after the last",
        "Wolczyk et al. 2021, arXiv:2105.10919",
    ),
    "continual_world_ft": Measure(
        "continual-world",
        "CW FT ↑",
        "higher",
        (-np.inf, 1.0),
        "forward transfer: area under each visit's curve against that of training its task from scratch",
        "Wolczyk et al. 2021, arXiv:2105.10919",
    ),
    "cora_f": Measure(
        "cora",
        "CORA F ↓",
        "lower",
        (-1.0, 1.0),
        "isolated forgetting: what each later visit of the first cycle takes from a task, over the task's greatest",
        "Powers et al. 2022, arXiv:2110.10067",
    ),
    "cora_z": Measure(
        "cora",
        "CORA Z ↑",
        "higher",
        (-1.0, 1.0),
        "zero-shot transfer: what each visit adds to a task not trained yet, over the task's greatest",
        "Powers et al. 2022, arXiv:2110.10067",
    ),
    "bwt": Measure(
        "gem",
        "BWT ↑",
        "higher",
        (-1.0, 1.0),
        "backward transfer: success after the last visit less that at the end of each earlier one",
        "Lopez-Paz and Ranzato 2017, arXiv:1706.08840",
    ),
    "min_acc": Measure(
        "continual-evaluation",
        "min-ACC ↑",
        "higher",
        (0.0, 1.0),
        "average minimum accuracy: the least success on each earlier visit's task in any evaluation since",
        "De Lange et al. 2023, arXiv:2205.13452",
    ),
    "aaa": Measure(
        "continual-evaluation",
        "AAA ↑",
        "higher",
        (0.0, 1.0),
        "average anytime accuracy: mean over all evaluations of success on the tasks of all visits so far",
        "Caccia et al. 2022, arXiv:2104.05025",
    ),
}
"""The measures by the names of their columns."""


def average_performance(success: ArrayLike, order: Order | None = None) -> FloatArray:
    """Chaudhry's A_k and Continual World's P: mean success on every visit's task after the last visit.

    Args:
        success: success rates, shape (..., V, K).
        order: column of the task of each visit, shape (V,); None: `metrics.cyclic_order`.

    Returns:
        Shape (...); NaN where a needed cell is.
    """
    values, visits = _prepare(success, order)
    return values[..., -1, visits].mean(axis=-1)


def chaudhry_forgetting(success: ArrayLike, order: Order | None = None) -> FloatArray:
    """F_k: mean over all visits j but the last, k, of max_(l < k) a_(l, j) - a_(k, j); arguments of the above.

    Cells from before a task's first visit do not count and may be NaN. Intransigence needs a model that is trained on
    all tasks together, which no such array has. NaN with one visit.
    """
    values, visits = _prepare(success, order)
    first = [int(np.flatnonzero(visits == task)[0]) for task in visits[:-1]]
    lost = [
        values[..., start:-1, task].max(axis=-1) - values[..., -1, task]
        for start, task in zip(first, visits[:-1], strict=True)
    ]
    return np.mean(lost, axis=0) if lost else np.full(values.shape[:-2], np.nan)


def continual_world_forgetting(success: ArrayLike, order: Order | None = None) -> FloatArray:
    """F: mean over all visits of success at its end less that after the last visit, whose own term is 0."""
    values, visits = _prepare(success, order)
    return (_ends(values, visits) - values[..., -1, visits]).mean(axis=-1)


def continual_world_transfer(areas: ArrayLike, reference: ArrayLike) -> FloatArray:
    """FT: mean over visits of (AUC - AUC_b) / (1 - AUC_b).

    Args:
        areas: mean success during each visit on its own task, shape (..., V).
        reference: the same of training each visit's task alone, from scratch, mean over its runs, shape (V,).

    Returns:
        Shape (...); NaN where an area is, or a reference is 1 and leaves nothing to gain.
    """
    ours, alone = np.asarray(areas, dtype=float), np.asarray(reference, dtype=float)
    room = np.where(alone < 1.0, 1.0 - alone, np.nan)
    return ((ours - alone) / room).mean(axis=-1)


def area_under_curve(env_steps: ArrayLike, success: ArrayLike, length: float) -> float:
    """Mean success over a visit: each evaluation stands for the steps since the one before, the last one to `length`.

    On an even grid it is the mean of the evaluations, as in Continual World's code. A visit that ended early goes on at
    its last value, as what was mastered is taken to stay so.

    Args:
        env_steps: environment steps since the start of the visit, increasing, shape (n,).
        success: success rates at those steps, shape (n,).
        length: environment steps of the longest visit that is compared.

    Raises:
        ValueError: if there are no evaluations, or one is after `length`.
    """
    steps, rates = np.asarray(env_steps, dtype=float), np.asarray(success, dtype=float)
    if not len(steps) or steps[-1] > length:
        raise ValueError(f"a visit must have evaluations, none after {length:g} env steps; got {steps.tolist()}")
    widths = np.diff(np.append(np.concatenate([[0.0], steps[:-1]]), length))
    return float((rates * widths).sum() / length)


def cora_forgetting(success: ArrayLike, order: Order | None = None, *, greatest: ArrayLike | None = None) -> FloatArray:
    """F: mean over tasks i and later visits j of (r_(i, j-1) - r_(i, j)) / |r_(i, max)|, over the first cycle.

    Args:
        success, order: as above.
        greatest: the greatest absolute value of each task, shape (K,); None: that in `success`, all runs together.

    Returns:
        Shape (...); NaN where a cell that is needed is, where a task was at 0 throughout, and with one task.
    """
    values, visits = _prepare(success, order)
    cycle, first = _first_cycle(visits)
    scale = _greatest(values, greatest)
    terms = [
        (values[..., j - 1, i] - values[..., j, i]) / scale[i]
        for i, start in first.items()
        for j in range(start + 1, cycle)
        if visits[j] != i
    ]
    return np.mean(terms, axis=0) if terms else np.full(values.shape[:-2], np.nan)


def cora_transfer(
    success: ArrayLike,
    order: Order | None = None,
    *,
    initial: ArrayLike | None = None,
    greatest: ArrayLike | None = None,
) -> FloatArray:
    """Z: mean over tasks i and visits j before i's first one of (r_(i, j) - r_(i, j-1)) / |r_(i, max)|.

    Args:
        success, order, greatest: as above; here cells of tasks that were not trained yet are needed.
        initial: success before the first visit, shape (..., K); None: what the first visit adds is left out.

    Returns:
        Shape (...); NaN as above, and where no term is left.
    """
    values, visits = _prepare(success, order)
    _, first = _first_cycle(visits)
    scale = _greatest(values, greatest)
    start = np.full(values[..., 0, :].shape, np.nan) if initial is None else np.asarray(initial, dtype=float)
    terms = [
        (values[..., j, i] - (values[..., j - 1, i] if j else start[..., i])) / scale[i]
        for i, own in first.items()
        for j in range(0 if initial is not None else 1, own)
    ]
    return np.mean(terms, axis=0) if terms else np.full(values.shape[:-2], np.nan)


def backward_transfer(success: ArrayLike, order: Order | None = None) -> FloatArray:
    """BWT: mean over all visits but the last of success on its task after the last visit less that at its own end."""
    values, visits = _prepare(success, order)
    gained = (values[..., -1, visits] - _ends(values, visits))[..., :-1]
    return gained.mean(axis=-1) if gained.shape[-1] else np.full(values.shape[:-2], np.nan)


def minimum_accuracy(success: ArrayLike, visit: ArrayLike, order: Order) -> FloatArray:
    """min-ACC: mean over all visits but the last of the least success on its task in the evaluations after its end.

    Args:
        success: success rates at every evaluation, in the order of training, shape (..., E, K).
        visit: the visit in which, or at whose end, each evaluation was, from 0, shape (E,).
        order: column of the task of each visit, shape (V,).

    Returns:
        Shape (...); NaN where a needed cell is, where no evaluation is after a visit, and with one visit.
    """
    values, during, visits = _evaluations(success, visit, order)
    least = [values[..., during > place, task] for place, task in enumerate(visits[:-1])]
    if not least or not all(after.shape[-1] for after in least):
        return np.full(values.shape[:-2], np.nan)
    return np.mean([after.min(axis=-1) for after in least], axis=0)


def anytime_accuracy(success: ArrayLike, visit: ArrayLike, order: Order) -> FloatArray:
    """AAA: mean over all evaluations of the mean success on the tasks of the visits so far; arguments of the above."""
    values, during, visits = _evaluations(success, visit, order)
    seen = [values[..., row, visits[: place + 1]].mean(axis=-1) for row, place in enumerate(during)]
    return np.mean(seen, axis=0)


def _evaluations(success: ArrayLike, visit: ArrayLike, order: Order) -> tuple[FloatArray, np.ndarray, np.ndarray]:
    values, during, visits = np.asarray(success, float), np.asarray(visit, np.intp), np.asarray(order, np.intp)
    if values.ndim < 2 or not len(during) or during.shape != values.shape[-2:-1]:
        raise ValueError(f"each of the evaluations must have its visit: got shapes {values.shape} and {during.shape}")
    if during.min() < 0 or during.max() >= len(visits):
        raise ValueError(f"an evaluation must be in one of {len(visits)} visits, got {during.tolist()}")
    return values, during, visits


def _prepare(success: ArrayLike, order: Order | None) -> tuple[FloatArray, np.ndarray]:
    values = np.asarray(success, dtype=float)
    if values.ndim < 2 or 0 in values.shape[-2:]:
        raise ValueError(f"success must have shape (..., visits, tasks) with at least one of each, got {values.shape}")
    visits = cyclic_order(*values.shape[-2:]) if order is None else np.asarray(order, dtype=np.intp)
    if visits.shape != values.shape[-2:-1] or visits.min() < 0 or visits.max() >= values.shape[-1]:
        raise ValueError(f"order must name a column for each of {values.shape[-2]} visits, got {visits.tolist()}")
    return values, visits


def _ends(values: FloatArray, visits: np.ndarray) -> FloatArray:
    """Success on each visit's task at its end, shape (..., V)."""
    return values[..., np.arange(len(visits)), visits]


def _first_cycle(visits: np.ndarray) -> tuple[int, dict[int, int]]:
    """Visits of the first cycle, and the first one of each task."""
    cycle = cycle_length(visits)
    return cycle, {int(task): int(np.flatnonzero(visits == task)[0]) for task in dict.fromkeys(visits[:cycle])}


def _greatest(values: FloatArray, greatest: ArrayLike | None) -> FloatArray:
    if greatest is None:
        seen = np.where(np.isfinite(values), np.abs(values), 0.0)
        greatest = seen.reshape(-1, values.shape[-1]).max(axis=0)
    scale = np.asarray(greatest, dtype=float)
    return np.where(scale > 0, scale, np.nan)
