"""Games: published returns of random play and of a human, and returns on their scale (Eq. 11 of the paper)."""

from __future__ import annotations

import functools
from pathlib import Path

import pandas as pd


@functools.cache
def atari_scores() -> pd.DataFrame:
    """Published returns of random play and of a human, indexed by game: columns random, human, source."""
    return pd.read_csv(Path(__file__).with_name("atari_scores.csv"), comment="#", index_col="game")


def normalised_returns(games: pd.Series, returns: pd.Series) -> pd.Series:
    """Eq. 11: 0 is random play, 1 a human; NaN for a game without published scores."""
    scores = atari_scores().reindex(games)
    low, high = scores["random"].to_numpy(), scores["human"].to_numpy()
    return (returns - low) / (high - low)
