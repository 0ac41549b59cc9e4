"""Neurons of a network put out of work: what they hand on comes from elsewhere."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from rllib_nbsp.nn.networks import Network

Intervention = Literal["zero", "mean", "resample"]
INTERVENTIONS: tuple[Intervention, ...] = get_args(Intervention)
Replaced = list[tuple[Tensor, Tensor]]
"""By hidden layer which features are replaced, and by what: both broadcast over (B, F, ...)."""


class Silenced:
    """A network some of whose features come from elsewhere, while it is entered as a context.

    Args:
        network: any of the run's; every method's passes its hidden layers through `unit`.

    Attributes:
        replaced: in the passes from now on; None: nothing.
        features: by layer what the last pass came to by itself, (B, F, ...).
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._own = network.unit
        self.replaced: Replaced | None = None
        self.features: dict[int, Tensor] = {}

    def __enter__(self) -> Silenced:
        self._network.unit = self._unit  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        del self._network.unit

    def _unit(self, i: int, layer: nn.Module, x: Tensor, shown: Any, frozen: bool) -> tuple[Tensor, Tensor]:
        features, activations = self._own(i, layer, x, shown, frozen)
        self.features[i] = features
        if self.replaced is not None:
            features = torch.where(*self.replaced[i], features)
        return features, activations


def features_of(neurons: np.ndarray, like: Tensor) -> Tensor:
    """The features of a layer that a set's neurons hand on, (1, F, ...) bool: with CReLU each has two."""
    mask = torch.from_numpy(np.tile(neurons, like.shape[1] // len(neurons)))
    return mask.reshape(1, -1, *(1,) * (like.dim() - 2))


def put_out(features: Tensor, how: Intervention, steps: Tensor) -> Tensor:
    """What takes the place of a layer's features.

    Args:
        features: of the intact network on its rollout, (S, F, ...).
        how: of `INTERVENTIONS`.
        steps: (B,), the steps of the rollout that resampled ones are from.

    Returns:
        (B, F, ...), or (1, F, ...) if all rows have the same.
    """
    if how == "resample":
        return features[steps]
    return features.mean(0, keepdim=True) if how == "mean" else torch.zeros_like(features[:1])
