"""The report as a user sees it: files, figures, and what the page must not do."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.image import imread

from analysis import figures, load_results, metrics, statistics, success_array, tables
from analysis.report import write_report
from tests.analysis.conftest import FORGETFUL, PERFECT, StudyBuilder


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
    assert not links.tags & {"script", "link", "iframe", "object", "embed"}
    assert not re.search(r"@import|url\(", page)
    assert links.images_without_text == 0
    assert {target[1:] for target in links.targets if target.startswith("#")} <= set(re.findall(r'id="([^"]+)"', page))


def test_every_figure_is_a_picture_on_disk_and_in_the_page(small_study):
    study, report = small_study
    files = sorted((study.root / "report" / "figures").glob("*.png"))
    assert [file.name for file in files] == [
        "curves_pair.png",
        "matrix_pair.png",
        "metrics_pair.png",
        "scores_pair_nbsp.png",
    ]
    assert all(min(imread(file).shape[:2]) > 200 and imread(file).std() > 0.02 for file in files)
    assert report.html.read_text(encoding="utf-8").count("data:image/png;base64,") == len(files)


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
        assert f"<h3>{title}</h3>" in page and f"## {title}" in text
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


def test_names_from_results_cannot_inject_markup(study):
    name = "<script>alert(1)</script>"
    study.run(tasks=[name, "b"])
    page = write_report(study.root).html.read_text(encoding="utf-8")
    assert name not in page and "&lt;script&gt;" in page


def test_a_study_in_its_first_visit_has_a_report(study):
    path = study.run(visits=1) / "evaluations.jsonl"
    study.write_rows(path, study.read_rows(path)[:2])  # One periodic evaluation.
    report = write_report(study.root)
    assert report.partial and "incomplete" in report.summary


def test_many_arms_keep_their_own_colour_or_dash(study):
    for number in range(9):
        study.run(FORGETFUL, arm=f"arm{number}", visits=4 - number % 2)
    report = write_report(study.root)
    assert len(list((report.html.parent / "figures").iterdir())) == 3
    assert len(set(figures.arm_styles(tables.arm_order(load_results(study.root))).values())) == 9
