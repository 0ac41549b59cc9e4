"""What goes with a loss of plasticity: numbers of neurons, features, weights, gradients and outputs. Pure tensors.

`docs/glossary.md` has every formula beside its source and the column that it becomes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

DORMANT = 0.025
"""tau of Sokar et al. (2023) and of Ji et al. (2024): a neuron below this share of its layer's mean is dormant."""
SRANK_DELTA = 0.01
"""delta of Kumar et al. (2021): the share of the singular values' sum that their rank leaves out."""


# Neurons


def is_dormant(activity: Tensor, threshold: float) -> Tensor:
    """Which neurons have at most `threshold` times their layer's mean, bool (N,).

    Sokar et al. 2023 (arXiv:2302.12902) with `E|h_j|`; Ji et al. 2024 (arXiv:2402.14528, Def. 3.8) with the norm of the
    gradient of a neuron's weights.

    Args:
        activity: of each neuron of a layer, (N,), at least 0.
        threshold: tau; 0: neurons that have nothing at all.
    """
    return activity <= threshold * activity.mean()


def dormant_share(activity: Tensor, threshold: float) -> Tensor:
    """Share of neurons that `is_dormant` finds, a scalar."""
    return is_dormant(activity, threshold).float().mean()


def active_share(hidden: Tensor) -> Tensor:
    """Share of a layer's neurons that are above 0, the mean over rows, a scalar, from activities (B, N).

    The activation footprint of Abbas et al. 2023 (arXiv:2303.07507).
    """
    return (hidden > 0.0).float().mean()


# Features


def singular_values(features: Tensor) -> Tensor:
    """Of the features (B, N) of some rows, largest first, (min(B, N),); NaN if a feature is not finite."""
    if not bool(features.isfinite().all()):
        return features.new_full((min(features.shape),), torch.nan)
    return torch.linalg.svdvals(features)


def stable_rank(values: Tensor) -> Tensor:
    """`sum s_i^2 / s_1^2` of singular values, a scalar; 0 if all are 0.

    Rudelson and Vershynin 2007 (J. ACM 54(4), 21): the squared Frobenius norm over the squared spectral norm.
    """
    squares = values.square()
    return squares.sum() / squares.max().clamp(min=torch.finfo(values.dtype).tiny)


def effective_rank(values: Tensor) -> Tensor:
    """`exp(-sum p_i log p_i)` with `p_i = s_i / sum s` of singular values, a scalar; 0 if all are 0.

    Roy and Vetterli 2007 (EUSIPCO, pp. 606-610), as Dohare et al. 2024 (Nature 632) have it for plasticity.
    """
    total = values.sum()
    shares = values / total.clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum().exp() * (total != 0.0)


def srank(values: Tensor, delta: float = SRANK_DELTA) -> Tensor:
    """The fewest singular values, largest first, with `1 - delta` of the sum of all, a scalar; 0 if all are 0.

    Kumar et al. 2021 (arXiv:2010.14498), who call it effective rank.
    """
    total = values.sum()
    fewer = (values.cumsum(0) < (1.0 - delta) * total).sum()
    return torch.where(total.isnan(), total, (fewer + 1) * (total != 0.0))


# Weights


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm of all entries of all tensors, a scalar."""
    return torch.nn.utils.get_total_norm(tensors)


def distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """L2 norm of the difference of tensors of the same shapes, a scalar."""
    return norm(torch._foreach_sub(list(first), list(second)))


# Gradients and steps, from what Adam keeps. A parameter's `.grad` is of no use: where updates are replayed
# (`sac/graphs.py`) it is that of the last recording, and after a resumption there is none.


def mean_square_gradient(optimizer: Optimizer, param: Tensor) -> Tensor:
    """Adam's mean of a parameter's squared gradient, of its shape: `v_t / (1 - beta2^t)`; 0 before its first step.

    With beta2 = 0.999, a mean over the last thousand updates or so. The gradient is as the optimizer has it: behind
    the method's hook, the clip and a weight decay.
    """
    state = optimizer.state.get(param, {})
    if "exp_avg_sq" not in state:
        return torch.zeros_like(param)
    beta2 = optimizer.param_groups[0]["betas"][1]
    mean: Tensor = state["exp_avg_sq"] / (1.0 - beta2 ** state["step"])
    return mean


def adam_step(optimizer: Optimizer, param: Tensor) -> Tensor:
    """The last step that Adam took of a parameter, of its shape, up to its sign; 0 before the first.

    `lr m_hat / (sqrt(v_hat) + eps)` (Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1).
    """
    state = optimizer.state.get(param, {})
    if "exp_avg_sq" not in state:
        return torch.zeros_like(param)
    group = optimizer.param_groups[0]
    mean = state["exp_avg"] / (1.0 - group["betas"][0] ** state["step"])
    step: Tensor = group["lr"] * mean / (mean_square_gradient(optimizer, param).sqrt() + group["eps"])
    return step


# Outputs


def churn(before: Tensor, after: Tensor, *, distributions: bool = False) -> Tensor:
    """How far outputs moved on the same rows, a scalar.

    After the policy churn of Schaul et al. 2022 (arXiv:2206.00730), the share of states whose greedy action changes,
    and the value and policy churn of Tang and Berseth 2024 (arXiv:2409.04792). A stochastic policy's likeliest action
    may flip for nothing, so that distances are taken.

    Args:
        before, after: (B, n).
        distributions: whether rows are probabilities of n actions, of which the total variation is taken, in [0, 1];
            else the mean absolute difference over rows and outputs.
    """
    moved = (after - before).abs()
    return 0.5 * moved.sum(-1).mean() if distributions else moved.mean()
