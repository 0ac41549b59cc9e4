"""Which neurons NBSP takes for skill neurons: what ranks, and among whom (docs/readings.md R9, R11)."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.nn.neurons import NeuronScores
from tests.methods.nbsp.bench import FIRST, TWO_OF_SEVEN, UNBALANCED, Bench, same_scores, scores_from, statistics


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        # Half of seven per network: 0.95 0.9 0.8. Half of 4 and of 3 per layer: 0.9 0.8 | 0.95.
        ("network", {"policy": [[0, 2], [1]], "qf": [[0], [0, 1]], "qf_twin": [[0, 1, 2], []]}),
        ("layer", {"policy": [[0, 2], [1]], "qf": [[0, 1], [0]], "qf_twin": [[0, 1], [0]]}),
        # Half of 21 over all: the actor's 0.95 0.9 0.8 0.7 0.6, the critic's 0.65 0.64 0.63, two ties of 0.5 in order.
        ("global", {"policy": [[0, 1, 2, 3], [0, 1, 2]], "qf": [[0], [0, 1]], "qf_twin": [[], []]}),
    ],
)
def test_pools(pool, expected):
    tables = {"policy": FIRST, "qf": ([0.65, 0.5, 0.5, 0.5], [0.64, 0.63, 0.5]), "qf_twin": ([0.5] * 4, [0.5] * 3)}
    bench = Bench({"skill_frac": 0.5, "pool": pool})
    bench.visit(1, scores_from(tables))
    braked = {name: [(m < 1).nonzero().flatten().tolist() for m in bench.method.masks[name]] for name in NETWORKS}
    assert braked == expected


@pytest.mark.parametrize(
    ("modules", "masked"),
    [("both", NETWORKS), ("actor", ("policy",)), ("critic", ("qf", "qf_twin"))],
)
def test_modules_choose_the_networks(modules, masked):
    bench = Bench({**TWO_OF_SEVEN, "modules": modules})
    bench.visit(1, same_scores(*FIRST))
    brake = bench.brake()
    for name in NETWORKS:
        factors = torch.cat([factor.flatten() for key, factor in brake.items() if key.startswith(f"{name}.")])
        assert bool((factors < 1.0).any()) is (name in masked)


@pytest.mark.parametrize(
    ("keys", "chosen", "mask"),
    [
        ({"score": "literal"}, 0, 0.2 * 0.1),
        ({"score": "literal", "exclude_constant": True}, 3, 0.2 * 0.12),
        ({"score": "acc"}, 1, 0.2 * 0.15),
        ({"score": "balanced"}, 3, 0.2 * (1 / 15)),
        ({"score": "dormant"}, 3, 0.2 * 0.12),
    ],
)
def test_score_variants_by_hand(keys, chosen, mask):
    bench = Bench({"skill_frac": 0.25, **keys}, hidden=(4,))
    bench.visit(1, NeuronScores({name: [statistics(*UNBALANCED)] for name in NETWORKS}, 0.9, 100))
    expected = [1.0] * 4
    expected[chosen] = mask
    assert bench.method.masks["qf"][0].tolist() == pytest.approx(expected)


def test_constant_neurons_are_never_chosen_if_excluded_even_if_too_few_are_left():
    bench = Bench({"skill_frac": 1.0, "exclude_constant": True}, hidden=(4,))
    bench.visit(1, NeuronScores({name: [statistics(*UNBALANCED)] for name in NETWORKS}, 0.9, 100))
    assert (bench.method.masks["qf"][0] < 1).tolist() == [False, True, True, True]


def test_the_report_says_p_and_how_many_of_the_chosen_are_constant():
    # Half of four: neurons 0 (dead) and 3.
    bench = Bench({"skill_frac": 0.5}, hidden=(4,))
    bench.visit(1, NeuronScores({name: [statistics(*UNBALANCED)] for name in NETWORKS}, 0.9, 100))
    assert bench.method.metrics() == {
        "masked_frac": 0.5,
        "label_rate": 0.9,
        "constant_skill_frac_policy": 0.5,
        "constant_skill_frac_qf": 0.5,
        "constant_skill_frac_qf_twin": 0.5,
    }


# skill_frac: auto


def with_p_values(policy: list[float], others: float = 1.0) -> NeuronScores:
    """Scores of `FIRST`, whose first layer of the actor has these p-values and every other neuron `others`."""
    scores = same_scores(*FIRST)
    for layers in scores.layers.values():
        for i, stats in enumerate(layers):
            layers[i] = dataclasses.replace(stats, p_value=torch.full_like(stats.p_value, others))
    first = scores.layers["policy"][0]
    scores.layers["policy"][0] = dataclasses.replace(first, p_value=torch.tensor(policy, dtype=torch.float64))
    return scores


def braked(bench: Bench) -> dict[str, list[list[int]]]:
    return {name: [(m < 1).nonzero().flatten().tolist() for m in bench.method.masks[name]] for name in NETWORKS}


def test_auto_brakes_those_that_follow_the_goal_by_as_much_as_their_scores_say():
    bench = Bench({"skill_frac": "auto"})
    bench.visit(1, with_p_values([0.001, 0.9, 0.002, 1.0]))
    assert braked(bench) == {"policy": [[0, 2], []], "qf": [[], []], "qf_twin": [[], []]}
    by_share = Bench({"skill_frac": 1.0})
    by_share.visit(1, same_scores(*FIRST))
    assert bench.method.masks["policy"][0][2] == by_share.method.masks["policy"][0][2]


def test_the_rate_of_auto_is_a_key():
    for rate, chosen in ((0.05, [0]), (0.2, [0, 2])):  # 0.05 is the second of seven: 0.175 adjusted
        bench = Bench({"skill_frac": "auto", "skill_fdr": rate})
        bench.visit(1, with_p_values([0.001, 0.9, 0.05, 1.0]))
        assert braked(bench)["policy"] == [chosen, []]


def test_auto_with_random_neurons_brakes_as_many():
    bench = Bench({"skill_frac": "auto", "score": "random"})
    bench.visit(1, with_p_values([0.001, 0.001, 0.001, 1.0]))
    assert [sum(map(len, layers)) for layers in braked(bench).values()] == [3, 0, 0]


def test_auto_may_find_nobody_and_then_brakes_nobody():
    bench = Bench({"skill_frac": "auto", "uniform_lr": "mean"})
    bench.visit(1, with_p_values([1.0, 1.0, 1.0, 1.0]))
    assert braked(bench) == {name: [[], []] for name in NETWORKS}


def test_auto_needs_p_values_and_says_so():
    bench = Bench({"skill_frac": "auto"})
    with pytest.raises(ValueError, match="skill_frac is 'auto', which needs the p-values of neurons"):
        bench.visit(1, with_p_values([0.001, float("nan"), 0.5, 1.0]))
