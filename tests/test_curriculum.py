"""Which task at which visit."""

from __future__ import annotations

from rllib_nbsp.curriculum import Curriculum, Task, Visit


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
