"""NBSP's masks: which weights are braked, and by how much (Lan et al. 2025, Eq. 5-6)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import pytest
import torch

from rllib_nbsp.methods.nbsp import NBSPSettings, NeuronLevelBalance
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.settings import ReplaySettings
from tests.methods.nbsp.bench import FIRST, FIRST_MASKS, TWO_OF_SEVEN, Bench, adam, masks_of, same_scores, scores_from
from tests.tiny import random_scores

# Eq. 6: masks


def test_masks_by_hand():
    bench = Bench(TWO_OF_SEVEN)
    bench.visit(1, same_scores(*FIRST))
    for name in NETWORKS:
        assert masks_of(bench, name) == FIRST_MASKS


def test_before_the_first_visit_has_ended_nothing_is_masked():
    bench = Bench()
    assert all(bool((m == 1.0).all()) for layers in bench.method.masks.values() for m in layers)
    assert all(bool((factor == 1.0).all()) for factor in bench.brake().values())


def test_every_network_has_skill_neurons_of_its_own():
    bench = Bench({"skill_frac": 0.15})  # one of seven
    tables = {
        "policy": ([0.9, 0.5, 0.5, 0.5], [0.5] * 3),
        "qf": ([0.5, 0.5, 0.1, 0.5], [0.5] * 3),
        "qf_twin": ([0.5] * 4, [0.5, 0.5, 0.9]),
    }
    bench.visit(1, scores_from(tables))
    braked = {name: [(m < 1).nonzero().flatten().tolist() for m in bench.method.masks[name]] for name in NETWORKS}
    assert braked == {"policy": [[0], []], "qf": [[2], []], "qf_twin": [[], [2]]}


def test_masks_lie_between_0_and_a_tenth_for_a_fifth_of_the_neurons_and_are_1_elsewhere():
    bench = Bench(hidden=(50, 40))
    bench.visit(1, random_scores(0, (50, 40)))
    for layers in bench.method.masks.values():
        flat = torch.cat(layers)
        assert len(flat) == 90  # hidden neurons alone: the head is not ranked
        assert int((flat < 1).sum()) == 18
        assert bool(((flat[flat < 1] >= 0) & (flat[flat < 1] <= 0.1)).all())


# Eq. 5: which weights, and by how much


def entry_mask(masks: Sequence[Sequence[float]], side: str, layer: int, row: int, column: int | None) -> float:
    """The factor on one weight (or, without a column, on a bias) of a network 2-4-3-2, entry by entry."""
    incoming = masks[layer][row] if layer < 2 else 1.0
    if column is None:
        return incoming if side in ("in", "both") else 1.0
    outgoing = masks[layer - 1][column] if layer > 0 else 1.0
    return {
        "in": incoming,
        "out": outgoing,
        "both": min(incoming, outgoing),
        "and": max(incoming, outgoing) if incoming < 1.0 and outgoing < 1.0 else 1.0,
    }[side]


LAYERS = ("hidden.0", "hidden.1", "head")


@pytest.mark.parametrize("mask_on", ["update", "grad"])
@pytest.mark.parametrize("side", ["in", "out", "both", "and"])
def test_each_weight_is_braked_as_its_two_neurons_say(side, mask_on):
    bench = Bench({**TWO_OF_SEVEN, "mask_side": side, "mask_on": mask_on})
    bench.visit(1, same_scores(*FIRST))
    braked = 0
    for name, layer in itertools.product(NETWORKS, range(3)):
        brake = bench.brake()
        weight, bias = brake[f"{name}.{LAYERS[layer]}.weight"], brake[f"{name}.{LAYERS[layer]}.bias"]
        for row in range(len(bias)):
            assert float(bias[row]) == pytest.approx(entry_mask(FIRST_MASKS, side, layer, row, None))
            for column in range(weight.shape[1]):
                expected = entry_mask(FIRST_MASKS, side, layer, row, column)
                assert float(weight[row, column]) == pytest.approx(expected), (name, layer, row, column)
                braked += expected < 1.0
    # Incoming: 2 + 4 weights; outgoing: 3 + 2; either: 11 less the one that is both.
    assert braked == 3 * {"in": 6, "out": 5, "both": 10, "and": 1}[side]


def test_the_bias_can_be_left_free():
    bench = Bench({**TWO_OF_SEVEN, "mask_bias": False})
    bench.visit(1, same_scores(*FIRST))
    brake = bench.brake()
    assert all(bool((factor == 1.0).all()) for name, factor in brake.items() if name.endswith("bias"))
    assert brake["qf.hidden.0.weight"][0].tolist() == pytest.approx([0.02, 0.02])


def test_the_last_layer_is_free_or_masked_by_the_mean_skill_mask():
    for masked, factor in ((False, 1.0), (True, (0.02 + 0.01) / 2)):
        bench = Bench({**TWO_OF_SEVEN, "mask_last_layer": masked})
        bench.visit(1, same_scores(*FIRST))
        brake = bench.brake()
        for name in NETWORKS:
            assert brake[f"{name}.head.weight"].flatten().tolist() == pytest.approx([factor] * 6)
            assert brake[f"{name}.head.bias"].tolist() == pytest.approx([factor] * 2)


def test_the_last_layer_is_free_as_long_as_there_is_no_skill_neuron():
    brake = Bench({"mask_last_layer": True}).brake()
    assert all(bool((factor == 1.0).all()) for factor in brake.values())


def test_mask_0_keeps_row_and_bias_to_the_last_bit_under_a_warm_adam():
    # Neuron 2 of the first layer agrees with the goal at every step: Score 1, mask 0.
    bench = Bench({"skill_frac": 0.15}, optimizer=adam())
    bench.steps(20)
    bench.visit(1, same_scores([0.6, 0.6, 1.0, 0.6], [0.6] * 3))
    start = bench.weights()
    bench.steps(50)
    end = bench.weights()
    for name in NETWORKS:
        weight, bias = f"{name}.hidden.0.weight", f"{name}.hidden.0.bias"
        assert torch.equal(start[weight][2], end[weight][2])
        assert torch.equal(start[bias][2], end[bias][2])
        others = [0, 1, 3]
        assert bool((start[weight][others] != end[weight][others]).all())
        assert bool((start[bias][others] != end[bias][others]).all())
        assert bool((start[f"{name}.hidden.1.weight"] != end[f"{name}.hidden.1.weight"]).all())  # column 2 included


def test_mask_0_on_the_gradient_lets_a_warm_adam_drift_on():
    # Why the step is masked and not the gradient: the moments go on without one.
    bench = Bench({"skill_frac": 0.15, "mask_on": "grad"}, optimizer=adam())
    bench.steps(20)
    bench.visit(1, same_scores([0.6, 0.6, 1.0, 0.6], [0.6] * 3))
    start = bench.weights()
    bench.step()
    assert bool((start["qf.hidden.0.weight"][2] != bench.weights()["qf.hidden.0.weight"][2]).all())


@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-4, 1.0])
def test_each_step_of_a_braked_row_is_its_mask_times_the_unbraked_step(eps):
    bench = Bench(TWO_OF_SEVEN, optimizer=adam(eps))
    bench.steps(5)
    bench.visit(1, same_scores(*FIRST))
    for _ in range(20):
        free = copy.deepcopy(bench)
        free.method = NeuronLevelBalance(NBSPSettings(), free.agent, ReplaySettings())
        before, gradients = bench.weights(), bench.random_gradients()
        bench.step(gradients)
        free.step(gradients)
        braked, unbraked = bench.weights(), free.weights()
        for name, old in before.items():
            masks = FIRST_MASKS[int(name.split(".")[2])] if "hidden" in name else [1.0, 1.0]
            mask = torch.tensor(masks, dtype=torch.float32).double().view(-1, *[1] * (old.dim() - 1))
            assert torch.allclose(braked[name] - old, mask * (unbraked[name] - old), rtol=1e-9, atol=1e-15), name
            rows = (mask == 1.0).flatten()
            assert torch.equal(braked[name][rows], unbraked[name][rows])


def test_a_braked_row_that_somebody_else_writes_between_two_updates_goes_on_from_there():
    bench = Bench(TWO_OF_SEVEN, optimizer=adam())
    bench.steps(5)
    bench.visit(1, same_scores(*FIRST))
    bench.steps(3)
    with torch.no_grad():
        for parameter in bench.agent.networks["qf"].hidden.parameters():
            parameter.fill_(5.0)
    bench.step()
    for name, value in bench.weights().items():
        if name.startswith("qf.hidden"):
            assert bool((value - 5.0).abs().max() < 0.1), name
