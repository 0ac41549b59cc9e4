"""Frames -> tables: numbers per seed, means with intervals per arm, and the same as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import metrics
from analysis.errors import UnknownNameError
from analysis.load import COSTS, Results, TaskOrder, check_name, load_paper

SUMMARY = {"asr": "ASR ↑", "fm": "FM ↓", "fwt": "FWT ↑", "final_success": "Final ↑", "relearn": "Relearn ↑"}
"""Columns of the summary and their headings: the paper's three, success after the last visit, before retraining."""

VALUES = ("score", "success_rate", "mean_return")
"""What a success array may hold."""

THRESHOLD = 0.9
"""Success rate that counts as mastery (Table 6 of the paper)."""

NO_VALUE = "–"  # noqa: RUF001, a dash reads better in a table than a hyphen

PAPER_METHODS = {
    "sac": "Base",
    "ewc": "EWC",
    "npc": "NPC",
    "ancl": "ANCL",
    "cotasp": "CoTASP",
    "crelu": "CReLU",
    "cbp": "CBP",
    "plasticity_injection": "PI",
}
"""Registered methods -> the paper's names; NBSP and its ablations are told apart by their settings."""

RECONSTRUCTIONS = {"npc": "NPC (reconstruction)"}
"""Registered methods that are rebuilt without their source's equations -> what summary and comparison call them."""


@dataclass(frozen=True)
class SuccessArray:
    """Success after every visit on every task: `values[seed, visit, task]`, NaN where nothing was measured."""

    values: metrics.FloatArray
    seeds: list[int]
    order: TaskOrder

    def missing(self, protocol: str = "nbsp-visits") -> list[list[tuple[int, str]]]:
        """For each seed the cells that a protocol needs and that have no value, as (visit from 1, task)."""
        needed = metrics.needed_cells(metrics.visits_of(self.order.order, protocol), len(self.order.tasks))
        gaps = needed & ~np.isfinite(self.values[:, : len(needed)])
        return [[(int(visit) + 1, self.order.tasks[task]) for visit, task in np.argwhere(seed)] for seed in gaps]


def success_array(results: Results, sequence: str, arm: str, value: str = "score") -> SuccessArray:
    """The boundary rows of one arm as an array [seed, visit, task].

    Args:
        results: a loaded study.
        sequence: name of the task sequence.
        arm: name of the arm.
        value: `score`, which is success or, on Atari, the normalised return; `success_rate` or `mean_return`.

    Raises:
        UnknownNameError: for a name that the study does not have.
    """
    frame = results.evaluations
    check_name("sequence", sequence, frame["sequence"])
    check_name("arm", arm, frame["arm"])
    if value not in VALUES:
        raise UnknownNameError("value", value, VALUES)
    order = results.orders[sequence]
    rows = frame[(frame["sequence"] == sequence) & (frame["arm"] == arm)]
    seeds = sorted(int(seed) for seed in rows["seed"].unique())
    values = np.full((len(seeds), len(order.order), len(order.tasks)), np.nan)
    boundary = rows[(rows["phase"] == "boundary") & rows["eval_task"].isin(order.tasks)]
    # A visit that was resumed may have ended twice: the rows written last count.
    for seed, visit, task, number in boundary[["seed", "visit", "eval_task", value]].itertuples(index=False):
        values[seeds.index(seed), visit - 1, order.tasks.index(task)] = number
    return SuccessArray(values, seeds, order)


# Numbers


