"""NBSP: which weights are braked, by how much, under which switch (Lan et al. 2025, Eq. 5-6; docs/readings.md R12)."""

from __future__ import annotations

import copy
import itertools
import logging
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from rllib_nbsp.curriculum import Curriculum
from rllib_nbsp.methods.agent import Agent, Batch, VisitData
from rllib_nbsp.methods.nbsp import NBSPSettings, NeuronLevelBalance
from rllib_nbsp.nn.networks import NETWORKS, Network
from rllib_nbsp.nn.neurons import LayerStatistics, NeuronScores, select_top
from rllib_nbsp.settings import BoundarySettings, ReplaySettings
from tests.tiny import (
    assert_same,
    build_learner,
    end_visit,
    layer_with,
    parameters,
    random_scores,
    train,
    transitions,
    update,
    visit,
)

HIDDEN = (4, 3)
LR = 0.01

Gradients = dict[str, list[Tensor]]


def adam(eps: float = 1e-8) -> Callable[[Iterable[Tensor]], Optimizer]:
    return lambda params: Adam(params, lr=LR, eps=eps, fused=True)


def sgd(params: Iterable[Tensor]) -> Optimizer:
    return SGD(params, lr=1.0)


class Bench:
    """The method on three double-precision networks that are stepped by given gradients, without a Learner."""

    def __init__(
        self,
        keys: Mapping[str, Any] | None = None,
        *,
        optimizer: Callable[[Iterable[Tensor]], Optimizer] = sgd,
        replay: ReplaySettings | None = None,
        hidden: Sequence[int] = HIDDEN,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        networks = {
            name: Network((2,), hidden, 2, activation="relu", generator=generator).double() for name in NETWORKS
        }
        log_alpha = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.agent = Agent(
            networks=networks,
            targets={name: copy.deepcopy(networks[name]) for name in ("qf", "qf_twin")},
            optimizers={
                **{name: optimizer(net.parameters()) for name, net in networks.items()},
                "alpha": optimizer([log_alpha]),
            },
            log_alpha=log_alpha,
            generator=torch.Generator().manual_seed(seed),
            device=torch.device("cpu"),
            act_dim=1,
            sac_losses=lambda batch: {},
        )
        self.method = NeuronLevelBalance(NBSPSettings(**(keys or {})), self.agent, replay or ReplaySettings())
        self._gradients = torch.Generator().manual_seed(seed + 1)

    def random_gradients(self, names: Sequence[str] = NETWORKS) -> Gradients:
        """Normal noise; a Bench of the same seed draws the same."""
        return {
            name: [
                torch.randn(p.shape, generator=self._gradients, dtype=p.dtype)
                for p in self.agent.networks[name].parameters()
            ]
            for name in names
        }

    def ones(self) -> Gradients:
        return {name: [torch.ones_like(p) for p in net.parameters()] for name, net in self.agent.networks.items()}

    def step(self, gradients: Gradients | None = None, *, from_prior: bool = False) -> None:
        """One update: the method's hooks around the optimizers' step, as in the Learner."""
        for name, table in (gradients or self.random_gradients()).items():
            for param, gradient in zip(self.agent.networks[name].parameters(), table, strict=True):
                param.grad = gradient.clone()
        self.agent.log_alpha.grad = torch.ones_like(self.agent.log_alpha)
        empty = torch.empty(0)
        batch = Batch(empty, empty, empty, empty, empty, empty, torch.tensor([from_prior]))
        self.method.transform_gradients(batch)
        for optimizer in self.agent.optimizers.values():
            optimizer.step()
        self.method.after_step(batch)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def visit(self, number: int, scores: NeuronScores) -> None:
        """The end of that visit and the start of the next one."""
        data = VisitData(visit(number), scores=scores)
        self.method.on_visit_end(visit(number), data)
        self.method.on_visit_start(visit(min(number + 1, 4)), data)

    def weights(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value.clone()
            for name, net in self.agent.networks.items()
            for key, value in net.state_dict().items()
        }

    def brake(self) -> dict[str, Tensor]:
        """The factor on every single weight, seen from outside: the length of an SGD step on a gradient of ones."""
        assert isinstance(self.agent.optimizers["policy"], SGD)
        before = self.weights()
        self.step(self.ones())
        return {name: before[name] - value for name, value in self.weights().items()}


def scores_from(layers: Mapping[str, Sequence[Sequence[float]]], label_rate: float = 0.5) -> NeuronScores:
    """Scores with these accuracies (Eq. 3) per network and hidden layer."""
    return NeuronScores(
        {name: [layer_with(accuracy) for accuracy in table] for name, table in layers.items()}, label_rate, 1000
    )


def same_scores(*layers: Sequence[float]) -> NeuronScores:
    """The same accuracies in all three networks."""
    return scores_from(dict.fromkeys(NETWORKS, layers))


# Accuracies of 4 + 3 neurons. Scores: 0.9 0.6 0.8 0.5 | 0.7 0.95 0.5, so that the top two of seven are the second
# layer's neuron 1 and the first layer's neuron 0: masks 0.2 (1 - 0.95) = 0.01 and 0.2 (1 - 0.9) = 0.02.
FIRST = ([0.9, 0.6, 0.2, 0.5], [0.7, 0.95, 0.5])
TWO_OF_SEVEN = {"skill_frac": 0.3}
FIRST_MASKS = ([0.02, 1.0, 1.0, 1.0], [1.0, 0.01, 1.0])
# Scores 0.5 0.9 0.5 0.5 | 0.5 0.5 0.8: masks 0.02 and 0.04.
SECOND = ([0.5, 0.1, 0.5, 0.5], [0.5, 0.5, 0.8])
SECOND_MASKS = ([1.0, 0.02, 1.0, 1.0], [1.0, 1.0, 0.04])


def masks_of(bench: Bench, network: str = "policy") -> tuple[list[float], ...]:
    return tuple([round(value, 6) for value in mask.tolist()] for mask in bench.method.masks[network])


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


# Masks and optimizers (docs/readings.md R12)


@pytest.mark.parametrize("side", ["in", "out", "both", "and"])
def test_for_plain_sgd_masking_the_gradient_or_the_update_is_the_same(side):
    benches = [Bench({**TWO_OF_SEVEN, "mask_on": on, "mask_side": side}) for on in ("grad", "update")]
    for bench in benches:
        bench.visit(1, same_scores(*FIRST))
        bench.steps(20)
    first, second = (bench.weights() for bench in benches)
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=1e-9, atol=1e-12), name


