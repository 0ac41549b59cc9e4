"""Frames -> figures. Every function returns a figure; nothing here reads or writes files.

An arm has one colour and one marker in all figures of a report (`arm_styles`). Colours are those of Okabe and Ito that
show on white, which people with any common colour blindness can tell apart; markers and dashes say the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from . import metrics, statistics
from .schema import TaskOrder
from .tables import SuccessArray
from .text import headings, short_name, steps_text

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444", "#7A5195")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
HEATMAP = "cividis"
WIDTH = 9.5
"""Inches; the report shows a figure at the page's width."""

STYLE: Any = {
    "text.parse_math": False,  # a name with dollars is a name
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "figure.facecolor": "white",
}

P = ParamSpec("P")


class ArmStyle(NamedTuple):
    """How one arm looks everywhere."""

    color: str
    marker: str
    dash: Any


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """A style for each arm, by its place in the study."""
    return {
        arm: ArmStyle(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], DASHES[i // len(COLOURS) % len(DASHES)])
        for i, arm in enumerate(arms)
    }


@contextmanager
def settings() -> Iterator[None]:
    """This module's settings, whatever the user's own matplotlibrc says; wanted when a figure is saved, too."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under this module's settings."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with settings():
            return draw(*args, **kwargs)

    return wrapper


@styled
def metric_dots(values: pd.DataFrame, styles: dict[str, ArmStyle], of_returns: bool = False) -> Figure:
    """ASR, FM and FWT of each arm: small dots are seeds, the large one is their mean, the bar the 95 % interval.

    Args:
        values: `tables.metric_values`, the rows of one sequence.
        styles: `arm_styles`.
        of_returns: whether they are of normalised returns.
    """
    arms = [arm for arm in styles if arm in set(values["arm"])]
    fig = Figure(figsize=(WIDTH, 1.3 + 0.38 * len(arms)), layout="constrained")
    axes = fig.subplots(1, len(metrics.METRICS), sharey=True, squeeze=False)[0]
    for ax, metric in zip(axes, metrics.METRICS, strict=True):
        for place, arm in enumerate(arms):
            style = styles[arm]
            seeds = values.loc[values["arm"] == arm, metric].to_numpy(dtype=float)
            limits = metrics.limits_of(metric, of_returns, values["protocol"].iloc[0])
            estimate = statistics.interval(seeds, limits=limits)
            if np.isfinite(estimate.half_width):
                ax.plot([estimate.low, estimate.high], [place, place], color=style.color, linewidth=2.2, alpha=0.55)
            ax.plot(seeds, np.full(len(seeds), place - 0.25), "|", color=style.color, markersize=7, alpha=0.9)
            ax.plot(estimate.mean, place, style.marker, color=style.color, markersize=8, markeredgecolor="white")
        low, high = ax.get_xlim()
        ax.set_xlim(max(min(low, -0.05), -1.05), min(max(high, 1.05), 2.05))
        ax.set_title(headings(of_returns)[metric])
        ax.grid(axis="y", visible=False)
        ax.set_yticks(range(len(arms)), arms)
        ax.set_ylim(len(arms) - 0.4, -0.6)
    fig.supxlabel(f"{_unit(of_returns)}; ticks above a mean are its seeds", fontsize=9)
    return fig


@styled
def success_curves(
    evaluations: pd.DataFrame, order: TaskOrder, styles: dict[str, ArmStyle], of_returns: bool = False
) -> Figure:
    """Success on each task over training: thick lines are means over seeds, thin ones are seeds.

    Visits lie side by side, each as wide as the longest visit of any run, so that boundaries line up although visits
    end early at mastery. A seed that ended a visit early counts with its last value until the arm's last seed ends.

    Args:
        evaluations: `load_evaluations`, the rows of one sequence.
        order: the sequence's tasks and visits.
        styles: `arm_styles`.
        of_returns: whether scores are normalised returns.
    """
    visits = len(order.order)
    evaluations = _inside_visits(evaluations)
    width = max(float(evaluations["inside"].max()), 1.0) if len(evaluations) else 1.0
    arms = [arm for arm in styles if arm in set(evaluations["arm"])]
    fig = Figure(figsize=(WIDTH, 1.5 + 1.75 * len(order.tasks)), layout="constrained")
    axes = fig.subplots(len(order.tasks), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for column, (ax, task) in enumerate(zip(axes, order.tasks, strict=True)):
        _draw_visits(ax, order, column, width, label=column == 0)
        for arm in arms:
            rows = evaluations[(evaluations["arm"] == arm) & (evaluations["eval_task"] == task)]
            _draw_arm(ax, rows, visits, width, styles[arm])
        ax.set_ylabel(f"{'return' if of_returns else 'success'} on\n{short_name(task)}")
        if not of_returns:
            ax.set_ylim(-0.04, 1.04)
            ax.set_yticks([0, 0.5, 1])
    axes[-1].set_xlim(0, visits * width)
    axes[-1].set_xlabel(f"training environment steps inside each visit (a visit is {steps_text(width)} wide)")
    handles = [
        Line2D([], [], color=s.color, marker=s.marker, linestyle=s.dash, linewidth=2, label=arm)
        for arm, s in styles.items()
        if arm in arms
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    return fig


@styled
def success_heatmaps(arrays: dict[str, SuccessArray], of_returns: bool = False) -> Figure:
    """Mean success over seeds [visit, task], a panel per arm; the task just trained is outlined.

    Args:
        arrays: a success array per arm, all of one sequence.
        of_returns: whether they hold normalised returns.
    """
    order = next(iter(arrays.values())).order
    visits, tasks = len(order.order), [short_name(task) for task in order.tasks]
    rows = -(-len(arrays) // (4 if len(tasks) <= 2 else 2))
    columns = -(-len(arrays) // rows)
    names = tasks if columns * len(tasks) <= 4 else [_wrapped(task) for task in tasks]
    fig = Figure(figsize=(WIDTH, rows * (1.5 + 0.36 * visits)), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False, sharey=True)
    for ax in axes.flat[len(arrays) :]:
        ax.set_visible(False)
    image = None
    for ax, (arm, array) in zip(axes.flat, arrays.items(), strict=False):
        mean, seeds = _mean_over_seeds(array.values)
        image = ax.imshow(mean, vmin=0, vmax=1, cmap=HEATMAP, aspect="auto")
        ax.set_title(f"{arm} (n={seeds.max()})")
        ax.set_xticks(range(len(tasks)), names, fontsize=8.5)
        ax.set_yticks(range(visits), [f"{i + 1}: {tasks[task]}" for i, task in enumerate(order.order)], fontsize=8.5)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        for (visit, task), value in np.ndenumerate(mean):
            _draw_cell(ax, visit, task, float(value), int(seeds[visit, task]), int(seeds.max()))
        for visit, task in enumerate(order.order):
            ax.add_patch(
                Rectangle((task - 0.46, visit - 0.44), 0.92, 0.88, fill=False, edgecolor="#D55E00", linewidth=1.8)
            )
    for ax in axes[:, 0]:
        ax.set_ylabel("after visit")
    if image is not None:
        bar = fig.colorbar(image, ax=axes, shrink=0.8, pad=0.015, aspect=25)
        bar.outline.set_visible(False)
        bar.set_label(_unit(of_returns))
    return fig


@styled
def score_histograms(neurons: pd.DataFrame, style: ArmStyle) -> Figure:
    """Scores of the hidden neurons per network and layer after each visit, all seeds together.

    A dotted line marks max(p, 1 - p) for the share p of steps with the goal above its mean: the score that Eq. 4 gives
    to a neuron that never moves.

    Args:
        neurons: `load_neurons`, the rows of one sequence and arm.
        style: the arm's; later visits are darker.
    """
    networks, layers = sorted(neurons["network"].unique()), sorted(neurons["layer"].unique())
    networks = [name for name in ("policy", "qf", "qf_twin") if name in networks] + [
        name for name in networks if name not in ("policy", "qf", "qf_twin")
    ]
    visits = sorted(neurons["visit"].unique())
    shades = dict(zip(visits, _shades(style.color, len(visits)), strict=True))
    tasks = neurons.drop_duplicates("visit").set_index("visit")["task"]
    bins = np.linspace(min(0.5, float(neurons["score"].min())), max(1.0, float(neurons["score"].max())), 26)
    fig = Figure(figsize=(WIDTH, 1.0 + 1.75 * len(networks)), layout="constrained")
    axes = fig.subplots(len(networks), len(layers), sharex=True, sharey=True, squeeze=False)
    by_panel = dict(list(neurons.groupby(["network", "layer", "visit"])))
    for row, network in zip(axes, networks, strict=True):
        for ax, layer in zip(row, layers, strict=True):
            for visit in visits:
                if (network, layer, visit) in by_panel:
                    rows = by_panel[network, layer, visit]
                    weights = np.full(len(rows), 100 / len(rows))
                    ax.hist(
                        rows["score"],
                        bins,
                        weights=weights,
                        histtype="step",
                        linewidth=1.7,
                        color=shades[visit],
                        log=True,
                    )
            for visit, rate in neurons.groupby("visit")["label_rate"].mean().items():
                ax.axvline(max(rate, 1 - rate), color=shades[visit], linestyle=":", linewidth=1.2)
            ax.set_title(f"{network}, layer {layer + 1}")
            ax.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
            ax.set_ylim(0.08, 140)
            ax.minorticks_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("neurons, %")
    for ax in axes[-1]:
        ax.set_xlabel("score")
    handles = [Line2D([], [], color=shades[v], linewidth=2, label=f"after {v}: {short_name(tasks[v])}") for v in visits]
    handles.append(Line2D([], [], color="#666666", linestyle=":", label="a neuron that never moves"))
    fig.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3), fontsize=9)
    return fig


# Parts of the success curves


def _inside_visits(evaluations: pd.DataFrame) -> pd.DataFrame:
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


def _draw_visits(ax: Axes, order: TaskOrder, column: int, width: float, *, label: bool) -> None:
    for visit, task in enumerate(order.order):
        name = short_name(order.tasks[task])
        if task == column:
            ax.axvspan(visit * width, (visit + 1) * width, color="#F1F1EC", zorder=0, linewidth=0)
        if visit:
            ax.axvline(visit * width, color="#888888", linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
        if label:
            ax.annotate(
                f"visit {visit + 1}\n{name if len(order.order) <= 4 else _wrapped(name)}",
                xy=((visit + 0.5) * width, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8.5 if len(order.order) <= 4 else 7.5,
            )
    ax.grid(axis="x", visible=False)
    steps = _ticks(width, len(order.order))
    places = [visit * width + step for visit in range(len(order.order)) for step in steps]
    ax.set_xticks(places, [steps_text(step).replace(".0k", "k") for step in steps] * len(order.order), fontsize=8.5)


def _draw_arm(ax: Axes, rows: pd.DataFrame, visits: int, width: float, style: ArmStyle) -> None:
    """One arm on one task: seeds thin, their mean thick, marks at the boundaries."""
    last: dict[int, float] = {}
    thin, thick, marks = [_GAP], [_GAP], [_GAP]
    by_visit = dict(list(rows.groupby("visit")))
    for visit in range(1, visits + 1):
        if visit not in by_visit:
            continue
        offset = np.array([[(visit - 1) * width], [0.0]])
        curves = []
        for seed, own in by_visit[visit].groupby("seed"):
            curve = own[["inside", "score"]].to_numpy(dtype=float).T
            if seed in last and curve[0, 0] > 0:
                curve = np.insert(curve, 0, [0.0, last[seed]], axis=1)  # The visit begins where the one before ended.
            curves.append(curve)
            last[seed] = curve[1, -1]
        mean = _mean_curve(curves)
        thick += [mean + offset, _GAP]
        marks.append(mean[:, -1:] + offset)
        if len(curves) > 1:
            thin += [part for curve in curves for part in (curve + offset, _GAP)]
    ax.plot(*np.hstack(thin), color=style.color, linewidth=0.8, alpha=0.35)
    ax.plot(*np.hstack(thick), color=style.color, linestyle=style.dash, linewidth=2.0)
    ax.plot(*np.hstack(marks), style.marker, color=style.color, markersize=6, markeredgecolor="white")


_GAP = np.full((2, 1), np.nan)
"""Between two parts of a line."""


def _mean_curve(curves: list[metrics.FloatArray]) -> metrics.FloatArray:
    """Mean of curves from where all have begun; one that has ended keeps its last value."""
    steps = np.unique(np.concatenate([curve[0] for curve in curves]))
    steps = steps[steps >= max(curve[0, 0] for curve in curves)]
    return np.stack([steps, np.mean([np.interp(steps, *curve) for curve in curves], axis=0)])


def _ticks(width: float, visits: int) -> list[float]:
    """Round step counts inside one visit that leave room for their labels."""
    if visits > 4:
        return [0.0]
    steps = MaxNLocator(nbins=3 if visits > 2 else 5, steps=[1, 2, 2.5, 5, 10]).tick_values(0, width)
    return [float(step) for step in steps if 0 <= step < 0.9 * width]


# Parts of the heatmaps


def _mean_over_seeds(values: metrics.FloatArray) -> tuple[metrics.FloatArray, np.ndarray[Any, Any]]:
    """Mean over the seeds that have a cell, and how many have it, both [visit, task]."""
    seeds = np.isfinite(values).sum(axis=0)
    total = np.nansum(values, axis=0)
    return np.divide(total, seeds, out=np.full(total.shape, np.nan), where=seeds > 0), seeds


def _draw_cell(ax: Axes, visit: int, task: int, value: float, seeds: int, most: int) -> None:
    if not np.isfinite(value):
        hatched = Rectangle(
            (task - 0.5, visit - 0.5), 1, 1, facecolor="#F4F4F4", edgecolor="#BBBBBB", hatch="///", linewidth=0
        )
        ax.add_patch(hatched)
        return
    text = f"{value:.2f}" if seeds == most else f"{value:.2f} (n={seeds})"
    ax.text(task, visit, text, ha="center", va="center", fontsize=9, color="black" if value > 0.55 else "white")


# Small helpers


def _unit(of_returns: bool) -> str:
    return "return, 0 random and 1 human" if of_returns else "success rate"


def _wrapped(name: str) -> str:
    """A long hyphenated name on two lines."""
    parts = name.split("-")
    if len(name) < 12 or len(parts) < 2:
        return name
    middle = min(range(1, len(parts)), key=lambda i: abs(len("-".join(parts[:i])) - len("-".join(parts[i:]))))
    return "-".join(parts[:middle]) + "-\n" + "-".join(parts[middle:])


def _shades(color: str, count: int) -> list[tuple[float, float, float]]:
    """The colour from light to dark."""
    base = np.array(to_rgb(color))
    places = np.linspace(-0.55, 0.45, count) if count > 1 else np.zeros(1)
    shades = [base + (1 - base) * -place if place < 0 else base * (1 - place) for place in places]
    return [(float(r), float(g), float(b)) for r, g, b in shades]
