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
from rllib_nbsp.envs.point_mass import PointMassSuite
from rllib_nbsp.registry import Registry
from rllib_nbsp.settings import CommonSettings, Settings

Common = TypeVar("Common", bound=CommonSettings)

SUITES: Registry[Suite] = Registry(
    "suite", {suite.name: suite for suite in (MetaWorldSuite(), AtariSuite(), PointMassSuite(), GymnasiumSuite())}
)


def register_suite(suite: Suite) -> Suite:
    """Make a suite known by its name, and its section a part of every run's settings.

    Raises:
        ValueError: if another suite has that name.
    """
    return SUITES.register(suite.name, suite)


def suite_sections() -> dict[str, type[Settings]]:
    """The sections that suites bring, by their names."""
    return {name: suite.Config for name, suite in SUITES.items() if suite.Config is not None}


def with_suite_sections(model: type[Common]) -> type[Common]:
    """A model of settings with a section for each suite that has one."""
    return _extended(model, tuple(suite_sections().items()))


@functools.cache
def _extended(model: type[Any], sections: tuple[tuple[str, type[Settings]], ...]) -> type[Any]:
    fields: dict[str, Any] = {name: (section, section()) for name, section in sections}
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
    "suite_sections",
    "with_suite_sections",
]
