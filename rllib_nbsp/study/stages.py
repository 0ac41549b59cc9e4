"""What a study does before its first trial runs, each with the seconds that it takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console


@contextlib.contextmanager
def stage(console: Console, doing: str) -> Iterator[None]:
    """Says at once what is being done, and behind it how long it took."""
    console.print(f"{doing} ... ", end="", markup=False, highlight=False)
    start = time.perf_counter()
    try:
        yield
    except BaseException:
        console.print()
        raise
    console.print(f"{time.perf_counter() - start:.1f} s", highlight=False)
