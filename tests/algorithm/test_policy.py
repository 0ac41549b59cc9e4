"""A run's policy after a visit, loaded from its folder, plays what the run was judged by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rllib_nbsp import ContinualSACConfig, load_policy
from tests.algorithm.conftest import PAIR, finish, rows_of
from tests.tiny import short_run


@pytest.mark.parametrize(
    ("method", "keys"),
    [
        ("nbsp", {"score_env_steps": 200}),
        ("cotasp", {"distill_updates": 4, "alternate": [3, 2]}),
        ("packnet", {"retrain_updates": 5}),
        ("plasticity_injection", {}),
    ],
)
def test_a_loaded_policy_plays_the_episodes_of_the_visits_evaluation(
    method: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    finish(short_run(ContinualSACConfig().method(method, **keys), tmp_path))
    boundary = [row for row in rows_of(tmp_path, "evaluations.jsonl") if row["phase"] == "boundary"]
    for row in boundary:
        policy = load_policy(tmp_path, row["visit"])
        assert policy.tasks == PAIR
        played = policy.play(row["eval_task"], range(row["episodes"]))
        found = [(e["return"], e["length"], e["success"]) for e in played]
        assert found == [(e["return"], e["length"], e["success"]) for e in row["per_episode"]]
    assert load_policy(tmp_path).visit == 4
