"""`ContinualSAC`: RLlib's Algorithm running visits of tasks. Nothing here knows a method."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.sac import SAC
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.tune.registry import register_trainable
from ray.tune.result import TRIAL_INFO

from rllib_nbsp.algorithm_config import ContinualSACConfig, NBSPConfig
from rllib_nbsp.curriculum import Task, Visit
from rllib_nbsp.learners import Learners
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.nn.neurons import NeuronScores
from rllib_nbsp.outcomes import Outcomes, evaluation_result
from rllib_nbsp.records import TrialFolder, filed
from rllib_nbsp.replay.buffer import TaskReplayBuffer
from rllib_nbsp.resumption import Interruption, ResumableSAC, Resumption
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sampling.evaluation import evaluate_tasks
from rllib_nbsp.sampling.rollout_workers import RolloutWorkers, fragments_per_turn, starting
from rllib_nbsp.sampling.scoring import labelled_rollout
from rllib_nbsp.schedule import MAX_UPDATES_PER_CALL
from rllib_nbsp.seeding import numpy_generator
from rllib_nbsp.settings import ScoringSettings
from rllib_nbsp.sharing import SharedVisit
from rllib_nbsp.throughput import Throughput

logger = logging.getLogger(__name__)

REFERENCE_ROWS = 256
"""The newest of D, on which a training row says how the networks fare."""


class ContinualSAC(ResumableSAC):
    """SAC that visits tasks one after another.

    A visit ends, and the next one starts, inside `training_step`, in `_finish_visit`, in the order: evaluate every
    task; callbacks score and store; the method consolidates; resets; the method prepares; environments switch.

    Attributes:
        run: what the settings come to.
        schedule: where the run is.
        replay: D and D_pre.
        outcomes: what was measured so far.
        workers, learners: who samples, and who learns.
        filed: the run as its results folder has it.
        records: that folder, once the run has begun, if it has one.
        resumption: its state in there.
        sharing: its first visit, if that may be another run's too.
        rows_rng: chooses the rows that methods get at a boundary.
        throughput: how fast it goes.
        place_reported: where it was at the last report.
    """

    records: TrialFolder | None = None
    _trial_info: Any

    @classmethod
    def get_default_config(cls) -> ContinualSACConfig:
        """RLlib's hook."""
        return ContinualSACConfig()

    def setup(self, config: AlgorithmConfig) -> None:
        """Build workers and Learners, then what a run needs besides."""
        with starting():
            super().setup(config)
        self.run = ResolvedRun(self.config.settings, self.spaces[DEFAULT_MODULE_ID])
        self.schedule = self.run.schedule()
        self.replay = self.empty_replay()
        self.outcomes = Outcomes(self.run.curriculum, self.run.suite.has_success)
        self.records = None
        resources = self.run.settings.resources
        self.learners = Learners(self.learner_group, self.run.num_learners)
        self.workers = RolloutWorkers(
            self.env_runner_group,
            self.learners.acting_weights,
            resources.sample_timeout_s,
            fragments=fragments_per_turn(self.run.settings),
            shares_network=self._can_share_network(),
        )
        self.rows_rng = numpy_generator(self.run.settings.seed, "method", 1)
        self.filed = filed(self.run.settings, self.config.trial_id if self.config.shares_results_dir else None)
        self.resumption = Resumption(self)
        self.sharing = SharedVisit(self)
        self.throughput = Throughput()
        self.place_reported = self.place()
        if self._can_share_network():
            # One process, one network: the policy that acts is the one that learns, and no weights are copied.
            self.env_runner.module = self.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        self._is_set_up = True

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Tune's hook: become another trial. It spares the seconds that a new process takes to import Ray and torch."""
        trial_info = self._trial_info
        self.cleanup()
        SAC.__init__(self, config={**new_config, TRIAL_INFO: trial_info}, storage=self._storage)
        self._trial_info = trial_info  # which is no part of a configuration
        return True

    def empty_replay(self) -> TaskReplayBuffer:
        """D and D_pre, as a run begins with them."""
        return TaskReplayBuffer(
            self.run.settings.replay,
            self.run.replay_request,
            self.run.row_spec,
            batch_size=self.run.training.batch_size,
            num_shards=self.run.num_learners,
            seed=self.run.settings.seed,
        )

    def _can_share_network(self) -> bool:
        """Whether one module can act and learn in this process: on whichever device it is."""
        return self.learner_group.is_local

    # Where the run is

    @property
    def visit(self) -> Visit:
        """The visit that is running."""
        return self.schedule.visit

    @property
    def env_steps(self) -> int:
        """Environment steps of the whole run."""
        return self.schedule.env_steps

    @property
    def updates(self) -> int:
        """Updates of the whole run."""
        return self.schedule.updates

    @property
    def done(self) -> bool:
        """Whether the last visit is over."""
        return self.schedule.done

    # A training iteration

    def training_step(self) -> None:
        """Collect and learn until the next report or the end of a phase; then report, and end what is over.

        SIGTERM and Ctrl-C wait until the run stands where it can go on from, and has written its state.
        """
        if self.schedule.done:
            return
        with self.resumption.interruptible() as interruption:
            self._at_rest = False
            if self.resumption.begin() or self._begin():
                self._train(interruption)
            self._at_rest = self.schedule.started
            if interruption.signal is not None:
                self.resumption.save(self.iteration)

    def _begin(self) -> bool:
        """Begin the run, or its second visit if another run leaves it the first; returns whether to train now."""
        shared = self.sharing.found()
        if shared is None:
            if not self.sharing.claim():
                self.sharing.wait()
                return False
            shared = self.sharing.found()  # it was left meanwhile
        if shared is None:
            self.open_records(fresh=True)
            self._start_visit(self.schedule.visit, None)
            return True
        self.sharing.release()
        self._start_visit(self.schedule.visit, None)
        self.sharing.take(shared)
        self._end_phase()
        self._close_visit()
        self.resumption.save(self.iteration + 1)
        return False

    def _train(self, interruption: Interruption) -> None:
        schedule = self.schedule
        while not (schedule.report_is_due or schedule.phase_over):
            if interruption.signal is not None:
                return
            if schedule.phase.collect:
                self._collect()
                self._learn()
                self._evaluate_periodically()
            else:
                self._update(min(schedule.updates_owed, MAX_UPDATES_PER_CALL), only=schedule.phase.data)
                break
            if schedule.breaks():
                self.resumption.save(self.iteration)
        self._report()
        schedule.reported()
        if schedule.phase_over:
            self._finish_phase()
            self.resumption.save(self.iteration + 1)
        self.workers.refresh_local()

    def step(self) -> dict[str, Any]:
        """One iteration; the result has our progress and what was measured at its top level; it ends the trial.

        It speaks of the visit that the iteration was part of, also if that ended with it.
        """
        result = super().step()
        # Where tasks have no success there is no such number; Tune would take None for one.
        result.update({key: value for key, value in self.place_reported.items() if value is not None})
        result.update(self.outcomes.result(), done=self.done, timesteps_total=self.env_steps)
        result.update(self.resumption.saved, **({"waits_for": who} if (who := self.sharing.waits_for) else {}))
        return result

    def _collect(self) -> None:
        """Ask for a fragment, name its task, and add what really came."""
        schedule, flag = self.schedule, self.run.success_flag
        request = {
            "task": self.visit.task.name,
            "version": schedule.version,
            "num_vector_steps": self.run.training.rollout_fragment_length,
            **(self.run.warmup_actions(self.visit) if schedule.progress.in_warmup else {}),
        }
        if restored := self.restore_env_runners(self.env_runner_group):
            self._make_on_env_runners_recreated_callbacks(
                config=self.config, env_runner_group=self.env_runner_group, restored_env_runner_indices=restored
            )
        replies = self.workers.collect(request)
        schedule.faults["lost_fragments"] += self.workers.take_lost()
        for reply in replies:
            schedule.faults["rebuilt_envs"] += reply["rebuilt"]
            if (reply["task"], reply["version"]) != (self.visit.task.name, schedule.version):
                continue  # asked before the visit began, or by a worker that restarted in between
            episodes = reply["episodes"]
            successful = [e["episode"] for e in episodes if e[flag]]
            added = self.replay.add(reply["columns"], self.visit.task.index, successful)
            schedule.collected(added, [(e["return"], e[flag]) for e in episodes])
            if episodes:
                self._callback("on_episodes_end", visit=self.visit, episodes=episodes)

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """RLlib's hook: see `RolloutWorkers.restore`."""
        return self.workers.restore()

    def _learn(self) -> None:
        """The updates owed for the environment steps that were really added."""
        while len(self.replay) >= self.run.training.batch_size and (owed := self.schedule.updates_owed) >= 1:
            self._update(min(owed, MAX_UPDATES_PER_CALL))

    def _update(self, count: int, only: str | None = None) -> None:
        first = self.updates + 1
        self.learners.update(self.replay.sample(range(first, first + count), self.visit.task.index, only), count)
        self.schedule.updated(count)

    # Visits

    def _start_visit(self, visit: Visit, data: VisitData | None) -> None:
        """Prepare the method, then send the workers to the task under a new version."""
        self.schedule.start_visit(visit)
        self.learners.every("visit_start", visit, data)
        self.learners.every("phase_start", visit, self.schedule.phase)
        self._callback("on_visit_start", visit=visit)

    def _finish_visit(self) -> None:
        """The boundary, top to bottom."""
        self._evaluate("boundary")
        if self.visit.number == 1:
            self.sharing.leave()
        self._close_visit()

    def _close_visit(self) -> None:
        """The boundary behind its evaluation."""
        visit = self.visit
        data = VisitData(visit, rows=self._visit_rows())
        self._callback("on_visit_end", visit=visit, data=data)
        self.learners.every("visit_end", visit, data)
        if self.records:
            self._record_visit(data)
        following = self.schedule.following
        if following is None:
            self._finish_run()
            return
        if self.run.boundary.clear_buffer:
            self.replay.clear()
        self.learners.every("boundary_reset", self.run.boundary)
        self._start_visit(following, data)
        self.learners.check_agree(f"visit {self.visit.number}")

    def _record_visit(self, data: VisitData) -> None:
        assert self.records is not None
        self.records.neurons(self.visit, data.scores, self.learners.first("method_arrays"))
        self.records.weights(self.visit, self.learners.first("weights"))
        self.records.cost({**self.learners.first("sizes"), "prior_bytes": self.replay.nbytes[1], **self.schedule.extra})

    def _finish_run(self) -> None:
        self.schedule.done = True
        if self.records:
            self.records.finish()
        self.resumption.drop()

    def _finish_phase(self) -> None:
        self._end_phase()
        if not self.schedule.next_phase():
            self._finish_visit()
            return
        if self.schedule.phase.fresh:
            self.replay.clear()
        self.learners.every("phase_start", self.visit, self.schedule.phase)

    def _end_phase(self) -> None:
        data = VisitData(self.visit, rows=self._visit_rows())
        self.learners.every("phase_end", self.visit, self.schedule.phase, data)

    def _visit_rows(self) -> dict[str, np.ndarray]:
        wanted = self.run.method.visit_data_rows
        return self.replay.current_rows(self.visit.task.index, wanted, self.rows_rng) if wanted else {}

    def score_neurons(self, task: Task, scoring: ScoringSettings, *, rollout: int) -> NeuronScores:
        """Roll the policy out on a task and have the first Learner score every hidden neuron (Eq. 1-4).

        Args:
            task: the finished task.
            scoring: length of the rollout and the goal proximity that labels its steps.
            rollout: number of the rollout, which seeds it.
        """
        count = 2 if scoring.score_two_rollouts else 1
        if (scores := self.sharing.scores(scoring)) is not None:
            self.schedule.extra["scoring_env_steps"] += count * scoring.score_env_steps
            return scores
        rollouts = [
            labelled_rollout(self.workers, task, scoring, version=self.schedule.version, index=2 * rollout + i)
            for i in range(count)
        ]
        self.schedule.extra["scoring_env_steps"] += sum(r.env_steps for r in rollouts)
        chunks = [[self.learners.stored(chunk) for chunk in r.chunks] for r in rollouts]
        means = chunks[1] if count == 2 else None
        scores = self.learners.first("score_neurons", chunks[0], means, rollouts[0].label_rate, task.index)
        self.sharing.leave_scores(scoring, scores)
        return scores

    # Evaluation and reports

    def _evaluate_periodically(self) -> None:
        if self.run.settings.evaluation.periodic_episodes and self.schedule.evaluation_is_due():
            self._evaluate("periodic")

    def evaluate(self) -> dict[str, Any]:
        """Evaluate every task with the policy of now, as at a boundary; training and its rows do not know of it.

        Returns:
            What `outcomes.evaluation_result` says; `train` has the like of the last evaluation under `evaluation`.
        """
        return self._measure("boundary")[1]

    def _measure(self, phase: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Rows of an evaluation, and the same as a result."""
        settings = self.run.settings.evaluation
        at_boundary = phase == "boundary"
        self._callback("on_evaluate_start", metrics_logger=self.metrics)
        rows = evaluate_tasks(
            self.workers,
            self.run.curriculum.tasks if at_boundary else self.run.periodic_tasks(self.visit),
            episodes=settings.boundary_episodes if at_boundary else settings.periodic_episodes,
            version=self.schedule.version,
            settings=settings,
            env_steps=settings.eval_env_steps if at_boundary else None,
            has_success=self.run.suite.has_success,
        )
        evaluation = evaluation_result(rows)
        self._callback("on_evaluate_end", metrics_logger=self.metrics, evaluation_metrics=evaluation)
        return rows, evaluation

    def _evaluate(self, phase: str) -> None:
        measured, evaluation = self._measure(phase)
        self.outcomes.add(evaluation, boundary=phase == "boundary")
        place = {
            "visit": self.visit.number,
            "phase": phase,
            "trained_task": self.visit.task.name,
            "env_steps": self.env_steps,
            "updates": self.updates,
        }
        rows = [{**place, **row} for row in measured]
        if self.records:
            for row in rows:
                self.records.evaluation(row)
        self._callback("on_evaluation_end", visit=self.visit, rows=rows)

    def place(self) -> dict[str, Any]:
        """Where the run is, as a result and a training row say it; NaN where no episode has ended yet."""
        success = {} if self.run.suite.has_success else {"success_window": None}
        return {**self.schedule.place(), **success, **self.throughput.rates()}

    def _report(self) -> None:
        added = self.throughput.measure(self.env_steps, self.updates)
        rows = self.replay.newest(REFERENCE_ROWS) if len(self.replay) else None
        learner = self.learners.first("report", rows, self.visit.task.index)
        self.place_reported = self.place()
        row = {
            **self.place_reported,
            "prior_size": self.replay.prior_size,
            **self.schedule.faults,
            "wall_s": self.throughput.wall_s,
            **learner,
        }
        if self.records:
            self.records.training(row)
        for name, value in learner.items():
            self.metrics.log_value((LEARNER_RESULTS, DEFAULT_MODULE_ID, name), value, window=1)
        if not math.isnan(row["mean_return"]):
            self.metrics.log_value((ENV_RUNNER_RESULTS, "episode_return_mean"), row["mean_return"], window=1)
        self.metrics.log_value((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), added, reduce="lifetime_sum")

    def _callback(self, hook: str, **kwargs: Any) -> None:
        """Call a hook of `ContinualCallback` or of RLlib's."""
        having = [callback for callback in self.callbacks if hasattr(callback, hook)]
        functions = getattr(self.config, f"callbacks_{hook}")
        make_callback(hook, having, functions, kwargs={"algorithm": self, **kwargs})

    def open_records(self, fresh: bool) -> TrialFolder | None:
        """Begin to write rows, or go on behind those that are there, if the run has a folder."""
        settings = self.filed
        if settings.results_dir is not None:
            environments = self.run.suite.environments(settings.tasks)
            self.records = TrialFolder(Path(settings.results_dir), settings, fresh=fresh, environments=environments)
        return self.records


class NBSP(ContinualSAC):
    """`ContinualSAC` with the NBSP method by default."""

    @classmethod
    def get_default_config(cls) -> NBSPConfig:
        """RLlib's hook."""
        return NBSPConfig()


def register() -> None:
    """Make "ContinualSAC" and "NBSP" known to Ray Tune by name, as importing this does."""
    register_trainable("ContinualSAC", ContinualSAC)
    register_trainable("NBSP", NBSP)


register()
