"""Means of an update's numbers between two reports, for batches of D and of D_pre apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

PRIOR = "_prior"
"""End of the names of what batches of D_pre alone gave."""


class RunningMeans:
    """Sums of scalars by name on their device, which no update has to wait for.

    Whether a batch is of D_pre is a tensor too, so that it need not be read: each number is added to both sums, once
    times 0.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}

    def add(self, numbers: Mapping[str, Tensor], from_prior: Tensor) -> None:
        """Count an update's numbers in.

        Args:
            numbers: scalars by name.
            from_prior: whether all rows of the batch come from D_pre, a bool scalar; one that mixes is of D.
        """
        # The last entry, of ones, counts the updates.
        values = torch.stack([*numbers.values(), torch.ones_like(next(iter(numbers.values())))])
        prior = from_prior.to(values.dtype)
        added = torch.stack([1.0 - prior, prior]).unsqueeze(1) * values
        names = tuple(numbers)
        if names in self._sums:
            self._sums[names] += added
        else:
            self._sums[names] = added.double()

    def take(self) -> dict[str, float]:
        """The means since the last time: `NAME` over batches of D, `NAME_prior` over those of D_pre, if any."""
        totals: dict[str, np.ndarray] = {}
        for names, sums in self._sums.items():
            columns = sums.cpu().numpy().T
            for name, column in zip(names, columns, strict=False):
                totals[name] = totals.get(name, 0.0) + np.stack([column, columns[-1]])
        self._sums = {}
        means: dict[str, float] = {}
        for end, source in (("", 0), (PRIOR, 1)):
            means |= {f"{name}{end}": float(t[0, source] / t[1, source]) for name, t in totals.items() if t[1, source]}
        return means

    def get_state(self) -> dict[str, Any]:
        """The sums so far, by their names."""
        return {" ".join(names): sums.cpu().numpy().copy() for names, sums in self._sums.items()}

    def set_state(self, state: Mapping[str, np.ndarray], device: torch.device) -> None:
        """Take back what `get_state` gave."""
        self._sums = {tuple(names.split()): torch.tensor(sums, device=device) for names, sums in state.items()}
