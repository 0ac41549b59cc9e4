"""The wheels for a machine without a package index, on small ones made by hand: what is carried, slimmed, refused."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.gpu_wheels import HAVE, UNUSED, WheelsError, collect, main, missing, project_needs, read_have, slim

FILES = {
    "ray/__init__.py": "served = False\n",
    "ray/core/raylet": "#!/bin/sh\n",
    "ray/dashboard/head.py": "",
    "ray/dashboard/client/build/index.html": "<html>",
    "ray/jars/ray_dist.jar": "a jar",
    "ray/llm/__init__.py": "",
    "ray/serve/__init__.py": "",
    "ray/serve_schema.py": "",
}
KEPT = ["ray/__init__.py", "ray/core/raylet", "ray/dashboard/head.py", "ray/serve_schema.py"]


def make_wheel(
    folder: Path, name: str = "ray", version: str = "2.60.0", tag: str = "py3-none-any", size: int = 0
) -> Path:
    """A wheel as pip wants it; `size` random bytes make it large."""
    info = f"{name}-{version}.dist-info"
    files = {path: text.encode() for path, text in FILES.items()} if name == "ray" else {f"{name}.py": b""}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    files[f"{name}.bin"] = os.urandom(size)
    record = [f"{path},{hashed(content)},{len(content)}" for path, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, date_time=(2026, 1, 2, 3, 4, 6))
            entry.external_attr = (0o100755 if path == "ray/core/raylet" else 0o100644) << 16
            archive.writestr(entry, content)
    return wheel


def hashed(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def install(folder: Path, name: str, version: str, *requires: str) -> None:
    """What a package leaves for `importlib.metadata` to find."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {need}" for need in requires)]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))


def needs(*lines: str) -> list[Requirement]:
    return [Requirement(line) for line in lines]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip sees of the world."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


# The slimmed wheel


def test_a_slimmed_wheel_lacks_the_unused_files_and_its_record_their_lines(tmp_path):
    wheel = make_wheel(tmp_path)
    slim(wheel, UNUSED["ray"])
    info = "ray-2.60.0.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(
            [*KEPT, "ray.bin", f"{info}/METADATA", f"{info}/RECORD", f"{info}/WHEEL"]
        )
        rows = list(csv.reader(archive.read(f"{info}/RECORD").decode().splitlines()))
        assert sorted(row[0] for row in rows) == sorted(archive.namelist())
        for path, digest, size in rows:
            if not path.endswith("RECORD"):
                assert (digest, size) == (hashed(archive.read(path)), str(len(archive.read(path)))), path
        assert {entry.date_time for entry in archive.infolist()} == {(2026, 1, 2, 3, 4, 6)}
    assert [one.name for one in tmp_path.iterdir()] == [wheel.name]


def test_pip_installs_a_slimmed_wheel_and_servers_stay_executable(tmp_path, shelf):
    wheel, site = make_wheel(shelf), tmp_path / "site"
    slim(wheel, UNUSED["ray"])
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).returncode == 0
    assert sorted(str(one.relative_to(site)) for one in (site / "ray").rglob("*.py")) == [
        one for one in KEPT if one.endswith(".py")
    ]
    assert os.access(site / "ray/core/raylet", os.X_OK)
    assert not os.access(site / "ray/__init__.py", os.X_OK)


# What is carried


def test_all_that_is_needed_in_turn_is_carried_and_what_the_machine_has_is_not(tmp_path, monkeypatch):
    install(tmp_path, "Tower", "3.0", "brick>=1", "mortar", "crane; extra == 'lift'", "torch>=2")
    install(tmp_path, "brick", "1.5", "clay_pit", "tower")
    install(tmp_path, "clay-pit", "0.1")
    install(tmp_path, "crane", "2.0", "rope; python_version >= '3.12'", "hemp; python_version < '3.12'")
    install(tmp_path, "rope", "7")
    monkeypatch.syspath_prepend(tmp_path)
    have = {"mortar": None, "torch": "2.11.0"}
    assert missing(needs("tower"), have, "3.12") == {"brick": "1.5", "clay-pit": "0.1", "tower": "3.0"}
    assert missing(needs("brick", "tower[lift]"), {**have, "clay-pit": "9"}, "3.12") == {
        "brick": "1.5",
        "crane": "2.0",
        "rope": "7",
        "tower": "3.0",
    }


def test_a_package_that_is_too_old_there_is_carried(tmp_path, monkeypatch):
    install(tmp_path, "brick", "1.5")
    monkeypatch.syspath_prepend(tmp_path)
    assert missing(needs("brick>=1.2"), {"brick": "1.2"}, "3.12") == {}
    assert missing(needs("brick>=1.2"), {"brick": "1.1"}, "3.12") == {"brick": "1.5"}


def test_what_cannot_be_carried_is_said_with_who_needs_it(tmp_path, monkeypatch):
    install(tmp_path, "tower", "3.0", "no-such-brick>1; python_version >= '3.13'")
    monkeypatch.syspath_prepend(tmp_path)
    assert missing(needs("tower"), {}, "3.12") == {"tower": "3.0"}
    with pytest.raises(WheelsError, match=r"tower needs no-such-brick>1.* on Python 3.13, and it is not installed"):
        missing(needs("tower"), {}, "3.13")
    with pytest.raises(WheelsError, match=r"the project needs torch>=2.10, and the machine has 2.9.1"):
        missing(needs("torch>=2.10"), {"torch": "2.9.1"}, "3.12")


