"""When a visit is over, and the way through visits and their phases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_nbsp.curriculum import Curriculum, Phase, Visit
from rllib_nbsp.schedule import VisitProgress, VisitSchedule
from rllib_nbsp.settings import EarlyStopSettings, VisitSettings


def progress(
    *, warmup: bool = True, early_stop: EarlyStopSettings | None = None, warmup_env_steps: int = 10
) -> VisitProgress:
    settings = VisitSettings(max_env_steps=100, warmup_env_steps=warmup_env_steps, early_stop=early_stop)
    return VisitProgress(settings, warmup)


RULE = EarlyStopSettings(success_rate=0.9, window_episodes=10, min_env_steps=50)


def test_a_visit_without_early_stop_lasts_its_budget():
    visit = progress()
    visit.add(99, [(1.0, True)] * 50)
    assert not visit.over
    visit.add(1, [])
    assert visit.over
    assert not visit.mastered


def test_nine_successes_in_ten_are_mastery_and_eight_are_not():
    for successes, mastered in ((8, False), (9, True), (10, True)):
        visit = progress(early_stop=RULE)
        visit.add(60, [(0.0, i < successes) for i in range(10)])
        assert visit.mastered is mastered
        assert visit.over is mastered


def test_mastery_needs_a_full_window():
    visit = progress(early_stop=RULE)
    visit.add(60, [(0.0, True)] * 9)
    assert not visit.over
    visit.add(1, [(0.0, True)])
    assert visit.over


def test_mastery_is_not_looked_for_before_its_first_env_step():
    visit = progress(early_stop=RULE)
    visit.add(49, [(0.0, True)] * 20)
    assert not visit.over
    visit.add(1, [])
    assert visit.over


def test_mastery_is_not_looked_for_in_the_warmup():
    # Random actions reach an easy goal, but nothing is learned yet.
    rule = EarlyStopSettings(success_rate=0.9, window_episodes=1, min_env_steps=0)
    visit = progress(early_stop=rule, warmup_env_steps=30)
    visit.add(29, [(0.0, True)])
    assert visit.in_warmup
    assert not visit.over
    assert progress(early_stop=rule, warmup=False).warmup_env_steps == 0


def test_only_the_last_episodes_count():
    visit = progress(early_stop=RULE)
    visit.add(60, [(0.0, False)] * 30 + [(0.0, True)] * 9)
    assert visit.success_window == pytest.approx(0.9)
    assert visit.mastered
    visit.add(1, [(0.0, False), (0.0, False)])
    assert visit.success_window == pytest.approx(0.8)
    assert not visit.mastered


def test_the_window_is_unknown_before_the_first_episode_ends():
    assert math.isnan(progress().success_window)


def test_warmup_ends_at_its_last_step_and_can_be_left_out():
    visit = progress()
    assert visit.in_warmup
    visit.add(9, [])
    assert visit.in_warmup
    visit.add(1, [])
    assert not visit.in_warmup
    assert not progress(warmup=False).in_warmup


@given(
    st.lists(st.tuples(st.integers(0, 20), st.lists(st.booleans(), max_size=4)), max_size=20),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0]),
    st.integers(0, 120),
)
def test_a_visit_ends_when_a_naive_count_of_its_history_says_so(history, window, rate, min_env_steps):
    rule = EarlyStopSettings(success_rate=rate, window_episodes=window, min_env_steps=min_env_steps)
    visit = progress(early_stop=rule)
    steps, outcomes = 0, []
    for env_steps, episodes in history:
        visit.add(env_steps, [(0.0, success) for success in episodes])
        steps += env_steps
        outcomes += episodes
        assert visit.over is (steps >= 100 or _mastered(steps, outcomes, window, rate, max(min_env_steps, 10)))


def _mastered(steps: int, outcomes: Sequence[bool], window: int, rate: float, first_step: int) -> bool:
    last = outcomes[-window:]
    return steps >= first_step and len(last) == window and round(1000 * sum(last)) >= round(1000 * rate * window)


# The way through a run: two tasks, two cycles, visits of 100 steps, 10 of them warm-up


def schedule(phases: Callable[[Visit], list[Phase]] = lambda visit: [Phase()], **changes: Any) -> VisitSchedule:
    settings = VisitSettings(max_env_steps=100, warmup_env_steps=10, early_stop=None)
    rest: dict[str, Any] = {"warmup_each_visit": True, "updates_per_env_step": 0.25, "evaluation_env_steps": 40}
    rest |= {"report_env_steps": 50, "state_env_steps": None, "stop_env_steps": None}
    return VisitSchedule(Curriculum(["a", "b"], 2), phases, settings, **{**rest, **changes})


def auxiliary_then_retrained(visit: Visit) -> list[Phase]:
    return [Phase("auxiliary"), Phase("main", fresh=True), Phase("retrain", collect=False, updates=7)]


def test_a_run_visits_every_task_in_turn_and_then_there_is_none():
    way = schedule()
    visit: Visit | None = way.visit
    seen = []
    while visit is not None:
        way.start_visit(visit)
        seen.append((visit.task.name, way.version))
        visit = way.following
    assert seen == [("a", 1), ("b", 2), ("a", 3), ("b", 4)]


def test_updates_are_owed_for_steps_after_the_warmup_alone():
    way = schedule()
    way.start_visit(way.visit)
    way.collected(8, [])
    assert way.updates_owed == 0
    way.collected(2, [])  # the warm-up's last steps
    assert way.updates_owed == 0
    way.collected(10, [])
    assert way.updates_owed == 2  # 10 / 4, the half is kept
    way.updated(2)
    way.collected(2, [])
    assert way.updates_owed == 1
    way.updated(1)
    assert (way.env_steps, way.updates, way.updates_owed) == (22, 3, 0)


def test_ten_steps_of_a_tenth_of_an_update_are_one_update():
    way = schedule(updates_per_env_step=0.1)
    way.start_visit(way.visit)
    way.collected(10, [])
    for _ in range(10):  # ten times 0.1 are 0.9999999999999999
        way.collected(1, [])
    assert way.updates_owed == 1


def test_a_visit_goes_through_its_phases_and_what_is_beside_the_main_one_is_counted_apart():
    way = schedule(auxiliary_then_retrained)
    way.start_visit(way.visit)
    assert (way.phase.name, way.is_auxiliary) == ("auxiliary", True)
    way.collected(100, [])
    assert way.phase_over
    way.updated(5)
    version = way.version
    assert way.next_phase()
    assert (way.phase.name, way.is_auxiliary, way.phase_over) == ("main", False, False)
    assert way.version == version + 1
    assert way.updates_owed == 0  # nothing is owed for another run's steps
    way.collected(100, [])
    way.updated(6)
    assert way.next_phase()
    assert (way.phase.name, way.is_auxiliary, way.updates_owed) == ("retrain", True, 7)
    assert way.version == version + 1  # nobody acts
    way.updated(4)
    assert (way.updates_owed, way.phase_over) == (3, False)
    way.updated(3)
    assert way.phase_over
    assert not way.next_phase()
    assert (way.env_steps, way.updates) == (200, 18)
    assert way.extra == {"scoring_env_steps": 0, "auxiliary_env_steps": 100, "auxiliary_updates": 12}


def test_a_phase_that_goes_on_with_the_data_has_no_warmup_and_later_visits_only_if_asked():
    way = schedule(lambda visit: [Phase(), Phase("more")], warmup_each_visit=False)
    way.start_visit(way.visit)
    assert way.progress.in_warmup
    way.collected(100, [])
    way.next_phase()
    assert not way.progress.in_warmup
    way.start_visit(way.curriculum.visit(2))
    assert not way.progress.in_warmup


def test_evaluations_are_due_every_interval_but_not_at_an_end_nor_beside_the_main_phase():
    way = schedule()
    way.start_visit(way.visit)
    due = []
    for _ in range(10):
        way.collected(10, [])
        due.append(way.evaluation_is_due())
    assert [10 * (i + 1) for i, now in enumerate(due) if now] == [40, 80]
    at_the_end = schedule(evaluation_env_steps=50)
    at_the_end.start_visit(at_the_end.visit)
    at_the_end.collected(100, [])
    assert not at_the_end.evaluation_is_due()
    beside = schedule(auxiliary_then_retrained)
    beside.start_visit(beside.visit)
    beside.collected(60, [])
    assert not beside.evaluation_is_due()


@pytest.mark.parametrize("steps", [30, 100])
def test_a_state_is_plain_and_another_schedule_goes_on_from_it(steps):
    way = schedule(auxiliary_then_retrained)
    way.start_visit(way.curriculum.visit(2))
    way.collected(100, [(1.0, True)])
    way.next_phase()
    way.collected(steps, [(2.5, False), (3.0, True)])
    way.updated(2)
    state = json.loads(json.dumps(way.get_state()))
    other = schedule(auxiliary_then_retrained)
    other.set_state(state)
    assert other.get_state() == state
    assert (other.phase, other.phase_over) == (way.phase, way.phase_over)
    assert other.progress.success_window == way.progress.success_window
    for one in (way, other):
        one.next_phase()
    assert other.updates_owed == way.updates_owed == 7


def test_what_goes_on_without_its_episodes_owes_nothing_for_them():
    way = schedule()
    way.start_visit(way.visit)
    way.collected(40, [])
    way.collected(40, [])
    assert way.updates_owed == 10
    version = way.version
    way.new_episodes()
    assert (way.updates_owed, way.version) == (0, version + 1)


def test_reports_are_due_every_interval_after_the_last_one():
    way = schedule()
    way.start_visit(way.visit)
    due = []
    for _ in range(5):
        way.collected(30, [])
        due.append(way.report_is_due)
        if due[-1]:
            way.reported()
    assert due == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("period", "breaks"), [(None, []), (40, [40, 80]), (30, [40, 60]), (7, [20, 40, 60, 80]), (100, []), (1000, [])]
)
def test_new_episodes_begin_every_period_but_not_at_an_end_nor_where_nothing_is_collected(period, breaks):
    way = schedule(lambda visit: [Phase("main"), Phase("retrain", collect=False, updates=7)], state_env_steps=period)
    for visit in (1, 2):
        way.start_visit(way.curriculum.visit(visit))
        version, seen = way.version, []
        for step in range(0, 100, 20):
            way.collected(20, [])
            if way.breaks():
                seen.append(step + 20)
                assert not way.breaks()
        assert seen == breaks
        assert way.version == version + len(seen)
        way.next_phase()
        assert not way.breaks()


def walked(way: VisitSchedule, steps: int) -> list[tuple[int, int, bool, bool]]:
    """Visit, environment steps, whether an evaluation is due and whether the phase is over, after each fragment."""
    seen: list[tuple[int, int, bool, bool]] = []
    visit: Visit | None = way.visit
    while visit is not None:
        way.start_visit(visit)
        more = True
        while more:
            while not way.phase_over:
                way.collected(steps, [])
                seen.append((visit.number, way.env_steps, way.evaluation_is_due(), way.phase_over))
            more = way.next_phase()
        visit = way.following
    return seen


@given(st.integers(1, 500), st.integers(1, 30), st.booleans())
def test_a_run_that_ends_early_is_the_beginning_of_one_that_does_not(stop, steps, auxiliary):
    phases = (lambda visit: [Phase("auxiliary"), Phase("main")]) if auxiliary else (lambda visit: [Phase()])
    whole = walked(schedule(phases), steps)
    way = schedule(phases, stop_env_steps=stop)
    seen = walked(way, steps)
    assert [row[:3] for row in seen[:-1]] == [row[:3] for row in whole[: len(seen) - 1]]
    assert seen[-1][:2] == whole[len(seen) - 1][:2] and seen[-1][3]
    main = way.env_steps - way.extra["auxiliary_env_steps"]
    # It ends with the fragment that reaches the limit, or with the last visit.
    assert main - steps < stop <= main or len(seen) == len(whole)