def test_a_constant_mask_on_the_gradient_of_a_fresh_adam_is_no_mask():
    # With eps = 0 a constant factor cancels in m / sqrt(v).
    masked = Bench({"uniform_lr": 0.05, "mask_on": "grad"}, optimizer=adam(0.0))
    free = Bench(optimizer=adam(0.0))
    masked.visit(1, same_scores(*FIRST))
    for bench in (masked, free):
        bench.steps(100)
    for name, value in free.weights().items():
        assert torch.allclose(masked.weights()[name], value, atol=1e-6), name


def test_a_constant_mask_on_the_update_is_a_lower_learning_rate_of_the_hidden_layers():
    braked, slow = Bench({"uniform_lr": 0.3}, optimizer=adam()), Bench(optimizer=adam())
    braked.visit(1, same_scores(*FIRST))
    for name, net in slow.agent.networks.items():
        groups = [
            {"params": list(net.hidden.parameters()), "lr": 0.3 * LR},
            {"params": list(net.head.parameters()), "lr": LR},
        ]
        slow.agent.optimizers[name] = Adam(groups)  # type: ignore[index]
    for bench in (braked, slow):
        bench.steps(30)
    for name, value in slow.weights().items():
        assert torch.allclose(braked.weights()[name], value, rtol=1e-6, atol=1e-8), name


