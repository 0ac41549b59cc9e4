"""The benchmarks' contenders draw from torch's global stream; every test begins it anew."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
