"""NBSP's controls: random neurons, one learning rate, replay that reaches the masked networks alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.nn.neurons import NeuronScores
from rllib_nbsp.settings import ReplaySettings
from tests.methods.nbsp.bench import (
    FIRST,
    SECOND,
    TWO_OF_SEVEN,
    UNBALANCED,
    Bench,
    adam,
    same_scores,
    scores_from,
    statistics,
)
from tests.tiny import random_scores

# The control with random neurons (docs/readings.md R26)

WIDE = (60, 40)


def skill_sets(bench: Bench) -> dict[str, Tensor]:
    return {name: torch.cat(layers) < 1 for name, layers in bench.method.masks.items()}


def values(bench: Bench) -> dict[str, list[float]]:
    return {
        name: sorted(flat[flat < 1].tolist())
        for name, flat in ((name, torch.cat(layers)) for name, layers in bench.method.masks.items())
    }


def scored(keys: Mapping[str, Any], seed: int = 0, generator_seed: int = 0) -> Bench:
    bench = Bench(keys, hidden=WIDE, seed=generator_seed)
    bench.visit(1, random_scores(seed, WIDE))
    return bench


@pytest.mark.parametrize("pool", ["network", "layer", "global"])
def test_random_neurons_get_the_real_selections_masks_in_another_order(pool):
    real = scored({"pool": pool})
    random = scored({"pool": pool, "score": "random"})
    if pool == "global":  # the networks share their skill neurons out anew
        real_values, random_values = (sorted(itertools.chain(*values(bench).values())) for bench in (real, random))
        assert real_values == random_values
    else:
        assert values(real) == values(random)
    assert not all(torch.equal(skill_sets(real)[name], skill_sets(random)[name]) for name in NETWORKS)


def test_random_neurons_of_a_global_pool_exist_also_where_the_real_selection_has_none():
    # All real skill neurons are the actor's.
    tables = {"policy": [[0.9] * 4, [0.9] * 3], "qf": [[0.6] * 4, [0.6] * 3], "qf_twin": [[0.6] * 4, [0.6] * 3]}
    for value in ("permute", "constant", "own_score"):
        bench = Bench({"skill_frac": 0.3, "pool": "global", "score": "random", "random_mask_value": value})
        bench.visit(1, scores_from(tables))
        flat = torch.cat([mask for layers in bench.method.masks.values() for mask in layers])
        braked = flat[flat < 1]
        assert len(braked) == 6
        assert bool(torch.isfinite(flat).all())
        if value != "own_score":
            assert braked.tolist() == pytest.approx([0.02] * 6)


def test_random_neurons_without_constant_ones_mirror_the_real_selection_without_them():
    table = NeuronScores({name: [statistics(*UNBALANCED)] for name in NETWORKS}, 0.9, 100)
    benches = [
        Bench({"skill_frac": 0.5, "exclude_constant": True, "score": s}, hidden=(4,)) for s in ("literal", "random")
    ]
    for bench in benches:
        bench.visit(1, table)
    real, random = (values(bench) for bench in benches)
    assert real == random
    assert not any(bool(chosen[0]) for chosen in skill_sets(benches[1]).values())


def test_random_neurons_overlap_with_the_real_ones_by_chance():
    hidden = (500, 500)
    overlaps = []
    for keys in ({}, {"score": "random"}):
        bench = Bench(keys, hidden=hidden)
        bench.visit(1, random_scores(0, hidden))
        overlaps.append(skill_sets(bench))
    real, random = overlaps
    for name in NETWORKS:
        # 200 of 1000 against 200 of 1000: 40 in common, standard deviation sqrt(200 * 0.2 * 0.8 * 800 / 999) = 5.1.
        assert int(random[name].sum()) == 200
        assert abs(int((real[name] & random[name]).sum()) - 40) < 4 * 5.1


def test_random_neurons_differ_from_visit_to_visit_and_repeat_with_the_seed():
    first, again = scored({"score": "random"}), scored({"score": "random"})
    other = scored({"score": "random"}, generator_seed=1)
    assert all(torch.equal(skill_sets(first)[name], skill_sets(again)[name]) for name in NETWORKS)
    assert not all(torch.equal(skill_sets(first)[name], skill_sets(other)[name]) for name in NETWORKS)
    before = skill_sets(first)
    first.visit(2, random_scores(0, WIDE))
    assert not all(torch.equal(before[name], now) for name, now in skill_sets(first).items())


def test_random_neurons_may_keep_their_own_score():
    bench = scored({"score": "random", "random_mask_value": "own_score"})
    for name, layers in random_scores(0, WIDE).layers.items():
        score, mask = torch.cat([layer.score for layer in layers]), torch.cat(bench.method.masks[name])
        chosen = mask < 1
        assert int(chosen.sum()) == 20
        assert torch.allclose(mask[chosen].double(), 0.2 * (1 - score[chosen]), atol=1e-7)


def test_random_neurons_may_all_get_the_real_selections_mean():
    real, random = scored({}), scored({"score": "random", "random_mask_value": "constant"})
    for name in NETWORKS:
        assert values(random)[name] == pytest.approx([float(np.mean(values(real)[name]))] * 20)


def test_random_neurons_that_happen_to_be_the_real_ones_are_nbsp():
    real = scored({"skill_frac": 1.0})
    random = scored({"skill_frac": 1.0, "score": "random", "random_mask_value": "own_score"})
    for name in NETWORKS:
        assert all(torch.equal(a, b) for a, b in zip(real.method.masks[name], random.method.masks[name], strict=True))


# The control with one learning rate (docs/readings.md R28)


@pytest.mark.parametrize(
    ("uniform_lr", "factor"),
    [
        ("mean", (5 + 0.02 + 0.01) / 7),
        ("skill", (0.02 + 0.01) / 2),
        (0.3, 0.3),
        (0.0, 0.0),
    ],
)
def test_one_factor_for_every_hidden_neuron(uniform_lr, factor):
    bench = Bench({**TWO_OF_SEVEN, "uniform_lr": uniform_lr})
    bench.visit(1, same_scores(*FIRST))
    for name, brake in bench.brake().items():
        expected = 1.0 if "head" in name else factor
        assert brake.flatten().tolist() == pytest.approx([expected] * brake.numel()), name


def test_one_factor_follows_each_networks_own_masks():
    tables = {"policy": FIRST, "qf": SECOND, "qf_twin": ([0.5] * 4, [0.5] * 3)}
    bench = Bench({**TWO_OF_SEVEN, "uniform_lr": "skill"})
    bench.visit(1, scores_from(tables))
    factors = {name: float(bench.method.masks[name][0][0]) for name in NETWORKS}
    assert factors == pytest.approx({"policy": 0.015, "qf": 0.03, "qf_twin": 0.1})


# Replay that reaches the masked networks alone (docs/readings.md R27)


@pytest.mark.parametrize(("modules", "moved"), [("actor", {"policy"}), ("critic", {"qf", "qf_twin"})])
def test_same_module_replay_moves_the_masked_networks_alone(modules, moved):
    bench = Bench({"modules": modules}, optimizer=adam(), replay=ReplaySettings(scope="same_module"))
    bench.steps(5)
    before, temperature = bench.weights(), bench.agent.log_alpha.item()
    bench.step(from_prior=True)
    after = bench.weights()
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == moved
    assert (bench.agent.log_alpha.item() != temperature) is (modules == "actor")
    bench.step(from_prior=False)
    assert all(not torch.equal(after[name], value) for name, value in bench.weights().items())


@pytest.mark.parametrize(("modules", "scope"), [("actor", "all"), ("both", "same_module")])
def test_other_replay_moves_every_network(modules, scope):
    bench = Bench({"modules": modules}, optimizer=adam(), replay=ReplaySettings(scope=scope))
    before = bench.weights()
    bench.step(from_prior=True)
    assert all(not torch.equal(before[name], value) for name, value in bench.weights().items())
