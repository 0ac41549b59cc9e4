"""What a CUDA graph is, on a CPU: an update's calls of kernels are kept and made again, on the same memory.

A small network's update is nearly all overhead: Python, modules, autograd, memory. A tape has none of it. It keeps the
calls below autograd, backward pass and optimizer included, gives each result a place of its own, and calls the same
kernels with the same numbers, so that it computes the same to the last bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

HOST_READS = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "masked_select", "equal", "is_nonzero"}
"""Calls whose result Python has to wait for, and may act on."""
MEMORY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
"""Calls that make room and no numbers."""
COPIES = {"_to_copy", "clone"}
"""Calls that copy, perhaps to another format; their variants that write would make a copy of the copy."""


class CPURecording(TorchDispatchMode):
    """A `graphs.Recording` on the CPU.

    As a capture does, `record` leaves everything as it was; a read by the host, and a draw from a generator that was
    not announced, are errors, as they are while a CUDA graph is captured.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[Callable[[], Any]] = []
        self._fresh: dict[int, Tensor] = {}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._generators: list[torch.Generator] = []

    def record(self, call: Callable[[], None], generators: Sequence[torch.Generator]) -> None:
        """Run the call, keep what it asks for, and undo it.

        Raises:
            RuntimeError: if it reads a tensor's value, or draws from another generator than these.
        """
        self._generators = list(generators)
        states = [generator.get_state() for generator in generators]
        with self:
            call()
        for tensor, before in self._before.values():
            tensor.copy_(before)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

    def replay(self) -> None:
        """Make the calls again."""
        for call in self._calls:
            call()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make a call and keep it, unless all that it does is to look at memory that is there."""
        name = function._schema.name.split("::")[1]
        if name in HOST_READS:
            raise RuntimeError(f"the host waits for {name} within an update that is to be replayed")
        if function.namespace == "profiler":
            return function(*args, **(kwargs or {}))
        given = _tensors((args, kwargs))
        addresses = {_address(tensor) for tensor in given}
        if torch.Tag.nondeterministic_seeded in function.tags:
            self._check_generator(name, kwargs or {})
        if function._schema.is_mutable:
            for tensor in given:
                self._remember(tensor)
        result = function(*args, **(kwargs or {}))
        # Aliases, which keep the memory alive and not the graph of the backward pass.
        args, kwargs, outputs = tree_map_only(Tensor, torch.Tensor.detach, (args, kwargs or {}, result))
        fresh = {_address(tensor): tensor for tensor in _tensors(outputs) if _address(tensor) not in addresses}
        self._fresh |= fresh
        if function._schema.is_mutable:
            self._calls.append(functools.partial(_quick(function), *args, **kwargs))
        elif fresh and name not in MEMORY:
            self._calls.append(_call_into(function, args, kwargs, outputs))
        return result

    def _check_generator(self, name: str, kwargs: dict[str, Any]) -> None:
        # A dispatch mode sees another Python object around the same generator.
        known = {generator._cdata for generator in self._generators}  # type: ignore[attr-defined]
        if getattr(kwargs.get("generator"), "_cdata", 0) not in known:
            raise RuntimeError(f"{name} draws from a generator that a replay does not know")

    def _remember(self, tensor: Tensor) -> None:
        """Keep a copy of what was there before the recording, for `record` to undo what it did."""
        place = _address(tensor)
        if place not in self._fresh and place not in self._before:
            whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
            self._before[place] = whole, whole.clone()


def _call_into(function: Any, args: Any, kwargs: Any, outputs: Any) -> Callable[[], Any]:
    """The call, into the memory of its outputs: by its variant that does so, or else by a copy."""
    if function._schema.name.split("::")[1] in COPIES:
        return functools.partial(_quick(torch.ops.aten.copy_.default), outputs, args[0])
    variant, into = _out_variant(function), outputs if isinstance(outputs, tuple) else (outputs,)
    if variant is not None and None not in into:
        names = [argument.name for argument in variant._schema.arguments if argument.is_out]
        args = _tensors_for_numbers(function, args, outputs)
        return functools.partial(_quick(variant), *args, **kwargs, **dict(zip(names, into, strict=True)))
    make = functools.partial(_quick(function), *args, **kwargs)
    if isinstance(outputs, Tensor):
        return lambda: outputs.copy_(make())

    def call() -> None:
        for output, made in zip(_tensors(outputs), _tensors(make()), strict=True):
            output.copy_(made)

    return call


def _tensors_for_numbers(function: Any, args: Any, output: Any) -> Any:
    """The arguments, with a tensor for each number that stands in one's place: each call would make it anew."""
    return tuple(
        torch.tensor(arg, dtype=output.dtype) if isinstance(arg, float) and str(expected.type) == "Tensor" else arg
        for arg, expected in zip(args, function._schema.arguments, strict=False)
    )


def _quick(function: Any) -> Any:
    """The function without the layer of Python around it, a third of a small kernel's time."""
    return function._op


@functools.cache
def _out_variant(function: Any) -> Any:
    """The overload of a function that takes the same and writes its results into what it is given, or None."""
    packet, taken = function.overloadpacket, _signature(function)
    if packet.__name__.endswith("_loss"):
        return None  # it makes room in its result for what that is the mean of, with a warning
    for overload in packet.overloads():
        variant = getattr(packet, overload)
        outputs = sum(argument.is_out for argument in variant._schema.arguments)
        if outputs and outputs == len(function._schema.returns) and _signature(variant) == taken:
            return variant
    return None


def _signature(function: Any) -> list[tuple[str, str]]:
    return [(argument.name, str(argument.type)) for argument in function._schema.arguments if not argument.is_out]


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
