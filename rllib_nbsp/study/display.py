"""A live line per trial: visit, task, environment steps, success, speed, time left; and what the study has left."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

from ray import tune
from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table

from rllib_nbsp.settings import RunSettings
from rllib_nbsp.study.estimate import duration
from rllib_nbsp.study.study import trial_label
from rllib_nbsp.study.time_left import TimeLeft

REDRAW_INTERVAL_S, PLAIN_INTERVAL_S = 1.0, 15.0
WAITING, DONE, FAILED, RUNNING = KINDS = ("waiting", "done", "failed", "running")
"""Of states; all that are none of the first three are of trials that have a place."""
ORDER = (RUNNING, FAILED, WAITING, DONE)
HEADINGS = ("trial", "state", "visit", "task", "env steps", "success", "steps/s", "saved at", "left")
SAVED, WIDE = HEADINGS.index("saved at"), 100
"""A column that is left out where the screen is less wide."""
PLAIN_LINE = "{}: {}, visit {}, {}, {} env steps, success {}, {} steps/s"
STOPPING = "stopping: the state of {} is being written, which takes seconds; once more stops them at once"


class LiveDisplay(tune.Callback):
    """A table that renews itself once a second on a terminal; elsewhere a line per changed trial every 15 seconds.

    The table has as many trials as the screen has lines, those that run first.

    Args:
        trials: those to come.
        console: where to print.
    """

    def __init__(self, trials: Sequence[RunSettings], console: Console) -> None:
        self._console = console
        many = len({trial.sequence for trial in trials}) > 1
        self._labels = {t.results_dir: trial_label(t) if many else f"{t.arm}/seed_{t.seed}" for t in trials}
        self._rows: dict[str, tuple[str, ...]] = {label: (label, WAITING) for label in self._labels.values()}
        named = {self._labels[trial.results_dir]: trial for trial in trials}
        self._time_left = TimeLeft(
            {label: f"{trial.sequence}/{trial.arm}" for label, trial in named.items()},
            {label: trial.visit_env_steps for label, trial in named.items()},
        )
        self._lifetimes = {label: sum(trial.visit_env_steps) for label, trial in named.items()}
        self._printed = dict(self._rows)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._next_show = 0.0
        self._told = ""
        self._interrupt: Any = None

    def __enter__(self) -> LiveDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._show(at_once=True)
        if self._live:
            self._live.stop()

    def __getstate__(self) -> dict[str, Any]:
        """Tune files a copy of all it was given; a screen cannot be filed."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's hook: from here on, Ctrl-C is Tune's, which waits without a word."""
        if self._interrupt is None and threading.current_thread() is threading.main_thread():
            self._interrupt = signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, self._interrupt)
        running = sum(row[1] == RUNNING for row in self._rows.values())
        self._console.print(
            STOPPING.format(f"{running} trials" if running != 1 else "1 trial"), highlight=False, soft_wrap=True
        )
        self._interrupt(number, frame)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune's hook."""
        self._set(trial, "starting")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Tune's hook."""
        if "failure" in result:
            self._set(trial, FAILED)
        else:
            if "waits_for" not in result:
                self._time_left.saw(self._label(trial), result, time.monotonic())
            waits = f"waits for the first visit of {result['waits_for']}" if "waits_for" in result else ""
            self._set(
                trial, DONE if result["done"] else waits or RUNNING, *([] if waits else self._cells(trial, result))
            )

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune's hook."""
        self._set(trial, "failed, starting again")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune's hook."""
        self._set(trial, FAILED)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's hook."""
        self._show()

    def _cells(self, trial: Any, result: dict[str, Any]) -> tuple[str, ...]:
        """The columns after the state."""
        length, speed = result["visit_max_env_steps"], result["env_steps_per_s"]
        left = self._lifetimes[self._label(trial)] - (result["visit"] - 1) * length - result["visit_env_steps"]
        return (
            f"{result['visit']}/{result['num_visits']}",
            result["task"] if result["phase"] == "train" else f"{result['task']} ({result['phase']})",
            f"{result['visit_env_steps']:,}/{length:,}",
            _score(result),
            f"{speed:.0f}",
            f"{result['saved_env_steps']:,}" if "saved_env_steps" in result else "",
            "" if result["done"] or not speed else duration(max(0, left) / speed),  # a phase may only update
        )

    def _label(self, trial: Any) -> str:
        return self._labels[trial.config["run"]["results_dir"]]

    def _set(self, trial: Any, state: str, *cells: str) -> None:
        label = self._label(trial)
        self._rows[label] = (label, state, *cells)

    def _show(self, at_once: bool = False) -> None:
        if not at_once and time.monotonic() < self._next_show:
            return
        self._next_show = time.monotonic() + (REDRAW_INTERVAL_S if self._live else PLAIN_INTERVAL_S)
        if self._live:
            self._live.update(self._table(), refresh=True)
        else:
            self._print_changes()

    def _table(self) -> Group:
        rows = [row for kind in ORDER for row in self._rows.values() if _kind(row) == kind]
        room = max(1, self._console.height - 4)  # beside the totals, the headings, what is left out and the cursor
        left_out = {SAVED} if self._console.width < WIDE else set()
        first, *others = (name for i, name in enumerate(HEADINGS) if i not in left_out)
        table = Table(Column(first, overflow="fold"), *others, box=None, pad_edge=False)
        for row in rows[:room]:
            table.add_row(*(cell for i, cell in enumerate(row) if i not in left_out))
        more = [f"... and {len(rows) - room} more"] if len(rows) > room else []
        return Group(self._totals(), table, *more)

    def _totals(self) -> str:
        """How many trials are in which state, and how long the study still takes."""
        labels = {kind: [row[0] for row in self._rows.values() if _kind(row) == kind] for kind in KINDS}
        counts = ", ".join(f"{len(labels[kind])} {kind}" for kind in (DONE, RUNNING, WAITING, FAILED) if labels[kind])
        left = self._time_left.range(labels[RUNNING], labels[WAITING])
        if left is None:
            return f"{len(self._rows)} trials: {counts}"
        least, most = map(duration, left)
        return f"{len(self._rows)} trials: {counts}; {least if least == most else f'{least} to {most}'} left"

    def _print_changes(self) -> None:
        for label, row in self._rows.items():
            if row != self._printed[label]:
                self._printed[label] = row
                self._print(_plain(row))
        if len(self._rows) > 1 and (totals := self._totals()) != self._told:
            self._told = totals
            self._print(totals)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _kind(row: Sequence[str]) -> str:
    return row[1] if row[1] in KINDS else RUNNING


def _plain(row: Sequence[str]) -> str:
    if len(row) < len(HEADINGS):
        return ": ".join(row)
    line = PLAIN_LINE.format(*row)
    if row[1] != RUNNING:
        return line
    return line + f", saved at {row[SAVED]}" * bool(row[SAVED]) + f", at most {row[-1]} left" * bool(row[-1])


def _score(result: dict[str, Any]) -> str:
    """Success of the last training episodes; where tasks have none, their return."""
    if "success_window" in result:
        return "-" if math.isnan(result["success_window"]) else f"{result['success_window']:.2f}"
    return "-" if math.isnan(result["mean_return"]) else f"- (return {result['mean_return']:.1f})"
