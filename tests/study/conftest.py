"""A small study from text or keys, and what is said of it when it is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rllib_nbsp.settings import ConfigError
from rllib_nbsp.study.reader import load_study
from rllib_nbsp.study.study import CheckedStudy

STUDY: dict[str, Any] = {
    "experiment": "pair",
    "suite": "point_mass",
    "sequences": {"left_right": ["reach-left", "reach-right"]},
    "cycles": 2,
    "seeds": [0, 1],
    "arms": {"sac": {"method": "sac"}, "nbsp": {"method": "nbsp", "skill_frac": 0.2}},
    "replay": {"capacity": 1000},
    "visit": {"max_env_steps": 500, "warmup_env_steps": 100, "early_stop": None},
    "model": {"hidden": [8, 8]},
}

Load = Callable[..., CheckedStudy]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a study from text, or from `STUDY` with some keys changed."""

    def load(content: str | dict[str, Any], *overrides: str, **selections: Any) -> CheckedStudy:
        path = tmp_path / "study.yaml"
        text = content if isinstance(content, str) else yaml.safe_dump(STUDY | content, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return load_study(path, overrides, **selections)

    return load


def problems_of(load: Load, content: str | dict[str, Any], *overrides: str, **selections: Any) -> list[str]:
    """What is said of a study that cannot be loaded, without the folder it lies in."""
    with pytest.raises(ConfigError) as caught:
        load(content, *overrides, **selections)
    return [re.sub(r"^\S*/(?=study\.yaml)", "", problem) for problem in caught.value.problems]
