"""A study's tables and figures, written into one folder: `table.md`, `table.csv`, `figures/`, `report.html`.

The same results give the same bytes: no times, no paths, fixed seeds.
"""

from __future__ import annotations

import base64
import io
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis import figures, metrics, search, tables
from analysis.errors import UnknownNameError
from analysis.load import Results, load_results, neurons_of

COMPARISONS = ("paper",)
DPI = 130
LEARNED, LEARNED_RETURN = 0.5, 0.05
"""A task whose mean success, or normalised return, never reached this right after training was not learned."""


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
    loaded = load_results(results)
    values = tables.metric_values(loaded, protocol)
    table = tables.metric_table(loaded, values)
    comparison = tables.compare_with_paper(loaded, table) if compare else pd.DataFrame()
    thresholds = tables.threshold_values(loaded)
    styles = figures.arm_styles(tables.arm_order(loaded))
    sections = [_section(loaded, sequence, values, thresholds, styles) for sequence in loaded.orders]
    notes = collect_notes(loaded, values, table, comparison if compare else None)
    ranked, objective = search.rank_samples(loaded, values), search.objective_of(loaded)
    costs = _in_order(tables.cost_values(loaded), styles)

    folder = Path(results) / "report" if out is None else Path(out)
    texts = {
        "summary": tables.summary_text(table, loaded.of_returns),
        "cycles": tables.cycles_text(_in_order(values, styles)),
        "comparison": tables.comparison_text(comparison),
        "search": search.search_text(ranked, objective, loaded.of_returns),
        "costs": tables.cost_text(costs),
        "method_costs": tables.cost_over_sac_text(costs),
    }
    _write(folder / "table.csv", _csv(table, comparison).encode())
    best = search.best_lines(ranked, objective)
    _write(folder / "table.md", _markdown(loaded, texts, sections, best, notes, protocol).encode())
    for section in sections:
        for picture in [*section.pictures, *(picture for _, picture, _ in section.neurons)]:
            _write(folder / "figures" / picture.file, picture.png)
    page = _html(loaded, texts, sections, best, notes, protocol, partial=tables.is_partial(table))
    _write(folder / "report.html", page.encode())
    return Report(
        html=folder / "report.html",
        summary=tables.to_markdown(texts["summary"]),
        comparison="" if comparison.empty else tables.to_markdown(texts["comparison"]),
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
            neurons.append((arm, picture, tables.neurons_text(tables.neuron_summary(scores))))
    own = _in_order(thresholds[thresholds["sequence"] == sequence], styles) if len(thresholds) else thresholds
    return Section(
        sequence=sequence,
        tasks=" → ".join(map(tables.short_name, order.tasks)),
        visits=len(order.order),
        pictures=pictures,
        thresholds=tables.threshold_text(own, sequence) if len(own) else pd.DataFrame(),
        neurons=neurons,
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


# Notes


def collect_notes(
    results: Results, values: pd.DataFrame, table: pd.DataFrame, comparison: pd.DataFrame | None = None
) -> list[str]:
    """What a reader must know before believing the numbers; damage in the files comes first.

    Args:
        results: a loaded study.
        values: `tables.metric_values`.
        table: `tables.metric_table`.
        comparison: `tables.compare_with_paper`; None if it was not asked for.
    """
    protocol = str(values["protocol"].iloc[0])
    notes = [*results.notes, *(results.study.notes if results.study else ())]
    if results.of_returns:
        notes.append(
            "Scores are returns normalised by those of random play, 0, and of a human, 1 (Eq. 11); games differ in "
            "what can be reached, so a mean over games weighs them unequally."
        )
    notes += _partial_notes(results, table, protocol)
    notes += _seed_notes(table)
    for sequence, order in results.orders.items():
        notes += _never_learned(results, sequence)
        if len(order.tasks) == 2:
            notes.append(
                f"{sequence}: in a pair of tasks the relation between these two decides the numbers; a ranking of arms "
                "need not hold on others."
            )
        if len(order.tasks) == 1:
            notes.append(f"{sequence}: with one task nothing can be forgotten, so FM is not defined.")
    if results.study and results.study.search:
        notes.append(
            "The best of several samples looks better than it is: run it again, with seeds that the search has not "
            "seen, before comparing it with anything."
        )
    notes += _unequal_budgets(results, values)
    notes += _mixed_versions(results)
    if comparison is not None:
        notes += _paper_notes(results, comparison, protocol)
    return notes


def _partial_notes(results: Results, table: pd.DataFrame, protocol: str) -> list[str]:
    notes = []
    expected = tables.expected_seeds(results)
    found = {(run.sequence, run.arm, run.seed) for run in results.runs}
    for row in table.itertuples(index=False):
        absent = [seed for seed in expected[row.sequence, row.arm] if (row.sequence, row.arm, seed) not in found]
        if row.n_complete < row.n_expected:
            notes.append(
                f"{row.sequence}/{row.arm}: {row.n_complete} of {row.n_expected} seeds are complete"
                + (f"; not started: seed {', '.join(map(str, absent))}." if absent else ".")
            )
    study = results.study
    listed = set(itertools.product(study.sequences, study.arms, study.seeds)) if study else found
    for sequence, arm, seed in sorted(found - listed):
        notes.append(f"{sequence}/{arm}/seed_{seed}: study.yaml does not list this run; it is included.")
    arms = results.evaluations[["sequence", "arm"]].drop_duplicates()
    for sequence, arm in arms.itertuples(index=False):
        success = tables.success_array(results, sequence, arm)
        for seed, missing in zip(success.seeds, success.missing(protocol), strict=True):
            if missing:
                visits = sorted({visit for visit, _ in missing})
                notes.append(
                    f"{sequence}/{arm}/seed_{seed}: {len(missing)} of the needed results are missing "
                    f"(after visit {', '.join(map(str, visits))}); metrics that need them are left out, not set to 0."
                )
    return notes


def _seed_notes(table: pd.DataFrame) -> list[str]:
    notes = []
    most = int(table["n_complete"].max())
    if most <= 1:
        notes.append("One seed per arm says what happened once. It is no evidence that one arm is better than another.")
    elif (table["n_complete"] == 1).any():
        notes.append("Arms with one seed have no interval and cannot be ranked.")
    if 2 <= most < metrics.BOOTSTRAP_FROM:
        notes.append(
            "± is the half width of a 95 % t-interval over seeds. With 3 against 3 seeds no exact rank test can give a "
            "p below 0.10."
        )
    if most >= metrics.BOOTSTRAP_FROM:
        notes.append("Brackets hold a 95 % percentile-bootstrap interval over seeds; ± a t-interval (under 10 seeds).")
    widths = table[[f"{name}_half_width" for name in metrics.METRICS]].to_numpy(dtype=float)
    if (widths == 0).any():
        notes.append("± 0.00: all seeds gave the same value, which is coarse evaluation rather than certainty.")
    return notes


def _never_learned(results: Results, sequence: str) -> list[str]:
    notes = []
    order = results.orders[sequence]
    for arm in sorted(results.evaluations.loc[results.evaluations["sequence"] == sequence, "arm"].unique()):
        values = tables.success_array(results, sequence, arm).values
        after = np.array([values[:, visit, task] for visit, task in enumerate(order.order)])
        for task, name in enumerate(order.tasks):
            own = after[np.array(order.order) == task]
            measured = own[np.isfinite(own)]
            if len(measured) and measured.max() < (LEARNED_RETURN if results.of_returns else LEARNED):
                notes.append(
                    f"{sequence}/{arm}: {tables.short_name(name)} was never learned (at most {measured.max():.2f} "
                    "after its own visits); what was never learned cannot be forgotten, so a low FM means nothing."
                )
    return notes


def _unequal_budgets(results: Results, values: pd.DataFrame) -> list[str]:
    notes = []
    finished = values.loc[values["complete"], ["sequence", "arm", "seed"]]
    costs = tables.cost_values(results).merge(finished, on=["sequence", "arm", "seed"])
    for sequence, rows in costs.groupby("sequence"):
        steps = rows.groupby("arm")["env_steps"].mean()
        if len(steps) > 1 and steps.max() > 1.05 * steps.min():
            notes.append(
                f"{sequence}: arms used between {tables.steps_text(steps.min())} ({steps.idxmin()}) and "
                f"{tables.steps_text(steps.max())} ({steps.idxmax()}) env steps, as visits may end early."
            )
    return notes


def _mixed_versions(results: Results) -> list[str]:
    names = sorted({name for run in results.runs for name in run.versions})
    mixed = []
    for name in names:
        found = sorted({run.versions[name] for run in results.runs if name in run.versions})
        if len(found) > 1:
            mixed.append(f"{name} {' and '.join(found)}")
    return [f"Runs were made with different versions: {'; '.join(mixed)}."] if mixed else []


def _paper_notes(results: Results, comparison: pd.DataFrame, protocol: str) -> list[str]:
    if comparison.empty:
        return ["The paper has no numbers for these sequences, cycles and arms."]
    notes = [
        "Reproduced: yes means that the published mean lies in our 95 % interval, which a wide interval makes easy; no "
        "that it lies outside."
    ]
    if protocol != "nbsp-visits":
        notes.append(f"The published numbers fit the protocol nbsp-visits, not {protocol}: the comparison is off.")
    compared = set(zip(comparison["sequence"], comparison["arm"], strict=True))
    budgets = {
        _nested(run.config, "visit", "max_env_steps")
        for run in results.runs
        if (run.sequence, run.arm) in compared and run.config
    }
    if smaller := sorted(budget for budget in budgets if isinstance(budget, int) and budget != 1_000_000):
        listed = ", ".join(map(tables.steps_text, smaller))
        notes.append(f"The paper trains up to 1M env steps a visit; these runs were given {listed}.")
    shapes = {
        str(_nested(run.config, "model", "hidden"))
        for run in results.runs
        if (run.sequence, run.arm) in compared and run.config
    }
    if other := sorted(shapes - {"[768, 768, 768]", "None"}):
        notes.append(f"The paper's networks have hidden layers [768, 768, 768]; these have {', '.join(other)}.")
    return notes


def _nested(config: dict[str, Any], section: str, key: str) -> Any:
    inner = config.get(section)
    return inner.get(key) if isinstance(inner, dict) else None


# Files


def _csv(table: pd.DataFrame, comparison: pd.DataFrame) -> str:
    """The metric table with all digits; with a comparison, three more columns per metric."""
    for metric in metrics.METRICS if len(comparison) else ():
        own = comparison[comparison["metric"] == metric]
        names = {name: f"{metric}_{name}" for name in ("paper_mean", "paper_spread", "reproduced")}
        added = own[["sequence", "arm", *names]].rename(columns=names)
        table = table.merge(added, on=["sequence", "arm"], how="left")
    return table.to_csv(index=False, lineterminator="\n")


def _markdown(
    results: Results,
    texts: dict[str, pd.DataFrame],
    sections: list[Section],
    best: list[str],
    notes: list[str],
    protocol: str,
) -> str:
    parts = [f"# {_title(results)}", f"Metrics under the protocol `{protocol}`.", tables.to_markdown(texts["summary"])]
    titled = [("Compared with the paper", texts["comparison"]), ("By cycle", texts["cycles"])]
    titled += [("Samples of each search", texts["search"])]
    titled += [(f"Env steps to {tables.THRESHOLD:.0%} success, {s.sequence}", s.thresholds) for s in sections]
    titled += [("Cost of a run", texts["costs"]), ("Cost of a method", texts["method_costs"])]
    for title, text in titled:
        if len(text):
            parts += [f"## {title}", tables.to_markdown(text)]
    if best:
        parts += ["## Best of each search", "\n".join(["```yaml", *best, "```"])]
    parts += ["## Notes", "\n".join(f"- {note}" for note in notes) or "- none"]
    return "\n\n".join(parts) + "\n"


def _html(
    results: Results,
    texts: dict[str, pd.DataFrame],
    sections: list[Section],
    best: list[str],
    notes: list[str],
    protocol: str,
    *,
    partial: bool,
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
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
        best=best,
        notes=notes,
        partial=partial,
        protocol=metrics.get_protocol(protocol),
        threshold=f"{tables.THRESHOLD:.0%}",
        hashes=hashes.fillna("").rename(columns={"sequence": "Sequence", "arm": "Arm", "config_hash": "Config hash"}),
        versions=pd.DataFrame(versions),
        suites=", ".join(sorted(results.evaluations["suite"].dropna().unique())),
        runs=len(results.runs),
        seeds=", ".join(map(str, sorted({run.seed for run in results.runs}))),
    )


def _title(results: Results) -> str:
    names = sorted(results.evaluations["experiment"].dropna().unique())
    return ", ".join(names) or results.name


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
