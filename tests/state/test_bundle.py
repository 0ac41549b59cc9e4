"""Bundles: written whole or not at all, read whole or not at all, and as cheap as what is new."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rllib_nbsp.state import bundle as bundles
from rllib_nbsp.state.bundle import KEPT, SEGMENT_ROWS, BundleWriter, Series, list_bundles, newest, read_bundle
from rllib_nbsp.state.packing import StateError

IDENTITY = {"config_hash": "0123456789ab"}


def numbered(first: int, end: int, generation: int = 0, name: str = "current") -> Series:
    return Series(name, generation, first, end, lambda a, b: {"number": np.arange(a, b) + 1000 * generation})


def write(root: Path, env_steps: int, *series: Series, writer: BundleWriter | None = None, **parts: Any) -> Path:
    return (writer or BundleWriter(root)).write(env_steps, IDENTITY, parts or {"driver": {"x": 1}}, series)


def test_a_bundle_is_read_as_it_was_written(tmp_path):
    path = write(tmp_path, 120, numbered(5, 2 * SEGMENT_ROWS + 7), numbered(0, 0, name="prior"), agent={"w": np.eye(2)})
    assert path.name == "bundle_000000000120"
    read = read_bundle(path)
    assert (read.env_steps, read.identity, read.first["current"]) == (120, IDENTITY, 5)
    assert read.parts["agent"]["w"].tolist() == [[1, 0], [0, 1]]
    assert np.array_equal(read.series["current"]["number"], np.arange(5, 2 * SEGMENT_ROWS + 7))
    assert read.series["prior"] == {}


def files(root: Path) -> dict[Path, int]:
    return {file: file.stat().st_ino for file in root.rglob("*") if file.is_file()}


def test_a_second_bundle_writes_what_is_new(tmp_path):
    writer = BundleWriter(tmp_path)
    write(tmp_path, 1, numbered(0, 3 * SEGMENT_ROWS + 10), writer=writer)
    before = files(tmp_path / "segments")
    write(tmp_path, 2, numbered(SEGMENT_ROWS + 5, 3 * SEGMENT_ROWS + 20), writer=writer)
    after = files(tmp_path / "segments")
    # The stretch of which the first rows have left, and the one to which rows were added.
    assert len(after.items() - before.items()) == 2
    assert np.array_equal(
        read_bundle(list_bundles(tmp_path)[-1]).series["current"]["number"],
        np.arange(SEGMENT_ROWS + 5, 3 * SEGMENT_ROWS + 20),
    )


def test_a_process_that_goes_on_writes_no_segment_again(tmp_path):
    path = write(tmp_path, 1, numbered(0, 2 * SEGMENT_ROWS))
    before = files(tmp_path / "segments")
    writer = BundleWriter(tmp_path)
    writer.go_on_from(path)
    write(tmp_path, 2, numbered(0, 2 * SEGMENT_ROWS), writer=writer)
    assert files(tmp_path / "segments") == before


def test_rows_of_another_generation_are_others(tmp_path):
    writer = BundleWriter(tmp_path)
    write(tmp_path, 1, numbered(0, 10), writer=writer)
    path = write(tmp_path, 2, numbered(0, 10, generation=1), writer=writer)
    assert read_bundle(path).series["current"]["number"][0] == 1000


def test_the_last_bundles_stay_and_nothing_else(tmp_path):
    writer = BundleWriter(tmp_path)
    for step in range(1, 6):
        write(tmp_path, step, numbered(0, step), writer=writer)
    assert [path.name[-1] for path in list_bundles(tmp_path)] == ["4", "5"]
    assert len(list((tmp_path / "segments").iterdir())) == KEPT
    assert not list(tmp_path.glob(".building-*"))


def test_a_bundle_of_a_run_that_went_back_takes_the_place_of_the_old_one(tmp_path):
    write(tmp_path, 7, agent={"x": 1})
    assert read_bundle(write(tmp_path, 7, agent={"x": 2})).parts["agent"] == {"x": 2}


def damage(file: Path, kind: str) -> None:
    content = bytearray(file.read_bytes())
    if kind == "missing":
        file.unlink()
    elif kind == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize("kind", ["missing", "cut", "one bit"])
@pytest.mark.parametrize("file", ["manifest.json", "driver.json", "driver.npz", "segment"])
def test_of_a_damaged_bundle_the_file_is_named_and_the_one_before_counts(file, kind, tmp_path):
    writer = BundleWriter(tmp_path)
    good = write(tmp_path, 1, numbered(0, 5), writer=writer)
    bad = write(tmp_path, 2, numbered(0, 6), writer=writer, driver={"w": np.arange(100)})
    manifest = json.loads((bad / "manifest.json").read_text())
    segment = tmp_path / "segments" / f"{manifest['series']['current'][0]['sha256']}.npz"
    path = segment if file == "segment" else bad / file
    damage(path, kind)
    with pytest.raises(StateError) as caught:
        read_bundle(bad)
    assert str(path) in str(caught.value)
    found, errors = newest(tmp_path)
    assert found is not None and found.path == good
    assert [str(error) for error in errors] == [str(caught.value)]


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"env_steps": -1},
        {"parts": {"../../etc/passwd": {}}},
        {"parts": {"/etc/passwd": {}}},
        {"parts": {"driver": {"json_file": {"bytes": 1, "sha256": "../x"}, "npz_file": {"bytes": 1, "sha256": "0"}}}},
        {"series": {"current": [{"bytes": 1, "sha256": "0" * 64, "generation": 0, "first": 5, "end": 5}]}},
        {"more": 1},
    ],
)
def test_a_manifest_of_another_form_is_refused(change, tmp_path):
    path = write(tmp_path, 1)
    file = path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(StateError, match=f"^{file}: "):
        read_bundle(path)


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    writer = BundleWriter(tmp_path)
    good = write(tmp_path, 1, numbered(0, 5), writer=writer)
    count = 0

    def full(file: Path, content: bytes) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        file.write_bytes(content)

    monkeypatch.setattr(bundles, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 2, numbered(0, 6), writer=writer)
    found, errors = newest(tmp_path)
    assert found is not None and (found.path, errors) == (good, [])
    assert not list(tmp_path.glob(".building-*"))


@pytest.mark.parametrize("after", range(1, 6))
def test_a_kill_between_two_writes_leaves_a_valid_bundle(after, tmp_path, monkeypatch):
    writer = BundleWriter(tmp_path)
    write(tmp_path, 1, numbered(0, 5), writer=writer)
    pid = os.fork()
    if pid == 0:  # the process that dies
        left, real = after, bundles._write

        def dying(file: Path, content: bytes) -> None:
            nonlocal left
            left -= 1
            real(file, content[: len(content) // 2] if left == 0 else content)
            if left == 0:
                os.kill(os.getpid(), 9)

        bundles._write = dying
        write(tmp_path, 2, numbered(0, 6), writer=writer)
        os._exit(0)
    os.waitpid(pid, 0)
    found, errors = newest(tmp_path)
    assert found is not None and errors == []
    path = write(tmp_path, 3, numbered(0, 7), writer=writer)
    assert not list(tmp_path.glob(".building-*"))
    assert len(read_bundle(path).series["current"]["number"]) == 7


def test_a_folder_without_bundles_has_none(tmp_path):
    assert newest(tmp_path / "nowhere") == (None, [])
