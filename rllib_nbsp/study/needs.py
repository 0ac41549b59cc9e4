"""What a study needs against what there is: processors, memory and disk. Nothing here knows Ray."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.replay.buffer import row_nbytes
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.settings import RunSettings
from rllib_nbsp.study.folder import existing

Bundle = Mapping[str, float]

MAX_MEMORY_FRAC = 0.7
# Measured on the files and processes of finished trials.
TRIAL_PROCESS_BYTES = 700_000_000
WORKER_PROCESS_BYTES = 500_000_000
EVALUATION_ROW_BYTES, EPISODE_BYTES = 420, 70
TRAINING_ROW_BYTES = 1_000
NEURON_BYTES = 600
SCALARS_BYTES = 40  # of a transition, beside its observations


# Processors


def total(bundles: Iterable[Bundle]) -> dict[str, float]:
    """All resources of a trial's bundles together."""
    sums: Counter[str] = Counter()
    for bundle in bundles:
        sums.update(bundle)
    return dict(sums)


def concurrent_trials(bundles: Iterable[Bundle], available: Mapping[str, float]) -> int:
    """How many trials of these bundles fit at once."""
    fits = [available.get(name, 0.0) / amount for name, amount in total(bundles).items() if amount > 0]
    return max(1, int(min(fits, default=1.0) + 1e-9))


def check_resources(
    bundles: Sequence[Bundle],
    nodes: Sequence[Mapping[str, float]],
    where: str,
    placement: str = "PACK",
) -> list[str]:
    """What a trial needs and will never get, one line each: Ray would let it wait for ever.

    Args:
        bundles: the trial's, each of which one node must hold.
        nodes: what each node has.
        where: what these are, for people.
        placement: `resources.placement_strategy`.
    """
    lacking = _check_totals(bundles, total(nodes), where)
    if lacking:
        return lacking
    if placement == "STRICT_SPREAD" and len(bundles) > len(nodes):
        return [
            f"resources.placement_strategy STRICT_SPREAD puts the {len(bundles)} bundles of a trial on as many nodes, "
            f"and {where} has {len(nodes)}: use SPREAD"
        ]
    together = [total(bundles)] if placement == "STRICT_PACK" else bundles
    return [
        f"a trial needs {_words(bundle)} on one node, and no node of {where} has that"
        for bundle in {_words(bundle): bundle for bundle in together}.values()
        if not any(all(node.get(name, 0.0) + 1e-9 >= amount for name, amount in bundle.items()) for node in nodes)
    ]


def _words(bundle: Bundle) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())


def _check_totals(bundles: Sequence[Bundle], available: Mapping[str, float], where: str) -> list[str]:
    advice = {
        "CPU": "lower --num-env-runners or --num-learners, or set resources.num_cpus_per_env_runner below 1",
        "GPU": "use --num-gpus-per-learner 0, or --address for a cluster that has them",
    }
    return [
        f"a trial needs {amount:g} {name}, and {where} has {available.get(name, 0.0):g}: "
        + advice.get(name, "resources.custom_resources_per_env_runner names a resource that no node offers")
        for name, amount in total(bundles).items()
        if amount > available.get(name, 0.0) + 1e-9
    ]


# Memory and disk


@dataclass(frozen=True)
class Needs:
    """Bytes that one trial takes."""

    replay: int
    fragments: int
    scoring: int
    networks: int
    processes: int
    environments: int
    disk: int

    @property
    def memory(self) -> int:
        """Bytes of main memory."""
        return self.replay + self.fragments + self.scoring + self.networks + self.processes + self.environments


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
    # A weight, its gradient and Adam's two moments; a buffer or a target critic is itself alone.
    learner_bytes = 4 * (4 * weights + reserves + targets)
    workers = settings.resources.num_env_runners
    fragment = settings.training.rollout_fragment_length * settings.resources.num_envs_per_env_runner
    return Needs(
        replay=rows * row,
        fragments=max(1, workers) * fragment * (2 * run.row_spec.obs_nbytes + SCALARS_BYTES),
        scoring=rollout,
        networks=run.num_learners * learner_bytes + workers * 4 * _numbers(networks[0].state_dict().values()),
        processes=TRIAL_PROCESS_BYTES + (settings.resources.num_learners + workers) * WORKER_PROCESS_BYTES,
        environments=max(1, workers) * _environments(run),
        disk=_disk(run, 4 * (weights + reserves + targets)),
    )


def _environments(run: ResolvedRun) -> int:
    """Of one process: those that are at work in a request, beside running episodes, and those that are kept idle."""
    resources, tasks = run.settings.resources, len(run.curriculum.tasks)
    training, measured = resources.num_envs_per_env_runner, run.settings.evaluation.num_envs
    every = tasks * (training + measured * (2 if run.scoring else 1))
    at_once = training + max(training, measured) + resources.max_idle_envs
    return run.suite.env_nbytes(tasks, min(every, at_once))


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
    rows = tasks * (boundary + times * periodic) + steps // evaluation.report_env_steps * TRAINING_ROW_BYTES
    return settings.num_visits * (rows + neurons + weights)


def check_memory(trials: Sequence[RunSettings], concurrent: int, available: int) -> list[str]:
    """A line with the numbers if the largest trials together would end in the out-of-memory killer."""
    largest = sorted((needs(settings) for settings in trials), key=lambda need: need.memory)[-concurrent:]
    wanted = sum(need.memory for need in largest)
    if wanted <= MAX_MEMORY_FRAC * available:
        return []
    one = largest[-1]
    names = ("replay", "fragments", "scoring", "networks", "processes", "environments")
    shares = ", ".join(f"{name} {gigabytes(getattr(one, name))}" for name in names)
    return [
        f"memory: {concurrent} trials at once need {gigabytes(wanted)}, more than {MAX_MEMORY_FRAC:.0%} of the "
        f"{gigabytes(available)} here (one: {shares}); lower the largest of these or --max-concurrent"
    ]


def check_disk(trials: Sequence[RunSettings], folder: Path) -> list[str]:
    """A line with the numbers if the results would not fit."""
    wanted, free = sum(needs(settings).disk for settings in trials), shutil.disk_usage(existing(folder)).free
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
