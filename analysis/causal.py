"""What silencing neurons did to a policy: rows of `rllib-nbsp causal` -> a table with intervals, words and a figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rllib_nbsp.reading import MAX_ROWS_BYTES, Unreadable, read_bytes

from . import statistics
from .errors import DataError
from .text import number, signed, to_markdown

SETS = ("skill", "random", "lowest", "matched")
INTERVENTIONS = ("zero", "mean", "resample")
MEASURES: dict[str, tuple[str, statistics.Limits]] = {
    "success": ("success lost", (-1.0, 1.0)),
    "reward": ("reward lost, of its size", statistics.UNBOUNDED),
    "rank": ("order of values lost", (0.0, 2.0)),
    "value": ("change of values, in their SD", (0.0, np.inf)),
}
"""What is damaged -> its words and limits. Of the actor: success lost; and mean reward a step lost, over the size of
the intact policy's mean in the task. Of a critic, on the intact policy's rollout: 1 less Spearman's correlation of its
values with the intact ones; and the root mean square of their change over their standard deviation."""

DAMAGE_COLUMNS: dict[str, str] = {
    "visit": "whose skill neurons these are",
    "trained_task": "the visit's task",
    "task": "in which the policy was played",
    "network": "policy, qf or qf_twin: where neurons were silenced",
    "intervention": "zero, mean or resample: what took their place",
    "measure": "success, reward (policy), rank or value (critics): what is damaged",
    "set": "skill, or as many others of each layer: random, lowest scores, matched mean activation",
    "size": "neurons in the set",
    "constant": "of them never, or always, above their mean when they were scored, mean over repeats",
    "mean": "damage, mean over repeats",
    "low": "lower end of its 95 % interval",
    "high": "upper end",
    "n": "repeats",
    "skill_over": "damage of the skill neurons less that of this set, mean over repeats",
    "skill_over_low": "lower end of its 95 % interval",
    "skill_over_high": "upper end",
}
"""Columns of `damage_table`."""


@dataclass(frozen=True)
class CausalReport:
    """Where it lies and what it says."""

    path: Path
    text: pd.DataFrame


def load_damages(path: str | Path) -> pd.DataFrame:
    """The rows of one visit's file, as `rllib_nbsp.causal.Damage` describes them.

    Raises:
        DataError: if it cannot be read or is no such file.
    """
    try:
        frame = pd.read_csv(io.BytesIO(read_bytes(Path(path), MAX_ROWS_BYTES)))
    except (OSError, Unreadable, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    wanted = {"visit", "trained_task", "task", "network", "intervention", "set", "repeat", "size", "constant"}
    wanted |= {"success", "intact_success", "mean_reward", "intact_mean_reward", "value_error", "rank_damage"}
    if missing := sorted(wanted - set(frame.columns)):
        raise DataError(f"{path}: not a file of `rllib-nbsp causal`: it has no {', '.join(missing)}")
    return frame


def damage_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Damage with 95 % intervals over repeats, a row per task, network, intervention, measure and set.

    Repeats are paired: in each one all sets meet the same episode, and the skill neurons' damage less another set's
    is of the same repeat.

    Args:
        rows: of `load_damages`.

    Returns:
        The columns of `DAMAGE_COLUMNS`; `skill_over` is NaN for the skill neurons themselves.
    """
    size = rows.groupby("task")["intact_mean_reward"].transform(lambda own: abs(own.mean()))
    damage = {
        "success": rows["intact_success"] - rows["success"],
        "reward": (rows["intact_mean_reward"] - rows["mean_reward"]) / size.where(size > 0),
        "rank": rows["rank_damage"],
        "value": rows["value_error"],
    }
    keys = ["visit", "trained_task", "task", "network", "intervention"]
    found = []
    for measure, values in damage.items():
        told = rows.assign(damage=values).dropna(subset="damage")
        for key, own in told.groupby(keys, sort=False):
            by_set = {name: part.set_index("repeat")["damage"].to_dict() for name, part in own.groupby("set")}
            for name in (name for name in SETS if name in by_set):
                estimate = _interval(measure, list(by_set[name].values()))
                over = statistics.paired_differences(by_set.get("skill", {}), by_set[name]) if name != "skill" else {}
                between = _interval(measure, list(over.values()), differences=True)
                part = own[own["set"] == name]
                found.append(
                    dict(zip(keys, key, strict=True))
                    | {"measure": measure, "set": name}
                    | {"size": int(part["size"].iloc[0]), "constant": float(part["constant"].mean())}
                    | {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "n": estimate.n}
                    | {"skill_over": between.mean, "skill_over_low": between.low, "skill_over_high": between.high}
                )
    return pd.DataFrame(found, columns=list(DAMAGE_COLUMNS))


