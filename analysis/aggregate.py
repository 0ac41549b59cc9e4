"""Several sequences together: the interquartile mean, the probability of improvement and the profile of each arm."""

from __future__ import annotations

import numpy as np
import pandas as pd

from . import metrics, statistics
from .differences import baseline_of
from .schema import Results
from .tables import arm_order
from .text import NO_VALUE, headings, interval_text, percent

PROFILE = (0.5, 0.75, 0.9)
"""Values of ASR above which a table says how many of the runs are."""


def aggregate_table(results: Results, values: pd.DataFrame, metric: str = "asr") -> pd.DataFrame:
    """A metric over all sequences that every arm has a seed of, a row per arm; empty with less than two of them.

    Args:
        results: a loaded study.
        values: the output of `tables.metric_values`.
        metric: one of its columns.

    Returns:
        Columns arm, sequences and n (runs), iqm with iqm_low and iqm_high (`statistics.stratified_interval`, a sequence
        is a stratum), improvement with its interval (`statistics.probability_of_improvement` over the baseline; NaN for
        it and without one), and profile_0.5 and so on (`statistics.performance_profile`). For FM, of which less is
        better, a probability of improvement is that of a run below the baseline's.
    """
    baseline = baseline_of(results)
    found = values.dropna(subset=[metric])
    arms = [arm for arm in arm_order(results) if arm in set(found["arm"])]
    counts = found.groupby("sequence")["arm"].nunique()
    sequences = sorted(counts[counts == len(arms)].index)
    if len(sequences) < 2:
        return pd.DataFrame()
    protocol = str(values["protocol"].iloc[0])
    limits = metrics.limits_of(metric, results.of_returns, protocol)
    strata = {
        arm: [found.loc[(found["arm"] == arm) & (found["sequence"] == s), metric].to_numpy() for s in sequences]
        for arm in arms
    }
    rows = []
    for arm in arms:
        middle = statistics.stratified_interval(strata[arm], limits=limits)
        row = {
            "arm": arm,
            "sequences": len(sequences),
            "n": middle.n,
            "iqm": middle.mean,
            "iqm_low": middle.low,
            "iqm_high": middle.high,
            **dict.fromkeys(("improvement", "improvement_low", "improvement_high"), np.nan),
        }
        if baseline in strata and arm != baseline:
            pair = (strata[baseline], strata[arm]) if metric == "fm" else (strata[arm], strata[baseline])
            better = statistics.probability_of_improvement(*pair)
            row |= {"improvement": better.mean, "improvement_low": better.low, "improvement_high": better.high}
        shares = statistics.performance_profile(np.concatenate(strata[arm]), PROFILE)
        rows.append(row | {f"profile_{above}": share for above, share in zip(PROFILE, shares, strict=True)})
    return pd.DataFrame(rows)


def aggregate_text(table: pd.DataFrame, baseline: str | None, of_returns: bool = False) -> pd.DataFrame:
    """`aggregate_table` of ASR as text."""
    name = headings(of_returns)["asr"].split()[0]
    rows = []
    for row in table.to_dict("records"):
        better = interval_text(row["improvement"], row["improvement_low"], row["improvement_high"])
        rows.append(
            {
                "Arm": row["arm"],
                f"IQM of {name} ↑": interval_text(row["iqm"], row["iqm_low"], row["iqm_high"]),
                f"P(above {baseline})": better if np.isfinite(row["improvement"]) else NO_VALUE,
                **{f"{name} > {above}": percent(row[f"profile_{above}"]) for above in PROFILE},
                "Runs": str(row["n"]),
                "Sequences": str(row["sequences"]),
            }
        )
    return pd.DataFrame(rows)
