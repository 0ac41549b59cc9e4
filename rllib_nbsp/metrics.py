"""The paper's metrics, as pure functions of an array of success rates.

`success[..., visit, task]` holds the success rate (or normalised return) on each distinct task after each visit;
leading axes, such as seeds, are carried through. `order[visit]` is the column of the task that a visit trained. A cell
is needed from the first visit of its task on; if a needed cell is NaN, so is the metric, and cells of unseen tasks are
ignored.

Eq. 8-10 as printed cannot give the paper's tables (the inner sum of Eq. 8 starts at i, Eq. 9 has the sign turned round,
both ignore the second cycle). Protocols name the readings, in each of which the means are over visits:

- `nbsp-visits` (default; it fits the printed numbers): i runs over all visits, j over the distinct tasks seen so far,
  and the task just trained is left out of forgetting.
- `nbsp-equations`: Eq. 8-10 to the letter, every visit a task of its own. ASR has tasks before their first visit in it
  and is no mean (it may exceed 1), and FM is higher where less is forgotten.
- `positions`: every visit counts as a task of its own, so a revisited task counts twice, the one just trained included.
  Forgetting is measured from the best since that very visit: what its task was at earlier ones does not count.
- `first-cycle`: as `nbsp-visits`, over the first cycle alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rllib_nbsp.registry import Registry

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
Order = Sequence[int] | IntArray


@dataclass(frozen=True)
class Protocol:
    """One reading of the metrics."""

    name: str
    metric_k: Literal["visits", "equations", "positions", "first_cycle"]
    description: str


PROTOCOLS: Registry[Protocol] = Registry(
    "protocol",
    {
        protocol.name: protocol
        for protocol in (
            Protocol("nbsp-visits", "visits", "all visits; distinct tasks seen so far; the current task is not in FM"),
            Protocol("nbsp-equations", "equations", "Eq. 8-10 as printed, every visit a task of its own"),
            Protocol("positions", "positions", "all visits; each is a task of its own, its best that since itself"),
            Protocol("first-cycle", "first_cycle", "as nbsp-visits, over the first cycle alone"),
        )
    },
)


# Orders of visits


def cyclic_order(num_visits: int, num_tasks: int) -> IntArray:
    """tau(i) = (i - 1) mod K, for visits counted from 1; here column numbers from 0, shape (V,)."""
    return np.arange(num_visits) % num_tasks


def cycle_length(order: Order) -> int:
    """Visits of one cycle: the smallest number after which the order repeats; V itself if it never does."""
    order = np.asarray(order)
    return next(p for p in range(1, len(order) + 1) if np.array_equal(order, np.resize(order[:p], len(order))))


def visits_of(order: Order, protocol: str = "nbsp-visits") -> IntArray:
    """The visits that a protocol counts, as columns of their tasks: all, or those of the first cycle."""
    visits = np.asarray(order, dtype=np.intp)
    return visits[: cycle_length(visits)] if PROTOCOLS[protocol].metric_k == "first_cycle" else visits


def needed_cells(order: Order, num_tasks: int, protocol: str = "nbsp-visits") -> NDArray[np.bool_]:
    """Which cells [visit, task] the metrics need: from the first visit of a task on, shape (V, K).

    Eq. 8 and 9 as printed need those before too.
    """
    order = np.asarray(order)
    trained = order[:, None] == np.arange(num_tasks)
    if PROTOCOLS[protocol].metric_k == "equations":
        return np.ones_like(trained)
    return np.logical_or.accumulate(trained, axis=0)


# Terms of one visit, whose means are the metrics


def success_by_visit(success: ArrayLike, order: Order | None = None, *, protocol: str = "nbsp-visits") -> FloatArray:
    """Mean success over the tasks seen so far, after each visit (inner mean of Eq. 8), shape (..., V)."""
    values, visits, columns = _prepare(success, order, protocol)
    if PROTOCOLS[protocol].metric_k == "equations":
        return np.stack([values[..., i, visits[i:]].sum(axis=-1) / (i + 1) for i in range(len(visits))], axis=-1)
    return np.stack([values[..., i, columns(visits[: i + 1])].mean(axis=-1) for i in range(len(visits))], axis=-1)


def forgetting_by_visit(success: ArrayLike, order: Order | None = None, *, protocol: str = "nbsp-visits") -> FloatArray:
    """Mean over earlier tasks of (best success since first learned - success now), after each visit.

    The inner part of Eq. 9 with its sign mended. Negative where a task is better than ever before; NaN at visits
    without an earlier task, such as the first.

    Returns:
        Shape (..., V).
    """
    values, visits, _ = _prepare(success, order, protocol)
    terms = np.full(values.shape[:-1], np.nan)
    if PROTOCOLS[protocol].metric_k == "equations":
        for i in range(1, len(visits)):
            seen = values[..., visits[: i + 1]]
            terms[..., i] = (seen[..., i : i + 1, :] - seen[..., :i, :]).max(axis=-2).sum(axis=-1) / i
        return terms
    for i, earlier in enumerate(_forgettable(visits, protocol)):
        if earlier:
            terms[..., i] = np.mean([_lost(values, start, i, j) for j, start in earlier], axis=0)
    return terms


def learning_by_visit(success: ArrayLike, order: Order | None = None, *, protocol: str = "nbsp-visits") -> FloatArray:
    """Success on the task just trained, after each visit (the terms of Eq. 10), shape (..., V)."""
    values, visits, _ = _prepare(success, order, protocol)
    return values[..., np.arange(len(visits)), visits]


# The metrics


def average_success(success: ArrayLike, order: Order | None = None, *, protocol: str = "nbsp-visits") -> FloatArray:
    """ASR (Eq. 8; AR of Eq. 12 on returns): mean over visits of the mean success on the tasks seen so far.

    Args:
        success: success rates, shape (..., V, K).
        order: column of the task of each visit, shape (V,); None: `cyclic_order`.
        protocol: a name in `PROTOCOLS`.

    Returns:
        One value per seed, shape (...); NaN where a needed cell is missing.

    Raises:
        ValueError: if the shapes do not fit.
        KeyError: if there is no such protocol.
    """
    return success_by_visit(success, order, protocol=protocol).mean(axis=-1)


def forgetting(success: ArrayLike, order: Order | None = None, *, protocol: str = "nbsp-visits") -> FloatArray:
    """FM (Eq. 9): mean over visits of how much earlier tasks lost since their best; arguments of `average_success`.

    Not clipped, so it may be negative. NaN also where nothing can be forgotten: one task, or one visit.
    """
    _, visits, _ = _prepare(success, order, protocol)
    defined = [i for i, earlier in enumerate(_forgettable(visits, protocol)) if earlier]
    return _mean_over(forgetting_by_visit(success, order, protocol=protocol), defined)


def forward_transfer(success: ArrayLike, order: Order | None = None, *, protocol: str = "nbsp-visits") -> FloatArray:
    """FWT (Eq. 10): mean success on the task just trained; arguments of `average_success`.

    The paper's name for what is elsewhere called learning accuracy: it measures plasticity, not transfer.
    """
    return learning_by_visit(success, order, protocol=protocol).mean(axis=-1)


METRICS: dict[str, Callable[..., FloatArray]] = {
    "asr": average_success,
    "fm": forgetting,
    "fwt": forward_transfer,
}
"""The metrics of the paper's tables, in its order."""


