"""A study's tables and figures, written into one folder: `table.md`, `table.csv`, `figures/`, `report.html`.

The same results give the same bytes: no times, no paths, fixed seeds.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rllib_nbsp.reading import printable

from . import figures, metrics, neuron_report, search, skill, tables
from .differences import baseline_of, difference_table
from .errors import UnknownNameError
from .further import Table, further_tables, paper_tables
from .load import load_results
from .neurons import incoming_changes, neurons_of
from .notes import collect_notes
from .paper import compare_with_paper
from .schema import Results
from .text import (
    NO_ROWS,
    comparison_text,
    cost_over_sac_text,
    cost_text,
    cycles_text,
    difference_text,
    markdown,
    neurons_text,
    short_name,
    summary_text,
    threshold_text,
    to_markdown,
)

COMPARISONS = ("paper",)
DPI = 130


@dataclass(frozen=True)
class Picture:
    """One figure of the report."""

    file: str
    title: str
    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        """The picture inside the page, so that the page needs no other file."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Section:
    """What the report says about one task sequence."""

    sequence: str
    tasks: str
    visits: int
    pictures: list[Picture]
    thresholds: pd.DataFrame
    neurons: list[tuple[str, Picture, pd.DataFrame]] = field(default_factory=list)
    """For each arm with scored neurons: its name, its histograms, what was selected."""
    neuron_tables: dict[str, dict[str, pd.DataFrame]] = field(default_factory=dict)
    """For each of them further tables of `neuron_report`, by title."""
    constant_masked: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What training rows tell of the masks, if no run has kept its neurons."""


@dataclass(frozen=True)
class Report:
    """Where a report lies and what it says."""

    html: Path
    summary: str
    """The main table as Markdown."""
    comparison: str
    """The comparison with the paper as Markdown, or that it has no such rows; empty if it was not asked for."""
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
    loaded = load_results(results)
    values = tables.metric_values(loaded, protocol)
    table = tables.metric_table(loaded, values)
    differences = difference_table(loaded, values)
    comparison = compare_with_paper(loaded, values) if compare else pd.DataFrame()
    thresholds = tables.threshold_values(loaded)
    styles = figures.arm_styles(tables.arm_order(loaded))
    sections = [_section(loaded, sequence, values, thresholds, styles) for sequence in loaded.orders]
    notes = collect_notes(loaded, values, table, comparison if compare else None)
    further, published = further_tables(loaded, values), paper_tables(loaded, comparison)
    ranked, objective = search.rank_samples(loaded, values), search.objective_of(loaded)
    costs = _in_order(tables.cost_values(loaded), styles)

    folder = Path(results) / "report" if out is None else Path(out)
    texts = {
        "summary": summary_text(table, loaded.of_returns),
        "differences": difference_text(differences, loaded.of_returns),
        "cycles": cycles_text(_in_order(values, styles)),
        "comparison": comparison_text(comparison),
        "search": search.search_text(ranked, objective, loaded.of_returns),
        "costs": cost_text(costs),
        "method_costs": cost_over_sac_text(costs),
    }
    _write(folder / "table.csv", _csv(table, differences, comparison).encode())
    best = search.best_lines(ranked, objective)
    _write(folder / "table.md", _markdown(loaded, texts, sections, published, further, best, notes, protocol).encode())
    for section in sections:
        for picture in [*section.pictures, *(picture for _, picture, _ in section.neurons)]:
            _write(folder / "figures" / picture.file, picture.png)
    page = _html(loaded, texts, sections, published, further, best, notes, protocol, partial=tables.is_partial(table))
    _write(folder / "report.html", page.encode())
    return Report(
        html=folder / "report.html",
        summary=to_markdown(texts["summary"]),
        comparison="" if not compare else NO_ROWS if comparison.empty else to_markdown(texts["comparison"]),
        best=best,
        notes=notes,
        partial=tables.is_partial(table),
    )


# Sections


def _section(
    results: Results,
    sequence: str,
    values: pd.DataFrame,
    thresholds: pd.DataFrame,
    styles: dict[str, figures.ArmStyle],
) -> Section:
    order = results.orders[sequence]
    rows = results.evaluations[results.evaluations["sequence"] == sequence]
    arms = [arm for arm in styles if arm in set(rows["arm"])]
    arrays = {arm: tables.success_array(results, sequence, arm) for arm in arms}
    pictures = [
        _picture(
            f"metrics_{sequence}.png",
            "Metrics by arm",
            "Large marks are means over seeds, ticks above them the seeds, bars 95 % intervals (none for one seed). "
            "ASR (of returns: AR) and FWT are better to the right, FM to the left.",
            figures.metric_dots(values[values["sequence"] == sequence], styles, results.of_returns),
        ),
        _picture(
            f"curves_{sequence}.png",
            f"{_what(results)} over training",
            "Thick lines are means over seeds, thin ones seeds, marks evaluations at the end of a visit. In shaded "
            "visits the panel's own task is trained; outside them the line shows what is kept of it. A seed that "
            "ended a visit early counts with its last value until its arm's last seed ends.",
            figures.success_curves(rows, order, styles, results.of_returns),
        ),
        _picture(
            f"matrix_{sequence}.png",
            f"{_what(results)} after every visit on every task",
            "Mean over seeds at the end of each visit; the outlined task was just trained. Hatched: not measured.",
            figures.success_heatmaps(arrays, results.of_returns),
        ),
    ]
    neurons = []
    neuron_tables = {}
    for arm in arms:
        scores = neurons_of(results.runs, sequence, arm, results.notes)
        if not scores.empty:
            picture = _picture(
                f"scores_{sequence}_{arm}.png",
                f"Neuron scores, {arm}",
                "Share of a layer's neurons by score (Eq. 4), all seeds together, on a logarithmic scale. Dotted: the "
                "score max(p, 1 - p) of a neuron that never moves.",
                figures.score_histograms(scores, styles[arm]),
            )
            neurons.append((arm, picture, neurons_text(tables.neuron_summary(scores))))
            changes = incoming_changes(run for run in results.runs if (run.sequence, run.arm) == (sequence, arm))
            texts = neuron_report.texts_of(neuron_report.frames_of(scores, changes))
            neuron_tables[arm] = {
                title: text.drop(columns=["Sequence", "Arm"]) for title, text in texts.items() if title != "Selection"
            }
    told = skill.constant_masked(results.training[results.training["sequence"] == sequence])
    own = _in_order(thresholds[thresholds["sequence"] == sequence], styles) if len(thresholds) else thresholds
    return Section(
        sequence=sequence,
        tasks=" → ".join(map(short_name, order.tasks)),
        visits=len(order.order),
        pictures=pictures,
        thresholds=threshold_text(own, sequence) if len(own) else pd.DataFrame(),
        neurons=neurons,
        neuron_tables=neuron_tables,
        constant_masked=pd.DataFrame() if neurons else neuron_report.constant_masked_text(told),
    )


def _what(results: Results) -> str:
    return "Normalised return" if results.of_returns else "Success"


def _picture(file: str, title: str, caption: str, figure: Figure) -> Picture:
    buffer = io.BytesIO()
    figure.set_dpi(DPI)
    with figures.settings():
        # The canvas draws once where savefig draws twice. Without the library's version the bytes depend on data alone.
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return Picture(file, title, caption, buffer.getvalue())


def _in_order(frame: pd.DataFrame, styles: dict[str, figures.ArmStyle]) -> pd.DataFrame:
    """Rows by sequence, then by arm as everywhere in the report."""
    ranks = {arm: rank for rank, arm in enumerate(styles)}
    order = frame.assign(rank=frame["arm"].map(ranks)).sort_values(["sequence", "rank"], kind="stable")
    return order.drop(columns="rank")


# Files


def _csv(table: pd.DataFrame, differences: pd.DataFrame, comparison: pd.DataFrame) -> str:
    """The metric table with all digits and the differences to the baseline; with a comparison, those to the paper."""
    if len(differences):
        table = table.merge(differences.drop(columns="method"), on=["sequence", "arm"], how="left")
    for metric in metrics.METRICS if len(comparison) else ():
        own = comparison[comparison["metric"] == metric]
        names = {name: f"{metric}_{name}" for name in ("paper_mean", "paper_spread", "verdict")}
        names |= {name: f"{metric}_paper_{name}" for name in ("difference", "difference_low", "difference_high")}
        added = own[["sequence", "arm", *names]].rename(columns=names)
        table = table.merge(added, on=["sequence", "arm"], how="left")
    return table.to_csv(index=False, lineterminator="\n")


def _markdown(
    results: Results,
    texts: dict[str, pd.DataFrame],
    sections: list[Section],
    published: list[Table],
    further: list[Table],
    best: list[str],
    notes: list[str],
    protocol: str,
) -> str:
    parts = [
        f"# {markdown(_title(results))}",
        f"Metrics under the protocol `{protocol}`.",
        to_markdown(texts["summary"]),
    ]
    titled = [(f"Paired differences to {markdown(str(baseline_of(results)))}", texts["differences"])]
    titled += [("Compared with the paper", texts["comparison"]), *((markdown(it.title), it.frame) for it in published)]
    titled += [("By cycle", texts["cycles"]), *((it.title, it.frame) for it in further)]
    titled += [("Samples of each search", texts["search"])]
    mastery = f"Env steps to {tables.THRESHOLD:.0%} success in evaluation"
    titled += [(f"{mastery}, {markdown(s.sequence)}", s.thresholds) for s in sections]
    titled += [("Cost of a run", texts["costs"]), ("Cost of a method", texts["method_costs"])]
    for title, text in titled:
        if len(text):
            parts += [f"## {title}", to_markdown(text)]
    if best:
        parts += ["## Best of each search", "\n".join(["```yaml", *map(printable, best), "```"])]
    parts += ["## Notes", "\n".join(f"- {markdown(note)}" for note in notes) or "- none"]
    return "\n\n".join(parts) + "\n"


def _html(
    results: Results,
    texts: dict[str, pd.DataFrame],
    sections: list[Section],
    published: list[Table],
    further: list[Table],
    best: list[str],
    notes: list[str],
    protocol: str,
    *,
    partial: bool,
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    hashes = results.evaluations[["sequence", "arm", "config_hash"]].drop_duplicates()
    versions = [
        {"Package": name, "Version": ", ".join(sorted({r.versions[name] for r in results.runs if name in r.versions}))}
        for name in sorted({name for run in results.runs for name in run.versions})
    ]
    return environment.get_template("report.html.j2").render(
        title=_title(results),
        texts=texts,
        sections=sections,
        published=published,
        further=further,
        best=best,
        notes=notes,
        partial=partial,
        protocol=metrics.get_protocol(protocol),
        baseline=baseline_of(results),
        threshold=f"{tables.THRESHOLD:.0%}",
        hashes=hashes.fillna("").rename(columns={"sequence": "Sequence", "arm": "Arm", "config_hash": "Config hash"}),
        versions=pd.DataFrame(versions),
        suites=", ".join(sorted(results.evaluations["suite"].dropna().unique())),
        runs=len(results.runs),
        seeds=", ".join(map(str, sorted({run.seed for run in results.runs}))),
        about=neuron_report.ABOUT,
    )


def _title(results: Results) -> str:
    names = sorted(results.evaluations["experiment"].dropna().unique())
    return ", ".join(names) or results.name


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
