"""How transitions lie in memory: as columns, or, for stacks of frames, every frame once.

`...Rows` are transitions that can be gathered by place, copied and joined; `...Ring` adds a ring buffer's write end to
them. Which of them are stored and drawn, and when, is `replay/buffer.py`.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rllib_nbsp.replay.stacks import PAIRS

Columns = dict[str, np.ndarray]

BATCH_COLUMNS = ("obs", "actions", "rewards", "new_obs", "terminateds")
# A new row may point at frames so many frames back; one that would reach further stores its stack anew.
FRAME_REACH = 1024
# A ring has room for one frame more every so many rows, for the episodes' first stacks.
SPARE_FRAMES = 32


def is_frame_stack(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether observations are stacks of frames: bytes of shape (stack, height, width)."""
    return len(shape) == 3 and dtype == np.uint8


@dataclass(frozen=True)
class RowSpec:
    """Shapes and dtypes of one transition's columns."""

    obs_shape: tuple[int, ...]
    obs_dtype: np.dtype
    act_shape: tuple[int, ...]
    act_dtype: np.dtype

    @property
    def is_frame_stack(self) -> bool:
        """Whether observations are stacks of frames: bytes of shape (stack, height, width)."""
        return is_frame_stack(self.obs_shape, self.obs_dtype)

    def empty(self, rows: int) -> Columns:
        """Unwritten columns; memory is touched as rows are written."""
        return {
            "obs": np.empty((rows, *self.obs_shape), self.obs_dtype),
            **self.empty_rest(rows),
            "new_obs": np.empty((rows, *self.obs_shape), self.obs_dtype),
        }

    def empty_rest(self, rows: int) -> Columns:
        """The columns that are not observations."""
        return {
            "actions": np.empty((rows, *self.act_shape), self.act_dtype),
            "rewards": np.empty(rows, np.float32),
            "terminateds": np.empty(rows, bool),
        }

    @property
    def nbytes(self) -> int:
        """Bytes of one transition in a full ring."""
        rest = sum(column.nbytes for column in self.empty_rest(1).values())
        if not self.is_frame_stack:
            return 2 * math.prod(self.obs_shape) * np.dtype(self.obs_dtype).itemsize + rest
        stack, *frame_shape = self.obs_shape
        frame = math.prod(frame_shape)
        return frame + frame // SPARE_FRAMES + 4 * (stack + 1) + 8 + rest

    @property
    def obs_nbytes(self) -> int:
        """Bytes of one observation in a rollout, which has every frame once."""
        shape = self.obs_shape[1:] if self.is_frame_stack else self.obs_shape
        return math.prod(shape) * np.dtype(self.obs_dtype).itemsize

    def ring(self, capacity: int) -> Ring:
        """An empty ring buffer for such rows."""
        return FrameRing(self, capacity) if self.is_frame_stack else ArrayRing(self, capacity)

    def rows(self) -> Rows:
        """No rows, to which others can be joined."""
        return FrameRows(self, 0, 0) if self.is_frame_stack else ArrayRows(self, 0)


class Rows(ABC):
    """Transitions by place."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, rows: int) -> Columns:
        """Unwritten columns for `gather`."""

    @abstractmethod
    def gather(self, index: np.ndarray, out: Columns, target: slice | np.ndarray) -> None:
        """Write the rows at `index` into the rows `target` of a `batch`."""

    @abstractmethod
    def take(self, index: np.ndarray) -> Rows:
        """A copy of the rows at `index`."""

    @abstractmethod
    def join(self, other: Rows) -> Rows:
        """These rows, then the other's of the same kind."""

    @abstractmethod
    def kept(self, places: np.ndarray) -> Columns:
        """The columns in which rows are stored, of those at `places`."""

    @abstractmethod
    def put_back(self, columns: Columns, frames: np.ndarray | None) -> None:
        """Take what `kept` gave of all rows, and all frames if rows share them, for the store's own."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of memory, once all rows are written."""


class Ring(Rows):
    """Rows that come at one end and leave at the other.

    Attributes:
        capacity: rows that fit.
        size: rows that are there.
        added: how many came since it was empty; those that are there are the last `size` of them.
        cleared: how often it was emptied.
    """

    capacity: int
    size: int
    added: int
    cleared: int

    @property
    def next(self) -> int:
        """Place of the next row."""
        return self.added % self.capacity

    def places(self, ages: np.ndarray) -> np.ndarray:
        """Places of rows by their order of coming: 0 is the oldest, `size - 1` the newest."""
        return (self.next - self.size + ages) % self.capacity

    @abstractmethod
    def add(self, columns: Columns) -> np.ndarray:
        """Append transitions in order of time, and return their places."""

    @abstractmethod
    def clear(self) -> None:
        """Forget all rows."""

    @abstractmethod
    def get_state(self) -> dict[str, Any]:
        """What there is beside rows and frames."""

    @abstractmethod
    def set_state(self, state: Mapping[str, Any], columns: Columns, frames: np.ndarray | None) -> None:
        """Take back what `get_state`, `kept` of all rows in their order, and the frames gave."""


