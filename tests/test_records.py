"""A trial's folder: what a new start moves aside, and what a reader always finds whole."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
import torch

from rllib_nbsp import records
from rllib_nbsp.records import TrialFolder, processor, versions
from rllib_nbsp.run import run_settings

RUN = run_settings(suite="point_mass", tasks=["reach-left", "reach-right"])


def leave_rows(path: Path, number: int) -> None:
    """A trial that starts, leaves a row and its costs, and is not finished."""
    folder = TrialFolder(path, RUN, fresh=True)
    folder.training({"number": number})
    folder.cost({"method_bytes": number})


def test_a_trial_that_starts_again_and_again_loses_no_row(tmp_path: Path) -> None:
    for number in range(3):
        leave_rows(tmp_path, number)
    names = ["training.jsonl.stale", "training.jsonl.2.stale", "training.jsonl"]
    assert [json.loads((tmp_path / name).read_text())["number"] for name in names] == [0, 1, 2]


def test_costs_of_an_earlier_start_are_moved_aside(tmp_path: Path) -> None:
    leave_rows(tmp_path, 5)
    TrialFolder(tmp_path, RUN, fresh=True)
    assert not (tmp_path / "cost.json").exists()
    assert json.loads((tmp_path / "cost.json.stale").read_text()) == {"method_bytes": 5}


def test_a_trial_that_goes_on_keeps_its_rows_and_writes_its_costs_anew(tmp_path: Path) -> None:
    leave_rows(tmp_path, 1)
    folder = TrialFolder(tmp_path, RUN, fresh=False)
    folder.training({"number": 2})
    folder.cost({"method_bytes": 2})
    assert len((tmp_path / "training.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "cost.json").read_text()) == {"method_bytes": 2}
    assert not [*tmp_path.glob("*.stale"), *tmp_path.glob("*.tmp")]


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        ("processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC 9R14: 96\nmodel name\t: another\n", "AMD EPYC 9R14: 96"),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", platform.machine()),  # as on ARM
        (None, platform.machine()),  # as on macOS
    ],
)
def test_results_say_on_which_processor_they_were_made(cpuinfo, model, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    monkeypatch.setattr(records, "CPUINFO", file)
    assert processor() == model
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert versions()["device"].startswith(f"CPU {model} (")
