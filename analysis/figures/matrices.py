"""Success after every visit on every task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .. import metrics
from ..tables import SuccessArray
from ..text import short_name
from .style import DOUBLE, HEATMAP, MISSING, fitted, narrow, styled, unit


def matrix(ax: Axes, array: SuccessArray, *, width: float = 3.0, visit_names: bool = True) -> None:
    """Mean over seeds [visit, task] of one arm; the task just trained is outlined, what was not measured is hatched.

    Args:
        ax: where to draw; its colours are those of `HEATMAP` from 0 to 1.
        array: `tables.success_array`.
        width: of the panel, in inches, so that names fit.
        visit_names: whether the left side names each visit's task beside its number.
    """
    order = array.order
    visits, tasks = len(order.order), [short_name(task) for task in order.tasks]
    mean, seeds = _mean_over_seeds(array.values)
    ax.imshow(mean, vmin=0, vmax=1, cmap=HEATMAP, aspect="auto")
    column = width / len(tasks)
    names = [fitted(task, column - 0.05, 7, lines=3) for task in tasks]
    if any("…" in name for name in names):
        ax.set_xticks(range(len(tasks)), [fitted(task, 1.2, 7) for task in tasks], fontsize=7, rotation=90)
    else:
        ax.set_xticks(range(len(tasks)), names, fontsize=7)
    left = [
        fitted(f"{i + 1}: {tasks[task]}" if visit_names else f"{i + 1}", 1.4, 7) for i, task in enumerate(order.order)
    ]
    ax.set_yticks(range(visits), left, fontsize=7)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    most = int(seeds.max())
    for (visit, task), value in np.ndenumerate(mean):
        _draw_cell(ax, visit, task, float(value), int(seeds[visit, task]), most, column)
    for visit, task in enumerate(order.order):
        ax.add_patch(Rectangle((task - 0.46, visit - 0.44), 0.92, 0.88, fill=False, edgecolor="#D55E00", linewidth=1.4))


@styled
def matrices_figure(arrays: Mapping[str, SuccessArray], of_returns: bool = False, *, width: float = DOUBLE) -> Figure:
    """`matrix` of every arm, a panel each, and one colour bar.

    Args:
        arrays: a success array per arm, all of one sequence.
        of_returns: whether they hold normalised returns.
        width: in inches; in one column visits have numbers alone.
    """
    order = next(iter(arrays.values())).order
    visits, tasks = len(order.order), len(order.tasks)
    columns = min(len(arrays), 4 if tasks <= 2 else 3 if tasks <= 4 else 1 if tasks > 8 else 2)
    columns = -(-columns // 2) if narrow(width) else columns
    rows = -(-len(arrays) // columns)
    fig = Figure(figsize=(width, rows * (0.3 + 0.2 * max(visits, 3)) + 0.9), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False, sharey=True)
    panel = (width - (1.2 if narrow(width) else 2.4)) / columns
    for ax in axes.flat[len(arrays) :]:
        ax.set_visible(False)
    for ax, (arm, array) in zip(axes.flat, arrays.items(), strict=False):
        matrix(ax, array, width=panel, visit_names=not narrow(width))
        ax.set_title(fitted(arm, panel - 0.08, 7.5, lines=2, bold=True), fontsize=7.5)
    for ax in axes.flat[: len(arrays) - columns]:
        ax.tick_params(labelbottom=False)  # The panel below names the tasks.
    for ax in axes[:, 0]:
        ax.set_ylabel("after visit", fontsize=7.5)
    bar = fig.colorbar(
        ScalarMappable(Normalize(0, 1), HEATMAP), ax=axes, shrink=min(1.0, 2.0 / rows), pad=0.015, aspect=25
    )
    bar.outline.set_visible(False)
    bar.set_label(unit(of_returns))
    return fig


def _mean_over_seeds(values: metrics.FloatArray) -> tuple[metrics.FloatArray, np.ndarray[Any, Any]]:
    """Mean over the seeds that have a cell, and how many have it, both [visit, task]."""
    seeds = np.isfinite(values).sum(axis=0)
    total = np.nansum(values, axis=0)
    return np.divide(total, seeds, out=np.full(total.shape, np.nan), where=seeds > 0), seeds


def _draw_cell(ax: Axes, visit: int, task: int, value: float, seeds: int, most: int, width: float) -> None:
    if not np.isfinite(value):
        hatched = Rectangle(
            (task - 0.5, visit - 0.5), 1, 1, facecolor="#F4F4F4", edgecolor=MISSING, hatch="///", linewidth=0
        )
        ax.add_patch(hatched)
        return
    text = f"{value:.2f}" if seeds == most else f"{value:.2f} ({seeds})"
    size = 7.0 if width > 0.55 or seeds == most else 5.5
    ax.text(task, visit, text, ha="center", va="center", fontsize=size, color="black" if value > 0.55 else "white")
