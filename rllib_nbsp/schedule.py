"""Where a run is: its visit, the phase of it, what is owed, and the point at which each is over. Plain Python.

The driver of a run asks and tells; nothing here samples, learns or evaluates.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from rllib_nbsp.curriculum import Curriculum, Phase, Visit
from rllib_nbsp.settings import VisitSettings

MAX_UPDATES_PER_CALL = 64
"""Of the Learners, whose batches lie in memory together."""
ROUNDING = 1e-6  # ten steps of 0.1 updates each are one update, also in binary
EXTRA = ("scoring_env_steps", "auxiliary_env_steps", "auxiliary_updates")
FAULTS = ("rebuilt_envs", "lost_fragments")


class VisitProgress:
    """How far a visit (or one collecting phase of it) is, and whether it is over.

    Over means: `max_env_steps` are used up, or the mean success of the last `window_episodes` finished training
    episodes has reached `success_rate` after `min_env_steps` (Table 6; docs/readings.md R4).
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
    def success_window(self) -> float:
        """Mean success of the last training episodes; NaN before the first one ended."""
        return sum(self.successes) / len(self.successes) if self.successes else math.nan

    @property
    def mean_return(self) -> float:
        """Mean return of the same episodes."""
        return sum(self.returns) / len(self.returns) if self.returns else math.nan

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


