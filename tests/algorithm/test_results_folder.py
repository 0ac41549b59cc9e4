"""Every file that a run writes, and every column in it, stands in docs/results_folder.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from analysis import MECHANISM_COLUMNS
from rllib_nbsp import NBSPConfig
from tests.algorithm.conftest import finish, rows_of
from tests.documents import as_documented, documented
from tests.tiny import short_run


def test_every_file_and_column_that_a_run_writes_is_documented(tmp_path: Path) -> None:
    finish(short_run(NBSPConfig(), tmp_path))
    known = documented()
    files = {re.sub(r"visit_\d+", "visit_NN", str(path.relative_to(tmp_path))) for path in tmp_path.rglob("*.*")}
    assert {"evaluations.jsonl", "training.jsonl", "neurons/visit_NN.npz", "weights/visit_NN.npz"} <= files <= known

    evaluations, training = rows_of(tmp_path, "evaluations.jsonl"), rows_of(tmp_path, "training.jsonl")
    assert {key for row in evaluations for key in row} <= known
    assert {key for row in evaluations for episode in row["per_episode"] for key in episode} <= known
    numbers = {key for row in training for key in row}
    assert {as_documented(key) for key in numbers} <= known
    assert {as_documented(key) for key in numbers} >= MECHANISM_COLUMNS.keys()
    assert {"qf_loss", "qf_loss_prior", "prior_size", "label_rate"} <= numbers

    assert json.loads((tmp_path / "cost.json").read_text()).keys() <= known
    assert json.loads((tmp_path / "status.json").read_text()).keys() <= known
    with np.load(tmp_path / "neurons" / "visit_01.npz") as arrays:
        assert {re.sub(r"^\w+/\d+/", "policy/i/", name) for name in arrays.files} <= known
        assert (arrays["policy/0/p_value"] > 0.0).all()  # whether it follows the goal was asked
