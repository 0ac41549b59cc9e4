"""Eq. 1-4 and 6 of Lan et al. (2025), by hand and by a slow exact oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rllib_nbsp.nn.neurons import (
    HISTOGRAM_BINS,
    LayerStatistics,
    NeuronScores,
    dormant_frac,
    goal_labels,
    goal_proximity,
    layer_statistics,
    select_as_many,
    select_significant,
    select_top,
    skill_mask,
)
from rllib_nbsp.nn.significance import turned_labels

DOUBLE = torch.float64


def chunked(table: Tensor, sizes: list[int]) -> Callable[[], Iterable[list[Tensor]]]:
    """A rollout of one layer, cut into chunks."""
    return lambda: ([part] for part in table.split(sizes))


def statistics(table: Tensor, goal: Tensor, sizes: list[int] | None = None) -> LayerStatistics:
    sizes = sizes or [len(table)]
    turned = torch.from_numpy(turned_labels(goal.numpy(), np.zeros(len(goal), int), turns=9))
    return layer_statistics(chunked(table, sizes), list(goal.split(sizes)), turned=list(turned.split(sizes)))[0]


# Eq. 1-4 by hand: four steps of three neurons, q = success at steps 2 and 4.
#   neuron     a(t)           mean   above            agrees with q > 1/2 (F T F T)    Acc   Score
#   0       0  4  0  4         2     F T F T          4 of 4                           1     1
#   1       2  2  2  2         2     F F F F          steps 1, 3                       1/2   1/2
#   2       1  0  3  0         1     F F T F          step 1                           1/4   3/4
ACTIVATIONS = torch.tensor([[0.0, 2.0, 1.0], [4.0, 2.0, 0.0], [0.0, 2.0, 3.0], [4.0, 2.0, 0.0]])
GOAL_PROXIMITY = np.array([0.0, 1.0, 0.0, 1.0])
LABELS = torch.tensor([False, True, False, True])


def test_standard_activation_by_hand():
    assert statistics(ACTIVATIONS, LABELS).mean_activation.tolist() == [2.0, 2.0, 1.0]


def test_goal_labels_are_strictly_above_the_standard_goal_proximity_by_hand():
    # Eq. 2: the mean of 0, 1, 0, 1 is 1/2; the mean of 1, 2, 3, 6 is 3, which 3 does not exceed.
    assert goal_labels(GOAL_PROXIMITY).tolist() == LABELS.tolist()
    assert goal_labels(np.array([1.0, 2.0, 3.0, 6.0])).tolist() == [False, False, False, True]


def test_accuracy_and_score_by_hand():
    result = statistics(ACTIVATIONS, LABELS)
    # Cells: (above, goal), (above, no goal), (not above, goal), (not above, no goal).
    assert result.counts.tolist() == [[2, 0, 0, 2], [0, 0, 2, 2], [0, 1, 2, 1]]
    assert result.accuracy.tolist() == [1.0, 0.5, 0.25]
    assert result.score.tolist() == [1.0, 0.5, 0.75]


def test_mask_by_hand():
    # Eq. 6, alpha = 0.2: 0.2 (1 - 1) = 0, 0.2 (1 - 3/4) = 0.05, 0.2 (1 - 1/2) = 0.1; not a skill neuron: 1.
    score = torch.tensor([1.0, 0.75, 0.5, 0.9], dtype=DOUBLE)
    mask = skill_mask(score, torch.tensor([True, True, True, False]), 0.2)
    assert mask.dtype == torch.float32
    assert mask.tolist() == pytest.approx([0.0, 0.05, 0.1, 1.0])
    assert mask[0] == 0.0 and mask[3] == 1.0


def test_mask_alpha_0_freezes_and_1_gives_up_to_half():
    score, skill = torch.tensor([0.5, 0.8], dtype=DOUBLE), torch.tensor([True, True])
    assert skill_mask(score, skill, 0.0).tolist() == [0.0, 0.0]
    # 1 (1 - 1/2) = 1/2, 1 (1 - 0.8) = 0.2
    assert skill_mask(score, skill, 1.0).tolist() == pytest.approx([0.5, 0.2])


def test_on_rate_dormancy_and_mean_absolute_activation_by_hand():
    # |a| has means 1, 3, 2, whose mean is 2; a has means 1, 0, -2.
    table = torch.tensor([[0.0, 3.0, -1.0], [2.0, -3.0, -3.0]])
    result = statistics(table, torch.tensor([True, False]))
    assert result.mean_activation.tolist() == [1.0, 0.0, -2.0]
    assert result.mean_abs_activation.tolist() == [1.0, 3.0, 2.0]
    assert result.dormancy.tolist() == [0.5, 1.5, 1.0]
    assert result.on_rate.tolist() == [0.5, 0.5, 0.5]


def test_balanced_score_by_hand():
    # Four steps with the goal, one without. Above at all of the first and at the last: true positives 4/4, true
    # negatives 0/1, balanced accuracy 1/2. Above at three of four and not at the last: (3/4 + 1) / 2 = 7/8.
    # Above only at the last: (0 + 0) / 2 = 0, whose complement is 1. Above at the first alone: (1/4 + 1) / 2 = 5/8.
    table = torch.tensor([[2.0, 0.0, 0.0, 4.0], [2.0, 4.0, 0.0, 0.0], [2.0, 4.0, 0.0, 0.0], [2.0, 4.0, 0.0, 0.0]])
    table = torch.cat([table, torch.tensor([[2.0, 0.0, 5.0, 0.0]])])
    result = statistics(table, torch.tensor([True, True, True, True, False]))
    assert result.balanced_score.tolist() == pytest.approx([0.5, 7 / 8, 1.0, 5 / 8])


def test_equality_counts_as_not_above_on_both_sides():
    # Constant activation and constant goal: neither exceeds its mean, so they agree at every step.
    result = statistics(torch.ones(6, 1), torch.from_numpy(goal_labels(np.ones(6))))
    assert result.counts.tolist() == [[0, 0, 0, 6]]
    assert result.accuracy.tolist() == [1.0]


# Properties


@st.composite
def rollouts(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[int]]:
    """Activations in eighths, so that float32 holds them and their multiples exactly; labels; a cut into chunks."""
    steps, neurons = draw(st.integers(1, 30)), draw(st.integers(1, 5))
    values = st.lists(st.integers(-16, 40), min_size=neurons, max_size=neurons)
    table = torch.tensor(draw(st.lists(values, min_size=steps, max_size=steps)), dtype=torch.float32) / 8
    goal = torch.tensor(draw(st.lists(st.booleans(), min_size=steps, max_size=steps)))
    cuts = sorted(draw(st.sets(st.integers(1, steps))) | {steps})
    return table, goal, [b - a for a, b in zip([0, *cuts[:-1]], cuts, strict=True)]


@given(rollouts())
def test_scores_equal_exact_arithmetic_step_by_step(rollout):
    table, goal, sizes = rollout
    result = statistics(table, goal, sizes)
    steps = len(table)
    for j in range(table.shape[1]):
        column = [Fraction(float(a)) for a in table[:, j]]
        mean = sum(column) / steps
        agree = sum((a > mean) == bool(g) for a, g in zip(column, goal, strict=True))
        assert float(result.accuracy[j]) == agree / steps
        assert float(result.score[j]) == max(agree / steps, 1.0 - agree / steps)


@given(rollouts())
def test_scores_lie_between_one_half_and_one(rollout):
    table, goal, sizes = rollout
    result = statistics(table, goal, sizes)
    for score in (result.score, result.balanced_score):
        assert bool(((score >= 0.5) & (score <= 1.0)).all())


@given(rollouts())
def test_statistics_do_not_depend_on_how_the_rollout_is_cut(rollout):
    table, goal, sizes = rollout
    whole, cut = statistics(table, goal), statistics(table, goal, sizes)
    for name, value in vars(whole).items():
        assert torch.equal(value, getattr(cut, name)), name


@given(rollouts(), st.sampled_from([0.25, 3.0, 1000.0]))
def test_scores_do_not_change_when_activations_are_scaled(rollout, factor):
    table, goal, sizes = rollout
    assert torch.equal(statistics(table, goal, sizes).counts, statistics(table * factor, goal, sizes).counts)


@given(rollouts(), st.randoms(use_true_random=False))
def test_permuting_neurons_permutes_scores(rollout, random):
    table, goal, sizes = rollout
    order = list(range(table.shape[1]))
    random.shuffle(order)
    plain, permuted = statistics(table, goal, sizes), statistics(table[:, order], goal, sizes)
    assert torch.equal(permuted.score, plain.score[order])
    assert torch.equal(permuted.hist_success, plain.hist_success[order])


@given(rollouts())
def test_inverting_the_goal_leaves_the_score_as_it_is(rollout):
    table, goal, sizes = rollout
    plain, inverted = statistics(table, goal, sizes), statistics(table, ~goal, sizes)
    assert torch.allclose(plain.score, inverted.score, atol=1e-15)
    assert torch.allclose(plain.accuracy, 1.0 - inverted.accuracy, atol=1e-15)


@given(rollouts())
def test_histograms_count_every_step_once(rollout):
    table, goal, sizes = rollout
    result = statistics(table, goal, sizes)
    assert result.hist_success.sum(1).tolist() == [int(goal.sum())] * table.shape[1]
    assert result.hist_failure.sum(1).tolist() == [int((~goal).sum())] * table.shape[1]
    assert torch.allclose(result.hist_edges[:, 0], table.amin(0).double())


def test_histogram_by_hand():
    # Range 0..20 in 20 bins of width 1; the largest value belongs to the last bin.
    table = torch.tensor([[0.0], [3.5], [3.9], [20.0]])
    result = statistics(table, torch.tensor([False, True, False, True]))
    success, failure = [0] * HISTOGRAM_BINS, [0] * HISTOGRAM_BINS
    success[3] = success[19] = failure[0] = failure[3] = 1
    assert result.hist_success[0].tolist() == success
    assert result.hist_failure[0].tolist() == failure
    assert result.hist_edges[0].tolist() == pytest.approx(list(range(21)))


def test_a_neuron_equal_to_the_label_or_to_its_negation_scores_1_and_a_fair_coin_one_half():
    generator = torch.Generator().manual_seed(7)
    steps = 10_000
    goal = torch.rand(steps, generator=generator) < 0.3
    coin = torch.rand(steps, generator=generator) < 0.5
    table = torch.stack([goal, ~goal, coin], 1).float()
    score = statistics(table, goal, [4_000, 6_000]).score
    assert score[:2].tolist() == [1.0, 1.0]
    assert float(score[2]) == pytest.approx(0.5, abs=3 / steps**0.5)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 1e-30, 7e8])
@pytest.mark.parametrize("label_rate", [0.1, 0.5, 0.9])
def test_a_constant_neuron_scores_the_larger_label_share(value, label_rate):
    steps = 1000
    goal = torch.arange(steps) < label_rate * steps
    result = statistics(torch.full((steps, 1), value), goal, [300, 700])
    assert bool(result.is_constant)
    assert float(result.score) == pytest.approx(max(label_rate, 1 - label_rate))


def test_the_literal_score_ranks_a_dead_neuron_above_a_predictive_one_and_the_balanced_score_does_not():
    # 90 of 100 steps reach the goal. The predictive neuron is on at 80 of these and at 5 of the others: accuracy
    # 0.85 and balanced accuracy (80/90 + 5/10) / 2 = 0.694; the dead one agrees wherever the goal is missed: 0.9, 0.5.
    goal = torch.arange(100) < 90
    predictive = (torch.arange(100) < 80) | (torch.arange(100) >= 95)
    result = statistics(torch.stack([predictive.float(), torch.zeros(100)], 1), goal)
    assert result.score.tolist() == pytest.approx([0.85, 0.9])
    assert result.balanced_score.tolist() == pytest.approx([0.6944444, 0.5])
    assert result.is_constant.tolist() == [False, True]


def test_the_mean_keeps_what_a_float32_sum_would_lose():
    # In float32, 2^24 + 1 is 2^24: added up one after the other, the second and third step would be lost.
    table = torch.tensor([[2.0**24], [1.0], [1.0], [2.0]])
    assert float(statistics(table, LABELS, [1, 1, 1, 1]).mean_activation) == 2.0**22 + 1.0


def test_a_mean_between_two_float32_numbers_is_not_rounded_to_one_of_them():
    # 1 once and the next float32 after 1 three times: the three are above their mean, which in float32 they equal.
    above = torch.tensor([False, True, True, True])
    table = torch.where(above, 1.0 + 2.0**-23, 1.0).unsqueeze(1)
    assert table.dtype == torch.float32
    assert statistics(table, above).accuracy.tolist() == [1.0]


def test_scoring_reads_the_activations_twice_and_a_second_rollout_gives_the_means_alone():
    # Means 2 from the second rollout instead of 1: the first neuron value 1.5 is then not above.
    calls = {"comparison": 0, "means": 0}

    def rollout(name: str, values: list[float]) -> Callable[[], Iterable[list[Tensor]]]:
        def chunks() -> Iterable[list[Tensor]]:
            calls[name] += 1
            return iter([[torch.tensor(values).unsqueeze(1)]])

        return chunks

    goal = [torch.tensor([True, False])]
    comparison = rollout("comparison", [1.5, 0.5])
    assert layer_statistics(comparison, goal)[0].counts.tolist() == [[1, 0, 0, 1]]
    assert calls == {"comparison": 2, "means": 0}
    two = layer_statistics(comparison, goal, rollout("means", [0.0, 1.0, 5.0]))[0]
    assert two.mean_activation.tolist() == [2.0]
    assert two.counts.tolist() == [[0, 0, 1, 1]]
    assert calls == {"comparison": 3, "means": 1}


def test_layers_are_scored_apart():
    first, second = ACTIVATIONS, -ACTIVATIONS[:, :2]
    both = layer_statistics(lambda: iter([[first, second]]), [LABELS])
    assert torch.equal(both[0].counts, statistics(first, LABELS).counts)
    assert torch.equal(both[1].counts, statistics(second, LABELS).counts)


def test_a_rollout_without_steps_is_refused():
    with pytest.raises(ValueError, match="0 steps"):
        layer_statistics(lambda: iter([]), [])


def test_labels_and_activations_must_have_as_many_chunks():
    with pytest.raises(ValueError):
        layer_statistics(chunked(ACTIVATIONS, [2, 2]), [LABELS[:2]])


@pytest.mark.parametrize(("label_rate", "degenerate"), [(0.0, True), (1.0, True), (0.5, False), (1e-6, False)])
def test_labels_that_never_change_are_degenerate(label_rate, degenerate):
    assert NeuronScores({}, label_rate, 10).degenerate is degenerate


# Goal proximity. Two episodes and a third that the rollout cuts:
#   episode    0  0  1  1  1  2
#   success    1  0  0  1  1  1
#   reward     1  2  3  4  5  6
SUCCESS = np.array([True, False, False, True, True, True])
REWARDS = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], np.float32)
EPISODE = np.array([0, 0, 1, 1, 1, 2])
COMPLETE = np.array([True, True, False])


@pytest.mark.parametrize(
    ("gpm", "expected"),
    [
        ("episode_any", [1, 1, 1, 1, 1, 1]),
        ("episode_final", [0, 0, 1, 1, 1, 1]),
        ("return", [3, 3, 12, 12, 12, 6]),
    ],
)
def test_goal_proximity_of_episodes_leaves_out_incomplete_ones(gpm, expected):
    q, use = goal_proximity(gpm, SUCCESS, REWARDS, EPISODE, COMPLETE)
    assert q.tolist() == expected
    assert use.tolist() == [True, True, True, True, True, False]


def test_goal_proximity_of_steps_uses_every_step():
    q, use = goal_proximity("step", SUCCESS, REWARDS, EPISODE, COMPLETE)
    assert q.tolist() == SUCCESS.astype(float).tolist()
    assert use.all()


def test_goal_proximity_of_interleaved_episodes_follows_the_episode_number():
    # Two environments side by side: episode 0 ends without success, episode 1 with it.
    success, episode = np.array([True, False, False, True]), np.array([0, 1, 0, 1])
    q, _ = goal_proximity("episode_final", success, np.zeros(4), episode, np.array([True, True]))
    assert q.tolist() == [0.0, 1.0, 0.0, 1.0]


def test_an_unknown_goal_proximity_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"gpm is 'final'; known: step, episode_any, episode_final, return"):
        goal_proximity("final", SUCCESS, REWARDS, EPISODE, COMPLETE)


# Selection


def chosen(scores: dict[str, list[list[float]]], frac: float, pool: str) -> dict[str, list[list[int]]]:
    tables = {name: [torch.tensor(layer, dtype=DOUBLE) for layer in layers] for name, layers in scores.items()}
    picked = select_top(tables, frac, pool)  # type: ignore[arg-type]
    return {name: [layer.nonzero().squeeze(1).tolist() for layer in layers] for name, layers in picked.items()}


def test_selection_by_hand_in_each_pool():
    scores = {"policy": [[0.9, 0.6, 0.8, 0.5], [0.7, 0.95, 0.5, 0.5]], "qf": [[0.51, 0.52, 0.53, 0.54], [0.6] * 4]}
    # Half of 8 per network: 0.95 0.9 0.8 0.7 | four times 0.6.
    assert chosen(scores, 0.5, "network") == {"policy": [[0, 2], [0, 1]], "qf": [[], [0, 1, 2, 3]]}
    # Half of 4 per layer.
    assert chosen(scores, 0.5, "layer") == {"policy": [[0, 2], [0, 1]], "qf": [[2, 3], [0, 1]]}
    # A quarter of 16 over both networks: 0.95 0.9 0.8 0.7, none of qf.
    assert chosen(scores, 0.25, "global") == {"policy": [[0, 2], [0, 1]], "qf": [[], []]}


def picked(selection: dict[str, list[Tensor]]) -> dict[str, list[list[int]]]:
    return {name: [layer.nonzero().squeeze(1).tolist() for layer in layers] for name, layers in selection.items()}


def test_discoveries_by_hand_in_each_pool():
    p = {
        "policy": [torch.tensor([0.001, 0.03, 0.5], dtype=DOUBLE), torch.tensor([0.02, 0.04, 1.0], dtype=DOUBLE)],
        "qf": [torch.tensor([0.01], dtype=DOUBLE), torch.tensor([1.0, 1.0], dtype=DOUBLE)],
    }
    # Of six at a rate of 0.05, the k-th smallest must be at most k / 120: 0.001, but not 0.02, 0.03 and 0.04, of which
    # 0.04 would need 0.0333. Of three: 0.01 is at most 1 / 60.
    assert picked(select_significant(p, 0.05, "network")) == {"policy": [[0], []], "qf": [[0], []]}
    # Of three each: 0.001 and 0.03 (0.0333 for the second); 0.04 (0.0333) would not do, nor 0.02 (0.0167) without it.
    assert picked(select_significant(p, 0.05, "layer")) == {"policy": [[0, 1], []], "qf": [[0], []]}
    # Of nine: 0.001 and 0.01 (0.0111), not 0.02 (0.0167), 0.03 (0.0222), 0.04 (0.0278).
    assert picked(select_significant(p, 0.05, "global")) == {"policy": [[0], []], "qf": [[0], []]}
    # And at a rate of 0.1 all five of nine below 5 / 90.
    assert picked(select_significant(p, 0.1, "global")) == {"policy": [[0, 1], [0, 1]], "qf": [[0], []]}


def test_of_neurons_that_follow_nothing_few_are_discovered_and_of_those_that_follow_most():
    rng = np.random.default_rng(0)
    false = true = 0
    for _ in range(200):
        p = np.concatenate([rng.uniform(size=80), rng.uniform(0.0, 1e-3, 20)])
        (found,) = select_significant({"qf": [torch.from_numpy(p)]}, 0.05, "network")["qf"]
        false, true = false + int(found[:80].sum()), true + int(found[80:].sum())
    assert true == 200 * 20 and false / (false + true) < 0.05


@pytest.mark.parametrize("pool", ["network", "layer", "global"])
def test_as_many_as_another_selection_in_each_pool(pool):
    generator = torch.Generator().manual_seed(0)
    scores = {name: [torch.rand(n, generator=generator) for n in (7, 5)] for name in ("policy", "qf")}
    likewise = select_as_many(scores, select_top(scores, 0.4, pool), pool)
    assert picked(likewise) == picked(select_top(scores, 0.4, pool))
    none = {name: [torch.zeros_like(s, dtype=torch.bool) for s in layers] for name, layers in scores.items()}
    assert picked(select_as_many(scores, none, pool)) == {"policy": [[], []], "qf": [[], []]}


@pytest.mark.parametrize("frac", [0.0, 0.05, 0.2, 0.29, 0.3, 0.57, 0.7, 1.0])
@pytest.mark.parametrize("sizes", [[768, 768, 768], [100], [10, 7], [32, 64, 64, 768, 768]])
def test_selection_has_floor_of_frac_n_neurons(frac, sizes):
    generator = torch.Generator().manual_seed(0)
    layers = [torch.rand(n, generator=generator, dtype=DOUBLE) for n in sizes]
    picked = select_top({"qf": layers}, frac, "network")["qf"]
    assert sum(int(p.sum()) for p in picked) == int(Fraction(str(frac)) * sum(sizes))
    threshold = min((float(v[p].min()) for v, p in zip(layers, picked, strict=True) if p.any()), default=1.0)
    assert all(float(v[~p].max(initial=0)) <= threshold for v, p in _numpy(layers, picked))


def _numpy(layers: list[Tensor], picked: list[Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(v.numpy(), p.numpy()) for v, p in zip(layers, picked, strict=True)]


def test_a_fifth_of_the_papers_networks_is_460_and_339_neurons():
    meta_world = select_top({"qf": [torch.rand(768) for _ in range(3)]}, 0.2, "network")["qf"]
    atari = select_top({"qf": [torch.rand(n) for n in (32, 64, 64, 768, 768)]}, 0.2, "network")["qf"]
    assert sum(int(p.sum()) for p in meta_world) == 460
    assert sum(int(p.sum()) for p in atari) == 339


def test_ties_go_to_the_earlier_layer_and_then_to_the_lower_index():
    assert chosen({"qf": [[0.5] * 4, [0.5] * 4]}, 0.625, "network") == {"qf": [[0, 1, 2, 3], [0]]}
    assert chosen({"qf": [[0.5, 0.5, 0.7, 0.5], [0.5, 0.7, 0.5, 0.5]]}, 0.5, "network") == {"qf": [[0, 1, 2], [1]]}
    assert chosen({"policy": [[0.5] * 3], "qf": [[0.5] * 3]}, 0.5, "global") == {"policy": [[0, 1, 2]], "qf": [[]]}


def test_neurons_marked_minus_infinity_are_never_chosen():
    low = -torch.inf
    assert chosen({"qf": [[low, 0.6, low, 0.5]]}, 1.0, "network") == {"qf": [[1, 3]]}
    assert chosen({"qf": [[low, low]]}, 0.5, "layer") == {"qf": [[]]}


# Dormancy of a batch


def test_dormant_share_by_hand():
    # First layer: mean |h| of 4, 0.1, 0: the mean of these is 1.3667, and 0.025 of it 0.034: one of three is dormant.
    # Second layer: 1 and 1: none. Together one of five.
    hidden = [torch.tensor([[4.0, 0.2, 0.0], [-4.0, 0.0, 0.0]]), torch.tensor([[1.0, -1.0], [1.0, 1.0]])]
    assert dormant_frac(hidden) == pytest.approx(1 / 5)


def test_a_dead_layer_is_all_dormant():
    assert dormant_frac([torch.zeros(4, 3)]) == 1.0
