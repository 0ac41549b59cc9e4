"""The pictures of a study's report, with what each shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import figures, tables, videos
from .activations import top_activations
from .blocks import Block, Film, Picture, Switch
from .errors import MissingToolError
from .findings import Findings
from .mechanism import NETWORKS
from .schema import Results, Run
from .text import short_name

PROPORTION = "skill_frac"
"""The key of NBSP that the paper's Figure 4 varies."""

NOT_OF_A_RUN = ("arm", "seed", "results_dir", "experiment", "sequence")
"""Top-level keys of a run's settings in which runs of one arm, or of two arms that are alike, may differ."""


def comparison_pictures(found: Findings, sequence: str) -> list[Picture]:
    """Arms side by side on one sequence: metrics, differences to the baseline, matrices, what is kept."""
    results, of_returns = found.results, found.results.of_returns
    arms = found.arms_of(sequence)
    styles = {arm: found.styles[arm] for arm in arms}
    values = found.values[found.values["sequence"] == sequence]
    arrays = {arm: tables.success_array(results, sequence, arm) for arm in arms}
    what = _what(results)
    made = [
        Picture(
            f"metrics_{sequence}",
            "Metrics by arm",
            "Large marks are means over seeds, ticks above them the seeds, bars 95 % intervals (none for one seed). "
            "ASR (of returns: AR) and FWT are better to the right, FM to the left.",
            partial(figures.metrics_figure, values, styles, of_returns),
        )
    ]
    differences = found.differences
    if len(differences) and (own := differences[differences["sequence"] == sequence])["asr_difference_n"].any():
        made.append(
            Picture(
                f"differences_{sequence}",
                f"Paired differences to {found.baseline}",
                "Mean difference over the seeds that both arms have, with its 95 % interval (none for one pair). ASR "
                "and FWT are better to the right of 0, FM to its left.",
                partial(figures.forest_figure, own, styles, str(found.baseline), of_returns),
            )
        )
    made.append(
        Picture(
            f"matrix_{sequence}",
            f"{what} after every visit on every task",
            f"Mean over seeds ({_seeds(arrays)}) at the end of each visit; the outlined task was just trained. "
            "Hatched: not measured. A number in parentheses: of so many seeds.",
            partial(figures.matrices_figure, arrays, of_returns),
        )
    )
    last = {arm: array.values[:, -1] for arm, array in arrays.items() if np.isfinite(array.values[:, -1]).any()}
    if last:
        made.append(
            Picture(
                f"kept_{sequence}",
                "What is kept",
                "Left: the score at a task by the visits since it was trained, mean over tasks and visits, 95 % "
                "interval over seeds. Right: the share of runs and tasks that score above each threshold after the "
                "last visit.",
                partial(figures.kept_figure, arrays, last, styles, baseline=found.baseline, of_returns=of_returns),
            )
        )
    points = proportions(results, found.values, sequence)
    if len(points):
        made.append(
            Picture(
                f"proportion_{sequence}",
                "Metrics over the proportion of skill neurons",
                "Of the arms that differ in nothing but this key: means over seeds with 95 % intervals, short lines "
                "are seeds.",
                partial(figures.proportion_figure, points, PROPORTION, found.styles[points["arm"].iloc[0]], of_returns),
            )
        )
    return made


