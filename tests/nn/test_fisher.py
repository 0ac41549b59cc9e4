"""The diagonal Fisher information against one gradient per sample, and against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Normal

from rllib_nbsp.nn.fisher import categorical, diagonal_fisher, gaussian, values
from rllib_nbsp.nn.networks import Network

ROWS = 9


def perceptron(out_features: int, activation: str = "relu") -> Network:
    generator = torch.Generator().manual_seed(0)
    return Network((3,), (6, 5), out_features, activation=activation, generator=generator).double()


def convolutional(out_features: int) -> Network:
    generator = torch.Generator().manual_seed(0)
    conv = ((5, 3, 2), (4, 2, 1))
    return Network((2, 8, 8), (6,), out_features, activation="relu", conv=conv, generator=generator).double()


def inputs(network: Network) -> Tensor:
    shape = (2, 8, 8) if network.hidden[0].weight.dim() == 4 else (3,)
    return torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_samples(
    network: Network, x: Tensor, scalars: Callable[[Tensor], list[tuple[Tensor, float]]], floor: float = 0.0
) -> list[Tensor]:
    """Mean over samples of their weighted squared gradients, one backward pass for each sample and scalar."""
    parameters = list(network.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for row in x:
        sample = [torch.zeros_like(p) for p in parameters]
        for scalar, weight in scalars(network(row[None])[0]):
            gradients = torch.autograd.grad(scalar, parameters, retain_graph=True)
            for part, gradient in zip(sample, gradients, strict=True):
                part += weight * gradient.square()
        for whole, part in zip(total, sample, strict=True):
            whole += part.clamp(min=floor) / len(x)
    return total


def assert_close(ours: list[Tensor], expected: list[Tensor]) -> None:
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-14)
    assert any(bool((part > 0).any()) for part in expected)


@pytest.mark.parametrize("make", [lambda: perceptron(1), lambda: perceptron(1, "tanh"), lambda: convolutional(1)])
def test_of_a_critic(make):
    network = make()
    x = inputs(network)
    assert_close(diagonal_fisher(network, x, values()), by_samples(network, x, lambda q: [(q[0], 1.0)]))


@pytest.mark.parametrize("floor", [0.0, 1e-3])
@pytest.mark.parametrize("make", [perceptron, convolutional])
def test_of_a_policy_over_actions(make, floor):
    network = make(3)
    x = inputs(network)

    def scalars(logits: Tensor) -> list[tuple[Tensor, float]]:
        policy = Categorical(logits=logits)
        return [(policy.logits[a], policy.probs[a].item()) for a in range(3)]

    expected = by_samples(network, x, scalars, floor)
    assert_close(diagonal_fisher(network, x, categorical, floor=floor), expected)
    if floor:  # it is neither above nor below everything, nor the same if it comes after the mean
        plain = by_samples(network, x, scalars)
        assert any(bool((part > floor).any()) for part in plain) and any(bool((part < floor).any()) for part in plain)
        assert any(bool((a > 1.1 * b.clamp(min=floor)).any()) for a, b in zip(expected, plain, strict=True))


def test_of_a_critic_with_a_value_per_action():
    network = convolutional(3)
    x, actions = inputs(network), torch.arange(ROWS) % 3
    taken = iter(actions.tolist())
    assert_close(
        diagonal_fisher(network, x, values(actions)), by_samples(network, x, lambda q: [(q[next(taken)], 1.0)])
    )


def test_of_a_gaussian_policy_is_the_expected_squared_score():
    # E_a [(d log N(a; mu, sigma))^2] over many samples, for the gradients of mu and log sigma at the head's bias.
    network = perceptron(4)
    x = inputs(network)[:1]
    fisher = diagonal_fisher(network, x, gaussian())
    bias = network.head.bias
    mean, raw = network(x)[0].chunk(2)
    log_std = -5 + 3.5 * (torch.tanh(raw) + 1)
    torch.manual_seed(0)
    draws = (mean + log_std.exp() * torch.randn(4000, 2, dtype=torch.float64)).detach()
    scores = [
        torch.autograd.grad(Normal(mean, log_std.exp()).log_prob(draw).sum(), bias, retain_graph=True)[0]
        for draw in draws
    ]
    estimate = torch.stack(scores).square().mean(0)
    assert torch.allclose(fisher[-1], estimate, rtol=0.15)


def test_of_a_linear_gaussian_policy_in_one_dimension_by_hand():
    # mu = w x + b with sigma held at s: F_w = x^2 / s^2, F_b = 1 / s^2.
    network = Network((1,), (), 2, activation="relu", generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[0.7], [0.0]]))
        network.head.bias.copy_(torch.tensor([0.1, 0.0]))  # tanh(0) is the middle: log sigma = -1.5
    s = math.exp(-1.5)
    weight, bias = diagonal_fisher(network, torch.tensor([[2.0], [4.0]], dtype=torch.float64), gaussian())
    assert weight[0, 0].item() == pytest.approx((4 + 16) / 2 / (s * s + 1e-6), rel=1e-9)
    assert bias[0].item() == pytest.approx(1 / (s * s + 1e-6), rel=1e-9)
    # The deviation's part: 2 (d sigma)^2 / sigma^2 with d sigma / d raw = sigma * 3.5 (1 - tanh(0)^2).
    assert bias[1].item() == pytest.approx(2 * 3.5**2, rel=1e-4)


def test_the_floor_is_each_samples_and_not_the_means_by_hand():
    # The policy above at x = 0 and x = 2: F_w = x^2 / s^2 is 0 and 4 e^3 = 80.3. With a floor of 10 their mean is
    # (10 + 80.3) / 2 = 45.2, where a floor under the mean would leave 40.2.
    network = Network((1,), (), 2, activation="relu", generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[0.7], [0.0]]))
        network.head.bias.zero_()
    weight, bias = diagonal_fisher(network, torch.tensor([[0.0], [2.0]], dtype=torch.float64), gaussian(), floor=10.0)
    assert weight[0, 0].item() == pytest.approx(45.17, abs=0.01)
    assert bias.tolist() == pytest.approx([20.085, 24.5], abs=0.01)  # 1 / s^2 and 2 * 3.5^2, above it


def test_the_mean_after_tanh_counts_less_where_it_is_saturated():
    network = perceptron(2)
    with torch.no_grad():
        network.head.bias[0] = 5.0
    x = inputs(network)
    pre, post = (diagonal_fisher(network, x, gaussian(space))[-1] for space in ("pre", "post"))
    slope = 1 - torch.tanh(network(x)[:, 0].detach()) ** 2
    assert post[0] < pre[0] * float(slope.max()) ** 2 * 1.01
    assert torch.equal(post[1], pre[1])


def test_the_network_is_left_as_it_was():
    network = perceptron(1)
    before = [p.detach().clone() for p in network.parameters()]
    x = inputs(network)
    diagonal_fisher(network, x, values())
    assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))
    assert all(p.grad is None for p in network.parameters())
    assert not network.head._forward_hooks
    assert torch.equal(F.relu(network(x)), F.relu(network(x)))
