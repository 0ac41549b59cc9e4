"""Neurons: how their scores are distributed, which were selected, and how one fires when the task is solved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..activations import Activation
from ..metrics import FloatArray
from ..text import short_name
from .style import DOUBLE, ArmStyle, compact, fitted, label_below, legend, narrow, styled

SUCCESS, FAILURE = "#0072B2", "#D55E00"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
NETWORKS = ("policy", "qf", "qf_twin")


def score_ecdf(ax: Axes, neurons: pd.DataFrame, color: str | tuple[float, float, float], dash: Any = "-") -> None:
    """Share of neurons whose score is at most x (Eq. 4); those that were selected, with a mask below 1, in bold.

    Args:
        ax: where to draw.
        neurons: `load_neurons`, the rows of one network and layer after one visit.
        color, dash: of the line.
    """
    ordered = neurons.sort_values("score", kind="stable")
    scores = ordered["score"].to_numpy(dtype=float)
    shares = np.arange(1, len(scores) + 1) / len(scores)
    ax.step(scores, shares, where="post", color=color, linestyle=dash, linewidth=1.0)
    selected = (ordered["mask"] < 1).to_numpy()
    if selected.any():
        bold = np.where(selected, shares, np.nan)
        ax.plot(scores, bold, color=color, linewidth=3.2, alpha=0.45, solid_capstyle="butt", marker=".", markersize=3)


@styled
def scores_figure(neurons: pd.DataFrame, style: ArmStyle, *, width: float = DOUBLE) -> Figure:
    """`score_ecdf` per network and layer after each visit, all seeds together.

    A dotted line marks max(p, 1 - p) for the share p of steps with the goal above its mean: the score that Eq. 4 gives
    to a neuron that never moves.

    Args:
        neurons: `load_neurons`, the rows of one sequence and arm.
        style: the arm's; later visits are darker, and have dashes of their own.
        width: in inches.
    """
    found = set(neurons["network"])
    networks = [name for name in NETWORKS if name in found] + sorted(found - {*NETWORKS})
    layers, visits = sorted(neurons["layer"].unique()), sorted(neurons["visit"].unique())
    shades = dict(zip(visits, _shades(style.color, len(visits)), strict=True))
    dashes = {visit: DASHES[place % len(DASHES)] for place, visit in enumerate(visits)}
    tasks = neurons.drop_duplicates("visit").set_index("visit")["task"]
    fig = Figure(figsize=(width, 0.8 + 1.15 * len(networks)), layout="constrained")
    axes = fig.subplots(len(networks), len(layers), sharex=True, sharey=True, squeeze=False)
    for (network, layer, visit), rows in neurons.groupby(["network", "layer", "visit"]):
        score_ecdf(axes[networks.index(network), layers.index(layer)], rows, shades[visit], dashes[visit])
    rates = neurons.groupby("visit")["label_rate"].mean()
    for (row, column), ax in np.ndenumerate(axes):
        for visit, rate in rates.items():
            ax.axvline(max(rate, 1 - rate), color=shades[visit], linestyle=":", linewidth=0.9)
        title = f"{networks[row]}, layer {layers[column] + 1}"
        ax.set_title(fitted(title, (width - 0.4) / len(layers) - 0.1, 7.5, lines=2, bold=True), fontsize=7.5)
        ax.set_ylim(-0.03, 1.03)
    fig.supylabel("share of neurons up to a score", fontsize=7.5)
    label_below(fig, "score (Eq. 4)")
    handles = [
        Line2D([], [], color=shades[v], linestyle=dashes[v], linewidth=1.6, label=f"after {v}: {short_name(tasks[v])}")
        for v in visits
    ]
    bold = Line2D([], [], color=style.color, alpha=0.45, linewidth=3.2, marker=".", label="selected: skill neurons")
    constant = Line2D([], [], color="#666666", linestyle=":", label="a neuron that never moves")
    legend(fig, [*handles, bold, constant])
    return fig


def activation_histogram(ax: Axes, activation: Activation) -> None:
    """How often a neuron had each activation, with the task's goal reached and not (the paper's Figure 1).

    Args:
        ax: where to draw.
        activation: `activations.top_activations`; bars of each kind sum to 1.
    """
    edges = activation.edges
    for counts, color, hatch, label in (
        (activation.failure, FAILURE, "////", "goal not reached"),
        (activation.success, SUCCESS, "", "goal reached"),
    ):
        total = counts.sum()
        shares = counts / total if total else counts
        ax.stairs(shares, edges, color=color, linewidth=1.1)
        ax.stairs(
            shares,
            edges,
            fill=True,
            facecolor=color,
            alpha=0.25,
            hatch=hatch,
            edgecolor=color,
            label=label,
            linewidth=0,
        )


@styled
def activations_figure(activations: Sequence[Activation], *, width: float = DOUBLE) -> Figure:
    """`activation_histogram` of several neurons, a panel each, in so many inches."""
    columns = min(2 if narrow(width) else 3, len(activations))
    rows = -(-len(activations) // columns)
    fig = Figure(figsize=(width, 0.6 + 1.45 * rows), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False)
    panel = (width - 0.5) / columns - 0.35
    for ax in axes.flat[len(activations) :]:
        ax.set_visible(False)
    for ax, one in zip(axes.flat, activations, strict=False):
        activation_histogram(ax, one)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        place = f"{one.network}, layer {one.layer + 1}, neuron {one.neuron}"
        name = fitted(f"visit {one.visit}: {short_name(one.task)}", panel, 7.5)
        ax.set_title(
            f"{name}\n{fitted(f'{place}, score {one.score:.2f}', panel, 6.5)}", fontsize=7, fontweight="normal"
        )
    label_below(fig, "activation")
    fig.supylabel("share of steps", fontsize=7.5)
    handles = [
        Line2D([], [], color=SUCCESS, linewidth=5, alpha=0.6, label="goal above its mean (success)"),
        Line2D([], [], color=FAILURE, linewidth=5, alpha=0.6, label="goal below (failure), hatched"),
    ]
    legend(fig, handles)
    return fig


def _shades(color: str, count: int) -> list[tuple[float, float, float]]:
    """The colour from light to dark."""
    base: FloatArray = np.array(to_rgb(color))
    places = np.linspace(-0.45, 0.5, count) if count > 1 else np.zeros(1)
    shades = [base + (1 - base) * -place if place < 0 else base * (1 - place) for place in places]
    return [(float(r), float(g), float(b)) for r, g, b in shades]
