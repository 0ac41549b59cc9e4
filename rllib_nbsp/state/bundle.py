"""Bundles: what a run goes on from, each a folder whose manifest is written last.

    state/
      bundle_000000120000/     named by the environment step
        manifest.json          identity, files and segments with their SHA-256
        NAME.json  NAME.npz    a part of the state (`packing.py`)
      segments/<sha256>.npz    stretches of a store's rows, which bundles share

A store's rows have ever-growing numbers, and a stretch of them, once complete, is written once: a bundle costs what is
new. A bundle is read whole and verified before anybody may use it, and the newest that is valid counts.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, field_validator

from rllib_nbsp.state.packing import MOST_JSON_BYTES, StateError, pack, pack_arrays, read_json, unpack, unpack_arrays

KEPT = 2
"""Bundles that stay: should the newest be damaged, the run goes on from the one before."""
SEGMENT_ROWS = 10_000
MANIFEST = "manifest.json"
NAME = re.compile(r"bundle_(\d{12})")
Columns = dict[str, np.ndarray]


class Written(BaseModel):
    """A file as it was written."""

    model_config = ConfigDict(extra="forbid", strict=True)
    bytes: NonNegativeInt
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @classmethod
    def of(cls, content: builtins.bytes) -> Written:
        """A file of this content."""
        return cls(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


class Segment(Written):
    """Rows of a series from one number to before another, in a file named by its SHA-256."""

    generation: NonNegativeInt
    first: NonNegativeInt
    end: NonNegativeInt


class Part(BaseModel):
    """A part of the state: `NAME.json` and `NAME.npz`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    json_file: Written
    npz_file: Written


Name = Annotated[str, Field(pattern=r"^[a-z_]+$")]


class Manifest(BaseModel):
    """What a bundle is made of."""

    model_config = ConfigDict(extra="forbid", strict=True)
    schema_version: Literal[1] = 1
    env_steps: NonNegativeInt
    identity: dict[str, Any]
    parts: dict[Name, Part]
    series: dict[Name, list[Segment]]

    @field_validator("series")
    @classmethod
    def _follow_each_other(cls, series: dict[str, list[Segment]]) -> dict[str, list[Segment]]:
        for name, segments in series.items():
            ends = [segment.first for segment in segments[1:]]
            if any(s.first >= s.end for s in segments) or ends != [s.end for s in segments[:-1]]:
                raise ValueError(f"segments of {name} do not follow each other")
        return series


