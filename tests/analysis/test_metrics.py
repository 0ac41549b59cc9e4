"""Names of metrics and their limits, and steps to a threshold."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import metrics
from analysis.errors import UnknownNameError

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


@pytest.mark.parametrize("name", metrics.LIMITS)
def test_no_success_rates_make_a_metric_beyond_its_limits(name):
    rates = np.random.default_rng(0).integers(0, 2, size=(2000, 4, 2)).astype(float)
    metric = {"final_success": metrics.final_success, "relearn": metrics.relearn, **metrics.METRICS}[name]
    found = metric(rates)
    low, high = metrics.limits_of(name, of_returns=False)
    assert low <= found.min() < low + 0.4 and found.max() == high
    assert metrics.limits_of(name, of_returns=True) == (-np.inf, np.inf)
    apart = found[:, None] - found
    least, most = metrics.difference_limits(name, of_returns=False)
    assert least <= apart.min() < least + 0.4 and most - 0.4 < apart.max() <= most
    assert metrics.difference_limits(name, of_returns=True) == (-np.inf, np.inf)
