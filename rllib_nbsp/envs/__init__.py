"""Suites of tasks by the name that a config uses. Importing this starts no simulator."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Any, TypeVar

from pydantic import create_model

from rllib_nbsp.envs.base import SUITES, ActionSpace, Suite, register_suite
from rllib_nbsp.envs.contract import (
    EnvironmentContractError,
    EnvironmentFailure,
    NonFiniteObservation,
    NonFiniteReward,
)
from rllib_nbsp.settings import CommonSettings, Settings

Common = TypeVar("Common", bound=CommonSettings)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def with_suite_section(model: type[Common], suite: object) -> type[Common]:
    """A model of settings with the section that the suite of that name has, if it has one."""
    found = SUITES.find(suite) if isinstance(suite, str) else None
    return model if found is None or found.Config is None else _extended(model, found.name, found.Config)


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
