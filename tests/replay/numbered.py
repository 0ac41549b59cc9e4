"""A buffer of numbered rows. A row's every column tells its number, so that nothing can be mixed up."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from rllib_nbsp.replay.buffer import ReplayRequest, TaskReplayBuffer
from rllib_nbsp.replay.stores import Columns, RowSpec
from rllib_nbsp.settings import ReplaySettings

NUMBERED = RowSpec((1,), np.dtype(np.float64), (2,), np.dtype(np.float64))
EPISODE_LENGTH = 5


def buffer(
    *,
    interval: int | None = 10,
    beside: int = 0,
    batch_size: int = 8,
    num_shards: int = 1,
    seed: int = 0,
    **settings: Any,
) -> TaskReplayBuffer:
    """A buffer for numbered rows: D of 100 and D_pre of 40, batches of 8."""
    return TaskReplayBuffer(
        ReplaySettings(**{"capacity": 100, "prior_capacity": 40, **settings}),
        ReplayRequest(interval, beside),
        NUMBERED,
        batch_size=batch_size,
        num_shards=num_shards,
        seed=seed,
    )


def rows(start: int, stop: int) -> Columns:
    """Transitions number `start` to `stop` - 1, in episodes of five."""
    number = np.arange(start, stop, dtype=np.float64)
    return {
        "obs": number[:, None],
        "actions": np.stack([number, -number], 1),
        "rewards": number,
        "new_obs": number[:, None] + 0.5,
        "terminateds": number % 3 == 0,
        "episode": np.arange(start, stop) // EPISODE_LENGTH,
    }


def numbers(columns: Columns) -> list[int]:
    """The numbers of rows, after a check that all columns of a row agree."""
    number = columns["rewards"].astype(np.int64)
    assert np.array_equal(columns["obs"][:, 0], number)
    assert np.array_equal(columns["actions"], np.stack([number, -number], 1))
    assert np.array_equal(columns["new_obs"][:, 0], number + 0.5)
    assert np.array_equal(columns["terminateds"], number % 3 == 0)
    return number.tolist()


def visit(store: TaskReplayBuffer, task: int, start: int, stop: int) -> None:
    """A visit's transitions, then its end."""
    store.add(rows(start, stop), task)
    store.store_prior(task)
    store.clear()


def shares(store: TaskReplayBuffer) -> dict[int, int]:
    """How many rows D_pre has of each task."""
    return dict(Counter(store.prior["task"].tolist()))
