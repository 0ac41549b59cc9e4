"""Named, independent random streams of one run: one seed in, one result out."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

# The order is part of the result of a seed: append, never insert.
STREAMS = (
    "environments",
    "exploration",
    "replay",
    "prior_replay",
    "evaluation",
    "scoring",
    "initialization",
    "method",
    "updates",
)


def seed_sequence(seed: int, stream: str, *keys: int) -> np.random.SeedSequence:
    """The `SeedSequence` of one named stream of a run.

    Args:
        seed: the run's seed, in [0, 2**32).
        stream: one of `STREAMS`.
        keys: indices inside the stream, such as worker and sub-environment, each >= 0.

    Raises:
        ValueError: if the stream's name is unknown.
    """
    return np.random.SeedSequence(seed, spawn_key=(STREAMS.index(stream), *keys))


def seed_int(seed: int, stream: str, *keys: int) -> int:
    """A 31-bit integer seed of a stream, for libraries that take nothing better."""
    return int(seed_sequence(seed, stream, *keys).generate_state(1)[0] >> 1)


def numpy_generator(seed: int, stream: str, *keys: int) -> np.random.Generator:
    """The NumPy generator of a stream."""
    return np.random.default_rng(seed_sequence(seed, stream, *keys))


def torch_generator(seed: int, stream: str, *keys: int, device: str | torch.device = "cpu") -> torch.Generator:
    """The torch generator of a stream."""
    return torch.Generator(device=device).manual_seed(seed_int(seed, stream, *keys))


def seed_global_streams(seed: int) -> None:
    """Seed what environments draw from that know no generator of their own: `random` and `numpy.random`."""
    random.seed(seed)
    np.random.seed(seed)


@contextlib.contextmanager
def kept_global_streams() -> Iterator[None]:
    """Put Python's and NumPy's global streams back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
