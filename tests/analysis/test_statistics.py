"""Intervals, differences, tests and numbers of seeds against arithmetic by hand and against exact enumeration."""

from __future__ import annotations

import itertools
import subprocess
import sys
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis import statistics
from analysis.statistics import interval

NAN = float("nan")
RATES = st.lists(st.integers(0, 20).map(lambda k: k / 20), min_size=2, max_size=14)


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


def test_eleven_seeds_are_bootstrapped_and_the_same_values_give_the_same_interval():
    values = np.linspace(0.0, 1.0, 11)
    found = interval(values)
    assert found.kind == "bootstrap" and found == interval(values)
    # s = 0.33166, t(0.975, 10) = 2.228: the expanded interval is as wide as t where data are symmetric.
    assert found.half_width == pytest.approx(2.228 * 0.33166 / np.sqrt(11), rel=0.05)
    assert interval(values[:10]).kind == "t"


@given(RATES)
def test_an_interval_holds_the_mean_and_stays_within_the_limits(values):
    found = interval(values, limits=(0.0, 1.0))
    assert 0.0 <= found.low <= found.mean + 1e-12 and found.mean - 1e-12 <= found.high <= 1.0
    free = interval(values)
    assert (found.low, found.high) == (max(free.low, 0.0), min(free.high, 1.0))


@given(RATES)
def test_an_interval_turns_round_with_its_values(values):
    found, turned = interval(values), interval([1.0 - value for value in values])
    assert [turned.low, turned.high] == pytest.approx([1.0 - found.high, 1.0 - found.low], abs=0.03)


def test_values_beyond_the_limits_are_refused():
    with pytest.raises(ValueError, match=r"must lie in \[0.0, 1.0\], got 0.5 to 1.5"):
        interval([0.5, 1.5], limits=(0.0, 1.0))
    with pytest.raises(ValueError, match="limits must be finite"):
        statistics.sure_interval([0.5], (0.0, np.inf))


@pytest.mark.parametrize("n", [1, 3, 10])
def test_the_sure_interval_of_values_at_a_limit_is_clopper_and_pearsons(n):
    # All n of n successes: the lower end solves p^n = 0.025.
    found = statistics.sure_interval([1.0] * n, (0.0, 1.0))
    assert (found.low, found.high) == pytest.approx((0.025 ** (1 / n), 1.0), abs=0.01)


def test_paired_differences_are_of_the_seeds_that_both_have():
    ours, theirs = {0: 0.5, 2: 0.75, 3: NAN, 4: 1.0}, {0: 0.25, 1: 0.0, 2: 1.0, 3: 1.0}
    assert statistics.paired_differences(ours, theirs) == {0: 0.25, 2: -0.25}


def test_pairs_narrow_an_interval_by_what_the_seeds_have_in_common():
    ours, theirs = [0.9, 0.5, 0.1], [0.8, 0.3, 0.0]
    paired = statistics.paired_differences(dict(enumerate(ours)), dict(enumerate(theirs)))
    # Differences 0.1, 0.2, 0.1: s = 0.057735, and 4.302653 * 0.057735 / sqrt(3) = 0.143422
    assert interval(list(paired.values())).half_width == pytest.approx(0.143422, abs=1e-5)
    assert interval(ours).half_width > 0.9


def test_iqm_is_the_mean_of_the_middle_half():
    assert statistics.iqm([0.0, 1.0, 2.0, 100.0]) == 1.5
    assert statistics.iqm([[0.0, 9.0], [2.0, 1.0]]) == 1.5


def test_a_stratified_interval_draws_within_strata():
    # Strata that differ and do not vary: drawn together, they would vary.
    found = statistics.stratified_interval([[0.0] * 4, [1.0] * 4])
    assert (found.mean, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 8)
    assert statistics.stratified_interval([[0.5, 0.7], [0.1, NAN]]).kind == "none"


def test_a_profile_is_the_share_of_runs_above():
    found = statistics.performance_profile([[0.1, 0.5], [0.9, NAN]], [-0.1, 0.1, 0.5, 0.95])
    assert found.tolist() == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])


def test_probability_of_improvement_by_hand():
    # First stratum: of 4 pairs 3 above and 1 equal, 3.5 / 4. Second: none of 4. Mean 0.4375.
    found = statistics.probability_of_improvement([[0.5, 0.9], [0.0, 0.1]], [[0.5, 0.2], [0.3, 0.4]])
    assert found.mean == 0.4375
    with pytest.raises(ValueError, match="the same strata"):
        statistics.probability_of_improvement([[0.5]], [])
    assert found.kind == "none"
    more = statistics.probability_of_improvement([[0.5, 0.6, 0.7, 0.8, 0.9]], [[0.1, 0.2, 0.3, 0.4, 0.85]])
    assert more.low < more.mean == 21 / 25 <= more.high <= 1.0


