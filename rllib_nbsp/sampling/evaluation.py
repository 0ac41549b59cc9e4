"""Evaluate one policy on a list of tasks, in environments and random streams of their own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from rllib_nbsp.curriculum import Task
from rllib_nbsp.sampling.rollout_workers import RolloutWorkers
from rllib_nbsp.settings import EvaluationSettings

ATTEMPTS = 3


def evaluate_tasks(
    workers: RolloutWorkers,
    tasks: Sequence[Task],
    *,
    episodes: int,
    version: int,
    settings: EvaluationSettings,
    env_steps: int | None = None,
    has_success: bool = True,
) -> list[dict[str, Any]]:
    """Run episodes of every task; episode i of a task starts the same in every call and on every worker.

    Remote workers share the episodes; what a lost worker leaves undone goes to the others.

    Args:
        workers: the rollout workers.
        tasks: what to evaluate.
        episodes: how many of each task.
        version: echoed by the workers.
        settings: the run's `evaluation` section.
        env_steps: if given, not `episodes` but rounds of whole episodes until they have so many steps together.
        has_success: whether the suite says when a task is solved; without, success is None.

    Returns:
        One dict a task, in order: the evaluated columns of a row of `evaluations.jsonl`.

    Raises:
        ConnectionError: if episodes are still missing after `ATTEMPTS` rounds.
    """
    rows = []
    flag = "success" if settings.success == "any" else "final_success"
    for task in tasks:
        started = time.perf_counter()
        played: list[dict[str, Any]] = []
        if env_steps is None:
            played = _play(workers, task, range(episodes), version, settings)
        while env_steps is not None and sum(e["length"] for e in played) < env_steps:
            round_of = settings.num_envs * max(1, len(workers.healthy))
            played += _play(workers, task, range(len(played), len(played) + round_of), version, settings)
        per_episode = [
            {
                "return": float(e["return"]),
                "length": int(e["length"]),
                "success": bool(e[flag]) if has_success else None,
            }
            for e in played
        ]
        rows.append(
            {
                "eval_task": task.name,
                "episodes": len(played),
                "success_rate": float(np.mean([e["success"] for e in per_episode])) if has_success else None,
                "mean_return": float(np.mean([e["return"] for e in per_episode])),
                "per_episode": per_episode,
                "policy": "deterministic" if settings.deterministic else "stochastic",
                "wall_s": time.perf_counter() - started,
            }
        )
    return rows


def _play(
    workers: RolloutWorkers, task: Task, indices: range, version: int, settings: EvaluationSettings
) -> list[dict[str, Any]]:
    """Summaries of the episodes of these indices, in order."""
    done: dict[int, dict[str, Any]] = {}
    for _ in range(ATTEMPTS):
        missing = [i for i in indices if i not in done]
        if not missing:
            break
        for asked, reply in _ask(workers, task, missing, version, explore=not settings.deterministic):
            done.update(zip(asked, reply["episodes"], strict=True))
    if len(done) < len(indices):
        raise ConnectionError(
            f"evaluation of {task.name}: {len(indices) - len(done)} of {len(indices)} episodes are missing after "
            f"{ATTEMPTS} attempts; no rollout worker answered for them"
        )
    return [done[i] for i in indices]


def _ask(
    workers: RolloutWorkers, task: Task, indices: list[int], version: int, explore: bool
) -> list[tuple[list[int], dict[str, Any]]]:
    """Split episodes over the healthy workers; replies that name another task or version are dropped."""
    request = {"task": task.name, "version": version, "explore": explore}
    healthy = workers.healthy
    if not healthy:
        return [(indices, workers.local.evaluate(**request, episode_indices=indices))]
    shares = {worker: indices[i :: len(healthy)] for i, worker in enumerate(healthy) if indices[i :: len(healthy)]}
    replies = workers.ask(
        "evaluate", {worker: {**request, "episode_indices": share} for worker, share in shares.items()}
    )
    return [
        (shares[worker], reply)
        for worker, reply in replies.items()
        if (reply["task"], reply["version"]) == (task.name, version)
    ]
