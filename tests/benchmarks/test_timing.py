"""Intervals of ratios know what the windows do, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.timing import ratio_interval


def test_windows_that_were_measured_side_by_side_are_drawn_together() -> None:
    # The machine slows down fourfold, for both alike: the ratio is as sure as ever.
    under = [[1.0, 2.0, 3.0, 4.0, 1.5]]
    assert ratio_interval([[2.0 * value for value in under[0]]], under) == [2.0, 2.0]


def test_an_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        over, under = rng.normal([[1.2], [1.0]], 0.05, (2, 15))
        low, high = ratio_interval([over], [under])
        covered += low <= 1.2 <= high
    assert 88 <= covered <= 100


def test_builds_that_differ_are_what_an_interval_is_of() -> None:
    low, high = ratio_interval([[1.1] * 5, [0.9] * 5, [1.0] * 5], [[1.0] * 5] * 3)
    assert (low, high) == pytest.approx((0.9, 1.1))
