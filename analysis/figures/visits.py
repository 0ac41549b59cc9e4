"""Curves over visits: where visits lie, means over seeds, and the first visit that arms share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .. import metrics
from ..schema import TaskOrder
from ..text import short_name, steps_text
from .style import SHARED, TRAINED, ArmStyle, fitted

Curve = metrics.FloatArray
"""Steps inside a visit and values, shape (2, n)."""

GAP = np.full((2, 1), np.nan)
"""Between two parts of a line."""


class SharedVisit(NamedTuple):
    """A first visit that one arm's runs made for other arms too."""

    source: str
    arms: list[str]

    @property
    def label(self) -> str:
        """What a legend says of it."""
        return f"visit 1, made once: {', '.join(self.arms)}"


def shared_visits(rows: pd.DataFrame) -> list[SharedVisit]:
    """Which arms share their first visit, by the column `shared_from`: those whose every run took it from one arm."""
    if "shared_from" not in rows:
        return []
    first = rows[rows["visit"] == 1]
    takers: dict[str, list[str]] = {}
    for arm, own in first.groupby("arm", sort=False):
        sources = own["shared_from"].unique()
        if len(sources) == 1 and isinstance(sources[0], str) and sources[0] in set(first["arm"]):
            takers.setdefault(sources[0], []).append(str(arm))
    return [SharedVisit(source, [source, *arms]) for source, arms in takers.items()]


def shared_handle(visit: SharedVisit) -> Line2D:
    """Its line of a legend."""
    return Line2D([], [], color=SHARED, linewidth=1.6, label=visit.label)


def curves_by_visit(rows: pd.DataFrame, steps: str, value: str) -> dict[int, dict[int, Curve]]:
    """For each visit the curve of each seed, where there is a value.

    Args:
        rows: of one arm, with columns visit, seed and the two named.
        steps: column of the steps inside the visit.
        value: column of what is drawn.
    """
    kept = rows.dropna(subset=[value, steps])
    points = kept[[steps, value]].to_numpy(dtype=float)
    found: dict[int, dict[int, Curve]] = {}
    for (visit, seed), places in sorted(kept.groupby(["visit", "seed"]).indices.items()):
        found.setdefault(int(visit), {})[int(seed)] = points[places].T
    return found


def draw_curves(
    ax: Axes,
    curves: Mapping[int, Mapping[int, Curve]],
    places: Mapping[int, float],
    style: ArmStyle,
    *,
    spread: str = "seeds",
    joined: bool = False,
    skip: bool = False,
    behind: bool = False,
    marks: bool = True,
) -> list[Artist]:
    """One arm: the mean over seeds thick, and either its seeds thin or their range shaded.

    Args:
        ax: where to draw.
        curves: `curves_by_visit`.
        places: where each visit begins on the axis; visits without a place are not drawn.
        style: the arm's.
        spread: "seeds", "range" (lowest to highest seed) or "none".
        joined: whether a visit begins where the one before ended, as in success on a task that goes on being measured.
        skip: leave out the first visit, which another arm's line shows; it still says where the second begins.
        behind: draw the mean alone, as a thin line below all others.
        marks: a mark at the end of each visit.

    Returns:
        What was drawn.
    """
    last: dict[int, float] = {}
    thin, thick, ends = [GAP], [GAP], [GAP]
    drawn: list[Artist] = []
    for visit in sorted(curves.keys() & places.keys()):
        offset = np.array([[places[visit]], [0.0]])
        own = []
        for seed, curve in curves[visit].items():
            if joined and seed in last and curve[0, 0] > 0:
                curve = np.insert(curve, 0, [0.0, last[seed]], axis=1)
            own.append(curve)
            last[seed] = curve[1, -1]
        if skip and visit == 1:
            continue
        steps, values = on_one_grid(own)
        mean = np.stack([steps, values.mean(axis=0)])
        thick += [mean + offset, GAP]
        ends.append(mean[:, -1:] + offset)
        if len(own) > 1 and spread == "seeds":
            thin += [part for curve in own for part in (curve + offset, GAP)]
        if len(own) > 1 and spread == "range" and not behind:
            low, high = values.min(axis=0), values.max(axis=0)
            drawn.append(ax.fill_between(steps + places[visit], low, high, color=style.color, alpha=0.18, linewidth=0))
    if behind:
        return [*ax.plot(*np.hstack(thick), color=style.color, linewidth=1.0, alpha=0.8, zorder=1.5)]
    if len(thin) > 1:
        drawn += ax.plot(*np.hstack(thin), color=style.color, linewidth=0.5, alpha=0.4)
    drawn += ax.plot(*np.hstack(thick), color=style.color, linestyle=style.dash, linewidth=1.5)
    if marks:
        drawn += ax.plot(
            *np.hstack(ends),
            marker=style.marker,
            linestyle="none",
            color=style.color,
            markersize=5,
            markeredgecolor="white",
            clip_on=False,
            zorder=3,
        )
    return drawn


