"""D against a naive list of rows, and from which store an update's rows are drawn."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_nbsp.replay.buffer import ReplayRequest, TaskReplayBuffer, row_nbytes
from rllib_nbsp.replay.stores import RowSpec
from rllib_nbsp.settings import ReplaySettings
from tests.replay.numbered import buffer, numbers, rows, shares, visit

# D


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[tuple[str, int]]]:
    operations = st.tuples(st.sampled_from(["add", "add", "add", "clear", "sample"]), st.integers(0, 30))
    return draw(st.integers(8, 25)), draw(st.lists(operations, max_size=25))


@given(histories())
def test_buffer_holds_what_a_list_would_hold(history):
    capacity, operations = history
    store, oracle, added = buffer(capacity=capacity), [], 0
    for operation, count in operations:
        if operation == "add":
            assert store.add(rows(added, added + count), 4) == count
            oracle = [*oracle, *range(added, added + count)][-capacity:]
            added += count
        elif operation == "clear":
            store.clear()
            oracle = []
        elif oracle:
            drawn = store.sample(range(1, count % 3 + 2), task=4)
            assert set(numbers(drawn)) <= set(oracle)
            assert set(drawn["task"].tolist()) == {4}
            assert not drawn["from_prior"].any()
        assert len(store) == len(oracle)
        assert store.newest(7)["obs"][:, 0].tolist() == oracle[-7:]
        everything = numbers(store.current_rows(4, capacity, np.random.default_rng(0)))
        assert sorted(everything) == oracle


@pytest.mark.parametrize(("added", "left"), [(33, range(13, 33)), (13, range(13))])
def test_every_transition_is_drawn_equally_often(added, left):
    # The ring of 20 has turned over, or is not full yet.
    store = buffer(capacity=20, batch_size=100)
    store.add(rows(0, added), 0)
    counts = Counter(numbers(store.sample(range(1, 401), task=0)))
    assert sorted(counts) == list(left)
    # 40,000 draws of n rows: 40,000 / n each, with standard deviation below sqrt(40,000 / n).
    expected = 40_000 / len(left)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_one_seed_draws_one_sequence_and_another_seed_another():
    draws = []
    for seed in (3, 3, 4):
        store = buffer(seed=seed)
        store.add(rows(0, 50), 0)
        draws.append(numbers(store.sample(range(1, 9), task=0)))
    assert draws[0] == draws[1] != draws[2]


def test_the_visits_rows_are_a_sample_without_replacement():
    store = buffer()
    store.add(rows(0, 60), 0)
    drawn = numbers(store.current_rows(0, 25, np.random.default_rng(0)))
    assert len(set(drawn)) == 25
    assert set(drawn) <= set(range(60))
    assert sorted(numbers(store.current_rows(0, 1000, np.random.default_rng(0)))) == list(range(60))


def test_rows_of_other_tasks_in_a_d_that_is_not_cleared_are_not_the_visits():
    store = buffer(capacity=50)
    for task, start in ((0, 0), (1, 30), (0, 45)):
        store.add(rows(start, start + 15 if start else 30), task)
    # The ring of 50 holds 10 to 59; task 1 has 30 to 44.
    drawn = store.current_rows(1, 1000, np.random.default_rng(0))
    assert sorted(numbers(drawn)) == list(range(30, 45))
    assert set(drawn["task"].tolist()) == {1}
    assert len(set(numbers(store.current_rows(0, 20, np.random.default_rng(0)))) & set(range(30, 45))) == 0
    assert len(store.current_rows(2, 20, np.random.default_rng(0))["rewards"]) == 0


def test_sampling_an_empty_store_says_which_one():
    store = buffer()
    with pytest.raises(ValueError, match=r"from D: it holds no transition"):
        store.sample(range(1, 2), task=0)
    store.add(rows(0, 30), 0)
    with pytest.raises(ValueError, match=r"from D_pre: it holds no transition"):
        store.sample(range(1, 2), task=0, only="prior")


def test_a_million_transitions_of_39_numbers_fit_into_0_36_gigabytes():
    spec = RowSpec((39,), np.dtype(np.float32), (4,), np.dtype(np.float32))
    capacity = 100_000
    tracemalloc.start()
    try:
        store = TaskReplayBuffer(ReplaySettings(capacity=capacity), ReplayRequest(), spec, batch_size=256, seed=0)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(store) == 0
    assert used / capacity <= 360
    assert row_nbytes(spec) <= 360


def test_image_observations_stay_bytes():
    spec = RowSpec((2, 2), np.dtype(np.uint8), (1,), np.dtype(np.float32))
    store = TaskReplayBuffer(ReplaySettings(capacity=10), ReplayRequest(1), spec, batch_size=4, seed=0)
    images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    plain = rows(0, 6)
    store.add({**plain, "obs": images, "new_obs": images, "actions": np.zeros((6, 1), np.float32)}, 0)
    store.store_prior(0)
    for drawn in (store.sample(range(1, 2), 0, "current"), store.sample(range(1, 2), 0, "prior")):
        assert drawn["obs"].dtype == drawn["new_obs"].dtype == np.uint8
        assert all(
            np.array_equal(image, images[int(r)]) for image, r in zip(drawn["obs"], drawn["rewards"], strict=True)
        )


# Eq. 7: which update samples where


def test_every_tenth_batch_and_no_other_is_from_prior_tasks():
    store = buffer(interval=10)
    visit(store, 0, 0, 50)
    store.add(rows(50, 100), 1)
    drawn = store.sample(range(1, 101), task=1)
    from_prior = drawn["from_prior"].reshape(100, 8)
    assert [k + 1 for k in range(100) if from_prior[k].any()] == list(range(10, 101, 10))
    assert from_prior[9::10].all()
    assert all((number < 50) == prior for number, prior in zip(numbers(drawn), drawn["from_prior"], strict=True))
    assert np.array_equal(drawn["task"] == 0, drawn["from_prior"])


def test_the_interval_counts_lifetime_updates_however_they_are_called():
    whole, parts = buffer(interval=3), buffer(interval=3)
    for store in (whole, parts):
        visit(store, 0, 0, 50)
        store.add(rows(50, 90), 1)
    at_once = whole.sample(range(5, 15), task=1)
    calls = [parts.sample(part, task=1) for part in (range(5, 6), range(6, 10), range(10, 15))]
    for name, column in at_once.items():
        assert np.array_equal(column, np.concatenate([call[name] for call in calls])), name
    assert [k for k in range(5, 15) if whole.draws_prior(k, 1)] == [6, 9, 12]


def test_the_first_visit_has_no_prior_batch():
    store = buffer(interval=1)
    store.add(rows(0, 30), 0)
    assert not store.sample(range(1, 30), task=0)["from_prior"].any()
    assert not store.draws_prior(1, 0)


def test_a_method_that_asks_for_no_prior_data_has_none_stored_or_drawn():
    store = buffer(interval=None)
    visit(store, 0, 0, 50)
    store.add(rows(50, 90), 1)
    assert store.prior_size == 0
    assert not store.sample(range(1, 30), task=1)["from_prior"].any()


def test_prior_batches_are_drawn_from_all_earlier_tasks_by_their_shares():
    store = buffer(interval=1, batch_size=100)
    visit(store, 0, 0, 100)
    visit(store, 1, 100, 110)
    store.add(rows(200, 250), 0)
    drawn = store.sample(range(1, 101), task=0)
    # 20 of task 0 (half of 40) and 10 of task 1: of 10,000 draws a third, standard deviation 47.
    assert shares(store) == {0: 20, 1: 10}
    assert drawn["from_prior"].all()
    assert abs(int((drawn["task"] == 1).sum()) - 3333) < 5 * 47
    numbers(drawn)


def test_only_overrules_the_interval():
    store = buffer(interval=2)
    visit(store, 0, 0, 50)
    store.add(rows(50, 90), 1)
    assert store.sample(range(1, 6), task=1, only="prior")["from_prior"].all()
    assert not store.sample(range(1, 6), task=1, only="current")["from_prior"].any()


def test_capacity_0_draws_the_batches_of_a_run_without_prior_data():
    plain, other = buffer(interval=None), buffer(prior_capacity=0)
    for store in (plain, other):
        visit(store, 0, 0, 70)
        store.add(rows(70, 130), 1)
    expected, drawn = plain.sample(range(1, 61), task=1), other.sample(range(1, 61), task=1)
    for name, column in expected.items():
        assert np.array_equal(column, drawn[name]), name


def test_batches_of_d_are_the_same_sequence_whatever_is_drawn_from_d_pre():
    plain, replaying = buffer(interval=None), buffer(interval=4)
    for store in (plain, replaying):
        visit(store, 0, 0, 70)
        store.add(rows(70, 130), 1)
    drawn = replaying.sample(range(1, 41), task=1)
    own = [number for number, prior in zip(numbers(drawn), drawn["from_prior"], strict=True) if not prior]
    assert own == numbers(plain.sample(range(1, 31), task=1))


def test_exclude_current_leaves_the_trained_task_out():
    store = buffer(interval=1, exclude_current=True)
    visit(store, 0, 0, 50)
    store.add(rows(50, 90), 0)
    assert not store.draws_prior(1, task=0)
    assert not store.sample(range(1, 20), task=0)["from_prior"].any()
    with pytest.raises(ValueError, match="D_pre"):
        store.sample(range(1, 2), task=0, only="prior")
    store.store_prior(1)
    drawn = store.sample(range(1, 50), task=1)
    assert set(drawn["task"].tolist()) == {0}
    assert set(numbers(drawn)) <= set(range(50))


def test_mix_takes_a_share_of_every_batch():
    store = buffer(interval=4, batch_size=16, mode="mix")
    visit(store, 0, 0, 50)
    store.add(rows(50, 90), 1)
    drawn = store.sample(range(1, 31), task=1)
    assert drawn["from_prior"].reshape(30, 16).sum(1).tolist() == [4] * 30
    assert all((number < 50) == prior for number, prior in zip(numbers(drawn), drawn["from_prior"], strict=True))


def test_mix_changes_nothing_without_prior_data():
    store = buffer(interval=4, batch_size=16, mode="mix")
    store.add(rows(0, 50), 0)
    assert not store.sample(range(1, 5), task=0)["from_prior"].any()
    unasked = buffer(interval=None, batch_size=16, mode="mix")
    unasked.add(rows(0, 50), 0)
    assert not unasked.sample(range(1, 5), task=0)["from_prior"].any()


def test_only_prior_gives_whole_batches_also_with_mix():
    store = buffer(interval=4, batch_size=16, mode="mix")
    visit(store, 0, 0, 50)
    assert store.sample(range(1, 5), task=1, only="prior")["from_prior"].all()


# Rows beside a batch, and the order of a call's rows


def test_rows_beside_a_batch_stand_at_its_end():
    store = buffer(interval=None, beside=3)
    visit(store, 0, 0, 50)
    store.add(rows(50, 90), 1)
    drawn = store.sample(range(1, 5), task=1)
    from_prior = drawn["from_prior"].reshape(4, 11)
    assert not from_prior[:, :8].any()
    assert from_prior[:, 8:].all()
    assert all((number < 50) == prior for number, prior in zip(numbers(drawn), drawn["from_prior"], strict=True))


def test_there_are_no_rows_beside_a_batch_before_there_is_prior_data():
    store = buffer(interval=None, beside=3)
    store.add(rows(0, 50), 0)
    assert len(store.sample(range(1, 5), task=0)["rewards"]) == 4 * 8


@pytest.mark.parametrize("settings", [{}, {"beside": 4}, {"mode": "mix", "interval": 4}])
def test_one_and_two_learners_see_the_same_rows_in_every_update(settings):
    drawn = {}
    for shards in (1, 2, 4):
        store = buffer(num_shards=shards, **settings)
        visit(store, 0, 0, 50)
        store.add(rows(50, 90), 1)
        columns = store.sample(range(1, 22), task=1)
        per_update = len(columns["rewards"]) // 21
        # [rank][update][row]: what RLlib hands to a rank is one contiguous part, cut into its updates.
        table = columns["rewards"].reshape(shards, 21, per_update // shards)
        drawn[shards] = [sorted(table[:, k].ravel().tolist()) for k in range(21)]
        numbers(columns)
    assert drawn[1] == drawn[2] == drawn[4]


def test_every_learner_has_its_rows_beside_its_own_shard():
    store = buffer(interval=None, beside=4, num_shards=2)
    visit(store, 0, 0, 50)
    store.add(rows(50, 90), 1)
    table = store.sample(range(1, 4), task=1)["from_prior"].reshape(2, 3, 6)
    assert not table[:, :, :4].any()
    assert table[:, :, 4:].all()