def make_stationary(optimizer: Optimizer) -> None:
    """Adam's state as after very many steps of unit normal gradients."""
    noise = torch.Generator().manual_seed(9)
    for param in optimizer.param_groups[0]["params"]:
        # The first moment of white noise has variance (1 - beta1) / (1 + beta1).
        first = torch.randn(param.shape, generator=noise, dtype=param.dtype) * (0.1 / 1.9) ** 0.5
        optimizer.state[param] = {
            "step": torch.tensor(1e6),
            "exp_avg": first,
            "exp_avg_sq": torch.ones_like(param),
        }


def test_a_mask_on_the_gradient_of_a_kept_adam_wears_off():
    # The step is c / sqrt(b2^n + (1 - b2^n) c^2) of the unmasked one, n steps after the mask was switched on.
    # The actor is masked, the critic is not, and both get the same gradients.
    c, beta2 = 0.08, 0.999
    bench = Bench({"uniform_lr": c, "mask_on": "grad", "modules": "actor"}, optimizer=adam(), hidden=(30, 20))
    twins = ("policy", "qf")
    for name in twins:
        make_stationary(bench.agent.optimizers[name])
    bench.visit(1, random_scores(0, (30, 20)))
    measured = {}
    for n in range(1, 4001):
        layers = [bench.agent.networks[name].hidden[1].weight for name in twins]
        before = [layer.detach().clone() for layer in layers]
        bench.step(dict.fromkeys(twins, bench.random_gradients(("policy",))["policy"]))
        masked, free = (float((layer.detach() - old).abs().sum()) for layer, old in zip(layers, before, strict=True))
        measured[n] = masked / free
    for n in (100, 1000, 4000):
        assert measured[n] == pytest.approx(c / (beta2**n + (1 - beta2**n) * c**2) ** 0.5, rel=0.1), n
    assert measured[100] < 0.1 < 0.4 < measured[4000]


def moments(bench: Bench, name: str = "qf") -> dict[str, tuple[Tensor, Tensor]]:
    state = bench.agent.optimizers[name].state
    return {
        key: (state[param]["exp_avg"].clone(), state[param]["exp_avg_sq"].clone())
        for key, param in bench.agent.networks[name].named_parameters()
    }


def test_grad_rescale_puts_the_moments_where_they_would_be_had_the_mask_always_held():
    keys = {**TWO_OF_SEVEN, "mask_on": "grad_rescale"}
    always, late = Bench(keys, optimizer=adam(0.0)), Bench(keys, optimizer=adam(0.0))
    always.visit(1, same_scores(*FIRST))
    for bench in (always, late):
        bench.steps(30)
    late.visit(1, same_scores(*FIRST))
    for (first, second), (m, v) in zip(moments(always).values(), moments(late).values(), strict=True):
        assert torch.allclose(m, first, rtol=1e-6, atol=1e-15)
        assert torch.allclose(v, second, rtol=1e-6, atol=1e-15)
    offset = {name: value - always.weights()[name] for name, value in late.weights().items()}
    for bench in (always, late):
        bench.steps(30)
    for name, value in late.weights().items():
        assert torch.allclose(value - always.weights()[name], offset[name], atol=1e-6), name


def test_grad_rescale_follows_every_change_of_the_masks_and_undoes_it():
    # Neuron 0 of the first layer: mask 1, then 0.02, then 1 again; the second moment goes with the square.
    bench = Bench({**TWO_OF_SEVEN, "mask_on": "grad_rescale"}, optimizer=adam())
    bench.steps(10)
    m, v = moments(bench)["hidden.0.weight"]
    bench.visit(1, same_scores(*FIRST))
    braked_m, braked_v = moments(bench)["hidden.0.weight"]
    factor = torch.tensor([0.02, 1.0, 1.0, 1.0], dtype=torch.float64).unsqueeze(1)
    assert torch.allclose(braked_m, factor * m, rtol=1e-6)
    assert torch.allclose(braked_v, factor.square() * v, rtol=1e-6)
    bench.visit(2, same_scores(*SECOND))
    after_m, after_v = moments(bench)["hidden.0.weight"]
    factor = torch.tensor([1.0, 0.02, 1.0, 1.0], dtype=torch.float64).unsqueeze(1)
    assert torch.allclose(after_m, factor * m, rtol=1e-6)
    assert torch.allclose(after_v, factor.square() * v, rtol=1e-6)


