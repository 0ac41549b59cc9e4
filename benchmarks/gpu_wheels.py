"""Wheels for a GPU machine that has PyTorch and no package index: all that `rllib_nbsp` needs and that machine lacks.

    python -m benchmarks.gpu_wheels FOLDER [--metaworld FOLDER] [--python 3.12] [--have FILE] [--target SITE]

FOLDER gets wheels of exactly the versions that are installed here, for CPython on Linux (x86-64), with Ray's wheel
slimmed by half; Meta-World and its simulator are as large again and go to a folder of their own. What the machine has
already is `HAVE`, or what `python3 -m pip list` printed there: such packages are carried only where the version named
is outside what needs it. The last lines printed install the folders there. A folder is made whole or not at all.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MB = 1_000_000
MOST_MB = 55
"""Of one folder, so that one can be sent where little fits."""

TORCH = "torch"
METAWORLD = "metaworld"
PROJECT = Path(__file__).parents[1] / "pyproject.toml"

SEEN = """
    absl-py attrs click cloudpickle filelock fsspec jinja2 matplotlib msgpack numpy==2.5.2 packaging pandas pillow
    protobuf pyarrow pyyaml requests rich scikit-learn scipy setuptools torch==2.11.0 wrapt zipp
"""
HAVE: dict[str, str | None] = {
    canonicalize_name(name): version or None for name, _, version in (one.partition("==") for one in SEEN.split())
}
"""What we need of what a machine with PyTorch 2.11 on Python 3.12 had, with versions where we know them. Small packages
that such a machine need not have, or may have too old (`typing-extensions`), are carried all the same."""

UNUSED = {"ray": re.compile(r"ray/(jars|dashboard/client|serve|llm)/")}
"""Files that no trial reads: Ray's Java, the pages of its dashboard, serving, language models."""

