"""Suites of tasks by the name that a config uses. Importing this starts no simulator."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from pydantic import create_model

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
from rllib_nbsp.envs.offset import OffsetSuite
from rllib_nbsp.envs.point_mass import PointMassSuite
from rllib_nbsp.registry import Registry
from rllib_nbsp.settings import CommonSettings, Settings

Common = TypeVar("Common", bound=CommonSettings)

SUITES: Registry[Suite] = Registry(
    "suite",
    {
        suite.name: suite
        for suite in (MetaWorldSuite(), AtariSuite(), PointMassSuite(), GymnasiumSuite(), OffsetSuite())
    },
)


def register_suite(suite: Suite) -> Suite:
    """Make a suite known by its name, and its section a part of every run's settings.

    Raises:
        ValueError: if another suite has that name.
    """
    return SUITES.register(suite.name, suite)


def with_suite_section(model: type[Common], suite: object) -> type[Common]:
    """A model of settings with the section that the suite of that name has, if it has one."""
    section = SUITES[suite].Config if isinstance(suite, str) and suite in SUITES else None
    return model if section is None else _extended(model, str(suite), section)


@functools.cache
def _extended(model: type[Any], name: str, section: type[Settings]) -> type[Any]:
    fields: dict[str, Any] = {name: (section, section())}
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)


def suite_of(settings: CommonSettings) -> Suite:
    """A run's suite, under the settings that the run has for it."""
    suite = SUITES[settings.suite]
    return suite if suite.Config is None else suite.configured(getattr(settings, suite.name))


__all__ = [
    "SUITES",
    "ActionSpace",
    "EnvironmentContractError",
    "EnvironmentFailure",
    "NonFiniteObservation",
    "NonFiniteReward",
    "Suite",
    "register_suite",
    "suite_of",
    "with_suite_section",
]
