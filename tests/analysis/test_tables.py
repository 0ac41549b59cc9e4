"""Tables of numbers: means per arm, what is partial or incomplete, costs and steps to mastery."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import UnknownNameError, difference_table, load_neurons, load_results, statistics, success_array, tables
from analysis.text import cost_over_baseline_text, summary_text, threshold_text
from tests.analysis.conftest import FORGETFUL, PAIR, PERFECT, table_of, text_of, with_cost

NAN = float("nan")


def test_success_array_holds_boundary_rows_at_seed_visit_task(study):
    study.run(FORGETFUL, seed=4)
    study.run(PERFECT, seed=1)
    success = success_array(load_results(study.root), "pair", "sac")
    assert success.seeds == [1, 4] and success.order.tasks == PAIR
    assert success.values.tolist() == [PERFECT, FORGETFUL]


def test_success_array_of_returns(study):
    study.run(FORGETFUL)
    assert success_array(load_results(study.root), "pair", "sac", "mean_return").values[0, 1].tolist() == [
        500.0,
        1000.0,
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("pare", "sac", "success_rate"), "unknown sequence 'pare'; did you mean 'pair'"),
        (("pair", "sacc", "success_rate"), "unknown arm 'sacc'; did you mean 'sac'"),
        (("pair", "sac", "sucess_rate"), "unknown value 'sucess_rate'; did you mean 'success_rate'"),
    ],
)
def test_unknown_names_list_the_close_ones(study, names, message):
    study.run()
    with pytest.raises(UnknownNameError, match=message):
        success_array(load_results(study.root), *names)


def test_metrics_of_a_run_by_hand(study):
    study.run(FORGETFUL)
    _, values, _ = table_of(study)
    row = values.iloc[0]
    assert (row["asr"], row["fwt"], row["final_success"], row["relearn"]) == (0.75, 1.0, 0.5, 0.5)
    assert row["fm"] == pytest.approx(2 / 3)
    assert (row["asr_cycle_1"], row["asr_cycle_2"]) == (0.875, 0.625)
    assert row["complete"] and row["missing_cells"] == 0


def test_arm_means_and_intervals_agree_with_the_metrics(study):
    for seed, success in enumerate((PERFECT, FORGETFUL, FORGETFUL)):
        study.run(success, seed=seed)
    _, _, table = table_of(study)
    expected = statistics.interval([1.0, 0.75, 0.75], limits=(0.0, 1.0))
    row = table.loc[("pair", "sac")]
    assert (row["asr_mean"], row["asr_half_width"]) == (expected.mean, expected.half_width)
    assert (row["n_expected"], row["n_found"], row["n_complete"], row["asr_interval"]) == (3, 3, 3, "t")
    assert text_of(study).loc["sac", "ASR ↑"] == "0.83 [0.47, 1.00]"


def test_each_interval_has_a_sure_one_beside_it_that_one_seed_has_too(study):
    for seed in (0, 1):
        study.run(PERFECT, seed=seed)
        study.run(FORGETFUL, arm="nbsp", seed=seed)
    study.run(PERFECT, arm="ewc")
    results, values, table = table_of(study)
    row = table.loc[("pair", "sac")]
    # All at the limit: Clopper and Pearson's, p^2 = 0.025; the t-interval has no width at all.
    assert (row["asr_low"], row["asr_sure_low"], row["asr_sure_high"]) == (1.0, pytest.approx(0.158, abs=0.01), 1.0)
    assert np.isnan(table.loc[("pair", "ewc"), "asr_low"]) and table.loc[("pair", "ewc"), "asr_sure_low"] < 0.05
    difference = difference_table(results, values).set_index("arm").loc["nbsp"]
    assert difference["asr_difference_sure_low"] < difference["asr_difference_low"] == -0.25
    assert np.isnan(list(tables.sure_columns("asr", [1.5], (-np.inf, np.inf)).values())).all()  # Of returns.


def test_partial_studies_say_how_many_of_the_expected_seeds_are_complete(study):
    study.run(FORGETFUL, seed=0)
    study.run(FORGETFUL, seed=1, visits=2)
    study.study(["sac", "nbsp"], [0, 1, 2, 3, 4])
    results, values, _ = table_of(study)
    table = tables.metric_table(results, values)
    assert tables.is_partial(table)
    text = summary_text(table).set_index("Arm")
    assert (text.loc["sac", "ASR ↑"], text.loc["sac", "Seeds"]) == ("0.75", "n=1/5")
    assert (text.loc["nbsp", "ASR ↑"], text.loc["nbsp", "Seeds"]) == ("incomplete", "n=0/5")


def test_seeds_beyond_the_plan_count_wherever_they_are_averaged(study):
    for seed in range(3):
        study.run(FORGETFUL, seed=seed)
    study.study(["sac"], [0, 1])
    row = table_of(study)[2].loc[("pair", "sac")]
    assert (row["asr_n"], row["n_complete"], row["n_expected"]) == (3, 3, 3)
    assert text_of(study).loc["sac", "Seeds"] == "n=3"
    study.run(FORGETFUL, seed=3, visits=2)
    _, _, table = table_of(study)
    assert (table.loc[("pair", "sac"), "n_complete"], table.loc[("pair", "sac"), "n_expected"]) == (3, 4)
    assert tables.is_partial(table)


def test_a_missing_cell_makes_the_seed_incomplete_and_is_never_0(study):
    study.run(FORGETFUL, seed=0)
    path = study.run(FORGETFUL, seed=1) / "evaluations.jsonl"
    rows = study.read_rows(path)
    study.write_rows(path, [r for r in rows if not (r["visit"] == 4 and r["eval_task"] == PAIR[0])])
    results, values, table = table_of(study)
    assert success_array(results, "pair", "sac").missing() == [[], [(4, PAIR[0])]]
    broken = values[values["seed"] == 1].iloc[0]
    assert np.isnan(broken["asr"]) and np.isnan(broken["fm"]) and broken["fwt"] == 1.0
    assert (broken["missing_cells"], broken["complete"]) == (1, False)
    row = table.loc[("pair", "sac")]
    assert (row["asr_mean"], row["asr_n"], row["n_complete"], row["n_expected"]) == (0.75, 1, 1, 2)
    assert text_of(study).loc["sac", "FWT ↑"] == "1.00 ± 0.00 (n=2)"  # It does not need the missing cell.


def test_a_cell_that_is_nan_is_missing(study):
    study.run([[1.0, 0.0], [None, 1.0], [1.0, 0.5], [0.0, 1.0]])
    _, values, _ = table_of(study)
    assert np.isnan(values["asr"].item()) and not values["complete"].item()


def test_first_cycle_needs_the_first_cycle_only(study):
    study.run(FORGETFUL, visits=2)
    _, values, table = table_of(study, "first-cycle")
    assert (values["asr"].item(), values["fm"].item(), values["complete"].item()) == (0.875, 0.5, True)
    assert not tables.is_partial(table)


def test_arms_keep_the_order_of_the_study(study):
    for arm in ("ewc", "nbsp", "sac"):
        study.run(arm=arm)
    assert tables.arm_order(load_results(study.root)) == ["sac", "nbsp", "ewc"]
    study.study(["ewc", "sac", "nbsp"], [0])
    assert list(text_of(study).index) == ["ewc", "sac", "nbsp"]


def test_cost_is_the_last_count_of_each_run_and_survives_a_restarted_clock(study):
    folder = study.run()
    rows = study.read_rows(folder / "training.jsonl")
    for row in rows[6:]:
        row["wall_s"] -= 20.0  # Resumed after visit 2, where the clock stood at 20 s; it ends at 40 - 20.
    study.write_rows(folder / "training.jsonl", rows)
    cost = tables.cost_values(load_results(study.root)).iloc[0]
    # 0 to 20 s, then 2.5 to 20 s on the new clock.
    assert (cost["env_steps"], cost["updates"], cost["wall_s"], cost["env_steps_per_s"]) == (4000, 2000, 40.0, 100.0)


def test_cost_of_a_method_next_to_sac_by_hand(study):
    # Medians over intervals with updates: sac 40 and 60 on its two seeds, nbsp 25. A warm-up's interval has 0.
    with_cost(study, "sac", 0, speeds=[0.0, 40.0, 40.0], method_bytes=0)
    with_cost(study, "sac", 1, speeds=[0.0, 50.0, 60.0, 70.0], method_bytes=0)
    with_cost(study, "nbsp", speeds=[0.0, 20.0, 25.0, 300.0], trainable_parameters=150, method_bytes=384)
    costs = tables.cost_values(load_results(study.root))
    assert costs.set_index(["arm", "seed"])["updates_per_s"].to_dict() == {
        ("nbsp", 0): 25.0,
        ("sac", 0): 40.0,
        ("sac", 1): 60.0,
    }
    row = tables.cost_over_baseline(costs, "sac").set_index("arm").loc["nbsp"]
    assert (row["updates_per_s"], row["time_ratio"], row["parameters_ratio"]) == (25.0, 2.0, 1.5)
    text = cost_over_baseline_text(costs, "sac").set_index("Arm")
    assert text.loc["nbsp"].tolist()[1:] == ["25.0", "2.00", "150", "1.50", "2.0 kB", "384 B", "0 B"]
    assert text.loc["sac"].tolist()[1:] == ["50.0", "1.00", "100", "1.00", "2.0 kB", "0 B", "0 B"]


def test_costs_of_the_seeds_that_left_them_are_averaged(study):
    with_cost(study, "ewc", 0, speeds=[10.0], method_bytes=100)
    with_cost(study, "ewc", 1, speeds=[20.0], method_bytes=300)
    with_cost(study, "ewc", 2, speeds=[30.0])
    row = tables.cost_over_baseline(tables.cost_values(load_results(study.root)), "sac").iloc[0]
    assert (row["updates_per_s"], row["method_bytes"]) == (20.0, 200.0)
    assert np.isnan(row["time_ratio"])  # there is no arm "sac"


def test_each_sequence_has_its_own_sac(study):
    for sequence, sac in (("pair", 40.0), ("other", 20.0)):
        for arm, speed in (("sac", sac), ("nbsp", 10.0)):
            folder = study.run(sequence=sequence, arm=arm)
            rows = study.read_rows(folder / "training.jsonl")
            study.write_rows(folder / "training.jsonl", [row | {"updates_per_s": speed} for row in rows])
    ratios = tables.cost_over_baseline(tables.cost_values(load_results(study.root)), "sac")
    nbsp = ratios[ratios["arm"] == "nbsp"].set_index("sequence")["time_ratio"]
    assert nbsp.to_dict() == {"pair": 4.0, "other": 2.0}


def test_env_steps_to_mastery_may_be_of_the_training_window(study):
    study.run(arm="sac")
    study.run(arm="ewc", training=False)
    study.run(arm="nbsp", visits=3)
    values = tables.threshold_values(load_results(study.root), quantity="training")
    # The window is None, 0.75 and 1 at 250, 750 and 1000 steps of each visit; visit 4 of nbsp has not ended.
    assert values["env_steps_to_threshold"].tolist() == [1000.0] * 7
    assert set(values["quantity"]) == {"training"}


def test_env_steps_to_mastery_are_of_a_visits_last_run_alone(study):
    path = study.run(arm="ancl") / "training.jsonl"
    rows = study.read_rows(path)
    # An auxiliary run of visit 2, which masters its task at its first report.
    auxiliary = [{**rows[2], "visit": 2, "phase": "auxiliary", "visit_env_steps": n, "success_window": 1.0,
                  "env_steps": 1000 + n, "updates": 500 + n // 2} for n in (100, 900)]  # fmt: skip
    later = [{**row, "env_steps": row["env_steps"] + 900, "updates": row["updates"] + 450} for row in rows[3:]]
    study.write_rows(path, [*rows[:3], *auxiliary, *later])
    values = tables.threshold_values(load_results(study.root), quantity="training")
    assert values["env_steps_to_threshold"].tolist() == [1000.0] * 4


def test_a_seed_that_nobody_asked_for_does_not_stand_for_a_missing_one(study):
    for seed in (0, 1, 7):
        study.run(FORGETFUL, seed=seed)
    study.study(["sac"], [0, 1, 2])
    results, values, _ = table_of(study)
    table = tables.metric_table(results, values)
    assert tables.is_partial(table)


def test_env_steps_to_mastery_are_of_the_evaluations_which_the_curves_show(study):
    # The training window is at 1 at the end of every visit; no matter.
    study.run([[1.0, 0.0], [0.5, 0.8], [0.95, 0.5], [0.0, 1.0]])
    values = tables.threshold_values(load_results(study.root))
    # Task 2 reaches only 0.8 in visit 2; task 1 goes 0.5, 0.61, 0.84, 0.95 in visit 3.
    assert values["quantity"].eq("evaluation").all()
    assert values["env_steps_to_threshold"].fillna(-1).tolist() == [1000.0, -1.0, 1000.0, 1000.0]
    text = threshold_text(values, "pair")
    assert text.iloc[0].tolist() == ["sac", "1.0k (1/1)", "never (0/1)", "1.0k (1/1)", "1.0k (1/1)"]


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([100.0, 300.0, NAN], "300 (2/3)"),
        ([100.0, NAN, NAN], "mostly not (1/3)"),
        ([NAN, NAN], "never (0/2)"),
        ([100.0, 200.0], "150 (2/2)"),
        ([100.0, NAN], "mostly not (1/2)"),
    ],
)
def test_seeds_that_never_got_there_count_as_the_latest(steps, text):
    common = {"sequence": "pair", "arm": "sac", "visit": 1, "task": "a"}
    values = pd.DataFrame([{**common, "env_steps_to_threshold": step} for step in steps])
    assert threshold_text(values, "pair").iloc[0]["1: a"] == text


def test_neuron_summary_tells_how_much_of_the_selection_never_moves(study):
    folder = study.run(neurons=True)
    row = tables.neuron_summary(load_neurons(study.root)).iloc[0]
    # Of 5 neurons one is masked, and one, another, never moves.
    assert (row["skill_frac"], row["constant_frac"], row["constant_skill_frac"]) == pytest.approx((0.2, 0.2, 0.0))
    assert (row["label_rate"], row["max_score"], row["seeds"]) == pytest.approx((0.6, 0.96, 1))
    assert (folder / "neurons" / "visit_01.npz").exists()
