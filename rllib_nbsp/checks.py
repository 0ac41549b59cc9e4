"""What a run's settings get wrong together. Nothing here knows Ray."""

from __future__ import annotations

from collections.abc import Sequence

from rllib_nbsp.envs import SUITES, Suite, suite_of
from rllib_nbsp.methods import METHODS
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.settings import RunSettings


def check_tasks(settings: RunSettings) -> list[str]:
    """Whether the suite, what it needs and its tasks exist, one line each."""
    if problem := SUITES.problem(settings.suite):
        return [f"suite is {settings.suite!r}: {problem}"]
    suite = suite_of(settings)
    return suite.check_section() or task_errors(suite, settings.tasks)


def task_errors(suite: Suite, tasks: Sequence[str]) -> list[str]:
    """What a suite, whose section is right, says of a sequence; an environment of each task may be built for it."""
    errors = suite.check_tasks(tasks)
    if tasks and not errors:
        try:
            suite.spaces(tasks)
        except (ValueError, ImportError) as error:
            return [str(error)]
    return errors


def check_run(settings: RunSettings) -> list[str]:
    """What the sections get wrong together, one line each; single values are checked by their models."""
    if problem := METHODS.problem(settings.method):
        return [f"method is {settings.method!r}: {problem}"]
    run = ResolvedRun(settings)
    learners = run.num_learners
    errors = run.method.check(run.keys, settings)
    if settings.training.batch_size % learners:
        errors.append(
            f"training.batch_size is {settings.training.batch_size}; it must be a multiple of resources.num_learners, "
            f"{learners}"
        )
    beside = run.replay_request.prior_rows_per_update
    if beside % learners:
        errors.append(
            f"method {settings.method!r} asks for {beside} rows of D_pre beside every batch; that must be a multiple "
            f"of resources.num_learners, {learners}"
        )
    interval = run.training.actor_interval
    if interval > 1 and run.method.needs_activations:
        errors.append(
            f"training.actor_interval is {interval}; method {settings.method!r} needs the activations of actor and "
            "critics in one step, which is what 1 has"
        )
    errors += _check_device(run)
    most = run.method.max_learners
    if most is not None and learners > most:
        errors.append(f"resources.num_learners is {learners}; method {settings.method!r} is exact on at most {most}")
    if run.training.weight_decay and run.method.freezes_weights:
        errors.append(
            f"training.weight_decay is {run.training.weight_decay}; it would move the weights that method "
            f"{settings.method!r} freezes: leave it out"
        )
    if settings.visit.warmup_env_steps >= settings.visit.max_env_steps:
        errors.append(
            f"visit.warmup_env_steps is {settings.visit.warmup_env_steps}; it must be below visit.max_env_steps, "
            f"{settings.visit.max_env_steps}, or the task is never learned"
        )
    errors += [*_check_replay(run), *_check_schedule(settings), *_check_success(run)]
    if not SUITES.problem(settings.suite):
        errors += run.suite.check(settings, run.model)
    return errors


def _check_device(run: ResolvedRun) -> list[str]:
    """What the device, or the method on it, cannot."""
    errors, resources = [], run.settings.resources
    if run.training.tf32 and not resources.num_gpus_per_learner:
        errors.append(
            "training.tf32 is true; it is a format of CUDA GPUs, and resources.num_gpus_per_learner is 0: leave it out"
        )
    if resources.graphs != "on":
        return errors
    if run.num_learners > 1:
        errors.append(
            f"resources.graphs is 'on'; of resources.num_learners, {run.num_learners}, none replays graphs, since "
            "they wait for each other within an update: use 'auto', or 1"
        )
    if why := run.method.no_graph(run.keys):
        errors.append(f"resources.graphs is 'on'; method {run.settings.method!r} cannot be replayed, {why}: use 'auto'")
    return errors


