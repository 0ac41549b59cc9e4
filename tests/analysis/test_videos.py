"""Films of a report: which policies stand side by side, what is one line where none can be made."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from analysis import load_results, tools
from analysis import videos as films
from analysis.errors import MissingToolError, UnknownNameError
from analysis.report import write_report
from analysis.schema import TaskOrder
from analysis.videos import Pair, pairs_of
from tests.analysis.conftest import FORGETFUL, PERFECT
from tests.test_policy import leave_run

TASKS = ["reach-left", "reach-right"]


def left_right(study, weights=True):
    """Two arms on the point mass, whose runs have networks to act with after each visit."""
    for arm, success in (("sac", FORGETFUL), ("nbsp", PERFECT)):
        folder = study.run(success, arm=arm, tasks=TASKS)
        leave_run(folder, 4, cycles=2)
        if not weights:
            shutil.rmtree(folder / "weights")


@pytest.mark.parametrize(
    ("order", "visits"),
    [
        ([0, 1, 0, 1], [(1, 2), (2, 3)]),
        ([0, 1], [(1, 2), (1, 2)]),
        ([0, 0, 1], [(1, 2), (2, 3)]),
        ([0], [(1,)]),
    ],
)
def test_a_task_is_shown_after_it_was_learned_and_after_the_next_visit(order, visits):
    tasks = TASKS[: max(order) + 1]
    assert pairs_of(TaskOrder(tasks, order)) == [Pair(*both) for both in zip(tasks, visits, strict=True)]


def test_a_report_has_films_beside_it_that_its_page_shows(pages_alone, study):
    pytest.importorskip("imageio")
    left_right(study)
    report = write_report(study.root, videos="gif")
    assert not report.missing
    made = sorted(path.name for path in (report.html.parent / "videos").iterdir())
    assert made == ["pair_nbsp_1.gif", "pair_nbsp_2.gif", "pair_sac_1.gif", "pair_sac_2.gif"]
    page = report.html.read_text(encoding="utf-8")
    assert all(f'<img src="videos/{name}"' in page for name in made)
    assert "Left: after visit 1. Right: after visit 2." in page and "reach-right: nbsp, seed 0" in page
    text = (report.html.parent / "table.md").read_text(encoding="utf-8")
    assert "- [reach-left: sac, seed 0](videos/pair_sac_1.gif)" in text


def test_without_weights_one_line_an_arm_says_so_and_the_report_is_made(pages_alone, study):
    left_right(study, weights=False)
    report = write_report(study.root, videos="mp4")
    assert report.html.is_file() and "Videos" not in report.html.read_text(encoding="utf-8")
    assert len(report.missing) == 2 and all("no weights/visit_NN.npz" in line for line in report.missing)
    assert report.missing[0].startswith("no videos of pair/sac: ")


def test_what_all_films_lack_is_one_line(pages_alone, study, monkeypatch):
    def refuse(run, pair, path):
        raise MissingToolError("--video needs the package imageio_ffmpeg")

    left_right(study)
    monkeypatch.setattr(films, "film", refuse)
    report = write_report(study.root, videos="mp4")
    assert report.missing == ["no videos of pair/sac, pair/nbsp: --video needs the package imageio_ffmpeg"]


def test_a_player_that_fails_is_named_with_its_last_words(study, monkeypatch, tmp_path):
    left_right(study)
    run = load_results(study.root).runs[0]

    def fail(command, **options):
        return subprocess.CompletedProcess(command, 4, "", "a warning\nerror: reach-left: cannot be drawn here\n")

    monkeypatch.setattr(tools.subprocess, "run", fail)
    with pytest.raises(MissingToolError, match=r"^reach-left: cannot be drawn here$"):
        films.film(run, Pair("reach-left", (1, 2)), tmp_path / "videos" / "film.gif")


def test_an_mp4_is_a_video_of_the_page(pages_alone, study, monkeypatch):
    left_right(study)
    monkeypatch.setattr(films, "film", lambda run, pair, path: None)
    page = write_report(study.root, videos="mp4").html.read_text(encoding="utf-8")
    assert '<video src="videos/pair_sac_1.mp4" controls' in page


def test_an_unknown_kind_of_film_is_refused(study):
    study.run()
    with pytest.raises(UnknownNameError, match="unknown kind of film 'avi'"):
        write_report(study.root, videos="avi")