class ArrayRows(Rows):
    """Transitions as columns; every row has both of its observations.

    Attributes:
        columns: arrays of `BATCH_COLUMNS`, row by row.
    """

    def __init__(self, spec: RowSpec, rows: int) -> None:
        self.spec = spec
        self.columns = spec.empty(rows)

    def __len__(self) -> int:
        return len(self.columns["rewards"])

    def batch(self, rows: int) -> Columns:
        return self.spec.empty(rows)

    def gather(self, index: np.ndarray, out: Columns, target: slice | np.ndarray) -> None:
        _take(self.columns, index, out, target)

    def take(self, index: np.ndarray) -> ArrayRows:
        return self._of({name: self.columns[name][index] for name in BATCH_COLUMNS})

    def join(self, other: Rows) -> ArrayRows:
        assert isinstance(other, ArrayRows)
        return self._of({name: np.concatenate([self.columns[name], other.columns[name]]) for name in BATCH_COLUMNS})

    def kept(self, places: np.ndarray) -> Columns:
        return {name: column[places] for name, column in self.columns.items()}

    def put_back(self, columns: Columns, frames: np.ndarray | None) -> None:
        self.columns = {name: columns[name] for name in BATCH_COLUMNS}

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())

    def _of(self, columns: Columns) -> ArrayRows:
        rows = ArrayRows(self.spec, 0)
        rows.columns = columns
        return rows


class FrameRows(Rows):
    """Transitions whose observations are stacks of S frames, each frame stored once.

    A row points at S + 1 frames: the first S are its observation, the last S the next one.

    Attributes:
        frames: shape (frames, height, width), uint8.
        pointers: places in `frames`, shape (rows, S + 1).
        columns: the columns that are not observations.
    """

    def __init__(self, spec: RowSpec, rows: int, frames: int) -> None:
        self.spec = spec
        stack, *frame_shape = spec.obs_shape
        self.frames = np.empty((frames, *frame_shape), np.uint8)
        self.pointers = np.empty((rows, stack + 1), np.int32)
        self.columns = spec.empty_rest(rows)

    def __len__(self) -> int:
        return len(self.pointers)

    def batch(self, rows: int) -> Columns:
        """Unwritten columns for `gather`; those of observations are `stacks.PAIRS`."""
        stack, *frame_shape = self.spec.obs_shape
        return {PAIRS: np.empty((rows, stack + 1, *frame_shape), np.uint8), **self.spec.empty_rest(rows)}

    def gather(self, index: np.ndarray, out: Columns, target: slice | np.ndarray) -> None:
        _take({PAIRS: self.frames}, self.pointers[index], {PAIRS: out[PAIRS]}, target)
        _take(self.columns, index, out, target)

    def take(self, index: np.ndarray) -> FrameRows:
        """A copy of the rows at `index` and of the frames that they point at."""
        rows = FrameRows(self.spec, 0, 0)
        used, pointers = np.unique(self.pointers[index], return_inverse=True)
        rows.frames = self.frames[used]
        rows.pointers = pointers.reshape(len(index), self.pointers.shape[1]).astype(np.int32)
        rows.columns = {name: column[index] for name, column in self.columns.items()}
        return rows

    def join(self, other: Rows) -> FrameRows:
        assert isinstance(other, FrameRows)
        rows = FrameRows(self.spec, 0, 0)
        rows.frames = np.concatenate([self.frames, other.frames])
        rows.pointers = np.concatenate([self.pointers, other.pointers + np.int32(len(self.frames))])
        rows.columns = {name: np.concatenate([self.columns[name], other.columns[name]]) for name in self.columns}
        return rows

    @property
    def numbers(self) -> range:
        """Numbers of the frames that rows may point at; frame n lies at place n modulo their count."""
        return range(len(self.frames))

    def kept(self, places: np.ndarray) -> Columns:
        return {"pointers": self.pointers[places], **{name: column[places] for name, column in self.columns.items()}}

    def put_back(self, columns: Columns, frames: np.ndarray | None) -> None:
        assert frames is not None
        self.frames, self.pointers = frames, columns["pointers"]
        self.columns = {name: columns[name] for name in self.columns}

    @property
    def nbytes(self) -> int:
        return self.frames.nbytes + self.pointers.nbytes + sum(column.nbytes for column in self.columns.values())


class ArrayRing(ArrayRows, Ring):
    """`ArrayRows` of which the oldest leave."""

    def __init__(self, spec: RowSpec, capacity: int) -> None:
        super().__init__(spec, capacity)
        self.capacity = capacity
        self.size = self.added = self.cleared = 0

    def add(self, columns: Columns) -> np.ndarray:
        count = len(columns["rewards"])
        places = (self.added + np.arange(count)) % self.capacity
        for name in BATCH_COLUMNS:
            self.columns[name][places] = columns[name]
        self.added += count
        self.size = min(self.size + count, self.capacity)
        return places

    def clear(self) -> None:
        self.size = self.added = 0
        self.cleared += 1

    def get_state(self) -> dict[str, Any]:
        return {"size": self.size, "added": self.added, "cleared": self.cleared}

    def set_state(self, state: Mapping[str, Any], columns: Columns, frames: np.ndarray | None) -> None:
        self.size, self.added, self.cleared = state["size"], state["added"], state["cleared"]
        places = self.places(np.arange(self.size))
        for name in BATCH_COLUMNS if self.size else ():
            self.columns[name][places] = columns[name]


