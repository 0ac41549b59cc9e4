"""Several sequences together, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import load_results, tables
from analysis.aggregate import aggregate_table, aggregate_text
from tests.analysis.conftest import FORGETFUL, PERFECT


def table_of(study, metric="asr"):
    results = load_results(study.root)
    return aggregate_table(results, tables.metric_values(results), metric)


def fill(study, seeds=6):
    for sequence in ("one", "two"):
        for seed in range(seeds):
            study.run(FORGETFUL, sequence=sequence, seed=seed)
            study.run(PERFECT if sequence == "one" else FORGETFUL, sequence=sequence, arm="nbsp", seed=seed)


def test_the_iqm_the_probability_and_the_profile_by_hand(study):
    fill(study)
    table = table_of(study).set_index("arm")
    # ASR 0.75 and 1. Of nbsp's twelve the middle six are three of each; it is above in one sequence, ties in one.
    assert table.loc["nbsp", ["iqm", "improvement", "profile_0.5", "profile_0.75"]].tolist() == [0.875, 0.75, 1.0, 0.5]
    assert table.loc["sac", "iqm"] == 0.75 and np.isnan(table.loc["sac", "improvement"])
    assert table.loc["nbsp", ["sequences", "n"]].tolist() == [2, 12]
    # Nothing varies within a sequence, so the intervals have no width.
    assert table.loc["nbsp", "iqm_low"] == table.loc["nbsp", "iqm_high"] == 0.875
    text = aggregate_text(table.reset_index(), "sac").set_index("Arm")
    assert text.loc["nbsp", ["IQM of ASR ↑", "P(above sac)", "ASR > 0.75"]].tolist() == [
        "0.88 ± 0.00",
        "0.75 ± 0.00",
        "50 %",
    ]
    assert text.loc["sac", "P(above sac)"] == "–"  # noqa: RUF001


def test_less_forgetting_is_the_improvement(study):
    fill(study)
    assert table_of(study, "fm").set_index("arm").loc["nbsp", "improvement"] == 0.75


def test_only_sequences_that_every_arm_has_count(study):
    fill(study, seeds=2)
    study.run(FORGETFUL, sequence="three")
    assert set(table_of(study)["sequences"]) == {2}
    study.run(FORGETFUL, sequence="three", arm="ewc")
    assert table_of(study).empty


def test_one_sequence_has_no_such_table(study):
    study.run(FORGETFUL)
    assert table_of(study).empty


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_have_values_without_an_interval_of_improvement(study, seeds):
    fill(study, seeds=seeds)
    row = table_of(study).set_index("arm").loc["nbsp"]
    assert row["improvement"] == 0.75 and np.isnan(row["improvement_low"])
