"""How a study is stopped from outside."""

from __future__ import annotations

import signal
from typing import Any


class StopSignal:
    """SIGTERM treated as Ctrl-C, and remembered.

    Tune has a handler of its own for Ctrl-C while trials run, which stops them; at any other time both end as
    `KeyboardInterrupt`.
    """

    received: signal.Signals = signal.SIGINT

    def install(self) -> None:
        """Take SIGTERM over, again after Ray has done so."""
        signal.signal(signal.SIGTERM, self._on_terminate)

    def _on_terminate(self, number: int, frame: Any) -> None:
        self.received = signal.SIGTERM
        signal.raise_signal(signal.SIGINT)

    @property
    def exit_code(self) -> int:
        """As a shell would see it: 143 or 130."""
        return 128 + self.received
