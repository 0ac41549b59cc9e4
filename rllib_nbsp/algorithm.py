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
from rllib_nbsp.records import TrialFolder, open_records
from rllib_nbsp.replay.buffer import TaskReplayBuffer
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sac.learner import CONTINUAL
from rllib_nbsp.sampling.evaluation import evaluate_tasks
from rllib_nbsp.sampling.rollout_workers import RolloutWorkers, fragments_per_turn, starting
from rllib_nbsp.sampling.scoring import labelled_rollout
from rllib_nbsp.schedule import MAX_UPDATES_PER_CALL
from rllib_nbsp.seeding import numpy_generator
from rllib_nbsp.settings import ScoringSettings
from rllib_nbsp.throughput import Throughput

logger = logging.getLogger(__name__)

DORMANCY_ROWS = 256


class ContinualSAC(SAC):
    """SAC that visits tasks one after another.

    A visit ends, and the next one starts, inside `training_step`, in `_finish_visit`, in the order: evaluate every
    task; callbacks score and store; the method consolidates; resets; the method prepares; environments switch.

    Attributes:
        run: what the settings come to.
        schedule: where the run is.
        replay: D and D_pre.
        outcomes: what was measured so far.
        workers, learners: who samples, and who learns.
        records: the trial's result folder, once the run has begun, if it has one.
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
        self.replay = self._empty_replay()
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
        self._rows_rng = numpy_generator(self.run.settings.seed, "method", 1)
        self._throughput = Throughput()
        self._place_reported = self._place()
        if self._can_share_network():
            # One process, one network: the policy that acts is the one that learns, and no weights are copied.
            self.env_runner.module = self.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Tune's hook: become another trial. It spares the seconds that a new process takes to import Ray and torch."""
        trial_info = self._trial_info
        self.cleanup()
        SAC.__init__(self, config={**new_config, TRIAL_INFO: trial_info}, storage=self._storage)
        self._trial_info = trial_info  # which is no part of a configuration
        return True

    def cleanup(self) -> None:
        """RLlib's hook; another process may then write to the run's folder."""
        super().cleanup()
        if self.records:
            self.records.close()

    def _empty_replay(self) -> TaskReplayBuffer:
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
        """Collect and learn until the next report or the end of a phase; then report, and end what is over."""
        schedule = self.schedule
        if schedule.done:
            return
        if not schedule.started:
            self._open_records(fresh=True)
            self._start_visit(schedule.visit, None)
        until = schedule.env_steps + self.run.settings.evaluation.report_env_steps
        while schedule.env_steps < until and not schedule.phase_over:
            if schedule.phase.collect:
                self._collect()
                self._learn()
                self._evaluate_periodically()
            else:
                self._update(min(schedule.updates_owed, MAX_UPDATES_PER_CALL), only=schedule.phase.data)
                break
        self._report()
        if schedule.phase_over:
            self._finish_phase()
        self.workers.refresh_local()

    def step(self) -> dict[str, Any]:
        """One iteration; the result has our progress and what was measured at its top level; it ends the trial.

        It speaks of the visit that the iteration was part of, also if that ended with it.
        """
        result = super().step()
        # Where tasks have no success there is no such number; Tune would take None for one.
        result.update({key: value for key, value in self._place_reported.items() if value is not None})
        result.update(self.outcomes.result(), done=self.done, timesteps_total=self.env_steps)
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
        visit = self.visit
        data = VisitData(visit, rows=self._visit_rows())
        self._evaluate("boundary", self.run.settings.evaluation.boundary_episodes)
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

    def _finish_phase(self) -> None:
        data = VisitData(self.visit, rows=self._visit_rows())
        self.learners.every("phase_end", self.visit, self.schedule.phase, data)
        if not self.schedule.next_phase():
            self._finish_visit()
            return
        if self.schedule.phase.fresh:
            self.replay.clear()
        self.learners.every("phase_start", self.visit, self.schedule.phase)

    def _visit_rows(self) -> dict[str, np.ndarray]:
        wanted = self.run.method.visit_data_rows
        return self.replay.current_rows(self.visit.task.index, wanted, self._rows_rng) if wanted else {}

    def score_neurons(self, task: Task, scoring: ScoringSettings, *, rollout: int) -> NeuronScores:
        """Roll the policy out on a task and have the first Learner score every hidden neuron (Eq. 1-4).

        Args:
            task: the finished task.
            scoring: length of the rollout and the goal proximity that labels its steps.
            rollout: number of the rollout, which seeds it.
        """
        count = 2 if scoring.score_two_rollouts else 1
        rollouts = [
            labelled_rollout(self.workers, task, scoring, version=self.schedule.version, index=2 * rollout + i)
            for i in range(count)
        ]
        self.schedule.extra["scoring_env_steps"] += sum(r.env_steps for r in rollouts)
        chunks = [[self.learners.stored(chunk) for chunk in r.chunks] for r in rollouts]
        means = chunks[1] if count == 2 else None
        return self.learners.first("score_neurons", chunks[0], means, rollouts[0].label_rate, task.index)

    # Evaluation and reports

    def _evaluate_periodically(self) -> None:
        episodes = self.run.settings.evaluation.periodic_episodes
        if episodes and self.schedule.evaluation_is_due():
            self._evaluate("periodic", episodes)

    def evaluate(self) -> dict[str, Any]:
        """Evaluate every task with the policy of now, as at a boundary; training and its rows do not know of it.

        Returns:
            What `outcomes.evaluation_result` says; `train` has the like of the last evaluation under `evaluation`.
        """
        return self._measure("boundary", self.run.settings.evaluation.boundary_episodes)[1]

    def _measure(self, phase: str, episodes: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Rows of an evaluation, and the same as a result."""
        settings = self.run.settings.evaluation
        self._callback("on_evaluate_start", metrics_logger=self.metrics)
        rows = evaluate_tasks(
            self.workers,
            self.run.curriculum.tasks,
            episodes=episodes,
            version=self.schedule.version,
            settings=settings,
            env_steps=settings.eval_env_steps if phase == "boundary" else None,
            has_success=self.run.suite.has_success,
        )
        evaluation = evaluation_result(rows)
        self._callback("on_evaluate_end", metrics_logger=self.metrics, evaluation_metrics=evaluation)
        return rows, evaluation

    def _evaluate(self, phase: str, episodes: int) -> None:
        measured, evaluation = self._measure(phase, episodes)
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

    def _place(self) -> dict[str, Any]:
        """Where the run is, as a result and a training row say it; NaN where no episode has ended yet."""
        progress = self.schedule.progress
        return {
            "visit": self.visit.number,
            "num_visits": self.run.settings.num_visits,
            "task": self.visit.task.name,
            "phase": self.schedule.phase.name if self.schedule.started else "",
            "visit_env_steps": progress.env_steps,
            "visit_max_env_steps": self.run.settings.visit.max_env_steps,
            "env_steps": self.env_steps,
            "updates": self.updates,
            "success_window": progress.success_window if self.run.suite.has_success else None,
            "mean_return": progress.mean_return,
            "env_steps_per_s": self._throughput.env_steps_per_s,
            "updates_per_s": self._throughput.updates_per_s,
        }

    def _report(self) -> None:
        added = self._throughput.measure(self.env_steps, self.updates)
        obs = self.replay.newest_obs(DORMANCY_ROWS) if len(self.replay) else None
        learner = self.learners.first("report", obs, self.visit.task.index)
        self._place_reported = self._place()
        row = {
            **self._place_reported,
            "prior_size": self.replay.prior_size,
            **self.schedule.faults,
            "wall_s": self._throughput.wall_s,
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

    def _open_records(self, fresh: bool) -> None:
        search_trial = self.config.trial_id if self.config.shares_results_dir else None
        environments = self.run.suite.environments(self.run.settings.tasks)
        self.records = open_records(self.run.settings, search_trial, environments, fresh=fresh)

    # State

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, where we are, and (in the Learner's part) temperature, masks and the method's state.

        The replay stores are not in it: `set_state` says what that means.
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
        ours = state.get(CONTINUAL)
        if ours is None:
            super().set_state(state)
            self.learners.weights_changed()
            return
        visit, phases = self.schedule.phases_left(ours)
        if not (phases[0].collect or ours["done"]):
            raise ValueError(
                f"this state is of phase {phases[0].name!r} of visit {visit.number} ({visit.task.name}), which updates "
                "on stored transitions alone, and a checkpoint holds neither D nor D_pre: take one that collects"
            )
        super().set_state(state)
        self.schedule.set_state(ours)
        self.outcomes.set_state(ours["outcomes"])
        self.replay = self._empty_replay()
        self._throughput = Throughput(self.env_steps, self.updates)
        self._place_reported = self._place()
        self.learners.every("resume_phase", self.schedule.phase)
        if not self.done:
            self._open_records(fresh=False)
            logger.warning(
                "visit %d (%s) goes on at step %d with empty replay stores: a checkpoint holds neither D nor D_pre",
                self.visit.number,
                self.visit.task.name,
                self.schedule.progress.env_steps,
            )

    def restore_from_path(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """RLlib's, which may bring a Learner's weights alone."""
        super().restore_from_path(path, *args, **kwargs)
        self.learners.weights_changed()


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