def metric_values(results: Results, protocol: str = "nbsp-visits") -> pd.DataFrame:
    """All metrics of every seed.

    Returns:
        Columns sequence, arm, method, seed, protocol, those of `SUMMARY`, `asr_cycle_1` and so on, missing_cells,
        complete. A metric is NaN when a cell that it needs is missing, and when it is not defined (forgetting with one
        task, `relearn` with one cycle).
    """
    metrics.get_protocol(protocol)
    frames = []
    for (sequence, arm), rows in results.evaluations.groupby(["sequence", "arm"]):
        success = success_array(results, sequence, arm)
        order = success.order.order
        missing = [len(cells) for cells in success.missing(protocol)]
        frame = pd.DataFrame(
            {
                "sequence": sequence,
                "arm": arm,
                "method": rows["method"].iloc[-1],
                "seed": success.seeds,
                "protocol": protocol,
                **{name: metric(success.values, order, protocol=protocol) for name, metric in metrics.METRICS.items()},
                "final_success": metrics.final_success(success.values),
                "relearn": metrics.relearn(success.values, order),
                "missing_cells": missing,
                "complete": [count == 0 for count in missing],
            }
        )
        for name, by_cycle in metrics.per_cycle(success.values, order).items():
            for cycle in range(by_cycle.shape[-1]):
                frame[f"{name}_cycle_{cycle + 1}"] = by_cycle[:, cycle]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def expected_seeds(results: Results) -> dict[tuple[str, str], list[int]]:
    """The seeds that each (sequence, arm) should have: those of study.yaml, else those that were found."""
    expected: dict[tuple[str, str], set[int]] = {}
    if results.study:
        for sequence in results.study.sequences:
            for arm in results.study.arms:
                expected[sequence, arm] = set(results.study.seeds)
    for run in results.runs:
        expected.setdefault((run.sequence, run.arm), set())
        if not results.study or (run.sequence, run.arm) not in _pairs(results):
            expected[run.sequence, run.arm].add(run.seed)
    return {pair: sorted(seeds) for pair, seeds in expected.items()}


def arm_order(results: Results) -> list[str]:
    """Arms as the study lists them, fine-tuning and NBSP first where it does not; colours and rows follow it."""
    found = {run.arm for run in results.runs} | set(results.study.arms if results.study else ())
    listed = list(dict.fromkeys([*(results.study.arms if results.study else ()), "sac", "nbsp", *sorted(found)]))
    return [arm for arm in listed if arm in found]


