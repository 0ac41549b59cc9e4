"""The pinned versions and the ranges that they were chosen from agree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
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
    tested = [line for line in optional if canonicalize_name(Requirement(line).name) in PINS]
    assert tested
    for dependency in map(Requirement, [*PROJECT["dependencies"], *tested]):
        pin = PINS[canonicalize_name(dependency.name)]
        [specifier] = pin.specifier
        assert dependency.specifier.contains(specifier.version)
        assert dependency.extras == pin.extras


def test_the_version_is_said_once() -> None:
    assert "version" in PROJECT["dynamic"] and re.fullmatch(r"\d+\.\d+\.\d+", rllib_nbsp.__version__)


@pytest.mark.slow
def test_a_wheel_holds_package_analysis_and_presets_and_takes_no_other_name(tmp_path: Path) -> None:
    # Of a copy, as caches of this folder are no part of a checkout.
    source = tmp_path / "source"
    shutil.copytree(Path.cwd(), source, ignore=shutil.ignore_patterns(".*", "results", "build", "__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(source)]
    subprocess.run(command, check=True, timeout=250)
    (wheel,) = tmp_path.glob("rllib_nbsp-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"rllib_nbsp", f"rllib_nbsp-{rllib_nbsp.__version__}.dist-info"}
    presets = [path.relative_to("tune_configs").as_posix() for path in Path("tune_configs").rglob("*.yaml")]
    assert {f"rllib_nbsp/tune_configs/{name}" for name in presets} <= {*names}
    assert {"rllib_nbsp/py.typed", "rllib_nbsp/analysis/report.py", "rllib_nbsp/analysis/report.html.j2"} <= {*names}
    (entries,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "rllib-nbsp = rllib_nbsp.cli:main" in zipfile.ZipFile(wheel).read(entries).decode()
