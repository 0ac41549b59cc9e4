"""Arms side by side: metrics with their intervals, paired differences, profiles, proportions, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .. import metrics, statistics
from ..tables import SuccessArray
from ..text import headings
from .style import (
    DOUBLE,
    ArmStyle,
    between,
    compact,
    fitted,
    label_below,
    legend,
    name_row,
    narrow,
    row_handles,
    rows_of_arms,
    styled,
    unit,
    width_of,
)


def _limits(values: pd.DataFrame, metric: str, of_returns: bool) -> statistics.Limits:
    return metrics.limits_of(metric, of_returns, values["protocol"].iloc[0])


def metric_dots(
    ax: Axes, values: pd.DataFrame, metric: str, styles: Mapping[str, ArmStyle], of_returns: bool = False
) -> None:
    """One metric of each arm: the mark is the mean over seeds, ticks above it are seeds, the bar the 95 % interval.

    Args:
        ax: where to draw; arms stand below each other.
        values: `tables.metric_values`, the rows of one sequence.
        metric: a column of it.
        styles: the arms to draw, in order.
        of_returns: whether they are of normalised returns.
    """
    for place, (arm, style) in enumerate(styles.items()):
        seeds = values.loc[values["arm"] == arm, metric].to_numpy(dtype=float)
        estimate = statistics.interval(seeds, limits=_limits(values, metric, of_returns))
        if np.isfinite(estimate.half_width):
            ax.plot([estimate.low, estimate.high], [place, place], color=style.color, linewidth=1.8, alpha=0.55)
        ax.plot(seeds, np.full(len(seeds), place - 0.27), "|", color=style.color, markersize=5, alpha=0.9)
        ax.plot(estimate.mean, place, marker=style.marker, color=style.color, markersize=6, markeredgecolor="white")
    low, high = ax.get_xlim()
    ax.set_xlim(max(min(low, -0.05), -1.05), min(max(high, 1.05), 2.05))
    _arms_down(ax, list(styles))


@styled
def metrics_figure(
    values: pd.DataFrame, styles: Mapping[str, ArmStyle], of_returns: bool = False, *, width: float = DOUBLE
) -> Figure:
    """`metric_dots` of ASR, FM and FWT, with the same arguments, in so many inches."""
    fig = Figure(figsize=(width, 0.8 + 0.26 * len(styles)), layout="constrained")
    for ax, metric in zip(fig.subplots(1, len(metrics.METRICS), sharey=True), metrics.METRICS, strict=True):
        metric_dots(ax, values, metric, styles, of_returns)
        ax.set_title(headings(of_returns)[metric])
        _few_ticks(ax, width)
    label_below(fig, f"{unit(of_returns)}; ticks above a mean are its seeds")
    return fig


def forest(
    ax: Axes, differences: pd.DataFrame, metric: str, styles: Mapping[str, ArmStyle], *, labels: bool = True
) -> None:
    """Paired differences to the baseline with their 95 % intervals; the line at 0 is the baseline.

    Args:
        ax: where to draw; arms stand below each other.
        differences: `difference_table`, the rows of one sequence.
        metric: one of `tables.SUMMARY`.
        styles: the arms to draw, in order; those without a row, such as the baseline, are left out.
        labels: whether each arm's number of pairs stands at the right.
    """
    rows = differences.set_index("arm")
    arms = [arm for arm in styles if arm in rows.index]
    ax.axvline(0, color="#666666", linewidth=1.0, zorder=1)
    for place, arm in enumerate(arms):
        style, row = styles[arm], rows.loc[arm]
        mean, low, high = (row[f"{metric}_difference{part}"] for part in ("", "_low", "_high"))
        if np.isfinite(low):
            ax.plot([low, high], [place, place], color=style.color, linewidth=1.8, alpha=0.7)
            ax.plot([low, high], [place, place], "|", color=style.color, markersize=6)
        ax.plot(mean, place, marker=style.marker, color=style.color, markersize=6, markeredgecolor="white")
        if labels:
            ax.annotate(
                f"n={row[f'{metric}_difference_n']}",
                xy=(1, place),
                xycoords=("axes fraction", "data"),
                xytext=(2, 0),
                textcoords="offset points",
                va="center",
                fontsize=6.5,
                color="#555555",
            )
    reach = 1.08 * max(0.1, *(abs(limit) for limit in ax.get_xlim()))
    ax.set_xlim(-reach, reach)
    _arms_down(ax, arms)


@styled
def forest_figure(
    differences: pd.DataFrame,
    styles: Mapping[str, ArmStyle],
    baseline: str,
    of_returns: bool = False,
    *,
    width: float = DOUBLE,
) -> Figure:
    """`forest` of ASR, FM and FWT, in so many inches."""
    arms = [arm for arm in styles if arm in set(differences["arm"])]
    fig = Figure(figsize=(width, 0.85 + 0.24 * len(arms)), layout="constrained")
    for place, (ax, metric) in enumerate(zip(fig.subplots(1, 3, sharey=True), metrics.METRICS, strict=True)):
        forest(ax, differences, metric, styles, labels=place == 2)
        ax.set_title(headings(of_returns)[metric])
        _few_ticks(ax, width)
    name = fitted(baseline, 2.0, 7.5)
    label_below(fig, f"difference to {name} over common seeds, 95 % interval; n: pairs of seeds")
    return fig


def performance_profile(ax: Axes, scores: Mapping[str, metrics.FloatArray], styles: Mapping[str, ArmStyle]) -> None:
    """Share of runs and tasks whose score is above each threshold (Agarwal et al. 2021, arXiv:2108.13264).

    Args:
        ax: where to draw.
        scores: of each arm, any shape; NaN entries are left out.
        styles: the arms to draw, in order; those without a score are left out.
    """
    found = {arm: scores[arm][np.isfinite(scores[arm])] for arm in styles if arm in scores}
    found = {arm: values for arm, values in found.items() if len(values)}
    every = np.concatenate(list(found.values())) if found else np.zeros(1)
    thresholds = np.linspace(min(0.0, float(every.min())), max(1.0, float(every.max())), 101)
    for number, (arm, values) in enumerate(found.items()):
        style = styles[arm]
        shares = statistics.performance_profile(values, thresholds)
        ax.step(thresholds, shares, where="post", color=style.color, linestyle=style.dash, linewidth=1.4)
        marked = slice(4 + 3 * number % 20, None, 25)
        ax.plot(
            thresholds[marked],
            shares[marked],
            marker=style.marker,
            linestyle="none",
            color=style.color,
            markersize=4.5,
            markeredgecolor="white",
        )
    ax.set_ylim(-0.05, 1.05)


def metric_over_proportion(
    ax: Axes, points: pd.DataFrame, metric: str, style: ArmStyle, of_returns: bool = False
) -> None:
    """A metric over the proportion of skill neurons, with 95 % intervals over seeds (the paper's Figure 4).

    Args:
        ax: where to draw.
        points: columns `x`, the proportion, `protocol` and the metric's, a row a seed.
        metric: one of `tables.SUMMARY`.
        style: of the line.
        of_returns: whether they are of normalised returns.
    """
    places, estimates = [], []
    for x, own in points.groupby("x"):
        places.append(float(x))
        estimates.append(statistics.interval(own[metric], limits=_limits(points, metric, of_returns)))
    means = np.array([estimate.mean for estimate in estimates])
    for x, estimate in zip(places, estimates, strict=True):
        if np.isfinite(estimate.half_width):
            ax.plot([x, x], [estimate.low, estimate.high], color=style.color, linewidth=1.6, alpha=0.55)
    ax.plot(points["x"], points[metric], "_", color=style.color, markersize=5, alpha=0.7)
    ax.plot(places, means, marker=style.marker, color=style.color, linestyle=style.dash, linewidth=1.4, markersize=5)


@styled
def proportion_figure(
    points: pd.DataFrame, key: str, style: ArmStyle, of_returns: bool = False, *, width: float = DOUBLE
) -> Figure:
    """`metric_over_proportion` of ASR, FM and FWT, in so many inches; `key` is the proportion's in a study's file."""
    fig = Figure(figsize=(width, 2.0), layout="constrained")
    for ax, metric in zip(fig.subplots(1, 3), metrics.METRICS, strict=True):
        metric_over_proportion(ax, points, metric, style, of_returns)
        ax.set_title(headings(of_returns)[metric])
        _few_ticks(ax, width)
    label_below(fig, key)
    return fig


def forgetting_curve(ax: Axes, array: SuccessArray, style: ArmStyle, *, shift: float = 0.0) -> None:
    """What is kept of a task by the number of visits since it was trained, with the 95 % interval over seeds.

    A seed's value at n visits is its mean over all tasks and over all their visits that n others followed.

    Args:
        ax: where to draw.
        array: `tables.success_array` of one arm.
        style: the arm's.
        shift: along x, so that intervals of several arms do not lie on each other.
    """
    kept = retention(array)
    lags, estimates = np.arange(kept.shape[1]), [statistics.interval(column) for column in kept.T]
    means = np.array([estimate.mean for estimate in estimates])
    for lag, estimate in zip(lags, estimates, strict=True):
        if np.isfinite(estimate.half_width):
            low, high = max(estimate.low, kept.min(initial=0.0)), min(estimate.high, max(1.0, np.nanmax(kept)))
            ax.plot([lag + shift] * 2, [low, high], color=style.color, linewidth=1.3, alpha=0.5)
    ax.plot(
        lags + shift,
        means,
        marker=style.marker,
        color=style.color,
        linestyle=style.dash,
        linewidth=1.4,
        markersize=5,
        markeredgecolor="white",
    )
    ax.set_xticks(lags)


def retention(array: SuccessArray) -> metrics.FloatArray:
    """Score at a task n visits after its last own visit, mean over tasks and visits, shape (seeds, n from 0)."""
    order = array.order.order
    by_lag: dict[int, list[metrics.FloatArray]] = {}
    for task in range(len(array.order.tasks)):
        last: int | None = None
        for visit, trained in enumerate(order):
            last = visit if trained == task else last
            if last is not None:
                by_lag.setdefault(visit - last, []).append(array.values[:, visit, task])
    columns = []
    for lag in range(len(by_lag)):
        stacked = np.stack(by_lag[lag])
        counts = np.isfinite(stacked).sum(axis=0)
        columns.append(
            np.divide(np.nansum(stacked, axis=0), counts, out=np.full(counts.shape, np.nan), where=counts > 0)
        )
    return np.stack(columns, axis=1)


@styled
def kept_figure(
    arrays: Mapping[str, SuccessArray],
    scores: Mapping[str, metrics.FloatArray],
    styles: Mapping[str, ArmStyle],
    *,
    baseline: str | None = None,
    of_returns: bool = False,
    width: float = DOUBLE,
) -> Figure:
    """`forgetting_curve` beside the `performance_profile` of the last scores; above `OVERLAID` arms a row an arm.

    Args:
        arrays: a success array per arm, all of one sequence.
        scores: of each arm after the last visit.
        styles: the arms to draw, in order.
        baseline: the arm that stands behind the others where each has a row.
        of_returns: whether they are of normalised returns.
        width: in inches.
    """
    rows = rows_of_arms({arm: style for arm, style in styles.items() if arm in arrays}, baseline)
    fig = Figure(figsize=(width, 1.1 + (0.75 * len(rows) if len(rows) > 1 else 1.6)), layout="constrained")
    axes = fig.subplots(len(rows), 2, sharex="col", sharey=True, squeeze=False)
    for (left, right), row in zip(axes, rows, strict=True):
        arms, behind = row
        for number, (arm, style) in enumerate(arms.items()):
            shift = 0.0 if len(rows) > 1 else 0.4 * ((number + 0.5) / len(arms) - 0.5)
            forgetting_curve(left, arrays[arm], _grey(style) if arm == behind else style, shift=shift)
        performance_profile(right, scores, {arm: _grey(arms[arm]) if arm == behind else arms[arm] for arm in arms})
        if len(rows) > 1:
            name_row(left, row)
    if len(rows) == 1:
        axes[0, 0].set_ylabel(f"{unit(of_returns)}, left\nshare, right")
    # A number of ticks that hangs on the panel's height changes as it is laid out, and with it the room that they take.
    axes[0, 0].yaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 5, 10]))
    for ax, title in zip(axes[0], ("Kept of a task", "Share of runs and tasks above"), strict=True):
        ax.set_title(fitted(title, width / 2 - 0.75, 8.5, lines=3, bold=True))
    for ax, label in zip(axes[-1], ("visits since it was trained", unit(of_returns)), strict=True):
        ax.set_xlabel(fitted(label, width / 2 - 0.3, 8, lines=2))
    legend(fig, row_handles(rows))
    return fig


def _grey(style: ArmStyle) -> ArmStyle:
    """As an arm looks behind others: without its mark."""
    return style._replace(marker="", dash="-")


def _few_ticks(ax: Axes, width: float) -> None:
    """Of three panels beside each other in one column."""
    if narrow(width):
        ax.xaxis.set_major_locator(MaxNLocator(nbins=2, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        ax.tick_params(axis="x", labelsize=6)


def _arms_down(ax: Axes, arms: list[str]) -> None:
    ax.grid(axis="y", visible=False)
    width = width_of(ax)
    room, lines = between(width, 0.75, 1.5), 2 if narrow(width) else 1
    ax.set_yticks(range(len(arms)), [fitted(arm, room, 7.5, lines=lines) for arm in arms])
    ax.set_ylim(len(arms) - 0.4, -0.6)
