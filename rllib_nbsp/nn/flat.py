"""A module's state as one row of bytes, so that it travels in one piece."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def flatten(module: nn.Module) -> Tensor:
    """All parameters and buffers, whatever their types, shape (bytes,), on the device where they are."""
    return torch.cat([tensor.reshape(-1).view(torch.uint8) for _, tensor in _tensors(module)])


def unflatten(flat: Tensor, module: nn.Module) -> None:
    """Load, in place, what `flatten` gave of a module of the same shapes.

    Raises:
        ValueError: if that one was of another size.
    """
    tensors = _tensors(module)
    sizes = [tensor.nbytes for _, tensor in tensors]
    if len(flat) != sum(sizes):
        raise ValueError(f"the flat state has {len(flat)} bytes; the module's own has {sum(sizes)}")
    # By a state dict and not by copies: a module may derive something from its buffers when they are loaded.
    module.load_state_dict(
        {
            name: piece.view(tensor.dtype).view(tensor.shape)
            for (name, tensor), piece in zip(tensors, flat.split(sizes), strict=True)
        }
    )


def to_host(flat: Tensor) -> Tensor:
    """The same in the host's memory: itself on a CPU, else one copy, to pinned memory that torch keeps for the next."""
    if flat.device.type == "cpu":
        return flat
    return torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True).copy_(flat)


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Names and tensors; those with large items come first, so that each begins at a multiple of its item's size."""
    return sorted(module.state_dict().items(), key=lambda named: -named[1].element_size())
