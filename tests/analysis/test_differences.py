"""Differences to the baseline: which seeds and arms they are of, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import difference_table, load_results, tables
from analysis.differences import baseline_of
from analysis.report import write_report
from analysis.text import difference_text
from tests.analysis.conftest import FORGETFUL, PERFECT


def differences_of(study):
    results = load_results(study.root)
    return difference_table(results, tables.metric_values(results))


def test_differences_are_over_the_seeds_that_both_arms_have(study):
    for seed in (0, 1, 2):
        study.run(FORGETFUL, arm="tuned", method="sac", seed=seed)
    for seed in (1, 2, 3):
        study.run(PERFECT if seed > 1 else FORGETFUL, arm="nbsp", seed=seed)
    row = differences_of(study).iloc[0]
    # ASR 0.75 and 1: seeds 1 and 2 differ by 0 and 0.25. Of two pairs no p is below 0.5, and this is 1.
    assert (row["arm"], row["baseline"], row["asr_difference"], row["asr_difference_n"]) == ("nbsp", "tuned", 0.125, 2)
    assert (row["asr_p"], row["asr_p_smallest"], row["asr_difference_interval"]) == (1.0, 0.5, "t")
    # 12.7062 * 0.176777 / sqrt(2) = 1.588 is cut to what a difference of shares can be.
    assert (row["asr_difference_low"], row["asr_difference_high"]) == (-1.0, 1.0)


def test_p_values_are_adjusted_over_sequences_and_arms(study):
    for sequence in ("one", "two"):
        for seed in range(6):
            study.run(FORGETFUL, sequence=sequence, seed=seed)
            study.run(PERFECT, sequence=sequence, arm="nbsp", seed=seed)
            study.run(FORGETFUL, sequence=sequence, arm="ewc", seed=seed)
    rows = differences_of(study).set_index(["sequence", "arm"])
    clear, same = rows.loc["one", "nbsp"], rows.loc["one", "ewc"]
    # 2 / 2^6 each; Holm takes the first of four four times, BH the second of four twice.
    assert (clear["asr_p"], clear["asr_p_holm"], clear["asr_q"]) == (0.03125, 0.125, 0.0625)
    assert (same["asr_p"], same["asr_p_holm"], same["asr_difference"]) == (1.0, 1.0, 0.0)


def test_a_study_without_the_baseline_or_common_seeds_is_reported_all_the_same(study):
    study.run(arm="nbsp", seed=0)
    assert baseline_of(load_results(study.root)) is None and differences_of(study).empty
    assert "Paired differences" not in write_report(study.root).html.read_text(encoding="utf-8")
    study.run(arm="sac", seed=1)
    frame = differences_of(study)
    assert np.isnan(frame["asr_difference"].item()) and np.isnan(frame["asr_p_holm"].item())
    text = difference_text(frame).iloc[0]
    assert (text["ASR ↑"], text["p, ASR"], text["Pairs"]) == ("–", "–", "n=0")  # noqa: RUF001


@pytest.mark.parametrize("file", ["report.html", "table.md"])
def test_the_report_shows_them(study, file):
    for seed in range(3):
        study.run(FORGETFUL, seed=seed)
        study.run(PERFECT, arm="nbsp", seed=seed)
    report = write_report(study.root)
    text = (report.html.parent / file).read_text(encoding="utf-8")
    assert "Paired differences to sac" in text and "+0.25 [+0.25, +0.25]" in text and "0.250" in text
