"""The figures of the pages: `python -m docs.figure` draws `docs/*.svg` from published rows."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import load_evaluations

matplotlib.use("svg")
from matplotlib import pyplot as plt

PUBLISHED, DOCS = Path("results/published"), Path(__file__).parent
ARMS = {"sac": "SAC", "nbsp": "NBSP", "replay_only": "replay only", "mask_only": "masks only", "ewc": "EWC"}
SEEDS = range(11)
"""Of Pendulum: those that all arms have."""


def pendulum_pair() -> None:
    """Success at each task after each visit: a line an arm, the mean over seeds; a point a seed."""
    rows = load_evaluations(PUBLISHED / "fast_pendulum_pair")
    rows = rows[(rows["phase"] == "boundary") & rows["seed"].isin(SEEDS)]
    tasks = {"plain": "first task (visits 1 and 3)", "offset-1": "second task (visits 2 and 4)"}
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.7), sharey=True, layout="constrained")
    for ax, (task, title) in zip(axes, tasks.items(), strict=True):
        of_task = rows[rows["eval_task"] == task]
        for number, (arm, label) in enumerate(ARMS.items()):
            own = of_task[of_task["arm"] == arm]
            mean = own.groupby("visit")["success_rate"].mean()
            shift = 0.06 * (number - (len(ARMS) - 1) / 2)
            ax.plot(mean.index + shift, mean, color=f"C{number}", label=label)
            ax.scatter(own["visit"] + shift, own["success_rate"], s=7, color=f"C{number}", alpha=0.5, linewidths=0)
        ax.set(title=title, xlabel="after visit", xticks=[1, 2, 3, 4])
    axes[0].set_ylabel("success rate")
    _save(figure, "pendulum_pair")


def after_mastery() -> None:
    """Success at the first task over all visits: a thick line an arm, the mean over seeds; a thin one a seed."""
    rows = load_evaluations(PUBLISHED / "cpu_after_mastery")
    first = rows[rows["visit"] == 1]["trained_task"].iloc[0]
    own = rows[rows["eval_task"] == first].assign(kilosteps=rows["env_steps"] / 1000)
    figure, ax = plt.subplots(figsize=(7.5, 2.7), layout="constrained")
    for number, (arm, label) in enumerate(ARMS.items()):
        curves = own[own["arm"] == arm].pivot_table("success_rate", "kilosteps", "seed")
        if curves.empty:
            continue
        ax.plot(curves, color=f"C{number}", linewidth=0.5, alpha=0.5)
        ax.plot(curves.mean(axis=1), color=f"C{number}", linewidth=2, label=f"{label}, n={curves.shape[1]}")
    _visits(ax, rows)
    ax.set(title=f"{first}, 5 episodes, 20 at a visit's end", xlabel="1,000 environment steps", ylabel="success rate")
    _save(figure, "after_mastery")


def learning() -> None:
    """Curves of training on button-press-v3, means over five seeds and their intervals."""
    report = json.loads((PUBLISHED / "learning.json").read_text(encoding="utf-8"))["tasks"]["button-press-v3"]
    labels = {"plain_torch": "plain loop,\nCleanRL's order", "sac": "sac"}
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.5), layout="constrained")
    for ax, what in zip(axes, ("success", "return"), strict=True):
        for number, (arm, label) in enumerate(labels.items()):
            points = pd.DataFrame(report["curves"][arm][what])
            kilosteps = (points.index + 1) * report["window"] / 1000
            ax.plot(kilosteps, points["mean"], color=f"C{number}", label=label)
            ax.fill_between(kilosteps, points["low"], points["high"], color=f"C{number}", alpha=0.2, linewidth=0)
        ax.set(xlabel="1,000 environment steps", ylabel=what)
    axes[0].set_ylim(-0.03, 1.03)
    _save(figure, "learning")


def _visits(ax: Axes, rows: pd.DataFrame) -> None:
    """The visits' ends, and the task of each."""
    visits = rows.groupby("visit").agg(end=("env_steps", "max"), task=("trained_task", "first"))
    start = 0.0
    for visit, (end, task) in visits.iterrows():
        ax.axvline(end / 1000, color="0.7", linewidth=0.8)
        ax.annotate(f"visit {visit}: {task}", ((start + end) / 2000, 1.04), ha="center", fontsize=7, color="0.4")
        start = end
    ax.set(xlim=(0, start / 1000), ylim=(-0.03, 1.12))


def _save(figure: Figure, name: str) -> None:
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.savefig(DOCS / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rllib_nbsp", "font.size": 9})
    pendulum_pair()
    after_mastery()
    learning()
