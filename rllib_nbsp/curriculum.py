"""Which task at which time: tasks in a fixed sequence, cycled, and the phases of a visit. Plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Task:
    """One environment and goal; `index` is its place among the sequence's distinct tasks."""

    index: int
    name: str


@dataclass(frozen=True)
class Visit:
    """One stay in a task; visits count from 1 over all cycles, and `following` is how many come after this one."""

    number: int
    cycle: int
    task: Task
    following: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Phase:
    """A stretch of a visit. Phases never shift visit numbers, D_pre or metrics.

    Attributes:
        name: handed to `on_phase_start` and `on_phase_end`.
        collect: act in the environment under the visit's budget and early stop, with updates as usual.
        updates: updates without collecting, if `collect` is false.
        data: where those updates sample: the current buffer D, or D_pre.
        sac_losses: whether SAC's own losses are part of the updates, beside the method's terms.
        fresh: start with an empty D and, if collecting, with a warm-up if the visit has one.
    """

    name: str = "train"
    collect: bool = True
    updates: int = 0
    data: Literal["current", "prior"] = "current"
    sac_losses: bool = True
    fresh: bool = False


class Curriculum:
    """K distinct tasks, C cycles, V = C * len(tasks) visits.

    Args:
        tasks: the sequence; a task that stands in it twice is one task with two visits a cycle.
        cycles: how often the sequence is run through.
    """

    def __init__(self, tasks: Sequence[str], cycles: int) -> None:
        distinct = {name: Task(index, name) for index, name in enumerate(dict.fromkeys(tasks))}
        self.tasks = list(distinct.values())
        total = cycles * len(tasks)
        self.visits = [
            Visit(i + 1, i // len(tasks) + 1, distinct[tasks[i % len(tasks)]], following=total - i - 1)
            for i in range(total)
        ]

    def visit(self, number: int) -> Visit:
        """The visit of that number, from 1."""
        return self.visits[number - 1]
