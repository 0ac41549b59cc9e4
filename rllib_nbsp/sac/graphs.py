"""Updates as graphs: the kernels of an update are recorded once and then called one behind the other, without Python.

An update is some 250 small kernels. A GPU is done with one before Python has asked for the next; a CUDA graph launches
them all at once. On a CPU most of a small network's update is Python and autograd, which a tape (`tape.py`) leaves out.
Both replay addresses and numbers, so that one rule holds for what an update does on the device: *nothing made inside an
update is read by a later one*, unless it is written in place; and what Python does beside it, such as counting, is done
in `on_update_start` and `on_update_end` of the method, which run either way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from rllib_nbsp.sac.update import SACUpdate

WARMUP = 3
"""Updates that are made as ever before one of their kind is recorded: optimizers make their state at the first."""
KEPT = 8
"""Graphs that are kept; the one that was replayed longest ago goes first."""


class Recording(Protocol):
    """What an update asked of a device."""

    def record(self, call: Callable[[], None], generators: Sequence[torch.Generator]) -> None:
        """Run Python's side of a call and keep the device's for `replay`; all is as if the device had done nothing."""

    def replay(self) -> None:
        """Have the device do it, on what now lies at the same addresses."""


class CUDARecording:
    """A `torch.cuda.CUDAGraph`. Graphs share `pool`, as no update reads what another one left in it."""

    def __init__(self, pool: Any) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._pool = pool

    def record(self, call: Callable[[], None], generators: Sequence[torch.Generator]) -> None:
        """As `Recording` has it, on the current stream, which must not be the default one."""
        for generator in generators:
            self._graph.register_generator_state(generator)
        stream = torch.cuda.current_stream()
        with torch.cuda.graph(self._graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            call()

    def replay(self) -> None:
        """As `Recording` has it."""
        self._graph.replay()


@dataclass
class _Kind:
    """Updates that are the same but for the numbers they are made on.

    Attributes:
        inputs: the columns at the addresses that the recording reads.
        made: how many were made before the recording.
        recording: or None, as long as there is none.
        numbers: names and values, one tensor, of each step's numbers, which a replay writes anew.
    """

    inputs: dict[str, Tensor]
    made: int = 0
    recording: Recording | None = None
    numbers: list[tuple[tuple[str, ...], Tensor]] = field(default_factory=list)


class GraphedUpdates:
    """Makes updates, and once it knows a kind of update replays it.

    Recordings are thrown away when somebody else may have changed what they hold on to: at every hook of a visit
    (`forget`), and whenever weights were written to between two updates.

    Args:
        sac: whose updates.
        make: an update's arithmetic on these columns, `SACUpdate.begin` before and `SACUpdate.finish` behind it.
        new_recording: makes an empty one.
    """

    def __init__(
        self, sac: SACUpdate, make: Callable[[dict[str, Tensor]], None], new_recording: Callable[[], Recording]
    ) -> None:
        self._sac = sac
        self._make = make
        self._new_recording = new_recording
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._written = self._writes()
        self.replayed = 0

    def forget(self) -> None:
        """Record anew what comes."""
        self._kinds.clear()

    def __call__(self, columns: dict[str, Tensor]) -> None:
        """An update on these columns, the next of the run."""
        if self._writes() != self._written:
            self.forget()
        key = self._sac.graph_key()
        if key is None:
            self._make(columns)
        else:
            shapes = tuple((name, column.shape, column.dtype) for name, column in columns.items())
            self._update((key, shapes), columns)
        self._written = self._writes()

    def _update(self, key: Hashable, columns: dict[str, Tensor]) -> None:
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind({name: torch.empty_like(column) for name, column in columns.items()})
            while len(self._kinds) > KEPT:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(key)
        for name, static in kind.inputs.items():
            static.copy_(columns[name], non_blocking=True)
        if kind.made < WARMUP:
            kind.made += 1
            self._make(kind.inputs)
            return
        if kind.recording is None:
            kind.recording = self._new_recording()
            kind.recording.record(lambda: self._make_and_keep_numbers(kind), self._sac.generators())
        kind.recording.replay()
        self.replayed += 1
        # The next replay writes over them.
        self._sac.steps_made = [(names, values.clone()) for names, values in kind.numbers]

    def _make_and_keep_numbers(self, kind: _Kind) -> None:
        self._make(kind.inputs)
        kind.numbers = [
            (names, torch.stack([value.reshape(()) for value in values])) for names, values in self._sac.steps_made
        ]

    def _writes(self) -> int:
        """How often Python wrote to the weights; a replay does not count."""
        return sum(tensor._version for tensor in self._sac.weights)
