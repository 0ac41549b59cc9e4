"""The report of one or several studies, written into one folder.

`report.html`, `table.md`, `table.csv` (a row an arm), `seeds.csv` and `seeds.parquet` (a row a seed), `figures/` with
each figure as PNG, PDF and SVG and, where they are asked for, figures for one column, `latex/` and `report.pdf`. The
same results give the same bytes: no times, no paths, fixed seeds.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from . import figures, metrics, search
from .blocks import Section, Table, Words, all_blocks, as_markdown, pictures
from .browser import print_pdf
from .errors import AnalysisError, MissingToolError, UnknownNameError, UsageError
from .findings import Findings, find
from .latex import latex
from .page import Part, html
from .pictures import films, frame_pictures
from .sections import SECTIONS
from .text import NO_ROWS, comparison_text, markdown, summary_text, to_markdown
from .videos import KINDS

COMPARISONS = ("paper",)

FILMS = (
    "The first evaluation episode of one seed, of the baseline and of the best other arm: with the policy after the "
    "visit that learned the task, and after the next one; where none follows, before and after that visit. An episode "
    "that is over stands still."
)


@dataclass(frozen=True)
class Report:
    """Where a report lies and what it says."""

    html: Path
    summary: str
    """The main table as Markdown, of each study."""
    comparison: str
    """The comparison with the paper as Markdown, or that it has no such rows; empty if it was not asked for."""
    best: list[str]
    """The best sample of each search as a line of YAML, after a comment."""
    notes: list[str]
    partial: bool
    """Whether a seed that was expected is missing or incomplete."""
    headlines: list[str] = field(default_factory=list)
    """Of each study, which arm is best and what was kept."""
    missing: list[str] = field(default_factory=list)
    """What was asked for and could not be made on this machine."""


def write_report(
    results: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    compare: str | None = None,
    protocol: str = "nbsp-visits",
    frames: bool = False,
    videos: str | None = None,
    tex: bool = False,
    pdf: bool = False,
    single_column: bool = False,
) -> Report:
    """Read one study or several and write their report.

    Args:
        results: a study's folder, or several.
        out: where the files go; None: `results/report`, of one study.
        compare: "paper" adds the published numbers.
        protocol: a name in `metrics.PROTOCOLS`.
        frames: add a picture of each task, drawn by its simulator.
        videos: "mp4" or "gif" adds films of each task's policy before and after a visit, which plays runs, and so
            imports their plugins.
        tex: write each table as LaTeX too.
        pdf: print the page with the browser that is installed.
        single_column: write each figure that fits there in the width of one column of a paper too.

    Raises:
        UnknownNameError: for an unknown protocol, comparison or kind of film.
        UsageError: if there are several studies and no `out`.
        DataError: if the results are missing, damaged, or must not be averaged.
        OSError: if the folder cannot be written.
    """
    metrics.get_protocol(protocol)
    if compare is not None and compare not in COMPARISONS:
        raise UnknownNameError("comparison", compare, COMPARISONS)
    if videos is not None and videos not in KINDS:
        raise UnknownNameError("kind of film", videos, KINDS)
    folders = [Path(results)] if isinstance(results, str | Path) else [Path(folder) for folder in results]
    if out is None and len(folders) != 1:
        raise UsageError(f"{len(folders)} studies in one report need a folder of its own: --out DIR")
    folder = folders[0] / "report" if out is None else Path(out)
    missing: list[str] = []
    parts = [_part(path, compare, protocol, frames, missing) for path in folders]
    parts = _named(parts)
    if videos is not None:
        parts = [_filmed(part, folder, videos, len(parts) > 1, missing) for part in parts]

    _write(folder / "table.csv", _csv([_arms(part.found) for part in parts], parts))
    seeds = [_seeds(part.found) for part in parts]
    _write(folder / "seeds.csv", _csv(seeds, parts))
    _write(folder / "seeds.parquet", _together(seeds, parts).to_parquet(index=False))
    _write(folder / "table.md", "\n".join(map(_markdown, parts)).encode())
    for part in parts:
        below = Path(part.name) if len(parts) > 1 else Path()
        _write_pictures(part, folder / "figures" / below, single_column)
        for table in _tables(part.sections) if tex else []:
            _write(folder / "latex" / below / f"{table.name}.tex", latex(table).encode())
    _write(folder / "report.html", html(parts).encode())
    if pdf:
        try:
            print_pdf(folder / "report.html", folder / "report.pdf")
        except MissingToolError as error:
            missing.append(str(error))
    return _report(parts, folder / "report.html", missing)


def _part(folder: Path, compare: str | None, protocol: str, frames: bool, missing: list[str]) -> Part:
    """One study; a section that cannot be made is a note, and the rest of the report is made."""
    found = find(folder, compare=compare is not None, protocol=protocol)
    sections: list[Section] = []
    if frames:
        drawn, failed = frame_pictures(found)
        missing += failed
        sections += [Section("tasks", "Tasks", drawn)] if drawn else []
    for make in SECTIONS:
        try:
            sections += make(found)
        except AnalysisError as error:
            found.notes.append(f"The section {make.__name__} is left out: {error}")
    if frames and sections[0].anchor == "tasks":
        sections.insert(1, sections.pop(0))  # after the summary
    return Part(found.results.name, found, sections)


def _filmed(part: Part, folder: Path, kind: str, several: bool, missing: list[str]) -> Part:
    """The study with its films, which lie in `videos/` beside the page."""
    place = f"videos/{part.name}" if several else "videos"
    made, failed = films(part.found, folder / place, quote(place), kind)
    missing += failed
    if not made:
        return part
    anchors = [section.anchor for section in part.sections]
    before_cost = anchors.index("cost")
    section = Section("videos", "Videos", [Words(FILMS), *made])
    return replace(part, sections=[*part.sections[:before_cost], section, *part.sections[before_cost:]])


def _named(parts: list[Part]) -> list[Part]:
    """Each under a name of its own."""
    names = [part.name for part in parts]
    return [
        part if names.count(part.name) == 1 else Part(f"{part.name}_{number}", part.found, part.sections)
        for number, part in enumerate(parts, 1)
    ]


def _report(parts: Sequence[Part], page: Path, missing: list[str]) -> Report:
    summaries, comparisons, headlines, best, notes = [], [], list[str](), list[str](), list[str]()
    for part in parts:
        found = part.found
        headlines += [text for text in (found.headline.sentence, found.headline.kept) if text]
        summaries.append(to_markdown(summary_text(found.table, found.results.of_returns)))
        if found.comparison is not None:
            rows = comparison_text(found.comparison)
            comparisons.append(to_markdown(rows) if len(rows) else NO_ROWS)
        best += search.best_lines(dict(found.samples), found.objective)
        notes += found.notes
    return Report(
        html=page,
        summary="\n\n".join(summaries),
        comparison="\n\n".join(comparisons),
        best=best,
        notes=notes,
        headlines=headlines,
        partial=any(part.found.partial for part in parts),
        missing=missing,
    )


# Files


def _write_pictures(part: Part, folder: Path, single_column: bool) -> None:
    for picture in pictures(part.sections):
        if picture.on_page_alone:
            continue
        part.drawn[picture.name] = figures.saved(picture.figure, "png")
        _write(folder / f"{picture.name}.png", part.drawn[picture.name])
        widths = {picture.name: picture.figure}
        if single_column and not picture.wide_alone:
            widths[f"{picture.name}_single"] = picture.draw(width=figures.SINGLE)
        for name, figure in widths.items():
            _write(folder / f"{name}.pdf", figures.saved(figure, "pdf"))
            _write(folder / f"{name}.svg", figures.saved(figure, "svg"))


def _tables(sections: Sequence[Section]) -> list[Table]:
    return [block for block in all_blocks(sections) if isinstance(block, Table) and len(block.frame)]


def _arms(found: Findings) -> pd.DataFrame:
    """The metric table with all digits and the differences to the baseline; with a comparison, those to the paper."""
    table = found.table
    if len(found.differences):
        table = table.merge(found.differences.drop(columns="method"), on=["sequence", "arm"], how="left")
    comparison = found.comparison
    for metric in metrics.METRICS:
        if comparison is None or comparison.empty:
            break
        own = comparison[comparison["metric"] == metric]
        names = {name: f"{metric}_{name}" for name in ("paper_mean", "paper_spread", "verdict")}
        names |= {name: f"{metric}_paper_{name}" for name in ("difference", "difference_low", "difference_high")}
        added = own[["sequence", "arm", *names]].rename(columns=names)
        table = table.merge(added, on=["sequence", "arm"], how="left")
    return table


def _seeds(found: Findings) -> pd.DataFrame:
    """Metrics and costs of every run."""
    return found.values.merge(found.costs, on=["sequence", "arm", "seed"], how="left")


def _together(frames: Sequence[pd.DataFrame], parts: Sequence[Part]) -> pd.DataFrame:
    """The frames below each other; of several studies with a first column `study`."""
    if len(parts) == 1:
        return frames[0]
    named = []
    for frame, part in zip(frames, parts, strict=True):
        frame = frame.copy()
        frame.insert(0, "study", part.name)
        named.append(frame)
    return pd.concat(named, ignore_index=True)


def _csv(frames: Sequence[pd.DataFrame], parts: Sequence[Part]) -> bytes:
    buffer = io.StringIO()
    _together(frames, parts).to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue().encode()


def _markdown(part: Part) -> str:
    found = part.found
    sections = as_markdown(part.sections)
    return f"# {markdown(found.title)}\n\nMetrics under the protocol `{found.protocol}`.\n\n{sections}\n"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
