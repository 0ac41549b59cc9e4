"""`ContinualSAC`: RLlib's Algorithm running visits of tasks, and its configuration. Nothing here knows a method."""

from __future__ import annotations

import difflib
import functools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray
import torch
from gymnasium.spaces import Discrete
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.sac import SAC, SACConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.tune.registry import register_trainable

from rllib_nbsp.callbacks import ContinualCallback, SkillNeuronCallback
from rllib_nbsp.checks import check_run, check_tasks, method_of, model_of, scoring_of, training_of
from rllib_nbsp.curriculum import Curriculum, Task, Visit, VisitProgress
from rllib_nbsp.env_runner import ContinualEnvRunner
from rllib_nbsp.envs import suite_of
from rllib_nbsp.evaluation import evaluate_tasks
from rllib_nbsp.learner import CONTINUAL, ContinualSACTorchLearner, call_learner
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.base import Phase, VisitData
from rllib_nbsp.neurons import NeuronScores, goal_labels, goal_proximity
from rllib_nbsp.records import TrialFolder
from rllib_nbsp.replay import TaskReplayBuffer
from rllib_nbsp.rl_module import ContinualSACModule, DiscreteSACModule
from rllib_nbsp.rollout_workers import RolloutWorkers
from rllib_nbsp.seeding import numpy_generator
from rllib_nbsp.settings import (
    BoundarySettings,
    ReplaySettings,
    ResourceSettings,
    RunSettings,
    ScoringSettings,
    TrainingSettings,
)
from rllib_nbsp.stores import RowSpec, StackedFrames

logger = logging.getLogger(__name__)

SCORING_CHUNK_STEPS, SCORING_CHUNK_IMAGES = 5_000, 500
MAX_UPDATES_PER_CALL = 64
DORMANCY_ROWS = 256
EXTRA = ("scoring_env_steps", "auxiliary_env_steps", "auxiliary_updates")
ROUNDING = 1e-6  # ten steps of 0.1 updates each are one update, also in binary