class VisitSchedule:
    """A run's way through its visits and their phases.

    Args:
        curriculum: the visits.
        phases: the stretches of a visit, as the method has them.
        settings: how long a visit lasts.
        warmup_each_visit: whether later visits have a warm-up too.
        updates_per_env_step: updates owed for a step after the warm-up.
        evaluation_env_steps: environment steps between two periodic evaluations.
        report_env_steps: environment steps between two reports.
        state_env_steps: environment steps of a phase between two breaks, at which the state is written; None: no break.
        stop_env_steps: environment steps of main phases after which the run ends; None: after the last visit.

    Attributes:
        visit: the visit that is running; before the start, the first one.
        started, done: whether the run has begun, and is over.
        progress: how far the visit, or its last phase that collects, is.
        env_steps, updates: of the whole run.
        extra: by the names of `EXTRA`, what was done beside the visits' main phases.
        faults: by the names of `FAULTS`, what was survived: environments that were built anew, and fragments of workers
            that did not answer.
        version: of sampling; raised whenever running episodes must not go on.
    """

    def __init__(
        self,
        curriculum: Curriculum,
        phases: Callable[[Visit], list[Phase]],
        settings: VisitSettings,
        *,
        warmup_each_visit: bool,
        updates_per_env_step: float,
        evaluation_env_steps: int,
        report_env_steps: int,
        state_env_steps: int | None,
        stop_env_steps: int | None,
    ) -> None:
        self.curriculum = curriculum
        self._phases_of = phases
        self._settings = settings
        self._warmup_each_visit = warmup_each_visit
        self._updates_per_env_step = updates_per_env_step
        self._evaluation_env_steps = evaluation_env_steps
        self._report_env_steps = report_env_steps
        self._state_env_steps = state_env_steps
        self._stop_env_steps = stop_env_steps
        self.visit = curriculum.visit(1)
        self.started = self.done = False
        self.env_steps = self.updates = 0
        self.extra = dict.fromkeys(EXTRA, 0)
        self.faults = dict.fromkeys(FAULTS, 0)
        self.version = 0
        self.progress = VisitProgress(settings, warmup=True)
        self._phases: list[Phase] = []
        self._phase_updates = 0
        self._updates_due = 0.0
        self._next_evaluation = self._next_report = self._next_break = 0

    # Visits and phases

    def start_visit(self, visit: Visit) -> None:
        """Begin a visit with its first phase."""
        self.visit, self.started = visit, True
        self._phases = self._phases_of(visit)
        self._phase_updates = 0
        self._begin_collecting(warmup=self._warms_up)

    @property
    def phase(self) -> Phase:
        """The stretch of the visit that is running."""
        return self._phases[0]

    @property
    def is_auxiliary(self) -> bool:
        """Whether the phase stands beside the visit's main one, the last that collects."""
        return not self.phase.collect or any(phase.collect for phase in self._phases[1:])

    @property
    def phase_over(self) -> bool:
        """Whether the phase has had its environment steps, its mastery or its updates."""
        if not self.phase.collect:
            return self._phase_updates >= self.phase.updates
        return self.progress.over or self._cut_off

    def next_phase(self) -> bool:
        """Go on to the visit's next phase; returns whether there is one."""
        if len(self._phases) == 1:
            return False
        self._phases = self._phases[1:]
        self._phase_updates = 0
        if self.phase.collect:
            self._begin_collecting(warmup=self.phase.fresh and self._warms_up)
        return True

    @property
    def following(self) -> Visit | None:
        """The visit after this one, if any."""
        return None if self._cut_off or not self.visit.following else self.curriculum.visit(self.visit.number + 1)

    @property
    def _cut_off(self) -> bool:
        """Whether the run has had all of the environment steps that it may take."""
        main = self.env_steps - self.extra["auxiliary_env_steps"]
        return self._stop_env_steps is not None and main >= self._stop_env_steps

    @property
    def _warms_up(self) -> bool:
        return self.visit.number == 1 or self._warmup_each_visit

    def _begin_collecting(self, warmup: bool) -> None:
        self.version += 1
        self.progress = VisitProgress(self._settings, warmup)
        self._updates_due = 0.0
        self._next_evaluation = self.env_steps + self._evaluation_env_steps
        self._next_report = self.env_steps + self._report_env_steps
        self._next_break = self.env_steps + (self._state_env_steps or 0)

    # What was done, and what is owed

    def collected(self, env_steps: int, episodes: Iterable[tuple[float, bool]]) -> None:
        """Count environment steps really added, and finished episodes as (return, success)."""
        warm = not self.progress.in_warmup
        self.env_steps += env_steps
        self.extra["auxiliary_env_steps"] += env_steps * self.is_auxiliary
        self.progress.add(env_steps, episodes)
        self._updates_due += warm * env_steps * self._updates_per_env_step

    @property
    def updates_owed(self) -> int:
        """Whole updates that are due now: for the steps of a phase that collects, or what is left of another."""
        return int(self._updates_due + ROUNDING) if self.phase.collect else self.phase.updates - self._phase_updates

    def updated(self, count: int) -> None:
        """Count updates made."""
        self.updates += count
        self.extra["auxiliary_updates"] += count * self.is_auxiliary
        if self.phase.collect:
            self._updates_due -= count
        else:
            self._phase_updates += count

    def evaluation_is_due(self) -> bool:
        """Whether it is time for a periodic evaluation, which is then taken for made.

        Never in an auxiliary phase, whose networks are not the agent's, nor at a phase's end, where the boundary's
        evaluation follows at once.
        """
        if self.is_auxiliary or self.env_steps < self._next_evaluation:
            return False
        self._next_evaluation += self._evaluation_env_steps
        return not self.phase_over

    def place(self) -> dict[str, Any]:
        """Where the run is, as a result and a training row say it; NaN where no episode has ended yet."""
        return {
            "visit": self.visit.number,
            "num_visits": len(self.curriculum.visits),
            "task": self.visit.task.name,
            "phase": self.phase.name if self.started else "",
            "visit_env_steps": self.progress.env_steps,
            "visit_max_env_steps": self._settings.max_env_steps,
            "env_steps": self.env_steps,
            "updates": self.updates,
            "success_window": self.progress.success_window,
            "mean_return": self.progress.mean_return,
        }

    @property
    def report_is_due(self) -> bool:
        """Whether so many steps were made since the last report."""
        return self.env_steps >= self._next_report

    def reported(self) -> None:
        """A report was made."""
        self._next_report = self.env_steps + self._report_env_steps

    def breaks(self) -> bool:
        """Whether it is time for new episodes everywhere, which then are of a new version.

        All that is sampled from here on follows from the seed and the version, so that the state needs no simulator's.
        Not at a phase's end, where new episodes begin anyway.
        """
        period, late = self._state_env_steps, self.env_steps - self._next_break
        if period is None or late < 0 or not self.phase.collect or self.phase_over:
            return False
        self._next_break += period * (late // period + 1)
        self.version += 1
        return True

    # State

    def get_state(self) -> dict[str, Any]:
        """Where the run is: numbers, lists and dicts alone."""
        return {
            "visit": self.visit.number,
            "visit_env_steps": self.progress.env_steps,
            "warmup_env_steps": self.progress.warmup_env_steps,
            "successes": list(self.progress.successes),
            "returns": list(self.progress.returns),
            "phases_left": len(self._phases),
            "phase_updates": self._phase_updates,
            "env_steps": self.env_steps,
            "updates": self.updates,
            "extra": dict(self.extra),
            "faults": dict(self.faults),
            "updates_due": self._updates_due,
            "version": self.version,
            "next_evaluation": self._next_evaluation,
            "next_report": self._next_report,
            "next_break": self._next_break,
            "done": self.done,
        }

    def phases_left(self, state: dict[str, Any]) -> tuple[Visit, list[Phase]]:
        """The visit of a state and the phases of it that were not over."""
        visit = self.curriculum.visit(state["visit"])
        return visit, self._phases_of(visit)[-state["phases_left"] :]

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.visit, self._phases = self.phases_left(state)
        self.started, self.done = True, state["done"]
        self.progress = VisitProgress(self._settings, warmup=state["warmup_env_steps"] > 0)
        self.progress.add(state["visit_env_steps"], zip(state["returns"], state["successes"], strict=True))
        self._updates_due, self._phase_updates = state["updates_due"], state["phase_updates"]
        self.env_steps, self.updates = state["env_steps"], state["updates"]
        self.extra, self.faults = dict(state["extra"]), dict(state["faults"])
        self.version = state["version"]
        self._next_evaluation, self._next_report = state["next_evaluation"], state["next_report"]
        self._next_break = state["next_break"]

    def new_episodes(self) -> None:
        """What was running is gone: the next steps are of new episodes, and nothing is owed for the last ones."""
        self.version += 1
        self._updates_due = 0.0
