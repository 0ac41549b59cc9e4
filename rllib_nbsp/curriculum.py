"""Which task at which time: tasks in a fixed sequence, cycled, and the point at which a visit is over. Plain Python."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rllib_nbsp.settings import VisitSettings


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


class VisitProgress:
    """How far a visit (or one collecting phase of it) is, and whether it is over.

    Over means: `max_env_steps` are used up, or the mean success of the last `window_episodes` finished training
    episodes has reached `success_rate` after `min_env_steps` (Table 6; methods.md A15).
    """

    def __init__(self, settings: VisitSettings, warmup: bool) -> None:
        self.settings = settings
        self.warmup_env_steps = settings.warmup_env_steps if warmup else 0
        self.env_steps = 0
        window = settings.early_stop.window_episodes if settings.early_stop else 10
        self.successes: deque[bool] = deque(maxlen=window)
        self.returns: deque[float] = deque(maxlen=window)

    @property
    def in_warmup(self) -> bool:
        """Uniformly random actions, no updates."""
        return self.env_steps < self.warmup_env_steps

    @property
    def success_window(self) -> float | None:
        """Mean success of the last training episodes; None before the first one ended."""
        return sum(self.successes) / len(self.successes) if self.successes else None

    @property
    def mean_return(self) -> float | None:
        """Mean return of the same episodes."""
        return sum(self.returns) / len(self.returns) if self.returns else None

    @property
    def mastered(self) -> bool:
        """Whether the early stop's rule holds."""
        rule = self.settings.early_stop
        return (
            rule is not None
            and self.env_steps >= max(rule.min_env_steps, self.warmup_env_steps)
            and len(self.successes) == rule.window_episodes
            and sum(self.successes) >= rule.success_rate * rule.window_episodes - 1e-9
        )

    @property
    def over(self) -> bool:
        """Whether the visit ends here."""
        return self.env_steps >= self.settings.max_env_steps or self.mastered

    def add(self, env_steps: int, episodes: Iterable[tuple[float, bool]]) -> None:
        """Count environment steps really added, and finished episodes as (return, success)."""
        self.env_steps += env_steps
        for episode_return, success in episodes:
            self.returns.append(episode_return)
            self.successes.append(success)
