"""The parts of our own update and memory that are measured are the real ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.ours import BareUpdate, measure_replay
from rllib_nbsp.learners import rllib_batch
from tests.benchmarks.batches import ROWS, learner_columns, make_learner


def test_the_bare_update_is_the_learners_to_the_last_bit() -> None:
    full, bare = make_learner(), make_learner()
    update = BareUpdate(bare)
    for _ in range(3):
        columns = learner_columns()
        full.update(batch=rllib_batch(columns), minibatch_size=ROWS)
        update({name: torch.from_numpy(column) for name, column in columns.items()})
    assert full.weights().keys() == bare.weights().keys()
    for name, weight in full.weights().items():
        assert np.array_equal(weight, bare.weights()[name]), name


def test_replay_memory_is_that_of_its_columns() -> None:
    # Two observations of 39, an action of 4, a reward in float32, a flag, the episode's 64-bit number: 341 bytes.
    assert measure_replay(1_000, calls=3)["bytes"] == pytest.approx(341 * 1_000, rel=0.05)
