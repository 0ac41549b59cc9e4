"""The processes of this machine, as Linux tells of them."""

from __future__ import annotations

from pathlib import Path


def cmdline(pid: int) -> str:
    """Its command line, or nothing once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [own for child in children for own in (child, *descendants(child))]
