"""Floating point operations of a SAC update, and how fast this machine multiplies matrices of its shapes.

Only matrix products count, 2 m k n each: activations, losses, Adam and the target networks are memory traffic of a few
per cent of that work, and nobody avoids them. A layer of input width `k` and output width `n` costs, at batch B,

    forward            (B, k) x (k, n)
    weight gradients   (n, B) x (B, k)
    input gradients    (B, n) x (n, k)      not in the first layer, unless the gradient is wanted at the network's input

so an update is described by how often it runs each of the three through each network (`Passes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch

from benchmarks.timing import repeat_for


class Gemm(NamedTuple):
    """`repeats` products (m, k) x (k, n) an update; `direction` is how autograd lays the factors out in memory."""

    direction: Literal["forward", "weights", "inputs"]
    m: int
    k: int
    n: int
    repeats: float = 1.0

    @property
    def flop(self) -> float:
        """Operations of all `repeats` products: a multiplication and an addition for each of m k n terms."""
        return 2.0 * self.m * self.k * self.n * self.repeats


@dataclass(frozen=True)
class Passes:
    """How often one update runs through networks of one shape, at the whole batch.

    Attributes:
        forward: forward passes.
        weights: passes that make weight gradients.
        inputs: passes that hand gradients down from layer to layer.
        to_input: those of `inputs` that go down to the network's own input.
    """

    forward: float
    weights: float
    inputs: float
    to_input: float = 0.0


@dataclass(frozen=True)
class UpdatePasses:
    """The passes of one update through the actor and through all critics and their targets together."""

    actor: Passes
    critic: Passes

    def __str__(self) -> str:
        total = [getattr(self.actor, part) + getattr(self.critic, part) for part in ("forward", "weights", "inputs")]
        return "{:g} forward, {:g} weight-gradient, {:g} input-gradient".format(*total)


# Actor: pi(s') for the target, pi(s) for the actor and the temperature. Critics: two on the data, two targets, two on
# the actor's action. Backward: both critics from the data; both, frozen, down to the action; on through the actor.
JOINT_UPDATE = UpdatePasses(
    actor=Passes(forward=2, weights=1, inputs=1),
    critic=Passes(forward=6, weights=2, inputs=4, to_input=2),
)
# CleanRL's order, per environment step: one actor update a step on average, a third pass pi(s) for the temperature, and
# weight gradients of both critics that the actor's backward makes and nobody uses.
CLEANRL_UPDATE = UpdatePasses(
    actor=Passes(forward=3, weights=1, inputs=1),
    critic=Passes(forward=6, weights=4, inputs=4, to_input=2),
)
# The same without those unused gradients.
CLEANRL_FROZEN_UPDATE = UpdatePasses(
    actor=Passes(forward=3, weights=1, inputs=1),
    critic=Passes(forward=6, weights=2, inputs=4, to_input=2),
)

# Discrete actions. Actor: pi(s'), pi(s). Critics: two on the data, which serve the actor too, and two targets.
JOINT_DISCRETE_UPDATE = UpdatePasses(
    actor=Passes(forward=2, weights=1, inputs=1),
    critic=Passes(forward=4, weights=2, inputs=2),
)
# CleanRL's order: the actor asks both critics again after their step.
CLEANRL_DISCRETE_UPDATE = UpdatePasses(
    actor=Passes(forward=2, weights=1, inputs=1),
    critic=Passes(forward=6, weights=2, inputs=2),
)

ConvLayer = tuple[int, int, int]
"""Channels, kernel size, stride."""


def mlp_gemms(widths: Sequence[int], batch_size: int, passes: Passes) -> list[Gemm]:
    """The matrix products of `passes` through an MLP.

    Args:
        widths: of the input, the hidden layers and the output.
        batch_size: rows B.
        passes: how often and in which directions.
    """
    gemms = []
    for index, (k, n) in enumerate(pairwise(widths)):
        gemms.append(Gemm("forward", batch_size, k, n, passes.forward))
        gemms.append(Gemm("weights", n, batch_size, k, passes.weights))
        gemms.append(Gemm("inputs", batch_size, n, k, passes.inputs if index else passes.to_input))
    return [gemm for gemm in gemms if gemm.repeats]


def update_gemms(
    obs_size: int, action_size: int, hidden: Sequence[int], batch_size: int, passes: UpdatePasses
) -> list[Gemm]:
    """The matrix products of one SAC update with MLP actor (mean and log-std heads) and critics of one value."""
    actor = mlp_gemms([obs_size, *hidden, 2 * action_size], batch_size, passes.actor)
    critic = mlp_gemms([obs_size + action_size, *hidden, 1], batch_size, passes.critic)
    return actor + critic


def cnn_update_gemms(
    in_shape: tuple[int, int, int],
    conv: Sequence[ConvLayer],
    hidden: Sequence[int],
    num_actions: int,
    batch_size: int,
    passes: UpdatePasses,
) -> list[Gemm]:
    """The matrix products of one discrete SAC update: a convolution is one, of its patches with its kernels."""
    gemms = []
    for network in (passes.actor, passes.critic):
        channels, height, width = in_shape
        for index, (out_channels, kernel, stride) in enumerate(conv):
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            rows, k = batch_size * height * width, channels * kernel * kernel
            gemms.append(Gemm("forward", rows, k, out_channels, network.forward))
            gemms.append(Gemm("weights", out_channels, rows, k, network.weights))
            gemms.append(Gemm("inputs", rows, out_channels, k, network.inputs if index else network.to_input))
            channels = out_channels
        # Below the first fully connected layer there are convolutions: its inputs' gradient is wanted.
        dense = Passes(network.forward, network.weights, network.inputs, to_input=network.inputs)
        gemms += mlp_gemms([channels * height * width, *hidden, num_actions], batch_size, dense)
    return [gemm for gemm in gemms if gemm.repeats]


def gflop(gemms: Sequence[Gemm]) -> float:
    """10^9 operations of all products."""
    return sum(gemm.flop for gemm in gemms) / 1e9


def _factors(gemm: Gemm) -> tuple[torch.Tensor, torch.Tensor]:
    """Random factors in the layout that `nn.Linear` and its backward multiply: x W^T, dy^T x, dy W."""
    left, right = torch.randn(gemm.m, gemm.k), torch.randn(gemm.k, gemm.n)
    if gemm.direction == "forward":
        right = torch.randn(gemm.n, gemm.k).t()
    elif gemm.direction == "weights":
        left = torch.randn(gemm.k, gemm.m).t()
    return left, right


class GemmCeiling:
    """The update's matrix products and nothing else, into buffers made before: the ceiling of its GFLOP/s here.

    Args:
        gemms: of one update, repeated whole numbers of times.
    """

    def __init__(self, gemms: Sequence[Gemm]) -> None:
        self.gflop_per_round = gflop(gemms)
        self._products = [(*_factors(gemm), torch.empty(gemm.m, gemm.n), int(gemm.repeats)) for gemm in gemms]

    def run(self, seconds: float) -> float:
        """GFLOP/s over at least `seconds`."""
        rounds, elapsed = repeat_for(seconds, self._run_once)
        return rounds * self.gflop_per_round / elapsed

    def _run_once(self) -> None:
        for left, right, out, repeats in self._products:
            for _ in range(repeats):
                torch.mm(left, right, out=out)
