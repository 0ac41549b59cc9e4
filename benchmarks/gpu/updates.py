"""How long an update takes on a GPU: ours by method, eager and as a graph, and those of others."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.contender import BATCH_SIZE
from benchmarks.gpu.correctness import EAGER, GRAPH, at_work
from benchmarks.methods import MethodAtWork
from benchmarks.plain_sac import Batch, PlainSAC
from benchmarks.timing import milliseconds
from rllib_nbsp.envs.metaworld import ACTION_SPACE, OBSERVATION_SPACE
from rllib_nbsp.methods import METHODS

UPDATES_A_CALL = 16
"""What the paper's preset owes after a step of its 8 environments, 2 updates each."""
CALLS = 4
"""Batches of different calls that are taken in turns."""
WINDOWS = 5


def time_calls(worker: MethodAtWork, count: int, seconds: float) -> float:
    """ms of an update, in calls of `count`: the Learner's side alone, upload of the rows included."""
    batches = itertools.cycle([worker.sample(count=count) for _ in range(CALLS)])

    def call() -> None:
        worker.update_on(next(batches), count)

    return time_on_gpu(call, seconds) / count


def time_on_gpu(call: Callable[[], None], seconds: float) -> float:
    """Median ms of a call over `WINDOWS` windows, each begun and ended with an idle device."""
    for _ in range(4):
        call()
    windows = []
    for _ in range(WINDOWS):
        torch.cuda.synchronize()

        def to_the_end() -> None:
            call()
            torch.cuda.synchronize()

        windows.append(milliseconds(to_the_end, seconds / WINDOWS))
    return statistics.median(windows)


def by_method(hidden: int, seconds: float) -> dict[str, dict[str, float]]:
    """ms an update of every method: `eager`, and `graph` where that can be."""
    found = {}
    for name in METHODS:
        found[name] = {"eager": time_calls(at_work(name, hidden, EAGER), UPDATES_A_CALL, seconds)}
        worker = at_work(name, hidden, GRAPH)
        if worker.learner.graphs is not None:
            found[name]["graph"] = time_calls(worker, UPDATES_A_CALL, seconds)
    return found


def by_precision(hidden: int | list[int], seconds: float) -> dict[str, dict[str, float]]:
    """ms an update of sac and nbsp in float32 and in TF32, eager and as a graph, by updates a call."""
    found: dict[str, dict[str, float]] = {}
    for name, tf32, resources in itertools.product(("sac", "nbsp"), (False, True), (EAGER, GRAPH)):
        worker = at_work(name, hidden, resources, training={"tf32": tf32})
        kind = f"{name} {'tf32' if tf32 else 'fp32'} {'graph' if resources is GRAPH else 'eager'}"
        found[kind] = {str(count): time_calls(worker, count, seconds) for count in (1, 16, 64)}
    torch.set_float32_matmul_precision("highest")
    return found


def plain(hidden: list[int], seconds: float) -> float:
    """ms an update of the plain loop in CleanRL's order, on a batch that is there."""
    obs, act = OBSERVATION_SPACE.shape[0], ACTION_SPACE.shape[0]
    agent = PlainSAC(obs, act, hidden, device="cuda")
    batch = Batch(
        torch.randn(BATCH_SIZE, obs, device="cuda"),
        torch.rand(BATCH_SIZE, act, device="cuda"),
        torch.rand(BATCH_SIZE, device="cuda"),
        torch.randn(BATCH_SIZE, obs, device="cuda"),
        torch.zeros(BATCH_SIZE, device="cuda"),
    )
    return time_on_gpu(lambda: agent.update(batch), seconds)


def kernels(hidden: int, name: str = "sac") -> dict[str, dict[str, Any]]:
    """What is on the device in an update, eager and as a graph.

    Returns:
        `kernels` an update, their `busy_ms`, and the ten longest by name with ms an update.
    """
    found = {}
    for kind, resources in (("eager", EAGER), ("graph", GRAPH)):
        worker = at_work(name, hidden, resources, training={"tf32": True})
        worker.update(count=UPDATES_A_CALL)
        columns = worker.sample(count=UPDATES_A_CALL)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            worker.update_on(columns, UPDATES_A_CALL)
            torch.cuda.synchronize()
        rows = [row for row in profile.key_averages() if row.self_device_time_total > 0]
        longest = sorted(rows, key=lambda row: -row.self_device_time_total)[:10]
        found[kind] = {
            "kernels": sum(row.count for row in rows) / UPDATES_A_CALL,
            "busy_ms": sum(row.self_device_time_total for row in rows) / 1e3 / UPDATES_A_CALL,
            "longest": {row.key[:90]: row.self_device_time_total / 1e3 / UPDATES_A_CALL for row in longest},
        }
    torch.set_float32_matmul_precision("highest")
    return found
