"""The example of a figure and a table of one's own, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "results" / "published" / "cpu_button_drawer"


def test_a_figure_and_a_table_of_ones_own_are_made_of_published_rows(tmp_path: Path) -> None:
    script = ROOT / "examples" / "own_figure.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(script), str(STUDY)], cwd=tmp_path, env=environment, check=True, timeout=250)
    assert (tmp_path / "own_figure.pdf").read_bytes().startswith(b"%PDF")
    table = pd.read_csv(tmp_path / "own_table.csv").set_index("arm")
    means = pd.read_csv(STUDY / "report" / "table.csv").set_index("arm")["asr_mean"]
    assert len(table) == 6
    for arm, difference in table["asr_difference"].items():
        assert difference == pytest.approx(means[arm] - means["sac"])