@pytest.mark.parametrize("accuracy", [0.999, 0.99, 0.6])
def test_grad_rescale_leaves_the_moments_alone_where_the_mask_stays(accuracy):
    bench = Bench({**TWO_OF_SEVEN, "mask_on": "grad_rescale"}, optimizer=adam())
    scores = same_scores([accuracy, 0.5, 0.5, 0.5], [0.5, accuracy, 0.5])
    bench.visit(1, scores)
    bench.steps(10)
    before = moments(bench)
    bench.visit(2, scores)
    for name, (m, v) in moments(bench).items():
        assert torch.allclose(m, before[name][0], rtol=1e-9, atol=0.0), name
        assert torch.allclose(v, before[name][1], rtol=1e-9, atol=0.0), name


@pytest.mark.parametrize("mask_on", ["update", "grad"])
def test_other_ways_of_masking_leave_the_moments_alone(mask_on):
    bench = Bench({**TWO_OF_SEVEN, "mask_on": mask_on}, optimizer=adam())
    bench.steps(10)
    before = moments(bench)
    bench.visit(1, same_scores(*FIRST))
    for name, pair in moments(bench).items():
        assert all(torch.equal(a, b) for a, b in zip(pair, before[name], strict=True))


def test_adams_moments_follow_the_true_gradient_under_masks_on_the_update():
    braked, free = Bench(TWO_OF_SEVEN, optimizer=adam()), Bench(optimizer=adam())
    braked.visit(1, same_scores(*FIRST))
    for bench in (braked, free):
        bench.steps(10)
    for pair, other in zip(moments(braked).values(), moments(free).values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair, other, strict=True))


# Masks over visits (docs/readings.md R15, R10)


def test_latest_is_the_last_scoring():
    bench = Bench(TWO_OF_SEVEN)
    bench.visit(1, same_scores(*FIRST))
    bench.visit(2, same_scores(*SECOND))
    assert masks_of(bench) == SECOND_MASKS


def test_min_is_the_smallest_mask_of_all_visits():
    bench = Bench({**TWO_OF_SEVEN, "accumulate": "min"})
    bench.visit(1, same_scores(*FIRST))
    bench.visit(2, same_scores(*SECOND))
    assert masks_of(bench) == ([0.02, 0.02, 1.0, 1.0], [1.0, 0.01, 0.04])


def test_min_never_rises():
    bench = Bench({"accumulate": "min"}, hidden=(30, 30))
    before = torch.ones(60)
    for number in range(1, 9):
        bench.visit(min(number, 4), random_scores(number, (30, 30)))
        now = torch.cat(bench.method.masks["qf"])
        assert bool((now <= before).all())
        before = now
    assert int((before < 1).sum()) > 30


def test_product_multiplies():
    bench = Bench({**TWO_OF_SEVEN, "accumulate": "product"})
    bench.visit(1, same_scores(*FIRST))
    # The same neurons again, less clearly: 0.2 (1 - 0.8) = 0.04 and 0.2 (1 - 0.7) = 0.06.
    bench.visit(2, same_scores([0.8, 0.5, 0.5, 0.5], [0.5, 0.7, 0.5]))
    assert masks_of(bench) == ([0.0008, 1.0, 1.0, 1.0], [1.0, 0.0006, 1.0])


