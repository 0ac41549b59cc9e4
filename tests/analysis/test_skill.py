"""What skill neurons are and what became of them, by hand; frames of four neurons of one layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from analysis import NEURON_COLUMNS, incoming_changes, skill
from analysis.load import find_runs
from analysis.neuron_report import write_neuron_report

ALIVE, CONSTANT = (30, 20, 30, 20), (0, 0, 60, 40)


def scoring(visit, task, masks, counts=None, *, seed=0, p=None, activation=(1.0, 1.0, 1.0, 1.0), accuracy=None):
    """One scoring of a policy with a layer of four neurons."""
    cells = np.array(counts or [ALIVE] * 4)
    frame = pd.DataFrame(
        {
            "sequence": "pair",
            "arm": "nbsp",
            "seed": seed,
            "visit": visit,
            "task": task,
            "network": "policy",
            "layer": 0,
            "neuron": range(4),
            "accuracy": (cells[:, 0] + cells[:, 3]) / 100 if accuracy is None else accuracy,
            "chance_accuracy": 0.5,
            "p_value": p or [0.001] * 4,
            "mean_activation": activation,
            "mask": masks,
            "label_rate": 0.6,
            "env_steps": 100 * visit,
        }
    )
    frame["score"] = np.maximum(frame["accuracy"], 1 - frame["accuracy"])
    frame[["n11", "n10", "n01", "n00"]] = cells
    return frame[list(NEURON_COLUMNS)]


def changes(visit, values, seed=0):
    """How far the four moved over the next visit."""
    place = {"sequence": "pair", "arm": "nbsp", "seed": seed, "visit": visit, "network": "policy", "layer": 0}
    return pd.DataFrame({**place, "neuron": range(4), "weight_change": values})


def test_sign_significance_and_constants_by_hand():
    # p of 0.01, 0.02, 0.5 and 1: Benjamini and Hochberg's are 4/1 0.01 = 0.04, 4/2 0.02 = 0.04, 4/3 0.5 and 1.
    cells = [(50, 0, 10, 40), (0, 45, 55, 0), ALIVE, CONSTANT]
    frame = skill.with_significance(scoring(1, "a", [0.1, 1, 1, 0.1], cells, p=[0.01, 0.02, 0.5, 1.0]))
    assert frame["q_value"].tolist() == pytest.approx([0.04, 0.04, 2 / 3, 1.0])
    assert frame["significant"].tolist() == [True, True, False, False]
    assert frame["constant"].tolist() == [False, False, False, True]
    assert frame["skill"].tolist() == [True, False, False, True]
    assert frame["sign"].tolist() == [1.0, -1.0, 0.0, 0.0]


@given(st.lists(st.integers(1, 1000), min_size=4, max_size=4), st.integers(0, 3))
def test_the_false_discovery_rate_is_of_one_scoring_and_counts_no_neuron_without_a_p_value(thousandths, missing):
    p = [k / 1000 for k in thousandths]
    p[missing] = np.nan
    frame = skill.with_significance(pd.concat([scoring(1, "a", [1] * 4, p=p), scoring(2, "b", [1] * 4)]))
    q = frame[frame["visit"] == 1]["q_value"].to_numpy()
    known = np.array([x for x in p if np.isfinite(x)])
    assert q[np.isfinite(q)] == pytest.approx(false_discovery_control(known))
    assert np.isnan(q[missing]) and not frame["significant"].iloc[missing]


def test_selection_by_hand():
    cells = [CONSTANT, ALIVE, CONSTANT, ALIVE]
    frame = scoring(1, "a", [0.1, 0.1, 1, 1], cells, p=[1.0, 0.001, 1.0, 1.0])
    row = skill.selection(frame).iloc[0]
    assert (row["neurons"], row["skill"], row["skill_frac"], row["constant_frac"]) == (4, 2, 0.5, 0.5)
    assert (row["constant_skill_frac"], row["significant_skill_frac"], row["significant_frac"]) == (0.5, 0.5, 0.25)
    unknown = skill.selection(frame.assign(p_value=np.nan)).iloc[0]
    assert np.isnan(unknown["significant_frac"]) and np.isnan(unknown["significant_skill_frac"])
    assert unknown["constant_skill_frac"] == 0.5
    assert skill.selection(frame, by_layer=True)["layer"].tolist() == [0]


def test_overlaps_between_tasks_visits_and_seeds_by_hand():
    frame = pd.concat(
        [
            scoring(1, "a", [0, 0, 1, 1]),
            scoring(2, "b", [1, 0, 0, 1]),
            scoring(3, "a", [0, 0, 0, 1]),
            scoring(1, "a", [1, 1, 0, 0], seed=1),
        ]
    )
    table = skill.overlaps(frame)
    found = {
        (row.between, row.seed, row.visit, row.other_seed, row.other_visit): (row.common, row.overlap, row.chance)
        for row in table.itertuples()
    }
    # Sets {0, 1}, {1, 2}, {0, 1, 2} of seed 0 and {2, 3} of seed 1; of four, two random pairs have 2 x 2 / 4 in common.
    assert found == {
        ("tasks", 0, 1, 0, 2): (1, 0.5, 0.5),
        ("visits", 0, 1, 0, 3): (2, 1.0, 0.75),
        ("tasks", 0, 2, 0, 3): (2, 1.0, 0.75),
        ("seeds", 0, 1, 1, 1): (0, 0.0, 0.5),
    }


def test_every_fate_by_hand():
    # Visit 1 selects all four: 0 is constant then, 1 later, 2 is selected again, 3 moves by 5 %. Visit 2 selects
    # 2, which moves by 50 % and is not selected again.
    frame = pd.concat(
        [
            scoring(1, "a", [0, 0, 0, 0], [CONSTANT, ALIVE, ALIVE, ALIVE], activation=(0.0, 1.0, 1.0, 2.0)),
            scoring(2, "b", [1, 1, 0, 1], [CONSTANT, CONSTANT, ALIVE, ALIVE]),
            scoring(3, "a", [1, 1, 1, 1], activation=(0.0, 1.0, 3.0, 2.0)),
        ]
    )
    moved = pd.concat([changes(1, [0.0, 0.0, 0.9, 0.05]), changes(2, [0.0, 0.0, 0.5, 0.05])])
    fate = skill.fates(frame, moved)
    assert fate[fate["visit"] == 1]["fate"].tolist() == ["constant", "dead", "reused", "kept"]
    assert fate[fate["visit"] == 2]["fate"].fillna("").tolist() == ["", "", "drifted", ""]
    # From visit 1 to 3 the third neuron went from 1 to 3; the layer's mean size was (0 + 1 + 1 + 2) / 4 = 1.
    assert fate[fate["visit"] == 1]["activation_change"].tolist() == [0.0, 0.0, 2.0, 0.0]
    assert fate[fate["visit"] == 2]["activation_change"].isna().all()
    shares = skill.fate_shares(fate).set_index("visit")
    assert shares.loc[1, list(skill.FATES)].tolist() == [0.25, 0.25, 0.25, 0.25, 0.0]
    assert shares.loc[2, "drifted"] == 1.0 and shares.loc[2, "free_weight_change"] == 0.0


def test_no_fate_where_the_next_visit_has_no_scores_and_none_without_weights():
    fate = skill.fates(scoring(1, "a", [0, 0, 0, 0]), changes(1, [0.0] * 4))
    assert fate["fate"].isna().all()
    assert np.isnan(skill.fate_shares(fate).iloc[0]["kept"])
    assert skill.fates(scoring(1, "a", [0, 0, 0, 0]), incoming_changes([])).empty


def test_the_ledger_counts_the_union_and_looks_ahead_by_hand():
    frame = pd.concat([scoring(1, "a", [0, 1, 1, 1]), scoring(2, "b", [0, 0, 1, 1]), scoring(3, "a", [0, 1, 1, 1])])
    row = skill.ledger(frame).iloc[0]
    assert (row["neurons"], row["tasks"], row["used"], row["largest"]) == (4, 2, 0.5, 0.5)
    # Two tasks took a half, so ten take 1 - (1/2)^5.
    assert row["used_10"] == pytest.approx(1 - 0.5**5)
    assert row["used_50"] == pytest.approx(1 - 0.5**25)


def test_constant_masked_neurons_are_told_by_the_last_row_of_a_visit():
    place = {"sequence": "pair", "arm": "nbsp", "seed": 1}
    rows = [{**place, "visit": 1, "env_steps": 10}]
    rows += [
        {**place, "visit": 2, "env_steps": 20 + k, "label_rate": 0.2, "constant_skill_frac_policy": share}
        for k, share in enumerate((0.0, 1.0))
    ]
    table = skill.constant_masked(pd.DataFrame(rows))
    assert table[["visit", "label_rate", "policy"]].values.tolist() == [[2.0, 0.2, 1.0]]
    assert skill.constant_masked(pd.DataFrame(rows[:1])).empty


# Weights


def save_weights(folder, visit, weight, bias):
    (folder / "weights").mkdir(exist_ok=True)
    arrays = {"policy.hidden.0.weight": weight, "policy.hidden.0.bias": bias, "log_alpha": np.zeros(1)}
    np.savez(folder / "weights" / f"visit_{visit:02d}.npz", **arrays)


def test_changes_of_incoming_weights_by_hand(study):
    folder = study.run()
    save_weights(folder, 1, np.array([[3.0, 0.0], [0.0, 0.0]]), np.array([4.0, 0.0]))
    save_weights(folder, 2, np.array([[3.0, 3.0], [1.0, 0.0]]), np.array([0.0, 0.0]))
    save_weights(folder, 4, np.array([[9.0, 9.0], [9.0, 9.0]]), np.array([0.0, 0.0]))  # not the next one
    table = incoming_changes(find_runs(study.root))
    assert table["visit"].tolist() == [1, 1]
    # (0, 3, -4) of a norm of 5; and what was 0 has no relative change.
    assert table["weight_change"].iloc[0] == pytest.approx(1.0) and np.isnan(table["weight_change"].iloc[1])


def test_weights_that_cannot_be_read_are_left_out_with_a_note(study):
    folder = study.run()
    save_weights(folder, 1, np.ones((2, 2)), np.ones(2))
    (folder / "weights" / "visit_02.npz").write_bytes(b"PK\x03\x04 torn")
    notes: list[str] = []
    assert incoming_changes(find_runs(study.root), notes).empty
    assert notes and notes[0].startswith("pair/sac/seed_0/weights/visit_02.npz: left out")


# The files


def test_the_neuron_report_has_every_table(study):
    for seed in (0, 1):
        folder = study.run(arm="nbsp", seed=seed, neurons=True)
        for visit in (1, 2, 3):
            weight = np.full((5, 2), float(visit))
            save_weights(folder, visit, weight, np.zeros(5))
    report = write_neuron_report(study.root)
    assert list(report.tables) == ["Selection", "By layer", "Overlap", "What became of them", "Capacity"]
    assert report.notes == []
    files = {path.stem for path in (study.root / "neurons").glob("*.csv")}
    assert files == {"neurons", "selection", "layers", "overlaps", "fates", "fate_shares", "ledger"}
    page = report.path.read_text()
    assert all(f"## {title}" in page for title in report.tables)
    written = pd.read_csv(study.root / "neurons" / "neurons.csv")
    assert len(written) == 2 * 4 * 3 * 3 * 5 and {"q_value", "sign", "constant"} <= set(written.columns)
    first = report.tables["Selection"].iloc[0]
    # One of five neurons is masked, one never moves; p of 0.001 x 9 of 45 survives, of 0.02 x 9 of 45 too.
    assert (first["Skill"], first["Constant"], first["Beyond chance among skill"]) == ("20 %", "20 %", "100 %")
