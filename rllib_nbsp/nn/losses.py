"""SAC's losses as pure functions of tensors (Haarnoja et al. 2018; Lan et al. 2025, Algorithm 2, lines 12-15).

The forms are CleanRL's, which the paper says it follows: squared error without 1/2, and a temperature loss in alpha
itself (RLlib has a Huber loss and one linear in log alpha). Algorithm 2 leaves out the factor (1 - d) and ascends the
actor's loss; both are slips that we do not follow. B is the batch, all tensors have shape (B,) unless said.

With discrete actions the same losses take expectations over the policy in place of samples (Christodoulou 2019): the
log-probability becomes `sum_a pi(a|s) log pi(a|s)` and a value `sum_a pi(a|s) min_j Q_j(s, a)`, both by `expectation`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


def critic_target(
    rewards: Tensor, terminateds: Tensor, next_q: Tensor, next_logp: Tensor, alpha: Tensor, gamma: float
) -> Tensor:
    """`y = r + gamma (1 - d) (min_j Q'_j(s', a') - alpha log pi(a'|s'))` (Algorithm 2, line 12).

    `terminateds` is true for terminal states alone: a time limit's truncation bootstraps.
    """
    return rewards + gamma * (1.0 - terminateds.to(rewards.dtype)) * (next_q - alpha * next_logp)


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Mean of `(Q(s, a) - y)^2` (Algorithm 2, line 13)."""
    return F.mse_loss(q, target)


def actor_loss(logp: Tensor, q: Tensor, alpha: Tensor) -> Tensor:
    """Mean of `alpha log pi(a|s) - min_j Q_j(s, a)`, a reparameterised (Algorithm 2, line 14, descended).

    The gradient flows through the action, or with discrete actions through the probabilities and not through Q.
    """
    return (alpha * logp - q).mean()


def temperature_loss(log_alpha: Tensor, logp: Tensor, target_entropy: float) -> Tensor:
    """Mean of `-alpha (log pi(a|s) + H)` (Algorithm 2, line 15), a scalar; `logp` is a constant here."""
    return -(log_alpha.exp() * (logp.detach() + target_entropy)).mean()


def squashed_gaussian(head: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of the Gaussian before tanh, each (B, A), from an actor's head (B, 2A).

    The log standard deviation is mapped by tanh into [-5, 2], as CleanRL does.
    """
    mean, raw = head.chunk(2, dim=-1)
    log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(raw) + 1.0)
    return mean, log_std


def sample_action(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A reparameterised action in (-1, 1), shape (B, A), and its log probability.

    The change of variables is exact: `log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u))`, where CleanRL adds 1e-6.

    Args:
        mean, log_std: of the Gaussian before tanh, (B, A).
        noise: standard normal, (B, A).
    """
    u = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    log_slope = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
    return torch.tanh(u), (gaussian - log_slope).sum(-1)


def expectation(log_probs: Tensor, values: Tensor) -> Tensor:
    """`sum_a pi(a|s) values(s, a)`, shape (B,), from log probabilities and values of shape (B, n)."""
    return (log_probs.exp() * values).sum(-1)
