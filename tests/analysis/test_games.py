"""Games: human-normalised returns (Eq. 11) in place of success."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import compare_with_paper, load_results, metric_values, success_array
from analysis.games import atari_scores, normalised_returns
from analysis.report import write_report
from tests.analysis.conftest import StudyBuilder

PAIR = ["Pong", "Bowling"]
# Mean return [visit, task] with normalised values by hand: Pong (r + 20.7) / 30, Bowling (r - 23.1) / 131.7.
RETURNS = [[9.3, 23.1], [-5.7, 154.8], [9.3, 88.95], [-20.7, 154.8]]
NORMALISED = [[1.0, 0.0], [0.5, 1.0], [1.0, 0.5], [0.0, 1.0]]


def games(study: StudyBuilder, tasks: list[str] = PAIR, arm: str = "sac", seed: int = 0) -> Path:
    folder = study.run([[0.0, 0.0]] * 4, tasks=tasks, arm=arm, seed=seed)
    rows = study.read_rows(folder / "evaluations.jsonl")
    for row in rows:
        visit, task = row["visit"] - 1, tasks.index(row["eval_task"])
        row |= {"suite": "atari", "success_rate": None, "mean_return": RETURNS[visit][task]}
    study.write_rows(folder / "evaluations.jsonl", rows)
    training = study.read_rows(folder / "training.jsonl")
    study.write_rows(folder / "training.jsonl", [{**row, "success_window": None} for row in training])
    return folder


def test_a_return_of_random_play_is_0_and_a_humans_is_1():
    low, high = [227.5, 14.2, 23.1, -20.7], [6875.0, 734.4, 154.8, 9.3]  # Table 7
    names = pd.Series(["Alien", "BankHeist", "Bowling", "Pong"])
    assert normalised_returns(names, pd.Series(low)).tolist() == [0.0] * 4
    assert normalised_returns(names, pd.Series(high)).tolist() == [1.0] * 4
    assert normalised_returns(pd.Series(["Pong"]), pd.Series([21.0])).item() == pytest.approx(1.39)


def test_the_papers_games_have_its_own_scores_and_57_have_any():
    scores = atari_scores()
    assert len(scores) == 57
    assert (scores["human"] > scores["random"]).all()
    assert sorted(scores.index[scores["source"] == "table7"]) == ["Alien", "BankHeist", "Bowling", "Pong"]


def test_metrics_are_of_normalised_returns(study: StudyBuilder):
    games(study)
    results = load_results(study.root)
    assert results.of_returns
    assert success_array(results, "pair", "sac").values[0] == pytest.approx(np.array(NORMALISED))
    values = metric_values(results).iloc[0]
    assert (values["asr"], values["fm"], values["fwt"]) == pytest.approx((0.75, 2 / 3, 1.0))
    assert not results.notes


def test_the_comparison_finds_table_5(study: StudyBuilder):
    games(study, arm="ewc", seed=0)
    games(study, arm="ewc", seed=1)
    results = load_results(study.root)
    comparison = compare_with_paper(results, metric_values(results))
    assert comparison["metric"].tolist() == ["asr", "fm", "fwt"]
    assert set(comparison["source"]) == {"Table 5"}
    assert comparison["mean"].tolist() == pytest.approx([0.75, 2 / 3, 1.0])


def test_the_report_speaks_of_returns(study: StudyBuilder, tmp_path: Path):
    games(study)
    study.study(["sac"], [0], {"pair": PAIR})
    text = (study.root / "study.yaml").read_text()
    (study.root / "study.yaml").write_text(text + "notes: ['pair: index 2 is RIGHT and UP']\n")
    report = write_report(study.root, tmp_path / "report")
    assert "AR ↑" in report.summary
    assert "ASR" not in report.summary
    page = report.html.read_text()
    assert "Normalised return over training" in page
    assert "pair: index 2 is RIGHT and UP" in page
    assert "Env steps to" not in page
    assert any("normalised by those of random play" in note for note in report.notes)


def test_a_game_without_published_scores_has_no_metric(study: StudyBuilder):
    games(study, tasks=["Pong", "Adventure"])
    results = load_results(study.root)
    assert any("Adventure: no published random and human scores" in note for note in results.notes)
    assert np.isnan(metric_values(results).iloc[0]["asr"])
    assert np.isfinite(success_array(results, "pair", "sac", "mean_return").values).all()