def metric_table(results: Results, values: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds and 95 % interval of each metric, a row per sequence and arm.

    Args:
        results: a loaded study.
        values: the output of `metric_values`.

    Returns:
        Columns sequence, arm, method, protocol, n_expected, n_found, n_complete, and for each metric `_mean`,
        `_half_width`, `_low`, `_high` (NaN when fewer than 2 seeds have a value), `_n`, and `_interval` (none, t or
        bootstrap).
    """
    ranks = {arm: rank for rank, arm in enumerate(arm_order(results))}
    rows = []
    for (sequence, arm), seeds in sorted(
        expected_seeds(results).items(), key=lambda item: (item[0][0], ranks[item[0][1]])
    ):
        own = values[(values["sequence"] == sequence) & (values["arm"] == arm)]
        row: dict[str, Any] = {
            "sequence": sequence,
            "arm": arm,
            "method": own["method"].iloc[0] if len(own) else None,
            "protocol": values["protocol"].iloc[0],
            "n_expected": len(seeds),
            "n_found": sum(run.sequence == sequence and run.arm == arm for run in results.runs),
            "n_complete": int(own.loc[own["seed"].isin(seeds), "complete"].sum()),
        }
        for name in SUMMARY:
            estimate = metrics.interval(own[name].to_numpy(dtype=float))
            row |= {
                f"{name}_mean": estimate.mean,
                f"{name}_half_width": estimate.half_width,
                f"{name}_low": estimate.low,
                f"{name}_high": estimate.high,
                f"{name}_n": estimate.n,
                f"{name}_interval": estimate.kind,
            }
        rows.append(row)
    return pd.DataFrame(rows)


def is_partial(table: pd.DataFrame) -> bool:
    """Whether any expected seed is missing or has an incomplete matrix."""
    return bool((table["n_complete"] < table["n_expected"]).any())


def cost_values(results: Results) -> pd.DataFrame:
    """What each run used.

    Returns:
        Columns sequence, arm, seed, env_steps, updates, wall_s, env_steps_per_s; updates_per_s, the median over the
        reporting intervals that had updates; and those of `load.COSTS`, NaN in a run that left no `cost.json`.
    """
    counts = ["env_steps", "updates"]
    rows = []
    for run in results.runs:
        own = [
            frame.loc[(frame["sequence"] == run.sequence) & (frame["arm"] == run.arm) & (frame["seed"] == run.seed)]
            for frame in (results.training, results.evaluations)
        ]
        used = pd.concat([frame[counts] for frame in own if len(frame)]) if any(map(len, own)) else None
        if used is None:
            continue
        steps, seconds = int(used["env_steps"].max()), _elapsed(own[0]["wall_s"].dropna())
        rows.append(
            {
                "sequence": run.sequence,
                "arm": run.arm,
                "seed": run.seed,
                "env_steps": steps,
                "updates": used["updates"].max(),
                "wall_s": seconds,
                "env_steps_per_s": steps / seconds if seconds > 0 else float("nan"),
                "updates_per_s": _median_of_positive(own[0]["updates_per_s"]),
                **{name: run.cost.get(name, float("nan")) for name in COSTS},
            }
        )
    columns = ["sequence", "arm", "seed", *counts, "wall_s", "env_steps_per_s", "updates_per_s", *COSTS]
    return pd.DataFrame(rows, columns=columns)


def cost_over_sac(costs: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of what a method costs, a row per sequence and arm, and how it compares with the arm "sac".

    Args:
        costs: the output of `cost_values`.

    Returns:
        Columns sequence, arm, updates_per_s, the sizes among `load.COSTS`; time_ratio, the time of an update over that
        of the arm "sac", and parameters_ratio. NaN where a run left no such number, or there is no such arm.
    """
    sizes = ["trainable_parameters", "network_bytes", "method_bytes", "prior_bytes"]
    means = costs.groupby(["sequence", "arm"], as_index=False, sort=False)[["updates_per_s", *sizes]].mean()
    sac = means[means["arm"] == "sac"].set_index("sequence").reindex(means["sequence"])
    return means.assign(
        time_ratio=sac["updates_per_s"].to_numpy() / means["updates_per_s"],
        parameters_ratio=means["trainable_parameters"] / sac["trainable_parameters"].to_numpy(),
    )


def threshold_values(results: Results, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Environment steps of each visit until its task was mastered; NaN where it never was.

    Success is the training window's; for runs without one, that of the periodic evaluations.

    Returns:
        Columns sequence, arm, seed, visit, task, env_steps_to_threshold, source (training or evaluation).
    """
    rows = []
    runs = ["sequence", "arm", "seed"]
    if results.of_returns:
        return pd.DataFrame()
    counted = results.training.dropna(subset=["visit_env_steps"])
    by_run = {run: rows for run, rows in counted.groupby(runs) if rows["success_window"].notna().any()}
    for (sequence, arm, seed), evaluated in results.evaluations.groupby(runs):
        order = results.orders[sequence]
        trained = by_run.get((sequence, arm, seed))
        start = 0
        for visit in range(1, len(order.order) + 1):
            task = order.tasks[order.order[visit - 1]]
            inside = evaluated[evaluated["visit"] == visit]
            if not (inside["phase"] == "boundary").any():
                continue  # Not finished: it may still get there.
            if trained is not None:
                own = _last_stretch(trained[trained["visit"] == visit]).dropna(subset=["success_window"])
                steps, success = own["visit_env_steps"], own["success_window"]
            else:
                own = inside[inside["eval_task"] == task].sort_values("env_steps", kind="stable")
                steps, success = own["env_steps"] - start, own["score"]
            start = int(inside["env_steps"].max())
            rows.append(
                {
                    "sequence": sequence,
                    "arm": arm,
                    "seed": seed,
                    "visit": visit,
                    "task": task,
                    "env_steps_to_threshold": metrics.env_steps_to_threshold(steps, success, threshold),
                    "source": "evaluation" if trained is None else "training",
                }
            )
    return pd.DataFrame(rows)


def _last_stretch(rows: pd.DataFrame) -> pd.DataFrame:
    """A visit's rows from the last time on that its steps were counted from 0: ANCL's auxiliary run stands before."""
    again = rows["visit_env_steps"].diff() < 0
    return rows[again.cumsum() == again.sum()]


def neuron_summary(neurons: pd.DataFrame) -> pd.DataFrame:
    """What was selected in each network after each visit, averaged over seeds.

    A neuron whose activation is never, or always, above its mean follows no goal, yet Eq. 4 gives it max(p, 1 - p) for
    the label rate p: dead neurons may outrank informative ones.

    Returns:
        Columns sequence, arm, visit, task, network, seeds, label_rate, skill_frac (mask below 1), constant_frac (of all
        neurons), constant_skill_frac (of the skill neurons; NaN when there are none), max_score.
    """
    if neurons.empty:
        return pd.DataFrame()
    above = neurons["n11"] + neurons["n10"]
    steps = above + neurons["n01"] + neurons["n00"]
    frame = neurons.assign(constant=(above == 0) | (above == steps), skill=neurons["mask"] < 1)
    frame["constant_skill"] = frame["constant"].where(frame["skill"]).astype(float)
    keys = ["sequence", "arm", "visit", "task", "network"]
    return frame.groupby(keys, as_index=False, sort=True).agg(
        seeds=("seed", "nunique"),
        label_rate=("label_rate", "mean"),
        skill_frac=("skill", "mean"),
        constant_frac=("constant", "mean"),
        constant_skill_frac=("constant_skill", "mean"),
        max_score=("score", "max"),
    )


# The paper


# The values of NBSP's keys that some arm of the paper has, the default first.
PAPER_NBSP: dict[str, tuple[Any, ...]] = {
    "skill_frac": (0.2, 0.0),
    "score": ("literal", "random"),
    "mask_alpha": (0.2,),
    "mask_side": ("in",),
    "mask_last_layer": (False,),
    "accumulate": ("latest",),
    "pool": ("network",),
    "exclude_constant": (False,),
}


def paper_method(method: str, config: Mapping[str, Any]) -> str | None:
    """The paper's name for an arm: of its method or, for NBSP, of the one ablation that its settings make.

    Returns:
        None if the paper has no such arm, or it cannot be told because the run left no settings.
    """
    settings, replay = config.get("method_settings") or {}, config.get("replay") or {}
    if method != "nbsp":
        return None if settings.get("with_replay") else PAPER_METHODS.get(method)
    if not config or (config.get("boundary") or {}).get("reset_alpha"):
        return None
    if any(settings.get(key, values[0]) not in values for key, values in PAPER_NBSP.items()):
        return None
    ablations = [
        name
        for name, is_made in {
            "Mask-Only": settings.get("with_replay") is False or replay.get("prior_capacity") == 0,
            "Replay-Only": settings.get("skill_frac") == 0,
            "Random": settings.get("score") == "random",
            "Actor": settings.get("modules") == "actor",
            "Critic": settings.get("modules") == "critic",
            "": settings.get("uniform_lr", "off") != "off",
        }.items()
        if is_made
    ]
    if len(ablations) > 1:
        return None
    return (ablations[0] or None) if ablations else "NBSP"


def compare_with_paper(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Our means next to the published ones, a row per arm and metric that the paper has.

    Returns:
        Columns sequence, arm, method, metric, mean, half_width, low, high, n, paper_method, paper_mean, paper_spread,
        source, difference, reproduced (yes: the published mean lies in our interval; no; "n too small" under 2 seeds).
    """
    paper = load_paper().set_index(["tasks", "method", "metric"])
    configs = {(run.sequence, run.arm): run.config for run in results.runs}
    rows = []
    for row in table.itertuples(index=False):
        order = results.orders.get(row.sequence)
        name = paper_method(row.method, configs[row.sequence, row.arm]) if isinstance(row.method, str) else None
        # The paper cycles twice; another number of visits gives other numbers by arithmetic alone.
        if order is None or name is None or order.order != list(range(len(order.tasks))) * 2:
            continue
        tasks = " -> ".join(short_name(task) for task in order.tasks)
        for metric in metrics.METRICS:
            if (tasks, name, metric) in paper.index:
                published = paper.loc[(tasks, name, metric)]
                mean, low, high = (getattr(row, f"{metric}_{part}") for part in ("mean", "low", "high"))
                rows.append(
                    {
                        "sequence": row.sequence,
                        "arm": row.arm,
                        "method": row.method,
                        "metric": metric,
                        "mean": mean,
                        "half_width": getattr(row, f"{metric}_half_width"),
                        "low": low,
                        "high": high,
                        "n": getattr(row, f"{metric}_n"),
                        "paper_method": name,
                        "paper_mean": float(published["mean"]),
                        "paper_spread": float(published["spread"]),
                        "source": published["source"],
                        "difference": mean - float(published["mean"]),
                        "reproduced": _reproduced(low, high, float(published["mean"])),
                    }
                )
    return pd.DataFrame(rows)


def _reproduced(low: float, high: float, published: float) -> str:
    if not (np.isfinite(low) and np.isfinite(high)):
        return "n too small"
    return "yes" if low <= published <= high else "no"


# Text


def headings(of_returns: bool) -> dict[str, str]:
    """The columns of the summary; of returns, the paper calls ASR AR (Eq. 12)."""
    return {**SUMMARY, "asr": "AR ↑"} if of_returns else SUMMARY


def summary_text(table: pd.DataFrame, of_returns: bool = False) -> pd.DataFrame:
    """The metric table as text: a mean alone for one seed, never an interval of one."""
    rows = []
    for row in table.to_dict("records"):
        seeds, expected = row["n_complete"], row["n_expected"]
        cells = {"Sequence": row["sequence"], "Arm": arm_text(row["arm"], row["method"])}
        for name, heading in headings(of_returns).items():
            # Undefined (relearn with one cycle, say) is not the same as not measured yet.
            cells[heading] = estimate_text(row, name, NO_VALUE if seeds else "incomplete")
            if row[f"{name}_n"] not in (0, seeds):
                cells[heading] += f" (n={row[f'{name}_n']})"
        cells["Seeds"] = f"n={seeds}" if seeds == expected else f"n={seeds}/{expected}"
        rows.append(cells)
    return pd.DataFrame(rows)


def arm_text(arm: str, method: str | None) -> str:
    """An arm's name, and that its method is a reconstruction if it is."""
    return f"{arm}: {RECONSTRUCTIONS[method]}" if method in RECONSTRUCTIONS else arm


def estimate_text(row: Mapping[str, Any], name: str, empty: str = NO_VALUE) -> str:
    """`0.63 ± 0.12` with a t-interval, `0.63 [0.52, 0.71]` with a bootstrap, `0.63` for one seed."""
    mean = row[f"{name}_mean"]
    if not np.isfinite(mean):
        return empty
    if row[f"{name}_interval"] == "t":
        return f"{number(mean)} ± {row[f'{name}_half_width']:.2f}"
    if row[f"{name}_interval"] == "bootstrap":
        return f"{number(mean)} [{number(row[f'{name}_low'])}, {number(row[f'{name}_high'])}]"
    return number(mean)


def cycles_text(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of the three metrics in each cycle, a row per sequence and arm; empty with one cycle."""
    cycles = [name for name in values if re.fullmatch(r"(asr|fm|fwt)_cycle_\d+", name)]
    if not any(name.endswith("_2") for name in cycles):
        return pd.DataFrame()
    rows = []
    for (sequence, arm), own in values.groupby(["sequence", "arm"], sort=False):
        row = {"Sequence": sequence, "Arm": arm}
        for name in sorted(cycles, key=lambda name: (int(name.rsplit("_", 1)[1]), cycles.index(name))):
            metric, _, cycle = name.split("_")
            mean = metrics.interval(own[name].to_numpy(dtype=float)).mean
            row[f"{metric.upper()}, cycle {cycle}"] = number(mean)
        rows.append(row)
    return pd.DataFrame(rows)


def cost_text(costs: pd.DataFrame) -> pd.DataFrame:
    """Mean use over seeds, a row per sequence and arm."""
    rows = []
    for (sequence, arm), own in costs.groupby(["sequence", "arm"], sort=False):
        mean = own.drop(columns=["sequence", "arm", "seed"]).mean()
        rows.append(
            {
                "Sequence": sequence,
                "Arm": arm,
                "Env steps": steps_text(mean["env_steps"]),
                "Of them auxiliary": steps_text(mean["auxiliary_env_steps"]),
                "Scoring steps": steps_text(mean["scoring_env_steps"]),
                "Updates": steps_text(mean["updates"]),
                "Wall time": time_text(mean["wall_s"]),
                "Env steps/s": number(mean["env_steps_per_s"], 1),
                "Runs": str(len(own)),
            }
        )
    return pd.DataFrame(rows)


def cost_over_sac_text(costs: pd.DataFrame) -> pd.DataFrame:
    """`cost_over_sac` as text."""
    rows = [
        {
            "Sequence": row["sequence"],
            "Arm": row["arm"],
            "Updates/s": number(row["updates_per_s"], 1),
            "Time per update, × sac": number(row["time_ratio"]),  # noqa: RUF001
            "Parameters": steps_text(row["trainable_parameters"]),
            "Parameters, × sac": number(row["parameters_ratio"]),  # noqa: RUF001
            "Networks": bytes_text(row["network_bytes"]),
            "Method's state": bytes_text(row["method_bytes"]),
            "D_pre": bytes_text(row["prior_bytes"]),
        }
        for row in cost_over_sac(costs).to_dict("records")
    ]
    return pd.DataFrame(rows)


def threshold_text(values: pd.DataFrame, sequence: str) -> pd.DataFrame:
    """Mean env steps to mastery over the seeds that reached it, and how many did; a row per arm, a column per visit."""
    rows = []
    for arm, own in values[values["sequence"] == sequence].groupby("arm", sort=False):
        row = {"Arm": arm}
        for (visit, task), seeds in own.groupby(["visit", "task"]):
            reached = seeds["env_steps_to_threshold"].dropna()
            steps = steps_text(reached.mean()) if len(reached) else "never"
            row[f"{visit}: {short_name(task)}"] = f"{steps} ({len(reached)}/{len(seeds)})"
        rows.append(row)
    return pd.DataFrame(rows).fillna(NO_VALUE)


def neurons_text(summary: pd.DataFrame) -> pd.DataFrame:
    """`neuron_summary` as text."""
    rows = [
        {
            "Visit": f"{row['visit']}: {short_name(row['task'])}",
            "Network": row["network"],
            "Goal rate p": number(row["label_rate"]),
            "Skill neurons": percent(row["skill_frac"]),
            "Constant": percent(row["constant_frac"]),
            "Constant among skill": percent(row["constant_skill_frac"]),
            "Highest score": number(row["max_score"]),
            "Seeds": str(row["seeds"]),
        }
        for row in summary.to_dict("records")
    ]
    return pd.DataFrame(rows)


def comparison_text(comparison: pd.DataFrame) -> pd.DataFrame:
    """`compare_with_paper` as text."""
    rows = [
        {
            "Sequence": row["sequence"],
            "Arm": arm_text(row["arm"], row["method"]),
            "Metric": SUMMARY[row["metric"]],
            "Ours": number(row["mean"]) + (f" ± {row['half_width']:.2f}" if np.isfinite(row["half_width"]) else ""),
            "Seeds": f"n={row['n']}",
            "Paper": f"{row['paper_mean']:.2f} ± {row['paper_spread']:.2f}",
            "Source": f"{row['source']}, {row['paper_method']}",
            "Difference": signed(row["difference"]),
            "Reproduced": row["reproduced"],
        }
        for row in comparison.to_dict("records")
    ]
    return pd.DataFrame(rows)


def to_markdown(table: pd.DataFrame) -> str:
    """A text table as Markdown, its columns padded to line up in a terminal."""
    lines = [list(map(str, table.columns)), *([str(cell) for cell in row] for row in table.itertuples(index=False))]
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    padded = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "| " + " | ".join("-" * w for w in widths) + " |", *padded[1:]])


def number(value: float, digits: int = 2) -> str:
    """A number with fixed digits; a dash if there is none; never -0.00."""
    return f"{round(value, digits) + 0.0:.{digits}f}" if np.isfinite(value) else NO_VALUE


def signed(value: float) -> str:
    """A difference with its sign."""
    return ("+" if round(value, 2) > 0 else "") + number(value) if np.isfinite(value) else NO_VALUE


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.0f} %" if np.isfinite(value) else NO_VALUE


def steps_text(value: float) -> str:
    """A step count in thousands or millions."""
    if not np.isfinite(value):
        return NO_VALUE
    return f"{value / 1e6:.2f}M" if value >= 999_500 else f"{value / 1e3:.1f}k" if value >= 1_000 else f"{value:.0f}"


def bytes_text(value: float) -> str:
    """A size in bytes, kB, MB or GB of powers of ten."""
    if not np.isfinite(value):
        return NO_VALUE
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= 0.9995 * unit:
            return f"{value / unit:.1f} {name}"
    return f"{value:.0f} B"


def time_text(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if not np.isfinite(seconds):
        return NO_VALUE
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 5400
        else f"{seconds / 60:.1f} min"
        if seconds >= 90
        else f"{seconds:.0f} s"
    )


def short_name(task: str) -> str:
    """A task's name without its version: `window-open-v3` -> `window-open`."""
    return re.sub(r"-v\d+$", "", task)


def _pairs(results: Results) -> set[tuple[str, str]]:
    study = results.study
    return {(sequence, arm) for sequence in study.sequences for arm in study.arms} if study else set()


def _median_of_positive(values: pd.Series) -> float:
    return float(values[values > 0].median())


def _elapsed(clock: Iterable[float]) -> float:
    """Seconds that a clock counted; where it falls back, a resumed run started it again."""
    total, last = 0.0, 0.0
    for now in clock:
        total += now - last if now >= last else now
        last = now
    return total if last else float("nan")
