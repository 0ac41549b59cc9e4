"""Texts of tasks: the words of a name, and vectors of it."""

from __future__ import annotations

import numpy as np
import pytest

from rllib_nbsp.methods.parts.texts import name_embedding, words


def test_a_names_words_are_its_parts_without_a_version():
    assert words("window-open-v3") == ["window", "open"]
    assert words("BankHeist") == ["bank", "heist"]
    assert words("ALE/Pong-v5") == ["ale", "pong"]
    assert words("reach_left") == ["reach", "left"]
    assert words("-") == ["-"]


def test_names_that_share_words_are_alike():
    def cosine(a: str, b: str) -> float:
        x, y = name_embedding(a), name_embedding(b)
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    assert name_embedding("window-open-v3").shape == (384,)
    assert cosine("window-open-v3", "window-open-v2") == pytest.approx(1.0)
    # One of two words in common; random 384-d vectors are within about 0.1 of orthogonal.
    assert 0.3 < cosine("window-open-v3", "window-close-v3") < 0.7
    assert abs(cosine("window-open-v3", "button-press-v3")) < 0.2