def curve_pictures(found: Findings, sequence: str) -> list[Picture]:
    """Curves of one sequence: success at every task over training, and training itself."""
    results = found.results
    order = results.orders[sequence]
    evaluations = results.evaluations[results.evaluations["sequence"] == sequence]
    training = results.training[results.training["sequence"] == sequence]
    styles = {arm: found.styles[arm] for arm in found.arms_of(sequence)}
    crowded = len(styles) > figures.OVERLAID
    wide = crowded and len(order.tasks) > 2
    title = f"{_what(results)} over training"
    caption = (
        "Thick lines are means over seeds, thin ones seeds, marks evaluations at the end of a visit. In shaded visits "
        "the panel's own task is trained; outside them the line shows what is kept of it. A seed that ended a visit "
        "early counts with its last value until its arm's last seed ends."
    )
    made = [
        Picture(
            f"curves_{sequence}",
            title,
            caption,
            partial(
                figures.success_figure,
                evaluations,
                order,
                styles,
                baseline=found.baseline,
                of_returns=results.of_returns,
            ),
            () if crowded else _switches(styles, list(styles)),
            wide_alone=wide,
        )
    ]
    if crowded:
        overlay = partial(
            figures.success_figure, evaluations, order, styles, together=True, of_returns=results.of_returns
        )
        shown = _shown_first(found, sequence, styles)
        made.append(
            Picture(
                f"arms_{sequence}",
                f"{title}, arms to choose",
                "The same in one panel a task.",
                overlay,
                _switches(styles, shown),
                on_page_alone=True,
            )
        )
    trained = training.dropna(subset=["visit_env_steps"])
    if trained[["success_window", "mean_return"]].notna().any(axis=None):
        made += [
            Picture(
                f"training_{sequence}",
                "Training by task",
                "Success of the last training episodes, a panel a task; a dashed line parts its visits. Lines are "
                "means over seeds, shades reach from the lowest seed to the highest.",
                partial(figures.training_figure, trained, order, styles, baseline=found.baseline),
                wide_alone=wide,
            ),
            Picture(
                f"training_over_time_{sequence}",
                "Training in order",
                "The same, visit after visit, each on its own task.",
                partial(figures.training_over_time_figure, trained, order, styles, baseline=found.baseline),
            ),
        ]
    return made


def mechanism_pictures(found: Findings, sequence: str, values: pd.DataFrame) -> list[Picture]:
    """How actor and critics fare over training: in one figure, or above `OVERLAID` arms each in one of its own.

    Args:
        found: of the study.
        sequence: of which `values` are.
        values: the output of `mechanism_values`.
    """
    order = found.results.orders[sequence]
    measured = set(values["arm"])
    styles = {arm: found.styles[arm] for arm in found.arms_of(sequence) if arm in measured}
    caption = (
        "Numbers of the table below over all visits, which dashed lines part. Lines are "
        "means over seeds, shades reach from the lowest seed to the highest."
    )
    networks = tuple(NETWORKS)
    each = [networks] if len(styles) <= figures.OVERLAID else [(network,) for network in networks]
    return [
        Picture(
            f"mechanism_{sequence}" if len(each) == 1 else f"mechanism_{sequence}_{shown[0]}",
            f"Plasticity of {' and '.join(shown)}, {sequence}",
            caption,
            partial(figures.mechanism_figure, values, order, styles, networks=shown, baseline=found.baseline),
            wide_alone=len(each) > 1,
        )
        for shown in each
    ]


def neuron_pictures(found: Findings, sequence: str, arm: str, scores: pd.DataFrame) -> list[Picture]:
    """How an arm's neurons scored, and how the best of them fire."""
    made = [
        Picture(
            f"scores_{sequence}_{arm}",
            f"Neuron scores, {arm}",
            "Share of a layer's neurons up to a score (Eq. 4), all seeds together. Bold: the selected neurons. Dotted: "
            "the score max(p, 1 - p) of a neuron that never moves.",
            partial(figures.scores_figure, scores, found.styles[arm]),
        )
    ]
    activations = top_activations(found.results.runs, scores, notes=found.notes)
    if activations:
        made.append(
            Picture(
                f"activations_{sequence}_{arm}",
                f"Activation of the actor's highest scored neuron that moves, {arm}",
                "How often it had each activation while the goal was above its mean (success) and below, after each "
                "visit, in the first seed that has one. Bars of each kind sum to 1.",
                partial(figures.activations_figure, activations),
            )
        )
    return made


def frame_pictures(found: Findings) -> tuple[list[Picture], list[str]]:
    """What the tasks of a study look like, and a line for each that could not be drawn."""
    suites = found.results.evaluations.drop_duplicates("eval_task").set_index("eval_task")["suite"]
    drawn, failed = {}, []
    for task in dict.fromkeys(task for order in found.results.orders.values() for task in order.tasks):
        try:
            drawn[task] = figures.task_pixels(str(suites.get(task)), task)
        except MissingToolError as error:
            failed.append(str(error))
    caption = "The first picture of an episode, as its simulator draws it."
    return ([Picture("tasks", "Tasks", caption, partial(figures.tasks_figure, drawn))] if drawn else []), failed


