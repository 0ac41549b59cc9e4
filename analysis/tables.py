"""Frames -> tables of numbers: metrics and costs per seed, means with intervals per arm."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from . import metrics, statistics
from .errors import UnknownNameError, check_known
from .schema import COSTS, Results, Run, TaskOrder
from .skill import with_significance

SUMMARY = {"asr": "ASR ↑", "fm": "FM ↓", "fwt": "FWT ↑", "final_success": "Final ↑", "relearn": "Relearn ↑"}
"""Columns of the summary and their headings: the paper's three, success after the last visit, before retraining."""

VALUES = ("score", "success_rate", "mean_return")
"""What a success array may hold."""

THRESHOLD = 0.9
"""Success rate that counts as mastery (Table 6 of the paper)."""


@dataclass(frozen=True)
class SuccessArray:
    """Success after every visit on every task: `values[seed, visit, task]`, NaN where nothing was measured."""

    values: metrics.FloatArray
    seeds: list[int]
    order: TaskOrder
    visits: list[int]
    """Of each seed, how many visits it was to make: all, or those that it began before it was cut off as planned."""

    def missing(self, protocol: str = "nbsp-visits") -> list[list[tuple[int, str]]]:
        """For each seed the cells that a protocol needs and that have no value, as (visit from 1, task)."""
        needed = metrics.needed_cells(metrics.visits_of(self.order.order, protocol), len(self.order.tasks), protocol)
        gaps = needed & ~np.isfinite(self.values[:, : len(needed)])
        return [
            [(int(visit) + 1, self.order.tasks[task]) for visit, task in np.argwhere(seed[:visits])]
            for seed, visits in zip(gaps, self.visits, strict=True)
        ]


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
    check_known("sequence", sequence, frame["sequence"].unique())
    check_known("arm", arm, frame["arm"].unique())
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
    runs = {run.seed: run for run in results.runs if (run.sequence, run.arm) == (sequence, arm)}
    visits = [_visits_of(runs.get(seed), boundary[boundary["seed"] == seed], len(order.order)) for seed in seeds]
    return SuccessArray(values, seeds, order, visits)


def _visits_of(run: Run | None, boundary: pd.DataFrame, every: int) -> int:
    """How many of the visits a run was to make, given its rows at their ends."""
    if run is None or run.stop_env_steps is None or boundary.empty:
        return every
    main = boundary["env_steps"].max() - run.cost.get("auxiliary_env_steps", 0)
    return int(boundary["visit"].max()) if main >= run.stop_env_steps else every


def metric_values(results: Results, protocol: str = "nbsp-visits") -> pd.DataFrame:
    """All metrics of every seed.

    Returns:
        Columns sequence, arm, method, seed, protocol, those of `SUMMARY`, `asr_cycle_1` and so on, missing_cells,
        complete. A metric is NaN when a cell that it needs is missing, and when it is not defined (forgetting with one
        task, `relearn` with one cycle). Those of a run that was to see a part of a lifetime are over the visits that it
        began, and no cycle's.
    """
    metrics.get_protocol(protocol)
    frames = []
    for (sequence, arm), rows in results.evaluations.groupby(["sequence", "arm"]):
        success = success_array(results, sequence, arm)
        missing = np.array([len(cells) for cells in success.missing(protocol)])
        for visits in sorted(set(success.visits)):
            own = [place for place, made in enumerate(success.visits) if made == visits]
            values, order = success.values[own, :visits], success.order.order[:visits]
            frame = pd.DataFrame(
                {
                    "sequence": sequence,
                    "arm": arm,
                    "method": rows["method"].iloc[-1],
                    "seed": [success.seeds[place] for place in own],
                    "protocol": protocol,
                    **{name: metric(values, order, protocol=protocol) for name, metric in metrics.METRICS.items()},
                    "final_success": metrics.final_success(values),
                    "relearn": metrics.relearn(values, order),
                    "missing_cells": missing[own],
                    "complete": missing[own] == 0,
                }
            )
            # Of a part of the visits it cannot be told what their cycle is.
            whole = visits == len(success.order.order)
            for name, by_cycle in metrics.per_cycle(values, order).items() if whole else ():
                for cycle in range(by_cycle.shape[-1]):
                    frame[f"{name}_cycle_{cycle + 1}"] = by_cycle[:, cycle]
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def comparable(results: Results, values: pd.DataFrame) -> pd.DataFrame:
    """The metrics without those of arms that saw a part of a lifetime, unless all of them did.

    Args:
        results: a loaded study.
        values: the output of `metric_values`.
    """
    whole = values[~values["arm"].isin(results.cut_arms)]
    return values if whole.empty else whole


