"""What each arm does differently from the baseline: paired differences over common seeds, tested together."""

from __future__ import annotations

from typing import Any

import pandas as pd

from . import metrics, statistics
from .schema import Results
from .tables import SUMMARY, arm_order, expected_seeds, sure_columns

BASELINE = "sac"
"""The registered method, fine-tuning, that the other arms are compared with."""


def baseline_of(results: Results) -> str | None:
    """The arm of the baseline's method: the first as the study lists them, or None."""
    return next((arm for arm in arm_order(results) if results.methods.get(arm) == BASELINE), None)


def difference_table(results: Results, values: pd.DataFrame) -> pd.DataFrame:
    """Each arm less the baseline over the seeds that both have, a row per sequence and arm; empty without a baseline.

    Args:
        results: a loaded study.
        values: the output of `tables.metric_values`.

    Returns:
        Columns sequence, arm, method, baseline, and for each metric `_difference` (the mean), `_difference_low`,
        `_difference_high`, `_difference_n`, `_difference_interval` (none, t or bootstrap), `_difference_sure_low` and
        `_difference_sure_high` (`statistics.sure_interval`), `_p` (sign flips),
        `_p_holm` and `_q` (Holm's and Benjamini and Hochberg's over all sequences and arms), and `_p_smallest`, which
        is all that `_p` can reach with so many seeds. NaN where no seed has both.
    """
    baseline = baseline_of(results)
    rows: list[dict[str, Any]] = []
    for sequence, arm in expected_seeds(results):
        if baseline is None or arm == baseline:
            continue
        own, other = (values[(values["sequence"] == sequence) & (values["arm"] == name)] for name in (arm, baseline))
        row = {
            "sequence": sequence,
            "arm": arm,
            "method": own["method"].iloc[0] if len(own) else None,
            "baseline": baseline,
        }
        for name in SUMMARY:
            ours, theirs = (frame.set_index("seed")[name].to_dict() for frame in (own, other))
            paired = list(statistics.paired_differences(ours, theirs).values())
            limits = metrics.difference_limits(name, results.of_returns, values["protocol"].iloc[0])
            estimate = statistics.interval(paired, limits=limits)
            row |= {
                f"{name}_difference": estimate.mean,
                f"{name}_difference_low": estimate.low,
                f"{name}_difference_high": estimate.high,
                f"{name}_difference_n": estimate.n,
                f"{name}_difference_interval": estimate.kind,
                **sure_columns(f"{name}_difference", paired, limits),
                f"{name}_p": statistics.sign_flip_test(paired) if paired else float("nan"),
                f"{name}_p_smallest": statistics.smallest_p(len(paired)) if paired else float("nan"),
            }
        rows.append(row)
    table = pd.DataFrame(rows)
    for name in SUMMARY if rows else ():
        table[f"{name}_p_holm"] = statistics.holm(table[f"{name}_p"])
        table[f"{name}_q"] = statistics.false_discovery_rate(table[f"{name}_p"])
    ranks = {arm: rank for rank, arm in enumerate(arm_order(results))}
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["sequence"], ranks[rows[i]["arm"]]))
    return table.iloc[order].reset_index(drop=True) if rows else table