def _interval(measure: str, values: list[float], differences: bool = False) -> statistics.Interval:
    limits = MEASURES[measure][1]
    if measure == "success":
        return statistics.sure_interval(values, limits)  # all or nothing: twenty equal repeats are no certainty
    return statistics.interval(values, limits=statistics.UNBOUNDED if differences else limits)


def damage_text(table: pd.DataFrame) -> pd.DataFrame:
    """`damage_table` as a matrix of text: a column for each set, and the skill neurons less random and matched ones."""
    rows = []
    keys = ["visit", "task", "network", "measure", "intervention"]
    for key, own in table.groupby(keys, sort=False):
        sets = own.set_index("set").to_dict("index")
        cells: dict[str, str] = dict(zip(("Visit", "Task", "Network", "Damage", "Set to"), map(str, key), strict=True))
        cells["Damage"] = MEASURES[cells["Damage"]][0]
        if "skill" in sets:
            cells["Neurons"] = f"{sets['skill']['size']}, {sets['skill']['constant']:.0f} constant"
        cells |= {name.capitalize(): _cell(sets[name], "mean", "low", "high") for name in SETS if name in sets}
        for name in ("random", "matched"):
            if name in sets:
                cells[f"Skill less {name}"] = _signed_cell(sets[name])
        rows.append(cells)
    return pd.DataFrame(rows)


def _cell(row: dict[str, Any], mean: str, low: str, high: str) -> str:
    span = f" [{number(row[low])}, {number(row[high])}]" if np.isfinite(row[low]) else ""
    return number(row[mean]) + span


def _signed_cell(row: dict[str, Any]) -> str:
    low, high = row["skill_over_low"], row["skill_over_high"]
    return signed(row["skill_over"]) + (f" [{signed(low)}, {signed(high)}]" if np.isfinite(low) else "")


def causal_figure(table: pd.DataFrame) -> Figure:
    """Damage of each set with its interval: a row of panels per task and network, a column per intervention."""
    shown = table[table["measure"].isin(["rank", "success" if "success" in set(table["measure"]) else "reward"])]
    lines = list(shown[["task", "network"]].drop_duplicates().itertuples(index=False, name=None))
    figure = Figure(figsize=(9.0, 0.6 + 1.35 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), len(INTERVENTIONS), squeeze=False, sharey=True)
    for (task, network), row in zip(lines, axes, strict=True):
        own = shown[(shown["task"] == task) & (shown["network"] == network)]
        for how, ax in zip(INTERVENTIONS, row, strict=True):
            draw_damages(ax, own[own["intervention"] == how])
            ax.set_title(f"{task}, {network}, {how}", fontsize=8.5)
        row[0].set_xlabel(MEASURES[own["measure"].iloc[0]][0], fontsize=8)
    return figure


def draw_damages(ax: Axes, rows: pd.DataFrame) -> None:
    """One panel: the damage of each set of neurons, in the order of `SETS` from the top.

    Args:
        ax: where.
        rows: of `damage_table`, of one task, network, intervention and measure.
    """
    ax.axvline(0.0, color="#BBBBBB", linewidth=0.8)
    for place, name in enumerate(SETS):
        for row in rows[rows["set"] == name].to_dict("records"):
            color, marker = ("#0072B2", "D") if name == "skill" else ("#555555", "o")
            ax.plot([row["low"], row["high"]], [place, place], color=color, linewidth=1.6)
            ax.plot([row["mean"]], [place], marker, color=color, markersize=5)
    ax.set_yticks(range(len(SETS)), SETS, fontsize=8)
    ax.set_ylim(len(SETS) - 0.5, -0.5)
    ax.tick_params(axis="x", labelsize=8)


def write_causal_report(files: Sequence[str | Path]) -> list[CausalReport]:
    """For each visit's file a table, words and a figure, of its name with `_damage.csv`, `.md` and `.png`, beside it.

    Raises:
        DataError: if a file cannot be read.
        OSError: if the folder cannot be written.
    """
    reports = []
    for path in map(Path, files):
        table = damage_table(load_damages(path))
        text = damage_text(table)
        path.with_name(f"{path.stem}_damage.csv").write_text(table.to_csv(index=False, lineterminator="\n"))
        words = "\n".join(f"- **{name}**: {what}." for name, what in DAMAGE_COLUMNS.items())
        parts = [f"# Silenced neurons, {path.stem}", to_markdown(text), f"![damage]({path.stem}.png)"]
        path.with_suffix(".md").write_text("\n\n".join([*parts, "## Columns", words]) + "\n", encoding="utf-8")
        causal_figure(table).savefig(path.with_suffix(".png"), dpi=130, metadata={"Software": None})
        reports.append(CausalReport(path.with_suffix(".md"), text))
    return reports
