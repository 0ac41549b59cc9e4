"""Means of an update's numbers between two reports, for batches of D and of D_pre apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

PRIOR = "_prior"
"""End of the names of what batches of D_pre alone gave."""

Numbers = tuple[tuple[str, ...], Sequence[Tensor] | Tensor]
"""Names, and a scalar for each: apart, or as the entries of one tensor."""

PENDING_UPDATES = 256
"""Updates whose numbers are kept apart before they are added up: a sum for each would cost an update a twentieth."""


class RunningMeans:
    """Sums of scalars by name on their device, which no update has to wait for."""

    def __init__(self) -> None:
        self._pending: list[tuple[tuple[str, ...], Sequence[Tensor] | Tensor, bool]] = []
        self._sums: dict[tuple[str, ...], Tensor] = {}

    def add(self, names: tuple[str, ...], values: Sequence[Tensor] | Tensor, *, of_prior: bool) -> None:
        """Count the numbers of an update's step in.

        Args:
            names: of the numbers.
            values: a scalar for each, which nobody changes later, or one tensor of them, (names,).
            of_prior: whether all rows of the batch come from D_pre; a batch that mixes is of D.
        """
        self._pending.append((names, values, of_prior))
        if len(self._pending) == PENDING_UPDATES:
            self._add_up()

    def _add_up(self) -> None:
        for names in dict.fromkeys(names for names, _, _ in self._pending):
            own = [(values, prior) for those, values, prior in self._pending if those == names]
            updates = [values for values, _ in own]
            tensors = [values for values in updates if isinstance(values, Tensor)]
            together = tensors if len(tensors) == len(updates) else [value for values in updates for value in values]
            values = torch.stack(together).view(len(own), -1).double()
            prior = torch.tensor([float(prior) for _, prior in own], dtype=torch.float64, device=values.device)
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
        """The sums so far by their names, and what was not yet added up: a sum depends on its order to the last bit."""
        pending = [
            {"names": list(names), "values": torch.stack([*values]).cpu().numpy(), "of_prior": of_prior}
            for names, values, of_prior in self._pending
        ]
        return {"sums": {" ".join(names): sums.cpu().numpy() for names, sums in self._sums.items()}, "pending": pending}

    def set_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take back what `get_state` gave."""
        self._pending = [
            (tuple(step["names"]), torch.tensor(step["values"], device=device), step["of_prior"])
            for step in state["pending"]
        ]
        sums = state["sums"].items()
        self._sums = {tuple(names.split()): torch.tensor(values, device=device) for names, values in sums}
