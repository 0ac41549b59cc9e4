"""What other papers would measure in a study's runs, and what became of each task."""

from __future__ import annotations

import numpy as np
import pandas as pd

from . import metrics, protocols, statistics
from .differences import baseline_of
from .protocols import MEASURES
from .schema import Results
from .tables import SuccessArray, arm_order, success_array
from .text import NO_VALUE, interval_text, short_name

TASK_COLUMNS = {
    "learned": "After own visits",
    "forgotten": "Lost while others trained",
    "before_retraining": "Before retraining",
    "final": "Final",
}
"""What a task table has of each task, and its headings."""

RUN = ["sequence", "arm", "seed"]


def measure_values(results: Results) -> pd.DataFrame:
    """The measures of other papers of every seed.

    FT compares each visit's curve, of periodic evaluations, with that of training its task from scratch: the baseline's
    first visits in the sequences that begin with it, all seeds together. CORA's Z starts from a run's first evaluation,
    as in its code.

    Returns:
        Columns sequence, arm, method, seed and those of `protocols.MEASURES`; NaN where what a measure needs is
        missing: for FT, min-ACC and AAA periodic evaluations (of all tasks visited so far), and for FT a sequence of
        the study that begins with each task.
    """
    areas = _areas(results)
    alone = _reference(results, areas)
    initial = _first_evaluations(results)
    frames = []
    for (sequence, arm), rows in results.evaluations.groupby(["sequence", "arm"]):
        success = success_array(results, sequence, arm)
        values, order, seeds = success.values, success.order.order, success.seeds
        curves = areas.reindex([(sequence, arm, seed) for seed in seeds]).to_numpy(dtype=float)[:, : len(order)]
        reference = [alone.get(success.order.tasks[task], np.nan) for task in order]
        starts = np.array([[initial.get((sequence, arm, s, t), np.nan) for t in success.order.tasks] for s in seeds])
        frames.append(
            pd.DataFrame(
                {
                    "sequence": sequence,
                    "arm": arm,
                    "method": rows["method"].iloc[-1],
                    "seed": seeds,
                    "chaudhry_a": protocols.average_performance(values, order),
                    "chaudhry_f": protocols.chaudhry_forgetting(values, order),
                    "continual_world_p": protocols.average_performance(values, order),
                    "continual_world_f": protocols.continual_world_forgetting(values, order),
                    "continual_world_ft": protocols.continual_world_transfer(curves, reference),
                    "cora_f": protocols.cora_forgetting(values, order),
                    "cora_z": protocols.cora_transfer(values, order, initial=starts),
                    "bwt": protocols.backward_transfer(values, order),
                    **_of_all_evaluations(rows, success),
                }
            )
        )
    return _in_order(results, pd.concat(frames, ignore_index=True))


def _of_all_evaluations(rows: pd.DataFrame, success: SuccessArray) -> dict[str, list[float]]:
    """min-ACC and AAA of each seed; NaN of one without periodic evaluations, or with visits to come."""
    found: dict[str, list[float]] = {"min_acc": [], "aaa": []}
    order, tasks = success.order.order, success.order.tasks
    for seed, ends in zip(success.seeds, success.values, strict=True):
        # Of a periodic and a boundary row at the same step the boundary row counts, as in curves.
        own = rows[rows["seed"] == seed].sort_values("phase", ascending=False, kind="stable")
        own = own.drop_duplicates(["visit", "env_steps", "eval_task"], keep="last")
        scores = own.pivot(index=["visit", "env_steps"], columns="eval_task", values="score").reindex(columns=tasks)
        visit = scores.index.get_level_values("visit").to_numpy() - 1
        known = "periodic" in set(own["phase"]) and np.isfinite(ends[-1]).all()
        found["min_acc"].append(float(protocols.minimum_accuracy(scores, visit, order)) if known else np.nan)
        found["aaa"].append(float(protocols.anytime_accuracy(scores, visit, order)) if known else np.nan)
    return found


def measures_text(values: pd.DataFrame, of_returns: bool = False) -> pd.DataFrame:
    """The means of `measure_values` with their 95 % intervals, a row per sequence and arm."""
    rows = []
    for (sequence, arm), own in values.groupby(["sequence", "arm"], sort=False):
        limits = {name: (-np.inf, np.inf) if of_returns else measure.limits for name, measure in MEASURES.items()}
        cells = {measure.heading: _mean(own[name], limits[name]) for name, measure in MEASURES.items()}
        rows.append({"Sequence": sequence, "Arm": arm, **cells})
    return pd.DataFrame(rows)


