"""The report as a user sees it: files, exit codes, notes, and what the page must not do."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread

from analysis import figures, load_results, metrics, success_array, tables
from analysis.__main__ import main
from analysis.report import collect_notes, write_report
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
            expected = metrics.interval(metric(success))
            assert table.loc[arm, f"{name}_mean"] == pytest.approx(expected.mean)
            assert table.loc[arm, f"{name}_half_width"] == pytest.approx(expected.half_width)
            assert table.loc[arm, f"{name}_n"] == 2
    assert table.loc["nbsp", "asr_paper_mean"] == 0.90 and table.loc["nbsp", "asr_reproduced"] == "no"


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


def test_names_from_results_cannot_inject_markup(study):
    name = "<script>alert(1)</script>"
    study.run(tasks=[name, "b"])
    page = write_report(study.root).html.read_text(encoding="utf-8")
    assert name not in page and "&lt;script&gt;" in page


def notes_of(study, protocol="nbsp-visits"):
    results = load_results(study.root)
    values = tables.metric_values(results, protocol)
    table = tables.metric_table(results, values)
    return "\n".join(collect_notes(results, values, table, tables.compare_with_paper(results, table)))


def test_notes_name_what_weakens_the_numbers(study):
    study.run([[0.2, 0.0], [0.1, 1.0], [0.3, 0.5], [0.0, 1.0]], arm="sac", visit_env_steps=1000)
    study.run(FORGETFUL, arm="nbsp", visit_env_steps=2000)
    (study.root / "pair" / "nbsp" / "seed_0" / "versions.json").write_text('{"ray": "2.61.0"}')
    notes = notes_of(study)
    for text in (
        "One seed per arm says what happened once",
        "pair: in a pair of tasks the relation between these two decides",
        "pair/sac: window-open was never learned (at most 0.30 after its own visits)",
        "pair: arms used between 4.0k (sac) and 8.0k (nbsp) env steps",
        "different versions: ray 2.60.0 and 2.61.0",
    ):
        assert text in notes


def test_notes_name_missing_seeds_and_cells(study):
    study.run(seed=0)
    study.run(seed=1, visits=3)
    study.run(arm="extra")
    study.study(["sac"], [0, 1, 2])
    notes = notes_of(study)
    assert "pair/sac: 1 of 3 seeds are complete; not started: seed 2." in notes
    assert "pair/sac/seed_1: 2 of the needed results are missing (after visit 4)" in notes
    assert "pair/extra/seed_0: study.yaml does not list this run; it is included." in notes
    assert "env steps, as visits may end early" not in notes  # Only seed 1 has fewer, and it is not done.


def test_comparison_notes_name_other_budgets_and_networks(study):
    study.run(config={"visit": {"max_env_steps": 90_000}, "model": {"hidden": [256, 256, 256]}})
    notes = notes_of(study)
    assert "these runs were given 90.0k" in notes and "these have [256, 256, 256]" in notes
    assert "fit the protocol nbsp-visits, not positions" in notes_of(study, "positions")


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


# The command line


def test_report_prints_the_table_and_where_the_page_is(study, capsys, tmp_path):
    study.run(FORGETFUL)
    assert main(["report", str(study.root), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("| Sequence | Arm | ASR ↑") and "| 0.75 " in out[2]
    assert out[-1] == str(tmp_path / "out" / "report.html") and Path(out[-1]).is_file()
    assert not (study.root / "report").exists()


def test_partial_study_exits_with_3_unless_allowed_and_is_reported_anyway(study, capsys):
    study.run()
    study.study(["sac"], [0, 1, 2, 3, 4])
    assert main(["report", str(study.root)]) == 3
    captured = capsys.readouterr()
    assert "n=1/5" in captured.out and "±" not in captured.out and captured.err.startswith("error: the study is not")
    assert main(["report", str(study.root), "--allow-partial"]) == 0


def test_data_errors_exit_with_3_in_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: no trials in") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "nbsp-visit"], "unknown protocol 'nbsp-visit'; did you mean 'nbsp-visits'"),
        (["--compare", "papr"], "unknown comparison 'papr'; did you mean 'paper'"),
    ],
)
def test_unknown_names_exit_with_2_and_name_the_close_ones(study, capsys, arguments, message):
    study.run()
    assert main(["report", str(study.root), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_usage_errors_exit_with_2(capsys):
    with pytest.raises(SystemExit) as error:
        main(["reprot"])
    assert error.value.code == 2


def test_a_report_that_cannot_be_written_exits_with_4(study, capsys, tmp_path):
    study.run()
    (tmp_path / "file").write_text("in the way")
    assert main(["report", str(study.root), "--out", str(tmp_path / "file")]) == 4
    assert capsys.readouterr().err.startswith("error: ")


def test_a_terminal_without_unicode_gets_the_table_too(study):
    study.run()
    done = subprocess.run(
        [sys.executable, "-m", "analysis", "report", str(study.root)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"| Sequence | Arm | ASR ?")


def test_analysis_needs_neither_ray_nor_torch_nor_the_package():
    code = (
        "import sys, analysis.__main__; "
        "print([name for name in ('ray', 'torch', 'rllib_nbsp', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_csv_has_no_column_twice(small_study):
    study, _ = small_study
    header = (study.root / "report" / "table.csv").read_text().splitlines()[0].split(",")
    assert len(header) == len(set(header))
    assert pd.read_csv(io.StringIO((study.root / "report" / "table.csv").read_text())).shape == (2, len(header))
