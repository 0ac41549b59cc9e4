"""The further tables of a report, each with its title and what must be known to read it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from . import measures, seeds
from .aggregate import aggregate_table, aggregate_text
from .blocks import Block, Heading, Table
from .differences import baseline_of
from .paper import load_paper, published_table
from .protocols import MEASURES
from .schema import Results
from .text import NO_VALUE, headings, number, short_name

SEEDS_CAPTION = (
    f"For a 95 % interval of ± {seeds.HALF_WIDTH}, guessed from the spread of the seeds that ran, roughly if "
    f"they are few; and, looking after every {seeds.LOOK_EVERY} seeds up to {seeds.LOOKS * seeds.LOOK_EVERY}, whether "
    "an arm's paired differences are told from 0 at 5 % for all arms together, so that it needs no more seeds for "
    "that, or is still open."
)

MEASURES_CAPTION = (
    "Of the same runs: "
    + "; ".join(f"{it.heading[:-2]}, {it.meaning} ({it.source})" for it in MEASURES.values())
    + ". Every visit is a task of its own; CORA's are of the first cycle. A dash: FT, min-ACC and AAA need periodic "
    "evaluations, of all tasks so far, and FT, for each task, a sequence that begins with it; CORA has no number of a "
    "task that was at 0 throughout. A minimum over many evaluations of few episodes is low for their noise, too: "
    "compare min-ACC between arms alone."
)


def further_tables(results: Results, values: pd.DataFrame) -> list[Block]:
    """All sequences together, each task, more seeds and other protocols, each with its heading; those that have rows.

    Args:
        results: a loaded study.
        values: the output of `tables.metric_values`.
    """
    baseline, of_returns = baseline_of(results), results.of_returns
    tables = {
        "All sequences together": Table(
            "together",
            aggregate_text(aggregate_table(results, values), baseline, of_returns),
            "Over the sequences that every arm has: the interquartile mean with its 95 % stratified bootstrap "
            "interval, the probability that a run is above one of the baseline, and the shares of runs above (Agarwal "
            "et al. 2021, arXiv:2108.13264).",
        ),
        "Each task": Table(
            "tasks",
            measures.tasks_text(measures.task_values(results), of_returns),
            "Mean over seeds with 95 % intervals: success at the end of a task's own visits, how far visits to others "
            "left it below its best so far, success just before it was trained again, and after the last visit.",
        ),
        "More seeds": Table("more_seeds", seeds_text(seeds.seed_table(results, values), of_returns), SEEDS_CAPTION),
        "By other protocols": Table(
            "protocols", measures.measures_text(measures.measure_values(results), of_returns), MEASURES_CAPTION
        ),
    }
    return titled(tables)


def titled(tables: Mapping[str, Table]) -> list[Block]:
    """Those that have rows, each below its heading."""
    return [block for title, table in tables.items() if len(table.frame) for block in (Heading(title), table)]


def seeds_text(table: pd.DataFrame, of_returns: bool = False) -> pd.DataFrame:
    """`seeds.seed_table` as text."""
    name = headings(of_returns)["asr"].split()[0]
    rows = []
    for row in table.to_dict("records"):
        known = np.isfinite(row["needed"])
        above = f"over {seeds.MOST}" if np.isinf(row["needed"]) else NO_VALUE
        rows.append(
            {
                "Sequence": row["sequence"],
                "Arm": row["arm"],
                "Seeds": str(row["n"]),
                f"± of {name} now": number(row["half_width"]),
                f"Seeds for ± {seeds.HALF_WIDTH}": f"{row['needed']:.0f}" if known else above,
                "More": f"{row['more']:.0f}" if known else above,
                "Against the baseline": row["decision"] if isinstance(row["decision"], str) else NO_VALUE,
            }
        )
    return pd.DataFrame(rows)


def paper_tables(results: Results, comparison: pd.DataFrame) -> list[Block]:
    """The published tables that have one of our arms, a table with its heading for each of them and sequence."""
    if comparison.empty:
        return []
    note = (
        "Lan et al. 2025, arXiv:2504.08000; 3 seeds, ± as printed, the best in bold. The difference is ours less the "
        "paper's, with its 95 % interval."
    )
    order = list(dict.fromkeys(load_paper()["source"]))
    pairs = comparison[["sequence", "source"]].drop_duplicates().itertuples(index=False, name=None)
    return titled(
        {
            f"{source}, {sequence}: {' → '.join(map(short_name, results.orders[sequence].tasks))}": Table(
                f"paper_{sequence}_{number}",
                published_table(comparison, sequence, source, results.of_returns),
                note,
            )
            for number, (sequence, source) in enumerate(
                sorted(pairs, key=lambda pair: (pair[0], order.index(pair[1]))), start=1
            )
        }
    )
