"""The null of a neuron's agreement with the goal: by hand, by a plain loop, and its errors on slow series."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rllib_nbsp.nn.neurons import LayerStatistics, goal_labels, layer_statistics
from rllib_nbsp.nn.significance import TURNS, turned_labels


def scored(table: np.ndarray, labels: np.ndarray, turned: np.ndarray | None, parts: int = 1) -> LayerStatistics:
    """Statistics of a rollout that is handed over in parts."""
    pieces = [torch.from_numpy(np.ascontiguousarray(p)).float() for p in np.array_split(table, parts)]
    cut = [torch.from_numpy(p) for p in np.array_split(labels, parts)]
    null = None if turned is None else [torch.from_numpy(p) for p in np.array_split(turned, parts)]
    return layer_statistics(lambda: ([piece] for piece in pieces), cut, turned=null)[0]


ENVS = 4
ENV = np.arange(2000) % ENVS


def slow(rng: np.random.Generator, count: int) -> np.ndarray:
    """Series that remember about 20 steps of each of four environments, (2000, count)."""
    noise, series = rng.normal(size=(2000, count)), np.zeros((2000, count))
    for t in range(ENVS, 2000):
        series[t] = 0.95 * series[t - ENVS] + noise[t]
    return series


def test_labels_are_turned_within_each_environment():
    # Two environments, step by step: the first's labels are T F F F, the second's T T F F.
    labels = np.array([1, 1, 0, 1, 0, 0, 0, 0], bool)
    turned = turned_labels(labels, np.tile([0, 1], 4), turns=400)
    for env, own in ((0, [1, 0, 0, 0]), (1, [1, 1, 0, 0])):
        seen = {tuple(column) for column in turned[env::2].T.astype(int)}
        assert seen == {tuple(np.roll(own, k)) for k in range(4)}
    # On their own: all sixteen pairs of turns come up.
    assert len({tuple(column) for column in turned.T}) == 16


def test_labels_of_whole_episodes_are_turned_as_wholes():
    # One environment with episodes of 1, 3 and 2 steps, of which the second succeeded.
    episode = np.array([4, 7, 7, 7, 9, 9])
    turned = turned_labels(episode == 7, np.zeros(6, int), episode, turns=100)
    assert {tuple(column) for column in turned.T.astype(int)} == {
        (0, 1, 1, 1, 0, 0),
        (1, 0, 0, 0, 0, 0),
        (0, 0, 0, 0, 1, 1),
    }


@given(st.integers(0, 2**31), st.integers(1, 3), st.booleans())
def test_p_values_are_those_of_a_plain_loop(seed: int, envs: int, whole_episodes: bool):
    rng = np.random.default_rng(seed)
    steps, neurons, turns = 12 * envs, 3, 19
    env = np.tile(np.arange(envs), 12)
    episode = (np.arange(steps) // envs // 4) * envs + env
    table = rng.integers(-2, 3, (steps, neurons)) / 2
    labels = (rng.random(3 * envs) < 0.5)[np.unique(episode, return_inverse=True)[1]]
    labels = labels if whole_episodes else rng.random(steps) < 0.5
    turned = turned_labels(labels, env, episode if whole_episodes else None, turns=turns)
    result = scored(table, labels, turned, parts=3)

    above = table > table.mean(0)
    for j in range(neurons):
        covariances = [np.cov(above[:, j], series, bias=True)[0, 1] for series in (labels, *turned.T)]
        distances = np.abs(np.array(covariances) - np.mean(covariances))
        expected = np.mean(distances >= distances[0] - 1e-12)
        assert result.p_value[j].item() == pytest.approx(expected)
        assert result.chance_accuracy[j].item() == pytest.approx((above[:, [j]] == turned).mean())


def test_slow_series_that_have_nothing_to_do_with_the_goal_are_rarely_significant():
    rng = np.random.default_rng(0)
    found, naive = [], []
    for _ in range(12):
        goal, table = slow(rng, 1)[:, 0], slow(rng, 60)
        labels = goal_labels(goal)
        result = scored(table, labels, turned_labels(labels, ENV))
        found += (result.p_value < 0.05).tolist()
        counts = result.counts.numpy().reshape(-1, 2, 2)
        naive += [stats.chi2_contingency(cells).pvalue < 0.05 for cells in counts]
    assert np.mean(found) < 0.10
    assert np.mean(naive) > 0.5  # what taking steps for independent comes to


def test_a_neuron_that_follows_the_goal_either_way_is_found_and_a_constant_one_never():
    rng = np.random.default_rng(1)
    labels = goal_labels(slow(rng, 1)[:, 0])
    table = np.stack([labels, ~labels, np.zeros(2000)], 1)
    result = scored(table, labels, turned_labels(labels, ENV))
    assert result.p_value.tolist() == [1 / (TURNS + 1), 1 / (TURNS + 1), 1.0]


def test_a_goal_that_is_always_met_is_followed_by_no_neuron_and_no_null_is_no_p_value():
    table, labels = np.random.default_rng(2).normal(size=(50, 4)), np.ones(50, bool)
    assert scored(table, labels, turned_labels(labels, np.zeros(50, int))).p_value.tolist() == [1.0] * 4
    assert scored(table, labels, None).p_value.isnan().all()
