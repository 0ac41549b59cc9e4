"""Folders to frames: what is kept, what is left out and said, what must not be averaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import analysis
from analysis import DataError, load_evaluations, load_results, load_training
from tests.analysis.conftest import PAIR, ROWS


def test_evaluations_have_the_documented_columns_and_values(study):
    study.run(arm="sac")
    study.run(arm="nbsp", seed=3)
    frame = load_evaluations(study.root)
    assert list(frame.columns) == list(analysis.EVALUATION_COLUMNS)
    assert len(frame) == 2 * ROWS
    last = frame[(frame["arm"] == "nbsp") & (frame["phase"] == "boundary")].iloc[-1]
    assert (last["seed"], last["visit"], last["eval_task"], last["env_steps"]) == (3, 4, "window-close-v3", 4000)
    assert last["success_rate"] == 1.0 and last["per_episode"][0]["length"] == 500


def test_training_rows_keep_unknown_keys_as_further_columns(study):
    study.run()
    frame = load_training(study.root)
    assert set(frame.columns) == set(analysis.TRAINING_COLUMNS) | {"rank", "phase"}
    assert frame["rank"].eq(7).all() and frame["success_window"].isna().sum() == 4
    assert frame["qf_loss"].isna().all()  # The file has no such key.


@pytest.mark.parametrize("name", ["cpu_atari", "cpu_baselines", "cpu_button_drawer"])
def test_every_column_of_published_training_rows_is_documented(name):
    page = Path("docs/results_folder.md").read_text(encoding="utf-8")
    frame = load_training(Path("results/published") / name)
    assert [column for column in frame if f"`{column}`" not in page] == []


def test_stale_and_hidden_folders_and_files_are_passed_over(study):
    folder = study.run()
    for name in ("_tune/sac/seed_0", ".cache/sac/seed_0", "pair/_old/seed_0", "pair/sac.stale/seed_0"):
        (study.root / name).mkdir(parents=True)
    (folder / "evaluations.jsonl.stale").write_text("not json\n")
    assert [run.label for run in analysis.find_runs(study.root)] == ["pair/sac/seed_0"]
    assert len(load_evaluations(study.root)) == ROWS


# Order of the tasks


def test_order_of_visits_comes_from_the_settings(study):
    study.run(visits=1)
    assert load_results(study.root).orders["pair"] == analysis.TaskOrder(PAIR, [0, 1, 0, 1])


def test_without_settings_the_order_comes_from_the_study_or_the_rows_and_is_said(study):
    folder = study.run()
    (folder / "config.yaml").unlink()
    results = load_results(study.root)
    assert results.orders["pair"] == analysis.TaskOrder(PAIR, [0, 1, 0, 1])
    assert any("was inferred" in note for note in results.notes)
    study.study(["sac"], [0], {"pair": [*PAIR, "door-open-v3"]})
    with pytest.raises(DataError, match="visit 3 trained 'window-open-v3', but the sequence says 'door-open-v3'"):
        load_results(study.root)


def test_rows_that_contradict_the_order_of_tasks_are_refused(study):
    study.run(config={"tasks": PAIR[::-1]})
    with pytest.raises(DataError, match=r"pair/sac/seed_0: visit 1 trained 'window-open-v3'"):
        load_results(study.root)


def test_rows_beyond_the_last_visit_are_refused(study):
    study.run(config={"cycles": 1})
    with pytest.raises(DataError, match="visit 3 of 2"):
        load_results(study.root)


def test_runs_of_one_sequence_with_different_cycles_are_refused(study):
    study.run(seed=0)
    study.run(seed=1, visits=2, cycles=1)
    with pytest.raises(DataError, match="different tasks or cycles"):
        load_results(study.root)


# Values


def test_nan_and_infinite_values_are_kept_as_nan_and_counted(study):
    path = study.run() / "evaluations.jsonl"
    rows = study.read_rows(path)
    for row, value in zip(rows, (None, float("nan"), float("inf")), strict=False):
        row["success_rate"] = value
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")  # Writes bare NaN and Infinity.
    notes: list[str] = []
    frame = load_evaluations(study.root, notes)
    assert len(frame) == ROWS and frame["success_rate"].isna().sum() == 3
    assert notes == ["3 evaluation rows without a finite success_rate: kept as NaN, never counted as 0"]


def test_duplicate_rows_keep_the_last_and_are_counted(study):
    path = study.run() / "evaluations.jsonl"
    rows = study.read_rows(path)
    study.write_rows(path, [*rows, rows[3] | {"success_rate": 0.25}, rows[7] | {"success_rate": 0.75}])
    notes: list[str] = []
    frame = load_evaluations(study.root, notes)
    assert len(frame) == ROWS
    assert frame["success_rate"].iloc[-2:].tolist() == [0.25, 0.75]
    assert any("2 duplicate rows left out" in note and "the last one counts" in note for note in notes)
    assert any("goes back 2 times to fewer env_steps" in note for note in notes)


def test_updates_without_environment_steps_are_rows_of_their_own(study):
    path = study.run() / "training.jsonl"
    rows = study.read_rows(path)
    last = rows[-1]
    study.write_rows(path, [*rows, *(last | {"updates": last["updates"] + more} for more in (64, 128))])
    notes: list[str] = []
    frame = load_training(study.root, notes)
    assert frame["updates"].tail(3).tolist() == [last["updates"] + more for more in (0, 64, 128)]
    assert not any("duplicate" in note for note in notes)


def test_duplicate_training_rows_keep_the_last(study):
    path = study.run() / "training.jsonl"
    rows = study.read_rows(path)
    study.write_rows(path, [*rows, rows[-1] | {"alpha": 0.5}])
    frame = load_training(study.root)
    assert len(frame) == 12 and frame["alpha"].iloc[-1] == 0.5


def test_a_visit_that_ended_twice_after_a_resume_counts_as_written_last(study):
    path = study.run() / "evaluations.jsonl"
    rows = study.read_rows(path)
    again = [row | {"env_steps": row["env_steps"] - 7, "success_rate": 0.4} for row in rows[-2:]]
    study.write_rows(path, rows + again)
    success = analysis.success_array(load_results(study.root), "pair", "sac")
    assert success.values[0, -1].tolist() == [0.4, 0.4]


# What must not be averaged


def test_empty_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no trials in .*: expected <sequence>/<arm>/seed_<n>/evaluations\.jsonl"):
        load_evaluations(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        load_evaluations(tmp_path / "nothing")


def test_a_folder_above_or_below_the_study_names_the_study(study):
    folder = study.run()
    for wrong in (study.root.parent, folder.parent, folder.parent.parent):
        with pytest.raises(DataError, match=f"did you mean {study.root}"):
            analysis.find_runs(wrong)


def test_trials_without_a_row_are_refused(study):
    study.run(visits=0)
    with pytest.raises(DataError, match="nothing was evaluated yet"):
        load_evaluations(study.root)


def test_mixed_settings_in_one_arm_are_refused_with_the_groups(study):
    for seed, config_hash in enumerate(("aaa", "aaa", "bbb")):
        study.run(seed=seed, config_hash=config_hash)
    with pytest.raises(DataError, match=r"pair/sac mixes runs of different settings.*: aaa: seeds 0, 1; bbb: seeds 2"):
        load_evaluations(study.root)


def test_arms_may_differ_in_their_settings(study):
    study.run(arm="sac", config_hash="aaa")
    study.run(arm="nbsp", config_hash="bbb")
    assert len(load_evaluations(study.root)) == 2 * ROWS


def test_a_copied_run_does_not_pass_for_another_seed(study):
    folder = study.run(seed=0)
    folder.rename(folder.with_name("seed_1"))
    with pytest.raises(DataError, match=r"seed_1.*holds a row of pair/sac/seed_0"):
        load_evaluations(study.root)


def test_two_folders_of_one_seed_are_refused(study):
    folder = study.run(seed=0)
    folder.with_name("seed_00").mkdir()
    with pytest.raises(DataError, match=r"2 folders .* are pair/sac/seed_0"):
        load_evaluations(study.root)


# Small files


def test_a_study_file_that_is_none_is_refused(study):
    study.run()
    (study.root / "study.yaml").write_text("arms: 3\n")
    with pytest.raises(DataError, match=r"study\.yaml is not a mapping with sequences"):
        load_results(study.root)


def test_costs_are_read_and_what_is_no_count_is_left_out_and_said(study):
    folder = study.run()
    whole = dict.fromkeys(analysis.COSTS, 7)
    (folder / "cost.json").write_text(json.dumps(whole | {"of_another_version": [1]}))
    notes: list[str] = []
    assert analysis.find_runs(study.root, notes)[0].cost == whole
    assert notes == []
    (folder / "cost.json").write_text(json.dumps(whole | {"method_bytes": -1, "prior_bytes": "much"}))
    cost = analysis.find_runs(study.root, notes)[0].cost
    assert cost.keys() == analysis.COSTS.keys() - {"method_bytes", "prior_bytes"}
    assert notes == ["pair/sac/seed_0/cost.json: no count for method_bytes, prior_bytes"]


def test_runs_without_costs_or_with_a_torn_file_have_none(study):
    folder = study.run()
    notes: list[str] = []
    assert analysis.find_runs(study.root, notes)[0].cost == {}
    assert notes == []
    (folder / "cost.json").write_text('{"method_bytes": ')
    assert analysis.find_runs(study.root, notes)[0].cost == {}
    assert notes[0].startswith("pair/sac/seed_0/cost.json: left out")


def test_columns_of_the_networks_are_numbers_where_rows_have_them_and_nan_elsewhere(study):
    folder = study.run()
    file = folder / "training.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for i, row in enumerate(rows[::2]):
        row |= {"dead_frac_qf_0": 0.25, "churn_policy": None if i == 0 else 0.5}
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    frame = load_training(study.root)
    assert frame["dead_frac_qf_0"].dropna().eq(0.25).all()
    assert frame["dead_frac_qf_0"].notna().sum() == len(rows[::2])
    assert frame["churn_policy"].mean() == 0.5
    assert frame["churn_policy"].dtype == float
