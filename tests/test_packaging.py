"""The pinned versions and the ranges that they were chosen from agree."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rllib_nbsp

PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(pin.name): pin
    for line in Path("requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
    for pin in [Requirement(line)]
}


def test_every_requirement_is_pinned_to_one_version() -> None:
    for pin in PINS.values():
        [specifier] = pin.specifier
        assert specifier.operator == "==" and "*" not in specifier.version


def test_every_dependency_of_the_package_is_pinned_within_its_range() -> None:
    optional = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    for dependency in map(Requirement, [*PROJECT["dependencies"], *optional]):
        pin = PINS[canonicalize_name(dependency.name)]
        [specifier] = pin.specifier
        assert dependency.specifier.contains(specifier.version)
        assert dependency.extras == pin.extras


def test_the_package_names_the_version_of_the_project() -> None:
    assert PROJECT["version"] == rllib_nbsp.__version__
