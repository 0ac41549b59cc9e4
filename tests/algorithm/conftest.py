"""Whole runs on a real, local Ray, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rllib_nbsp import ContinualSAC, ContinualSACConfig
from tests.tiny import TASKS

PAIR = list(TASKS)


@pytest.fixture(autouse=True)
def on_ray(ray_session: None) -> None:
    """All of these tests need it."""


def finish(config: ContinualSACConfig) -> tuple[ContinualSAC, list[dict[str, Any]]]:
    """Run to the end; the algorithm is stopped but can still be looked at."""
    algo = config.build_algo()
    results = []
    while not results or not results[-1]["done"]:
        results.append(algo.train())
        assert len(results) < 500, "the run does not end"
    algo.stop()
    return algo, results


def weights(algo: ContinualSAC) -> dict[str, np.ndarray]:
    """The Learner's weights by name."""
    return algo.learner_group._learner.weights()


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether two runs came to the same weights, to the last bit."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a run's file."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]
