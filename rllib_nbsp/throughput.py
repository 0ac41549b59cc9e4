"""How fast a run goes."""

from __future__ import annotations

import time


class Throughput:
    """Environment steps and updates a second between two reports.

    Args:
        env_steps, updates, wall_s: what a run that goes on has behind it.
    """

    def __init__(self, env_steps: int = 0, updates: int = 0, wall_s: float = 0.0) -> None:
        self._last = time.perf_counter()
        self._start = self._last - wall_s
        self._env_steps, self._updates = env_steps, updates
        self.env_steps_per_s = self.updates_per_s = 0.0

    @property
    def wall_s(self) -> float:
        """Seconds since the run began, without those that it was not running or that were lost."""
        return time.perf_counter() - self._start

    def rates(self) -> dict[str, float]:
        """Those of the last report, as its row has them."""
        return {"env_steps_per_s": self.env_steps_per_s, "updates_per_s": self.updates_per_s}

    def measure(self, env_steps: int, updates: int) -> int:
        """Take the counters at a report; returns the environment steps since the last one."""
        now = time.perf_counter()
        seconds = max(now - self._last, 1e-9)
        added = env_steps - self._env_steps
        self.env_steps_per_s = added / seconds
        self.updates_per_s = (updates - self._updates) / seconds
        self._last, self._env_steps, self._updates = now, env_steps, updates
        return added