class FrameRing(FrameRows, Ring):
    """`FrameRows` of which the oldest leave: when there are `capacity`, or when their frames' places are needed.

    Frames lie in a ring of their own, a few percent longer than `capacity`: an episode's first stack costs a frame more
    than its other rows. A row finds the stack that its episode's last row led to by the column `episode`, and compares:
    rows may be missing between the two.
    """

    def __init__(self, spec: RowSpec, capacity: int) -> None:
        super().__init__(spec, capacity, frames=capacity + capacity // SPARE_FRAMES + 2 * FRAME_REACH)
        self.capacity = capacity
        self._born = np.empty(capacity, np.int64)  # how many frames had ever been stored when a row came
        self.size = self.added = self.cleared = 0
        self._stored = 0
        self._led_to: dict[int, np.ndarray] = {}

    def clear(self) -> None:
        self.size = self.added = 0
        self.cleared += 1
        self._stored = 0
        self._led_to = {}

    def add(self, columns: Columns) -> np.ndarray:
        """Append transitions in order of time, and return their places.

        Raises:
            ValueError: if a row's next observation is not its observation moved on by one frame.
        """
        obs, new_obs = columns["obs"], columns["new_obs"]
        if not np.array_equal(obs[:, 1:], new_obs[:, :-1]):
            raise ValueError("images must be stacks of frames: an observation moves on by one frame a step")
        places = np.empty(len(obs), np.int64)
        for i, episode in enumerate(columns["episode"].tolist()):
            places[i] = self.next
            born = self._stored
            numbers = self._stack(self._led_to.pop(episode, None), obs[i])
            numbers = np.append(numbers, self._store(new_obs[i, -1]))
            if self.size == self.capacity:
                self.size -= 1
            self.pointers[self.next] = numbers % len(self.frames)
            self._born[self.next] = born
            self._led_to[episode] = numbers[1:]
            self.added += 1
            self.size += 1
        for name, column in self.columns.items():
            column[places] = columns[name]
        self._forget_episodes()
        return places

    def _stack(self, known: np.ndarray | None, obs: np.ndarray) -> np.ndarray:
        """Numbers of an observation's frames: those of the stack that its episode led to, or newly stored ones."""
        reaches = known is not None and known[0] > self._stored - FRAME_REACH
        if known is not None and reaches and np.array_equal(self.frames[known % len(self.frames)], obs):
            return known
        numbers = [self._store(obs[0])]
        for before, frame in itertools.pairwise(obs):
            numbers.append(numbers[-1] if np.array_equal(before, frame) else self._store(frame))
        return np.array(numbers, np.int64)

    def _store(self, frame: np.ndarray) -> int:
        """Store a frame over the oldest, after the rows that may point at that one have left; returns its number."""
        number = self._stored
        overwritten = number - len(self.frames)
        while self.size and self._born[(self.next - self.size) % self.capacity] - FRAME_REACH <= overwritten:
            self.size -= 1
        self.frames[number % len(self.frames)] = frame
        self._stored += 1
        return number

    @property
    def numbers(self) -> range:
        return range(max(0, self._stored - len(self.frames)), self._stored)

    def kept(self, places: np.ndarray) -> Columns:
        return {"born": self._born[places], **super().kept(places)}

    def get_state(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "added": self.added,
            "cleared": self.cleared,
            "stored": self._stored,
            "led_to": dict(self._led_to),
        }

    def set_state(self, state: Mapping[str, Any], columns: Columns, frames: np.ndarray | None) -> None:
        self.size, self.added, self.cleared = state["size"], state["added"], state["cleared"]
        self._stored, self._led_to = state["stored"], dict(state["led_to"])
        if frames is not None:
            self.frames[np.asarray(self.numbers) % len(self.frames)] = frames
        if not self.size:
            return
        places = self.places(np.arange(self.size))
        self._born[places], self.pointers[places] = columns["born"], columns["pointers"]
        for name, column in self.columns.items():
            column[places] = columns[name]

    def _forget_episodes(self) -> None:
        if len(self._led_to) > FRAME_REACH:
            self._led_to = {e: last for e, last in self._led_to.items() if last[0] > self._stored - FRAME_REACH}


def _take(source: Columns, index: np.ndarray, out: Columns, target: slice | np.ndarray) -> None:
    for name, column in source.items():
        if isinstance(target, slice):
            np.take(column, index, axis=0, out=out[name][target], mode="clip")
        else:
            out[name][target] = column[index]
