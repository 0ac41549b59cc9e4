"""SAC's losses: values and gradients by hand, the squashed Gaussian against torch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from rllib_nbsp.nn.losses import (
    actor_loss,
    critic_loss,
    critic_target,
    expectation,
    sample_action,
    squashed_gaussian,
    temperature_loss,
)


def test_critic_target_by_hand():
    # r + gamma (1 - d) (Q' - alpha log pi): 1 + 0.5 (2 - 0.1 * -4) = 2.2; the terminal state's target is its reward;
    # 0 + 0.5 (-1 - 0.1 * 10) = -1.
    target = critic_target(
        rewards=tensor([1.0, 3.0, 0.0]),
        terminateds=tensor([False, True, False]),
        next_q=tensor([2.0, 100.0, -1.0]),
        next_logp=tensor([-4.0, 5.0, 10.0]),
        alpha=tensor([0.1]),
        gamma=0.5,
    )
    assert target.tolist() == pytest.approx([2.2, 3.0, -1.0])


def test_critic_loss_and_gradient_by_hand():
    # ((3 - 1)^2 + (0 - 4)^2) / 2 = 10; d/dQ = 2 (Q - y) / B = (2, -4).
    q, target = tensor([3.0, 0.0], requires_grad=True), tensor([1.0, 4.0])
    loss = critic_loss(q, target)
    loss.backward()
    assert loss.item() == 10.0
    assert q.grad.tolist() == [2.0, -4.0]


def test_critic_loss_is_squared_also_far_from_the_target():
    # RLlib's Huber loss would give 999.5 and a gradient of 1.
    q = tensor([1000.0], requires_grad=True)
    loss = critic_loss(q, tensor([0.0]))
    loss.backward()
    assert (loss.item(), q.grad.item()) == (1e6, 2000.0)


def test_actor_loss_and_gradients_by_hand():
    # mean(0.2 log pi - Q) = ((0.2 * 5 - 3) + (0.2 * -5 - 1)) / 2 = -2; d/dlog pi = 0.2 / 2, d/dQ = -1 / 2.
    logp, q = tensor([5.0, -5.0], requires_grad=True), tensor([3.0, 1.0], requires_grad=True)
    loss = actor_loss(logp, q, tensor([0.2]))
    loss.backward()
    assert loss.item() == pytest.approx(-2.0)
    assert logp.grad.tolist() == pytest.approx([0.1, 0.1])
    assert q.grad.tolist() == [-0.5, -0.5]


def test_temperature_loss_and_gradient_by_hand():
    # alpha = 2, H = -3: -2 * mean(1 - 3, 7 - 3) = -2; it is linear in alpha, so d/dlog alpha = alpha dL/dalpha = -2,
    # and the log probability is a constant.
    log_alpha = tensor([math.log(2.0)], requires_grad=True)
    logp = tensor([1.0, 7.0], requires_grad=True)
    loss = temperature_loss(log_alpha, logp, -3.0)
    loss.backward()
    assert loss.dim() == 0
    assert loss.item() == pytest.approx(-2.0)
    assert log_alpha.grad.item() == pytest.approx(-2.0)
    assert logp.grad is None


@pytest.mark.parametrize(("logp", "direction"), [(10.0, 1.0), (-10.0, -1.0)])
def test_temperature_rises_when_the_entropy_is_below_its_target(logp, direction):
    log_alpha = tensor([0.0], requires_grad=True)
    temperature_loss(log_alpha, tensor([logp]), -4.0).backward()  # entropy is -logp, the target -4
    assert math.copysign(1.0, -log_alpha.grad.item()) == direction


def test_log_standard_deviation_is_mapped_into_minus_5_to_2_by_hand():
    # tanh 0 = 0: -5 + 3.5 * 1 = -1.5; tanh(+-100) = +-1: 2 and -5. The mean is the head's first half.
    mean, log_std = squashed_gaussian(tensor([[0.3, -0.7, 9.0, 0.0, 100.0, -100.0]]))
    assert mean.tolist() == pytest.approx([pytest.approx([0.3, -0.7, 9.0])])
    assert log_std.tolist() == pytest.approx([pytest.approx([-1.5, 2.0, -5.0])])


def normal_parameters(rows: int = 500) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    mean, log_std, noise = (torch.randn(rows, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    return mean.requires_grad_(), log_std.requires_grad_(), noise


def squashed(mean: Tensor, log_std: Tensor) -> TransformedDistribution:
    return TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform(cache_size=1)])


def test_action_and_log_probability_equal_torchs_transformed_distribution():
    mean, log_std, noise = normal_parameters()
    action, logp = sample_action(mean, log_std, noise)
    distribution = squashed(mean, log_std)
    expected = torch.tanh(mean + log_std.exp() * noise)
    assert torch.equal(action, expected)
    inside = (action.abs() < 0.9999).all(-1)  # torch inverts tanh, which loses digits at the ends
    assert inside.sum() > 300
    assert torch.allclose(logp[inside], distribution.log_prob(action)[inside], rtol=1e-7, atol=1e-7)


def test_gradients_of_action_and_log_probability_are_those_of_a_reparameterised_sample():
    mean, log_std, noise = normal_parameters(20)
    action, logp = sample_action(mean, log_std, noise)
    ours = torch.autograd.grad(logp.sum() + action.square().sum(), (mean, log_std))
    u = mean + log_std.exp() * noise
    transform = TanhTransform(cache_size=1)
    expected = Normal(mean, log_std.exp()).log_prob(u) - transform.log_abs_det_jacobian(u, torch.tanh(u))
    theirs = torch.autograd.grad(expected.sum() + torch.tanh(u).square().sum(), (mean, log_std))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_log_probability_by_hand_at_the_origin():
    # u = 0: the slope of tanh is 1, so log pi = A log N(0; 0, 1) = -A/2 log(2 pi).
    _, logp = sample_action(torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(1, 4))
    assert logp.item() == pytest.approx(-2.0 * math.log(2.0 * math.pi))


def test_log_probability_is_finite_and_exact_where_tanh_has_saturated():
    # log(1 - tanh(u)^2) -> 2 log 2 - 2 |u|: at u = 30 in float32 the naive form is log 0.
    for sign in (1.0, -1.0):
        action, logp = sample_action(tensor([[30.0 * sign]]), tensor([[0.0]]), tensor([[0.0]]))
        assert action.item() == sign
        assert logp.item() == pytest.approx(-0.5 * math.log(2 * math.pi) - (2 * math.log(2.0) - 60.0))


def test_density_integrates_to_one():
    # One dimension, mean 0.3, standard deviation 0.5: the density over the open interval, by the midpoint rule.
    edges = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    actions = 0.5 * (edges[1:] + edges[:-1])
    noise = ((torch.atanh(actions) - 0.3) / 0.5).unsqueeze(1)
    mean, log_std = torch.full_like(noise, 0.3), torch.full_like(noise, math.log(0.5))
    _, logp = sample_action(mean, log_std, noise)
    assert float(logp.exp().sum() * 1e-4) == pytest.approx(1.0, abs=1e-6)


# Discrete actions: two states, two actions

PROBS = tensor([[0.5, 0.5], [0.8, 0.2]])
Q_VALUES = tensor([[1.0, 3.0], [2.0, -1.0]])


def test_expectations_of_a_batch_of_two_states_and_two_actions_by_hand():
    # 0.5 * 1 + 0.5 * 3 = 2; 0.8 * 2 - 0.2 * 1 = 1.4. Negative entropies: -log 2, and 0.8 log 0.8 + 0.2 log 0.2.
    log_probs = PROBS.log()
    assert expectation(log_probs, Q_VALUES).tolist() == pytest.approx([2.0, 1.4])
    assert expectation(log_probs, log_probs).tolist() == pytest.approx([-0.693147, -0.500402], abs=1e-6)


def test_discrete_losses_of_that_batch_by_hand():
    # alpha = 0.5. Target: 1 + 0.9 (2 + 0.5 * 0.693147) = 3.111916; the second state is terminal: 7.
    # Actor: mean(0.5 * -0.693147 - 2, 0.5 * -0.500402 - 1.4) = -1.998387.
    # Temperature, H = 0.6: -0.5 mean(-0.693147 + 0.6, -0.500402 + 0.6) = -0.001613.
    log_probs, alpha = PROBS.log(), tensor([0.5])
    entropy, value = expectation(log_probs, log_probs), expectation(log_probs, Q_VALUES)
    target = critic_target(tensor([1.0, 7.0]), tensor([False, True]), value, entropy, alpha, 0.9)
    assert target.tolist() == pytest.approx([3.111916, 7.0], abs=1e-6)
    assert actor_loss(entropy, value, alpha).item() == pytest.approx(-1.998387, abs=1e-6)
    assert temperature_loss(alpha.log(), entropy, 0.6).item() == pytest.approx(-0.001613, abs=1e-6)


def test_the_discrete_actors_gradient_by_hand():
    # d/dlogit_b of sum_a pi_a (alpha log pi_a - Q_a) is pi_b ((alpha log pi_b - Q_b) - J), J the sum itself.
    logits = PROBS.log().requires_grad_()
    log_probs = torch.log_softmax(logits, -1)
    actor_loss(expectation(log_probs, log_probs), expectation(log_probs, Q_VALUES), tensor([0.5])).backward()
    inner = 0.5 * PROBS.log() - Q_VALUES
    total = (PROBS * inner).sum(-1, keepdim=True)
    assert torch.allclose(logits.grad, PROBS * (inner - total) / 2, atol=1e-6)


def test_a_logit_gap_of_200_stays_finite_with_its_gradients():
    logits = tensor([[200.0, 0.0], [-100.0, 100.0]], requires_grad=True)
    log_probs = torch.log_softmax(logits, -1)
    entropy, value = expectation(log_probs, log_probs), expectation(log_probs, Q_VALUES)
    loss = actor_loss(entropy, value, tensor([0.5]))
    loss.backward()
    assert entropy.tolist() == [0.0, 0.0]
    assert value.tolist() == [1.0, -1.0]
    assert bool(torch.isfinite(log_probs).all() and torch.isfinite(logits.grad).all() and torch.isfinite(loss))
