"""Metrics against arithmetic by hand; the table is that of the metric's specification."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rllib_nbsp import metrics
from rllib_nbsp.metrics import average_success, forgetting, forward_transfer

NAN = float("nan")


def perfect_retention(tasks: int) -> np.ndarray:
    """Every task is solved from its first visit on."""
    return np.array([[float(task <= visit) for task in range(tasks)] for visit in range(2 * tasks)])


def total_forgetting(tasks: int) -> np.ndarray:
    """Only the task just trained is solved."""
    return np.array([[float(visit % tasks == task) for task in range(tasks)] for visit in range(2 * tasks)])


def only_first_visit(tasks: int) -> np.ndarray:
    """The first task is solved after its first visit, nothing ever again."""
    success = np.zeros((2 * tasks, tasks))
    success[0, 0] = 1.0
    return success


def first_cycle_only(tasks: int) -> np.ndarray:
    """The first cycle as total forgetting, nothing in the second."""
    success = total_forgetting(tasks)
    success[tasks:] = 0.0
    return success


@pytest.mark.parametrize(
    ("success", "expected"),
    [
        (perfect_retention(2), (1.0, 0.0, 1.0)),
        (perfect_retention(4), (1.0, 0.0, 1.0)),
        # K=2: (1 + 1/2 + 1/2 + 1/2) / 4 = 0.625. K=4: (1 + 1/2 + 1/3 + 1/4 + 4 x 1/4) / 8 = 0.38542
        (total_forgetting(2), (0.625, 1.0, 1.0)),
        (total_forgetting(4), (0.38542, 1.0, 1.0)),
        # ASR = 1/N, FWT = 1/N. K=2: after visits 2 and 4 task 1 has lost 1, after visit 3 task 2 nothing: 2/3.
        (only_first_visit(2), (0.25, 0.66667, 0.25)),
        # K=4: 1, 1/2, 1/3 after visits 2-4, 0 after 5 (task 1 is current), 1/3 after 6-8: (11/6 + 1) / 7 = 0.40476
        (only_first_visit(4), (0.125, 0.40476, 0.125)),
        (np.zeros((4, 2)), (0.0, 0.0, 0.0)),
        # ASR = (1 + 1/2 + 0 + 0) / 4; the other task has lost 1 after each of visits 2-4; FWT = (1 + 1 + 0 + 0) / 4
        (first_cycle_only(2), (0.375, 1.0, 0.5)),
    ],
    ids=["perfect-2", "perfect-4", "forgets-2", "forgets-4", "only-1st-2", "only-1st-4", "nothing", "1st-cycle"],
)
def test_protocol_nbsp_visits_gives_the_specified_table(success, expected):
    found = [float(metric(success)) for metric in (average_success, forgetting, forward_transfer)]
    assert found == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize(
    ("success", "expected"),
    [
        # Positions A B A B: ASR = (1 + 1/2 + 2/3 + 1/2) / 4 = 2/3. Forgetting of the earlier positions: after visit 2
        # A 1; after 3 A 0, B 1: 1/2; after 4 A 1, B 0, A 1: 2/3. FM = (1 + 1/2 + 2/3) / 3 = 0.72222
        (total_forgetting(2), (0.66667, 0.72222, 1.0)),
        # ASR = 1/4; A's first position is lost after each visit: 1, then 1/2, then 1/3 (its second was never learned).
        (only_first_visit(2), (0.25, 0.61111, 0.25)),
        # After visit i <= 4 one of i positions is solved, after 4 + m two of them:
        # ASR = (1 + 1/2 + 1/3 + 1/4 + 2/5 + 2/6 + 2/7 + 2/8) / 8 = 0.41905. Lost: all but the current task, i - 1
        # positions before i = 2-4, i - 2 of i - 1 for i = 5-8: FM = (3 + 3/4 + 4/5 + 5/6 + 6/7) / 7 = 0.89150
        (total_forgetting(4), (0.41905, 0.89150, 1.0)),
    ],
    ids=["forgets-2", "only-1st-2", "forgets-4"],
)
def test_protocol_positions_counts_every_visit_as_a_task(success, expected):
    found = [float(m(success, protocol="positions")) for m in (average_success, forgetting, forward_transfer)]
    assert found == pytest.approx(expected, abs=5e-6)


def test_protocol_positions_measures_forgetting_from_the_best_since_a_positions_own_visit():
    # A, B, A, B with A = 1, 0, .5, .5 and B = -, 1, 1, 1. After visit 2 A lost 1; after 3 A's first position .5 and
    # B 0; after 4 .5, 0, and A's second position, .5 when it was visited, 0. FM = (1 + .5 / 2 + .5 / 3) / 3 = 0.4722
    success = [[1.0, NAN], [0.0, 1.0], [0.5, 1.0], [0.5, 1.0]]
    assert forgetting(success, protocol="positions") == pytest.approx(0.47222, abs=5e-6)


@pytest.mark.parametrize(
    ("success", "expected"),
    [
        # Eq. 8: visits 1-4 sum over positions i..4 A B A B, A B, ...: (2/1 + 2/2 + 1/3 + 1/4) / 4 = 0.89583.
        # Eq. 9: gains over the least before. Visit 2: A 0 - 1, B 1 - 0: 0. Visit 3: A 1, B 0, A 1 over 2: 1. Visit 4:
        # A 0, B 1, A 0, B 1 over 3: 2/3. FM = (0 + 1 + 2/3) / 3 = 0.55556
        (total_forgetting(2), (0.89583, 0.55556, 1.0)),
        # Eq. 8: (2 + 0 + 0 + 0) / 4 (A at positions 1 and 3). Eq. 9: visit 2: A -1; 3: A at both positions 0 - 0; 4: 0.
        (only_first_visit(2), (0.5, -0.33333, 0.25)),
    ],
    ids=["forgets", "only-1st"],
)
def test_protocol_nbsp_equations_is_what_is_printed(success, expected):
    found = [float(m(success, protocol="nbsp-equations")) for m in (average_success, forgetting, forward_transfer)]
    assert found == pytest.approx(expected, abs=5e-6)


def test_protocol_nbsp_equations_needs_tasks_before_their_first_visit():
    assert metrics.needed_cells([0, 1], 2, "nbsp-equations").all()
    assert np.isnan(average_success([[1.0, NAN], [0.0, 1.0]], protocol="nbsp-equations"))


def test_protocol_first_cycle_ignores_the_second():
    success = first_cycle_only(2)  # ASR = (1 + 1/2) / 2, FM = 1, FWT = 1; the lost second cycle does not matter
    found = [float(m(success, protocol="first-cycle")) for m in (average_success, forgetting, forward_transfer)]
    assert found == [0.75, 1.0, 1.0]
    success[2:] = NAN
    assert average_success(success, protocol="first-cycle") == 0.75


@pytest.mark.parametrize(
    ("protocol", "tasks", "slope"),
    [
        ("nbsp-visits", 2, 0.375),
        ("nbsp-visits", 4, 0.615),
        ("positions", 2, 0.46),
        ("positions", 4, 0.65),
        ("first-cycle", 2, 0.25),
        ("first-cycle", 4, 0.48),
    ],
)
def test_each_protocol_has_its_constant_of_uniform_forgetting(protocol, tasks, slope):
    """(FWT - ASR) / FM is what told the protocols apart in the published tables."""
    success = total_forgetting(tasks)
    asr, fm, fwt = (m(success, protocol=protocol) for m in (average_success, forgetting, forward_transfer))
    assert (fwt - asr) / fm == pytest.approx(slope, abs=0.005)


def test_forgetting_is_negative_when_a_task_gets_better_while_another_is_trained():
    # After visit 2 task 1 is 0.5 - 0.8 = -0.3 below its best.
    assert forgetting([[0.5, 0.0], [0.8, 1.0]]) == pytest.approx(-0.3)


def test_forgetting_is_measured_from_the_best_success_since_the_first_visit():
    # Task 2 is at 0.9 before its first visit, which does not count. After visit 3: 0.6 - 0.1 = 0.5; after 2: 1 - 0.4.
    success = [[1.0, 0.9], [0.4, 0.6], [1.0, 0.1]]
    assert forgetting(success) == pytest.approx((0.6 + 0.5) / 2)


def test_seeds_are_kept_apart():
    success = np.stack([perfect_retention(2), total_forgetting(2)])
    assert average_success(success).tolist() == [1.0, 0.625]
    assert forgetting(success).tolist() == [0.0, 1.0]


def test_a_missing_needed_cell_makes_a_metric_nan_and_never_0():
    success = total_forgetting(2)
    success[3, 0] = NAN
    assert np.isnan(average_success(success)) and np.isnan(forgetting(success))
    assert forward_transfer(success) == 1.0  # It does not need that cell.


def test_cells_of_tasks_that_were_not_trained_yet_are_not_needed():
    success = total_forgetting(2)
    success[0, 1] = NAN
    assert [average_success(success), forgetting(success), forward_transfer(success)] == [0.625, 1.0, 1.0]


def test_one_task_has_no_forgetting():
    success = [[0.5], [1.0]]
    assert np.isnan(forgetting(success))
    assert average_success(success) == forward_transfer(success) == 0.75


def test_order_of_visits_can_be_given():
    # Visits B A: the columns are swapped against the cyclic order.
    success = [[0.0, 1.0], [1.0, 0.5]]
    assert forward_transfer(success, [1, 0]) == 1.0
    assert average_success(success, [1, 0]) == (1.0 + 0.75) / 2
    assert forgetting(success, [1, 0]) == 0.5


def test_visits_without_an_earlier_other_task_do_not_count_in_forgetting():
    # Order A A B: after visit 2 nothing else was seen; after 3, A lost 1.0 - 0.2.
    assert forgetting([[0.7, 0.0], [1.0, 0.0], [0.2, 1.0]], [0, 0, 1]) == pytest.approx(0.8)


def test_per_cycle_values_by_hand():
    # Terms of the visits: ASR 1, 3/4, 3/4, 1/2; FM -, 1/2, 1/2, 1; FWT all 1.
    values = metrics.per_cycle([[1.0, 0.0], [0.5, 1.0], [1.0, 0.5], [0.0, 1.0]])
    assert {name: value.tolist() for name, value in values.items()} == {
        "asr": [0.875, 0.625],
        "fm": [0.5, 0.75],
        "fwt": [1.0, 1.0],
    }


def test_final_success_and_relearn_by_hand():
    success = [[1.0, 0.0], [0.5, 1.0], [1.0, 0.2], [0.0, 0.9]]
    assert metrics.final_success(success) == 0.45
    # Before visit 3 task 1 is at 0.5, before visit 4 task 2 at 0.2.
    assert metrics.relearn(success) == pytest.approx(0.35)
    assert np.isnan(metrics.relearn(success[:2]))


def test_forgetting_and_relearning_of_each_task_by_hand():
    # A is kept and B lost: B is 1 - 0.25 below its best after visit 3, and at 0.25 before visit 4.
    success = [[1.0, 0.0], [1.0, 1.0], [1.0, 0.25], [0.5, 1.0]]
    # A after visits 2 and 4: 0 and 0.5.
    assert metrics.forgetting_by_task(success).tolist() == [0.25, 0.75]
    assert metrics.relearn_by_task(success).tolist() == [1.0, 0.25]
    seeds = metrics.relearn_by_task(np.stack([success, success]))
    assert seeds.tolist() == [[1.0, 0.25]] * 2
    assert np.isnan(metrics.relearn_by_task(success[:2])).all()
    assert np.isnan(metrics.forgetting_by_task(success[:2])[1])


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=7).flatmap(
        lambda order: st.tuples(st.just(order), arrays(float, (len(order), 3), elements=st.floats(0.0, 1.0)))
    )
)
def test_the_tasks_terms_are_those_of_the_visits(drawn):
    order, success = drawn
    by_task, by_visit = metrics.forgetting_by_task(success, order), metrics.forgetting_by_visit(success, order)
    others = [len(set(order[:i]) - {order[i]}) for i in range(len(order))]
    counts = [sum(j in set(order[:i]) - {order[i]} for i in range(len(order))) for j in range(3)]
    summed = np.nansum(by_task * counts), np.nansum(by_visit * others)
    assert summed[0] == pytest.approx(summed[1], abs=1e-9)


@pytest.mark.parametrize(
    ("order", "length"), [([0, 1, 0, 1], 2), ([0, 0, 1, 0, 0, 1], 3), ([0, 1, 2], 3), ([0, 1, 0], 2)]
)
def test_cycle_length_is_where_the_order_repeats(order, length):
    assert metrics.cycle_length(order) == length


@pytest.mark.parametrize(
    ("success", "order", "message"),
    [
        ([1.0, 0.0], None, "shape"),
        (np.zeros((0, 2)), None, "at least one"),
        (np.zeros((4, 2)), [0, 1], "4 visits"),
        (np.zeros((2, 2)), [0, 2], r"\[0, 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(success, order, message):
    with pytest.raises(ValueError, match=message):
        average_success(success, order)


def test_an_unknown_protocol_names_the_close_ones():
    with pytest.raises(KeyError, match="did you mean 'nbsp-visits'"):
        average_success(np.zeros((2, 2)), protocol="nbsp-visit")
