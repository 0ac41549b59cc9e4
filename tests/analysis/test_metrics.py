"""Names of metrics, steps to a threshold, and intervals against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import metrics
from analysis.errors import UnknownNameError
from analysis.metrics import interval

NAN = float("nan")


def test_env_steps_to_threshold():
    assert metrics.env_steps_to_threshold([10, 20, 30, 40], [NAN, 0.5, 0.9, 0.7]) == 30
    assert np.isnan(metrics.env_steps_to_threshold([10, 20], [0.0, 0.8]))
    assert metrics.env_steps_to_threshold([10, 20], [0.0, 0.8], threshold=0.5) == 20


def test_unknown_protocol_and_metric_name_the_close_ones():
    with pytest.raises(UnknownNameError, match="did you mean 'nbsp-visits'"):
        metrics.get_protocol("nbsp-visit")
    with pytest.raises(UnknownNameError, match="did you mean 'fwt'"):
        metrics.get_metric("fwtt")
    assert metrics.get_metric("fm") is metrics.forgetting


def test_t_interval_by_hand():
    # Mean 2, s = 1, n = 3; t(0.975, 2 degrees of freedom) = 4.302653; 4.302653 / sqrt(3) = 2.484138
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.n, found.kind) == (2.0, 3, "t")
    assert found.half_width == pytest.approx(2.484138, abs=1e-5)
    assert (found.low, found.high) == pytest.approx((-0.484138, 4.484138), abs=1e-5)


def test_one_seed_has_a_value_but_no_interval():
    found = interval([0.7])
    assert (found.mean, found.n, found.kind) == (0.7, 1, "none")
    assert np.isnan([found.low, found.high, found.half_width]).all()


def test_no_seed_has_nothing():
    found = interval([NAN])
    assert np.isnan(found.mean) and found.n == 0


def test_nan_seeds_are_left_out_of_an_interval():
    assert interval([1.0, NAN, 2.0, 3.0]) == interval([1.0, 2.0, 3.0])


def test_ten_seeds_are_bootstrapped_and_the_same_values_give_the_same_interval():
    values = np.linspace(0.0, 0.9, 10)
    found = interval(values)
    assert found.kind == "bootstrap" and found == interval(values)
    # The standard error of the mean is sqrt(sum (x - 0.45)^2 / 10) / sqrt(10) = 0.0908; 1.96 of them are 0.178.
    assert found.half_width == pytest.approx(0.178, abs=0.01)
    assert interval(values[:9]).kind == "t"
