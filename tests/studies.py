"""Tiny studies on the point mass that several tests run or refuse to run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from rllib_nbsp.records import resolved_yaml
from rllib_nbsp.settings import RunSettings, config_hash
from rllib_nbsp.study.reader import load_study
from rllib_nbsp.study.study import CheckedStudy

TIMEOUT_S = 240
TINY: dict[str, Any] = {
    "experiment": "tiny",
    "suite": "point_mass",
    "sequences": {"left_right": ["reach-left", "reach-right"]},
    "cycles": 2,
    "seeds": [0],
    "arms": {"sac": {"method": "sac"}, "nbsp": {"method": "nbsp", "score_env_steps": 200}},
    "replay": {"capacity": 2000, "prior_capacity": 200},
    "visit": {"max_env_steps": 400, "warmup_env_steps": 100, "early_stop": None},
    "training": {"updates_per_env_step": 0.1, "batch_size": 16},
    "model": {"hidden": [8, 8]},
    "evaluation": {"boundary_episodes": 2, "periodic_episodes": 0, "report_env_steps": 100},
}


def write_config(folder: Path, **changes: Any) -> Path:
    """The study's file, with some top-level keys changed."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | changes, sort_keys=False), encoding="utf-8")
    return path


def tiny_study(folder: Path, *overrides: str, **selections: Any) -> CheckedStudy:
    """The loaded study."""
    return load_study(write_config(folder), overrides, **selections)


def leave(run: RunSettings, *, done: bool) -> None:
    """What a trial leaves behind."""
    assert run.results_dir is not None
    path = Path(run.results_dir)
    path.mkdir(parents=True)
    (path / "evaluations.jsonl").write_text("{}\n")
    (path / "config.yaml").write_text(resolved_yaml(run))
    (path / "status.json").write_text(json.dumps({"done": done, "config_hash": config_hash(run)}))


def command(*arguments: str | Path) -> list[str]:
    """The command line that runs a study."""
    return [sys.executable, "run_tune.py", *map(str, arguments)]


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=TIMEOUT_S)
