"""What a run's evaluations have measured so far, as the result of an iteration says it: what a search can use."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rllib_nbsp.curriculum import Curriculum
from rllib_nbsp.metrics import average_success, final_success, forgetting, forward_transfer

SO_FAR = ("asr", "fm", "fwt", "final_success")
"""Metrics over the visits that are over (`rllib_nbsp.metrics`); `final_success` is that after the last one."""
OVERALL = ("episode_return_mean", "episode_return_min", "episode_return_max", "episode_len_mean", "num_episodes")
"""RLlib's names for the episodes of all tasks together."""


class Outcomes:
    """The last evaluation, and the metrics over the visits that are over.

    `result` has every key from the first iteration on, NaN until it is measured: Tune refuses a result without the
    metric that it was told to look at, and its CSV file has the columns of the first result alone.

    Args:
        curriculum: the tasks and visits.
        has_success: whether the tasks say when they are solved; without, there are returns alone.
    """

    def __init__(self, curriculum: Curriculum, has_success: bool) -> None:
        self._has_success = has_success
        self._tasks = [task.name for task in curriculum.tasks]
        self._order = [visit.task.index for visit in curriculum.visits]
        measures = ("success_rate", "mean_return", "episodes")[not has_success :]
        self._last = {
            "env_runners": dict.fromkeys(OVERALL, math.nan),
            **{task: dict.fromkeys(measures, math.nan) for task in self._tasks},
        }
        self._success: list[list[float]] = []  # after each visit, of each task

    def add(self, evaluation: dict[str, Any], *, boundary: bool) -> None:
        """Take an evaluation, as `evaluation_result` has it; one at a boundary counts in the metrics."""
        self._last = {**self._last, **evaluation}  # a task that was left out keeps its last result
        if boundary and self._has_success:
            self._success.append([evaluation[task]["success_rate"] for task in self._tasks])

    def result(self) -> dict[str, Any]:
        """`evaluation`, as `evaluation_result` has it, and, where tasks have success, the metrics of `SO_FAR`."""
        return {"evaluation": copy.deepcopy(self._last), **(self._metrics() if self._has_success else {})}

    def _metrics(self) -> dict[str, float]:
        if not self._success:
            return dict.fromkeys(SO_FAR, math.nan)
        order = self._order[: len(self._success)]
        values = [metric(self._success, order) for metric in (average_success, forgetting, forward_transfer)]
        return dict(zip(SO_FAR, map(float, [*values, final_success(self._success)]), strict=True))

    def get_state(self) -> dict[str, Any]:
        """Numbers, lists and dicts alone."""
        return copy.deepcopy({"last": self._last, "success": self._success})

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._last, self._success = copy.deepcopy((state["last"], state["success"]))


def evaluation_result(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An evaluation as RLlib returns one.

    Args:
        rows: what `sampling.evaluation.evaluate_tasks` gives.

    Returns:
        `env_runners` with the names of `OVERALL`, over the episodes of all tasks, and for each task its
        `success_rate`, if it has one, `mean_return` and `episodes`.
    """
    returns, lengths = (
        np.array([episode[name] for row in rows for episode in row["per_episode"]]) for name in ("return", "length")
    )
    overall = (returns.mean(), returns.min(), returns.max(), lengths.mean())
    tasks = {
        row["eval_task"]: {
            **({} if row["success_rate"] is None else {"success_rate": row["success_rate"]}),
            "mean_return": row["mean_return"],
            "episodes": row["episodes"],
        }
        for row in rows
    }
    return {"env_runners": dict(zip(OVERALL, [*map(float, overall), len(returns)], strict=True)), **tasks}
