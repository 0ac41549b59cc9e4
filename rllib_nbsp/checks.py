"""What a run's settings say together: its method, its scoring, and what does not fit. Nothing here knows Ray."""

from __future__ import annotations

from rllib_nbsp.envs import SUITES
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings
from rllib_nbsp.networks import conv_features
from rllib_nbsp.settings import ModelSettings, RunSettings, ScoringSettings, TrainingSettings


def method_of(run: RunSettings) -> tuple[type[ContinualMethod], MethodSettings]:
    """The run's method and its validated keys."""
    method = METHODS[run.method]
    return method, method.Config(**run.method_settings)


def training_of(run: RunSettings) -> TrainingSettings:
    """The run's `training` section with the method's named exceptions."""
    method, method_config = method_of(run)
    return run.training.model_copy(update=method.training_exceptions(method_config))


def model_of(run: RunSettings) -> ModelSettings:
    """The run's `model` section with the method's overrides."""
    method, method_config = method_of(run)
    return run.model.model_copy(update=method.model_config(method_config, run.model))


def scoring_of(run: RunSettings) -> ScoringSettings | None:
    """How neurons are scored after each visit: the method's way, or the run's for methods that need no scores."""
    method, method_config = method_of(run)
    return method.scoring(method_config) or run.score_all_methods


def check_tasks(run: RunSettings) -> list[str]:
    """Whether the suite and its tasks exist, one line each."""
    if run.suite not in SUITES:
        return [f"suite is {run.suite!r}; known suites: {', '.join(sorted(SUITES))}"]
    return SUITES[run.suite].check_tasks(run.tasks)


def check_run(run: RunSettings) -> list[str]:
    """What the sections get wrong together, one line each; single values are checked by their models."""
    if run.method not in METHODS:
        return [f"method is {run.method!r}; known methods: {', '.join(sorted(METHODS))}"]
    method, method_config = method_of(run)
    learners = max(1, run.resources.num_learners)
    errors = method.check(method_config, run)
    if run.training.batch_size % learners:
        errors.append(
            f"training.batch_size is {run.training.batch_size}; it must be a multiple of resources.num_learners, "
            f"{learners}"
        )
    beside = method.replay_request(method_config, run.replay).prior_rows_per_update
    if beside % learners:
        errors.append(
            f"method {run.method!r} asks for {beside} rows of D_pre beside every batch; that must be a multiple of "
            f"resources.num_learners, {learners}"
        )
    if method.max_learners is not None and learners > method.max_learners:
        errors.append(
            f"resources.num_learners is {learners}; method {run.method!r} is exact on at most {method.max_learners}"
        )
    if run.visit.warmup_env_steps >= run.visit.max_env_steps:
        errors.append(
            f"visit.warmup_env_steps is {run.visit.warmup_env_steps}; it must be below visit.max_env_steps, "
            f"{run.visit.max_env_steps}, or the task is never learned"
        )
    if run.replay.split == "reservoir" and run.replay.pick != "uniform":
        errors.append(
            f"replay.pick is {run.replay.pick!r}; replay.split 'reservoir' is a uniform sample of all transitions and "
            "needs pick 'uniform'"
        )
    if run.replay.split == "reservoir" and not run.boundary.clear_buffer:
        errors.append(
            "replay.split is 'reservoir', a uniform sample of all transitions, each counted once; it needs "
            "boundary.clear_buffer: true"
        )
    if run.replay.mode == "mix" and run.replay.interval > run.training.batch_size:
        errors.append(
            f"replay.interval is {run.replay.interval}; with replay.mode 'mix' it must be at most training.batch_size, "
            f"{run.training.batch_size}, or no row comes from D_pre"
        )
    if run.training.batch_size > run.replay.capacity:
        errors.append(
            f"replay.capacity is {run.replay.capacity}; it must hold at least one batch, training.batch_size "
            f"{run.training.batch_size}"
        )
    return [*errors, *_check_schedule(run), *_check_success(run), *_check_convolutions(run)]


def _check_convolutions(run: RunSettings) -> list[str]:
    """Kernels that are larger than the frames that they are given."""
    if run.suite != "atari":
        return []
    atari = run.atari
    try:
        conv_features((atari.frame_stack, atari.frame_size, atari.frame_size), model_of(run).conv)
    except ValueError as error:
        return [f"{error}; raise atari.frame_size or lower the kernel"]
    return []


def _check_success(run: RunSettings) -> list[str]:
    """What needs a success that the suite's tasks do not have."""
    suite = SUITES.get(run.suite)
    if suite is None or suite.has_success:
        return []
    errors = []
    if run.visit.early_stop is not None:
        errors.append(
            f"visit.early_stop is set; tasks of suite {run.suite!r} have no success to stop at: early_stop: null"
        )
    if run.replay.pick == "success":
        errors.append(f"replay.pick is 'success'; tasks of suite {run.suite!r} have no success: 'uniform' or 'last'")
    scoring = scoring_of(run)
    if scoring is not None and scoring.gpm != "return":
        errors.append(
            f"gpm is {scoring.gpm!r}; tasks of suite {run.suite!r} have no success: neurons are scored by 'return'"
        )
    return errors


def _check_schedule(run: RunSettings) -> list[str]:
    """What would silently never happen in a run, or never end; each line begins with a key."""
    errors = []
    length = run.visit.max_env_steps
    stop = run.visit.early_stop
    if stop is not None and stop.min_env_steps >= length:
        errors.append(
            f"visit.early_stop.min_env_steps is {stop.min_env_steps}; it must be below visit.max_env_steps, {length}, "
            "or no visit ever stops early; lower it or write early_stop: null"
        )
    interval = run.evaluation.periodic_env_steps
    if interval is not None and run.evaluation.periodic_episodes and interval > length:
        errors.append(
            f"evaluation.periodic_env_steps is {interval}; it must be at most visit.max_env_steps, {length}, or write "
            "periodic_episodes: 0"
        )
    visits = 1 if run.boundary.clear_buffer else run.num_visits
    if length * visits < run.training.batch_size:
        errors.append(
            f"visit.max_env_steps is {length}; D must come to hold a batch, training.batch_size "
            f"{run.training.batch_size}, or there is no update"
        )
    elif run.updates_within(1) < 1 and length > run.visit.warmup_env_steps:
        errors.append(
            f"training.updates_per_env_step is {run.training.updates_per_env_step}; in a visit of {length} environment "
            f"steps, {run.visit.warmup_env_steps} of them warm-up, that is no update"
        )
    gpus = run.resources.num_gpus_per_learner
    if gpus > 1 and gpus != int(gpus):
        errors.append(
            f"resources.num_gpus_per_learner is {gpus}; a share of one GPU is below 1, more are whole numbers"
        )
    return errors
