"""How many more seeds a study takes: for an interval as narrow as asked, and to tell its arms from the baseline."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from . import statistics
from .differences import baseline_of
from .schema import Results
from .tables import arm_order

HALF_WIDTH = 0.08
"""Half width of ASR's 95 % interval that a study is held to."""

LOOK_EVERY, LOOKS = 5, 4
"""Seeds between two looks of the group-sequential test, and looks: planned for 20 seeds, whatever a study has."""

MOST = 1_000
"""Seeds above which a number is no plan."""


def seed_table(results: Results, values: pd.DataFrame) -> pd.DataFrame:
    """What more seeds each arm needs, a row per sequence and arm.

    Args:
        results: a loaded study.
        values: the output of `tables.metric_values`.

    Returns:
        Columns sequence, arm, n (seeds with an ASR), half_width (of ASR's interval; NaN with one seed), needed (seeds
        for `HALF_WIDTH`, guessed from the spread of those that ran; NaN with one seed, infinite above `MOST`), more
        (needed beyond n), pairs (seeds that the baseline has too) and decision (`statistics.arms_to_continue` on paired
        differences of ASR; None for the baseline and without one).
    """
    baseline = baseline_of(results)
    rows = []
    for sequence, of_sequence in values.groupby("sequence"):
        asr = {
            arm: of_sequence.loc[of_sequence["arm"] == arm].set_index("seed")["asr"].dropna().to_dict()
            for arm in arm_order(results)
            if arm in set(of_sequence["arm"])
        }
        differences = (
            {arm: statistics.paired_differences(own, asr[baseline]) for arm, own in asr.items() if arm != baseline}
            if baseline in asr
            else {}
        )
        decisions = decide(differences)
        for arm, own in asr.items():
            found = list(own.values())
            needed = _needed(found)
            rows.append(
                {
                    "sequence": sequence,
                    "arm": arm,
                    "n": len(found),
                    "half_width": statistics.interval(found).half_width,
                    "needed": needed,
                    "more": max(0.0, needed - len(found)),
                    "pairs": len(differences.get(arm, ())),
                    "decision": decisions.get(arm),
                }
            )
    return pd.DataFrame(rows)


def decide(differences: Mapping[str, Mapping[int, float]]) -> dict[str, statistics.Decision]:
    """The group-sequential test at the last look that every open arm has the seeds for.

    Args:
        differences: paired differences to the baseline of each arm, by seed. Looks are at the first 5, 10, 15 and 20 of
            the seeds that any arm has, in their order; an arm reaches a look with all of them.
    """
    order = sorted({seed for own in differences.values() for seed in own})
    rows = {}
    for arm, own in differences.items():
        missing = next((place for place, seed in enumerate(order) if seed not in own), len(order))
        rows[arm] = np.array([own[seed] for seed in order[:missing]])
    for looks in range(LOOKS, 0, -1):
        try:
            cut = {arm: own[: looks * LOOK_EVERY] for arm, own in rows.items()}
            return statistics.arms_to_continue(cut, LOOK_EVERY, LOOKS)
        except ValueError:
            continue  # An arm that is open at an earlier look lacks seeds for this one.
    return dict.fromkeys(differences, "more seeds")


def _needed(values: list[float]) -> float:
    if len(values) < 2:
        return np.nan
    try:
        return float(statistics.seeds_for(HALF_WIDTH, values, most=MOST))
    except ValueError:
        return np.inf
