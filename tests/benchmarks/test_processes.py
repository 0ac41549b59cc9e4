"""What a process holds is seen when it takes more."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from benchmarks.processes import open_files, resident_bytes

TAKEN = 50_000_000


@pytest.mark.parametrize(("flags", "own"), [(mmap.MAP_PRIVATE, True), (mmap.MAP_SHARED, False)])
def test_memory_that_is_taken_is_seen(flags: int, own: bool) -> None:
    before = resident_bytes(os.getpid()), resident_bytes(shared=False)
    # Not the allocator's, which may have kept as much of what was given back.
    with mmap.mmap(-1, TAKEN, flags=flags | mmap.MAP_ANONYMOUS) as block:
        block.write(b"1" * TAKEN)
        after = resident_bytes(os.getpid()), resident_bytes(shared=False)
    assert after[0] - before[0] > 0.9 * TAKEN
    assert (after[1] - before[1] > 0.9 * TAKEN) == own


def test_a_file_that_is_open_is_seen(tmp_path: Path) -> None:
    before = open_files()
    with open(tmp_path / "file", "w"):
        assert open_files() == before + 1
    assert open_files() == before
