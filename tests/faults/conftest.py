"""Runs that are stopped after a test, and the figures of a fault for the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rllib_nbsp import ContinualSACConfig, register_suite
from tests.faults.ledger import Ledger
from tests.faults.ledger_suite import LedgerSuite

Start = Callable[[ContinualSACConfig], Ledger]
Figures = Callable[..., None]


@pytest.fixture
def start(ray_session: None, forgotten: None) -> Iterator[Start]:
    """Builds a run and opens its books; it is stopped after the test, which needs its processors."""
    built = []
    register_suite(LedgerSuite())  # this process may have imported the plugin, and forgotten it since

    def build(config: ContinualSACConfig) -> Ledger:
        built.append(config.build_algo())
        return Ledger(built[-1])

    yield build
    for algo in built:
        algo.stop()


@pytest.fixture
def figures(record_property: Callable[[str, Any], None]) -> Figures:
    """Files what a fault has cost, of a ledger or as it is given; `python -m tests.faults` collects it."""

    def file(ledger: Ledger | None = None, **values: float) -> None:
        if ledger is not None:
            values = {
                "lost_env_steps": ledger.lost,
                "doubled_env_steps": ledger.doubled,
                "extra_updates": max(0, int(ledger.extra_updates)),
                **({"recovery_s": ledger.recovery_s} if ledger.recovery_s else {}),
                **values,
            }
        for name, value in values.items():
            record_property(name, value)

    return file
