"""Ray's object store is smaller than what is put there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from tests.algorithm.conftest import rows_of
from tests.faults.conftest import Figures
from tests.resume import runs

STORE, OBJECT = 80 * 2**20, 8 * 2**20
"""Bytes: the least that Ray takes, and of what somebody else puts there."""
KEPT = 2 * STORE // OBJECT


@contextlib.contextmanager
def full_store(spilled: Path) -> Iterator[None]:
    """A Ray whose object store is full of somebody else's objects.

    Args:
        spilled: folder to which it spills.
    """
    spilled.mkdir()
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
        object_store_memory=STORE, object_spilling_directory=str(spilled),
    )  # fmt: skip
    over = threading.Event()

    def fill() -> None:
        kept: list[ray.ObjectRef] = []
        while not over.wait(0.05):
            kept = [*kept[-KEPT:], ray.put(np.zeros(OBJECT, np.uint8))]

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        ray.shutdown()


def run(folder: Path) -> tuple[dict[str, bytes], list[dict[str, object]]]:
    """Frames go from a rollout worker to a Learner, all of them through the store; its weights and its evaluations."""
    config = runs.game(folder, "nbsp").training(batch_size=64)
    config.env_runners(num_env_runners=1, num_cpus_per_env_runner=0.5)
    algo = config.learners(num_learners=1, num_cpus_per_learner=0.5).build_algo()
    try:
        while not algo.train()["done"]:
            pass
        weights = {name: array.tobytes() for name, array in algo.learners.first("weights").items()}
    finally:
        algo.stop()
    return weights, [{**row, "wall_s": 0} for row in rows_of(folder, "evaluations.jsonl")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_store_that_is_too_small_costs_time_and_changes_nothing(figures: Figures, tmp_path: Path) -> None:
    ray.shutdown()  # the other tests' session: the next one that needs it starts another
    with full_store(tmp_path / "spilled"):
        crowded = run(tmp_path / "crowded")
        assert any(file.is_file() for file in (tmp_path / "spilled").rglob("*"))
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    assert crowded == run(tmp_path / "alone")
    figures(doubled_env_steps=0)