class ContinualSACConfig(SACConfig):
    """Configuration of a continual run; its keys and defaults are those of `rllib_nbsp.settings.RunSettings`.

    Resources, seed and callbacks are set as in RLlib (`.env_runners()`, `.learners()`, `.resources()`, `.debugging()`,
    `.callbacks()`); the rest by `.curriculum()`, `.method()`, `.training()`, `.visit()`, `.replay()`, `.networks()`,
    `.boundary()`, `.evaluation()` and `.results()`. Values are checked when the configuration is validated.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or ContinualSAC)
        self.run: dict[str, Any] = {}
        resources = ResourceSettings()
        self.env_runner_cls = ContinualEnvRunner
        self.callbacks_class = [SkillNeuronCallback]
        self.torch_threads = resources.torch_threads
        self.seed = RunSettings.model_fields["seed"].default
        for name in ResourceSettings.model_fields:
            setattr(self, name, getattr(resources, name))
        # Ours is an array buffer that `setup` builds.
        self.replay_buffer_config = {"type": "EpisodeReplayBuffer", "capacity": 1, "no_local_replay_buffer": True}
        # One `training_step` is one iteration: what a run does must not depend on the clock.
        self.min_time_s_per_iteration = None
        self.min_sample_timesteps_per_iteration = 0
        self.max_requests_in_flight_per_env_runner = 1
        self.delay_between_env_runner_restarts_s = 1.0  # RLlib's is a minute
        self._dont_auto_sync_env_runner_states = True

    # One vocabulary

    @property
    def settings(self) -> RunSettings:
        """The run, validated, with every default filled in.

        Raises:
            pydantic.ValidationError: naming each key that is wrong.
        """
        resources = {name: getattr(self, name) for name in ResourceSettings.model_fields}
        for name in ("num_cpus_per_env_runner", "num_cpus_for_main_process", "num_gpus_per_learner"):
            resources[name] = float(resources[name])
        return RunSettings(**{**self.run, "seed": self.seed, "resources": ResourceSettings(**resources)})

    @classmethod
    def from_settings(cls, run: RunSettings) -> Self:
        """The configuration of one trial of a study."""
        return cls()._take(run)

    def _take(self, run: RunSettings) -> Self:
        self.run = run.model_dump(exclude={"seed", "resources"})
        self.seed = run.seed
        for name in ResourceSettings.model_fields:
            setattr(self, name, getattr(run.resources, name))
        return self

    def update_from_dict(self, config_dict: Mapping[str, Any]) -> Self:
        """RLlib's, with a whole trial under the key `run`, as Tune hands it over."""
        rest = dict(config_dict)
        run = rest.pop("run", None)
        if run is not None and "seed" in run:
            self._take(RunSettings(**run))
        elif run is not None:
            self.run = dict(run)
        return super().update_from_dict(rest)

    def _section(self, name: str, values: Mapping[str, Any]) -> Self:
        self.run = {**self.run, name: {**self.run.get(name, {}), **values}}
        return self

    def curriculum(
        self,
        *,
        suite: str | None = None,
        tasks: Sequence[str] | None = None,
        cycles: int | None = None,
        sequence: str | None = None,
        visit_env_steps: int | None = None,
        warmup_env_steps: int | None = None,
    ) -> Self:
        """The tasks, how often they cycle, and how long a visit lasts at most."""
        given = {"suite": suite, "tasks": tasks and list(tasks), "cycles": cycles, "sequence": sequence}
        self.run = {**self.run, **{key: value for key, value in given.items() if value is not None}}
        visit = {"max_env_steps": visit_env_steps, "warmup_env_steps": warmup_env_steps}
        return self._section("visit", {key: value for key, value in visit.items() if value is not None})

    def method(self, name: str, **keys: Any) -> Self:
        """The continual-learning method and its keys (`rllib_nbsp.methods.METHODS`)."""
        self.run = {**self.run, "method": name, "arm": name, "method_settings": keys}
        return self

    def training(self, **keys: Any) -> Self:
        """Keys of the `training` section, of the method, and of `replay` with the prefix `replay_`.

        Raises:
            TypeError: for a key that none of them has.
        """
        replay = {f"replay_{name}": name for name in ReplaySettings.model_fields}
        method = METHODS[self.run.get("method", "sac")].Config.model_fields
        known = [*TrainingSettings.model_fields, *method, *replay]
        for key, value in keys.items():
            if key in TrainingSettings.model_fields:
                self._section("training", {key: value})
            elif key in method:
                self._section("method_settings", {key: value})
            elif key in replay:
                self._section("replay", {replay[key]: value})
            else:
                close = difflib.get_close_matches(key, known, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise TypeError(f"training(): unknown key {key!r}{hint} Known: {', '.join(known)}")
        return self

    def visit(self, **keys: Any) -> Self:
        """Keys of the `visit` section."""
        return self._section("visit", keys)

    def replay(self, **keys: Any) -> Self:
        """Keys of the `replay` section."""
        return self._section("replay", keys)

    def networks(self, **keys: Any) -> Self:
        """Keys of the `model` section (`model` itself is taken by RLlib)."""
        return self._section("model", keys)

    def boundary(self, **keys: Any) -> Self:
        """Keys of the `boundary` section."""
        return self._section("boundary", keys)

    def evaluation(self, **keys: Any) -> Self:
        """Keys of the `evaluation` section; RLlib's own evaluation is not used."""
        return self._section("evaluation", keys)

    def results(self, results_dir: str | Path, **names: str) -> Self:
        """The trial's own result folder, and the names `experiment` and `arm` in its rows."""
        self.run = {**self.run, "results_dir": str(Path(results_dir).absolute()), **names}
        return self

    # RLlib's side

    def validate(self) -> None:
        """Check everything that can be checked before a process starts.

        Raises:
            ValueError: listing every problem, one a line.
        """
        run = self.settings
        errors = [*check_tasks(run), *check_run(run)]
        if errors:
            raise ValueError("\n".join(errors))
        method, method_config = method_of(run)
        needs_callback = scoring_of(run) is not None or method.replay_request(method_config, run.replay).needs_store
        callbacks = self.callbacks_class if isinstance(self.callbacks_class, list) else [self.callbacks_class]
        if needs_callback and not any(issubclass(callback, ContinualCallback) for callback in callbacks):
            raise ValueError(
                f"method {run.method!r} needs a ContinualCallback that scores neurons and files prior data, such as "
                "SkillNeuronCallback; callbacks() was given none"
            )
        self.gamma = run.training.gamma
        super().validate()

    def get_evaluation_config_object(self) -> AlgorithmConfig:
        """RLlib wants one; evaluation is ours and needs no other configuration."""
        config = self.copy(copy_frozen=False)
        config.in_evaluation = True
        return config

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Our module for the tasks' kind of actions."""
        _, action_space = self.shared_spaces()
        discrete = isinstance(action_space, Discrete)
        return RLModuleSpec(module_class=DiscreteSACModule if discrete else ContinualSACModule)

    def shared_spaces(self) -> tuple[Any, Any]:
        """Observation and action space of every task: those that `environment()` was given, or the suite's."""
        if self.observation_space is not None and self.action_space is not None:
            return self.observation_space, self.action_space
        return suite_of(self.settings).spaces(self.settings.tasks)

    def get_default_learner_class(self) -> type:
        """Our Learner."""
        return ContinualSACTorchLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        run = self.settings
        method, method_config = method_of(run)
        return {
            **super()._model_config_auto_includes,
            **model_of(run).model_dump(),
            "initial_alpha": training_of(run).initial_alpha,
            "seed": run.seed,
            "record_activations": method.needs_activations,
            "method": run.method,
            "method_settings": method_config.model_dump(),
            "tasks": len(set(run.tasks)),
            "visits": run.num_visits,
        }


class Throughput:
    """Environment steps and updates a second between two reports."""

    def __init__(self, env_steps: int = 0, updates: int = 0) -> None:
        self._start = self._last = time.perf_counter()
        self._env_steps, self._updates = env_steps, updates
        self.env_steps_per_s = self.updates_per_s = 0.0

    @property
    def wall_s(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._start

    def measure(self, env_steps: int, updates: int) -> int:
        """Take the counters at a report; returns the environment steps since the last one."""
        now = time.perf_counter()
        seconds = max(now - self._last, 1e-9)
        added = env_steps - self._env_steps
        self.env_steps_per_s = added / seconds
        self.updates_per_s = (updates - self._updates) / seconds
        self._last, self._env_steps, self._updates = now, env_steps, updates
        return added


class ContinualSAC(SAC):
    """SAC that visits tasks one after another.

    A visit ends, and the next one starts, inside `training_step`, in `_finish_visit`, in the order: evaluate every
    task; callbacks score and store; the method consolidates; resets; the method prepares; environments switch.
    """

    @classmethod
    def get_default_config(cls) -> ContinualSACConfig:
        """RLlib's hook."""
        return ContinualSACConfig()

    def setup(self, config: AlgorithmConfig) -> None:
        """Build workers and Learners, then what a run needs besides."""
        super().setup(config)
        self.run: RunSettings = self.config.settings
        self.method, self.method_config = method_of(self.run)
        self.scoring = scoring_of(self.run)
        self.curriculum = Curriculum(self.run.tasks, self.run.cycles)
        self.boundary_policy = BoundarySettings(
            **{**self.run.boundary.model_dump(), **self.method.boundary_exceptions(self.method_config)}
        )
        observation_space, action_space = self.spaces[DEFAULT_MODULE_ID]
        self._row_spec = RowSpec(
            observation_space.shape, observation_space.dtype, action_space.shape, action_space.dtype
        )
        self.replay = self._empty_replay()
        self.records: TrialFolder | None = None
        self._rows_rng = numpy_generator(self.run.seed, "method", 1)
        self.workers = RolloutWorkers(self.env_runner_group, self.learner_group, self.run.resources.sample_timeout_s)
        self._shares_network = self._can_share_network()
        if self._shares_network:
            # One process, one network: the policy that acts is the one that learns, and no weights are copied.
            self.env_runner.module = self.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        self.visit: Visit = self.curriculum.visit(1)
        self.started = self.done = False
        self.env_steps = self.updates = 0
        self.extra = dict.fromkeys(EXTRA, 0)
        self._version = 0
        self._updates_due = 0.0
        self._phases: list[Phase] = []
        self._phase_updates = 0
        self._next_evaluation = 0
        self._throughput = Throughput()
        self._has_success = suite_of(self.run).has_success

    def _empty_replay(self) -> TaskReplayBuffer:
        return TaskReplayBuffer(
            self.run.replay,
            self.method.replay_request(self.method_config, self.run.replay),
            self._row_spec,
            batch_size=self.run.training.batch_size,
            num_shards=max(1, self.run.resources.num_learners),
            seed=self.run.seed,
        )

    def _can_share_network(self) -> bool:
        """Whether one module can act and learn: in one process, and on the CPU, where the environments are."""
        if self.env_runner_group.num_remote_env_runners() or not self.learner_group.is_local:
            return False
        return torch.device(self.learner_group._learner._device).type == "cpu"

    # A training iteration

    def training_step(self) -> None:
        """Collect and learn until the next report or the end of a phase; then report, and end what is over."""
        if self.done:
            return
        if not self.started:
            self._open_records(fresh=True)
            self._start_visit(self.visit, None)
        until = self.env_steps + self.run.evaluation.report_env_steps
        while self.env_steps < until and not self._phase_over():
            if self.phase.collect:
                self._collect()
                self._learn()
                self._publish_weights()
                self._evaluate_periodically()
            else:
                self._retrain()
                break
        self._report()
        if self._phase_over():
            self._finish_phase()

    def step(self) -> dict[str, Any]:
        """One iteration; the result has our progress at its top level and ends the trial by itself."""
        result = super().step()
        result.update(self._progress())
        result["done"] = self.done
        return result

    def _collect(self) -> None:
        """Ask for a fragment, name its task, and add what really came."""
        request = {
            "task": self.visit.task.name,
            "version": self._version,
            "num_vector_steps": self.run.training.rollout_fragment_length,
            **self._warmup_actions(),
        }
        if restored := self.restore_env_runners(self.env_runner_group):
            self._make_on_env_runners_recreated_callbacks(
                config=self.config, env_runner_group=self.env_runner_group, restored_env_runner_indices=restored
            )
        for reply in sorted(self.workers.collect(request), key=lambda r: r["worker_index"]):
            if (reply["task"], reply["version"]) != (self.visit.task.name, self._version):
                continue  # asked before the visit began, or by a worker that restarted in between
            warm = not self.progress.in_warmup
            flag = "success" if self.run.evaluation.success == "any" else "final_success"
            episodes = reply["episodes"]
            added = self.replay.add(
                reply["columns"], self.visit.task.index, [e["episode"] for e in episodes if e[flag]]
            )
            self.env_steps += added
            self.extra["auxiliary_env_steps"] += added * self._is_auxiliary
            self.progress.add(added, [(e["return"], e[flag]) for e in episodes])
            self._updates_due += warm * added * self.run.training.updates_per_env_step

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """RLlib's hook: see `RolloutWorkers.restore`."""
        return self.workers.restore()

    def _warmup_actions(self) -> dict[str, Any]:
        """Who acts at the start of a visit, as a sample request says it."""
        warmup = self.method.acting(self.method_config).warmup if self.progress.in_warmup else "policy"
        earlier = {v.task.name for v in self.curriculum.visits[: self.visit.number - 1]} - {self.visit.task.name}
        if warmup == "earlier_tasks" and earlier:
            return {"random_actions": False, "act_as": [t.name for t in self.curriculum.tasks if t.name in earlier]}
        return {"random_actions": warmup in ("uniform", "earlier_tasks"), "act_as": []}

    def _learn(self) -> None:
        """The updates owed for the environment steps that were really added."""
        if len(self.replay) < self.run.training.batch_size:
            return
        while (owed := int(self._updates_due + ROUNDING)) >= 1:
            count = min(owed, MAX_UPDATES_PER_CALL)
            self._update(count, None)
            self._updates_due -= count

    def _retrain(self) -> None:
        """A stretch of a phase that updates without collecting."""
        count = min(self.phase.updates - self._phase_updates, MAX_UPDATES_PER_CALL)
        self._update(count, self.phase.data)
        self._phase_updates += count

    def _update(self, count: int, only: str | None) -> None:
        columns = self.replay.sample(range(self.updates + 1, self.updates + count + 1), self.visit.task.index, only)
        rows = len(columns["rewards"])
        self.learner_group.update(
            batch=MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=rows),
            minibatch_size=rows // (count * self.replay.num_shards),
        )
        self.updates += count
        self.extra["auxiliary_updates"] += count * self._is_auxiliary

    def _publish_weights(self) -> None:
        if not self._shares_network:
            self.workers.publish()

    # Visits

    def _start_visit(self, visit: Visit, data: VisitData | None) -> None:
        """Prepare the method, then send the workers to the task under a new version."""
        self.visit, self.started = visit, True
        self._version += 1
        self.progress = VisitProgress(self.run.visit, self._warms_up)
        self._updates_due = 0.0
        self._next_evaluation = self.env_steps + self._evaluation_interval()
        self._on_every_learner("visit_start", visit, data)
        self._phases = self.method.phases(self.method_config, visit)
        self._start_phase()
        self._publish_weights()
        self._callback("on_visit_start", visit=visit)

    def _finish_visit(self) -> None:
        """The boundary, top to bottom."""
        visit = self.visit
        data = VisitData(visit, rows=self._visit_rows())
        self._evaluate("boundary", self.run.evaluation.boundary_episodes)
        self._callback("on_visit_end", visit=visit, data=data)
        self._on_every_learner("visit_end", visit, data)
        if self.records:
            self.records.neurons(visit, data.scores, self._on_first_learner("method_arrays"))
            self.records.weights(visit, self._on_first_learner("weights"))
            self.records.cost({**self._on_first_learner("sizes"), "prior_bytes": self.replay.nbytes[1], **self.extra})
        if visit.number == len(self.curriculum.visits):
            self._finish_run()
            return
        if self.boundary_policy.clear_buffer:
            self.replay.clear()
        self._on_every_learner("boundary_reset", self.boundary_policy)
        self._start_visit(self.curriculum.visit(visit.number + 1), data)
        self._check_learners_agree()

    def _finish_run(self) -> None:
        self.done = True
        if self.records:
            self.records.finish()

    @property
    def phase(self) -> Phase:
        """The stretch of the visit that is running."""
        return self._phases[0]

    @property
    def _warms_up(self) -> bool:
        """Whether the visit has a warm-up."""
        return self.visit.number == 1 or self.boundary_policy.warmup_each_visit

    @property
    def _is_auxiliary(self) -> bool:
        """Whether the phase stands beside the visit's main one, the last that collects."""
        return not self.phase.collect or any(phase.collect for phase in self._phases[1:])

    def _start_phase(self) -> None:
        self._phase_updates = 0
        self._on_every_learner("phase_start", self.visit, self.phase)

    def _phase_over(self) -> bool:
        return self.progress.over if self.phase.collect else self._phase_updates >= self.phase.updates

    def _finish_phase(self) -> None:
        self._on_every_learner("phase_end", self.visit, self.phase, VisitData(self.visit, rows=self._visit_rows()))
        self._publish_weights()
        if len(self._phases) == 1:
            self._finish_visit()
            return
        self._phases = self._phases[1:]
        if self.phase.fresh:
            self.replay.clear()
        if self.phase.collect:
            self.progress = VisitProgress(self.run.visit, self.phase.fresh and self._warms_up)
            self._updates_due = 0.0
            self._version += 1
            self._next_evaluation = self.env_steps + self._evaluation_interval()
        self._start_phase()

    def _visit_rows(self) -> dict[str, np.ndarray]:
        wanted = self.method.visit_data_rows
        return self.replay.current_rows(self.visit.task.index, wanted, self._rows_rng) if wanted else {}

    def score_neurons(self, task: Task, scoring: ScoringSettings, *, rollout: int) -> NeuronScores:
        """Roll the policy out on a task and have the first Learner score every hidden neuron (Eq. 1-4).

        Args:
            task: the finished task.
            scoring: length of the rollout and the goal proximity that labels its steps.
            rollout: number of the rollout, which seeds it.
        """
        chunks, label_rate = self._labelled_rollout(task, scoring, 2 * rollout)
        mean_chunks = self._labelled_rollout(task, scoring, 2 * rollout + 1)[0] if scoring.score_two_rollouts else None
        return self._on_first_learner("score_neurons", chunks, mean_chunks, label_rate, task.index)

    def _labelled_rollout(self, task: Task, scoring: ScoringSettings, index: int) -> tuple[list[Any], float]:
        request = {
            "task": task.name,
            "version": self._version,
            "num_env_steps": scoring.score_env_steps,
            "rollout_index": index,
        }
        reply = self.workers.ask_one("rollout", request)
        columns = reply["columns"]
        self.extra["scoring_env_steps"] += len(columns["rewards"])
        complete = np.array([episode["complete"] for episode in reply["episodes"]], bool)
        q, use = goal_proximity(scoring.gpm, columns["success"], columns["rewards"], columns["episode"], complete)
        if not use.any():
            raise ValueError(
                f"scoring {task.name}: no episode ended within score_env_steps {scoring.score_env_steps}, and gpm "
                f"{scoring.gpm!r} needs whole ones; use gpm 'step' or more steps"
            )
        labels = goal_labels(q[use])
        obs, used = columns["obs"], np.flatnonzero(use)
        size = SCORING_CHUNK_IMAGES if isinstance(obs, StackedFrames) else SCORING_CHUNK_STEPS
        chunks = []
        for start in range(0, len(used), size):
            rows = used[start : start + size]
            chunks.append(
                {
                    "obs": obs.take(rows) if isinstance(obs, StackedFrames) else obs[rows],
                    "actions": columns["actions"][rows],
                    "labels": labels[start : start + size],
                }
            )
        return [chunk if self.learner_group.is_local else ray.put(chunk) for chunk in chunks], float(labels.mean())

    # Evaluation and reports

    def _evaluation_interval(self) -> int:
        return self.run.evaluation.periodic_env_steps or max(1, self.run.visit.max_env_steps // 20)

    def _evaluate_periodically(self) -> None:
        if self._is_auxiliary:  # its networks are not the agent's
            return
        if self.run.evaluation.periodic_episodes and self.env_steps >= self._next_evaluation:
            self._next_evaluation += self._evaluation_interval()
            if not self.progress.over:  # the boundary's evaluation follows at once
                self._evaluate("periodic", self.run.evaluation.periodic_episodes)

    def _evaluate(self, phase: str, episodes: int) -> None:
        measured = evaluate_tasks(
            self.workers,
            self.curriculum.tasks,
            episodes=episodes,
            version=self._version,
            settings=self.run.evaluation,
            env_steps=self.run.evaluation.eval_env_steps if phase == "boundary" else None,
            has_success=self._has_success,
        )
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

    def _progress(self) -> dict[str, Any]:
        return {
            "visit": self.visit.number,
            "num_visits": len(self.curriculum.visits),
            "task": self.visit.task.name,
            "phase": self.phase.name,
            "visit_env_steps": self.progress.env_steps,
            "visit_max_env_steps": self.run.visit.max_env_steps,
            "env_steps": self.env_steps,
            "updates": self.updates,
            "success_window": self.progress.success_window if self._has_success else None,
            "mean_return": self.progress.mean_return,
            "env_steps_per_s": self._throughput.env_steps_per_s,
            "updates_per_s": self._throughput.updates_per_s,
        }

    def _report(self) -> None:
        added = self._throughput.measure(self.env_steps, self.updates)
        obs = self.replay.newest_obs(DORMANCY_ROWS) if len(self.replay) else None
        learner = self._on_first_learner("report", obs, self.visit.task.index)
        row = {
            **self._progress(),
            "prior_size": self.replay.prior_size,
            "wall_s": self._throughput.wall_s,
            **learner,
        }
        if self.records:
            self.records.training(row)
        for name, value in learner.items():
            self.metrics.log_value((LEARNER_RESULTS, DEFAULT_MODULE_ID, name), value, window=1)
        if row["mean_return"] is not None:
            self.metrics.log_value((ENV_RUNNER_RESULTS, "episode_return_mean"), row["mean_return"], window=1)
        self.metrics.log_value((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), added, reduce="lifetime_sum")

    # Learners and callbacks

    def _on_every_learner(self, name: str, *args: Any) -> list[Any]:
        """Call a method of every Learner and check every reply; RLlib by itself swallows errors.

        Raises:
            RuntimeError: with the Learner's error, or if a Learner did not answer.
        """
        if not self.learner_group.is_local:
            args = tuple(ray.put(arg) for arg in args)
        call = functools.partial(call_learner, name=name, args=args)
        results = [result.get() for result in self.learner_group.foreach_learner(call)]
        expected = max(1, self.run.resources.num_learners)
        if len(results) != expected:
            raise RuntimeError(f"{name}: {len(results)} of {expected} Learners answered")
        for ok, value in results:
            if not ok:
                raise RuntimeError(f"Learner.{name}: {value}")
        return [value for _, value in results]

    def _on_first_learner(self, name: str, *args: Any) -> Any:
        call = functools.partial(call_learner, name=name, args=args)
        first = None if self.learner_group.is_local else [0]
        results = [r.get() for r in self.learner_group.foreach_learner(call, remote_actor_ids=first)]
        if not results or not results[0][0]:
            raise RuntimeError(f"Learner.{name}: {results[0][1] if results else 'no answer'}")
        return results[0][1]

    def _check_learners_agree(self) -> None:
        if self.run.resources.num_learners > 1:
            checksums = self._on_every_learner("checksum")
            if len(set(checksums)) > 1:
                raise RuntimeError(
                    f"visit {self.visit.number}: weights or method states of the Learners differ: {checksums}"
                )

    # State

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, where we are, and (in the Learner's part) temperature, masks and the method's state.

        The replay stores are not in it: `set_state` says what that means.
        """
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(CONTINUAL, components, not_components) and self.started:
            state[CONTINUAL] = {
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
                "version": self._version,
                "next_evaluation": self._next_evaluation,
                "done": self.done,
            }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken, but with empty replay stores: D fills again, D_pre at the next boundary.

        Raises:
            ValueError: for a state from a phase that updates without collecting: what it updates on is not in it.
        """
        ours = state.get(CONTINUAL)
        if ours is None:
            super().set_state(state)
            return
        visit = self.curriculum.visit(ours["visit"])
        phases = self.method.phases(self.method_config, visit)[-ours["phases_left"] :]
        if not (phases[0].collect or ours["done"]):
            raise ValueError(
                f"this state is of phase {phases[0].name!r} of visit {visit.number} ({visit.task.name}), which updates "
                "on stored transitions alone, and a checkpoint holds neither D nor D_pre: take one that collects"
            )
        super().set_state(state)
        self.visit, self.started = visit, True
        self.progress = VisitProgress(self.run.visit, warmup=ours["warmup_env_steps"] > 0)
        self.progress.add(ours["visit_env_steps"], zip(ours["returns"], ours["successes"], strict=True))
        self.replay = self._empty_replay()
        self._updates_due = 0.0
        self._phases = phases
        self._phase_updates = ours["phase_updates"]
        self.env_steps, self.updates = ours["env_steps"], ours["updates"]
        self.extra = dict(ours["extra"])
        self._version = ours["version"] + 1  # new episodes: what was running when the state was taken is gone
        self._next_evaluation, self.done = ours["next_evaluation"], ours["done"]
        self._throughput = Throughput(self.env_steps, self.updates)
        self._on_every_learner("resume_phase", self.phase)
        self._publish_weights()
        if not self.done:
            self._open_records(fresh=False)
            logger.warning(
                "visit %d (%s) goes on at step %d with empty replay stores: a checkpoint holds neither D nor D_pre",
                self.visit.number,
                self.visit.task.name,
                self.progress.env_steps,
            )

    def _open_records(self, fresh: bool) -> None:
        if self.run.results_dir:
            self.records = TrialFolder(Path(self.run.results_dir), self.run, fresh=fresh)

    def _callback(self, name: str, **kwargs: Any) -> None:
        for callback in self.callbacks:
            if isinstance(callback, ContinualCallback):
                getattr(callback, name)(algorithm=self, **kwargs)


class NBSPConfig(ContinualSACConfig):
    """`ContinualSACConfig` with the NBSP method."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or NBSP)
        self.method("nbsp")


class NBSP(ContinualSAC):
    """`ContinualSAC` with the NBSP method by default."""

    @classmethod
    def get_default_config(cls) -> NBSPConfig:
        """RLlib's hook."""
        return NBSPConfig()


def register() -> None:
    """Make "ContinualSAC" and "NBSP" known to Ray Tune by name."""
    register_trainable("ContinualSAC", ContinualSAC)
    register_trainable("NBSP", NBSP)