# Beyond the paper's three


def per_cycle(success: ArrayLike, order: Order | None = None) -> dict[str, FloatArray]:
    """The three metrics of each cycle: the means of the visits' terms over that cycle's visits.

    Returns:
        For each name in `METRICS` an array of shape (..., C). Forgetting leaves out visits without an earlier task.
    """
    _, visits, _ = _prepare(success, order, "nbsp-visits")
    cycle = cycle_length(visits)
    forgettable = _forgettable(visits, "nbsp-visits")
    terms = {
        "asr": success_by_visit(success, order),
        "fm": forgetting_by_visit(success, order),
        "fwt": learning_by_visit(success, order),
    }
    values: dict[str, list[FloatArray]] = {name: [] for name in terms}
    for start in range(0, len(visits), cycle):
        inside = list(range(start, min(start + cycle, len(visits))))
        for name, term in terms.items():
            counted = [i for i in inside if forgettable[i]] if name == "fm" else inside
            values[name].append(_mean_over(term, counted))
    return {name: np.stack(cycles, axis=-1) for name, cycles in values.items()}


def final_success(success: ArrayLike) -> FloatArray:
    """Mean success over all tasks after the last visit, shape (...)."""
    values, _, _ = _prepare(success, None, "nbsp-visits")
    return values[..., -1, :].mean(axis=-1)