def expected_seeds(results: Results) -> dict[tuple[str, str], list[int]]:
    """The seeds of each (sequence, arm): those that study.yaml lists, and those that were found beside them."""
    study = results.study
    listed = itertools.product(study.sequences, study.arms) if study else ()
    expected = {pair: set(study.seeds if study else ()) for pair in listed}
    for run in results.runs:
        expected.setdefault((run.sequence, run.arm), set()).add(run.seed)
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
        `_half_width`, `_low`, `_high` (NaN when fewer than 2 seeds have a value; cut to what the metric can be), `_n`,
        `_interval` (none, t or bootstrap), and `_sure_low` and `_sure_high` (`statistics.sure_interval`; NaN of
        returns, which have no limits).
    """
    ranks = {arm: rank for rank, arm in enumerate(arm_order(results))}
    protocol = str(values["protocol"].iloc[0])
    rows = []
    for (sequence, arm), seeds in sorted(
        expected_seeds(results).items(), key=lambda item: (item[0][0], ranks[item[0][1]])
    ):
        own = values[(values["sequence"] == sequence) & (values["arm"] == arm)]
        row: dict[str, Any] = {
            "sequence": sequence,
            "arm": arm,
            "method": own["method"].iloc[0] if len(own) else None,
            "protocol": protocol,
            "n_expected": len(seeds),
            "n_found": sum(run.sequence == sequence and run.arm == arm for run in results.runs),
            "n_complete": int(own.loc[own["seed"].isin(seeds), "complete"].sum()),
        }
        for name in SUMMARY:
            limits = metrics.limits_of(name, results.of_returns, protocol)
            estimate = statistics.interval(own[name], limits=limits)
            row |= {
                f"{name}_mean": estimate.mean,
                f"{name}_half_width": estimate.half_width,
                f"{name}_low": estimate.low,
                f"{name}_high": estimate.high,
                f"{name}_n": estimate.n,
                f"{name}_interval": estimate.kind,
                **sure_columns(name, own[name], limits),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def sure_columns(name: str, values: ArrayLike, limits: statistics.Limits) -> dict[str, float]:
    """The interval that covers whatever kind of data: columns `_sure_low` and `_sure_high`; NaN without limits."""
    if not np.isfinite(limits).all():
        return {f"{name}_sure_low": np.nan, f"{name}_sure_high": np.nan}
    sure = statistics.sure_interval(values, limits)
    return {f"{name}_sure_low": sure.low, f"{name}_sure_high": sure.high}


def is_partial(table: pd.DataFrame) -> bool:
    """Whether any expected seed is missing or has an incomplete matrix."""
    return bool((table["n_complete"] < table["n_expected"]).any())


def cost_values(results: Results) -> pd.DataFrame:
    """What each run used.

    Returns:
        Columns sequence, arm, seed, env_steps, updates, wall_s, env_steps_per_s; updates_per_s, the median over the
        reporting intervals that had updates; and those of `schema.COSTS`, NaN in a run that left no `cost.json`.
    """
    counts, label = ["env_steps", "updates"], ["sequence", "arm", "seed"]
    rows = []
    frames = [frame[[*label, *counts]] for frame in (results.training, results.evaluations) if len(frame)]
    used = dict(iter(pd.concat(frames).groupby(label)[counts].max().iterrows()))
    trained = dict(iter(results.training.groupby(label)[["wall_s", "updates_per_s"]]))
    for run in results.runs:
        most = used.get((run.sequence, run.arm, run.seed))
        if most is None:
            continue
        own = trained.get((run.sequence, run.arm, run.seed), results.training.iloc[:0])
        steps, seconds = int(most["env_steps"]), _elapsed(own["wall_s"].dropna())
        rows.append(
            {
                "sequence": run.sequence,
                "arm": run.arm,
                "seed": run.seed,
                "env_steps": steps,
                "updates": most["updates"],
                "wall_s": seconds,
                "env_steps_per_s": steps / seconds if seconds > 0 else float("nan"),
                "updates_per_s": _median_of_positive(own["updates_per_s"]),
                **{name: run.cost.get(name, float("nan")) for name in COSTS},
            }
        )
    columns = ["sequence", "arm", "seed", *counts, "wall_s", "env_steps_per_s", "updates_per_s", *COSTS]
    return pd.DataFrame(rows, columns=columns)


def cost_over_baseline(costs: pd.DataFrame, baseline: str | None) -> pd.DataFrame:
    """Mean over seeds of what a method costs, a row per sequence and arm, and how it compares with the baseline.

    Args:
        costs: the output of `cost_values`.
        baseline: the arm to compare with: `differences.baseline_of`.

    Returns:
        Columns sequence, arm, updates_per_s, the sizes among `schema.COSTS`; time_ratio, the time of an update over
        that of the baseline, and parameters_ratio. NaN where a run left no such number, or there is no such arm.
    """
    sizes = ["trainable_parameters", "network_bytes", "method_bytes", "prior_bytes"]
    means = costs.groupby(["sequence", "arm"], as_index=False, sort=False)[["updates_per_s", *sizes]].mean()
    own = means[means["arm"] == baseline].set_index("sequence").reindex(means["sequence"])
    return means.assign(
        time_ratio=own["updates_per_s"].to_numpy() / means["updates_per_s"],
        parameters_ratio=means["trainable_parameters"] / own["trainable_parameters"].to_numpy(),
    )


def threshold_values(
    results: Results, threshold: float = THRESHOLD, quantity: Literal["evaluation", "training"] = "evaluation"
) -> pd.DataFrame:
    """Environment steps of each visit until its task was mastered; NaN where it never was.

    Args:
        results: a loaded study.
        threshold: success rate to reach.
        quantity: whose success, of all runs alike. `evaluation`: of the periodic evaluations and that at the visit's
            end, which are what curves show; `training`: of the window of training episodes, which ends a visit early.
            Runs that have none of it are left out.

    Returns:
        Columns sequence, arm, seed, visit, task, env_steps_to_threshold, quantity; a row for each visit that is over.
    """
    rows = []
    runs = ["sequence", "arm", "seed"]
    if results.of_returns:
        return pd.DataFrame()
    counted = results.training.dropna(subset=["visit_env_steps"])
    by_run = {run: rows for run, rows in counted.groupby(runs) if rows["success_window"].notna().any()}
    evaluations = results.evaluations
    columns = ("visit", "eval_task", "env_steps", "score")
    visits, tasks, env_steps, scores = (evaluations[name].to_numpy() for name in columns)
    boundary = (evaluations["phase"] == "boundary").to_numpy()
    for (sequence, arm, seed), evaluated in sorted(evaluations.groupby(runs).indices.items()):
        order = results.orders[sequence]
        trained = by_run.get((sequence, arm, seed)) if quantity == "training" else None
        if quantity == "training" and trained is None:
            continue
        start = 0
        for visit in range(1, len(order.order) + 1):
            task = order.tasks[order.order[visit - 1]]
            inside = evaluated[visits[evaluated] == visit]
            if not boundary[inside].any():
                continue  # Not finished: it may still get there.
            if trained is not None:
                own = _last_stretch(trained[trained["visit"] == visit]).dropna(subset=["success_window"])
                steps, success = own["visit_env_steps"].to_numpy(), own["success_window"].to_numpy()
            else:
                of_task = inside[tasks[inside] == task]
                of_task = of_task[np.argsort(env_steps[of_task], kind="stable")]
                steps, success = env_steps[of_task] - start, scores[of_task]
            start = int(env_steps[inside].max())
            rows.append(
                {
                    "sequence": sequence,
                    "arm": arm,
                    "seed": seed,
                    "visit": visit,
                    "task": task,
                    "env_steps_to_threshold": metrics.env_steps_to_threshold(steps, success, threshold),
                    "quantity": quantity,
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
        neurons), constant_skill_frac and significant_skill_frac (of the skill neurons; NaN when there are none),
        max_score.
    """
    if neurons.empty:
        return pd.DataFrame()
    frame = with_significance(neurons)
    frame["constant_skill"] = frame["constant"].where(frame["skill"]).astype(float)
    frame["significant_skill"] = frame["significant"].where(frame["skill"] & frame["q_value"].notna()).astype(float)
    keys = ["sequence", "arm", "visit", "task", "network"]
    return frame.groupby(keys, as_index=False, sort=True).agg(
        seeds=("seed", "nunique"),
        label_rate=("label_rate", "mean"),
        skill_frac=("skill", "mean"),
        constant_frac=("constant", "mean"),
        constant_skill_frac=("constant_skill", "mean"),
        significant_skill_frac=("significant_skill", "mean"),
        max_score=("score", "max"),
    )


def _median_of_positive(values: pd.Series) -> float:
    return float(values[values > 0].median())


def _elapsed(clock: Iterable[float]) -> float:
    """Seconds that a clock counted; where it falls back, a resumed run started it again."""
    total, last = 0.0, 0.0
    for now in clock:
        total += now - last if now >= last else now
        last = now
    return total if last else float("nan")