def test_the_project_on_a_machine_with_pytorch_needs_ray_and_never_pytorch():
    others, simulator = project_needs()
    carried = missing(others, HAVE, "3.12")
    assert {"ray", "gymnasium", "pydantic", "pydantic-core", "ale-py", "tensorboardx"} <= carried.keys()
    assert not carried.keys() & {"torch", "numpy", "pandas", "scipy", "metaworld", "mujoco"}
    assert {"metaworld", "mujoco"} <= missing(simulator, {**HAVE, **carried}, "3.12").keys()


def test_the_machines_packages_are_read_from_either_of_pips_lists(tmp_path):
    file = tmp_path / "list"
    file.write_text("Package    Version\n---------- -------\ntorch      2.11.0+cu130\nPyYAML     6.0.3\n\n")
    assert read_have(file) == {"torch": "2.11.0+cu130", "pyyaml": "6.0.3"}
    file.write_text("torch==2.11.0\nbrick @ file:///build/brick\n-e /src/tower\n# a note\nmpi4py\n")
    assert read_have(file) == {"torch": "2.11.0", "brick": None, "mpi4py": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [("torch==2.11.0\n??\n", "line 2 names no package"), ("numpy==2.5.2\n", "no torch there"), (None, "No such file")],
)
def test_a_list_that_is_none_is_refused(tmp_path, text, message):
    file = tmp_path / "list"
    if text:
        file.write_text(text)
    with pytest.raises(WheelsError, match=message):
        read_have(file)


# The folder


def test_the_folder_holds_wheels_of_that_python_with_ray_slimmed(tmp_path, shelf):
    whole = make_wheel(shelf)
    made_there = make_wheel(shelf, "brick", "1.5", "cp312-cp312-manylinux_2_17_x86_64", size=5_000)
    make_wheel(shelf, "brick", "1.5", "cp311-cp311-manylinux_2_17_x86_64")
    wheels = collect({"brick": "1.5", "ray": "2.60.0"}, tmp_path / "carried", "3.12")
    assert wheels == [tmp_path / "carried" / made_there.name, tmp_path / "carried" / whole.name]
    assert sorted((tmp_path / "carried").iterdir()) == wheels
    assert len(zipfile.ZipFile(wheels[1]).namelist()) == len(zipfile.ZipFile(whole).namelist()) - 4


def test_a_folder_too_large_is_not_made(tmp_path, shelf):
    make_wheel(shelf, "brick", "1.5", size=200_000)
    make_wheel(shelf, "rope", "7")
    with pytest.raises(WheelsError, match=r"carried would hold 0.2 MB, more than 0.1: brick-1.5-py3.* alone has 0.2"):
        collect({"brick": "1.5", "rope": "7"}, tmp_path / "carried", "3.12", most_mb=0.1)
    assert [one.name for one in tmp_path.iterdir()] == ["shelf"]


def test_a_package_without_a_wheel_for_the_machine_is_named(tmp_path, shelf):
    make_wheel(shelf, "brick", "1.5", "cp311-cp311-manylinux_2_17_x86_64")
    with pytest.raises(WheelsError, match=r"no wheel of brick==1.5 for CPython 3.12 on Linux"):
        collect({"brick": "1.5"}, tmp_path / "carried", "3.12")
    assert [one.name for one in tmp_path.iterdir()] == ["shelf"]


def test_no_index_is_said_in_one_line(tmp_path, shelf, monkeypatch, capsys):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    assert main([str(tmp_path / "carried")]) == 4
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: no package index can be reached")
    assert said.err.count("\n") == 1


def test_a_folder_in_use_is_left_as_it_is(tmp_path, capsys):
    (tmp_path / "old.whl").touch()
    assert main([str(tmp_path)]) == 4
    assert "is not empty" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["old.whl"]


def test_the_sizes_and_a_line_for_each_folder_are_printed(tmp_path, shelf, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.gpu_wheels.project_needs", lambda: (needs("ray"), needs("brick")))
    monkeypatch.setattr("benchmarks.gpu_wheels.HAVE", {})
    make_wheel(shelf)
    make_wheel(shelf, "brick", "1.5")
    install(tmp_path / "site", "ray", "2.60.0")
    install(tmp_path / "site", "brick", "1.5")
    monkeypatch.syspath_prepend(tmp_path / "site")
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([str(first), "--metaworld", str(second), "--target", "/srv/site"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"{first}: 1 wheels, 0.0 MB (ray 0.0)", f"{second}: 1 wheels, 0.0 MB (brick 0.0)"]
    for folder, line in zip((first, second), lines[3:], strict=True):
        assert line.startswith("python3 -m pip install ") and "--no-index --no-deps" in line
        assert line.endswith(f"--target /srv/site {folder}/*.whl && export PYTHONPATH=/srv/site")


@pytest.mark.parametrize("arguments", [["W", "--python", "cp312"], ["W", "--metaworld", "./W"], []])
def test_a_wrong_command_line_is_a_usage_error(arguments):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
