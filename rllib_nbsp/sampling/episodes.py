"""What is told of an episode: its return, its length, whether it solved its task."""

from __future__ import annotations

from typing import Any

import numpy as np

from rllib_nbsp.sampling.vector import VectorStep

Rows = dict[str, Any]
"""Columns of rows: arrays, or stacks of frames that are not unpacked."""
EpisodeSummary = dict[str, Any]


class EpisodeTally:
    """Return, length and success of the episodes that are running in a vector.

    Where the suite alters training environments, rewards do not add up to a return, and an end may not be the game's:
    then an episode is what the environment itself reports one of.
    """

    def __init__(self, num_envs: int, *, altered: bool = False) -> None:
        self._altered = altered
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self._success = np.zeros(num_envs, bool)

    def add(self, step: VectorStep) -> list[tuple[int, EpisodeSummary]]:
        """Take a step in; returns (sub-environment, summary) of the episodes that it ended."""
        for e in step.restarted:
            self._clear(e)
        self._returns += step.rewards
        self._lengths += 1
        self._success |= step.success
        summaries = []
        for e in step.ended:
            if self._altered and e not in step.own_returns:
                continue
            summary = {
                "return": step.own_returns[e] if self._altered else float(self._returns[e]),
                "length": int(self._lengths[e]),
                "success": bool(self._success[e]),
                "final_success": bool(step.success[e]),
            }
            summaries.append((e, summary))
            self._clear(e)
        return summaries

    def _clear(self, e: int) -> None:
        self._returns[e] = 0.0
        self._lengths[e] = 0
        self._success[e] = False


def rollout_summaries(rows: Rows) -> list[EpisodeSummary]:
    """Summaries of episodes 0, 1, ... of a rollout's rows; `complete`: the rows have the episode's end."""
    episode = rows["episode"]
    num = int(episode.max()) + 1
    final = np.zeros((2, num), bool)
    final[:, episode] = rows["success"], rows["done"]  # an episode's rows are in order of time: the last one stays
    returns = np.bincount(episode, rows["rewards"], num)
    lengths = np.bincount(episode, minlength=num)
    solved = np.bincount(episode, rows["success"], num) > 0
    return [
        {
            "episode": i,
            "return": float(returns[i]),
            "length": int(lengths[i]),
            "success": bool(solved[i]),
            "final_success": bool(final[0, i]),
            "complete": bool(final[1, i]),
        }
        for i in range(num)
    ]