def task_values(results: Results) -> pd.DataFrame:
    """What became of each task in every seed.

    Returns:
        Columns sequence, arm, seed, task, learned (mean success at the end of its own visits), forgotten (mean over
        visits to other tasks of how far it was below its best since first learned), before_retraining (mean success
        before it was trained again; NaN with one cycle) and final (success after the last visit).
    """
    frames = []
    for sequence, arm in results.evaluations[["sequence", "arm"]].drop_duplicates().itertuples(index=False):
        success = success_array(results, sequence, arm)
        order, tasks = np.array(success.order.order), success.order.tasks
        ends = success.values[:, np.arange(len(order)), order]
        learned = np.stack([ends[:, order == task].mean(axis=1) for task in range(len(tasks))], axis=1)
        by_task = {
            "learned": learned,
            "forgotten": metrics.forgetting_by_task(success.values, order),
            "before_retraining": metrics.relearn_by_task(success.values, order),
            "final": success.values[:, -1, :],
        }
        for column, task in enumerate(tasks):
            cells = {name: numbers[:, column] for name, numbers in by_task.items()}
            frames.append(
                pd.DataFrame({"sequence": sequence, "arm": arm, "seed": success.seeds, "task": task, **cells})
            )
    return _in_order(results, pd.concat(frames, ignore_index=True))


def tasks_text(values: pd.DataFrame, of_returns: bool = False) -> pd.DataFrame:
    """The means of `task_values` with their 95 % intervals, a row per sequence, arm and task."""
    rows = []
    for (sequence, arm, task), own in values.groupby(["sequence", "arm", "task"], sort=False):
        cells = {}
        for name, heading in TASK_COLUMNS.items():
            limits = (-1.0, 1.0) if name == "forgotten" else (0.0, 1.0)
            cells[heading] = _mean(own[name], (-np.inf, np.inf) if of_returns else limits)
        rows.append({"Sequence": sequence, "Arm": arm, "Task": short_name(task), **cells})
    return pd.DataFrame(rows)


def _mean(values: pd.Series, limits: statistics.Limits) -> str:
    estimate = statistics.interval(values, limits=limits)
    return interval_text(estimate.mean, estimate.low, estimate.high) if estimate.n else NO_VALUE


def _in_order(results: Results, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by sequence, then by arm as the study lists them."""
    ranks = {arm: rank for rank, arm in enumerate(arm_order(results))}
    order = frame.assign(rank=frame["arm"].map(ranks)).sort_values(["sequence", "rank"], kind="stable")
    return order.drop(columns="rank").reset_index(drop=True)


def _own_evaluations(results: Results) -> pd.DataFrame:
    """Evaluations of the task in training, with the steps of their visit, of visits that are over."""
    frame = results.evaluations
    ends = frame[frame["phase"] == "boundary"].groupby([*RUN, "visit"])["env_steps"].max().rename("end")
    starts = ends.groupby(level=RUN).shift(fill_value=0).rename("start")
    own = frame[frame["eval_task"] == frame["trained_task"]]
    own = own.merge(pd.concat([starts, ends], axis=1), left_on=[*RUN, "visit"], right_index=True)
    own = own.assign(visit_env_steps=own["env_steps"] - own["start"])
    return own[own["visit_env_steps"] > 0].sort_values([*RUN, "visit", "env_steps"], kind="stable")


def _areas(results: Results) -> pd.DataFrame:
    """Mean success during each visit on its own task: a row per run, a column per visit; NaN without a curve."""
    own = _own_evaluations(results)
    lengths = own.groupby("trained_task")["visit_env_steps"].max()
    rows = {}
    for (sequence, arm, seed, visit), curve in own.groupby([*RUN, "visit"]):
        steps, rates = curve["visit_env_steps"].to_numpy(float), curve["score"].to_numpy(float)
        measured = len(curve) > 1 and np.isfinite(rates).all()
        length = lengths[curve["trained_task"].iloc[0]]
        area = protocols.area_under_curve(steps, rates, length) if measured else np.nan
        rows[sequence, arm, seed, visit] = area
    visits = max(len(order.order) for order in results.orders.values())
    index = pd.MultiIndex.from_tuples(rows, names=[*RUN, "visit"]) if rows else None
    areas = pd.Series(rows, index=index, dtype=float).unstack() if rows else pd.DataFrame()
    return areas.reindex(columns=range(1, visits + 1))


def _reference(results: Results, areas: pd.DataFrame) -> dict[str, float]:
    """For each task the mean area of the baseline's first visits to it as the first task of a sequence."""
    baseline = baseline_of(results)
    alone: dict[str, list[float]] = {}
    for (sequence, arm, _), area in areas[1].dropna().items():
        if arm == baseline:
            order = results.orders[sequence]
            alone.setdefault(order.tasks[order.order[0]], []).append(area)
    return {task: float(np.mean(found)) for task, found in alone.items()}


def _first_evaluations(results: Results) -> dict[tuple[str, str, int, str], float]:
    """Each run's first evaluation of each task, by sequence, arm, seed and task."""
    frame = results.evaluations
    first = frame[(frame["visit"] == 1) & (frame["phase"] == "periodic")]
    first = first.sort_values("env_steps", kind="stable").drop_duplicates([*RUN, "eval_task"])
    return first.set_index([*RUN, "eval_task"])["score"].to_dict()
