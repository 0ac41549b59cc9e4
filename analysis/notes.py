"""The notes of a report: what a reader must know before believing its numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from . import metrics, statistics, tables
from .consistency import check_row
from .rows import counted
from .schema import Results
from .text import NO_ROWS, short_name, steps_text

LEARNED, LEARNED_RETURN = 0.5, 0.05
"""A task whose mean success, or normalised return, never reached this right after training was not learned."""


def collect_notes(
    results: Results, values: pd.DataFrame, table: pd.DataFrame, comparison: pd.DataFrame | None = None
) -> list[str]:
    """What a reader must know before believing the numbers; damage in the files comes first.

    Args:
        results: a loaded study.
        values: `tables.metric_values`.
        table: `tables.metric_table`.
        comparison: `paper.compare_with_paper`; None if it was not asked for.
    """
    protocol = str(values["protocol"].iloc[0])
    notes = [*results.notes, *(results.study.notes if results.study else ())]
    if results.of_returns:
        notes.append(
            "Scores are returns normalised by those of random play, 0, and of a human, 1 (Eq. 11); games differ in "
            "what can be reached, so a mean over games weighs them unequally."
        )
    notes += _partial_notes(results, table, protocol)
    notes += _seed_notes(table)
    for sequence, order in results.orders.items():
        notes += _never_learned(results, sequence)
        if len(order.tasks) == 2:
            notes.append(
                f"{sequence}: in a pair of tasks the relation between these two decides the numbers; a ranking of arms "
                "need not hold on others."
            )
        if len(order.tasks) == 1:
            notes.append(f"{sequence}: with one task nothing can be forgotten, so FM is not defined.")
    if results.cut_arms:
        notes.append(
            "The metrics of a search's samples are over the visits that they began in their part of a lifetime: "
            "samples are compared with each other alone, and with no arm that ran for all of its visits."
        )
    if results.study and results.study.search:
        notes.append(
            "The best of several samples looks better than it is: run it again, with seeds that the search has not "
            "seen, before comparing it with anything."
        )
    notes += _unequal_budgets(results, values)
    notes += _mixed_versions(results)
    notes += _survived_faults(results)
    notes += _shared_visits(results)
    notes += _last_update_rows(results)
    if comparison is not None:
        notes += _paper_notes(results, comparison, protocol)
    return notes


def _partial_notes(results: Results, table: pd.DataFrame, protocol: str) -> list[str]:
    notes = []
    expected = tables.expected_seeds(results)
    found = {(run.sequence, run.arm, run.seed) for run in results.runs}
    for row in table.itertuples(index=False):
        absent = [seed for seed in expected[row.sequence, row.arm] if (row.sequence, row.arm, seed) not in found]
        if row.n_complete < row.n_expected:
            notes.append(
                f"{row.sequence}/{row.arm}: {row.n_complete} of {row.n_expected} seeds are complete"
                + (f"; not started: seed {', '.join(map(str, absent))}." if absent else ".")
            )
    study = results.study
    listed = set(itertools.product(study.sequences, study.arms, study.seeds)) if study else found
    for sequence, arm, seed in sorted(found - listed):
        notes.append(f"{sequence}/{arm}/seed_{seed}: study.yaml does not list this run; it is included.")
    arms = results.evaluations[["sequence", "arm"]].drop_duplicates()
    for sequence, arm in arms.itertuples(index=False):
        success = tables.success_array(results, sequence, arm)
        for seed, missing in zip(success.seeds, success.missing(protocol), strict=True):
            if missing:
                visits = sorted({visit for visit, _ in missing})
                notes.append(
                    f"{sequence}/{arm}/seed_{seed}: {len(missing)} of the needed results are missing "
                    f"(after visit {', '.join(map(str, visits))}); metrics that need them are left out, not set to 0."
                )
    return notes


def _seed_notes(table: pd.DataFrame) -> list[str]:
    notes = []
    most = int(table["n_complete"].max())
    if most <= 1:
        notes.append("One seed per arm says what happened once. It is no evidence that one arm is better than another.")
    elif (table["n_complete"] == 1).any():
        notes.append("Arms with one seed have no interval and cannot be ranked.")
    if 2 <= most < statistics.BOOTSTRAP_FROM:
        notes.append(
            "± is the half width of a 95 % t-interval over seeds; brackets hold one that was cut to what the metric "
            f"can be. With {most} seeds no paired test can give a p below {statistics.smallest_p(most):.3g}."
        )
        notes.append(
            "Of few seeds that keep all of a task or nothing, an interval covers less than it says: with 3 seeds about "
            "90 %, most rarely 84 %."
        )
        if np.isfinite(table["asr_sure_low"]).any():
            notes[-1] += " table.csv has wider ones (_sure_low, _sure_high) that fell short in no simulation."
    if most >= statistics.BOOTSTRAP_FROM:
        notes.append("Brackets hold a 95 % BCa-bootstrap interval over seeds; ± a t-interval (to 10 seeds).")
    widths = table[[f"{name}_half_width" for name in metrics.METRICS]].to_numpy(dtype=float)
    if (widths == 0).any():
        notes.append("± 0.00: all seeds gave the same value, which is coarse evaluation rather than certainty.")
    return notes


def _never_learned(results: Results, sequence: str) -> list[str]:
    notes = []
    order = results.orders[sequence]
    for arm in sorted(results.evaluations.loc[results.evaluations["sequence"] == sequence, "arm"].unique()):
        values = tables.success_array(results, sequence, arm).values
        after = np.array([values[:, visit, task] for visit, task in enumerate(order.order)])
        for task, name in enumerate(order.tasks):
            own = after[np.array(order.order) == task]
            measured = own[np.isfinite(own)]
            if len(measured) and measured.max() < (LEARNED_RETURN if results.of_returns else LEARNED):
                notes.append(
                    f"{sequence}/{arm}: {short_name(name)} was never learned (at most {measured.max():.2f} "
                    "after its own visits); what was never learned cannot be forgotten, so a low FM means nothing."
                )
    return notes


def _unequal_budgets(results: Results, values: pd.DataFrame) -> list[str]:
    notes = []
    finished = values.loc[values["complete"] & ~values["arm"].isin(results.cut_arms), ["sequence", "arm", "seed"]]
    costs = tables.cost_values(results).merge(finished, on=["sequence", "arm", "seed"])
    for sequence, rows in costs.groupby("sequence"):
        steps = rows.groupby("arm")["env_steps"].mean()
        if len(steps) > 1 and steps.max() > 1.05 * steps.min():
            notes.append(
                f"{sequence}: arms used between {steps_text(steps.min())} ({steps.idxmin()}) and "
                f"{steps_text(steps.max())} ({steps.idxmax()}) env steps, as visits may end early."
            )
    return notes


def _mixed_versions(results: Results) -> list[str]:
    names = sorted({name for run in results.runs for name in run.versions})
    mixed = []
    for name in names:
        found = sorted({run.versions[name] for run in results.runs if name in run.versions})
        if len(found) > 1:
            mixed.append(f"{name} {' and '.join(found)}")
    return [f"Runs were made with different versions: {'; '.join(mixed)}."] if mixed else []


def _survived_faults(results: Results) -> list[str]:
    """Runs in which environments were built anew or workers did not answer."""
    notes = []
    for run, rows in results.training.groupby(["sequence", "arm", "seed"], sort=False):
        rebuilt, lost = (rows[name].max() for name in ("rebuilt_envs", "lost_fragments"))
        counts = (rebuilt, "rebuilt environment"), (lost, "lost fragment")
        if told := [counted(int(number), thing) for number, thing in counts if number > 0]:
            notes.append("{}/{}/seed_{}: ".format(*run) + f"went on after {' and '.join(told)}.")
    return notes


def _shared_visits(results: Results) -> list[str]:
    """First visits that another run made: the arms of a seed are paired, and the steps were not made twice."""
    training = results.training
    taken = training[training["shared_from"].notna()]
    if taken.empty:
        return []
    visits = taken.groupby(["sequence", "arm", "seed"])["visit_env_steps"].max()
    return [
        f"{counted(len(visits), 'run')} began at the end of a first visit that another arm had made, equal to the last "
        f"bit: {int(visits.sum()):,} environment steps were not made again. Arms of a seed are not independent."
    ]


def _last_update_rows(results: Results) -> list[str]:
    """Arms whose training rows are from before these were means: with D_pre at work, a mean over it would be there."""
    training = results.training
    if "prior_size" not in training:
        return []
    replaying = training[training["q_mean"].notna() & (training["prior_size"] > 0)]
    means = replaying.groupby(["sequence", "arm"])["q_mean_prior"].count()
    without = set(means[means == 0].index)
    methods = [(run, run.config.get("method_settings")) for run in results.runs if (run.sequence, run.arm) in without]
    arms = [run.arm for run, method in methods if isinstance(method, dict) and method.get("with_replay")]
    if not arms:
        return []
    return [
        f"Losses, entropy and q_mean in the training rows of {', '.join(dict.fromkeys(arms))} are those of the last "
        "update before a row, not means: where a report falls on a multiple of replay.interval, that is always a batch "
        "of D_pre."
    ]


def _impossible_rows(comparison: pd.DataFrame) -> list[str]:
    """Published rows that no runs can have: what is compared with them has no meaning."""
    notes = []
    for (tasks, method), rows in comparison.groupby(["tasks", "paper_method"], sort=False):
        row = rows.drop_duplicates("metric").set_index("metric")["paper_mean"]
        found = check_row(row["asr"], row["fm"], row["fwt"], num_tasks=tasks.count("->") + 1)
        if not found.possible:
            notes.append(
                f"The paper's row of {method} ({tasks}) cannot be: with its ASR and FWT, FM {row['fm']:.2f} would have "
                f"to lie in {found.fm_low:.2f} to {found.fm_high:.2f}."
            )
    return notes


def _paper_notes(results: Results, comparison: pd.DataFrame, protocol: str) -> list[str]:
    if comparison.empty:
        return [NO_ROWS]
    notes = [
        "Verdicts are of the 95 % interval of our mean less the paper's, whose ± is taken for a standard error of 3 "
        "seeds (it does not say): agrees, it lies within ±0.10; differs, it leaves out 0; else inconclusive."
    ]
    if protocol != "nbsp-visits":
        notes.append(f"The published numbers fit the protocol nbsp-visits, not {protocol}: the comparison is off.")
    if not results.of_returns:
        notes += _impossible_rows(comparison)
    for scale, rows in comparison[comparison["scale"].fillna("") != ""].groupby("scale"):
        arms = dict.fromkeys(f"{row.sequence}/{row.arm}" for row in rows.itertuples())
        notes.append(f"No verdict across scales: {', '.join(arms)} had {scale}.")
    return notes
