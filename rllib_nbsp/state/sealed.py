"""Checkpoints whose files are all there and as they were written: RLlib by itself restores from what it finds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyarrow import fs

from rllib_nbsp.state.packing import StateError, read_json

SEAL = "files.json"
"""The SHA-256 of every other file of a checkpoint."""


def seal(folder: Path) -> None:
    """Note every file of a folder."""
    files = {name: _digest(path) for name, path in _files(folder).items()}
    (folder / SEAL).write_text(json.dumps(files, indent=1) + "\n")


def check_seal(folder: Path) -> None:
    """See that a folder's files are those that were sealed.

    Raises:
        StateError: naming the file that is missing, damaged, or was not there.
    """
    file = folder / SEAL
    if not file.is_file():
        raise StateError(f"{file} is missing: {folder} is no checkpoint of ours, or half of one")
    sealed, found = read_json(file.read_bytes(), str(file)), _files(folder)
    if not isinstance(sealed, dict):
        raise StateError(f"{file}: not a list of files")
    for name in sorted(sealed.keys() ^ found.keys()):
        raise StateError(f"{folder / name}: {'missing' if name in sealed else 'no part of the checkpoint'}")
    for name, path in found.items():
        if sealed[name] != _digest(path):
            raise StateError(f"{path}: damaged: its SHA-256 is not the one that was written")


def _files(folder: Path) -> dict[str, Path]:
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / SEAL
    }


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def written_to(path: str | Path | None, filesystem: Any) -> Iterator[tuple[Path, str]]:
    """A local folder to write to, which goes to where RLlib is told to write, and that place's name."""
    path = Path(tempfile.gettempdir()) / uuid.uuid4().hex if path is None else path
    filesystem, place = _place(path, filesystem)
    if isinstance(filesystem, fs.LocalFileSystem):
        yield Path(place), place
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), place
        fs.copy_files(folder, place, destination_filesystem=filesystem)


@contextlib.contextmanager
def read_from(path: str | Path, filesystem: Any) -> Iterator[Path]:
    """A local folder with what is at a place that RLlib is told to read.

    Raises:
        StateError: if there is nothing.
    """
    filesystem, place = _place(path, filesystem)
    if filesystem.get_file_info(place).type != fs.FileType.Directory:
        raise StateError(f"{path}: there is no such checkpoint")
    if isinstance(filesystem, fs.LocalFileSystem):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory() as folder:
        fs.copy_files(place, folder, source_filesystem=filesystem)
        yield Path(folder)


def _place(path: str | Path, filesystem: Any) -> tuple[Any, str]:
    """Where a path leads: a relative one is local."""
    if filesystem is not None:
        return filesystem, str(path)
    if "://" not in str(path):
        return fs.LocalFileSystem(), str(Path(path).expanduser().absolute())
    return fs.FileSystem.from_uri(str(path))
