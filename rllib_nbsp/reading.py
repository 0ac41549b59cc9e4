"""Files that others may have written -> bytes, lines and values; how much of each is read is said here alone.

Results come from other people, and a study's file may: whatever the package or the analysis reads goes through these
functions. Nothing they read can run code, and a file that is, unpacks to or declares more than the limits below is
refused before memory is taken for it.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import yaml

MAX_STUDY_BYTES = 1_000_000
"""Of a study's file."""
MAX_SMALL_BYTES = 4_000_000
"""Of a YAML or JSON file of results; `study.yaml` has a study's file in it, with escapes and indentation."""
MAX_VALUES = 10_000
"""Values of a study's file, aliases expanded."""
MAX_SMALL_VALUES = 100_000
"""Values of a YAML file of results, aliases expanded."""
MAX_DEPTH = 20
"""Levels of a YAML file."""
MAX_NUMBER_LENGTH = 40
"""Characters of a number in YAML."""
MAX_ROWS_BYTES = 100_000_000
"""Of a file of rows, unpacked."""
MAX_LINE_BYTES = 1_000_000
MAX_ROWS_VALUES = 3_000_000
"""Values of a file of rows: what they take in memory hangs on their number, not on their bytes."""
MAX_MEMBERS = 1_000
"""Streams in one gzip file, and arrays in one `.npz`."""
MAX_ARRAYS_BYTES = 250_000_000
"""Of an `.npz` file, unpacked."""
MAX_DIRECTORY_BYTES = 1_000_000
"""Of the table of contents of an `.npz` file."""

MAX_NAME_LENGTH = 200
"""Of a name in results."""
MAX_INTEGER = 2**53
"""Of a seed or a count in results."""
MAX_NUMBER = 1e100
"""Of a measurement in results; one beyond it counts as not finite, for sums of such numbers are not."""
MAX_VISITS = 10_000
"""Of a run in results."""
MAX_TRIALS = 100_000
"""That `study.yaml` of results may expect."""

_CHUNK = 1 << 16
_DIRECTORY_END = struct.Struct("<4s4H2LH")
_NUMBER = re.compile(r"[-+]?(0[xb][0-9a-fA-F_]+|[0-9:_.]+)")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it


class Unreadable(ValueError):
    """A file that is refused: what was found, and what is allowed; which one it is, its reader says."""


def printable(text: str) -> str:
    """Text of a file as a terminal or a page may show it: characters that do not print as Python writes them.

    Escapes move a terminal's cursor and change what stands there, others turn the direction of the line.
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


# Bytes and lines


def read_bytes(path: Path, at_most: int = MAX_SMALL_BYTES) -> bytes:
    """A file's bytes.

    Raises:
        OSError: if it cannot be opened.
        Unreadable: if it is no plain file, or longer than `at_most` bytes.
    """
    with _opened(path) as file:
        data = file.read(at_most + 1)
    if len(data) > at_most:
        raise Unreadable(f"too long; at most {at_most} bytes are read")
    return data


def _opened(path: Path) -> BinaryIO:
    """A plain file, to be read: a pipe would be waited for, and a device has no end."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Unreadable("not a plain file")
    return file


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, plain or gzipped, one after the other; all end in a newline but a torn last one.

    Raises:
        OSError: if it cannot be opened.
        Unreadable: if it is no plain file, is packed in a way that cannot be unpacked, or is, or has a line that is,
            too long.
    """
    with _opened(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        size, line = 0, b""
        for chunk in _unpacked(file) if packed else iter(lambda: file.read(_CHUNK), b""):
            size += len(chunk)
            if size > MAX_ROWS_BYTES:
                unpacked = " unpacked" if packed else ""
                raise Unreadable(f"too long; at most {MAX_ROWS_BYTES} bytes{unpacked} are read")
            *whole, line = (line + chunk).split(b"\n")
            if max(map(len, [*whole, line])) > MAX_LINE_BYTES:
                raise Unreadable(f"has a line of more than {MAX_LINE_BYTES} bytes")
            for text in whole:
                yield text + b"\n"
        if line:
            yield line


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    """The parts of a gzip file; a cut one ends early."""
    stream, members = zlib.decompressobj(wbits=31), 1
    while data := file.read(_CHUNK):
        while data:
            if stream.eof:
                stream, members = zlib.decompressobj(wbits=31), members + 1
            if members > MAX_MEMBERS:
                raise Unreadable(f"has more than {MAX_MEMBERS} gzip streams")
            try:
                yield stream.decompress(data, _CHUNK)
            except zlib.error as error:
                raise Unreadable(f"not a readable gzip file ({error})") from error
            data = stream.unconsumed_tail or stream.unused_data
    yield stream.flush()


# Values


def read_json(path: Path) -> Any:
    """What a small JSON file holds.

    Raises:
        OSError: if it cannot be opened.
        Unreadable: if it is no such file, or too long.
    """
    return _parsed(path, lambda data: _checked(parse_json(data)))


def parse_json(data: bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: if it is no JSON, nested too deeply, or has text that cannot be written again.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    if b"\\u" in data:
        json.dumps(value, ensure_ascii=False).encode()  # see `_checked`
    return value


def read_yaml(path: Path) -> Any:
    """What a small YAML file of results holds.

    Raises:
        OSError: if it cannot be opened.
        Unreadable: if it is no such file, too long, or has more values or levels than are read.
    """
    return _parsed(path, parse_yaml)


def _parsed(path: Path, parse: Callable[[bytes], Any]) -> Any:
    data = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    try:
        return parse(data)
    except (ValueError, yaml.YAMLError) as error:
        raise Unreadable(" ".join(str(error).split())) from error


def parse_yaml(data: bytes) -> Any:
    """What plain YAML says: no tags, no merge keys, no more than so many values, aliases expanded.

    Raises:
        ValueError: if it says more than that.
        yaml.YAMLError: if it is no YAML.
    """
    text = data.decode()
    values = depth = 0
    for event in yaml.parse(text, Loader=_LOADER):  # before anything is built
        values += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        _check_size(values, depth)
        if problem := _problem(event):
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise ValueError(f"line {line}: {problem}")
    return _checked(_LOADER(text).get_single_data())


def _problem(event: yaml.Event) -> str | None:
    """Why YAML says more here than plain values, if it does."""
    if tag := getattr(event, "tag", None):
        return f"tag {tag} is not allowed"
    if isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
        if event.value == "<<":  # merges multiply as aliases do
            return "a merge key (<<) is not allowed"
        if len(event.value) > MAX_NUMBER_LENGTH and _NUMBER.fullmatch(event.value):
            return f"a number of over {MAX_NUMBER_LENGTH} characters"
    return None


def _checked(value: Any) -> Any:
    """A small file's value, if it is no larger than is read: aliases show a value again, one in itself for ever."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        inner, depth = waiting.pop()
        seen += 1
        below = [*inner, *inner.values()] if isinstance(inner, dict) else inner if isinstance(inner, list) else []
        waiting += [(child, depth + 1) for child in below]
        _check_size(seen + len(waiting), depth)
        if isinstance(inner, str):
            inner.encode()  # half of a surrogate pair is no text
    return value


