"""The paper: its tables, which arms are its arms, and what counts as reproduced."""

from __future__ import annotations

import pytest

import analysis
from analysis import compare_with_paper, tables
from analysis.paper import paper_method
from tests.analysis.conftest import FORGETFUL, PERFECT, table_of


def test_the_paper_is_there_with_every_published_table():
    paper = analysis.load_paper()
    assert list(paper.columns) == list(analysis.PAPER_COLUMNS)
    assert paper.groupby("source").size().to_dict() == {
        "Table 1": 5 * 8 * 3,
        "Table 2": 9,
        "Table 3": 9,
        "Table 4": 18,
        "Table 5": 2 * 8 * 3,
        "Table 8": 9,
        "Table 9": 9,
    }
    assert not paper.duplicated(["tasks", "method", "metric"]).any()
    row = paper.set_index(["tasks", "method", "metric"]).loc[("button-press-topdown -> window-open", "NBSP", "fm")]
    assert (row["source"], row["mean"], row["spread"]) == ("Table 1", 0.08, 0.12)


@pytest.mark.parametrize(
    ("method", "settings", "replay", "expected"),
    [
        ("sac", {}, {}, "Base"),
        ("plasticity_injection", {}, {}, "PI"),
        ("packnet", {}, {}, None),
        ("nbsp", {}, {}, "NBSP"),
        ("nbsp", {"mask_on": "grad"}, {}, "NBSP"),
        ("nbsp", {"with_replay": False}, {}, "Mask-Only"),
        ("nbsp", {}, {"prior_capacity": 0}, "Mask-Only"),
        ("nbsp", {"skill_frac": 0.0}, {}, "Replay-Only"),
        ("nbsp", {"score": "random"}, {}, "Random"),
        ("nbsp", {"modules": "critic"}, {}, "Critic"),
        ("nbsp", {"modules": "actor", "score": "random"}, {}, None),
        ("nbsp", {"uniform_lr": "mean"}, {}, None),
        ("nbsp", {"skill_frac": 0.05}, {}, None),
        ("nbsp", {"score": "balanced"}, {}, None),
        ("nbsp", {"accumulate": "min"}, {}, None),
        ("sac", {"with_replay": True}, {}, None),
        ("ewc", {"with_replay": True}, {}, None),
        ("ewc", {"with_replay": False}, {}, "EWC"),
    ],
)
def test_arms_are_matched_to_the_paper_by_their_settings(method, settings, replay, expected):
    assert paper_method(method, {"method_settings": settings, "replay": replay}) == expected


def test_nbsp_with_another_boundary_is_not_compared():
    assert paper_method("nbsp", {"boundary": {"reset_alpha": True}, "method_settings": {}}) is None


def test_nbsp_without_settings_is_not_compared():
    assert paper_method("nbsp", {}) is None
    assert paper_method("sac", {}) == "Base"


def comparison_of(study):
    results, values, _ = table_of(study)
    frame = compare_with_paper(results, tables.metric_table(results, values))
    return frame.set_index(["arm", "metric"]) if len(frame) else frame


def test_reproduced_says_yes_only_where_the_published_mean_lies_in_the_interval(study):
    # Base on this pair: ASR 0.63, FM 0.91, FWT 0.97 (Table 8).
    total = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]  # ASR 0.625, FM 1, FWT 1
    nearly = [[1.0, 0.0], [0.1, 1.0], [0.9, 0.1], [0.0, 1.0]]  # ASR (1 + 0.55 + 0.5 + 0.5) / 4 = 0.6375
    for seed, success in enumerate((total, nearly, total)):
        study.run(success, seed=seed)
    found = comparison_of(study)
    assert found.loc[("sac", "asr"), "reproduced"] == "yes"  # 0.629 +- 0.018
    assert found.loc[("sac", "fwt"), ["reproduced", "paper_mean", "source"]].tolist() == ["yes", 0.97, "Table 8"]
    study.run(PERFECT, arm="ewc", seed=0)
    study.run(PERFECT, arm="ewc", seed=1)
    found = comparison_of(study)
    assert found.loc[("ewc", "asr"), "reproduced"] == "no"  # 1.00 +- 0.00 against 0.63
    assert found.loc[("ewc", "asr"), "difference"] == pytest.approx(0.37)


def test_one_seed_is_too_few_to_reproduce_anything(study):
    study.run(FORGETFUL)
    assert set(comparison_of(study)["reproduced"]) == {"n too small"}


def test_other_tasks_or_cycles_are_not_compared(study):
    study.run(FORGETFUL[:2], cycles=1)
    study.run(FORGETFUL, sequence="other", tasks=["door-open-v3", "window-open-v3"])
    assert comparison_of(study).empty
