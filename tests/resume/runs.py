"""The runs that the tests of this folder kill: small ones of every method, and real environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rllib_nbsp import ContinualSACConfig
from tests.methods.contract import KEYS
from tests.tiny import build_config, short_run


def point_mass(folder: Path, method: str, **resources: Any) -> ContinualSACConfig:
    """Four short visits, under keys with which a method does all that it does."""
    config = short_run(build_config(method, KEYS.get(method)), folder).state(every_env_steps=60)
    config.evaluation(mechanism_rows=1)  # every row depends on the one before it
    return config.env_runners(**resources) if resources else config


def metaworld(folder: Path, method: str) -> ContinualSACConfig:
    """Four visits of a real pair; an episode is 500 steps."""
    return (
        point_mass(folder, method)
        .curriculum(suite="metaworld", tasks=["window-close-v3", "drawer-close-v3"], visit_env_steps=700)
        .training(updates_per_env_step=0.05)
        .evaluation(periodic_episodes=0, boundary_episodes=1, num_envs=1, report_env_steps=250)
        .state(every_env_steps=300)
    )


def game(folder: Path, method: str) -> ContinualSACConfig:
    """Three visits of a real game, whose observations are stacks of frames."""
    config = (
        point_mass(folder, method)
        .curriculum(suite="atari", tasks=["Breakout"], cycles=3, visit_env_steps=200, warmup_env_steps=60)
        .networks(hidden=[16], conv=[[4, 8, 4], [6, 4, 2]])
        .training(updates_per_env_step=0.1, batch_size=8)
        .evaluation(periodic_episodes=0, boundary_episodes=1, num_envs=1, deterministic=False, report_env_steps=60)
        .state(every_env_steps=60)
    )
    return config.training(gpm="return") if method == "nbsp" else config
