"""The versions that a study was begun with, beside those that go on with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rllib_nbsp.reading import read_json
from rllib_nbsp.records import PACKAGES, versions
from rllib_nbsp.settings import RunSettings

COMPARED = ("rllib_nbsp", *PACKAGES)


def check_versions(folder: Path, to_run: Sequence[RunSettings]) -> tuple[list[str], list[str]]:
    """What is refused, and what is only said, if results that stay are of other versions than those here, a line each.

    Seeds are averaged and arms compared, so that a change of a package can pass for an effect. Another first number, of
    a version that begins with 0 the second, may compute something else; others should not.
    """
    run = {Path(str(trial.results_dir)) for trial in to_run}
    here = versions()
    found: Counter[tuple[str, str]] = Counter()
    for file in sorted(folder.glob("*/*/seed_*/versions.json")):
        if file.parent not in run:
            found.update(_differing(file, here))
    refused: list[str] = []
    said: list[str] = []
    for (package, then), count in found.items():
        now = here.get(package, "not installed")
        line = f"{count} trials of {folder} were run with {package} {then}, and here is {now}"
        back = f"{package}=={then}" if package != "rllib_nbsp" else f"version {then} of this package"
        if _series(then) != _series(now):
            refused.append(f"--resume: {line}: install {back}, or use another --name")
        else:
            said.append(f"{line}; with {back} they are the same")
    return refused, said


def _differing(file: Path, here: Mapping[str, str]) -> list[tuple[str, str]]:
    try:
        then = read_json(file)
    except (OSError, ValueError):  # torn, which the analysis says
        return []
    if not isinstance(then, dict):
        return []
    return [(name, str(then[name])) for name in COMPARED if name in then and then[name] != here.get(name)]


def _series(version: str) -> list[str]:
    """The part of a version within which nothing is meant to change what is computed."""
    parts = version.split(".")
    return parts[:2] if parts[0] == "0" else parts[:1]
