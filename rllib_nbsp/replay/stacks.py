"""Stacks of frames, every frame once: those of a rollout, and those of a batch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

PAIRS = "stacks"
"""A batch's column of S + 1 frames a row, (rows, S + 1, H, W): the first S are an observation, the last S the next."""


def with_observations(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns, arrays or tensors, with "obs" and "new_obs" as views of the frames where they travel as `PAIRS`."""
    if PAIRS not in columns:
        return dict(columns)
    pairs = columns[PAIRS]
    rest = {name: column for name, column in columns.items() if name != PAIRS}
    return {"obs": pairs[:, :-1], "new_obs": pairs[:, 1:], **rest}


class StackedFrames:
    """Stacks of frames in the order of a rollout, each frame stored once; as an array, it has shape (rows, S, H, W).

    Args:
        shape: of one stack.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._frames: list[np.ndarray] | np.ndarray = []
        self._pointers: list[list[int]] | np.ndarray = []
        self._last: list[list[int]] = []

    def __len__(self) -> int:
        return len(self._pointers)

    def append(self, obs: np.ndarray) -> None:
        """Add a step's stacks, one of each environment in their order, shape (E, S, H, W)."""
        assert isinstance(self._pointers, list)
        last = self._last or [[] for _ in obs]
        self._last = [self._point(stack, before) for stack, before in zip(obs, last, strict=False)]
        self._pointers += self._last

    def sealed(self) -> StackedFrames:
        """The same as two arrays, to be sent and taken from."""
        return self._of(np.array(self._frames, np.uint8), np.array(self._pointers, np.int32))

    def take(self, index: np.ndarray) -> StackedFrames:
        """The sealed stacks at `index`, and their frames."""
        assert isinstance(self._frames, np.ndarray) and isinstance(self._pointers, np.ndarray)
        used, pointers = np.unique(self._pointers[index], return_inverse=True)
        return self._of(self._frames[used], pointers.reshape(len(index), self.shape[0]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        assert isinstance(self._frames, np.ndarray)
        return self._frames[self._pointers]

    def _of(self, frames: np.ndarray, pointers: np.ndarray) -> StackedFrames:
        stacks = StackedFrames(self.shape)
        stacks._frames, stacks._pointers = frames, pointers
        return stacks

    def _point(self, stack: np.ndarray, before: list[int]) -> list[int]:
        known = before[1:]
        if known and all(np.array_equal(self._frames[i], frame) for i, frame in zip(known, stack, strict=False)):
            return [*known, self._store(stack[-1])]
        pointers = [self._store(stack[0])]
        for earlier, frame in itertools.pairwise(stack):
            pointers.append(pointers[-1] if np.array_equal(earlier, frame) else self._store(frame))
        return pointers

    def _store(self, frame: np.ndarray) -> int:
        assert isinstance(self._frames, list)
        self._frames.append(frame.copy())
        return len(self._frames) - 1
