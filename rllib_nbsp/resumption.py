"""How a run goes on to the last bit after it was cut off: what its state is made of, when it is written, who reads it.

The state lies in `state/`, in the run's results folder. It is written at every boundary, every `state.every_env_steps`
of a visit, and when the run is stopped; the first step of a run of the same settings and seed goes on from it, whoever
starts it: Tune after a failure, a resumed study, or a user's own program.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.sac import SAC
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from rllib_nbsp.learners import Learners
from rllib_nbsp.outcomes import Outcomes
from rllib_nbsp.records import versions
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sac.learner import CONTINUAL
from rllib_nbsp.schedule import VisitSchedule
from rllib_nbsp.settings import config_hash
from rllib_nbsp.state.bundle import BundleWriter, Columns, list_bundles
from rllib_nbsp.state.own import STATE, RunStates
from rllib_nbsp.state.sealed import check_seal, read_from, seal, written_to
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
        settings = algorithm.filed
        self._identity = {
            "config_hash": config_hash(settings),
            "seed": settings.seed,
            "settings": settings.model_dump(exclude={"results_dir", "resources"}),
            "versions": versions(),
        }
        self._states: RunStates | None = None
        if settings.results_dir is not None:
            self._states = RunStates(Path(settings.results_dir) / STATE, self._identity)
            self._states.check()
        self._restored: dict[str, Any] | None = None
        self._restoring = False

    def interruptible(self) -> Interruption:
        """A context in which a signal waits for the run to save its state, if it has somewhere to."""
        return Interruption(self._states is not None)

    # In the results folder

    def begin(self) -> bool:
        """Before a step: go on from what an earlier process of the run has written, if this one has not begun yet.

        Returns:
            Whether the run has begun.
        """
        run = self._algorithm
        if not run.schedule.started and self._states is not None and self._states.exist:
            run.open_records(fresh=False)  # from here on, nobody else writes there
            self._go_on(self._states)
        elif self._restored is not None and self._states is not None:
            self._states.drop()  # what lies there is of a way that the run does not go
        if run.schedule.started and run.records is None:
            run.open_records(fresh=False)
        if self._restored and run.records is not None and self._restored["folder"] == str(run.records.path):
            run.records.cut(self._restored["rows"])
        self._restored = None
        return bool(run.schedule.started)

    def _go_on(self, states: RunStates) -> None:
        run, bundle = self._algorithm, states.read()
        if bundle is None:
            return
        self.put_back(bundle.parts, bundle.series)
        self._restored = bundle.parts["run"]
        logger.warning("visit %d goes on at environment step %d (%s)", run.visit.number, run.env_steps, bundle.path)
        if run.visit.number == 1:
            run.sharing.claim()  # as before, for the others too

    def save(self, iterations: int) -> None:
        """Write the state of a run that has begun and is not over.

        Args:
            iterations: how many lie behind what goes on from here.
        """
        run = self._algorithm
        if self._states is None or run.records is None or run.done:
            return
        self._states.write(run.env_steps, run.updates, self.parts(iterations), run.replay.series())

    @property
    def saved(self) -> dict[str, int]:
        """`saved_env_steps`, where the run would go on from, as a result says it; nothing if it would not."""
        steps = None if self._states is None else self._states.env_steps
        return {} if steps is None else {"saved_env_steps": steps}

    def drop(self) -> None:
        """Remove the state: the run is over."""
        if self._states is not None:
            self._states.drop()

    # In a checkpoint of RLlib's

    def save_in(self, folder: Path) -> None:
        """Make a checkpoint one that the run goes on from to the last bit, if it has begun, and seal it."""
        run = self._algorithm
        if run.schedule.started:
            writer = BundleWriter(folder / STATE)
            writer.write(run.env_steps, self._identity, self.parts(run.iteration), run.replay.series())
        seal(folder)

    @contextlib.contextmanager
    def restoring(self, folder: Path) -> Iterator[None]:
        """Around RLlib's own restoring from a checkpoint, all of which is verified first.

        Raises:
            StateError: naming a file that is missing or damaged, or the settings of another run.
        """
        check_seal(folder)
        bundles = list_bundles(folder / STATE)
        bundle = RunStates(folder / STATE, self._identity).read() if bundles else None
        self._restoring = True
        try:
            yield
        finally:
            self._restoring = False
        if bundle is not None:
            self.put_back(bundle.parts, bundle.series)
            if self._algorithm.records is not None:
                self._algorithm.records.close()
            self._algorithm.records, self._restored = None, bundle.parts["run"]

    # All of it

    def parts(self, iterations: int) -> dict[str, Any]:
        """All that the run goes on from but the stores' rows; `iterations` as of `save`."""
        run = self._algorithm
        return {
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
                "folder": run.records and str(run.records.path),
                "rows": run.records.lengths() if run.records else {},
            },
        }

    def put_back(self, parts: Mapping[str, Any], series: Mapping[str, Columns]) -> None:
        """Be where a run was, of which `parts` and the stores gave these."""
        run, own = self._algorithm, parts["run"]
        run.schedule.set_state(parts["schedule"])
        run.outcomes.set_state(parts["outcomes"])
        run.replay = run.empty_replay()
        run.replay.set_state(parts["replay"], series)
        run.learners.every("set_state", parts["learner"])
        run.learners.every("resume_phase", run.schedule.phase)
        run.rows_rng.bit_generator.state = own["rows_rng"]
        run.throughput = Throughput(run.env_steps, run.updates, own["wall_s"])
        run.place_reported = run.place()
        run._iteration = own["iterations"]
        steps = (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
        run.metrics.log_value(steps, run.env_steps - run.metrics.peek(steps, default=0), reduce="lifetime_sum")
        if own["layout"] != self._layout:
            run.schedule.version += 1  # new episodes: those that were running have no place in other processes
        elif not run.workers.set_state(parts["sampling"]):
            logger.warning("the environments do not repeat themselves: the run goes on, but not to the last bit")

    @property
    def _layout(self) -> list[int]:
        """Whose environments are whose."""
        resources = self._algorithm.run.settings.resources
        return [resources.num_env_runners, resources.num_envs_per_env_runner]

    # Without what was stored

    def check_without_stores(self, state: Mapping[str, Any]) -> None:
        """See that a run can go on from where a schedule was without what it had stored.

        Raises:
            ValueError: for a state from a phase that updates without collecting: what it updates on is not in it.
        """
        visit, phases = self._algorithm.schedule.phases_left(state)
        if not (self._restoring or phases[0].collect or state["done"]):
            raise ValueError(
                f"this state is of phase {phases[0].name!r} of visit {visit.number} ({visit.task.name}), which updates "
                "on stored transitions alone, and it holds neither D nor D_pre: take one that collects, or a checkpoint"
            )

    def go_on_without_stores(self, state: Mapping[str, Any]) -> None:
        """Go on from where a schedule was, but with empty replay stores: D fills again, D_pre at the next boundary."""
        if self._restoring:
            return
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


class ResumableSAC(SAC):
    """RLlib's state and checkpoints, of a run that goes on from them."""

    run: ResolvedRun
    schedule: VisitSchedule
    outcomes: Outcomes
    learners: Learners
    resumption: Resumption
    sharing: Any
    _is_set_up = False
    """False too once it is cleaned up: what fails in its setup has nothing to save or release."""
    _at_rest = False

    def cleanup(self) -> None:
        """RLlib's hook: a run that is not over keeps its state; another process may then write to its folder."""
        was_set_up, at_rest = self._is_set_up, self._at_rest
        self._is_set_up = self._at_rest = False
        if at_rest:
            self.resumption.save(self.iteration)
        if was_set_up:
            self.sharing.release()
        super().cleanup()
        if was_set_up and self.records:
            self.records.close()

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, where we are, and (in the Learner's part) temperature, masks and the method's state.

        The replay stores are not in it: `set_state` says what that means. A checkpoint has them.
        """
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(CONTINUAL, components, not_components) and self.schedule.started:
            state[CONTINUAL] = {**self.schedule.get_state(), "outcomes": self.outcomes.get_state()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken, but with empty replay stores: D fills again, D_pre at the next boundary.

        Raises:
            ValueError: for a state from a phase that updates without collecting: what it updates on is not in it.
        """
        if CONTINUAL in state:
            self.resumption.check_without_stores(state[CONTINUAL])
        super().set_state(state)
        self.learners.weights_changed()
        if CONTINUAL in state:
            self.resumption.go_on_without_stores(state[CONTINUAL])

    def save_to_path(self, path: str | Path | None = None, *, filesystem: Any = None, **kwargs: Any) -> str:
        """RLlib's; the run goes on from it to the last bit, and damage to it is found."""
        with written_to(path, filesystem) as (folder, place):
            super().save_to_path(folder, **kwargs)
            self.resumption.save_in(folder)
        return place

    def restore_from_path(
        self, path: str | Path, *, component: str | None = None, filesystem: Any = None, **kwargs: Any
    ) -> None:
        """RLlib's: all of a run, or with `component` that alone, as a Learner's weights.

        Raises:
            StateError: naming what is missing, damaged, or of another run; nothing was restored then.
        """
        if component is not None:
            super().restore_from_path(path, component=component, filesystem=filesystem, **kwargs)
        else:
            with read_from(path, filesystem) as folder, self.resumption.restoring(folder):
                super().restore_from_path(folder, **kwargs)
        self.learners.weights_changed()


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
