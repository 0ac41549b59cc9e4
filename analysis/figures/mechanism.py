"""How actor and critics fare over a run: dormant neurons, ranks, weights, churn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..mechanism import MAIN, NETWORKS, QUANTITIES, SHARE, Quantity
from ..schema import TaskOrder
from ..text import steps_text
from .style import (
    DOUBLE,
    ArmStyle,
    Row,
    compact,
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
    draw_arms,
    draw_visits,
    score_axis,
    shared_handle,
    shared_visits,
)

DRAWN = {name: it for name, it in MAIN.items() if name != "stable_rank"}
"""Quantities with a panel. Features are not centred, so that the stable rank of any network is little above 1."""


def mechanism_over_visits(
    ax: Axes,
    values: pd.DataFrame,
    order: TaskOrder,
    quantity: str,
    network: str,
    styles: Mapping[str, ArmStyle],
    *,
    behind: str | None = None,
    labels: str = "names",
    inches: float = DOUBLE - 0.75,
) -> None:
    """One quantity of actor or critics over training, visit after visit, parted by dashed lines.

    Lines are means over seeds, shades reach from the lowest seed to the highest.

    Args:
        ax: where to draw.
        values: `mechanism_values`, the rows of one sequence.
        order: the sequence's tasks and visits.
        quantity: a key of `mechanism.QUANTITIES`.
        network: a key of `mechanism.NETWORKS`.
        styles: the arms to draw, in order.
        behind: an arm that stands in grey behind the others.
        labels: of the visits above the panel: "names", "numbers" or "none".
        inches: the panel's width, so that labels fit.
    """
    _draw(ax, _Measured.of(values, [quantity]), order, quantity, network, styles, behind, labels, inches)
    _scale([ax], QUANTITIES[quantity])


@styled
def mechanism_figure(
    values: pd.DataFrame,
    order: TaskOrder,
    styles: Mapping[str, ArmStyle],
    *,
    networks: Sequence[str] = tuple(NETWORKS),
    baseline: str | None = None,
    width: float = DOUBLE,
) -> Figure:
    """`mechanism_over_visits` of the quantities that a reader needs first.

    Up to `OVERLAID` arms a row of panels a quantity and a column a network; above it, of one network, a row an arm and
    a column a quantity.

    Args:
        values, order: as there.
        styles: the arms to draw, in order.
        networks: of which; of more than `OVERLAID` arms the first alone.
        baseline: the arm that stands behind the others where each has a row.
        width: in inches; a row an arm takes both columns of a paper.
    """
    rows = rows_of_arms(styles, baseline)
    measured = _Measured.of(values[values["arm"].isin(list(styles))], list(DRAWN))
    if len(rows) == 1:
        fig = _together(measured, order, rows[0], networks, width)
    else:
        fig = _apart(measured, order, rows, networks[0], width)
    label_below(fig, f"environment steps in each of {len(order.order)} visits, {steps_text(measured.width)} wide")
    legend(fig, [*row_handles(rows), *map(shared_handle, measured.shared)])
    return fig


@dataclass(frozen=True)
class _Measured:
    """What panels of one figure are drawn from."""

    curves: Mapping[tuple[str, str], Mapping[str, Mapping[int, Mapping[int, Curve]]]]
    """By network and quantity, then by arm."""
    shared: list[SharedVisit]
    width: float
    """Steps of the longest visit of any run."""

    @classmethod
    def of(cls, values: pd.DataFrame, quantities: Sequence[str]) -> _Measured:
        longest = float(values["visit_env_steps"].max())
        curves = {
            (str(network), quantity): {
                str(arm): curves_by_visit(rows, "visit_env_steps", quantity) for arm, rows in own.groupby("arm")
            }
            for network, own in values.groupby("network")
            for quantity in quantities
        }
        return cls(curves, shared_visits(values), max(longest, 1.0) if np.isfinite(longest) else 1.0)


def _together(measured: _Measured, order: TaskOrder, row: Row, networks: Sequence[str], width: float) -> Figure:
    """A row a quantity, a column a network, all arms in each panel."""
    styles, behind = row
    fig = Figure(figsize=(width, 0.9 + 0.9 * len(DRAWN)), layout="constrained")
    axes = fig.subplots(len(DRAWN), len(networks), sharex=True, squeeze=False)
    panel = (width - 0.4) / len(networks) - 0.4
    for place, (line, (name, quantity)) in enumerate(zip(axes, DRAWN.items(), strict=True)):
        labels = "none" if place else "numbers"
        for ax, network in zip(line, networks, strict=True):
            _draw(ax, measured, order, name, network, styles, behind, labels, panel)
            _scale([ax], quantity)
        line[0].set_ylabel(quantity.heading.replace(" ", "\n", 1), fontsize=7)
    for ax, network in zip(axes[0], networks, strict=True):
        ax.set_title(network, fontsize=7.5, pad=13)
    return fig


def _apart(measured: _Measured, order: TaskOrder, rows: Sequence[Row], network: str, width: float) -> Figure:
    """A row an arm, a column a quantity, the baseline behind each arm."""
    fig = Figure(figsize=(width, 1.2 + 0.62 * len(rows)), layout="constrained")
    axes = fig.subplots(len(rows), len(DRAWN), sharex=True, sharey="col", squeeze=False)
    panel = (width - 1.2) / len(DRAWN) - 0.3
    for place, (line, row) in enumerate(zip(axes, rows, strict=True)):
        labels = "none" if place else "numbers"
        for ax, name in zip(line, DRAWN, strict=True):
            _draw(ax, measured, order, name, network, row[0], row[1], labels, panel, marks=False)
        name_row(line[0], row)
    for column, quantity in zip(axes.T, DRAWN.values(), strict=True):
        _scale(list(column), quantity)
        column[0].set_title(fitted(quantity.heading, panel + 0.1, 7, lines=2, bold=True), fontsize=7, pad=13)
    fig.supylabel(network, fontsize=7.5)
    return fig


def _draw(
    ax: Axes,
    measured: _Measured,
    order: TaskOrder,
    quantity: str,
    network: str,
    styles: Mapping[str, ArmStyle],
    behind: str | None,
    labels: str,
    inches: float,
    *,
    marks: bool = True,
) -> None:
    draw_visits(ax, order, measured.width, labels=labels, inches=inches)
    places = {visit + 1: visit * measured.width for visit in range(len(order.order))}
    draw_arms(ax, measured.curves.get((network, quantity), {}), measured.shared, styles, places, behind, marks=marks)


def _scale(axes: Sequence[Axes], quantity: Quantity) -> None:
    """The same axis of values for these panels, with few ticks, whose labels take little room."""
    if quantity.limits == SHARE:
        for ax in axes:
            score_axis(ax, of_returns=False)
            ax.tick_params(axis="y", labelsize=6)
        return
    if quantity.logarithmic:
        lows, highs = _positive(axes)
        for ax in axes:
            ax.set_yscale("log")
            ax.set_ylim(10 ** np.floor(np.log10(lows)), 10 ** np.ceil(np.log10(highs) + 1e-9))
            ax.yaxis.set_major_locator(LogLocator(numticks=4))
            ax.yaxis.set_minor_locator(NullLocator())
    else:
        for ax in axes:
            ax.set_ylim(bottom=0)
            ax.yaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 5, 10]))
    for ax in axes:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        ax.tick_params(axis="y", labelsize=6)


def _positive(axes: Sequence[Axes]) -> tuple[float, float]:
    """The least and greatest value above 0 that the panels show; 0.1 and 1 where there is none."""
    lines = [line for ax in axes for line in ax.lines if line.get_transform() == ax.transData]  # not those of visits
    shown = np.concatenate([np.empty(0), *(np.asarray(line.get_ydata(), dtype=float) for line in lines)])
    above = shown[np.isfinite(shown) & (shown > 0)]
    return (float(above.min()), float(above.max())) if len(above) else (0.1, 1.0)
