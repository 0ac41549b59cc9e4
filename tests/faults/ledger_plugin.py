"""The plugin of the runs here: a process that imports it knows the suite `transition_ledger`."""

from __future__ import annotations

from rllib_nbsp import register_suite
from tests.faults.ledger_suite import LedgerSuite

register_suite(LedgerSuite())
