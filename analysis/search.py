"""Tuning by search: the samples of each searched arm by their objective, and the best one's line for a study's file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml

from .errors import UnknownNameError
from .schema import Results
from .tables import SUMMARY, expected_seeds
from .text import headings, number

OBJECTIVES = tuple(name for name, heading in SUMMARY.items() if heading.endswith("↑"))
"""What a search may ask most of: the columns of the summary whose heading says that more is better, so not FM."""


@dataclass(frozen=True)
class Sample:
    """One arm of a search.

    Attributes:
        label: the arm's.
        stated: what the study's file would say to run it alone.
        objective: mean over seeds and sequences; NaN unless every expected run has a value.
        runs: runs with a value.
        expected: runs that there should be.
        lifetime_percent: how much of a lifetime its runs were to see.
    """

    label: str
    stated: dict[str, Any]
    objective: float
    runs: int
    expected: int
    lifetime_percent: float

    @property
    def complete(self) -> bool:
        """Whether it can be compared with others."""
        return math.isfinite(self.objective)


def objective_of(results: Results) -> str:
    """What the study's searches ask most of.

    Raises:
        UnknownNameError: if there is no such objective.
    """
    search = results.study.search if results.study else None
    objective = search.objective if search else OBJECTIVES[0]
    if objective not in OBJECTIVES:
        raise UnknownNameError("objective", objective, OBJECTIVES)
    return objective


def rank_samples(results: Results, values: pd.DataFrame) -> dict[str, list[Sample]]:
    """The samples of each search, best first; equal ones in the order of the draw, incomplete ones last.

    A sample without all of its runs is no candidate: a mean over other seeds is not comparable.

    Args:
        results: a loaded study.
        values: `tables.metric_values`.

    Raises:
        UnknownNameError: if the study asks for an unknown objective.
    """
    search, objective = results.study.search if results.study else None, objective_of(results)
    if search is None:
        return {}
    expected = expected_seeds(results)
    runs_of = {arm: sum(len(seeds) for (_, name), seeds in expected.items() if name == arm) for _, arm in expected}
    ranked = {}
    for arm, samples in search.arms.items():
        found = []
        for label, stated in samples.items():
            runs = values.loc[values["arm"] == label, objective].dropna().to_numpy(dtype=float)
            mean = float(runs.mean()) if 0 < len(runs) == runs_of[label] else math.nan
            found.append(Sample(label, stated, mean, len(runs), runs_of[label], search.lifetime_percent))
        # Sorting is stable, so of equal samples the one drawn first stays in front.
        ranked[arm] = sorted(found, key=lambda sample: -sample.objective if sample.complete else math.inf)
    return ranked


def best_lines(ranked: dict[str, list[Sample]], objective: str) -> list[str]:
    """For each search the line that runs its best sample as an arm of any study, after a comment that says why."""
    lines = []
    for arm, samples in ranked.items():
        complete = [sample for sample in samples if sample.complete]
        if not complete:
            lines.append(f"# {arm}: none of {len(samples)} samples has all of its runs")
            continue
        best = complete[0]
        equal = [sample.label for sample in complete[1:] if sample.objective == best.objective]
        lines.append(
            f"# {best.label}: {objective} {number(best.objective, 3)}, mean of {best.runs} "
            f"{'run' if best.runs == 1 else 'runs'}; best of {len(complete)}"
            + (f" ({len(samples) - len(complete)} more are incomplete)" if len(complete) < len(samples) else "")
            + (f"; as good: {', '.join(equal)}" if equal else "")
            + (f"; by the first {best.lifetime_percent:g} % of a lifetime" if best.lifetime_percent < 100 else "")
        )
        lines.append(arm_line(arm, best.stated))
    return lines


def arm_line(arm: str, stated: dict[str, Any]) -> str:
    """One line of YAML, as it stands under `arms` in a study's file."""
    text = yaml.safe_dump({arm: stated}, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.strip()[1:-1]


def search_text(ranked: dict[str, list[Sample]], objective: str, of_returns: bool = False) -> pd.DataFrame:
    """The samples as text, a row each, best first; empty if there are none."""
    heading = headings(of_returns)[objective]
    rows = [
        {
            "Search": arm,
            "Sample": sample.label,
            heading: number(sample.objective, 3) if sample.complete else "incomplete",
            "Runs": f"n={sample.runs}" if sample.complete else f"n={sample.runs}/{sample.expected}",
            "Keys": arm_line("", sample.stated).partition(": ")[2],
        }
        for arm, samples in ranked.items()
        for sample in samples
    ]
    return pd.DataFrame(rows)