def draw_arms(
    ax: Axes,
    curves: Mapping[str, Mapping[int, Mapping[int, Curve]]],
    shared: Sequence[SharedVisit],
    styles: Mapping[str, ArmStyle],
    places: Mapping[int, float],
    behind: str | None,
    *,
    marks: bool = True,
) -> dict[str, list[Artist]]:
    """Means of arms with the range of their seeds, visit after visit; a first visit that arms share once, in black.

    Args:
        ax: where to draw.
        curves: `curves_by_visit` of each arm.
        shared: `shared_visits`.
        styles: the arms to draw, in order.
        places: where each visit begins on the axis.
        behind: an arm that stands in grey behind the others.
        marks: a mark at the end of each visit.

    Returns:
        What was drawn of each arm.
    """
    drawn: dict[str, list[Artist]] = {}
    for arm, style in styles.items():
        once = any(arm in visit.arms for visit in shared) and arm != behind
        drawn[arm] = draw_curves(
            ax, curves.get(arm, {}), places, style, spread="range", behind=arm == behind, skip=once, marks=marks
        )
    for visit in shared:
        if 1 in places and styles.keys() & set(visit.arms) - {behind}:
            own = curves.get(visit.source, {})
            draw_curves(ax, own, {1: places[1]}, ArmStyle(SHARED, "", "-"), spread="range", marks=False)
    return drawn


def on_one_grid(curves: Sequence[Curve]) -> tuple[metrics.FloatArray, metrics.FloatArray]:
    """Curves at the same steps, from where all have begun; one that has ended keeps its last value.

    Returns:
        Steps, shape (T,), and values, shape (curves, T).
    """
    steps = np.unique(np.concatenate([curve[0] for curve in curves]))
    steps = steps[steps >= max(curve[0, 0] for curve in curves)]
    return steps, np.stack([np.interp(steps, *curve) for curve in curves])


def draw_visits(
    ax: Axes,
    order: TaskOrder,
    width: float,
    *,
    trained: int | None = None,
    labels: str = "names",
    inches: float = 6.0,
    ticks: bool = True,
) -> None:
    """Where visits begin, which of them trained a task, and what they are called.

    Args:
        ax: where to draw.
        order: the sequence's tasks and visits.
        width: of a visit, in steps.
        trained: column of the task whose visits are shaded.
        labels: "names" of tasks above the panel, "numbers" or "none".
        inches: how wide the panel is, so that labels fit.
        ticks: whether each visit has step counts below it.
    """
    visits = len(order.order)
    column = inches / visits
    for visit, task in enumerate(order.order):
        if task == trained:
            ax.axvspan(visit * width, (visit + 1) * width, color=TRAINED, zorder=0, linewidth=0)
        if visit:
            ax.axvline(visit * width, color="#888888", linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        if labels != "none":
            ax.annotate(
                _visit_label(visit, short_name(order.tasks[task]), labels, column),
                xy=((visit + 0.5) * width, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=6.5,
            )
    ax.set_xlim(0, visits * width)
    ax.grid(axis="x", visible=False)
    steps = _ticks(width, column) if ticks else []
    places = [visit * width + step for visit in range(visits) for step in steps]
    ax.set_xticks(places, [steps_text(step).replace(".0k", "k") for step in steps] * visits, fontsize=6.5)


def _visit_label(visit: int, name: str, labels: str, column: float) -> str:
    if labels == "numbers":
        return f"{visit + 1}"
    return f"visit {visit + 1}\n{fitted(name, column - 0.06, 6.5, lines=2)}" if column > 0.45 else f"{visit + 1}"


def _ticks(width: float, column: float) -> list[float]:
    """Round step counts inside one visit that leave room for their labels."""
    if column < 0.9:
        return [0.0] if column > 0.3 else []
    steps = MaxNLocator(nbins=3 if column < 2 else 5, steps=[1, 2, 2.5, 5, 10]).tick_values(0, width)
    return [float(step) for step in steps if 0 <= step < 0.9 * width]


def score_axis(ax: Axes, of_returns: bool) -> None:
    """Success rates have the same axis everywhere."""
    if not of_returns:
        ax.set_ylim(-0.05, 1.05)
        ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
