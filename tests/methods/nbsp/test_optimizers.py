"""What a mask on the update or on the gradient does to an optimizer's steps and moments (docs/readings.md R12)."""

from __future__ import annotations

import pytest
import torch
from torch.optim import Adam, Optimizer

from rllib_nbsp.methods.parts.braking import rows_of
from rllib_nbsp.nn.networks import NETWORKS
from tests.methods.nbsp.bench import FIRST, LR, SECOND, TWO_OF_SEVEN, Bench, adam, moments, same_scores
from tests.tiny import random_scores


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


# What a training row says of it


@pytest.mark.parametrize(("on", "ratio"), [("update", (3 * 0.02 + 5 * 0.01) / 8), ("grad", 1.0), ("grad_rescale", 1.0)])
def test_the_ratio_of_masked_to_unmasked_steps_by_hand(on, ratio):
    # A fresh Adam's first step is lr for every weight, whatever its gradient. Masked are a neuron of the first layer
    # (2 weights and a bias, by 0.02) and one of the second (4 and a bias, by 0.01).
    bench = Bench({**TWO_OF_SEVEN, "mask_on": on}, optimizer=adam(0.0))
    assert not any("step_ratio" in name for name in bench.method.metrics())
    bench.visit(1, same_scores(*FIRST))
    bench.step()
    metrics = bench.method.metrics()
    for name in NETWORKS:
        assert metrics[f"masked_step_ratio_{name}"] == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("on", ["update", "grad", "grad_rescale"])
@pytest.mark.parametrize("keys", [{}, {"mask_side": "both"}, {"mask_side": "out"}, {"mask_bias": False}])
def test_the_ratio_is_that_of_the_weights_own_changes(on, keys):
    bench = Bench({"mask_on": on, "skill_frac": 0.3, **keys}, optimizer=adam(), hidden=(20, 15))
    bench.steps(30)
    bench.visit(1, random_scores(0, (20, 15)))
    bench.steps(30)
    before = bench.weights()
    bench.step()
    after, metrics = bench.weights(), bench.method.metrics()
    for name in NETWORKS:
        named = {param: f"{name}.{key}" for key, param in bench.agent.networks[name].named_parameters()}
        masked, free = [], []
        for param, mask in bench.method._weight_masks(name, bench.method.masks):
            if "head" not in named[param]:
                moved = rows_of(after[named[param]] - before[named[param]]).abs()
                is_masked = (mask < 1.0).expand_as(moved)
                masked.append(moved[is_masked])
                free.append(moved[~is_masked])
        expected = float(torch.cat(masked).mean() / torch.cat(free).mean())
        assert metrics[f"masked_step_ratio_{name}"] == pytest.approx(expected, rel=1e-3)


def test_a_mask_on_the_gradient_brakes_next_to_nothing_and_one_on_the_update_does():
    ratios = {}
    for on in ("update", "grad"):
        bench = Bench({"mask_on": on}, optimizer=adam(), hidden=(30, 20))
        bench.visit(1, random_scores(0, (30, 20)))
        bench.steps(200)
        ratios[on] = bench.method.metrics()["masked_step_ratio_policy"]
    assert ratios["update"] < 0.15 < 0.8 < ratios["grad"] < 1.25