def test_per_task_min_protects_the_other_tasks_alone():
    bench = Bench({**TWO_OF_SEVEN, "accumulate": "per_task_min"})
    # Tasks alternate: visit 1 and 3 are task 0, visit 2 and 4 task 1.
    bench.visit(1, same_scores(*FIRST))
    assert masks_of(bench) == FIRST_MASKS  # in visit 2 task 0 is protected
    bench.visit(2, same_scores(*SECOND))
    assert masks_of(bench) == SECOND_MASKS  # in visit 3 task 0 is trained again: task 1 alone is protected
    third = ([0.5, 0.5, 0.9, 0.5], [0.9, 0.5, 0.5])
    bench.visit(3, same_scores(*third))
    assert masks_of(bench) == ([1.0, 1.0, 0.02, 1.0], [0.02, 1.0, 1.0])  # task 0's latest masks, not its first


def test_recorded_masks_are_those_that_came_of_the_visits_scores():
    for accumulate in ("latest", "per_task_min"):
        bench = Bench({**TWO_OF_SEVEN, "accumulate": accumulate})
        for number, accuracy, masks in ((1, FIRST, FIRST_MASKS), (2, SECOND, SECOND_MASKS), (3, FIRST, FIRST_MASKS)):
            data = VisitData(visit(number), scores=same_scores(*accuracy))
            bench.method.on_visit_end(data.visit, data)
            arrays = bench.method.neuron_arrays()
            for i, layer in enumerate(masks):
                assert arrays[f"policy/{i}/mask"] == pytest.approx(np.array(layer))
            bench.method.on_visit_start(visit(number + 1), data)


def test_per_task_min_is_the_minimum_over_several_other_tasks():
    from rllib_nbsp.curriculum import Curriculum

    curriculum = Curriculum(["a", "b", "c"], 2)
    bench = Bench({**TWO_OF_SEVEN, "accumulate": "per_task_min"})
    for number, accuracy in ((1, FIRST), (2, SECOND)):
        data = VisitData(curriculum.visit(number), scores=same_scores(*accuracy))
        bench.method.on_visit_end(data.visit, data)
        bench.method.on_visit_start(curriculum.visit(number + 1), data)
    assert masks_of(bench) == ([0.02, 0.02, 1.0, 1.0], [1.0, 0.01, 0.04])


@pytest.mark.parametrize("accumulate", ["latest", "min", "product", "per_task_min"])
@pytest.mark.parametrize("label_rate", [0.0, 1.0])
def test_labels_that_never_change_keep_the_masks_and_warn(accumulate, label_rate, caplog):
    bench = Bench({**TWO_OF_SEVEN, "accumulate": accumulate})
    bench.visit(1, same_scores(*FIRST))
    with caplog.at_level(logging.WARNING, logger="rllib_nbsp.methods.nbsp"):
        degenerate = scores_from(dict.fromkeys(NETWORKS, SECOND), label_rate)
        bench.method.on_visit_end(visit(2), VisitData(visit(2), scores=degenerate))
    assert masks_of(bench) == FIRST_MASKS
    assert f"{100 * label_rate:.0f} %" in caplog.text
    assert "masks stay" in caplog.text


def test_a_visit_without_scores_is_an_error_unless_none_are_needed():
    with pytest.raises(ValueError, match=r"visit 1: .*needs the neurons' scores"):
        Bench().method.on_visit_end(visit(1), VisitData(visit(1)))
    replay_only = Bench({"skill_frac": 0.0})
    replay_only.method.on_visit_end(visit(1), VisitData(visit(1)))
    assert all(bool((factor == 1.0).all()) for factor in replay_only.brake().values())


# What ranks, and among whom


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


def statistics(counts: Sequence[Sequence[int]], mean_abs: Sequence[float]) -> LayerStatistics:
    layer = layer_with([0.5] * len(counts))
    return LayerStatistics(
        **{
            **vars(layer),
            "counts": torch.tensor(counts),
            "mean_abs_activation": torch.tensor(mean_abs, dtype=torch.float64),
        }
    )


