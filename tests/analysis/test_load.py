"""Reading results: what is kept, what is left out and said, what is refused."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import analysis
from analysis import DataError, UnknownNameError, load_evaluations, load_neurons, load_results, load_training
from tests.analysis.conftest import PAIR, StudyBuilder

ROWS = 24  # Of one run: 4 visits x 3 evaluations x 2 tasks.


def many_rows(study: StudyBuilder, count: int = 200) -> Path:
    """A run with so many rows that one of them is below 1 %."""
    path = study.run() / "evaluations.jsonl"
    row = study.read_rows(path)[-1]
    study.write_rows(path, [row | {"env_steps": 10_000 + i} for i in range(count)])
    return path


# Frames


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


def test_neurons_have_the_documented_columns_and_values(study):
    study.run(neurons=True)
    frame = load_neurons(study.root)
    assert list(frame.columns) == list(analysis.NEURON_COLUMNS)
    assert len(frame) == 4 * 3 * 3 * 5
    best = frame[(frame["visit"] == 2) & (frame["network"] == "qf") & (frame["layer"] == 1) & (frame["neuron"] == 4)]
    found = best[["task", "score", "n11", "n10", "n01", "n00", "label_rate", "env_steps"]].iloc[0].tolist()
    assert found == ["window-close-v3", 0.96, 58, 2, 2, 38, 0.6, 2000]
    assert best["mask"].item() == pytest.approx(0.008)


def test_neurons_scored_without_masks_have_mask_1_and_files_without_scores_are_passed_over(study):
    folder = study.run(neurons=True)
    for visit, leave_out in ((1, "/mask"), (2, "label_rate")):
        path = folder / "neurons" / f"visit_{visit:02d}.npz"
        np.savez(path, **{name: array for name, array in np.load(path).items() if not name.endswith(leave_out)})
    notes: list[str] = []
    frame = load_neurons(study.root, notes=notes)
    assert frame.groupby("visit")["mask"].min().to_dict() == pytest.approx({1: 1.0, 3: 0.008, 4: 0.008})
    assert notes == []


def test_neurons_can_be_loaded_for_one_arm(study):
    study.run(arm="nbsp", neurons=True)
    study.run(arm="ewc", neurons=True)
    study.run(arm="sac")
    assert set(load_neurons(study.root, arm="ewc")["arm"]) == {"ewc"}
    assert load_neurons(study.root, arm="sac").empty
    with pytest.raises(UnknownNameError, match="did you mean 'nbsp'"):
        load_neurons(study.root, arm="nbps")


def test_stale_and_hidden_folders_and_files_are_passed_over(study):
    folder = study.run()
    for name in ("_tune/sac/seed_0", ".cache/sac/seed_0", "pair/_old/seed_0", "pair/sac.stale/seed_0"):
        (study.root / name).mkdir(parents=True)
    (folder / "evaluations.jsonl.stale").write_text("not json\n")
    assert [run.label for run in analysis.find_runs(study.root)] == ["pair/sac/seed_0"]
    assert len(load_evaluations(study.root)) == ROWS


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


# Damaged lines


def test_torn_last_line_keeps_the_other_rows(study):
    path = study.run() / "evaluations.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    notes: list[str] = []
    assert len(load_evaluations(study.root, notes)) == ROWS - 1
    assert notes == ["pair/sac/seed_0/evaluations.jsonl: the last line is torn; it was left out"]


def test_last_line_that_only_lacks_its_end_is_kept(study):
    path = study.run() / "evaluations.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    notes: list[str] = []
    assert len(load_evaluations(study.root, notes)) == ROWS
    assert notes == []


def test_byte_order_mark_crlf_blank_lines_and_nul_padding_do_not_matter(study):
    path = study.run() / "evaluations.jsonl"
    lines = path.read_bytes().splitlines()
    lines[5] = b"\0\0\0" + lines[5]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([*lines[:10], b"", *lines[10:], b"\0" * 500, b""]))
    assert len(load_evaluations(study.root)) == ROWS


def test_gzipped_rows_are_read_and_a_cut_archive_keeps_its_whole_rows(study):
    path = study.run() / "evaluations.jsonl"
    packed = gzip.compress(path.read_bytes())
    path.unlink()
    target = path.with_name("evaluations.jsonl.gz")
    target.write_bytes(packed)
    assert len(load_evaluations(study.root)) == ROWS
    target.write_bytes(packed[: len(packed) * 2 // 3])
    notes: list[str] = []
    assert 0 < len(load_evaluations(study.root, notes)) < ROWS
    assert "torn" in notes[0]
    target.write_bytes(packed[:200] + b"garbage" + packed[207:])
    with pytest.raises(DataError, match="not a readable gzip file"):
        load_evaluations(study.root)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1, 2]",
        b"\x80\x81",
        b'{"seed": 0\0\0}',
        b'{"seed": 0}',
        b"[" * 100_000,
        b'{"sequence": "pair", "arm": "sac", "seed": 0, "visit": 1, "phase": "periodic", "eval_task": "a"}',
    ],
    ids=["cut", "no object", "no utf-8", "nul inside", "keys missing", "deep", "no steps"],
)
def test_few_unreadable_lines_are_left_out_and_counted(study, line):
    path = many_rows(study)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:50], line, *lines[50:], b""]))
    notes: list[str] = []
    assert len(load_evaluations(study.root, notes)) == 200
    assert "pair/sac/seed_0/evaluations.jsonl: 1 unreadable line left out (first: line 51: " in notes[0]


@pytest.mark.parametrize(
    "change",
    [
        {"success_rate": 1.5},
        {"success_rate": "high"},
        {"visit": 0},
        {"env_steps": -1},
        {"seed": "0"},
        {"phase": "bondary"},
        {"eval_task": 3},
    ],
)
def test_rows_with_impossible_values_count_as_unreadable(study, change):
    path = many_rows(study)
    rows = study.read_rows(path)
    study.write_rows(path, [rows[0] | change, *rows[1:]])
    notes: list[str] = []
    assert len(load_evaluations(study.root, notes)) == 199
    assert any("1 unreadable line" in note for note in notes)


def test_more_than_one_percent_of_unreadable_lines_is_refused(study):
    path = many_rows(study)
    with path.open("ab") as file:
        file.write(b"rubbish\n" * 3)
    with pytest.raises(DataError, match=r"evaluations\.jsonl: 3 of 203 lines are unreadable, .* \(first: line 201: "):
        load_evaluations(study.root)


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


def test_settings_cannot_run_code(study):
    folder = study.run()
    (folder / "config.yaml").write_text(f"tasks: !!python/object/apply:os.mkdir ['{study.root}/ran']\n")
    results = load_results(study.root)
    assert not (study.root / "ran").exists()
    assert any("config.yaml: left out, it cannot be read" in note for note in results.notes)


def test_broken_versions_are_left_out_and_said(study):
    folder = study.run()
    (folder / "versions.json").write_text('{"ray": ')
    notes: list[str] = []
    assert analysis.find_runs(study.root, notes)[0].versions == {}
    assert notes[0].startswith("pair/sac/seed_0/versions.json: left out")


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


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.mkdir, (self.target,)


def test_neuron_files_are_never_unpickled_and_broken_ones_are_left_out(study):
    folder = study.run(neurons=True)
    planted = np.empty(1, dtype=object)
    planted[0] = Payload(study.root / "ran")
    np.savez(folder / "neurons" / "visit_02.npz", task=planted, label_rate=0.5, env_steps=1)
    (folder / "neurons" / "visit_03.npz").write_bytes(b"PK\x03\x04 torn")
    (folder / "neurons" / "visit_04.npz").write_bytes(pickle.dumps(Payload(study.root / "ran")))
    notes: list[str] = []
    frame = load_neurons(study.root, notes=notes)
    assert not (study.root / "ran").exists()
    assert set(frame["visit"]) == {1}
    assert [note.split(":")[0] for note in notes] == [f"pair/sac/seed_0/neurons/visit_0{n}.npz" for n in (2, 3, 4)]