NEWEST_GLIBC = 28
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(NEWEST_GLIBC, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
"""Tags of wheels that run on any x86-64 Linux with glibc 2.28 or later; pip takes each literally."""

OFFLINE = "--no-index --no-deps --no-compile --no-cache-dir --upgrade"


class WheelsError(RuntimeError):
    """The wheels cannot be had, or are no use there; the message is one line."""


# What is needed


def project_needs() -> tuple[list[Requirement], list[Requirement]]:
    """The project's dependencies, Meta-World apart from the others."""
    needs = [Requirement(line) for line in tomllib.loads(PROJECT.read_text())["project"]["dependencies"]]
    return [one for one in needs if one.name != METAWORLD], [one for one in needs if one.name == METAWORLD]


def read_have(file: Path) -> dict[str, str | None]:
    """What `pip list` or `pip freeze` printed: names, and versions where a line has one.

    Raises:
        WheelsError: if the file cannot be read, or is no such list.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WheelsError(f"--have {file}: {getattr(error, 'strerror', None) or error}") from error
    have: dict[str, str | None] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith(("Package ", "-----", "#", "-e ")):
            continue
        found = re.match(r"([A-Za-z0-9][\w.-]*)\s*(?:$|@|(?:==|\s)\s*(\d\S*))", line)
        if not found:
            raise WheelsError(f"--have {file}: line {number} names no package: {line.strip()[:60]}")
        have[canonicalize_name(found[1])] = found[2]
    if TORCH not in have:
        raise WheelsError(f"--have {file}: no {TORCH} there; the machine's own build is used, and none is carried")
    return have


def missing(needs: Iterable[Requirement], have: Mapping[str, str | None], python: str) -> dict[str, str]:
    """Names and versions, as installed here, of all that these needs need in turn and the machine does not have.

    Args:
        needs: what to begin with.
        have: the machine's packages; one without a version is taken to be new enough.
        python: the machine's Python, as "3.12".
    Raises:
        WheelsError: if something is needed there that is not installed here, or PyTorch there is too old.
    """
    there = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    there |= {"platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(one, "the project") for one in needs]
    while todo:
        need, whose = todo.pop()
        name = canonicalize_name(need.name)
        version = have.get(name)
        if name in have and (version is None or need.specifier.contains(version, prereleases=True)):
            continue
        if name == TORCH:
            raise WheelsError(f"{whose} needs {need}, and the machine has {version}, which no carried wheel can mend")
        try:
            ours = distribution(name)
        except PackageNotFoundError:
            raise WheelsError(f"{whose} needs {need} on Python {python}, and it is not installed here") from None
        found[name] = ours.version
        extras = {("" if not extra else canonicalize_name(extra)) for extra in ("", *need.extras)}
        new = {extra for extra in extras if (name, extra) not in seen}
        seen |= {(name, extra) for extra in new}
        for inner in map(Requirement, ours.requires or []):
            if any(inner.marker is None or inner.marker.evaluate({**there, "extra": extra}) for extra in new):
                todo.append((inner, name))
    return dict(sorted(found.items()))


# The wheels


def download(pins: Mapping[str, str], folder: Path, python: str) -> None:
    """Have pip fetch a wheel of each, for that Python on Linux.

    Raises:
        WheelsError: if no index answers, or it has no such wheel.
    """
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--retries", "1"]
    command += ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    command += ["-d", str(folder), *(f"{name}=={version}" for name, version in pins.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return
    if re.search(r"connection broken|Could not fetch URL|Temporary failure|Retrying \(", done.stderr):
        raise WheelsError("no package index can be reached: the wheels are collected where pip works, then carried")
    if absent := re.search(r"No matching distribution found for (\S+)", done.stderr):
        raise WheelsError(f"there is no wheel of {absent[1]} for CPython {python} on Linux (x86-64), up to glibc 2.28")
    last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")][-1:] or [f"exit {done.returncode}"]
    raise WheelsError(f"pip download failed: {last[0].removeprefix('ERROR: ')}")


def slim(wheel: Path, unused: re.Pattern[str]) -> None:
    """Write a wheel anew without these files, and its RECORD without their lines."""
    slimmed = wheel.with_suffix(".slimmed")
    with (
        zipfile.ZipFile(wheel) as whole,
        zipfile.ZipFile(slimmed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as fewer,
    ):
        for entry in whole.infolist():
            if unused.match(entry.filename):
                continue
            content = whole.read(entry)
            if re.fullmatch(r"[^/]+\.dist-info/RECORD", entry.filename):
                lines = io.StringIO()
                kept = (row for row in csv.reader(io.StringIO(content.decode())) if not unused.match(row[0]))
                csv.writer(lines, lineterminator="\n").writerows(kept)
                content = lines.getvalue().encode()
            # The copied entry keeps the date and the mode: Ray's servers are executables.
            fewer.writestr(copy.copy(entry), content, zipfile.ZIP_DEFLATED, compresslevel=9)
    slimmed.replace(wheel)


def collect(pins: Mapping[str, str], folder: Path, python: str, most_mb: float = MOST_MB) -> list[Path]:
    """Make the folder of these wheels, slimmed; returns them, the largest first.

    Raises:
        WheelsError: of `download`, or if the folder is in use or would be larger than `most_mb`.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WheelsError(f"{folder} is not empty, and pip takes no two versions of a package: remove or rename it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
        fresh = Path(made)
        download(pins, fresh, python)
        for wheel in fresh.glob("*.whl"):
            if unused := UNUSED.get(canonicalize_name(wheel.name.split("-")[0])):
                slim(wheel, unused)
        wheels = sorted(fresh.glob("*.whl"), key=lambda wheel: -wheel.stat().st_size)
        if (size := size_mb(wheels)) > most_mb:
            largest = f"{wheels[0].name} alone has {size_mb(wheels[:1]):.1f}"
            raise WheelsError(f"{folder} would hold {size:.1f} MB, more than {most_mb:g}: {largest}")
        folder.mkdir(exist_ok=True)
        return [Path(shutil.move(wheel, folder / wheel.name)) for wheel in wheels]


def size_mb(files: Iterable[Path]) -> float:
    """Of all together, in units of 10^6 bytes."""
    return sum(file.stat().st_size for file in files) / MB


# The command line


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_wheels", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the new folder of wheels")
    parser.add_argument("--metaworld", type=Path, metavar="FOLDER", help="a second one, for Meta-World and MuJoCo")
    parser.add_argument("--python", default="3.12", metavar="VERSION", help="the machine's (default %(default)s)")
    parser.add_argument("--have", type=Path, metavar="FILE", help="what `python3 -m pip list` prints there")
    parser.add_argument("--target", default="/tmp/site", metavar="SITE", help="where they go there (%(default)s)")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"3\.\d+", options.python):
        parser.error(f"--python is {options.python!r}; a version is like 3.12")
    if options.metaworld and options.metaworld.resolve() == options.folder.resolve():
        parser.error("--metaworld needs a folder of its own")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, print the sizes and how to install. Returns the exit code: 0, or 4 if there is nothing to carry."""
    options = parse(arguments)
    try:
        have = read_have(options.have) if options.have else HAVE
        needs, simulator = project_needs()
        first = missing(needs, have, options.python)
        plan = {options.folder: first}
        if options.metaworld:
            plan[options.metaworld] = missing(simulator, {**have, **first}, options.python)
        for folder, pins in plan.items():
            wheels = collect(pins, folder, options.python)
            largest = ", ".join(f"{one.name.split('-')[0]} {size_mb([one]):.1f}" for one in wheels[:3])
            print(f"{folder}: {len(wheels)} wheels, {size_mb(wheels):.1f} MB ({largest})")
    except WheelsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    print("There, in the project's root, a line for each folder:")
    for folder in plan:
        install = f"python3 -m pip install -q {OFFLINE} --target {options.target} {folder}/*.whl"
        print(f"{install} && export PYTHONPATH={options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