def relearn(success: ArrayLike, order: Order | None = None) -> FloatArray:
    """Success on a task before it is trained again: mean over revisits, shape (...); NaN if there are none."""
    values, visits, _ = _prepare(success, order, "nbsp-visits")
    revisits = [i for i in range(1, len(visits)) if visits[i] in visits[:i]]
    before = values[..., [i - 1 for i in revisits], visits[revisits]]
    return _mean_over(before, list(range(len(revisits))))


def forgetting_by_task(success: ArrayLike, order: Order | None = None) -> FloatArray:
    """How far each task is below its best since first learned: mean over visits to other tasks, shape (..., K).

    NaN for a task that no other was trained after. The mean of a visit's terms is `forgetting_by_visit`.
    """
    values, visits, _ = _prepare(success, order, "nbsp-visits")
    by_task: list[list[FloatArray]] = [[] for _ in range(values.shape[-1])]
    for i, earlier in enumerate(_forgettable(visits, "nbsp-visits")):
        for j, start in earlier:
            by_task[j].append(_lost(values, start, i, j))
    return _means(by_task, values.shape[:-2])


def relearn_by_task(success: ArrayLike, order: Order | None = None) -> FloatArray:
    """Success on each task before it is trained again: mean over its revisits, shape (..., K); NaN without any."""
    values, visits, _ = _prepare(success, order, "nbsp-visits")
    by_task: list[list[FloatArray]] = [[] for _ in range(values.shape[-1])]
    for i in range(1, len(visits)):
        if visits[i] in visits[:i]:
            by_task[visits[i]].append(values[..., i - 1, visits[i]])
    return _means(by_task, values.shape[:-2])


def _prepare(
    success: ArrayLike, order: Order | None, protocol: str
) -> tuple[FloatArray, IntArray, Callable[[IntArray], IntArray]]:
    """Checked values and order, cut to the protocol's visits, and its way to turn seen visits into columns."""
    values = np.asarray(success, dtype=float)
    if values.ndim < 2 or 0 in values.shape[-2:]:
        raise ValueError(f"success must have shape (..., visits, tasks) with at least one of each, got {values.shape}")
    num_visits, num_tasks = values.shape[-2:]
    visits = cyclic_order(num_visits, num_tasks) if order is None else np.asarray(order, dtype=np.intp)
    if visits.shape != (num_visits,):
        raise ValueError(f"order must name the task of each of the {num_visits} visits, got shape {visits.shape}")
    if visits.min() < 0 or visits.max() >= num_tasks:
        raise ValueError(f"order must hold columns in [0, {num_tasks}), got {visits.tolist()}")
    visits = visits_of(visits, protocol)
    positions = PROTOCOLS[protocol].metric_k == "positions"
    return values[..., : len(visits), :], visits, (lambda seen: seen) if positions else np.unique


def _forgettable(visits: IntArray, protocol: str) -> list[list[tuple[int, int]]]:
    """For each visit what may be forgotten by then: columns, and the visit from which on their best counts."""
    kind = PROTOCOLS[protocol].metric_k
    if kind in ("positions", "equations"):
        return [[(int(task), visit) for visit, task in enumerate(visits[:i])] for i in range(len(visits))]
    first = {int(task): int(np.flatnonzero(visits == task)[0]) for task in visits}
    return [[(int(j), first[j]) for j in np.setdiff1d(visits[:i], visits[i])] for i in range(len(visits))]


def _lost(values: FloatArray, start: int, visit: int, task: int) -> FloatArray:
    """How far a task is below its best since the visit `start`."""
    return values[..., start:visit, task].max(axis=-1) - values[..., visit, task]


def _means(by_task: list[list[FloatArray]], shape: tuple[int, ...]) -> FloatArray:
    """Mean of each task's terms; NaN where it has none."""
    return np.stack([np.mean(terms, axis=0) if terms else np.full(shape, np.nan) for terms in by_task], axis=-1)


def _mean_over(terms: FloatArray, visits: list[int]) -> FloatArray:
    """Mean over the given visits; NaN, without a warning, if there are none."""
    return terms[..., visits].mean(axis=-1) if visits else np.full(terms.shape[:-1], np.nan)
