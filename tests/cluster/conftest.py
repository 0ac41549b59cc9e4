"""Machines that are gone after a test."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.machines import Machines, kill


@pytest.fixture
def new_machines() -> Iterator[Callable[..., Machines]]:
    """Makes machines without raylets yet; those that a test starts are killed with all their processes."""
    made: list[Machines] = []

    def make(host: str = "") -> Machines:
        made.append(Machines(Path(tempfile.mkdtemp(prefix="nbsp", dir="/tmp")), host))
        return made[-1]

    try:
        yield make
    finally:
        for machines in made:
            for node in machines.nodes:
                kill(node, signal.SIGKILL)
            shutil.rmtree(machines.folder, ignore_errors=True)


@pytest.fixture
def machines(new_machines: Callable[..., Machines]) -> Machines:
    """Machines that are reached by this one's own address."""
    return new_machines()
