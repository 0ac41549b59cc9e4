"""The report as a user sees it: files, figures, and what the page must not do."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.image import imread

from analysis import load_results, metrics, statistics, success_array, tables
from analysis.errors import UsageError
from analysis.headline import headline_of
from analysis.report import write_report
from tests.analysis.conftest import FORGETFUL, PAIR, PERFECT, StudyBuilder


@pytest.fixture(scope="module")
def small_study(tmp_path_factory):
    """A complete study of two arms and two seeds, and its report."""
    study = StudyBuilder(tmp_path_factory.mktemp("small"))
    for seed in range(2):
        study.run(FORGETFUL, arm="sac", seed=seed, visit_env_steps=1000 + 100 * seed)
        study.run(PERFECT, arm="nbsp", seed=seed, neurons=True)
    study.study(["sac", "nbsp"], [0, 1])
    return study, write_report(study.root, compare="paper")


class Links(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: set[str] = set()
        self.images_without_text = 0

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        values = dict(attrs)
        self.targets += [values[name] for name in ("href", "src", "srcset", "action", "data") if name in values]
        self.images_without_text += tag == "img" and not values.get("alt")


def test_the_page_refers_to_nothing_outside_itself(small_study):
    page = small_study[1].html.read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in links.targets)
    assert not links.tags & {"link", "iframe", "object", "embed"}
    assert not re.search(r"@import|url\((?!#)|\bfetch\b|XMLHttpRequest|import\(", page)
    assert links.images_without_text == 0
    assert {target[1:] for target in links.targets if target.startswith("#")} <= set(re.findall(r'id="([^"]+)"', page))


def test_every_figure_is_a_file_of_each_kind_and_stands_in_the_page(small_study):
    study, report = small_study
    folder = study.root / "report" / "figures"
    names = [
        "activations_pair_nbsp",
        "curves_pair",
        "differences_pair",
        "kept_pair",
        "matrix_pair",
        "metrics_pair",
        "scores_pair_nbsp",
        "training_over_time_pair",
        "training_pair",
    ]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{n}.{k}" for n in names for k in ("pdf", "png", "svg")
    )
    pngs = [imread(folder / f"{name}.png") for name in names]
    assert all(min(png.shape[:2]) > 150 and png.std() > 0.02 for png in pngs)
    # 6.9 inches are both columns of a paper, 497 points.
    assert all(b"/MediaBox [ 0 0 496.8 " in (folder / f"{name}.pdf").read_bytes() for name in names)
    page = report.html.read_text(encoding="utf-8")
    assert (page.count("data:image/png;base64,"), page.count("<svg ")) == (len(names) - 1, 1)


def test_each_box_turns_something_of_the_drawing_on_and_off(small_study):
    page = small_study[1].html.read_text(encoding="utf-8")
    (prefix,) = re.findall(r'data-names="([^"]+)"', page)
    groups = re.findall(r'data-group="([^"]+)"', page)
    assert len(groups) == 2
    assert all(page.count(f'id="{prefix}{group}') >= 2 for group in groups)
    identities = re.findall(r'\bid="([^"]+)"', page)
    assert len(identities) == len(set(identities))


def test_csv_agrees_with_the_metrics(small_study):
    study, _ = small_study
    table = pd.read_csv(study.root / "report" / "table.csv").set_index("arm")
    results = load_results(study.root)
    for arm in ("sac", "nbsp"):
        success = success_array(results, "pair", arm).values
        for name, metric in metrics.METRICS.items():
            expected = statistics.interval(metric(success), limits=metrics.LIMITS[name])
            assert table.loc[arm, f"{name}_mean"] == pytest.approx(expected.mean)
            assert table.loc[arm, f"{name}_half_width"] == pytest.approx(expected.half_width)
            assert table.loc[arm, f"{name}_n"] == 2
    assert table.loc["nbsp", "asr_paper_mean"] == 0.90 and table.loc["nbsp", "asr_verdict"] == "inconclusive"


def test_csv_has_no_column_twice(small_study):
    study, _ = small_study
    header = (study.root / "report" / "table.csv").read_text().splitlines()[0].split(",")
    assert len(header) == len(set(header))
    assert pd.read_csv(io.StringIO((study.root / "report" / "table.csv").read_text())).shape == (2, len(header))


def test_the_same_results_give_the_same_bytes(small_study, tmp_path):
    study, report = small_study
    write_report(study.root, tmp_path / "again", compare="paper")
    first = report.html.parent
    for file in (path for path in sorted(first.rglob("*")) if path.is_file()):
        assert (tmp_path / "again" / file.relative_to(first)).read_bytes() == file.read_bytes()


def test_the_page_shows_tables_notes_versions_and_hashes_but_no_paths(small_study):
    study, report = small_study
    page = report.html.read_text(encoding="utf-8")
    for text in (
        "0.75 ± 0.00",
        "Compared with the paper",
        "c0ffee",
        "2.60.0",
        "Env steps to 90% success",
        "Cost of a run",
        "Cost of a method",
    ):
        assert text in page
    assert str(study.root) not in page and str(study.root) not in (study.root / "report" / "table.md").read_text()
    assert all(note in (study.root / "report" / "table.md").read_text() for note in report.notes)


def test_the_report_has_each_task_more_seeds_other_protocols_and_the_papers_layout(small_study):
    _, report = small_study
    page = report.html.read_text(encoding="utf-8")
    text = (report.html.parent / "table.md").read_text(encoding="utf-8")
    for title in ("Each task", "More seeds", "By other protocols", "Table 1, pair: window-open → window-close"):
        assert f"<h3>{title}</h3>" in page and f"### {title}" in text
    assert "All sequences together" not in page  # There is one.
    assert "<b>0.90 ± 0.04</b>" in page and "**0.90 ± 0.04**" in text
    assert '<b class="differs">' in page and "**" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


def test_several_sequences_are_told_together(study):
    for sequence in ("one", "two"):
        for arm, success in (("sac", FORGETFUL), ("nbsp", PERFECT)):
            study.run(success, arm=arm, sequence=sequence)
    page = write_report(study.root).html.read_text(encoding="utf-8")
    assert "<h3>All sequences together</h3>" in page and "P(above sac)" in page


def test_every_protocol_has_a_report(study):
    study.run([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    study.run(FORGETFUL, arm="nbsp")
    for protocol in metrics.PROTOCOLS:
        report = write_report(study.root, compare="paper", protocol=protocol)
        assert protocol in report.html.read_text(encoding="utf-8")
        assert ("another protocol" in report.comparison) == (protocol != "nbsp-visits")


def test_names_from_results_cannot_inject_markup(pages_alone, study):
    name = "<script>alert(1)</script>"
    study.run(tasks=[name, "b"])
    page = write_report(study.root).html.read_text(encoding="utf-8")
    assert name not in page and "&lt;script&gt;" in page


def test_a_study_in_its_first_visit_has_a_report(pages_alone, study):
    path = study.run(visits=1) / "evaluations.jsonl"
    study.write_rows(path, study.read_rows(path)[:2])  # One periodic evaluation.
    report = write_report(study.root)
    assert report.partial and "incomplete" in report.summary


def test_many_arms_have_a_row_each_and_a_drawing_to_choose_from(pages_alone, study):
    for number in range(9):
        study.run(FORGETFUL, arm=f"arm{number}", visits=4 - number % 2)
    report = write_report(study.root)
    page = report.html.read_text(encoding="utf-8")
    boxes = re.findall(r"<input type=\"checkbox\"[^>]*>", page)
    assert (len(boxes), sum("checked" in box for box in boxes)) == (9, 5)
    assert not list((report.html.parent / "figures").glob("arms_pair*"))
    assert len(page) < 3_000_000


def test_the_page_begins_with_the_sentence_and_markdown_has_it_too(small_study):
    study, report = small_study
    sentence = headline_of(load_results(study.root), tables.metric_values(load_results(study.root))).sentence
    page = report.html.read_text(encoding="utf-8")
    assert page.index(html.escape(sentence, quote=True)) < page.index("<table>")
    assert sentence in (study.root / "report" / "table.md").read_text()


def test_rows_a_seed_are_the_metrics_as_csv_and_parquet(small_study):
    study, _ = small_study
    folder = study.root / "report"
    parquet, csv = pd.read_parquet(folder / "seeds.parquet"), pd.read_csv(folder / "seeds.csv")
    assert len(csv) == len(parquet) == 4 and list(csv) == list(parquet)
    values = tables.metric_values(load_results(study.root))
    for frame in (parquet, csv):
        assert frame["asr"].tolist() == pytest.approx(values["asr"].tolist())


def test_several_studies_in_one_report(pages_alone, small_study, tmp_path):
    one, _ = small_study
    (tmp_path / "small").mkdir()
    other = StudyBuilder(tmp_path / "small")
    other.run(PERFECT, sequence="other", arm="<b>")
    report = write_report([one.root, other.root, one.root], tmp_path / "out")
    page = report.html.read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))
    assert {target[1:] for target in links.targets if target.startswith("#")} <= {*names}
    studies = pd.read_csv(tmp_path / "out" / "table.csv")["study"].unique()
    assert len(studies) == 3 and len(pd.read_parquet(tmp_path / "out" / "seeds.parquet")["study"].unique()) == 3
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == set(studies)
    assert "<b>" not in (tmp_path / "out" / "table.md").read_text()


def test_several_studies_without_a_folder_are_refused(small_study):
    root = small_study[0].root
    with pytest.raises(UsageError, match="2 studies in one report need a folder of its own: --out DIR"):
        write_report([root, root])


def test_figures_for_one_column_stand_beside_the_others(study):
    study.run(mechanism=True)
    folder = write_report(study.root, single_column=True).html.parent / "figures"
    names = {path.name for path in folder.iterdir()}
    wide = {name.removesuffix(".pdf") for name in names if name.endswith(".pdf") and "_single" not in name}
    assert {"metrics_pair", "curves_pair", "mechanism_pair"} <= wide
    assert {f"{name}_single.{kind}" for name in wide for kind in ("pdf", "svg")} <= names
    drawn = (folder / "metrics_pair_single.svg").read_text(), (folder / "metrics_pair.svg").read_text()
    # 3.4 and 6.9 inches, in points.
    assert [re.search(r'width="([\d.]+)pt"', text)[1] for text in drawn] == ["244.8", "496.8"]


def test_tables_as_latex_hold_nothing_that_latex_would_read(pages_alone, study):
    study.run(arm="a_b%&$#{}~^\\", method="sac")
    study.run(PERFECT, arm="nbsp", cycles=2)
    report = write_report(study.root, tex=True)
    files = {path.name: path.read_text() for path in (report.html.parent / "latex").iterdir()}
    assert {"summary.tex", "differences.tex", "costs.tex", "hashes.tex"} <= files.keys()
    row = next(line for line in files["summary.tex"].splitlines() if line.startswith("a\\_b"))
    escaped = r"a\_b\%\&\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    assert row.startswith(f"{escaped} & 0.75 & 0.67 & ")
    for text in files.values():
        assert text.isascii() and "\\toprule" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdfLaTeX with booktabs and graphicx")
def test_pdflatex_takes_every_table_and_none_is_wider_or_higher_than_a_page(pages_alone, study):
    for number in range(12):
        arm = f"a_b%&$#{{}}~^\\ {number}" if number else "sac"
        study.run([[0.1, 0.2], [0.3, 0.4]] * 2, arm=arm, method="sac", neurons=not number, mechanism=True)
    folder = write_report(study.root, tex=True).html.parent / "latex"
    inputs = "\n".join(rf"\input{{{path.stem}}}\clearpage" for path in sorted(folder.iterdir()))
    document = rf"\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}{inputs}\end{{document}}"
    (folder / "all.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.findall(r"Overfull .*|.*Float too large.*", done.stdout)


def test_without_a_browser_the_report_is_made_and_one_line_says_so(pages_alone, study, monkeypatch, tmp_path):
    study.run()
    monkeypatch.setenv("PATH", str(tmp_path))
    report = write_report(study.root, pdf=True)
    assert report.html.is_file() and len(report.missing) == 1
    assert re.fullmatch(r"no report.pdf: it is printed by one of chromium, .* none is installed", report.missing[0])


@pytest.mark.parametrize(
    ("script", "said"), [("exit 3", "exit code 3"), ("echo x >&2; echo no display >&2; exit 1", "no display")]
)
def test_a_browser_that_fails_is_named_with_what_it_said(pages_alone, study, monkeypatch, tmp_path, script, said):
    study.run()
    browser = tmp_path / "chromium"
    browser.write_text(f"#!/bin/sh\n{script}\n")
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    report = write_report(study.root, pdf=True)
    assert report.missing == [f"no report.pdf: {browser} did not print it ({said})"]


def test_a_browser_is_given_the_page_and_where_to_print(pages_alone, study, monkeypatch, tmp_path):
    study.run()
    browser = tmp_path / "chromium"
    browser.write_text('#!/bin/sh\nfor a in "$@"; do case $a in --print-to-pdf=*) echo "$@" > "${a#*=}";; esac; done\n')
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    report = write_report(study.root, pdf=True)
    assert not report.missing
    assert report.html.as_uri() in report.html.with_suffix(".pdf").read_text()


def test_tasks_without_pictures_are_lines_and_the_report_is_made(pages_alone, study):
    path = study.run() / "evaluations.jsonl"
    study.write_rows(path, [row | {"suite": "point_mass"} for row in study.read_rows(path)])
    report = write_report(study.root, frames=True)
    assert report.missing == [f"no picture of {task}: the suite point_mass has none" for task in PAIR]
    assert "Tasks" not in re.findall("<h2[^>]*>(.*?)</h2>", report.html.read_text(encoding="utf-8"))


def test_costs_are_compared_with_the_arm_of_fine_tuning_whatever_its_name(pages_alone, study):
    study.run(arm="plain", method="sac")
    study.run(PERFECT, arm="sac", method="ewc")
    page = write_report(study.root).html.read_text(encoding="utf-8")
    assert "Time per update, × plain" in page and "× sac" not in page  # noqa: RUF001


def test_faults_that_runs_survived_have_a_table(pages_alone, study):
    path = study.run() / "training.jsonl"
    rows = study.read_rows(path)
    study.write_rows(path, [row | {"rebuilt_envs": n, "lost_fragments": 0} for n, row in enumerate(rows)])
    study.run(PERFECT, arm="nbsp")
    page = write_report(study.root).html.read_text(encoding="utf-8")
    assert "Of 2 runs, these went on after faults" in page and '<td class="n">11</td>' in page


def test_origin_says_what_runs_did_not_write_down(pages_alone, study):
    run = study.run()
    (run / "versions.json").write_text(json.dumps({"rllib_nbsp": "0.1", "device": "CPU x86_64", "ale-py": "0.12.0"}))
    page = write_report(study.root).html.read_text(encoding="utf-8")
    assert "Made with rllib_nbsp 0.1, ale-py 0.12.0, on CPU x86_64; the runs did not write down: commit." in page


# What studies may look like


def empty_arm(study):
    study.run()
    study.study(["sac", "nbsp"], [0])


def no_common_seed(study):
    study.run()
    study.run(PERFECT, arm="nbsp", seed=1)


def no_task_has_success(study):
    study.run([[None, None]] * 4)
    study.run([[None, None]] * 4, arm="nbsp")


def no_training(study):
    study.run(training=False)
    study.run(PERFECT, arm="nbsp", training=False)


def one_task(study):
    study.run([[1.0]], tasks=["a"], cycles=1)


def running(study):
    study.run(visits=1, arm="sac")
    study.run(visits=2, arm="nbsp", neurons=True)
    study.study(["sac", "nbsp", "ewc"], [0, 1])


def corrupt(study):
    run = study.run(neurons=True, arm="nbsp")
    (run / "neurons" / "visit_01.npz").write_bytes(b"not an archive")
    (run / "cost.json").write_text("[1")
    (run / "versions.json").write_bytes(bytes([255, 0]))
    with (run / "training.jsonl").open("a") as file:
        file.write('{"torn')


def baseline_never_finished(study):
    study.run(visits=1)
    study.run(PERFECT, arm="nbsp")


@pytest.mark.parametrize(
    "odd",
    [empty_arm, no_common_seed, no_task_has_success, no_training, one_task, running, corrupt, baseline_never_finished],
)
def test_of_an_odd_study_the_report_is_made_and_its_notes_say_each_thing_once(pages_alone, study, odd, recwarn):
    odd(study)
    report = write_report(study.root, compare="paper", tex=True)
    assert report.html.is_file() and report.summary
    assert len(report.notes) == len(set(report.notes))
    assert not [warning for warning in recwarn if "matplotlib" in str(warning.filename)]