@dataclass(frozen=True)
class Series:
    """Rows of a store under ever-growing numbers.

    Attributes:
        name: of the series.
        generation: rows of another one are others, under the same numbers.
        first, end: the rows that are there, from `first` to before `end`.
        take: columns of the rows from one number to before another.
    """

    name: str
    generation: int
    first: int
    end: int
    take: Callable[[int, int], Columns]

    def stretches(self) -> Iterator[tuple[int, int]]:
        """The rows cut at the multiples of `SEGMENT_ROWS`."""
        start = self.first
        while start < self.end:
            stop = min(self.end, (start // SEGMENT_ROWS + 1) * SEGMENT_ROWS)
            yield start, stop
            start = stop


@dataclass(frozen=True)
class Bundle:
    """What was read from one, all of it verified.

    Attributes:
        path: its folder.
        env_steps: of the run.
        identity: what it belongs to, as `BundleWriter.write` was told.
        parts: the state by part.
        series: by name the columns of all rows from `first` on.
        first: by name the number of a series' first row.
    """

    path: Path
    env_steps: int
    identity: dict[str, Any]
    parts: dict[str, Any]
    series: dict[str, Columns]
    first: dict[str, int]


@dataclass
class BundleWriter:
    """Writes a run's bundles into one folder.

    Attributes:
        root: the folder.
    """

    root: Path
    _written: dict[tuple[str, int, int, int], Segment] = field(default_factory=dict)

    def go_on_from(self, path: Path) -> None:
        """Take the segments of a bundle that was read for written."""
        for name, segments in read_manifest(path).series.items():
            self._written |= {(name, one.generation, one.first, one.end): one for one in segments}

    def write(
        self, env_steps: int, identity: Mapping[str, Any], parts: Mapping[str, Any], series: Sequence[Series]
    ) -> Path:
        """Write a bundle and drop those that are not to stay.

        Args:
            env_steps: of the run; names the bundle.
            identity: what a reader compares before it goes on: JSON values.
            parts: the state by part, each as `packing.pack` takes it.
            series: rows of the stores.

        Raises:
            OSError: if the disk is full or the folder cannot be written; what was there before is as it was.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "segments").mkdir(exist_ok=True)
        building = self.root / f".building-{uuid.uuid4().hex}"
        building.mkdir()
        try:
            manifest = Manifest(
                env_steps=env_steps,
                identity=dict(identity),
                series={one.name: self._segments(one) for one in series},
                parts={name: _write_part(building, name, state) for name, state in parts.items()},
            )
            _write(building / MANIFEST, manifest.model_dump_json(indent=1).encode())
            _sync(building)
            final = self.root / f"bundle_{env_steps:012d}"
            if final.exists():  # of a run that went on from an earlier one
                shutil.rmtree(final)
            os.rename(building, final)
            _sync(self.root)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        self._prune()
        return final

    def _segments(self, series: Series) -> list[Segment]:
        segments = []
        for start, stop in series.stretches():
            key = (series.name, series.generation, start, stop)
            if key not in self._written:
                self._written[key] = self._write_segment(series, start, stop)
            segments.append(self._written[key])
        _sync(self.root / "segments")
        return segments

    def _write_segment(self, series: Series, start: int, stop: int) -> Segment:
        content = pack_arrays(series.take(start, stop))
        written = Written.of(content)
        path = _segment_path(self.root, written.sha256)
        temporary = path.with_name(f".building-{uuid.uuid4().hex}")
        _write(temporary, content)
        os.replace(temporary, path)
        return Segment(generation=series.generation, first=start, end=stop, **written.model_dump())

    def _prune(self) -> None:
        """Keep the last bundles and the segments that they name."""
        bundles = list_bundles(self.root)
        for old in bundles[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        used = set()
        for kept in bundles[-KEPT:]:
            try:
                used |= {one.sha256 for own in read_manifest(kept).series.values() for one in own}
            except StateError:
                return  # whose segments cannot be told from waste
        for file in (self.root / "segments").iterdir():
            if file.stem not in used:  # a half-written one too
                file.unlink(missing_ok=True)
        self._written = {key: known for key, known in self._written.items() if known.sha256 in used}
        for left in self.root.glob(".building-*"):
            shutil.rmtree(left, ignore_errors=True)


def list_bundles(root: Path) -> list[Path]:
    """Folders named as bundles, oldest first."""
    return sorted(path for path in root.glob("bundle_*") if NAME.fullmatch(path.name)) if root.is_dir() else []


def newest_env_steps(root: Path) -> int | None:
    """Where the run of the newest bundle is, going by its name."""
    return max((int(path.name.removeprefix("bundle_")) for path in list_bundles(root)), default=None)


def newest(root: Path) -> tuple[Bundle | None, list[StateError]]:
    """The newest bundle that is valid, if any, and what is wrong with the newer ones."""
    errors: list[StateError] = []
    for path in reversed(list_bundles(root)):
        try:
            return read_bundle(path), errors
        except StateError as error:
            errors.append(error)
    return None, errors


def read_bundle(path: Path) -> Bundle:
    """Read and verify all of a bundle.

    Raises:
        StateError: naming the file that is missing, damaged or not a bundle's.
    """
    manifest = read_manifest(path)
    parts = {}
    for name, written in manifest.parts.items():
        text, arrays = path / f"{name}.json", path / f"{name}.npz"
        parts[name] = unpack(_verified(text, written.json_file), _verified(arrays, written.npz_file), str(text))
    series, first = {}, {}
    for name, segments in manifest.series.items():
        series[name], first[name] = _joined(path, name, segments)
    return Bundle(path, manifest.env_steps, manifest.identity, parts, series, first)


def read_manifest(path: Path) -> Manifest:
    """A bundle's manifest.

    Raises:
        StateError: naming the file.
    """
    file = path / MANIFEST
    if file.is_file() and file.stat().st_size > MOST_JSON_BYTES:
        raise StateError(f"{file}: {file.stat().st_size:,} bytes; at most {MOST_JSON_BYTES:,} are read")
    try:
        return Manifest.model_validate(read_json(_read(file), str(file)))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "manifest"
        raise StateError(f"{file}: {place}: {first['msg']}") from error


def _joined(path: Path, name: str, segments: list[Segment]) -> tuple[Columns, int]:
    """All rows of a series in one, and the number of its first."""
    pieces: list[Columns] = []
    for segment in segments:
        file = _segment_path(path.parent, segment.sha256)
        columns = unpack_arrays(_verified(file, segment), str(file))
        rows = segment.end - segment.first
        if any(column.ndim == 0 or len(column) != rows for column in columns.values()):
            raise StateError(f"{file}: {rows} rows were expected in {name}")
        if pieces and {k: (v.dtype, v.shape[1:]) for k, v in columns.items()} != {
            k: (v.dtype, v.shape[1:]) for k, v in pieces[0].items()
        }:
            raise StateError(f"{file}: other columns than the rows of {name} before it")
        pieces.append(columns)
    if not pieces:
        return {}, 0
    return {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}, segments[0].first


def _write_part(folder: Path, name: str, state: Any) -> Part:
    text, arrays = pack(state)
    _write(folder / f"{name}.json", text)
    _write(folder / f"{name}.npz", arrays)
    return Part(json_file=Written.of(text), npz_file=Written.of(arrays))


def _verified(file: Path, written: Written) -> bytes:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise StateError(f"{file}: cannot be read ({error.strerror})") from error
    if size != written.bytes:
        raise StateError(f"{file}: {size:,} bytes; {written.bytes:,} were written")
    content = _read(file)
    if hashlib.sha256(content).hexdigest() != written.sha256:
        raise StateError(f"{file}: damaged: its SHA-256 is not the one that was written")
    return content


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StateError(f"{file}: cannot be read ({error.strerror})") from error


def _write(file: Path, content: bytes) -> None:
    try:
        with open(file, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error  # a full disk by itself names none


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _segment_path(root: Path, digest: str) -> Path:
    return root / "segments" / f"{digest}.npz"
