"""Files that another program makes."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


def make_file(command: Sequence[str], path: Path, timeout_s: float) -> str | None:
    """Have a program write a file.

    Args:
        command: the program and its arguments; no shell reads them.
        path: what it is to write. What was there before stays if the program does not begin.
        timeout_s: after which it is ended.

    Returns:
        None, or why there is no such file: the program's last words, or how it ended.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode or not path.is_file():
        return next(iter(done.stderr.strip().splitlines()[-1:]), f"exit code {done.returncode}")
    return None
