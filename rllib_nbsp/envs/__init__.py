"""Suites of tasks by the name that a config uses. Importing this starts no simulator."""

from __future__ import annotations

from rllib_nbsp.envs.base import (
    EnvironmentContractError,
    EnvironmentFailure,
    NonFiniteObservation,
    NonFiniteReward,
    Suite,
)
from rllib_nbsp.envs.gymnasium import GymnasiumSuite
from rllib_nbsp.envs.metaworld import MetaWorldSuite
from rllib_nbsp.envs.point_mass import PointMassSuite

SUITES: dict[str, Suite] = {suite.name: suite for suite in (MetaWorldSuite(), PointMassSuite(), GymnasiumSuite())}

__all__ = [
    "SUITES",
    "EnvironmentContractError",
    "EnvironmentFailure",
    "NonFiniteObservation",
    "NonFiniteReward",
    "Suite",
]
