"""What was found of one study: its rows, metrics, differences, costs and notes, computed once for all sections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from . import figures, search, tables
from .differences import baseline_of, difference_table
from .headline import Headline, headline_of
from .load import load_results
from .notes import collect_notes
from .paper import compare_with_paper
from .schema import Results


@dataclass(frozen=True)
class Findings:
    """All that a section is made from."""

    results: Results
    protocol: str
    values: pd.DataFrame
    """`tables.metric_values`."""
    table: pd.DataFrame
    """`tables.metric_table`."""
    differences: pd.DataFrame
    """`differences.difference_table`."""
    comparison: pd.DataFrame | None
    """`paper.compare_with_paper`; None if it was not asked for."""
    headline: Headline
    """`headline.headline_of`."""
    costs: pd.DataFrame
    """`tables.cost_values`."""
    thresholds: pd.DataFrame
    """`tables.threshold_values`."""
    samples: Mapping[str, list[search.Sample]]
    """`search.rank_samples`."""
    styles: Mapping[str, figures.ArmStyle]
    """How each arm looks, in the report's order of arms."""
    notes: list[str]
    """What a reader must know; sections add what they had to leave out."""

    @property
    def title(self) -> str:
        """The experiments' names, or the folder's."""
        names = sorted(self.results.evaluations["experiment"].dropna().unique())
        return ", ".join(names) or self.results.name

    @property
    def baseline(self) -> str | None:
        """The arm that the others are compared with, if there is one."""
        return baseline_of(self.results)

    @property
    def partial(self) -> bool:
        """Whether a seed that was expected is missing or incomplete."""
        return tables.is_partial(self.table)

    @property
    def objective(self) -> str:
        """What the study's searches ask most of."""
        return search.objective_of(self.results)

    def arms_of(self, sequence: str) -> list[str]:
        """The arms that have rows of a sequence, in the report's order."""
        evaluations = self.results.evaluations
        found = set(evaluations.loc[evaluations["sequence"] == sequence, "arm"])
        return [arm for arm in self.styles if arm in found]

    def in_order(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Rows by sequence, then by arm as everywhere in the report."""
        if frame.empty:
            return frame
        ranks = {arm: rank for rank, arm in enumerate(self.styles)}
        order = frame.assign(rank=frame["arm"].map(ranks)).sort_values(["sequence", "rank"], kind="stable")
        return order.drop(columns="rank")


def find(results: str | Path, *, compare: bool, protocol: str) -> Findings:
    """Load a study and compute what its report says.

    Raises:
        DataError: if the results are missing, damaged, or must not be averaged.
    """
    loaded = load_results(results)
    values = tables.metric_values(loaded, protocol)
    table = tables.metric_table(loaded, values)
    whole = tables.comparable(loaded, values)
    comparison = compare_with_paper(loaded, whole) if compare else None
    return Findings(
        results=loaded,
        protocol=protocol,
        values=values,
        table=table,
        differences=difference_table(loaded, whole),
        comparison=comparison,
        headline=headline_of(loaded, whole),
        costs=tables.cost_values(loaded),
        thresholds=tables.threshold_values(loaded),
        samples=search.rank_samples(loaded, values),
        styles=figures.arm_styles(tables.arm_order(loaded), loaded.methods),
        notes=collect_notes(loaded, values, table, comparison),
    )
