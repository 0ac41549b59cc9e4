"""Which episodes an evaluation plays, and what its rows say."""

from __future__ import annotations

from typing import Any

from rllib_nbsp.curriculum import Task
from rllib_nbsp.sampling.evaluation import evaluate_tasks
from rllib_nbsp.sampling.rollout_workers import RolloutWorkers
from rllib_nbsp.settings import EvaluationSettings


class LocalWorker(RolloutWorkers):
    """The local worker alone; it plays episode i in 10 + i steps, for a return of i, and solves the odd ones."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    @property
    def local(self) -> LocalWorker:
        return self

    @property
    def healthy(self) -> list[int]:
        return []

    def evaluate(self, *, task: str, version: int, episode_indices: list[int], explore: bool) -> dict[str, Any]:
        self.asked.append(list(episode_indices))
        return {
            "episodes": [
                {"return": i, "length": 10 + i, "success": i % 2 == 1, "final_success": False} for i in episode_indices
            ]
        }


def evaluated(**keys: Any) -> tuple[list[list[int]], dict[str, Any]]:
    worker = LocalWorker()
    settings = EvaluationSettings(num_envs=2)
    (row,) = evaluate_tasks(worker, [Task(0, "a")], episodes=3, version=1, settings=settings, **keys)
    return worker.asked, row


def test_so_many_episodes():
    asked, row = evaluated()
    assert asked == [[0, 1, 2]]
    assert (row["episodes"], row["success_rate"], row["mean_return"]) == (3, 1 / 3, 1.0)


def test_rounds_of_whole_episodes_until_there_are_enough_steps():
    # Rounds of 2 environments: 10 + 11 = 21 steps, then 12 + 13 more make 46.
    asked, row = evaluated(env_steps=45)
    assert asked == [[0, 1], [2, 3]]
    assert row["episodes"] == len(row["per_episode"]) == 4
    assert sum(e["length"] for e in row["per_episode"]) == 46
    assert evaluated(env_steps=21)[0] == [[0, 1]]
    assert evaluated(env_steps=47)[0] == [[0, 1], [2, 3], [4, 5]]


def test_where_tasks_have_no_success_the_row_has_none_and_not_0():
    _, row = evaluated(has_success=False)
    assert row["success_rate"] is None
    assert [e["success"] for e in row["per_episode"]] == [None] * 3
    assert row["mean_return"] == 1.0