def _check_size(values: int, depth: int) -> None:
    if values > MAX_SMALL_VALUES or depth > MAX_DEPTH:
        limit = f"{MAX_SMALL_VALUES} values" if values > MAX_SMALL_VALUES else f"{MAX_DEPTH} levels"
        raise ValueError(f"more than {limit}, aliases (*) expanded")


class StudyLoader(yaml.SafeLoader):
    """PyYAML's own, which stops where a study's file has more nodes or levels than it can have.

    Raises:
        Unreadable: then, with the line.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """PyYAML's method for one node and all below it."""
        self._nodes, self._depth = self._nodes + 1, self._depth + 1
        if self._nodes > 2 * MAX_VALUES or self._depth > MAX_DEPTH + 1:  # keys are nodes too
            limit = f"{MAX_VALUES} values" if self._nodes > 2 * MAX_VALUES else f"{MAX_DEPTH} levels"
            raise Unreadable(f"{self.line + 1}: more than {limit}, aliases (*) expanded")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


# Arrays


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an `.npz` file by name: numbers and text, never objects.

    Raises:
        OSError: if it cannot be opened.
        Unreadable: if it is no such file, or declares more than is read.
    """
    with _opened(path) as file:
        try:
            _check_directory(file)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                size = sum(member.file_size for member in members)
                if len(members) > MAX_MEMBERS or size > MAX_ARRAYS_BYTES:
                    raise ValueError(
                        f"{len(members)} arrays of {size} bytes unpacked; at most {MAX_MEMBERS} of {MAX_ARRAYS_BYTES} "
                        "are read"
                    )
                return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
        except Exception as error:  # zipfile and numpy answer bytes that no writer leaves with errors of every kind
            raise Unreadable(str(error) or type(error).__name__) from error


def _check_directory(file: BinaryIO) -> None:
    """zipfile reads the whole table of contents before it says how long it is."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _DIRECTORY_END.size - 20))
    end = file.read()
    if size > MAX_ARRAYS_BYTES:
        raise ValueError(f"{size} bytes; at most {MAX_ARRAYS_BYTES} are read")
    magic, *_, directory_bytes, _, _ = _DIRECTORY_END.unpack(end[-_DIRECTORY_END.size :])
    if magic != b"PK\5\6" or end.startswith(b"PK\6\7"):
        raise ValueError("not an .npz file as numpy writes it")
    if directory_bytes > MAX_DIRECTORY_BYTES:
        raise ValueError(f"a table of contents of {directory_bytes} bytes; at most {MAX_DIRECTORY_BYTES} are read")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename}: packed by method {member.compress_type}; only deflate is read")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, by_column, dtype = np.lib.format.read_array_header_2_0(file)
        if dtype.kind not in "biufU" or not dtype.itemsize:
            raise ValueError(f"{member.filename}: an array of {dtype}; only numbers and text are read")
        if math.prod(max(size, 1) for size in shape) * dtype.itemsize > MAX_ARRAYS_BYTES:
            raise ValueError(
                f"{member.filename}: declares the shape {shape} of {dtype}; at most {MAX_ARRAYS_BYTES} bytes are read"
            )
        return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if by_column else "C")
