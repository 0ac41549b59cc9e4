"""Which task at which visit, and when a visit is over."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rllib_nbsp.curriculum import Curriculum, Task, Visit, VisitProgress
from rllib_nbsp.settings import EarlyStopSettings, VisitSettings


def test_visits_count_from_1_over_all_cycles():
    curriculum = Curriculum(["a", "b", "c"], 2)
    assert [(v.number, v.cycle, v.task.name) for v in curriculum.visits] == [
        (1, 1, "a"),
        (2, 1, "b"),
        (3, 1, "c"),
        (4, 2, "a"),
        (5, 2, "b"),
        (6, 2, "c"),
    ]
    assert curriculum.visit(4) == Visit(4, 2, Task(0, "a"))
    assert [v.following for v in curriculum.visits] == [5, 4, 3, 2, 1, 0]


def test_a_task_that_stands_twice_in_the_sequence_is_one_task():
    curriculum = Curriculum(["a", "b", "a"], 2)
    assert curriculum.tasks == [Task(0, "a"), Task(1, "b")]
    assert [v.task.index for v in curriculum.visits] == [0, 1, 0, 0, 1, 0]
    assert [v.cycle for v in curriculum.visits] == [1, 1, 1, 2, 2, 2]


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
    assert progress().success_window is None


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
