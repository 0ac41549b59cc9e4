"""The rollout that neurons are scored on: its steps labelled by the goal, in chunks that a Learner can take in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rllib_nbsp.curriculum import Task
from rllib_nbsp.nn.neurons import goal_labels, goal_proximity
from rllib_nbsp.nn.significance import turned_labels
from rllib_nbsp.replay.stacks import StackedFrames
from rllib_nbsp.sampling.rollout_workers import RolloutWorkers
from rllib_nbsp.settings import ScoringSettings

CHUNK_STEPS, CHUNK_IMAGES = 5_000, 500


@dataclass(frozen=True)
class LabelledRollout:
    """Steps of a policy on a task.

    Attributes:
        chunks: columns obs, actions, labels and turned, each chunk of bounded size; `turned` are the rows of
            `turned_labels`, eight labels a byte.
        label_rate: share of labels that are true.
        env_steps: steps taken, those without a label included.
    """

    chunks: list[dict[str, Any]]
    label_rate: float
    env_steps: int


def labelled_rollout(
    workers: RolloutWorkers, task: Task, scoring: ScoringSettings, *, version: int, index: int
) -> LabelledRollout:
    """Roll the policy out on a task and label its steps (Eq. 2, 3).

    Args:
        workers: the rollout workers, one of which is asked.
        task: what to play.
        scoring: length of the rollout and the goal proximity that labels its steps.
        version: echoed by the worker.
        index: number of the rollout, which seeds it.

    Raises:
        ValueError: if no step has a label.
    """
    request = {
        "task": task.name,
        "version": version,
        "num_env_steps": scoring.score_env_steps,
        "rollout_index": index,
    }
    reply = workers.ask_one("rollout", request)
    columns = reply["columns"]
    complete = np.array([episode["complete"] for episode in reply["episodes"]], bool)
    q, use = goal_proximity(scoring.gpm, columns["success"], columns["rewards"], columns["episode"], complete)
    if not use.any():
        raise ValueError(
            f"scoring {task.name}: no episode ended within score_env_steps {scoring.score_env_steps}, and gpm "
            f"{scoring.gpm!r} needs whole ones; use gpm 'step' or more steps"
        )
    labels = goal_labels(q[use])
    by_episode = None if scoring.gpm == "step" else columns["episode"][use]
    turned = np.packbits(turned_labels(labels, columns["env"][use], by_episode), axis=1)
    obs, used = columns["obs"], np.flatnonzero(use)
    size = CHUNK_IMAGES if isinstance(obs, StackedFrames) else CHUNK_STEPS
    chunks = []
    for start in range(0, len(used), size):
        rows = used[start : start + size]
        chunks.append(
            {
                "obs": obs.take(rows) if isinstance(obs, StackedFrames) else obs[rows],
                "actions": columns["actions"][rows],
                "labels": labels[start : start + size],
                "turned": turned[start : start + size],
            }
        )
    return LabelledRollout(chunks, float(labels.mean()), len(columns["rewards"]))
