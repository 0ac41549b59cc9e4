"""How a run goes on to the last bit after it was cut off: what its state is made of, when it is written, who reads it.

The state lies in `state/`, in the run's results folder. It is written at every boundary, every `state.every_env_steps`
of a visit, and when the run is stopped; the first step of a run of the same settings and seed goes on from it, whoever
starts it: Tune after a failure, a resumed study, or a user's own program.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from rllib_nbsp.records import versions
from rllib_nbsp.settings import config_hash
from rllib_nbsp.state.own import STATE, RunStates
from rllib_nbsp.throughput import Throughput

logger = logging.getLogger(__name__)


class Resumption:
    """A run's state in its results folder, if it has one.

    Args:
        algorithm: the run, a `ContinualSAC` that is set up.

    Raises:
        StateError: if the state of another run lies there.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._states: RunStates | None = None
        settings = algorithm.filed
        if settings.results_dir is not None:
            identity = {
                "config_hash": config_hash(settings),
                "seed": settings.seed,
                "settings": settings.model_dump(exclude={"results_dir", "resources"}),
                "versions": versions(),
            }
            self._states = RunStates(Path(settings.results_dir) / STATE, identity)
            self._states.check()

    def interruptible(self) -> Interruption:
        """A context in which a signal waits for the run to save its state, if it has somewhere to."""
        return Interruption(self._states is not None)

    def save(self, iterations: int) -> None:
        """Write the state of a run that has begun and is not over.

        Args:
            iterations: how many lie behind what goes on from here.
        """
        run = self._algorithm
        if self._states is None or run.records is None or run.done:
            return
        parts = {
            "schedule": run.schedule.get_state(),
            "outcomes": run.outcomes.get_state(),
            "learner": run.learners.first("kept_state"),
            "sampling": run.workers.get_state(),
            "replay": run.replay.get_state(),
            "run": {
                "layout": self._layout,
                "rows_rng": run.rows_rng.bit_generator.state,
                "wall_s": run.throughput.wall_s,
                "iterations": iterations,
                "rows": run.records.lengths(),
            },
        }
        self._states.write(run.env_steps, run.updates, parts, run.replay.series())

    def go_on(self) -> bool:
        """Go on from what an earlier process of the run has written; returns whether there was something."""
        bundle = None if self._states is None else self._states.read()
        if bundle is None:
            return False
        run, parts, own = self._algorithm, bundle.parts, bundle.parts["run"]
        run.open_records(fresh=False)
        run.records.cut(own["rows"])
        run.schedule.set_state(parts["schedule"])
        run.outcomes.set_state(parts["outcomes"])
        run.replay.set_state(parts["replay"], bundle.series)
        run.learners.every("set_state", parts["learner"])
        run.learners.every("resume_phase", run.schedule.phase)
        run.rows_rng.bit_generator.state = own["rows_rng"]
        run.throughput = Throughput(run.env_steps, run.updates, own["wall_s"])
        run.place_reported = run.place()
        run._iteration = own["iterations"]
        steps = (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
        run.metrics.log_value(steps, run.env_steps, reduce="lifetime_sum")
        if own["layout"] != self._layout:
            run.schedule.version += 1  # new episodes: those that were running have no place in other processes
        elif not run.workers.set_state(parts["sampling"]):
            logger.warning("%s: the environments do not repeat themselves; not to the last bit", bundle.path)
        logger.warning("visit %d goes on at environment step %d (%s)", run.visit.number, run.env_steps, bundle.path)
        return True

    def check_without_stores(self, state: Mapping[str, Any]) -> None:
        """See that a run can go on from where a schedule was without what it had stored.

        Raises:
            ValueError: for a state from a phase that updates without collecting: what it updates on is not in it.
        """
        visit, phases = self._algorithm.schedule.phases_left(state)
        if not (phases[0].collect or state["done"]):
            raise ValueError(
                f"this state is of phase {phases[0].name!r} of visit {visit.number} ({visit.task.name}), which updates "
                "on stored transitions alone, and it holds neither D nor D_pre: take one that collects"
            )

    def go_on_without_stores(self, state: Mapping[str, Any]) -> None:
        """Go on from where a schedule was, but with empty replay stores: D fills again, D_pre at the next boundary."""
        run = self._algorithm
        run.schedule.set_state(state)
        run.schedule.new_episodes()
        run.outcomes.set_state(state["outcomes"])
        run.replay = run.empty_replay()
        run.throughput = Throughput(run.env_steps, run.updates)
        run.place_reported = run.place()
        run.learners.every("resume_phase", run.schedule.phase)
        if not run.done:
            run.open_records(fresh=False)
            logger.warning(
                "visit %d (%s) goes on at step %d with empty replay stores: a state in memory has neither D nor D_pre",
                run.visit.number,
                run.visit.task.name,
                run.schedule.progress.env_steps,
            )

    def drop(self) -> None:
        """Remove the state: the run is over."""
        if self._states is not None:
            self._states.drop()

    @property
    def _layout(self) -> list[int]:
        """Whose environments are whose."""
        resources = self._algorithm.run.settings.resources
        return [resources.num_env_runners, resources.num_envs_per_env_runner]


class Interruption:
    """SIGTERM and Ctrl-C, remembered until the run stands where it can go on from; then they do what they did before.

    A second one does so at once. In another thread than the main one, which gets no signals, nothing happens here.

    Args:
        wanted: without, signals are left alone.

    Attributes:
        signal: which one has come.
    """

    def __init__(self, wanted: bool) -> None:
        self.signal: int | None = None
        self._wanted = wanted
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if self._wanted and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_back()
        if self.signal is not None and error is None:
            signal.raise_signal(self.signal)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self._put_back()
            signal.raise_signal(number)
        self.signal = number
        logger.warning("the run's state is being written before it stops; once more stops it at once")

    def _put_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
