"""What holds for every test: one torch thread, seeded global generators, and one Ray for all that need it."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

from rllib_nbsp.envs import SUITES
from rllib_nbsp.methods import METHODS

torch.set_num_threads(1)
# Ray starts its workers at the lowest priority but four: beside other work they would get seconds in a minute.
os.environ.setdefault("RAY_worker_niceness", "0")
# No deadline: the machine is shared. No database: a failure must come from the code, not from an earlier run.
settings.register_profile("rllib_nbsp", deadline=None, database=None, derandomize=True, max_examples=50)
settings.load_profile("rllib_nbsp")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _own_methods() -> Iterator[None]:
    """What a file's tests have registered is unknown to the next file's, which may run in the same process."""
    before = set(METHODS)
    yield
    for name in set(METHODS) - before:
        del METHODS[name]


@pytest.fixture
def three_threads() -> Iterator[None]:
    """A process that does not care, as a user's."""
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers and puts on the path is gone after it."""
    for registry in (METHODS, SUITES):
        monkeypatch.setattr(registry, "data", dict(registry.data))
        monkeypatch.setattr(registry, "references", {})
        monkeypatch.setattr(registry, "installed", {})
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def ray_session() -> None:
    """A local Ray: a process's first test that asks for it starts it, and it stays for the others."""
    import ray

    if not ray.is_initialized():
        # "local": a cluster that happens to run on this machine is not joined
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=150 * 2**20
        )
