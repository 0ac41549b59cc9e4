"""A study's report, written into one folder: `table.md`, `table.csv`, `figures/`, `report.html`.

The same results give the same bytes: no times, no paths, fixed seeds.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd

from rllib_nbsp.reading import printable

from . import figures, metrics, search
from .blocks import Section, as_markdown, pictures
from .errors import AnalysisError, UnknownNameError
from .findings import Findings, find
from .sections import SECTIONS
from .text import comparison_text, markdown, summary_text, to_markdown

COMPARISONS = ("paper",)


@dataclass(frozen=True)
class Report:
    """Where a report lies and what it says."""

    html: Path
    summary: str
    """The main table as Markdown."""
    comparison: str
    """The comparison with the paper as Markdown; empty if there is none."""
    best: list[str]
    """The best sample of each search as a line of YAML, after a comment."""
    notes: list[str]
    partial: bool
    """Whether a seed that was expected is missing or incomplete."""


def write_report(
    results: str | Path, out: str | Path | None = None, *, compare: str | None = None, protocol: str = "nbsp-visits"
) -> Report:
    """Read a study and write its report.

    Args:
        results: the study's folder.
        out: where the files go; None: `results/report`.
        compare: "paper" adds the published numbers.
        protocol: a name in `metrics.PROTOCOLS`.

    Raises:
        UnknownNameError: for an unknown protocol or comparison.
        DataError: if the results are missing, damaged, or must not be averaged.
        OSError: if the folder cannot be written.
    """
    metrics.get_protocol(protocol)
    if compare is not None and compare not in COMPARISONS:
        raise UnknownNameError("comparison", compare, COMPARISONS)
    found = find(results, compare=compare is not None, protocol=protocol)
    sections = _sections(found)
    drawn = {picture.name: figures.saved(picture.figure, "png") for picture in pictures(sections)}

    folder = Path(results) / "report" if out is None else Path(out)
    _write(folder / "table.csv", _csv(found).encode())
    _write(folder / "table.md", _markdown(found, sections).encode())
    for name, png in drawn.items():
        _write(folder / "figures" / f"{name}.png", png)
    for picture in pictures(sections):
        for kind in ("pdf", "svg"):
            _write(folder / "figures" / f"{picture.name}.{kind}", figures.saved(picture.figure, kind))
    _write(folder / "report.html", _html(found, sections, drawn).encode())
    comparison = pd.DataFrame() if found.comparison is None else found.comparison
    return Report(
        html=folder / "report.html",
        summary=to_markdown(summary_text(found.table, found.results.of_returns)),
        comparison="" if comparison.empty else to_markdown(comparison_text(comparison)),
        best=search.best_lines(dict(found.samples), found.objective),
        notes=found.notes,
        partial=found.partial,
    )


def _sections(found: Findings) -> list[Section]:
    """All sections; one that cannot be made is a note, and the rest of the report is made."""
    sections: list[Section] = []
    for make in SECTIONS:
        try:
            sections += make(found)
        except AnalysisError as error:
            found.notes.append(f"The section {make.__name__} is left out: {error}")
    return sections


# Files


def _csv(found: Findings) -> str:
    """The metric table with all digits and the differences to the baseline; with a comparison, three more columns."""
    table = found.table
    if len(found.differences):
        table = table.merge(found.differences.drop(columns="method"), on=["sequence", "arm"], how="left")
    comparison = found.comparison
    for metric in metrics.METRICS:
        if comparison is None or comparison.empty:
            break
        own = comparison[comparison["metric"] == metric]
        names = {name: f"{metric}_{name}" for name in ("paper_mean", "paper_spread", "reproduced")}
        added = own[["sequence", "arm", *names]].rename(columns=names)
        table = table.merge(added, on=["sequence", "arm"], how="left")
    return table.to_csv(index=False, lineterminator="\n")


def _markdown(found: Findings, sections: Sequence[Section]) -> str:
    return f"# {markdown(found.title)}\n\nMetrics under the protocol `{found.protocol}`.\n\n{as_markdown(sections)}\n"


def _html(found: Findings, sections: Sequence[Section], drawn: Mapping[str, bytes]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    results = found.results
    return environment.get_template("report.html.j2").render(
        title=found.title,
        sections=sections,
        uris={name: "data:image/png;base64," + base64.b64encode(png).decode("ascii") for name, png in drawn.items()},
        protocol=found.protocol,
        suites=", ".join(sorted(results.evaluations["suite"].dropna().unique())),
        runs=len(results.runs),
        seeds=", ".join(map(str, sorted({run.seed for run in results.runs}))),
    )


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
