"""Training episodes' success, as in the paper's Figures 3 and 7 to 10, and in the order in which it happened."""

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
    ArmStyle,
    Row,
    fitted,
    label_below,
    legend,
    name_row,
    narrow,
    row_handles,
    rows_of_arms,
    styled,
)
from .visits import (
    Curve,
    SharedVisit,
    curves_by_visit,
    draw_arms,
    draw_visits,
    score_axis,
    shared_handle,
    shared_visits,
)


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

    Lines are means over seeds, shades reach from the lowest seed to the highest. Values are the success window, or
    of games the episodes' return.

    Args:
        ax: where to draw.
        training: `load_training`, the rows of one sequence.
        order: the sequence's tasks and visits.
        task: the task that was trained.
        styles: the arms to draw, in order.
        behind: an arm that stands in grey behind the others.
        inches: the panel's width, so that labels fit.
    """
    _draw_cycles(ax, _Trained.of(training), order, task, styles, behind, inches)


def _draw_cycles(
    ax: Axes,
    trained: _Trained,
    order: TaskOrder,
    task: str,
    styles: Mapping[str, ArmStyle],
    behind: str | None,
    inches: float,
) -> None:
    column = order.tasks.index(task)
    visits = [visit for visit, own in enumerate(order.order, 1) if own == column]
    width = trained.width
    draw_visits(ax, TaskOrder([task], [0] * len(visits)), width, labels="none", inches=inches)
    _draw_arms(ax, trained, styles, {visit: place * width for place, visit in enumerate(visits)}, behind)


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
    return _draw_order(ax, _Trained.of(training), order, styles, behind, labels, inches)


def _draw_order(
    ax: Axes,
    trained: _Trained,
    order: TaskOrder,
    styles: Mapping[str, ArmStyle],
    behind: str | None,
    labels: str,
    inches: float,
) -> dict[str, list[Artist]]:
    draw_visits(ax, order, trained.width, labels=labels, inches=inches)
    places = {visit + 1: visit * trained.width for visit in range(len(order.order))}
    return _draw_arms(ax, trained, styles, places, behind)


@styled
def training_figure(
    training: pd.DataFrame,
    order: TaskOrder,
    styles: Mapping[str, ArmStyle],
    *,
    baseline: str | None = None,
    width: float = DOUBLE,
) -> Figure:
    """`training_by_cycle`, a panel a task, as the paper shows training; above `OVERLAID` arms a row an arm.

    Args:
        training, order: as there.
        styles: the arms to draw, in order.
        baseline: the arm that stands behind the others where each has a row.
        width: in inches.
    """
    rows = rows_of_arms(styles, baseline)
    trained = _Trained.of(training[training["arm"].isin(list(styles))])
    columns = len(order.tasks) if len(rows) > 1 else min(len(order.tasks), 1 if narrow(width) else 2)
    lines = len(rows) if len(rows) > 1 else -(-len(order.tasks) // columns)
    height = 0.62 * lines if len(rows) > 1 else 1.5 * lines
    fig = Figure(figsize=(width, 0.9 + height), layout="constrained")
    axes = fig.subplots(lines, columns, sharey=True, sharex=True, squeeze=False)
    panel = (width - (1.2 if len(rows) > 1 else 0.6)) / columns
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
        _draw_cycles(ax, trained, order, task, arms, behind, panel)
    for line, row in zip(axes, rows if len(rows) > 1 else [], strict=False):
        name_row(line[0], row)
    titles = axes[0] if len(rows) > 1 else axes.flat
    for ax, task in zip(titles, order.tasks, strict=False):
        ax.set_title(fitted(short_name(task), panel - 0.3, 7.5, lines=2, bold=True), fontsize=7.5)
    _finish(fig, trained, rows, "each visit to the task")
    return fig


@styled
def training_over_time_figure(
    training: pd.DataFrame,
    order: TaskOrder,
    styles: Mapping[str, ArmStyle],
    *,
    baseline: str | None = None,
    width: float = DOUBLE,
) -> Figure:
    """`training_over_time`: arms together, or above `OVERLAID` of them a row each; arguments of `training_figure`."""
    rows = rows_of_arms(styles, baseline)
    trained = _Trained.of(training[training["arm"].isin(list(styles))])
    height = 0.62 * len(rows) if len(rows) > 1 else 1.7
    fig = Figure(figsize=(width, 1.1 + height), layout="constrained")
    axes = fig.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)
    for place, (ax, (arms, behind)) in enumerate(zip(axes[:, 0], rows, strict=True)):
        labels = "none" if place else "names"
        _draw_order(ax, trained, order, arms, behind, labels, width - 1.2)
    for line, row in zip(axes, rows if len(rows) > 1 else [], strict=False):
        name_row(line[0], row)
    _finish(fig, trained, rows, "each visit")
    return fig


@dataclass(frozen=True)
class _Trained:
    """What panels of one figure are drawn from."""

    curves: Mapping[str, Mapping[int, Mapping[int, Curve]]]
    """By arm."""
    shared: list[SharedVisit]
    width: float
    """Steps of the longest visit of any run."""
    value: str
    """Column of the values."""

    @classmethod
    def of(cls, training: pd.DataFrame) -> _Trained:
        value = "success_window" if training["success_window"].notna().any() else "mean_return"
        longest = float(training["visit_env_steps"].max())
        curves = {str(arm): curves_by_visit(rows, "visit_env_steps", value) for arm, rows in training.groupby("arm")}
        return cls(curves, shared_visits(training), max(longest, 1.0) if np.isfinite(longest) else 1.0, value)

    @property
    def of_success(self) -> bool:
        return self.value == "success_window"


def _draw_arms(
    ax: Axes,
    trained: _Trained,
    styles: Mapping[str, ArmStyle],
    places: Mapping[int, float],
    behind: str | None,
) -> dict[str, list[Artist]]:
    drawn = draw_arms(ax, trained.curves, trained.shared, styles, places, behind)
    score_axis(ax, of_returns=not trained.of_success)
    return drawn


def _finish(fig: Figure, trained: _Trained, rows: list[Row], where: str) -> None:
    fig.supylabel(f"{'success' if trained.of_success else 'return'} of training episodes", fontsize=7.5)
    label_below(fig, f"environment steps in {where}, {steps_text(trained.width)} wide")
    legend(fig, [*row_handles(rows), *map(shared_handle, trained.shared)])
