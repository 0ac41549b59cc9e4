"""CUDA-graph semantics on a CPU: an update's ATen calls are kept and replayed on the same tensors without Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST_READS = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "masked_select", "equal", "is_nonzero"}
"""Calls whose result the host has to wait for."""
POISON = {torch.float32: float("nan"), torch.float64: float("nan"), torch.int64: 1 << 40}
"""What temporaries hold between two replays, so that whoever reads them without their having been made is found out."""


class Tape(TorchDispatchMode):
    """A `graphs.Recording` on the CPU.

    As a capture does, `record` leaves everything as it was; a host read, or a draw from a generator that was not
    announced, is an error, as it is while a CUDA graph is captured, or would silently be the same number for ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[tuple[Tensor, bool]]]] = []
        self._fresh: dict[int, Tensor] = {}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._generators: list[torch.Generator] = []

    def record(self, call: Callable[[], None], generators: Sequence[torch.Generator]) -> None:
        """Run the call, keep what it asks for, and undo it."""
        self._generators = list(generators)
        states = [generator.get_state() for generator in generators]
        with self:
            call()
        with torch.no_grad():
            for tensor, before in self._before.values():
                tensor.copy_(before)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

    def replay(self) -> None:
        """Make the calls again, into the same memory; as on a device, nobody's version counter moves."""
        written = [tensor for tensor, _ in self._before.values()]
        with torch.no_grad(), torch.autograd._unsafe_preserve_version_counter(tuple(written)):
            for tensor in self._fresh.values():
                if tensor.dtype in POISON:
                    tensor.fill_(POISON[tensor.dtype])
            for function, args, kwargs, outputs in self._calls:
                results = _tensors(function(*args, **kwargs))
                for (output, is_fresh), result in zip(outputs, results, strict=True):
                    if is_fresh and output is not result:
                        output.copy_(result)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function._schema.name.split("::")[1]
        if name in HOST_READS:
            raise RuntimeError(f"the host waits for {name}")
        # A dispatch mode sees another Python object around the same generator.
        known = {generator._cdata for generator in self._generators}
        if (
            torch.Tag.nondeterministic_seeded in function.tags
            and getattr(kwargs.get("generator"), "_cdata", 0) not in known
        ):
            raise RuntimeError(f"{name} draws from a generator that a graph does not know")
        if function._schema.is_mutable:
            for tensor in _tensors((args, kwargs)):
                self._remember(tensor)
        result = function(*args, **kwargs)
        given = {_address(tensor) for tensor in _tensors((args, kwargs))}
        outputs = [(tensor.detach(), _address(tensor) not in given) for tensor in _tensors(result)]
        for tensor, is_fresh in outputs:
            if is_fresh:
                self._fresh[_address(tensor)] = tensor
        if not outputs or function._schema.is_mutable or any(is_fresh for _, is_fresh in outputs):
            self._calls.append((function, args, kwargs, outputs))
        return result

    def _remember(self, tensor: Tensor) -> None:
        """Keep a copy of what was there before the recording, for `record` to undo what it did."""
        place = _address(tensor)
        if place not in self._fresh and place not in self._before:
            whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
            self._before[place] = whole, whole.clone()


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
