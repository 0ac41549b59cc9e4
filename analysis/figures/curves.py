"""Success at each task over training: how it rises in the task's own visits, and what is kept of it in the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..schema import TaskOrder
from ..text import short_name, steps_text
from .style import (
    DOUBLE,
    SHARED,
    ArmStyle,
    Row,
    fitted,
    label_below,
    legend,
    name_row,
    row_handles,
    rows_of_arms,
    styled,
)
from .visits import (
    Curve,
    SharedVisit,
    curves_by_visit,
    draw_curves,
    draw_visits,
    score_axis,
    shared_handle,
    shared_visits,
)

LEFT = 0.75
"""Inches that the labels left of a panel take."""


def success_over_visits(
    ax: Axes,
    evaluations: pd.DataFrame,
    order: TaskOrder,
    task: str,
    styles: Mapping[str, ArmStyle],
    *,
    behind: str | None = None,
    labels: str = "names",
    inches: float = DOUBLE - LEFT,
    of_returns: bool = False,
) -> dict[str, list[Artist]]:
    """Success on one task over training: thick lines are means over seeds, thin ones are seeds.

    Visits lie side by side, each as wide as the longest visit of any run, so that boundaries line up although visits
    end early at mastery. A seed that ended a visit early counts with its last value until the arm's last seed ends. A
    first visit that arms share is drawn once, in black.

    Args:
        ax: where to draw.
        evaluations: `load_evaluations`, the rows of one sequence.
        order: the sequence's tasks and visits.
        task: the task that was evaluated.
        styles: the arms to draw, in order.
        behind: an arm that stands in grey behind the others, thin and without seeds.
        labels: of the visits above the panel: "names", "numbers" or "none".
        inches: the panel's width, so that labels fit.
        of_returns: whether scores are normalised returns.

    Returns:
        What was drawn of each arm.
    """
    measured = _Measured.of(evaluations)
    return _draw_panel(ax, measured, order, task, styles, behind, labels, inches, of_returns)


@dataclass(frozen=True)
class _Measured:
    """What panels of one figure are drawn from."""

    curves: Mapping[tuple[str, str], Mapping[int, Mapping[int, Curve]]]
    """By arm and task."""
    shared: list[SharedVisit]
    width: float

    @classmethod
    def of(cls, evaluations: pd.DataFrame) -> _Measured:
        rows = inside_visits(evaluations)
        groups = rows.groupby(["arm", "eval_task"])
        curves = {(str(arm), str(task)): curves_by_visit(own, "inside", "score") for (arm, task), own in groups}
        return cls(curves, shared_visits(evaluations), visit_width(rows))


def _draw_panel(
    ax: Axes,
    measured: _Measured,
    order: TaskOrder,
    task: str,
    styles: Mapping[str, ArmStyle],
    behind: str | None,
    labels: str,
    inches: float,
    of_returns: bool,
) -> dict[str, list[Artist]]:
    width = measured.width
    draw_visits(ax, order, width, trained=order.tasks.index(task), labels=labels, inches=inches)
    places = {visit + 1: visit * width for visit in range(len(order.order))}
    drawn: dict[str, list[Artist]] = {}
    for arm, style in styles.items():
        curves = measured.curves.get((arm, task), {})
        once = any(arm in visit.arms for visit in measured.shared) and arm != behind
        drawn[arm] = draw_curves(ax, curves, places, style, joined=True, behind=arm == behind, skip=once)
    for visit in measured.shared:
        if styles.keys() & set(visit.arms) - {behind}:
            curves = measured.curves.get((visit.source, task), {})
            draw_curves(ax, curves, {1: 0.0}, ArmStyle(SHARED, "", "-"), marks=False)
    score_axis(ax, of_returns)
    return drawn


@styled
def success_figure(
    evaluations: pd.DataFrame,
    order: TaskOrder,
    styles: Mapping[str, ArmStyle],
    *,
    baseline: str | None = None,
    together: bool = False,
    of_returns: bool = False,
    width: float = DOUBLE,
) -> Figure:
    """`success_over_visits` of every task: arms together, or above `OVERLAID` of them a row each, the baseline behind.

    Args:
        evaluations, order, of_returns: as there.
        styles: the arms to draw, in order.
        baseline: the arm that stands behind the others where each has a row.
        together: draw all arms in one panel however many they are; for a page on which they can be turned off.
        width: in inches.

    Returns:
        What was drawn of the n-th arm is named `group_of(n)` and a number in an SVG, where arms share panels.
    """
    tasks = order.tasks
    what = "return" if of_returns else "success"
    measured = _Measured.of(evaluations[evaluations["arm"].isin(list(styles))])
    rows: list[Row] = [(dict(styles), None)] if together else rows_of_arms(styles, baseline)
    if len(rows) == 1:
        fig = Figure(figsize=(width, 0.9 + 0.1 * len(styles) + 1.15 * len(tasks)), layout="constrained")
        axes = fig.subplots(len(tasks), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for place, (ax, task) in enumerate(zip(axes, tasks, strict=True)):
            labels = "none" if place else "names"
            drawn = _draw_panel(ax, measured, order, task, styles, None, labels, width - LEFT, of_returns)
            for number, artists in enumerate(drawn.values()):
                for part, artist in enumerate(artists):
                    artist.set_gid(f"{group_of(number)}{place}-{part}")
            ax.set_ylabel(f"{what} on\n{fitted(short_name(task), 0.8, 7.5, lines=2)}", fontsize=7.5)
    else:
        fig = Figure(figsize=(width, 0.9 + 0.62 * len(styles) + 0.3), layout="constrained")
        axes = fig.subplots(len(styles), len(tasks), sharex=True, sharey=True, squeeze=False)
        panel = (width - 1.2) / len(tasks)
        for number, (line, row) in enumerate(zip(axes, rows, strict=True)):
            for ax, task in zip(line, tasks, strict=True):
                over = "none" if number else "numbers"
                _draw_panel(ax, measured, order, task, row[0], row[1], over, panel, of_returns)
            name_row(line[0], row)
        for ax, task in zip(axes[0], tasks, strict=True):
            ax.set_title(fitted(short_name(task), panel - 0.3, 7.5, lines=2, bold=True), fontsize=7, pad=13)
        fig.supylabel(f"{what} on each task", fontsize=7.5)
    visit = f"each of {len(order.order)} visits, {steps_text(measured.width)} wide"
    label_below(fig, f"training environment steps in {visit}")
    legend(fig, [*row_handles(rows), *map(shared_handle, measured.shared)])
    return fig


def group_of(number: int) -> str:
    """How the names of all that was drawn of an arm begin."""
    return f"arm{number}-"


def inside_visits(evaluations: pd.DataFrame) -> pd.DataFrame:
    """The rows with a value, in order, and a column `inside`: env steps since their visit began."""
    ends = evaluations[evaluations["phase"] == "boundary"].groupby(["arm", "seed", "visit"])["env_steps"].max()
    runs = evaluations[["arm", "seed", "visit"]].drop_duplicates()
    starts = ends.reindex(pd.MultiIndex.from_frame(runs.assign(visit=runs["visit"] - 1))).to_numpy()
    # The first visit starts at 0; one that follows an unknown boundary cannot be placed.
    runs = runs.assign(start=np.where(runs["visit"] == 1, 0.0, starts)).dropna(subset=["start"])
    rows = evaluations.merge(runs, on=["arm", "seed", "visit"]).dropna(subset=["score"])
    rows = rows.assign(inside=rows["env_steps"] - rows["start"])
    # Where a periodic and a boundary row stand at the same step the boundary row counts: it has more episodes.
    rows = rows.sort_values(["inside", "phase"], ascending=[True, False], kind="stable")
    return rows.drop_duplicates(["arm", "seed", "visit", "eval_task", "inside"], keep="last", ignore_index=True)


def visit_width(rows: pd.DataFrame) -> float:
    """Steps of the longest visit of any run, of `inside_visits`."""
    return max(float(rows["inside"].max()), 1.0) if len(rows) else 1.0
