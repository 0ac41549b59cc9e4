"""D_pre: what is kept of which task."""

from __future__ import annotations

import numpy as np

from tests.replay.numbered import buffer, numbers, rows, shares, visit


def test_shares_of_four_tasks_over_two_cycles():
    # Capacity 1e5: 1e5; 5e4 each; 33,333 each; 25,000 each, also in the second cycle.
    store = buffer(capacity=120_000, prior_capacity=100_000)
    seen = []
    for number in range(8):
        visit(store, number % 4, number * 120_000, (number + 1) * 120_000)
        seen.append(shares(store))
    assert seen[0] == {0: 100_000}
    assert seen[1] == dict.fromkeys(range(2), 50_000)
    assert seen[2] == dict.fromkeys(range(3), 33_333)
    assert seen[3:] == [dict.fromkeys(range(4), 25_000)] * 5


def test_a_tasks_share_is_a_uniform_sample_without_replacement_and_shrinks_uniformly():
    kept = np.zeros(100)
    for seed in range(800):
        store = buffer(seed=seed, prior_capacity=40)
        visit(store, 0, 0, 100)
        first = numbers(store.prior)
        assert len(set(first)) == 40
        visit(store, 1, 200, 300)
        second = [number for number in numbers(store.prior) if number < 100]
        assert len(set(second)) == 20
        assert set(second) <= set(first)
        kept[second] += 1
    # Each of 100 rows is kept with probability 0.2: 160 times, standard deviation sqrt(800 * 0.2 * 0.8) = 11.3.
    assert np.abs(kept - 160).max() < 5 * 11.3


def test_a_revisit_replaces_its_tasks_share_and_leaves_the_others_alone():
    store = buffer()
    visit(store, 0, 0, 100)
    visit(store, 1, 100, 200)
    others = sorted(number for number in numbers(store.prior) if number >= 100)
    visit(store, 0, 200, 300)
    after = numbers(store.prior)
    assert sorted(number for number in after if number < 200) == others
    assert len([number for number in after if number >= 200]) == 20
    assert shares(store) == {0: 20, 1: 20}


def test_a_visit_with_few_transitions_files_what_there_is():
    store = buffer()
    visit(store, 0, 0, 7)
    assert sorted(numbers(store.prior)) == list(range(7))
    visit(store, 1, 100, 200)
    assert shares(store) == {0: 7, 1: 20}


def test_d_pre_holds_copies():
    store = buffer(capacity=50)
    store.add(rows(0, 50), 0)
    store.store_prior(0)
    before = numbers(store.prior)
    store.add(rows(50, 100), 0)
    assert numbers(store.prior) == before
    store.clear()
    assert store.prior_size == 40


def test_per_task_keeps_the_whole_capacity_for_each_task():
    store = buffer(split="per_task")
    visit(store, 0, 0, 100)
    visit(store, 1, 100, 200)
    assert shares(store) == {0: 40, 1: 40}
    old = {number for number in numbers(store.prior) if number < 100}
    visit(store, 1, 200, 300)
    assert shares(store) == {0: 40, 1: 40}
    assert {number for number in numbers(store.prior) if number < 100} == old
    assert not any(100 <= number < 200 for number in numbers(store.prior))


def test_a_reservoir_is_a_uniform_sample_of_everything_ever_seen():
    # Visits of 30, 5, 45 and 20 transitions: in the end each of the 100 is among the 8 kept with probability 0.08,
    # 120 times in 1500 runs, standard deviation sqrt(1500 * 0.08 * 0.92) = 10.5.
    kept = np.zeros(100)
    for seed in range(1500):
        store = buffer(seed=seed, split="reservoir", prior_capacity=8)
        for task, start, stop in ((0, 0, 30), (1, 30, 35), (0, 35, 80), (2, 80, 100)):
            visit(store, task, start, stop)
        final = numbers(store.prior)
        assert len(set(final)) == 8
        kept[final] += 1
        expected = np.digitize(final, [30, 35, 80])
        assert store.prior["task"].tolist() == np.array([0, 1, 0, 2])[expected].tolist()
    assert np.abs(kept - 120).max() < 5 * 10.5


def test_a_reservoir_counts_visits_of_which_it_drew_nothing():
    # 40 transitions, then 20 visits of 3; 2 are kept. In 500 runs the last 30 transitions are kept 300 times, standard
    # deviation about sqrt(1000 * 0.3 * 0.7) = 14.5.
    late = 0
    for seed in range(500):
        store = buffer(seed=seed, split="reservoir", prior_capacity=2)
        visit(store, 0, 0, 40)
        for start in range(40, 100, 3):
            visit(store, 1, start, start + 3)
        late += sum(number >= 70 for number in numbers(store.prior))
    assert abs(late - 300) < 5 * 14.5


def test_a_reservoir_that_is_not_full_keeps_everything():
    store = buffer(split="reservoir", prior_capacity=100)
    visit(store, 0, 0, 30)
    visit(store, 1, 30, 60)
    assert sorted(numbers(store.prior)) == list(range(60))


def test_pick_last_takes_the_newest_transitions():
    store = buffer(capacity=50, pick="last")
    visit(store, 0, 0, 70)
    assert sorted(numbers(store.prior)) == list(range(30, 70))
    visit(store, 1, 100, 133)
    assert sorted(n for n in numbers(store.prior) if n >= 100) == list(range(113, 133))


def test_pick_success_takes_whole_successful_episodes_alone():
    # Episodes of five: 2 and 4 succeed; the flag comes with the episode's end, after its first rows.
    store = buffer(pick="success")
    store.add(rows(0, 12), 0)
    store.add(rows(12, 30), 0, successful_episodes=[2, 4])
    store.store_prior(0)
    assert sorted(numbers(store.prior)) == [*range(10, 15), *range(20, 25)]


def test_pick_success_without_a_success_leaves_the_store_as_it_is():
    store = buffer(pick="success")
    store.add(rows(0, 30), 0, successful_episodes=[1])
    store.store_prior(0)
    store.clear()
    visit(store, 1, 30, 60)
    assert sorted(numbers(store.prior)) == list(range(5, 10))
    assert shares(store) == {0: 5}


def test_clearing_forgets_which_episodes_succeeded():
    store = buffer(pick="success")
    store.add(rows(0, 10), 0, successful_episodes=[0, 1])
    store.clear()
    visit(store, 0, 0, 10)
    assert store.prior_size == 0


def test_a_share_of_0_takes_nothing():
    store = buffer(prior_capacity=1, pick="last")
    visit(store, 0, 0, 30)
    visit(store, 1, 30, 60)
    assert not any(number >= 30 for number in numbers(store.prior))


def test_an_empty_visit_changes_nothing():
    store = buffer()
    visit(store, 0, 0, 50)
    before = numbers(store.prior)
    visit(store, 1, 0, 0)
    assert numbers(store.prior) == before


def test_a_buffer_that_is_not_cleared_still_knows_whose_its_rows_are():
    # 30 rows of task 0 stay in D when task 1 adds 10: batches label both, and task 1 files its own rows alone.
    store = buffer(interval=None)
    store.add(rows(0, 30), 0)
    store.add(rows(30, 40), 1)
    drawn = store.sample(range(1, 51), task=1)
    assert {(number < 30, task) for number, task in zip(numbers(drawn), drawn["task"], strict=True)} == {
        (True, 0),
        (False, 1),
    }
    filing = buffer()
    filing.add(rows(0, 30), 0)
    filing.add(rows(30, 40), 1)
    filing.store_prior(1)
    assert sorted(numbers(filing.prior)) == list(range(30, 40))