def test_the_iqm_of_three_seeds_has_the_t_interval_of_their_mean():
    # With 3 seeds nothing is cut, and the bootstrap's standard error is that of the mean times sqrt(2 / 3).
    found = statistics.stratified_interval([[1.0, 2.0, 3.0]])
    assert found.mean == 2.0 and found.half_width == pytest.approx(2.484138, rel=0.03)
    assert statistics.stratified_interval([[1.0, 2.0, 3.0]], limits=(1.0, 3.0)).high == 3.0


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_sign_flips_agree_with_counting_them(n):
    differences = np.random.default_rng(n).integers(-20, 21, n) / 20
    sums = np.array([np.dot(signs, differences) for signs in itertools.product([1, -1], repeat=n)])
    above = (sums >= differences.sum() - 1e-9).mean()
    below = (sums <= differences.sum() + 1e-9).mean()
    assert statistics.sign_flip_test(differences) == pytest.approx(min(1.0, 2 * min(above, below)))


def test_the_smallest_p_is_what_the_clearest_difference_reaches():
    for n in (2, 3, 5, 6):
        assert statistics.sign_flip_test(np.full(n, 0.1)) == statistics.smallest_p(n) == 2 / 2**n
    for n, m in ((3, 3), (2, 5)):
        found = statistics.permutation_test(np.zeros(n), np.ones(m))
        assert found == pytest.approx(statistics.smallest_p(n, m)) == pytest.approx(2 / comb(n + m, n))
    assert statistics.sign_flip_test(np.full(30, 0.1)) == statistics.smallest_p(30) == 2 / 10_000
    assert statistics.sign_flip_test([0.1]) == statistics.permutation_test([1.0], [0.0, 2.0]) == 1.0
    assert statistics.smallest_p(1) == statistics.smallest_p(0) == 1.0


def test_no_difference_has_p_1():
    assert statistics.sign_flip_test([0.0, 0.0, 0.0]) == 1.0
    assert statistics.permutation_test([0.5, 0.5], [0.5, 0.5]) == 1.0


def test_holm_and_false_discovery_by_hand():
    p_values = [0.01, NAN, 0.04, 0.03]
    # Holm: 3 * 0.01, then max(0.03, 2 * 0.03), then max(0.06, 0.04). BH: 3 * 0.01, min(3 / 2 * 0.03, 0.04), 0.04.
    assert statistics.holm(p_values).tolist() == pytest.approx([0.03, NAN, 0.06, 0.06], nan_ok=True)
    assert statistics.false_discovery_rate(p_values).tolist() == pytest.approx([0.03, NAN, 0.04, 0.04], nan_ok=True)
    assert np.isnan(statistics.holm([NAN])).all() and statistics.holm([0.7, 0.9]).tolist() == [1.0, 1.0]


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_adjusted_p_values_are_no_smaller_and_keep_their_order(p_values):
    adjusted = statistics.holm(p_values)
    assert (adjusted >= np.array(p_values) - 1e-12).all() and (adjusted <= 1.0).all()
    assert (np.diff(adjusted[np.argsort(p_values)]) >= -1e-12).all()
    assert (statistics.false_discovery_rate(p_values) <= adjusted + 1e-12).all()


def test_seeds_for_a_half_width():
    pilot = [0.1, 0.2, 0.3]  # s = 0.1
    n = statistics.seeds_for(0.05, pilot)
    widths = [stats.t.ppf(0.975, k - 1) * 0.1 / np.sqrt(k) for k in (n - 1, n)]
    assert widths[0] > 0.05 >= widths[1]
    with pytest.raises(ValueError, match="half_width must be above 0"):
        statistics.seeds_for(0.0, pilot)
    with pytest.raises(ValueError, match="more than 10 seeds would be needed"):
        statistics.seeds_for(0.01, pilot, most=10)


def test_clear_arms_are_decided_and_the_others_need_more_seeds():
    arms = {"up": [0.5] * 10, "down": [-0.3] * 10, "same": [0.1, -0.1] * 5, "none": [0.0] * 10}
    open_ = {"up": "above", "down": "below", "same": "more seeds", "none": "more seeds"}
    assert statistics.arms_to_continue(arms, 5, 4) == open_
    longer = {**arms, "same": [0.1, -0.1] * 10, "none": [0.0] * 20}  # the decided ones stopped
    decided = {**open_, "same": "not told apart", "none": "not told apart"}
    assert statistics.arms_to_continue(longer, 5, 4) == decided
    assert set(statistics.arms_to_continue({"up": [0.5] * 3}, 5, 4).values()) == {"more seeds"}


def test_an_open_arm_must_have_the_seeds_of_its_looks():
    with pytest.raises(ValueError, match="same: open at look 2, so 8 seeds are needed"):
        statistics.arms_to_continue({"up": [0.5] * 8, "same": [0.1, -0.1] * 2}, 4, 3)


def test_few_flips_decide_nothing():
    # Of 2^4 flips 2 are as extreme: 0.125 is above a third of 5 %.
    assert statistics.arms_to_continue({"up": [0.5] * 4}, 4, 3) == {"up": "more seeds"}


def test_the_module_needs_nothing_of_ours():
    code = (
        "import importlib.util, sys; s = importlib.util.spec_from_file_location('alone', 'analysis/statistics.py'); "
        "m = importlib.util.module_from_spec(s); sys.modules['alone'] = m; s.loader.exec_module(m); "
        "print(sorted(n for n in sys.modules if n.partition('.')[0] in ('analysis', 'rllib_nbsp', 'pandas')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
