"""How long a running study still takes, from what its visits have taken so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rllib_nbsp.study.estimate import study_seconds


@dataclass
class _Pace:
    """Of visits that ended, or are under way: seconds, and the environment steps in them."""

    seconds: float = 0.0
    env_steps: int = 0
    ended: int = 0
    ended_env_steps: int = 0


@dataclass
class _Place:
    """Where a trial is, and where it was when its visit, or this program, began."""

    visit: int
    env_steps: int
    since: float
    from_env_steps: int


class TimeLeft:
    """A range for the rest of a study: visits as long as those that ended, or as long as they may be.

    Trials of one arm are taken to be equally fast, and arms of which nothing has run yet as fast as the others.

    Args:
        arms: what each trial is a trial of, by its label.
        visits: the most environment steps of each of a trial's visits, by its label.
    """

    def __init__(self, arms: Mapping[str, str], visits: Mapping[str, Sequence[int]]) -> None:
        self._arms = arms
        self._visits = visits
        self._places: dict[str, _Place] = {}
        self._paces: dict[str, _Pace] = {arm: _Pace() for arm in arms.values()}

    def saw(self, label: str, result: Mapping[str, Any], now: float) -> None:
        """Take a trial's result in.

        Args:
            label: whose it is.
            result: with `visit`, `visit_env_steps` and `done`.
            now: seconds of a clock.
        """
        visit, env_steps = result["visit"], result["visit_env_steps"]
        pace, place = self._paces[self._arms[label]], self._places.get(label)
        if place is not None and (visit, env_steps) < (place.visit, place.env_steps):
            place = None  # it was started again
        if place is None:
            place = self._places[label] = _Place(visit, env_steps, now, env_steps)
        elif visit > place.visit:
            self._end(pace, place)
            place = self._places[label] = _Place(visit, 0, place.since, 0)
        pace.seconds += now - place.since
        pace.env_steps += env_steps - place.from_env_steps
        place.env_steps = place.from_env_steps = env_steps
        place.since = now
        if result["done"]:
            self._end(pace, place)

    def _end(self, pace: _Pace, place: _Place) -> None:
        pace.ended += 1
        pace.ended_env_steps += place.env_steps

    def range(self, running: Sequence[str], waiting: Sequence[str]) -> tuple[float, float] | None:
        """Seconds at least and at most, or None before anything is known.

        Args:
            running: labels of trials that have a place.
            waiting: of those that wait for one, in order.
        """
        paces = self._paces.values()
        whole = _Pace(
            sum(pace.seconds for pace in paces),
            sum(pace.env_steps for pace in paces),
            sum(pace.ended for pace in paces),
            sum(pace.ended_env_steps for pace in paces),
        )
        if not (running and whole.env_steps and whole.seconds):
            return None
        short, long = ([self._left(label, whole, cut=cut) for label in (*running, *waiting)] for cut in (True, False))
        return study_seconds(short, len(running)), study_seconds(long, len(running))

    def _left(self, label: str, whole: _Pace, *, cut: bool) -> float:
        own, lengths = self._paces[self._arms[label]], self._visits[label]
        place = self._places.get(label, _Place(1, 0, 0.0, 0))
        pace = own if own.env_steps and own.seconds else whole
        ended = own if own.ended else whole
        usual = ended.ended_env_steps / ended.ended if cut and ended.ended else math.inf
        first, *later = lengths[place.visit - 1 :] or [0]
        # A visit that is already longer than usual may end at once.
        env_steps = max(min(usual, first) - place.env_steps, 0) + sum(min(usual, length) for length in later)
        return env_steps * pace.seconds / pace.env_steps
