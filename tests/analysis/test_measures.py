"""Other protocols and the tables of tasks over saved runs, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import load_results
from analysis.measures import measure_values, measures_text, task_values, tasks_text
from tests.analysis.conftest import FORGETFUL, PAIR, PERFECT

KEEPS_ONE = [[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]  # window-open is kept, window-close lost.


def test_measures_of_a_run_by_hand(study):
    study.run(FORGETFUL)
    row = measure_values(load_results(study.root)).iloc[0]
    # A = 1, .5, 1, 0 and B = 0, 1, .5, 1. After the last visit A 0, B 1.
    assert (row["chaudhry_a"], row["continual_world_p"]) == (0.5, 0.5)
    assert row["chaudhry_f"] == pytest.approx((1 + 0 + 1) / 3)
    assert row["continual_world_f"] == (1 + 0 + 1 + 0) / 4
    assert row["bwt"] == pytest.approx(-2 / 3)
    assert (row["cora_f"], row["cora_z"]) == (0.5, 0.0)
    assert np.isnan(row["continual_world_ft"])  # No sequence begins with window-close.


def test_measures_of_all_evaluations_of_a_run_by_hand(study):
    path = study.run(FORGETFUL) / "evaluations.jsonl"
    row = measure_values(load_results(study.root)).iloc[0]
    # After visit 1 A is 0 at the least, at the end of visit 4, B .5 at that of visit 3, and A again 0.
    assert row["min_acc"] == pytest.approx((0 + 0.5 + 0) / 3)
    # Sums of visits: A 2; A and B 2; A twice and B 2.33333; both twice 1.75.
    assert row["aaa"] == pytest.approx(8.08333 / 12, abs=1e-5)
    rows = study.read_rows(path)
    study.write_rows(path, [row for row in rows if row["phase"] == "boundary"])
    row = measure_values(load_results(study.root)).iloc[0]
    assert np.isnan([row["min_acc"], row["aaa"]]).all()
    # Of a visit that was resumed, the rows written last count; tasks to come need no evaluation.
    twice = [row | {"success_rate": 0.123} for row in rows if row["visit"] == 4]
    seen = [row for row in rows if row["visit"] > 1 or row["eval_task"] == PAIR[0]]
    study.write_rows(path, [*seen[:-6], *twice, *seen[-6:]])
    assert measure_values(load_results(study.root)).iloc[0]["aaa"] == pytest.approx(8.08333 / 12, abs=1e-5)
    # A periodic evaluation at a visit's end, of fewer episodes, does not count, wherever it stands.
    ends = [row | {"phase": "periodic", "success_rate": 0.123} for row in rows if row["phase"] == "boundary"]
    study.write_rows(path, [*rows, *ends])
    assert measure_values(load_results(study.root)).iloc[0]["aaa"] == pytest.approx(8.08333 / 12, abs=1e-5)


def test_forward_transfer_compares_with_training_from_scratch(study):
    study.run(PERFECT)
    study.run(PERFECT, sequence="turned", tasks=PAIR[::-1])
    study.run(KEEPS_ONE, arm="nbsp")
    values = measure_values(load_results(study.root)).set_index(["sequence", "arm"])
    # Each visit has evaluations at 250, 750 and 1000 steps. From 0 to 1 they are .25, .75 and 1, so the area is
    # .25 * .25 + .5 * .75 + .25 * 1 = .6875; where the task was kept it is 1, which gains (1 - .6875) / .3125 = 1.
    assert values.loc[("pair", "sac"), "continual_world_ft"] == pytest.approx((0 + 0 + 1 + 1) / 4)
    assert values.loc[("pair", "nbsp"), "continual_world_ft"] == pytest.approx((0 + 0 + 1 + 0) / 4)


def test_forward_transfer_needs_a_curve_and_a_baseline(study):
    path = study.run(FORGETFUL, tasks=["a"], cycles=4) / "evaluations.jsonl"
    # Areas .6875, .65625, .84375 and .3125 of success that goes 0, 1, .5, 1, 0: (0 - .1 + .5 - 1.2) / 4.
    assert measure_values(load_results(study.root))["continual_world_ft"].item() == pytest.approx(-0.2)
    study.write_rows(path, [row for row in study.read_rows(path) if row["phase"] == "boundary"])
    assert np.isnan(measure_values(load_results(study.root))["continual_world_ft"].item())


def test_each_task_has_its_own_row_so_that_a_kept_one_does_not_hide_a_lost_one(study):
    for seed in (0, 1):
        study.run(KEEPS_ONE, seed=seed)
    values = task_values(load_results(study.root))
    text = tasks_text(values).set_index("Task")
    # The mean over both tasks is 0.5.
    assert text["Before retraining"].to_dict() == {"window-open": "1.00 ± 0.00", "window-close": "0.00 ± 0.00"}
    assert text["Lost while others trained"].to_dict() == {"window-open": "0.00 ± 0.00", "window-close": "1.00 ± 0.00"}
    assert values[["learned", "final"]].to_numpy().tolist() == [[1.0, 1.0]] * 4


def test_one_cycle_and_one_seed_have_dashes_and_no_intervals(study):
    study.run(FORGETFUL[:2], cycles=1)
    results = load_results(study.root)
    assert tasks_text(task_values(results))["Before retraining"].tolist() == ["–", "–"]  # noqa: RUF001
    text = measures_text(measure_values(results)).iloc[0]
    assert (text["CW P ↑"], text["CW FT ↑"]) == ("0.75", "–")  # noqa: RUF001


def test_an_unfinished_run_has_nan_where_cells_are_missing(study):
    study.run(FORGETFUL, visits=3)
    results = load_results(study.root)
    row = measure_values(results).iloc[0]
    unknown = ["chaudhry_a", "chaudhry_f", "bwt", "min_acc", "aaa"]
    assert np.isnan(row[unknown].astype(float)).all() and row["cora_f"] == 0.5
    assert pd.isna(task_values(results)["final"]).all()


def test_returns_have_no_limits():
    values = pd.DataFrame({"sequence": "s", "arm": "a", "seed": [0, 1], "task": "t", "learned": [1.4, 1.6]})
    values = values.assign(forgotten=[1.2, 1.4], before_retraining=[-0.1, 0.1], final=[2.0, 2.0])
    assert tasks_text(values, of_returns=True)["After own visits"].item().startswith("1.50 ± ")
    with pytest.raises(ValueError, match="must lie in"):
        tasks_text(values)
