"""`rllib-nbsp state`: whole and damaged states, wherever they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rllib_nbsp.cli import main
from rllib_nbsp.state.bundle import BundleWriter, Series

IDENTITY = {
    "config_hash": "0123456789ab",
    "seed": 3,
    "settings": {"experiment": "e", "sequence": "pair", "arm": "a", "method": "nbsp"},
    "versions": {"torch": "2.13.0"},
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    rows = Series("current", 0, 5, 25, lambda first, end: {"rewards": np.arange(first, end, dtype=np.float32)})
    for seed in (0, 1):
        writer = BundleWriter(tmp_path / "pair" / "a" / f"seed_{seed}" / "state")
        for env_steps in (1000, 2000):
            writer.write(env_steps, IDENTITY, {"run": {"weights": np.zeros(1000)}}, [rows])
    return tmp_path


def test_every_state_below_a_path_is_verified(study, capsys):
    assert main(["state", "verify", str(study)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all("whole, environment step" in line for line in lines)
    assert main(["state", "verify", str(study / "pair/a/seed_1")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_state_says_what_it_is_of(study, capsys):
    assert main(["state", "show", str(study / "pair/a/seed_0/state/bundle_000000002000")]) == 0
    shown = capsys.readouterr().out
    for told in ("environment step 2,000", "e, pair, a, nbsp, seed 3", "0123456789ab", "torch 2.13.0"):
        assert told in shown
    assert "current   rows 5 to 25" in shown and "in 1 segments" in shown


def test_damage_is_told_and_what_is_whole_too(study, capsys):
    broken = study / "pair/a/seed_0/state/bundle_000000001000/run.npz"
    broken.write_bytes(broken.read_bytes()[:-1])
    assert main(["state", "verify", str(study)]) == 3
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and err.startswith(f"error: {broken}: ")


@pytest.mark.parametrize("where", ["empty", "nowhere", "bundle_000000001000"])
def test_where_nothing_is_saved_it_says_so(where, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["state", "show", str(tmp_path / where)]) == 3
    assert "no state of an unfinished run is here" in capsys.readouterr().err
