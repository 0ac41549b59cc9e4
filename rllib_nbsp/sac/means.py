"""Means of an update's numbers between two reports, for batches of D and of D_pre apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

PRIOR = "_prior"
"""End of the names of what batches of D_pre alone gave."""


PENDING_UPDATES = 256
"""Updates whose numbers are kept apart before they are added up: a sum for each would cost an update a twentieth."""


class RunningMeans:
    """Sums of scalars by name on their device, which no update has to wait for.

    Whether a batch is of D_pre is a tensor too, so that it need not be read: each number is added to both sums, once
    times 0.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[tuple[str, ...], list[Tensor], Tensor]] = []
        self._sums: dict[tuple[str, ...], Tensor] = {}

    def add(self, numbers: Mapping[str, Tensor], from_prior: Tensor) -> None:
        """Count an update's numbers in.

        Args:
            numbers: scalars by name, which nobody changes later.
            from_prior: whether each row of the batch comes from D_pre, bool (B,); a batch that mixes is of D.
        """
        self._pending.append((tuple(numbers), list(numbers.values()), from_prior))
        if len(self._pending) == PENDING_UPDATES:
            self._add_up()

    def _add_up(self) -> None:
        for names in dict.fromkeys(names for names, _, _ in self._pending):
            own = [(values, rows) for those, values, rows in self._pending if those == names]
            values = torch.stack([value for updates, _ in own for value in updates]).view(len(own), -1).double()
            prior = torch.stack([rows for _, rows in own]).all(1).double()
            # The last entry, of ones, counts the updates.
            added = torch.stack([1.0 - prior, prior]) @ torch.cat([values, torch.ones_like(values[:, :1])], 1)
            self._sums[names] = self._sums[names] + added if names in self._sums else added
        self._pending = []

    def take(self) -> dict[str, float]:
        """The means since the last time: `NAME` over batches of D, `NAME_prior` over those of D_pre, if any."""
        self._add_up()
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
        self._add_up()
        return {" ".join(names): sums.cpu().numpy() for names, sums in self._sums.items()}

    def set_state(self, state: Mapping[str, np.ndarray], device: torch.device) -> None:
        """Take back what `get_state` gave."""
        self._pending = []
        self._sums = {tuple(names.split()): torch.tensor(sums, device=device) for names, sums in state.items()}
