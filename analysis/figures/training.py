"""Training episodes' success, as in the paper's Figures 3 and 7 to 10, and in the order in which it happened."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..schema import TaskOrder
from ..text import short_name, steps_text
from .style import DOUBLE, SHARED, ArmStyle, Row, fitted, legend, name_row, row_handles, rows_of_arms, styled
from .visits import curves_by_visit, draw_curves, draw_visits, score_axis, shared_handle, shared_visits


def training_by_cycle(
    ax: Axes,
    training: pd.DataFrame,
    order: TaskOrder,
    task: str,
    styles: Mapping[str, ArmStyle],
    *,
    behind: str | None = None,
    inches: float = DOUBLE / 2,
) -> None:
    """Training on one task, its visits side by side: left of a dashed line one cycle, right of it the next.

    Lines are means over seeds, shades reach from the lowest seed to the highest. Values are `training_value`'s.

    Args:
        ax: where to draw.
        training: `load_training`, the rows of one sequence.
        order: the sequence's tasks and visits.
        task: the task that was trained.
        styles: the arms to draw, in order.
        behind: an arm that stands in grey behind the others.
        inches: the panel's width, so that labels fit.
    """
    column = order.tasks.index(task)
    visits = [visit for visit, trained in enumerate(order.order, 1) if trained == column]
    width = training_width(training)
    own = TaskOrder([task], [0] * len(visits))
    draw_visits(ax, own, width, labels="none", inches=inches)
    _draw_arms(ax, training, styles, {visit: place * width for place, visit in enumerate(visits)}, behind)


def training_over_time(
    ax: Axes,
    training: pd.DataFrame,
    order: TaskOrder,
    styles: Mapping[str, ArmStyle],
    *,
    behind: str | None = None,
    labels: str = "names",
    inches: float = DOUBLE - 0.75,
) -> dict[str, list[Artist]]:
    """Training on each visit's own task, visit after visit; arguments of `training_by_cycle`.

    Returns:
        What was drawn of each arm.
    """
    width = training_width(training)
    draw_visits(ax, order, width, labels=labels, inches=inches)
    places = {visit + 1: visit * width for visit in range(len(order.order))}
    return _draw_arms(ax, training, styles, places, behind)


@styled
def training_figure(
    training: pd.DataFrame, order: TaskOrder, styles: Mapping[str, ArmStyle], *, baseline: str | None = None
) -> Figure:
    """`training_by_cycle`, a panel a task, as the paper shows training; above `OVERLAID` arms a row an arm.

    Args:
        training, order: as there.
        styles: the arms to draw, in order.
        baseline: the arm that stands behind the others where each has a row.
    """
    rows = rows_of_arms(styles, baseline)
    columns = len(order.tasks) if len(rows) > 1 else min(len(order.tasks), 2)
    lines = len(rows) if len(rows) > 1 else -(-len(order.tasks) // columns)
    height = 0.62 * lines if len(rows) > 1 else 1.5 * lines
    fig = Figure(figsize=(DOUBLE, 0.9 + height), layout="constrained")
    axes = fig.subplots(lines, columns, sharey=True, sharex=True, squeeze=False)
    panel = (DOUBLE - (1.2 if len(rows) > 1 else 0.6)) / columns
    if len(rows) == 1:
        for ax in axes.flat[len(order.tasks) :]:
            ax.set_visible(False)
        panels = [(ax, task, rows[0]) for ax, task in zip(axes.flat, order.tasks, strict=False)]
    else:
        panels = [
            (ax, task, row)
            for line, row in zip(axes, rows, strict=True)
            for ax, task in zip(line, order.tasks, strict=True)
        ]
    for ax, task, (arms, behind) in panels:
        training_by_cycle(ax, training, order, task, arms, behind=behind, inches=panel)
    for line, row in zip(axes, rows if len(rows) > 1 else [], strict=False):
        name_row(line[0], row)
    titles = axes[0] if len(rows) > 1 else axes.flat
    for ax, task in zip(titles, order.tasks, strict=False):
        ax.set_title(fitted(short_name(task), panel - 0.3, 7.5, lines=2, bold=True), fontsize=7.5)
    _finish(fig, training, rows, "each visit to the task")
    return fig


@styled
def training_over_time_figure(
    training: pd.DataFrame, order: TaskOrder, styles: Mapping[str, ArmStyle], *, baseline: str | None = None
) -> Figure:
    """`training_over_time`: arms together, or above `OVERLAID` of them a row each; arguments of `training_figure`."""
    rows = rows_of_arms(styles, baseline)
    height = 0.62 * len(rows) if len(rows) > 1 else 1.7
    fig = Figure(figsize=(DOUBLE, 1.1 + height), layout="constrained")
    axes = fig.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)
    for place, (ax, (arms, behind)) in enumerate(zip(axes[:, 0], rows, strict=True)):
        labels = "none" if place else "names"
        training_over_time(ax, training, order, arms, behind=behind, labels=labels, inches=DOUBLE - 1.2)
    for line, row in zip(axes, rows if len(rows) > 1 else [], strict=False):
        name_row(line[0], row)
    _finish(fig, training, rows, "each visit")
    return fig


def training_value(training: pd.DataFrame) -> tuple[str, str]:
    """The column that curves of training show, and its name: the success window, or of games the episodes' return."""
    if training["success_window"].notna().any():
        return "success_window", "success of training episodes"
    return "mean_return", "return of training episodes"


def training_width(training: pd.DataFrame) -> float:
    """Steps of the longest visit of any run."""
    longest = training["visit_env_steps"].max()
    return max(float(longest), 1.0) if np.isfinite(longest) else 1.0


def _draw_arms(
    ax: Axes,
    training: pd.DataFrame,
    styles: Mapping[str, ArmStyle],
    places: Mapping[int, float],
    behind: str | None,
) -> dict[str, list[Artist]]:
    value, _ = training_value(training)
    shared = shared_visits(training)
    drawn: dict[str, list[Artist]] = {}
    for arm, style in styles.items():
        curves = curves_by_visit(training[training["arm"] == arm], "visit_env_steps", value)
        once = any(arm in visit.arms for visit in shared) and arm != behind
        drawn[arm] = draw_curves(ax, curves, places, style, spread="range", behind=arm == behind, skip=once)
    for visit in shared:
        if 1 in places and styles.keys() & set(visit.arms) - {behind}:
            curves = curves_by_visit(training[training["arm"] == visit.source], "visit_env_steps", value)
            draw_curves(ax, curves, {1: places[1]}, ArmStyle(SHARED, "", "-"), spread="range", marks=False)
    score_axis(ax, of_returns=value != "success_window")
    return drawn


def _finish(fig: Figure, training: pd.DataFrame, rows: list[Row], where: str) -> None:
    _, what = training_value(training)
    fig.supylabel(what, fontsize=7.5)
    fig.supxlabel(f"environment steps in {where}, {steps_text(training_width(training))} wide", fontsize=7.5)
    shared = shared_visits(training[training["arm"].isin([arm for arms, _ in rows for arm in arms])])
    legend(fig, [*row_handles(rows), *map(shared_handle, shared)])