# 100 steps, 90 of them with the goal. Cells: (above, goal), (above, not), (not above, goal), (neither).
#   neuron   counts           Acc    Score   balanced accuracy              E|h|   dormancy
#   0         0  0 90 10      0.10   0.90    (0 + 1) / 2 = 0.5              0      0       never above: constant
#   1        80  5 10  5      0.85   0.85    (8/9 + 1/2) / 2 = 0.694        1      0.8
#   2        45  0 45 10      0.55   0.55    (1/2 + 1) / 2 = 0.75           1.5    1.2
#   3        12 10 78  0      0.12   0.88    (2/15 + 0) / 2 = 0.067 -> 0.933  2.5    2
UNBALANCED = ([[0, 0, 90, 10], [80, 5, 10, 5], [45, 0, 45, 10], [12, 10, 78, 0]], [0.0, 1.0, 1.5, 2.5])


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


# Records and state


def test_masks_are_recorded_by_network_and_layer():
    bench = Bench(TWO_OF_SEVEN)
    bench.visit(1, same_scores(*FIRST))
    arrays = bench.method.neuron_arrays()
    assert sorted(arrays) == sorted(f"{name}/{i}/mask" for name in NETWORKS for i in range(2))
    assert arrays["qf/1/mask"].tolist() == pytest.approx([1.0, 0.01, 1.0])


@pytest.mark.parametrize("accumulate", ["latest", "min", "product", "per_task_min"])
@pytest.mark.parametrize("mask_on", ["update", "grad", "grad_rescale"])
def test_state_round_trip_in_the_middle_of_a_visit(accumulate, mask_on):
    keys = {**TWO_OF_SEVEN, "accumulate": accumulate, "mask_on": mask_on}
    bench = Bench(keys, optimizer=adam())
    bench.visit(1, same_scores(*FIRST))
    bench.steps(5)
    other = Bench(keys, optimizer=adam(), seed=3)
    other.agent.restore(bench.agent.snapshot())
    other.method.set_state(pickle.loads(pickle.dumps(bench.method.get_state())))
    assert other.method.metrics() == bench.method.metrics()
    for pair, expected in zip(moments(other).values(), moments(bench).values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair, expected, strict=True))
    for number, accuracy in ((2, SECOND), (3, FIRST)):
        for _ in range(3):
            gradients = bench.random_gradients()
            bench.step(gradients)
            other.step(gradients)
        for one in (bench, other):
            one.visit(number, same_scores(*accuracy))
        assert masks_of(other) == masks_of(bench)
    assert_same(other.weights(), bench.weights())


# In the Learner


def masked(keys: Mapping[str, Any]) -> dict[str, Tensor]:
    """A run of two visits with random scores between them."""
    learner = build_learner("nbsp", keys)
    train(learner, range(15))
    data = end_visit(learner, 1, random_scores(0))
    learner.boundary_reset(BoundarySettings())
    learner.visit_start(visit(2), data)
    train(learner, range(15, 40))
    return parameters(learner)


def fine_tuned() -> dict[str, Tensor]:
    learner = build_learner("sac")
    train(learner, range(15))
    data = end_visit(learner, 1, None)
    learner.boundary_reset(BoundarySettings())
    learner.visit_start(visit(2), data)
    train(learner, range(15, 40))
    return parameters(learner)


@pytest.mark.parametrize("keys", [{"uniform_lr": 1.0}, {"skill_frac": 0.0}, {"mask_on": "grad", "uniform_lr": 1.0}])
def test_mask_1_is_sac_bit_for_bit(keys):
    assert_same(masked(keys), fine_tuned())


def test_masks_do_change_what_is_learned():
    sac, nbsp = fine_tuned(), masked({})
    assert all(not torch.equal(sac[name], nbsp[name]) for name in sac)


def test_rows_without_a_mask_take_sacs_step_to_the_last_bit():
    sac, nbsp = build_learner(), build_learner("nbsp")
    end_visit(nbsp, 1, random_scores(0))
    before = parameters(sac)
    for learner in (sac, nbsp):
        update(learner, transitions(0))
    plain, braked = parameters(sac), parameters(nbsp)
    for name, i in itertools.product(NETWORKS, range(2)):
        mask = nbsp.method.masks[name][i]
        for part in ("weight", "bias"):
            key = f"{name}.hidden.{i}.{part}"
            free = mask == 1.0
            assert torch.equal(plain[key][free], braked[key][free])
            rows = [mask[~free].view(-1, *[1] * (plain[key].dim() - 1))]
            step = (plain[key] - before[key])[~free]
            assert torch.allclose((braked[key] - before[key])[~free], rows[0] * step, rtol=1e-3, atol=1e-7)
    assert torch.equal(plain["log_alpha"], braked["log_alpha"])


