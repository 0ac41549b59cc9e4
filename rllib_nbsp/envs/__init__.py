"""Suites of tasks by the name that a config uses. Importing this starts no simulator."""

from __future__ import annotations

from rllib_nbsp.envs.atari import AtariSuite
from rllib_nbsp.envs.base import (
    ActionSpace,
    EnvironmentContractError,
    EnvironmentFailure,
    NonFiniteObservation,
    NonFiniteReward,
    Suite,
)
from rllib_nbsp.envs.gymnasium import GymnasiumSuite
from rllib_nbsp.envs.metaworld import MetaWorldSuite
from rllib_nbsp.envs.point_mass import PointMassSuite
from rllib_nbsp.settings import CommonSettings

SUITES: dict[str, Suite] = {
    suite.name: suite for suite in (MetaWorldSuite(), AtariSuite(), PointMassSuite(), GymnasiumSuite())
}


def suite_of(run: CommonSettings) -> Suite:
    """A run's suite, under the settings that the run has for it."""
    suite = SUITES[run.suite]
    return suite.configured(getattr(run, suite.section)) if suite.section else suite


__all__ = [
    "SUITES",
    "ActionSpace",
    "EnvironmentContractError",
    "EnvironmentFailure",
    "NonFiniteObservation",
    "NonFiniteReward",
    "Suite",
    "suite_of",
]
