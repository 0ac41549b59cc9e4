"""The rest of a study, from what its visits have taken."""

from __future__ import annotations

import pytest

from rllib_nbsp.study.time_left import TimeLeft

VISITS = {"a/0": [100, 100], "a/1": [100, 100], "b/0": [100, 100]}
ARMS = {"a/0": "a", "a/1": "a", "b/0": "b"}


def saw(left: TimeLeft, label: str, *results: tuple[float, int, int], done: bool = False) -> None:
    """Results as (time, visit, environment steps in it), the last of which may be the trial's last."""
    for i, (now, visit, env_steps) in enumerate(results):
        ends = done and i == len(results) - 1
        left.saw(label, {"visit": visit, "visit_env_steps": env_steps, "done": ends}, now)


def test_nothing_is_known_before_a_step_was_timed() -> None:
    left = TimeLeft(ARMS, VISITS)
    assert left.range(["a/0"], ["a/1"]) is None
    saw(left, "a/0", (5.0, 1, 30))
    assert left.range(["a/0"], ["a/1"]) is None


def test_visits_that_stopped_early_are_the_lower_end_by_hand() -> None:
    left = TimeLeft(ARMS, VISITS)
    # 30 steps in 15 s; the visit ends after 40 steps; 10 of the next in 7 s more: 22 s for 50 steps.
    saw(left, "a/0", (0.0, 1, 10), (15.0, 1, 40), (22.0, 2, 20))
    pace = 22.0 / 50
    # At least 40 - 20 steps of this visit; at most 100 - 20. The other trial of the arm: two visits.
    assert left.range(["a/0"], []) == pytest.approx((20 * pace, 80 * pace))
    assert left.range(["a/0"], ["a/1"]) == pytest.approx((100 * pace, 280 * pace))
    # Side by side, the longer of the two.
    assert left.range(["a/0", "a/1"], []) == pytest.approx((80 * pace, 200 * pace))


def test_an_arm_of_its_own_pace_and_one_of_which_nothing_is_known() -> None:
    left = TimeLeft(ARMS, VISITS)
    saw(left, "a/0", (0.0, 1, 0), (10.0, 1, 50))
    assert left.range(["b/0"], []) == pytest.approx((40.0, 40.0))
    saw(left, "b/0", (0.0, 1, 0), (30.0, 1, 50))
    assert left.range(["b/0"], []) == pytest.approx((90.0, 90.0))
    assert left.range(["a/1"], []) == pytest.approx((40.0, 40.0))


def test_a_trial_that_is_restored_or_started_again_is_timed_from_there() -> None:
    left = TimeLeft(ARMS, VISITS)
    saw(left, "a/0", (100.0, 2, 50), (110.0, 2, 60), (500.0, 2, 10), (510.0, 2, 20))
    assert left.range(["a/0"], []) == pytest.approx((80.0, 80.0))


def test_a_visit_that_is_to_be_cut_short_is_no_longer_than_that() -> None:
    left = TimeLeft({"a/0": "a", "a/1": "a"}, {"a/0": [100, 30], "a/1": [30]})
    saw(left, "a/0", (0.0, 1, 0), (10.0, 1, 50))
    # 0.2 s a step: 50 and 30 steps; 30 steps.
    assert left.range(["a/0"], []) == pytest.approx((16.0, 16.0))
    assert left.range(["a/1"], []) == pytest.approx((6.0, 6.0))


def test_at_a_studys_end_nothing_is_left() -> None:
    left = TimeLeft(ARMS, VISITS)
    saw(left, "a/0", (0.0, 1, 0), (10.0, 1, 100), (20.0, 2, 100), done=True)
    assert left.range([], []) is None
    assert left.range(["a/0"], []) == (0.0, 0.0)
