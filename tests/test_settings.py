"""What a run's settings add up to."""

from __future__ import annotations

import pytest

from rllib_nbsp.settings import RunSettings


@pytest.mark.parametrize(
    ("warmup_each_visit", "visits", "updates"),
    [
        (True, 0, 0),
        (True, 1, 0.25 * 900),
        (True, 4, 0.25 * 4 * 900),
        (False, 0, 0),
        (False, 1, 0.25 * 900),
        (False, 4, 0.25 * (4 * 1000 - 100)),
    ],
)
def test_updates_begin_after_the_warm_up_of_each_visit_or_of_the_first(warmup_each_visit, visits, updates):
    run = RunSettings.model_validate(
        {
            "suite": "point_mass",
            "tasks": ["a", "b"],
            "cycles": 2,
            "visit": {"max_env_steps": 1000, "warmup_env_steps": 100, "early_stop": None},
            "training": {"updates_per_env_step": 0.25},
            "boundary": {"warmup_each_visit": warmup_each_visit},
        }
    )
    assert run.num_visits == 4
    assert run.updates_within(visits) == int(updates)
