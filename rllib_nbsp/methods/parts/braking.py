"""Slower updates for some neurons: what methods share that scale the step or the gradient of rows of a parameter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


def rows_of(tensor: Tensor) -> Tensor:
    """A view of a parameter as (neurons, everything else)."""
    return tensor.view(tensor.shape[0], -1)


def step_ratio(steps: Iterable[tuple[Tensor, Tensor]]) -> float | None:
    """Mean length of the steps of masked weights over that of the others; None if there are not both, or none moves.

    Args:
        steps: of each parameter the step, and its mask, which broadcasts to (rows, everything else): below 1 where a
            weight is masked.
    """
    lengths, numbers = [], []  # of the masked ones and of the others
    for step, mask in steps:
        rows, is_masked = rows_of(step).abs(), (mask < 1.0).to(step.dtype)
        braked = rows * is_masked
        share = is_masked.mean()
        lengths.append(torch.stack([braked.sum(), (rows - braked).sum()]))
        numbers.append(torch.stack([share, 1.0 - share]) * step.numel())
    masked, free = torch.stack(lengths).double().sum(0) / torch.stack(numbers).double().sum(0)
    ratio = float(masked / free)
    return ratio if math.isfinite(ratio) else None


@dataclass
class Brake:
    """Slows the rows of one parameter.

    Only rows with a mask below 1 are read and written, so that everything else stays plain SAC to the last bit.
    """

    param: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        self.rows = (self.mask < 1.0).any(1).nonzero().squeeze(1)
        self.mask = self.mask[self.rows].to(self.param.dtype)
        # In the same memory for as long as the brake is there: what a graph replays are addresses.
        self.before = self._now()
        self._version = -1

    def _now(self) -> Tensor:
        return rows_of(self.param.detach()).index_select(0, self.rows)

    def remember(self) -> None:
        """Keep the rows as they are before the optimizer's step.

        They are what `scale_step` wrote last, unless somebody else wrote to the parameter since: its version tells.
        """
        if self.param._version != self._version:
            self.before.copy_(self._now())

    def scale_step(self) -> None:
        """`w <- old + mask (new - old)`: the step times its mask, whatever the optimizer."""
        rows = rows_of(self.param.detach())
        rows.index_copy_(0, self.rows, self.before.lerp_(rows.index_select(0, self.rows), self.mask))
        self._version = self.param._version

    def scale_gradient(self) -> None:
        """Eq. 5 to the letter."""
        if self.param.grad is not None:
            rows = rows_of(self.param.grad)
            rows.index_copy_(0, self.rows, rows.index_select(0, self.rows) * self.mask)
