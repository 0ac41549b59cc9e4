"""Whether a published row can be: by hand, against all runs of two tasks, and what the paper's rows say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from analysis import load_paper, metrics
from analysis.consistency import check_row
from analysis.errors import UnknownNameError


def test_rows_by_hand():
    # ASR 1 is success everywhere, so nothing is forgotten.
    found = check_row(1.0, 0.0, 1.0, num_tasks=2, rounding=0.0)
    assert found.possible and [found.fm_low, found.fm_high] == pytest.approx([0, 0], abs=1e-6)
    assert not check_row(1.0, 0.5, 1.0, num_tasks=2).possible
    # Each visit learns its task and forgets the other: 0.625, 1, 1; so with FWT 1 no ASR is below.
    assert check_row(0.625, 1.0, 1.0, num_tasks=2).possible
    assert np.isnan(check_row(0.6, 1.0, 1.0, num_tasks=2).fm_low)
    # Every visit a task of its own, the same runs have 0.66667, 0.72222, 1.
    assert check_row(0.67, 0.72, 1.0, num_tasks=2, protocol="positions").possible
    assert not check_row(0.625, 1.0, 1.0, num_tasks=2, protocol="positions").possible


def test_numbers_are_taken_to_the_digits_they_are_given_in():
    assert not check_row(0.62, 1.0, 1.0, num_tasks=2, rounding=0.002).possible
    assert check_row(0.62, 1.0, 1.0, num_tasks=2, rounding=0.005).possible


@given(
    st.sampled_from(list(metrics.PROTOCOLS)),
    arrays(float, st.tuples(st.integers(1, 4), st.just(4), st.just(2)), elements=st.floats(0.0, 1.0)),
)
def test_what_runs_have_is_possible(protocol, runs):
    means = [metric(runs, protocol=protocol).mean() for metric in metrics.METRICS.values()]
    assert check_row(*means, num_tasks=2, protocol=protocol, rounding=1e-6).possible


@pytest.mark.parametrize("protocol", metrics.PROTOCOLS)
@pytest.mark.parametrize(("asr", "fwt"), [(0.33, 0.42), (0.7, 0.9), (0.5, 0.5)])
def test_the_range_of_fm_is_that_of_mixtures_of_all_runs_of_two_tasks(protocol, asr, fwt):
    runs = np.array(list(itertools.product([0.0, 1.0], repeat=8))).reshape(-1, 4, 2)
    a, f, w = (metric(runs, protocol=protocol) for metric in metrics.METRICS.values())
    equal = {"A_eq": np.stack([a, w, np.ones(len(a))]), "b_eq": [asr, fwt, 1.0]}
    low, high = linprog(f, **equal), linprog(-f, **equal)
    found = check_row(asr, 0.0, fwt, num_tasks=2, protocol=protocol, rounding=0.0)
    if low.success:
        assert [found.fm_low, found.fm_high] == pytest.approx([low.fun, -high.fun], abs=1e-6)
    else:
        assert np.isnan(found.fm_low)


def test_the_papers_rows_fit_one_reading():
    paper = load_paper()
    rows = paper[paper["source"] != "Table 5"].pivot(
        index=["tasks", "method"], columns="metric", values="mean"
    )  # Returns have no limits.
    impossible = {
        protocol: [
            (method, tasks.count("->") + 1)
            for (tasks, method), row in rows.iterrows()
            if not check_row(
                row["asr"], row["fm"], row["fwt"], num_tasks=tasks.count("->") + 1, protocol=protocol
            ).possible
        ]
        for protocol in metrics.PROTOCOLS
    }
    assert len(rows) == 58 and impossible["nbsp-visits"] == [("CReLU", 4), ("CReLU", 2)]
    counts = {protocol: len(found) for protocol, found in impossible.items()}
    assert counts == {"nbsp-visits": 2, "nbsp-equations": 37, "positions": 30, "first-cycle": 38}


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"num_tasks x cycles is 7 x 2; allowed: 1 to 12 visits"):
        check_row(0.5, 0.5, 0.5, num_tasks=7)
    with pytest.raises(UnknownNameError, match="did you mean 'positions'"):
        check_row(0.5, 0.5, 0.5, num_tasks=2, protocol="position")
