"""A study in one sentence: the best arm, how far it is from the baseline, and whether that can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from . import metrics, statistics
from .differences import baseline_of
from .rows import counted
from .schema import Results
from .tables import arm_order, expected_seeds, success_array
from .text import NO_VALUE, headings, number, p_text, signed

LEVEL = 0.05
"""p after Holm below which a difference is told from chance."""

MOST_ARMS = 4
"""Arms that the sentence on what is kept names."""


@dataclass(frozen=True)
class Headline:
    """The sentence and what belongs beside it."""

    sentence: str
    kept: str
    """What is left at the end of the tasks that are not trained last; empty where nothing tells."""
    caveats: list[str]


def headline_of(results: Results, values: pd.DataFrame) -> Headline:
    """Which arm has the highest average success, against the baseline over common seeds.

    A seed's value is its mean over the sequences, so that seeds stay the unit. Arms that lack a seed of a sequence for
    which another arm has it are not left out, but the caveats say so.

    Args:
        results: a loaded study.
        values: `tables.metric_values`.
    """
    name = headings(results.of_returns)["asr"].split()[0]
    seeds, left = _by_seed(values), kept(results)
    means = {arm: sum(own.values()) / len(own) for arm, own in seeds.items() if own}
    if not means:
        return Headline("No arm has a complete run yet, so there is no result.", left, [])
    best = max(means, key=means.__getitem__)
    tied = [arm for arm in means if means[arm] == means[best] and arm != best]
    lead = f"{_listed([best, *tied])} {'have' if tied else 'has'} the highest {name} of {counted(len(means), 'arm')}, "
    lead += number(means[best])
    caveats = _caveats(results, means, seeds)
    baseline = baseline_of(results)
    if baseline is None or baseline not in means:
        why = (
            "there is no arm of fine-tuning to compare with" if baseline is None else f"{baseline} has no complete run"
        )
        return Headline(f"{lead}; {why}.", left, caveats)
    if best == baseline:
        return Headline(f"{lead}: no arm is above fine-tuning ({baseline}).", left, caveats)
    return Headline(f"{lead}: {_compared(results, seeds, best, baseline)}.", left, caveats)


def kept(results: Results) -> str:
    """How much of the tasks that are not trained last is left at the end, in a sentence: the mean over them and seeds.

    Of many arms the sentence has the baseline and those that keep most.

    Args:
        results: a loaded study, of which whole runs count.
    """
    arms = [arm for arm in arm_order(results) if arm not in results.cut_arms]
    found = {arm: pair for arm in arms if (pair := _left_of_learned(results, arm)) is not None}
    if not found:
        return ""
    baseline = baseline_of(results)
    told = list(found)
    if len(told) > MOST_ARMS:
        most = sorted((arm for arm in found if arm != baseline), key=lambda arm: -found[arm][0])
        told = [arm for arm in found if arm == baseline or arm in most[: MOST_ARMS - 1]]
    listed = ", ".join(f"{arm} {number(found[arm][0])} of {number(found[arm][1])}" for arm in told)
    return f"Left at the end of earlier tasks, of what their own last visit had reached: {listed}."


def _left_of_learned(results: Results, arm: str) -> tuple[float, float] | None:
    learned: list[float] = []
    left: list[float] = []
    evaluations = results.evaluations
    for sequence in evaluations.loc[evaluations["arm"] == arm, "sequence"].unique():
        success = success_array(results, sequence, arm)
        order = success.order.order
        for task in range(len(success.order.tasks)):
            last = max(visit for visit, trained in enumerate(order) if trained == task)
            if last < len(order) - 1:
                learned += success.values[:, last, task].tolist()
                left += success.values[:, -1, task].tolist()
    pairs = np.array([left, learned])
    whole = pairs[:, np.isfinite(pairs).all(0)]
    return (float(whole[0].mean()), float(whole[1].mean())) if whole.size else None


def _by_seed(values: pd.DataFrame) -> dict[str, dict[int, float]]:
    """For each arm the mean ASR over all sequences of every seed that has them all."""
    sequences = values["sequence"].nunique()
    usable = values.dropna(subset=["asr"])
    groups = usable.groupby(["arm", "seed"], sort=False)["asr"].agg(["mean", "size"])
    full = groups.loc[groups["size"] == sequences, "mean"]
    found: dict[str, dict[int, float]] = {str(arm): {} for arm in values["arm"].unique()}
    for (arm, seed), mean in full.items():
        found[str(arm)][int(seed)] = float(mean)
    return found


def _compared(results: Results, seeds: Mapping[str, Mapping[int, float]], best: str, baseline: str) -> str:
    """The best arm's difference to the baseline, its interval and the verdict."""
    pairs = {arm: list(statistics.paired_differences(own, seeds[baseline]).values()) for arm, own in seeds.items()}
    others = [arm for arm in pairs if arm != baseline and pairs[arm]]
    if best not in others:
        return f"it has no seed in common with {baseline}, so the two cannot be compared"
    estimate = statistics.interval(pairs[best], limits=metrics.difference_limits("asr", results.of_returns))
    difference = f"{signed(estimate.mean)} to {baseline}"
    if estimate.kind == "none":
        return f"{difference} in the one seed that both have, which is no evidence"
    adjusted = statistics.holm([statistics.sign_flip_test(pairs[arm]) for arm in others])
    p = float(adjusted[others.index(best)])
    told = f"{difference}, 95 % interval [{signed(estimate.low)}, {signed(estimate.high)}], p {p_text(p)} after Holm"
    apart = estimate.low > 0 or estimate.high < 0
    smallest = statistics.smallest_p(estimate.n)
    if apart and p <= LEVEL:
        return f"{told}: better than {baseline}"
    if apart and smallest > LEVEL:
        pairs_told = counted(estimate.n, "pair")
        return f"{told}: above {baseline} by the interval, but {pairs_told} cannot give a p below {smallest:.3g}"
    return f"{told}: not told apart from {baseline}"


def _caveats(results: Results, means: Mapping[str, float], seeds: Mapping[str, Mapping[int, float]]) -> list[str]:
    counts = sorted({len(own) for own in seeds.values() if own})
    caveats = [
        f"{counts[0]} to {counts[-1]} seeds an arm" if len(counts) > 1 else f"{counted(counts[0], 'seed')} an arm"
    ]
    if len(means) > 2:
        caveats.append(f"the best of {len(means)} looks better than it is")
    if missing := [arm for _, arm in expected_seeds(results) if arm not in {*means, *results.cut_arms}]:
        caveats.append(f"no complete run of {_listed(list(dict.fromkeys(missing)))}")
    if all(len(order.tasks) == 2 for order in results.orders.values()):
        caveats.append("pairs of tasks: a ranking of arms need not hold on others")
    return caveats


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else (names[0] if names else NO_VALUE)
