"""The clock."""

from __future__ import annotations

import time
from collections.abc import Callable


def repeat_for(seconds: float, call: Callable[[], object]) -> tuple[int, float]:
    """Call again and again until `seconds` are over, at least once; the last call is finished.

    Returns:
        How often, and the seconds that all calls took.
    """
    calls = 0
    start = time.perf_counter()
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return calls, elapsed


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    """Mean ms of a call, repeated for at least `seconds`."""
    calls, elapsed = repeat_for(seconds, call)
    return 1e3 * elapsed / calls
