"""Frames stored once against a naive list of stacks."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_nbsp.replay import stores
from rllib_nbsp.replay.buffer import SEGMENT_ROWS, ReplayRequest, TaskReplayBuffer, row_nbytes
from rllib_nbsp.replay.stacks import PAIRS, StackedFrames, with_observations
from rllib_nbsp.replay.stores import ArrayRing, Columns, FrameRing, RowSpec
from rllib_nbsp.settings import ReplaySettings

STACK = 4
SPEC = RowSpec((STACK, 2, 2), np.dtype(np.uint8), (), np.dtype(np.int64))


class Games:
    """Environments that stack four frames, each frame a number that no other has; episodes end where `rng` says."""

    def __init__(self, envs: int, rng: np.random.Generator, end_prob: float) -> None:
        self.rng, self.end_prob = rng, end_prob
        self.frame = self.episode = self.rows = 0
        self.stacks = [self._first() for _ in range(envs)]
        self.episodes = [self._new_episode() for _ in range(envs)]

    def _frame(self) -> np.ndarray:
        self.frame += 1
        return np.array([[self.frame >> 8, self.frame & 255], [7, 7]], np.uint8)

    def _first(self) -> np.ndarray:
        return np.repeat(self._frame()[None], STACK, 0)

    def _new_episode(self) -> int:
        self.episode += 1
        return self.episode

    def step(self, envs: list[int]) -> Columns:
        """A transition of each of these environments."""
        rows: dict[str, list[Any]] = {name: [] for name in (*stores.BATCH_COLUMNS, "episode")}
        for e in envs:
            new = np.concatenate([self.stacks[e][1:], self._frame()[None]])
            over = self.rng.random() < self.end_prob
            self.rows += 1
            values = (self.stacks[e], self.rows, self.rows, new, over, self.episodes[e])
            for name, value in zip(
                ("obs", "actions", "rewards", "new_obs", "terminateds", "episode"), values, strict=True
            ):
                rows[name].append(value)
            self.stacks[e] = self._first() if over else new
            self.episodes[e] = self._new_episode() if over else self.episodes[e]
        dtypes = {"actions": np.int64, "rewards": np.float32, "terminateds": bool, "episode": np.int64}
        return {name: np.array(values, dtypes.get(name, np.uint8)) for name, values in rows.items()}


def all_rows(ring: FrameRing | ArrayRing) -> Columns:
    """Oldest first."""
    out = ring.batch(ring.size)
    ring.gather(ring.places(np.arange(ring.size)), out, slice(None))
    return with_observations(out)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    envs=st.integers(1, 5),
    capacity=st.integers(1, 60),
    reach=st.sampled_from([8, 30, 1024]),
    end_prob=st.sampled_from([0.0, 0.05, 0.5]),
)
def test_frames_are_those_of_a_list_of_stacks(seed: int, envs: int, capacity: int, reach: int, end_prob: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "FRAME_REACH", reach)
        rng = np.random.default_rng(seed)
        games, ring = Games(envs, rng, end_prob), FrameRing(SPEC, capacity)
        expected: list[Columns] = []
        for _ in range(120):
            # Some environments lag behind, as remote workers do, and some replies are lost.
            columns = games.step(sorted(rng.choice(envs, size=rng.integers(1, envs + 1), replace=False).tolist()))
            if rng.random() < 0.1:
                continue
            ring.add(columns)
            expected += [{name: column[i] for name, column in columns.items()} for i in range(len(columns["rewards"]))]
            assert ring.size <= min(capacity, len(expected))
            assert ring.size > 0
            if end_prob < 0.1 and reach == 1024:  # frames of short episodes may need the places of old rows
                assert ring.size == min(capacity, len(expected))
            kept, rows = expected[-ring.size :], all_rows(ring)
            for name in stores.BATCH_COLUMNS:
                assert np.array_equal(rows[name], np.stack([row[name] for row in kept])), name
            if rng.random() < 0.02:
                ring.clear()
                expected = []
                assert ring.size == 0
                continue


def test_an_episode_costs_one_frame_more_than_it_has_rows():
    games, ring = Games(3, np.random.default_rng(0), 0.05), FrameRing(SPEC, 500)
    for _ in range(100):
        ring.add(games.step([0, 1, 2]))
    assert ring._stored == 300 + games.episode - sum(np.array_equal(s[0], s[-1]) for s in games.stacks)


def test_images_that_are_no_stack_are_refused():
    games, ring = Games(1, np.random.default_rng(0), 0.0), FrameRing(SPEC, 10)
    columns = games.step([0])
    with pytest.raises(ValueError, match="moves on by one frame a step"):
        ring.add({**columns, "new_obs": columns["new_obs"][:, ::-1]})


def test_observations_of_a_batch_are_views_of_one_gather():
    games, ring = Games(2, np.random.default_rng(0), 0.1), FrameRing(SPEC, 50)
    ring.add(games.step([0, 1]))
    batch = ring.batch(4)
    ring.gather(np.array([0, 1, 1, 0]), batch, slice(0, 4))
    assert "obs" not in batch
    seen = with_observations(batch)
    assert seen["obs"].base is seen["new_obs"].base is batch[PAIRS]
    assert np.array_equal(seen["obs"][:, 1:], seen["new_obs"][:, :-1])
    assert with_observations(seen).keys() == seen.keys() == {*batch, "obs", "new_obs"} - {PAIRS}


# D_pre of frames


def test_a_rollout_keeps_every_frame_once():
    games = Games(3, np.random.default_rng(0), 0.1)
    stacks, expected = StackedFrames(SPEC.obs_shape), []
    for _ in range(60):
        obs = games.step([0, 1, 2])["obs"]
        stacks.append(obs)
        expected.append(obs)
    sealed = pickle.loads(pickle.dumps(stacks.sealed()))
    assert len(sealed) == 180
    assert np.array_equal(np.asarray(sealed), np.concatenate(expected))
    assert len(sealed._frames) <= games.frame
    some = np.array([3, 100, 7, 7])
    assert np.array_equal(np.asarray(sealed.take(some)), np.concatenate(expected)[some])
    assert len(sealed.take(some)._frames) <= 12


def buffer(prior_capacity: int, rows: int, envs: int = 3, **keys: Any) -> tuple[TaskReplayBuffer, Games]:
    settings = ReplaySettings(capacity=20_000, prior_capacity=prior_capacity, **keys)
    store = TaskReplayBuffer(settings, ReplayRequest(10), SPEC, batch_size=64, seed=0)
    games = Games(envs, np.random.default_rng(1), 0.01)
    fill(store, games, 0, rows)
    return store, games


def fill(store: TaskReplayBuffer, games: Games, task: int, rows: int) -> None:
    for _ in range(rows // len(games.stacks)):
        store.add(games.step(list(range(len(games.stacks)))), task)
    store.store_prior(task)
    store.clear()


def test_segments_are_stretches_of_episodes_with_their_stacks():
    store, games = buffer(prior_capacity=10_000, rows=9_000)
    numbers = store.prior["rewards"].astype(int)
    assert len(numbers) == 9_000  # all of D, which is smaller than the share
    assert len(set(numbers)) == 9_000
    # Frames: one a row, and a stack at each segment's and each episode's start.
    segments, episodes = -(-9_000 // SEGMENT_ROWS), games.episode
    assert store._prior.frames.shape[0] <= 9_000 + (segments + episodes) * STACK  # type: ignore[attr-defined]


def test_shares_are_whole_segments_and_shrink_by_whole_segments():
    store, games = buffer(prior_capacity=10_000, rows=15_000)
    assert store.prior_size == 10_000
    first = set(store.prior["rewards"].astype(int))
    segment_of = dict(zip(store.prior["rewards"].astype(int), store._prior_segment.tolist(), strict=True))
    fill(store, games, 1, 15_000)
    prior = store.prior
    assert np.bincount(prior["task"]).tolist() == [5_000, 5_000]
    kept = prior["rewards"][prior["task"] == 0].astype(int)
    assert set(kept) <= first
    whole = {segment_of[number] for number in kept}
    assert len(kept) == sum(segment_of[number] in whole for number in first)
    fill(store, games, 0, 15_000)  # a revisit replaces its task's share
    assert np.bincount(store.prior["task"]).tolist() == [5_000, 5_000]
    assert not set(store.prior["rewards"][store.prior["task"] == 0].astype(int)) & first


def test_rows_of_the_prior_store_are_the_ones_that_were_stored():
    store, games = buffer(prior_capacity=2_000, rows=6_000)
    rows: dict[float, Columns] = {}
    for _ in range(2_000):
        columns = games.step([0, 1, 2])
        store.add(columns, 1)
        for i, number in enumerate(columns["rewards"].tolist()):
            rows[number] = {name: column[i] for name, column in columns.items()}
    store.store_prior(1)
    drawn = with_observations(store.sample(range(10, 11), task=1))
    assert drawn["from_prior"].all()
    assert drawn["obs"].shape == (64, STACK, 2, 2)
    for row in np.flatnonzero(drawn["task"] == 1):
        for name in stores.BATCH_COLUMNS:
            assert np.array_equal(drawn[name][row], rows[float(drawn["rewards"][row])][name])
    assert {0, 1} == set(drawn["task"].tolist())


def test_the_newest_rows_go_to_the_prior_store():
    store, _ = buffer(prior_capacity=600, rows=3_000, pick="last")
    assert sorted(store.prior["rewards"].astype(int)) == list(range(2_401, 3_001))


def test_a_small_prior_store_has_small_segments():
    store, _ = buffer(prior_capacity=100, rows=3_000)
    assert store.prior_size == 100
    assert len(set(store._prior_segment)) == 20


def test_two_hundred_thousand_transitions_of_atari_fit_into_1_6_gigabytes():
    spec = RowSpec((4, 84, 84), np.dtype(np.uint8), (), np.dtype(np.int64))
    assert 200_000 * row_nbytes(spec) <= 1.6e9
    ring = FrameRing(spec, 2_000)  # of the same bytes a row, but for a constant
    assert ring.nbytes - 2 * stores.FRAME_REACH * 84 * 84 <= 2_000 * spec.nbytes
