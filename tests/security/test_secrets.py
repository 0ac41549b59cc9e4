"""What a run writes holds nothing of the environment that it ran in."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path

import pytest

from tests.studies import TIMEOUT_S, command, write_config

PLANTED = "planted-c1f4e0-token"
FAILING = """
from rllib_nbsp import register_method
from rllib_nbsp.methods.base import ContinualMethod

class Failing(ContinualMethod):
    def on_visit_end(self, visit, data):
        raise KeyError("as meant")

register_method("failing_at_the_end", Failing)
"""


@pytest.mark.slow
def test_no_file_and_no_line_has_a_secret_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "failing_plugin.py").write_text(FAILING)
    arms = {"sac": {"method": "sac"}, "bad": {"method": "failing_at_the_end"}}
    config = write_config(tmp_path, plugins=["failing_plugin"], arms=arms)
    names = ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_TOKEN", "RAY_AUTH_TOKEN")
    done = subprocess.run(
        command(config, "--results-dir", tmp_path / "results"),
        env=os.environ | {name: f"{PLANTED}-{name}" for name in names},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 1 and "as meant" in done.stdout, done.stderr[-3000:]
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    found = {path.name for path in files}
    assert {"study.yaml", "config.yaml", "versions.json", "error.txt", "progress.csv", "tuner.pkl"} <= found
    leaking = [path for path in files if PLANTED.encode() in content(path)]
    assert leaking == [] and PLANTED not in done.stdout + done.stderr


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
