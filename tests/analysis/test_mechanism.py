"""Training rows' columns of plasticity as frames and tables, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import load_results
from analysis.mechanism import (
    BY_LAYER,
    FURTHER,
    MAIN,
    at_the_end,
    ends_text,
    layer_values,
    mechanism_values,
    step_ratios,
    step_ratios_text,
)
from analysis.report import write_report
from analysis.schema import MECHANISM_COLUMNS


def test_values_are_means_over_networks_and_layers(study):
    study.run(mechanism=True)
    values = mechanism_values(load_results(study.root).training)
    # Two of the three rows of each of four visits are measured, of actor and critics.
    assert len(values) == 16
    ends = at_the_end(values, ["network"]).set_index("network")
    # Dormant: 0 and 0.1 of the actor's layers; of the critics' 0.1, 0.2 and 0.2, 0.3. Ranks: 1; 2 and 3.
    assert ends.loc["actor", "dormant_frac"] == pytest.approx(0.05)
    assert ends.loc["critics", "dormant_frac"] == pytest.approx(0.2)
    assert (ends.loc["actor", "stable_rank"], ends.loc["critics", "stable_rank"]) == (1.0, 2.5)
    assert list(ends["visit"]) == [4, 4] and list(ends["weight_diff"]) == [4.0, 4.0]
    first = values[(values["visit_env_steps"] == 250) & (values["network"] == "actor")]
    assert first["churn"].isna().all() and (first["weight_diff"] == first["visit"] * 0.25).all()


def test_layers_have_values_of_their_own(study):
    study.run(mechanism=True)
    layers = layer_values(load_results(study.root).training).set_index(["network", "layer"])
    assert layers["dormant_frac"].to_dict() == pytest.approx(
        {("actor", 0): 0.0, ("actor", 1): 0.1, ("critics", 0): 0.15, ("critics", 1): 0.25}
    )


def test_every_documented_column_is_in_one_of_the_tables():
    shown = MAIN | BY_LAYER | FURTHER
    documented = {name.split("_NETWORK")[0] for name in MECHANISM_COLUMNS}
    assert shown.keys() == documented
    assert {name.split("_NETWORK")[0] for name in MECHANISM_COLUMNS if name.endswith("_LAYER")} == BY_LAYER.keys()


def test_the_end_has_intervals_over_seeds_within_what_can_be(study):
    for seed in range(2):
        study.run(seed=seed, mechanism=True)
    ends = at_the_end(mechanism_values(load_results(study.root).training), ["network"])
    text = ends_text(ends, MAIN, ["network"]).set_index("Network")
    # 4e-4 and 5e-4: t of one degree of freedom is 12.7, so that the interval's lower end is cut at 0.
    assert text.loc["actor", "Effective lr"] == "0.00045 [0, 0.00109]"
    assert list(text["Seeds"]) == ["n=2", "n=2"]
    one = ends_text(ends[ends["seed"] == 0], MAIN, ["network"]).set_index("Network")
    assert one.loc["actor", "Effective lr"] == "0.0004"


def test_what_no_measurement_can_be_is_none(study):
    path = study.run(mechanism=True) / "training.jsonl"
    rows = study.read_rows(path)
    odd = {"dormant_frac_policy_0": 7.0, "dormant_frac_policy_1": "much", "weight_diff_policy": -1.0}
    study.write_rows(path, [row | odd for row in rows])
    values = mechanism_values(load_results(study.root).training)
    actor = values[values["network"] == "actor"]
    assert actor[["dormant_frac", "weight_diff"]].isna().all(axis=None) and np.isfinite(actor["stable_rank"]).any()


def test_the_ratio_of_masked_steps_is_the_median_over_a_runs_rows(study):
    study.run()
    path = study.run(arm="nbsp") / "training.jsonl"
    ratios = [None, 0.5, 0.1, 0.3] * 3
    rows = zip(study.read_rows(path), ratios, strict=True)
    study.write_rows(path, [row | {"masked_step_ratio_policy": it, "masked_step_ratio_qf": 1.0} for row, it in rows])
    found = step_ratios(load_results(study.root).training)
    assert found.to_dict("records") == [{"sequence": "pair", "arm": "nbsp", "seed": 0, "actor": 0.3, "critics": 1.0}]
    assert step_ratios_text(found).loc[0, "Masked over other steps, actor"] == "0.3"


def test_rows_of_earlier_versions_leave_the_section_out(study):
    study.run()
    training = load_results(study.root).training
    assert mechanism_values(training).empty and layer_values(training).empty and step_ratios(training).empty
    report = write_report(study.root)
    assert "Plasticity" not in report.html.read_text(encoding="utf-8")
    assert not any("plasticity" in note for note in report.notes)


def test_the_section_is_of_the_runs_that_came_to_the_last_visit(study):
    study.run(mechanism=True)
    study.run(arm="nbsp", mechanism=True, visits=2)
    report = write_report(study.root, tex=True)
    text = (report.html.parent / "table.md").read_text(encoding="utf-8")
    table = text[text.index("### At the end of a run") :].split("\n\n")[1]
    assert "sac" in table and "nbsp" not in table
    assert (report.html.parent / "figures" / "mechanism_pair.pdf").is_file()
    assert (report.html.parent / "latex" / "mechanism.tex").is_file()
