"""The cost of looking at the networks is measured on rows that are looked at, and is small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import mechanism
from rllib_nbsp.settings import EvaluationSettings


def test_the_share_is_of_rows_and_of_the_updates_between_them():
    one = mechanism.measure((8, 8), 16, windows=2, seconds=0.02)
    evaluation = EvaluationSettings()
    every, updates = evaluation.mechanism_rows, evaluation.report_env_steps * one["update_ms"]
    rows = one["measured_ms"] + (every - 1) * one["other_ms"]
    assert one["share"] == pytest.approx(rows / every / updates)
    assert one["share_of_every"] == pytest.approx(one["measured_ms"] / updates)
    assert one["measured_ms"] > 2 * one["other_ms"]
    assert all(len(windows) == 2 for windows in one["windows"].values())


@pytest.mark.parametrize(("bound", "code"), [(10.0, 0), (0.0, 1)])
def test_a_share_that_is_too_large_fails(bound, code, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(mechanism, "SIZES", {"8": ((8,), 16)})
    monkeypatch.setattr(mechanism, "MAX_SHARE", bound)
    file = tmp_path / "figures.json"
    assert mechanism.main(["--windows", "1", "--seconds", "0.01", "--json", str(file)]) == code
    assert json.loads(file.read_text())["results"].keys() == {"8"}
    assert "8 | " in capsys.readouterr().err
