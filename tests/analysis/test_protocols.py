"""What other papers measure, against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from analysis import protocols

NAN = float("nan")

# A, B, A, B: A = 1, 0, .5, .5 and B = .25, 1, 1, .75.
SUCCESS = [[1.0, 0.25], [0.0, 1.0], [0.5, 1.0], [0.5, 0.75]]
# One pass over three tasks.
PASS = [[0.8, 0.1, 0.0], [0.4, 1.0, 0.2], [0.6, 0.5, 0.9]]


@pytest.mark.parametrize(
    ("measure", "cycled", "single"),
    [
        # After the last visit A .5, B .75, twice each; one pass: (.6 + .5 + .9) / 3.
        (protocols.average_performance, 0.625, 0.66667),
        # Visits 1 (A), 2 (B), 3 (A): 1 - .5, 1 - .75, 1 - .5; mean 1.25 / 3. One pass: .8 - .6 and 1 - .5.
        (protocols.chaudhry_forgetting, 0.41667, 0.35),
        # Ends 1, 1, .5, .75 less .5, .75, .5, .75: .75 / 4. One pass: ends .8, 1, .9: (.2 + .5 + 0) / 3.
        (protocols.continual_world_forgetting, 0.1875, 0.23333),
        # The same without the last visit, turned round: -.75 / 3; -.7 / 2.
        (protocols.backward_transfer, -0.25, -0.35),
        # First cycle, A over visit 2: (1 - 0) / 1. One pass: A .4, -.2 and B .5, over .8, .8, 1: (.5 - .25 + .5) / 3.
        (protocols.cora_forgetting, 1.0, 0.25),
    ],
)
def test_measures_by_hand(measure, cycled, single):
    assert float(measure(SUCCESS)) == pytest.approx(cycled, abs=5e-6)
    assert float(measure(PASS)) == pytest.approx(single, abs=5e-6)


def test_zero_shot_transfer_by_hand():
    # Without what was there before: C over visit 2, (.2 - 0) / .9.
    assert float(protocols.cora_transfer(PASS)) == pytest.approx(0.2 / 0.9)
    # Before visit 1: B .05, C 0. B gains .05 / 1 in visit 1, C 0 and .2 / .9.
    found = protocols.cora_transfer(PASS, initial=[NAN, 0.05, 0.0])
    assert float(found) == pytest.approx((0.05 + 0.0 + 0.2 / 0.9) / 3)
    assert np.isnan(protocols.cora_transfer(SUCCESS))  # B's only earlier visit is the first.
    assert float(protocols.cora_transfer(SUCCESS, initial=[0.0, 0.0])) == 0.25


def test_cora_divides_by_the_greatest_of_all_runs_and_has_no_number_of_a_task_that_never_was_above_0():
    runs = np.array([SUCCESS, [[0.5, 0.0], [0.0, 0.5], [0.5, 0.5], [0.5, 0.5]]])
    assert protocols.cora_forgetting(runs).tolist() == [1.0, 0.5]
    assert protocols.cora_forgetting(SUCCESS, greatest=[2.0, 1.0]) == 0.5
    assert np.isnan(protocols.cora_forgetting(np.zeros((4, 2))))


def test_forward_transfer_by_hand():
    # (.5 - .5) / .5, (.75 - .5) / .5, (0 - .2) / .8: mean (0 + .5 - .25) / 3.
    assert float(protocols.continual_world_transfer([0.5, 0.75, 0.0], [0.5, 0.5, 0.2])) == pytest.approx(1 / 12)
    assert np.isnan(protocols.continual_world_transfer([0.5], [1.0]))
    assert protocols.continual_world_transfer([[0.5], [0.75]], [0.5]).tolist() == [0.0, 0.5]


def test_an_area_is_the_mean_of_even_evaluations_and_goes_on_at_the_last():
    assert protocols.area_under_curve([10, 20], [0.0, 1.0], 20) == 0.5
    # 0 for 10 steps, 1 for the 10 before the visit ended and the 20 after.
    assert protocols.area_under_curve([10, 20], [0.0, 1.0], 40) == 0.75
    assert protocols.area_under_curve([5, 20], [0.2, 1.0], 20) == pytest.approx((0.2 * 5 + 15) / 20)
    for steps in ([], [30]):
        with pytest.raises(ValueError, match="none after 20 env steps"):
            protocols.area_under_curve(steps, [0.5] * len(steps), 20)


# With an evaluation amid each: A = .5, 1; .25, 0; .75, .5; .5, .5 and B = 0, .25; .5, 1; 0, 1; 1, .75.
ANYTIME = [[0.5, 0.0], [1.0, 0.25], [0.25, 0.5], [0.0, 1.0], [0.75, 0.0], [0.5, 1.0], [0.5, 1.0], [0.5, 0.75]]
DURING = [0, 0, 1, 1, 2, 2, 3, 3]
CYCLED = [0, 1, 0, 1]


def test_measures_of_all_evaluations_by_hand():
    # A after visit 1 is 0 at the least, B after visit 2 is 0, which no visit's end has, A after visit 3 is .5.
    assert float(protocols.minimum_accuracy(ANYTIME, DURING, CYCLED)) == pytest.approx(0.5 / 3)
    # A: .5, 1; A and B: .375, .5; A twice and B: .5, .66667; both twice: .75, .625. Sum 4.91667.
    assert float(protocols.anytime_accuracy(ANYTIME, DURING, CYCLED)) == pytest.approx(4.91667 / 8, abs=1e-5)
    # Of the visits' ends alone: A 0, B .75, A .5; and 1, .5, (.5 + 1 + .5) / 3, .625.
    assert float(protocols.minimum_accuracy(SUCCESS, range(4), CYCLED)) == pytest.approx(1.25 / 3)
    assert float(protocols.anytime_accuracy(SUCCESS, range(4), CYCLED)) == pytest.approx((1 + 0.5 + 2 / 3 + 0.625) / 4)


def test_measures_of_all_evaluations_need_every_task_seen_so_far_and_none_to_come():
    unseen = np.array(ANYTIME)
    unseen[:2, 1] = NAN
    assert protocols.minimum_accuracy(unseen, DURING, CYCLED) == protocols.minimum_accuracy(ANYTIME, DURING, CYCLED)
    assert protocols.anytime_accuracy(unseen, DURING, CYCLED) == protocols.anytime_accuracy(ANYTIME, DURING, CYCLED)
    unseen[2, 0] = NAN
    assert np.isnan(protocols.minimum_accuracy(unseen, DURING, CYCLED))
    assert np.isnan(protocols.anytime_accuracy(unseen, DURING, CYCLED))
    assert np.isnan(protocols.minimum_accuracy([[0.5]], [0], [0]))
    assert np.isnan(protocols.minimum_accuracy(ANYTIME[:6], DURING[:6], CYCLED))  # nothing after visit 3
    assert protocols.anytime_accuracy([ANYTIME, ANYTIME], DURING, CYCLED).shape == (2,)


@pytest.mark.parametrize("visit", [[0, 0, 1], [0, 0, 1, 1, 2, 2, 3, 4], [-1, 0, 1, 1, 2, 2, 3, 3]])
def test_evaluations_without_a_visit_are_refused(visit):
    with pytest.raises(ValueError, match="evaluation"):
        protocols.anytime_accuracy(ANYTIME, visit, CYCLED)


def test_one_visit_has_nothing_to_forget():
    for measure in (
        protocols.chaudhry_forgetting,
        protocols.backward_transfer,
        protocols.cora_forgetting,
        protocols.cora_transfer,
    ):
        assert np.isnan(measure([[0.5]]))
    assert protocols.continual_world_forgetting([[0.5]]) == 0.0


def test_a_task_that_was_not_trained_yet_is_needed_by_transfer_alone():
    success = [[1.0, NAN], [0.0, 1.0]]
    assert protocols.chaudhry_forgetting(success) == protocols.cora_forgetting(success) == 1.0
    assert np.isnan(protocols.cora_transfer(success, initial=[0.0, 0.0]))


@pytest.mark.parametrize(("success", "order"), [([1.0], None), (SUCCESS, [0, 1]), (SUCCESS, [0, 1, 0, 2])])
def test_shapes_that_do_not_fit_are_refused(success, order):
    with pytest.raises(ValueError, match="must"):
        protocols.average_performance(success, order)


ORDERS = st.lists(st.integers(0, 2), min_size=2, max_size=7)


@given(ORDERS.flatmap(lambda o: st.tuples(st.just(o), arrays(float, (2, len(o), 3), elements=st.floats(0.0, 1.0)))))
def test_seeds_are_kept_apart_and_each_measure_within_its_limits(drawn):
    order, runs = drawn
    found = {
        "chaudhry_a": protocols.average_performance,
        "chaudhry_f": protocols.chaudhry_forgetting,
        "continual_world_f": protocols.continual_world_forgetting,
        "bwt": protocols.backward_transfer,
    }
    for name, measure in found.items():
        low, high = protocols.MEASURES[name].limits
        assert measure(runs, order).tolist() == [measure(run, order).item() for run in runs]
        assert (measure(runs, order) >= low - 1e-9).all() and (measure(runs, order) <= high + 1e-9).all()
    # What is forgotten on the way to the last visit is what backward transfer is short of.
    whole = -protocols.continual_world_forgetting(runs, order) * len(order) / (len(order) - 1)
    assert protocols.backward_transfer(runs, order) == pytest.approx(whole, abs=1e-9)