def _check_replay(run: ResolvedRun) -> list[str]:
    """What D and D_pre cannot be together."""
    errors, settings = [], run.settings
    if settings.replay.scope not in run.method.replay_scopes:
        errors.append(
            f"replay.scope is {settings.replay.scope!r}; method {settings.method!r} masks no network, so that batches "
            "from D_pre update all: leave it out"
        )
    if settings.replay.split == "reservoir" and settings.replay.pick != "uniform":
        errors.append(
            f"replay.pick is {settings.replay.pick!r}; replay.split 'reservoir' is a uniform sample of all transitions "
            "and needs pick 'uniform'"
        )
    if settings.replay.split == "reservoir" and not settings.boundary.clear_buffer:
        errors.append(
            "replay.split is 'reservoir', a uniform sample of all transitions, each counted once; it needs "
            "boundary.clear_buffer: true"
        )
    if settings.replay.mode == "mix" and settings.replay.interval > settings.training.batch_size:
        errors.append(
            f"replay.interval is {settings.replay.interval}; with replay.mode 'mix' it must be at most "
            f"training.batch_size, {settings.training.batch_size}, or no row comes from D_pre"
        )
    if settings.training.batch_size > settings.replay.capacity:
        errors.append(
            f"replay.capacity is {settings.replay.capacity}; it must hold at least one batch, training.batch_size "
            f"{settings.training.batch_size}"
        )
    return errors


def _check_success(run: ResolvedRun) -> list[str]:
    """What needs a success that the suite's tasks do not have."""
    settings = run.settings
    if SUITES.problem(settings.suite) or run.suite.has_success:
        return []
    errors = []
    if settings.visit.early_stop is not None:
        errors.append(
            f"visit.early_stop is set; tasks of suite {settings.suite!r} have no success to stop at: early_stop: null"
        )
    if settings.replay.pick == "success":
        errors.append(
            f"replay.pick is 'success'; tasks of suite {settings.suite!r} have no success: 'uniform' or 'last'"
        )
    if run.scoring is not None and run.scoring.gpm != "return":
        errors.append(
            f"gpm is {run.scoring.gpm!r}; tasks of suite {settings.suite!r} have no success: neurons are scored by "
            "'return'"
        )
    return errors


def _check_schedule(settings: RunSettings) -> list[str]:
    """What would silently never happen in a run, or never end; each line begins with a key."""
    errors = []
    length = settings.visit.max_env_steps
    stop = settings.visit.early_stop
    if stop is not None and stop.min_env_steps >= length:
        errors.append(
            f"visit.early_stop.min_env_steps is {stop.min_env_steps}; it must be below visit.max_env_steps, {length}, "
            "or no visit ever stops early; lower it or write early_stop: null"
        )
    interval = settings.evaluation.periodic_env_steps
    if interval is not None and settings.evaluation.periodic_episodes and interval > length:
        errors.append(
            f"evaluation.periodic_env_steps is {interval}; it must be at most visit.max_env_steps, {length}, or write "
            "periodic_episodes: 0"
        )
    visits = 1 if settings.boundary.clear_buffer else settings.num_visits
    if length * visits < settings.training.batch_size:
        errors.append(
            f"visit.max_env_steps is {length}; D must come to hold a batch, training.batch_size "
            f"{settings.training.batch_size}, or there is no update"
        )
    elif settings.updates_within(1) < 1 and length > settings.visit.warmup_env_steps:
        errors.append(
            f"training.updates_per_env_step is {settings.training.updates_per_env_step}; in a visit of {length} "
            f"environment steps, {settings.visit.warmup_env_steps} of them warm-up, that is no update"
        )
    updates, interval = settings.updates_within(settings.num_visits), settings.training.actor_interval
    if interval > max(1, updates):
        errors.append(
            f"training.actor_interval is {interval}; the run makes at most {updates} updates, so that the actor never "
            "learns"
        )
    gpus = settings.resources.num_gpus_per_learner
    if gpus > 1 and gpus != int(gpus):
        errors.append(
            f"resources.num_gpus_per_learner is {gpus}; a share of one GPU is below 1, more are whole numbers"
        )
    return errors
