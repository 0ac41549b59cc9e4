"""Dormancy, ranks, norms, gradients and churn, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import Adam

from rllib_nbsp.nn import plasticity

# Neurons


def test_dormant_and_dead_shares_by_hand():
    # The mean of 0, 0.025, 1, 2.975 is 1: at 0.025 the first two are dormant, at 0 the first alone.
    activity = torch.tensor([0.0, 0.025, 1.0, 2.975])
    assert float(plasticity.dormant_share(activity, 0.025)) == 0.5
    assert float(plasticity.dormant_share(activity, 0.0)) == 0.25
    assert plasticity.is_dormant(activity, 0.025).tolist() == [True, True, False, False]


def test_in_a_layer_that_is_0_every_neuron_is_dead():
    assert float(plasticity.dormant_share(torch.zeros(3), 0.0)) == 1.0


def test_active_share_by_hand():
    # Of 2 x 4 activities 3 are above 0.
    assert float(plasticity.active_share(torch.tensor([[0.0, 1.0, -2.0, 3.0], [0.0, 0.0, 4.0, -1.0]]))) == 3 / 8


# Features


def test_ranks_by_hand():
    # Two rows of orthogonal features, of lengths 5 and 1.
    values = plasticity.singular_values(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]))
    assert values.tolist() == pytest.approx([5.0, 1.0])
    assert float(plasticity.stable_rank(values)) == pytest.approx(26 / 25)
    shares = (5 / 6, 1 / 6)
    assert float(plasticity.effective_rank(values)) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))
    assert float(plasticity.srank(values)) == 2  # 5 / 6 is less than 0.99
    assert float(plasticity.srank(values, delta=0.2)) == 1


@pytest.mark.parametrize("rank", [plasticity.stable_rank, plasticity.effective_rank, plasticity.srank])
def test_ranks_of_equal_one_and_no_singular_values(rank):
    assert float(rank(torch.full((7,), 2.0))) == pytest.approx(7.0)
    assert float(rank(torch.tensor([3.0, 0.0, 0.0]))) == pytest.approx(1.0)
    assert float(rank(torch.zeros(3))) == 0.0


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 100))
def test_no_rank_is_above_the_matrix_rank_nor_do_they_depend_on_scale_and_rotation(rows, neurons, seed):
    rng = np.random.default_rng(seed)
    inner = rng.integers(1, min(rows, neurons) + 1)
    features = rng.normal(size=(rows, inner)) @ rng.normal(size=(inner, neurons))
    turned = 7.0 * features @ np.linalg.qr(rng.normal(size=(neurons, neurons)))[0]
    for rank in (plasticity.stable_rank, plasticity.effective_rank, plasticity.srank):
        found = float(rank(plasticity.singular_values(torch.from_numpy(features))))
        assert 1.0 - 1e-6 <= found <= inner + 1e-6
        assert found == pytest.approx(float(rank(plasticity.singular_values(torch.from_numpy(turned)))))


def test_features_that_are_not_finite_have_no_rank_and_no_error():
    values = plasticity.singular_values(torch.tensor([[1.0, torch.inf], [0.0, 1.0]]))
    for rank in (plasticity.stable_rank, plasticity.effective_rank, plasticity.srank):
        assert math.isnan(float(rank(values)))


# Weights


def test_norm_and_distance_by_hand():
    first = [torch.tensor([[1.0, 2.0]]), torch.tensor([2.0])]
    assert float(plasticity.norm(first)) == 3.0
    assert float(plasticity.distance(first, [torch.tensor([[1.0, 5.0]]), torch.tensor([6.0])])) == 5.0


# Gradients and steps


def stepped(gradients: list[list[float]], betas: tuple[float, float] = (0.9, 0.999)) -> tuple[Adam, torch.Tensor]:
    param = torch.nn.Parameter(torch.zeros(len(gradients[0])))
    optimizer = Adam([param], lr=0.1, betas=betas, eps=0.0)
    for gradient in gradients:
        param.grad = torch.tensor(gradient)
        optimizer.step()
    return optimizer, param


def test_after_one_step_the_mean_square_is_of_that_gradient_and_the_step_is_lr():
    optimizer, param = stepped([[3.0, -4.0]])
    assert plasticity.mean_square_gradient(optimizer, param).tolist() == pytest.approx([9.0, 16.0], rel=1e-4)
    assert plasticity.adam_step(optimizer, param).tolist() == pytest.approx([0.1, -0.1], rel=1e-4)


def test_the_mean_of_squared_gradients_by_hand():
    # beta2 = 0.5: after 1 and 3, v = 0.5 (0.5 * 1) + 0.5 * 9 = 4.75, and 4.75 / (1 - 0.25) = 19 / 3.
    optimizer, param = stepped([[1.0], [3.0]], betas=(0.0, 0.5))
    assert plasticity.mean_square_gradient(optimizer, param).tolist() == pytest.approx([19 / 3])
    assert plasticity.adam_step(optimizer, param).tolist() == pytest.approx([0.1 * 3 / math.sqrt(19 / 3)])


def test_the_step_is_what_the_optimizer_did():
    rng = np.random.default_rng(0)
    optimizer, param = stepped(rng.normal(size=(20, 50)).tolist())
    before = param.detach().clone()
    param.grad = torch.from_numpy(rng.normal(size=50)).float()
    optimizer.step()
    assert torch.allclose(before - param.detach(), plasticity.adam_step(optimizer, param), rtol=1e-4, atol=1e-6)


def test_before_the_first_step_there_are_none():
    param = torch.nn.Parameter(torch.ones(2))
    optimizer = Adam([param])
    assert plasticity.mean_square_gradient(optimizer, param).tolist() == [0.0, 0.0]
    assert plasticity.adam_step(optimizer, param).tolist() == [0.0, 0.0]


# Outputs


def test_churn_by_hand():
    before, after = torch.tensor([[0.0, 1.0], [0.5, 0.5]]), torch.tensor([[0.2, 0.8], [0.5, 0.5]])
    # Four differences: 0.2, 0.2, 0, 0. As distributions: total variations of 0.2 and 0.
    assert float(plasticity.churn(before, after)) == pytest.approx(0.1)
    assert float(plasticity.churn(before, after, distributions=True)) == pytest.approx(0.1)
    three = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    assert float(plasticity.churn(*three)) == pytest.approx(2 / 3)
    assert float(plasticity.churn(*three, distributions=True)) == 1.0
