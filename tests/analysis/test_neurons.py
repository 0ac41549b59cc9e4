"""Neurons' scores: what a frame of them holds, and files that must not be believed."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import analysis
from analysis import UnknownNameError, load_neurons


def test_neurons_have_the_documented_columns_and_values(study):
    study.run(neurons=True)
    frame = load_neurons(study.root)
    assert list(frame.columns) == list(analysis.NEURON_COLUMNS)
    assert len(frame) == 4 * 3 * 3 * 5
    best = frame[(frame["visit"] == 2) & (frame["network"] == "qf") & (frame["layer"] == 1) & (frame["neuron"] == 4)]
    found = best[["task", "score", "n11", "n10", "n01", "n00", "label_rate", "env_steps"]].iloc[0].tolist()
    assert found == ["window-close-v3", 0.96, 58, 2, 2, 38, 0.6, 2000]
    assert best["mask"].item() == pytest.approx(0.008)
    assert best[["chance_accuracy", "p_value"]].iloc[0].tolist() == [0.52, 0.001]


def test_neurons_of_runs_that_measured_no_null_have_no_p_value(study):
    path = study.run(neurons=True, visits=1) / "neurons" / "visit_01.npz"
    np.savez(path, **{name: array for name, array in np.load(path).items() if not name.endswith("/p_value")})
    frame = load_neurons(study.root)
    assert frame["p_value"].isna().all() and frame["chance_accuracy"].notna().all()


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