def films(found: Findings, folder: Path, link: str, kind: str) -> tuple[list[Block], list[str]]:
    """What the baseline and the best arm did on each task before and after a visit, and a line for what is missing.

    Args:
        found: of the study.
        folder: where the films go.
        link: the folder's address, from the page.
        kind: one of `videos.KINDS`.
    """
    made: list[Block] = []
    failed: dict[str, list[str]] = {}
    for sequence, order in found.results.orders.items():
        styles = {arm: found.styles[arm] for arm in found.arms_of(sequence)}
        for arm in _shown_first(found, sequence, styles)[:2]:
            run = videos.run_to_film(found.results.runs, sequence, arm)
            for pair in videos.pairs_of(order):
                name = f"{sequence}_{arm}_{order.tasks.index(pair.task) + 1}.{kind}"
                try:
                    videos.film(run, pair, folder / name)
                except MissingToolError as error:
                    failed.setdefault(str(error), []).append(f"{sequence}/{arm}")
                    break  # What one film lacks, the arm's others lack.
                title = f"{short_name(pair.task)}: {arm}, seed {run.seed}"
                made.append(Film(title, pair.caption, f"{link}/{name}"))
    return made, [f"no videos of {', '.join(dict.fromkeys(arms))}: {reason}" for reason, arms in failed.items()]


def proportions(results: Results, values: pd.DataFrame, sequence: str) -> pd.DataFrame:
    """The seeds of the arms that differ in the proportion of skill neurons alone, the largest such group.

    Returns:
        `values` of these arms with a column `x`, the proportion; empty with fewer than three proportions.
    """
    groups: dict[str, dict[str, float]] = {}
    for run in results.runs:
        method = run.config.get("method_settings")
        proportion = method.get(PROPORTION) if isinstance(method, dict) else None
        if run.sequence == sequence and isinstance(proportion, int | float) and not isinstance(proportion, bool):
            groups.setdefault(_without_proportion(run), {})[run.arm] = float(proportion)
    largest = max(groups.values(), key=lambda arms: len(set(arms.values())), default={})
    if len(set(largest.values())) < 3:
        return pd.DataFrame()
    own = values[(values["sequence"] == sequence) & values["arm"].isin(list(largest))]
    return own.assign(x=own["arm"].map(largest))


def _without_proportion(run: Run) -> str:
    kept: dict[str, Any] = {key: value for key, value in run.config.items() if key not in NOT_OF_A_RUN}
    kept["method_settings"] = {key: value for key, value in kept["method_settings"].items() if key != PROPORTION}
    return json.dumps(kept, sort_keys=True, default=str)


def _switches(styles: Mapping[str, figures.ArmStyle], on: Sequence[str]) -> list[Switch]:
    return [
        Switch(arm, style.color, arm in on, figures.group_of(number))
        for number, (arm, style) in enumerate(styles.items())
    ]


def _shown_first(found: Findings, sequence: str, styles: Mapping[str, figures.ArmStyle]) -> list[str]:
    """The baseline and the arms of highest ASR, as many as a panel can hold."""
    means = found.values[found.values["sequence"] == sequence].groupby("arm")["asr"].mean()
    ranked = sorted(styles, key=lambda arm: (arm != found.baseline, -np.nan_to_num(means.get(arm, 0.0), nan=-1.0)))
    return ranked[: figures.OVERLAID]


def _seeds(arrays: Mapping[str, tables.SuccessArray]) -> str:
    """How many each arm has: `n=3`, or `n=3; nbsp n=2`."""
    counts = {arm: int(np.isfinite(array.values).sum(axis=0).max()) for arm, array in arrays.items()}
    usual = max(counts.values())
    return "; ".join([f"n={usual}", *(f"{arm} n={count}" for arm, count in counts.items() if count < usual)])


def _what(results: Results) -> str:
    return "Normalised return" if results.of_returns else "Success"
