"""How long masked steps are beside the others."""

from __future__ import annotations

import pytest
import torch

from rllib_nbsp.methods.parts.braking import step_ratio


def test_the_ratio_of_two_parameters_together_by_hand():
    # Masked: the first row, 1 and 3, and the last entry, 5: mean 3. The others: 2, 2 and 14: mean 6.
    weights = torch.tensor([[1.0, -3.0], [2.0, -2.0]]), torch.tensor([[0.1], [1.0]])
    biases = torch.tensor([14.0, -5.0]), torch.tensor([[1.0], [0.0]])
    assert step_ratio([weights, biases]) == 0.5


def test_masks_of_single_weights_count_by_weight():
    step, mask = torch.tensor([[1.0, 4.0]]), torch.tensor([[0.5, 1.0]])
    assert step_ratio([(step, mask)]) == 0.25


@pytest.mark.parametrize("mask", [0.5, 1.0])
def test_where_all_or_nothing_is_masked_there_is_none(mask):
    assert step_ratio([(torch.ones(2, 3), torch.full((2, 1), mask))]) is None


def test_where_nothing_moves_there_is_none():
    assert step_ratio([(torch.zeros(2, 3), torch.tensor([[0.5], [1.0]]))]) is None
