"""Diagonal Fisher information of a network's weights: how much its output hangs on each of them.

For a layer whose pre-activations get the per-sample gradients `delta` (B, out) from inputs `h` (B, in), the per-sample
weight gradients are outer products, so that their mean square is `(delta^2)^T (h^2) / B`: one backward pass gives it
exactly, without a gradient per sample. Of several scalars the `delta^2` add up, as `h` is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_nbsp.nn.losses import squashed_gaussian
from rllib_nbsp.nn.networks import Network

VARIANCE_FLOOR = 1e-6
"""Added to a variance that is divided by."""

Scalars = Callable[[Tensor], Iterable[tuple[Tensor, Tensor]]]
"""From a network's outputs (B, ...) to pairs of a scalar per sample and its weight, each (B,)."""


def diagonal_fisher(network: Network, inputs: Tensor, scalars: Scalars, *, floor: float = 0.0) -> list[Tensor]:
    """`mean_i max(floor, sum_k weight_ik (d scalar_ik / d w)^2)` for every weight w.

    In the order of `network.parameters()`.

    Args:
        network: whose weights.
        inputs: shape (B, *in_shape).
        scalars: what is differentiated, see `gaussian`, `categorical` and `values`.
        floor: what each sample's information is at least, before the mean.
    """
    parameters = list(network.parameters())
    layers = network.layers()
    fisher: list[Tensor] = []
    with _recorded(layers) as (layer_inputs, deltas):
        outputs = network(inputs)
        sums: list[list[Tensor]] = [[] for _ in layers]
        for scalar, weight in scalars(outputs):
            total = (scalar * weight.detach().sqrt()).sum()
            torch.autograd.grad(total, parameters, retain_graph=True)
            for i, layer in enumerate(layers):
                squares = _squares(layer, layer_inputs[i], deltas[i])
                sums[i] = [old + new for old, new in zip(sums[i], squares, strict=True)] if sums[i] else squares
        for i, layer in enumerate(layers):
            fisher += _means(layer, layer_inputs[i], sums[i], floor)
    return fisher


@contextmanager
def _recorded(layers: list[nn.Linear | nn.Conv2d]) -> Iterator[tuple[dict[int, Tensor], dict[int, Tensor]]]:
    """Each layer's inputs, and after a backward pass the gradients of its pre-activations, by its place."""
    inputs: dict[int, Tensor] = {}
    deltas: dict[int, Tensor] = {}

    def recorder(i: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def record(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            inputs[i] = args[0].detach()
            # Put on before the activation works in place, a hook sees the gradient from before it.
            out.register_hook(lambda gradient: deltas.__setitem__(i, gradient))

        return record

    handles = [layer.register_forward_hook(recorder(i)) for i, layer in enumerate(layers)]
    try:
        yield inputs, deltas
    finally:
        for handle in handles:
            handle.remove()


def _squares(layer: nn.Linear | nn.Conv2d, inputs: Tensor, delta: Tensor) -> list[Tensor]:
    """Each sample's squared gradients: of a layer's bias, and of its weight if that is a convolution's."""
    if not isinstance(layer, nn.Conv2d):
        return [delta.square()]
    patches = F.unfold(inputs, layer.kernel_size, stride=layer.stride)
    flat = delta.flatten(2)
    per_sample = torch.bmm(flat, patches.transpose(1, 2))  # (B, channels, weights of a kernel)
    return [flat.sum(2).square(), per_sample.square()]


def _means(layer: nn.Linear | nn.Conv2d, inputs: Tensor, squares: list[Tensor], floor: float) -> tuple[Tensor, Tensor]:
    """Means over samples of what is at least `floor`, for a layer's weight and bias."""
    of_bias, *of_weight = squares
    bias = of_bias.clamp(min=floor).mean(0)
    if of_weight:
        return of_weight[0].clamp(min=floor).mean(0).reshape(layer.weight.shape), bias
    if not floor:
        return of_bias.T @ inputs.square() / len(inputs), bias
    # A sample's squares are an outer product, but what the floor leaves of them is none: one sample at a time.
    weight = torch.zeros_like(layer.weight)
    for delta, h in zip(of_bias, inputs.square(), strict=True):
        weight += torch.outer(delta, h).clamp_(min=floor)
    return weight / len(inputs), bias


def gaussian(mean_space: str = "pre") -> Scalars:
    """The exact Fisher of a diagonal Gaussian policy over its own outputs.

    `sum_d (d mu_d)^2 / sigma_d^2 + 2 (d sigma_d)^2 / sigma_d^2`. tanh is a bijection, so the squashed policy has the
    same. `mean_space="post"` is Continual World's form: the mean after tanh, with the deviation before it.
    """

    def scalars(head: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        mean, log_std = squashed_gaussian(head)
        variance = log_std.exp().square()
        inverse = 1.0 / (variance + VARIANCE_FLOOR)
        if mean_space == "post":
            mean = torch.tanh(mean)
        for d in range(mean.shape[1]):
            yield mean[:, d], inverse[:, d]
            # d sigma = sigma d log sigma
            yield log_std[:, d], 2.0 * variance[:, d] * inverse[:, d]

    return scalars


def categorical(logits: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The exact Fisher of a policy over n actions: `sum_a pi(a|s) (d log pi(a|s))^2`."""
    log_probs = F.log_softmax(logits, -1)
    for a in range(logits.shape[1]):
        yield log_probs[:, a], log_probs[:, a].exp()


def values(actions: Tensor | None = None) -> Scalars:
    """Fisher of a regression with unit variance, `(d Q)^2`; of actions (B,) if there is a value for each."""

    def scalars(q: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        taken = q.squeeze(-1) if actions is None else q.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        yield taken, torch.ones_like(taken)

    return scalars
