"""What a study needs of memory and disk against what there is. Nothing here knows Ray."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.replay.buffer import row_nbytes
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.schedule import MAX_UPDATES_PER_CALL
from rllib_nbsp.settings import RunSettings
from rllib_nbsp.state.bundle import KEPT, SEGMENT_ROWS
from rllib_nbsp.study.folder import existing

MAX_MEMORY_FRAC = 0.7
# Measured on the files and processes of trials, without environments.
TRIAL_PROCESS_BYTES = 600_000_000
WORKER_PROCESS_BYTES = 500_000_000
EVALUATION_ROW_BYTES, EPISODE_BYTES = 420, 70
TRAINING_ROW_BYTES = 1_000
MECHANISM_NUMBER_BYTES, MECHANISM_NUMBERS = 40, 12  # of a network in a measured row, beside 4 a layer
NEURON_BYTES = 600
SCALARS_BYTES = 40  # of a transition, beside its observations
IN_MEMORY = ("environments", "replay", "fragments", "batches", "scoring", "networks", "processes")


@dataclass(frozen=True)
class Needs:
    """Bytes that one trial takes: of memory, of disk for its results, and while it runs for its state beside them."""

    replay: int
    fragments: int
    batches: int
    scoring: int
    networks: int
    processes: int
    environments: int
    disk: int
    state: int

    @property
    def memory(self) -> int:
        """Bytes of main memory."""
        return sum(getattr(self, name) for name in IN_MEMORY)


def needs(settings: RunSettings) -> Needs:
    """What a run will fill at most, if no visit stops early."""
    run = ResolvedRun(settings)
    row = row_nbytes(run.row_spec)
    tasks, visits = len(run.curriculum.tasks), settings.num_visits
    steps = settings.visit.max_env_steps * (1 if settings.boundary.clear_buffer else visits)
    rows = min(settings.replay.capacity, steps)
    if run.replay_request.needs_store:
        rows += settings.replay.prior_capacity * (tasks if settings.replay.split == "per_task" else 1)
    rollout = run.scoring.score_env_steps * run.row_spec.obs_nbytes if run.scoring else 0
    networks = [run.build_network(name, device="meta") for name in NETWORKS]
    weights = sum(_numbers(network.parameters()) for network in networks)
    reserves = sum(_numbers(network.buffers()) for network in networks)
    targets = sum(_numbers(network.state_dict().values()) for network in networks[1:])
    # Of the visit's start and of the last measured row.
    copies = 2 * weights + reserves if settings.evaluation.mechanism_rows else 0
    # A weight, its gradient and Adam's two moments; a buffer or a target critic is itself alone.
    learner_bytes = 4 * (4 * weights + reserves + targets + copies)
    workers = settings.resources.num_env_runners
    fragment = settings.training.rollout_fragment_length * settings.resources.num_envs_per_env_runner
    return Needs(
        replay=rows * row,
        fragments=max(1, workers) * fragment * (2 * run.row_spec.obs_nbytes + SCALARS_BYTES),
        batches=_batches(run),
        scoring=rollout,
        networks=run.num_learners * learner_bytes + workers * 4 * _numbers(networks[0].state_dict().values()),
        processes=TRIAL_PROCESS_BYTES + (settings.resources.num_learners + workers) * WORKER_PROCESS_BYTES,
        environments=max(1, workers) * _environments(run),
        disk=_disk(run, 4 * (weights + reserves + targets)),
        state=state_nbytes(rows, row, 4 * (3 * weights + reserves + targets + copies)),
    )


def state_nbytes(rows: int, row: int, networks: int) -> int:
    """Bytes on disk of the states that a run goes on from: networks in each, the stores' segments once for all.

    Args:
        rows: of D and D_pre.
        row: bytes of one.
        networks: bytes of weights, targets, Adam's two moments and what training rows are compared with.
    """
    # Rows that were overwritten stay as long as a state that is kept has them.
    return KEPT * networks + (rows + KEPT * SEGMENT_ROWS) * row


def _environments(run: ResolvedRun) -> int:
    """Of one process: those that are at work in a request, beside running episodes, and those that are kept idle."""
    resources, tasks = run.settings.resources, len(run.curriculum.tasks)
    training, measured = resources.num_envs_per_env_runner, run.settings.evaluation.num_envs
    every = tasks * (training + measured * (2 if run.scoring else 1))
    at_once = training + max(training, measured) + resources.max_idle_envs
    return run.suite.env_nbytes(tasks, min(every, at_once))


def _batches(run: ResolvedRun) -> int:
    """Bytes of the rows of one call of the Learners, once more where they travel, and an update's rows as floats."""
    settings, spec = run.settings, run.row_spec
    steps = settings.training.rollout_fragment_length * settings.resources.num_envs_per_env_runner
    owed = steps * max(1, settings.resources.num_env_runners) * run.training.updates_per_env_step
    only_updates = any(not p.collect for v in run.curriculum.visits for p in run.method.phases(run.keys, v))
    updates = MAX_UPDATES_PER_CALL if only_updates else min(MAX_UPDATES_PER_CALL, math.ceil(owed))
    obs = math.prod(spec.obs_shape)
    row = 2 * obs * np.dtype(spec.obs_dtype).itemsize + SCALARS_BYTES
    copies = 2 if settings.resources.num_learners else 1
    return run.training.batch_size * (copies * max(1, updates) * row + 2 * obs * np.dtype(np.float32).itemsize)


