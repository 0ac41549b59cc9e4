"""The paper: its tables, which arms are its arms, verdicts on differences, and its layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import analysis
from analysis import compare_with_paper
from analysis.paper import difference_interval, paper_method, published_table, scale_difference, verdict
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


def comparison_of(study, protocol="nbsp-visits"):
    results, values, _ = table_of(study, protocol)
    frame = compare_with_paper(results, values)
    return frame.set_index(["arm", "metric"]) if len(frame) else frame


def test_a_difference_has_welchs_interval_with_the_papers_spread_in_it():
    # s^2 / 3 = 0.01 / 3, the paper's 0.1^2: (0.013333)^2 / (0.003333^2 / 2 + 0.01^2 / 2) = 3.2 degrees of freedom,
    # whose t is 3.071 (between 3.182 of 3 and 2.776 of 4); times sqrt(0.013333) = 0.3546.
    found = difference_interval([0.4, 0.5, 0.6], 0.7, 0.1)
    assert found.mean == pytest.approx(-0.2) and found.n == 3
    assert found.half_width == pytest.approx(0.3546, abs=1e-3)
    # Without a spread of ours it is the paper's alone: t of 2 degrees of freedom, 4.303 * 0.1.
    assert difference_interval([0.5] * 3, 0.7, 0.1).half_width == pytest.approx(0.4303, abs=1e-4)
    # As many seeds as one likes: 1.96 * 0.1 is out of reach, as the paper has three.
    assert difference_interval([0.4, 0.6] * 500, 0.7, 0.1).half_width == pytest.approx(0.4303, abs=0.01)
    assert difference_interval([0.5] * 3, 0.7, 0.0).half_width == pytest.approx(4.303 * 0.005, abs=1e-5)
    # Both means may be anywhere in the limits, the paper's too.
    cut = difference_interval([0.9, 1.0, 1.0], 0.7, 0.3, (0.0, 1.0))
    assert (cut.low, cut.high) == (-1.0, 1.0)
    assert np.isnan(difference_interval([0.5], 0.7, 0.1).low) and np.isnan(difference_interval([], 0.7, 0.1).mean)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.05, 0.08, "agrees"),
        (0.01, 0.08, "agrees"),
        (0.02, 0.15, "differs"),
        (-0.3, -0.1, "differs"),
        (-0.05, 0.5, "inconclusive"),
        (float("nan"), float("nan"), "inconclusive"),
    ],
)
def test_verdicts(low, high, said):
    assert verdict(low, high) == said


@given(st.floats(-0.5, 0.5), st.floats(0.0, 0.5), st.floats(0.0, 0.5))
def test_noise_never_makes_an_agreement_and_never_a_difference(mean, half, more):
    tight, wide = verdict(mean - half, mean + half), verdict(mean - half - more, mean + half + more)
    assert wide in (tight, "inconclusive") or (tight, wide) == ("agrees", "differs")


def test_noise_is_no_reproduction_and_a_tight_mean_nearby_is_no_failure():
    # FM 0.54 +- 0.51 against 0.08 +- 0.12, and 0.76 +- 0.05 against 0.70 +- 0.08: neither says anything.
    noisy, tight = [0.33, 0.52, 0.77], [0.74, 0.76, 0.78]
    for values, mean, spread in ((noisy, 0.08, 0.12), (tight, 0.70, 0.08)):
        found = difference_interval(values, mean, spread)
        assert verdict(found.low, found.high) == "inconclusive"


def test_arms_of_the_papers_scale_have_a_verdict(study):
    # Base on this pair: ASR 0.63 +- 0.02, FM 0.91 +- 0.10, FWT 0.97 +- 0.02 (Table 8).
    total = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]  # ASR 0.625, FM 1, FWT 1
    nearly = [[1.0, 0.0], [0.1, 1.0], [0.9, 0.1], [0.0, 1.0]]  # ASR (1 + 0.55 + 0.5 + 0.5) / 4 = 0.6375
    for seed, success in enumerate((total, nearly, total)):
        study.run(success, seed=seed)
    study.run(PERFECT, arm="ewc", seed=0)
    study.run(PERFECT, arm="ewc", seed=1)
    found = comparison_of(study)
    assert found.loc["sac", "verdict"].to_dict() == {"asr": "agrees", "fm": "inconclusive", "fwt": "agrees"}
    assert found.loc[("sac", "fwt"), ["paper_mean", "source"]].tolist() == [0.97, "Table 8"]
    assert found.loc[("ewc", "asr"), "verdict"] == "differs"  # 1.00 against 0.63 +- 0.03
    assert found.loc[("ewc", "asr"), "difference"] == pytest.approx(0.37)
    assert set(comparison_of(study, "positions")["verdict"]) == {"another protocol"}


def test_one_seed_is_inconclusive(study):
    study.run(FORGETFUL)
    assert set(comparison_of(study)["verdict"]) == {"inconclusive"}


@pytest.mark.parametrize(
    ("config", "said", "words"),
    [
        (
            {"visit": {"max_env_steps": 100_000}, "model": {"hidden": [256, 256]}},
            "another scale",
            "visits of 100.0k env steps, the paper's 1.00M; hidden layers [256, 256], the paper's [768, 768, 768]",
        ),
        ({"model": {"hidden": [256, 256]}}, "another scale", "hidden layers [256, 256], the paper's [768, 768, 768]"),
        ({"visit": None}, "scale unknown", None),
        ({}, "inconclusive", ""),
    ],
)
def test_no_verdict_across_scales(study, config, said, words):
    study.run(FORGETFUL, config=config)
    found = comparison_of(study)
    assert set(found["verdict"]) == {said}
    assert found["scale"].iloc[0] == words or words is None


def test_games_have_a_scale_of_their_own():
    config = {"visit": {"max_env_steps": 1_500_000}, "model": {"hidden": [768, 768]}}
    assert scale_difference(config, "atari") == ""
    assert "the paper's 1.00M" in scale_difference(config, "metaworld")


def test_other_tasks_or_cycles_are_not_compared(study):
    study.run(FORGETFUL[:2], cycles=1)
    study.run(FORGETFUL, sequence="other", tasks=["door-open-v3", "window-open-v3"])
    assert comparison_of(study).empty


def test_a_published_table_is_laid_out_as_printed_with_ours_under_it(study):
    for seed in (0, 1):
        study.run(FORGETFUL, seed=seed)
        study.run(PERFECT, arm="nbsp", seed=seed)
        study.run(FORGETFUL, arm="nbsp_grad", method="nbsp", seed=seed)
    frame = comparison_of(study).reset_index()
    first, ablation = (published_table(frame, "pair", source) for source in ("Table 1", "Table 8"))
    assert list(first)[2:] == ["EWC", "NPC", "ANCL", "CoTASP", "CReLU", "CBP", "PI", "NBSP"]
    asr = first[first["Metric"] == "ASR ↑"].set_index("Of")
    assert asr.loc["paper", ["EWC", "NBSP"]].tolist() == ["0.63 ± 0.03", "**0.90 ± 0.04**"]
    # Two arms are NBSP; none of the table's other methods ran.
    assert asr.loc["ours", "NBSP"].tolist() == ["nbsp: 1.00 ± 0.00 (n=2)", "nbsp_grad: 0.75 ± 0.00 (n=2)"]
    assert asr.loc["difference", "NBSP"].tolist()[1].startswith("-0.15 [")
    assert list(asr.index) == ["paper", *["ours", "difference", "verdict"] * 2]
    assert set(asr.loc["verdict", "EWC"]) == {""}
    fm = first[first["Metric"] == "FM ↓"].set_index("Of").loc["paper"]
    assert [name for name in fm.index if str(fm[name]).startswith("**")] == ["CoTASP"]  # Least is best.
    assert list(ablation)[2:] == ["Base", "Replay-Only", "Mask-Only", "NBSP"]
