"""Evaluate one policy on a list of tasks, in environments and random streams of their own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from rllib_nbsp.curriculum import Task
from rllib_nbsp.settings import EvaluationSettings

ATTEMPTS = 3


def evaluate_tasks(
    group: EnvRunnerGroup,
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
        group: the rollout workers.
        tasks: what to evaluate.
        episodes: how many of each task.
        version: echoed by the workers.
        settings: the run's `evaluation` section.
        env_steps: if given, not `episodes` but rounds of whole episodes until they have so many steps together.
        has_success: whether the suite says when a task is solved; without, success is None.

    Returns:
        One dict a task, in order: the evaluated columns of a row of `evaluations.jsonl`.

    Raises:
        RuntimeError: if episodes are still missing after `ATTEMPTS` rounds.
    """
    rows = []
    flag = "success" if settings.success == "any" else "final_success"
    for task in tasks:
        started = time.perf_counter()
        played: list[dict[str, Any]] = []
        if env_steps is None:
            played = _play(group, task, range(episodes), version, settings)
        while env_steps is not None and sum(e["length"] for e in played) < env_steps:
            round_of = settings.num_envs * max(1, group.num_healthy_remote_workers())
            played += _play(group, task, range(len(played), len(played) + round_of), version, settings)
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
    group: EnvRunnerGroup, task: Task, indices: range, version: int, settings: EvaluationSettings
) -> list[dict[str, Any]]:
    """Summaries of the episodes of these indices, in order."""
    done: dict[int, dict[str, Any]] = {}
    for _ in range(ATTEMPTS):
        missing = [i for i in indices if i not in done]
        if not missing:
            break
        for asked, reply in _ask(group, task, missing, version, explore=not settings.deterministic):
            done.update(zip(asked, reply["episodes"], strict=True))
    if len(done) < len(indices):
        raise RuntimeError(
            f"evaluation of {task.name}: {len(indices) - len(done)} of {len(indices)} episodes are missing after "
            f"{ATTEMPTS} attempts; no rollout worker answered for them"
        )
    return [done[i] for i in indices]


def _ask(
    group: EnvRunnerGroup, task: Task, indices: list[int], version: int, explore: bool
) -> list[tuple[list[int], dict[str, Any]]]:
    """Split episodes over the healthy workers; replies that name another task or version are dropped."""
    request = {"task": task.name, "version": version, "explore": explore}
    workers = group.healthy_env_runner_ids()
    if not workers:
        return [(indices, group.local_env_runner.evaluate(**request, episode_indices=indices))]
    shares = {worker: indices[i :: len(workers)] for i, worker in enumerate(workers) if indices[i :: len(workers)]}
    replies = group.foreach_env_runner(
        "evaluate",
        kwargs=[{**request, "episode_indices": share} for share in shares.values()],
        remote_worker_ids=list(shares),
        local_env_runner=False,
        timeout_seconds=None,
    )
    return [
        (shares[reply["worker_index"]], reply)
        for reply in replies
        if (reply["task"], reply["version"]) == (task.name, version)
    ]
