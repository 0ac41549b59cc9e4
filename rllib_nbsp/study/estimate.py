"""How long a study takes, from a few seconds of the real thing: its environments, its policy, its update."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner import Learner

from rllib_nbsp.algorithm_config import ContinualSACConfig
from rllib_nbsp.learners import rllib_batch
from rllib_nbsp.replay.buffer import ReplayRequest, TaskReplayBuffer
from rllib_nbsp.replay.stores import Columns
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sampling.env_runner import ContinualEnvRunner
from rllib_nbsp.settings import RunSettings

CALIBRATION_ENVS = 8
SAMPLING_S, LEAST_SAMPLING_S, EVALUATING_S, UPDATING_S = 2.0, 0.5, 1.0, 1.0
UPDATES_PER_CALL = 4
DEFAULT_HORIZON = 500
TRIAL_START_S = 8.0  # a process that imports Ray and torch and builds environments


@dataclass(frozen=True)
class Speed:
    """What one thing takes on this machine.

    Attributes:
        env_step_s: seconds of an environment step in training, with the policy's action.
        evaluation_step_s: the same of an evaluation or a scoring rollout, which have environments of their own.
        update_s: seconds of an update.
        horizon: steps of an episode.
    """

    env_step_s: float
    evaluation_step_s: float
    update_s: float
    horizon: int


def calibrate(trial: RunSettings) -> Speed:
    """Step a trial's first task and update its networks for a moment, in this process and without a cluster."""
    resources = trial.resources.model_copy(
        update={
            "num_env_runners": 0,
            "num_learners": 0,
            "num_envs_per_env_runner": min(CALIBRATION_ENVS, trial.resources.num_envs_per_env_runner),
            "num_gpus_per_learner": trial.resources.num_gpus_per_learner if torch.cuda.is_available() else 0.0,
        }
    )
    evaluation = trial.evaluation.model_copy(update={"num_envs": min(CALIBRATION_ENVS, trial.evaluation.num_envs)})
    small = {"resources": resources, "evaluation": evaluation, "results_dir": None}
    config = ContinualSACConfig.from_settings(trial.model_copy(update=small))
    with _threads(trial.resources.torch_threads):
        return _measured(config, trial.tasks[0])


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """As many threads as a trial has: more of them wait for each other where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measured(config: ContinualSACConfig, task: str) -> Speed:
    runner = ContinualEnvRunner(config=config)
    try:
        columns, env_step_s, horizon = _time_sampling(runner, task)
        whole = runner.run.settings.evaluation.num_envs * horizon
        evaluation_step_s = _time_rollout(runner, task, min(whole, int(EVALUATING_S / env_step_s) + 1))
    finally:
        runner.stop()
    learner = config.build_learner(spaces={DEFAULT_MODULE_ID: runner.run.spaces})
    update_s = _time_updates(learner, _buffer(runner.run, columns))
    return Speed(env_step_s, evaluation_step_s, update_s, horizon)


def _time_sampling(runner: ContinualEnvRunner, task: str) -> tuple[Columns, float, int]:
    """Some rows, seconds per environment step, and the length of an episode."""
    runner.sample(task=task, version=1, num_vector_steps=1)  # builds the environments
    lengths: list[int] = []
    start, env_steps, seconds = time.perf_counter(), 0, 0.0
    while seconds < (LEAST_SAMPLING_S if lengths else SAMPLING_S):
        reply = runner.sample(task=task, version=1, num_vector_steps=50)
        env_steps += len(reply["columns"]["rewards"])
        lengths += [episode["length"] for episode in reply["episodes"]]
        seconds = time.perf_counter() - start
    return reply["columns"], seconds / env_steps, max(lengths, default=DEFAULT_HORIZON)


def _time_rollout(runner: ContinualEnvRunner, task: str, env_steps: int) -> float:
    """Seconds per environment step of a policy that does not explore; a whole evaluation could take minutes."""
    rollout = partial(runner.rollout, task=task, version=1, rollout_index=0, explore=False)
    rollout(num_env_steps=1)  # builds the environments
    start = time.perf_counter()
    rollout(num_env_steps=env_steps)
    return (time.perf_counter() - start) / env_steps


def _buffer(run: ResolvedRun, columns: Columns) -> TaskReplayBuffer:
    buffer = TaskReplayBuffer(
        run.settings.replay.model_copy(update={"capacity": len(columns["obs"])}),
        ReplayRequest(),
        run.row_spec,
        batch_size=run.training.batch_size,
        num_shards=1,
        seed=run.settings.seed,
    )
    buffer.add(columns, task=0)
    return buffer


def _time_updates(learner: Learner, buffer: TaskReplayBuffer) -> float:
    """Seconds per update."""

    def update() -> None:
        batch = rllib_batch(buffer.sample(range(1, UPDATES_PER_CALL + 1), 0))
        learner.update(batch=batch, minibatch_size=batch.count // UPDATES_PER_CALL)

    update()  # allocates the optimizers' state
    start, updates = time.perf_counter(), 0
    while updates == 0 or time.perf_counter() - start < UPDATING_S:
        update()
        updates += UPDATES_PER_CALL
    return (time.perf_counter() - start) / updates


@dataclass(frozen=True)
class Estimate:
    """What a trial takes if no visit stops early.

    Attributes:
        seconds: all of it.
        evaluation_s: of them, those of evaluations.
        env_steps: environment steps that are learned from.
        evaluation_env_steps: those of evaluations.
    """

    seconds: float
    evaluation_s: float
    env_steps: int
    evaluation_env_steps: int


def trial_estimate(trial: RunSettings, speed: Speed, *, given: int = 0) -> Estimate:
    """What a trial takes.

    Args:
        trial: the run.
        speed: of this machine.
        given: how many first visits it need not make.
    """
    run = ResolvedRun(trial)
    visits = run.curriculum.visits[given : len(trial.visit_env_steps)]
    phases = [phase for visit in visits for phase in run.method.phases(run.keys, visit)]
    stretches = sum(phase.collect for phase in phases)
    # Only the run's last visit may be cut short.
    cut = len(visits) * trial.visit.max_env_steps - sum(trial.visit_env_steps[given:])
    env_steps = stretches * trial.visit.max_env_steps - cut
    workers = trial.resources.num_env_runners
    sampling = env_steps * speed.env_step_s / max(1, workers)
    retraining = sum(phase.updates for phase in phases if not phase.collect)
    updates = trial.updates_within(stretches + given) - trial.updates_within(given)
    updates = max(0, updates - int(cut * trial.training.updates_per_env_step))
    learning = (updates + retraining) * speed.update_s
    evaluation = evaluation_env_steps(run, speed.horizon, given=given)
    evaluation_s = evaluation * speed.evaluation_step_s / max(1, workers)
    scoring = len(visits) * (run.scoring.score_env_steps if run.scoring else 0)
    # With rollout workers, sampling and updates overlap.
    train = max(sampling, learning) if workers else sampling + learning
    seconds = TRIAL_START_S + train + evaluation_s + scoring * speed.evaluation_step_s / max(1, workers)
    return Estimate(seconds, evaluation_s, env_steps, evaluation)


def evaluation_env_steps(run: ResolvedRun, horizon: int, *, given: int = 0) -> int:
    """Environment steps of a run's evaluations if no visit stops early.

    Args:
        run: the run.
        horizon: steps of an episode.
        given: how many first visits it need not make.
    """
    settings = run.settings.evaluation
    at_boundary = -(-settings.eval_env_steps // horizon) if settings.eval_env_steps else settings.boundary_episodes
    # At a visit's last step, the boundary's evaluation takes the place of a periodic one.
    lengths = run.settings.visit_env_steps
    visits = list(zip(run.curriculum.visits, lengths, strict=False))[given:]
    times = sum((steps - 1) // run.evaluation_env_steps * len(run.periodic_tasks(visit)) for visit, steps in visits)
    episodes = len(visits) * len(run.curriculum.tasks) * at_boundary + times * settings.periodic_episodes
    return episodes * horizon


def study_seconds(trial_times: Sequence[float], concurrent: int) -> float:
    """The time of trials that start in order, each on the first free place."""
    places = [0.0] * concurrent
    for seconds in trial_times:
        places[places.index(min(places))] += seconds
    return max(places)


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
