"""Tuning by random search: an arm with lists of values becomes several arms, drawn without replacement.

The samples do not depend on one another's results, so each is an arm like any other, with its own rows, resumed and
reported as all are. Every search gets the same budget, samples x seeds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from rllib_nbsp.settings import Seed, Settings

Options = Mapping[tuple[str, ...], Sequence[Any]]
"""Values to choose from, by a method's key or by a section and its key."""


class SearchSettings(Settings):
    """How the arms with a `search` are tuned."""

    samples: Annotated[int, Field(ge=1, le=1000)] = 16
    """Arms that each search becomes; all of its combinations if they are fewer."""
    seed: Seed = 0
    """Of the draw, and of nothing else."""
    objective: Literal["asr", "fwt", "final_success"] = "asr"
    """What the best sample has most of, as a mean over sequences and seeds. Forgetting is not among them: what never
    learned forgets nothing."""
    lifetime_percent: Annotated[float, Field(gt=0.0, le=100.0)] = 100.0
    """How much of a lifetime, the environment steps of all visits, a sample is run for; its objective is over the
    visits begun there (k-percent tuning, Mesbahi et al. 2024, arXiv:2404.02113)."""

    def env_steps_of(self, lifetime: int) -> int | None:
        """The environment steps of a lifetime that a sample is run for; None: all of them."""
        return None if self.lifetime_percent == 100 else math.ceil(lifetime * self.lifetime_percent / 100)


def combinations(options: Options) -> int:
    """How many different samples there are."""
    return math.prod(len(values) for values in options.values())


def draw(options: Options, samples: int, seed: int) -> list[dict[tuple[str, ...], Any]]:
    """Different combinations, uniformly at random, `samples` of them or all if there are fewer.

    They stand in the order of the draw: a larger `samples` begins with those of a smaller one.
    """
    rng, total = random.Random(seed), combinations(options)
    numbers: dict[int, None] = {}
    while len(numbers) < min(samples, total):
        numbers[rng.randrange(total)] = None
    return [_combination(options, number) for number in numbers]


def _combination(options: Options, number: int) -> dict[tuple[str, ...], Any]:
    """The combination of that number, whose digits say which value of each key."""
    chosen = {}
    for path, values in options.items():
        number, digit = divmod(number, len(values))
        chosen[path] = values[digit]
    return chosen


def sample_label(arm: str, number: int) -> str:
    """The label of an arm's sample, counted from 0: a larger `samples` adds labels and changes none."""
    return f"{arm}-s{number:02d}"
