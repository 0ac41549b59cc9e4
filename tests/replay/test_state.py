"""What the stores hold, and draw next, goes through a bundle to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_nbsp.replay import stores
from rllib_nbsp.replay.buffer import ReplayRequest, TaskReplayBuffer
from rllib_nbsp.settings import ReplaySettings
from rllib_nbsp.state import bundle
from rllib_nbsp.state.bundle import BundleWriter, read_bundle
from tests.replay.numbered import buffer, rows
from tests.replay.test_stores import SPEC, Games


def game_buffer(seed: int) -> TaskReplayBuffer:
    settings = ReplaySettings(capacity=100, prior_capacity=40)
    return TaskReplayBuffer(settings, ReplayRequest(2), SPEC, batch_size=16, seed=seed)


def through_a_bundle(source: TaskReplayBuffer, target: TaskReplayBuffer, root: Path, step: int = 1) -> None:
    path = BundleWriter(root).write(step, {}, {"replay": source.get_state()}, source.series())
    read = read_bundle(path)
    target.set_state(read.parts["replay"], read.series)


def draws(store: TaskReplayBuffer, task: int) -> list[dict[str, np.ndarray]]:
    """Batches of D, and of D_pre where it has any."""
    return [store.sample(range(1, 21), task)] if len(store) else []


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


@pytest.mark.parametrize("pick", ["last", "uniform", "success"])
@pytest.mark.parametrize("split", ["equal", "per_task", "reservoir"])
@given(sizes=st.lists(st.integers(0, 160), min_size=1, max_size=4), clear=st.booleans(), rest=st.integers(1, 30))
def test_numbered_rows(split, pick, sizes, clear, rest, tmp_path_factory):
    keys = {"interval": 2, "split": split, "pick": pick}
    first, second = buffer(**keys), buffer(**keys, seed=9)
    start = 0
    for task, size in enumerate(sizes):
        first.add(rows(start, start + size), task, [start // 5, start // 5 + 1])
        start += size
        if task < len(sizes) - 1:
            first.store_prior(task)
            if clear:
                first.clear()
    through_a_bundle(first, second, tmp_path_factory.mktemp("state"))
    assert second.prior.keys() == first.prior.keys() and same([first.prior], [second.prior])
    for _ in range(2):
        task = len(sizes) - 1
        assert same(draws(first, task), draws(second, task))
        for store in (first, second):
            store.add(rows(start, start + rest), task, [start // 5])
            store.store_prior(task)
    assert same([first.prior], [second.prior])


@given(
    seed=st.integers(0, 2**16),
    counts=st.lists(st.integers(1, 120), min_size=1, max_size=3),
    clear=st.booleans(),
    reach=st.sampled_from([8, 1024]),
)
def test_stacks_of_frames(seed, counts, clear, reach, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "FRAME_REACH", reach)
        patch.setattr(bundle, "SEGMENT_ROWS", 16)
        first, second = game_buffer(seed=0), game_buffer(seed=9)
        games = Games(3, np.random.default_rng(seed), 0.05)
        for task, count in enumerate(counts):
            for _ in range(count):
                first.add(games.step([0, 1, 2]), task)
            if task < len(counts) - 1:
                first.store_prior(task)
                if clear:
                    first.clear()
        through_a_bundle(first, second, tmp_path_factory.mktemp("state"))
        task = len(counts) - 1
        for _ in range(3):
            assert same(draws(first, task), draws(second, task))
            for _ in range(20):
                columns = games.step([0, 1, 2])
                for store in (first, second):
                    store.add(columns, task)
        assert len(first) == len(second) and first.nbytes == second.nbytes


def test_what_d_pre_holds_is_written_once_a_boundary(tmp_path):
    store = buffer()
    store.add(rows(0, 100), 0)
    store.store_prior(0)
    writer = BundleWriter(tmp_path)
    writer.write(1, {}, {}, store.series())
    before = {file: file.stat().st_ino for file in (tmp_path / "segments").iterdir()}
    store.add(rows(100, 110), 1)
    writer.write(2, {}, {}, store.series())
    after = {file: file.stat().st_ino for file in (tmp_path / "segments").iterdir()}
    assert len(after.items() - before.items()) == 1