def test_a_frozen_neuron_stays_in_a_warm_learner_and_the_rest_of_its_layer_moves():
    # mask_alpha 0 freezes whatever is chosen.
    learner = build_learner("nbsp", {"mask_alpha": 0.0})
    train(learner, range(20))
    end_visit(learner, 1, random_scores(0))
    before = parameters(learner)
    train(learner, range(20, 70))
    after = parameters(learner)
    for name, i in itertools.product(NETWORKS, range(2)):
        frozen = learner.method.masks[name][i] == 0.0
        for part in ("weight", "bias"):
            key = f"{name}.hidden.{i}.{part}"
            assert torch.equal(before[key][frozen], after[key][frozen])
            moved = (before[key] != after[key]).flatten(1).any(1) if part == "weight" else before[key] != after[key]
            assert int(moved[~frozen].sum()) >= int((~frozen).sum()) - 1  # a dead unit may stand still
    assert all(not torch.equal(before[f"{n}.head.weight"], after[f"{n}.head.weight"]) for n in NETWORKS)


def test_clipping_comes_after_the_mask_on_the_gradient():
    # A gradient that a mask of 0 has removed must not count in the norm.
    clip = 0.05
    learner = build_learner("nbsp", {"mask_on": "grad", "uniform_lr": 0.0}, training={"grad_clip": clip})
    end_visit(learner, 1, random_scores(0))
    update(learner, transitions(0))
    for name in NETWORKS:
        network = learner.agent.networks[name]
        assert all(bool((p.grad == 0.0).all()) for p in network.hidden.parameters())
        norm = sum(float(p.grad.square().sum()) for p in network.head.parameters()) ** 0.5
        assert norm == pytest.approx(clip, rel=1e-3)


def test_actor_and_critics_are_masked_on_replayed_batches_too():
    # docs/readings.md R16.
    learner = build_learner("nbsp", {"uniform_lr": 0.0})
    end_visit(learner, 1, random_scores(0))
    before = parameters(learner)
    for k in range(4):
        update(learner, transitions(k, from_prior=k % 2 == 0))
    after = parameters(learner)
    assert all(torch.equal(before[name], after[name]) for name in before if ".hidden." in name and "target" not in name)


def test_the_real_selection_and_the_masks_agree():
    # The independent way round: rank all hidden neurons of a network by hand from the scores.
    scores = random_scores(5)
    learner = build_learner("nbsp")
    end_visit(learner, 1, scores)
    for name, layers in scores.layers.items():
        expected = select_top({name: [layer.score for layer in layers]}, 0.2, "network")[name]
        for mask, chosen, layer in zip(learner.method.masks[name], expected, layers, strict=True):
            assert torch.equal(mask < 1, chosen)
            assert torch.allclose(mask[chosen].double(), 0.2 * (1 - layer.score[chosen]), atol=1e-7)


def test_a_given_factor_needs_no_scores():
    assert NeuronLevelBalance.scoring(NBSPSettings(uniform_lr=0.3)) is None
    assert NeuronLevelBalance.scoring(NBSPSettings(uniform_lr="skill")) is not None
    learner = build_learner("nbsp", {"uniform_lr": 0.3, "modules": "actor"})
    visit = Curriculum(["a", "b"], 1).visit(1)
    learner.visit_end(visit, VisitData(visit))
    assert {name: float(layers[0][0]) for name, layers in learner.method.masks.items()} == pytest.approx(
        {"policy": 0.3, "qf": 1.0, "qf_twin": 1.0}
    )
