"""What a process of this machine holds now, as Linux tells of it."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def resident_bytes(process: int | str = "self", *, shared: bool = True) -> int:
    """Main memory of a process.

    Args:
        process: its number; by default, this one's.
        shared: with what it shares or maps from files.
    """
    _, resident, of_others, *_ = map(int, Path(f"/proc/{process}/statm").read_text().split())
    return (resident - (0 if shared else of_others)) * resource.getpagesize()


def open_files() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))