def _numbers(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _disk(run: ResolvedRun, weights: int) -> int:
    settings, tasks = run.settings, len(run.curriculum.tasks)
    evaluation, steps = settings.evaluation, settings.visit.max_env_steps
    boundary = EVALUATION_ROW_BYTES + evaluation.boundary_episodes * EPISODE_BYTES
    periodic = EVALUATION_ROW_BYTES + evaluation.periodic_episodes * EPISODE_BYTES
    times = steps // run.evaluation_env_steps if evaluation.periodic_episodes else 0
    channels = sum(settings.model.hidden) + sum(c for c, _, _ in settings.model.conv)
    neurons = 3 * channels * NEURON_BYTES if run.scoring else 0
    reports = steps // evaluation.report_env_steps
    measured = reports // evaluation.mechanism_rows if evaluation.mechanism_rows else 0
    layers = len(settings.model.hidden) + len(settings.model.conv)
    of_networks = 3 * (MECHANISM_NUMBERS + 4 * layers) * MECHANISM_NUMBER_BYTES
    rows = tasks * (boundary + times * periodic) + reports * TRAINING_ROW_BYTES + measured * of_networks
    return settings.num_visits * (rows + neurons + weights)


def check_memory(trials: Sequence[RunSettings], concurrent: int, available: int) -> list[str]:
    """A line with the numbers if the largest trials together would end in the out-of-memory killer."""
    largest = sorted((needs(settings) for settings in trials), key=lambda need: need.memory)[-concurrent:]
    wanted = sum(need.memory for need in largest)
    if wanted <= MAX_MEMORY_FRAC * available:
        return []
    one = largest[-1]
    shares = ", ".join(f"{name} {gigabytes(getattr(one, name))}" for name in IN_MEMORY)
    return [
        f"memory: {concurrent} trials at once need {gigabytes(wanted)}, more than {MAX_MEMORY_FRAC:.0%} of the "
        f"{gigabytes(available)} here (one: {shares}); lower the largest of these or --max-concurrent"
    ]


def disk_bytes(trials: Sequence[RunSettings], concurrent: int, sharing: Sequence[Sequence[RunSettings]] = ()) -> int:
    """Of the results of all trials, the states of as many as run at once, and the first visits that trials share.

    Args:
        trials: all of them.
        concurrent: how many run at once.
        sharing: those that have a first visit in common, as `sharing.shared_by` groups them.
    """
    each = [needs(settings) for settings in trials]
    shared = sum(needs(group[0]).state for group in sharing)
    return sum(need.disk for need in each) + sum(sorted(need.state for need in each)[-concurrent:]) + shared


def check_disk(
    trials: Sequence[RunSettings], concurrent: int, folder: Path, sharing: Sequence[Sequence[RunSettings]] = ()
) -> list[str]:
    """A line with the numbers if the results would not fit; arguments as for `disk_bytes`."""
    wanted, free = disk_bytes(trials, concurrent, sharing), shutil.disk_usage(existing(folder)).free
    if wanted <= free:
        return []
    return [f"disk: the results need {gigabytes(wanted)}, and {folder} has {gigabytes(free)} free"]


def memory_bytes() -> int:
    """Main memory of this machine or its container."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # absent, or "max"
            size = min(size, int(Path(limit).read_text()))
    return size


def gigabytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"
