"""Bytes -> rows: JSON lines and small settings files, mended where a crash left its marks.

Only JSON and plain YAML are read, so no file can make it run code. Whatever had to be left out or mended is said in the
`notes` list that a caller may pass.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from .errors import DataError
from .schema import INTEGER_KEYS, NAME_KEYS, NUMBER_KEYS, PHASES

MAX_BAD_LINES = 0.01
"""Share of a file's lines that may be unreadable before the file is refused."""

MAX_SETTINGS_BYTES = 1_000_000


def read_rows(path: Path, required: Iterable[str], notes: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, plain or gzipped, mended where a crash left its marks.

    A byte order mark, CRLF, blank lines and NUL bytes around a row do not matter. A last line without an end is what a
    killed writer leaves: it is dropped and counted. Other unreadable lines are dropped and counted too.

    Args:
        path: the file; with none there, `path` + `.gz` is read.
        required: keys that a row must have.
        notes: receives what was dropped.

    Raises:
        DataError: if more than 1 % of the lines are unreadable, the torn last one aside.
    """
    path = path if path.is_file() else path.with_name(path.name + ".gz")
    if not path.is_file():
        return []
    data, whole = _decompressed(path)
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    torn_at = len(lines) - 1 if lines[-1].strip(b"\0 \t\r") or not whole else None
    required = list(required)
    rows, bad, total = [], [], 0
    for number, line in enumerate(lines):
        text = line.strip(b"\0 \t\r")
        if not text:
            continue
        total += 1
        try:
            rows.append(_parse(text, required))
        except (ValueError, RecursionError) as error:
            if number == torn_at:
                say(notes, f"{place(path)}: the last line is torn; it was left out")
            else:
                bad.append(f"line {number + 1}: {error}")
    if len(bad) > MAX_BAD_LINES * total:
        raise DataError(
            f"{path}: {len(bad)} of {total} lines are unreadable, at most 1 % may be (first: {bad[0]}); "
            "mend the file, or name its folder *.stale"
        )
    if bad:
        say(notes, f"{place(path)}: {counted(len(bad), 'unreadable line')} left out (first: {bad[0]})")
    return rows


def _decompressed(path: Path) -> tuple[bytes, bool]:
    """A file's bytes, unpacked if gzipped, and whether the packed stream was complete."""
    data = path.read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data, True
    parts, whole = [], True
    while data:
        stream = zlib.decompressobj(wbits=31)
        try:
            parts.append(stream.decompress(data))
        except zlib.error as error:
            raise DataError(f"{path}: not a readable gzip file ({error})") from error
        whole, data = stream.eof, stream.unused_data
    return b"".join(parts), whole


def _parse(text: bytes, required: list[str]) -> dict[str, Any]:
    """One row, its numbers finite or NaN.

    Raises:
        ValueError: if the line is no row, or holds an impossible value.
    """
    row = json.loads(text)
    if not isinstance(row, dict):
        raise ValueError("it is not an object")
    if missing := [key for key in required if row.get(key) is None]:
        raise ValueError(f"it has no {', '.join(missing)}")
    for key in INTEGER_KEYS:
        if type(row[key]) is not int or row[key] < (key == "visit"):
            raise ValueError(f"{key} is {row[key]!r}")
    for key in NAME_KEYS & row.keys():
        if not isinstance(row[key], str):
            raise ValueError(f"{key} is {row[key]!r}")
    for key in NUMBER_KEYS & row.keys():
        row[key] = _number(key, row[key])
    if "eval_task" in required and row["phase"] not in PHASES:
        raise ValueError(f"phase is {row['phase']!r}, not {' or '.join(PHASES)}")
    if not (0.0 <= row.get("success_rate", 0.0) <= 1.0 or math.isnan(row["success_rate"])):
        raise ValueError(f"success_rate is {row['success_rate']!r}")
    return row


def _number(key: str, value: Any) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r}")
    return value if math.isfinite(value) else float("nan")


# Small files


def read_mapping(path: Path, notes: list[str] | None) -> dict[str, Any]:
    """A small YAML or JSON mapping; empty, with a note, if it cannot be read."""
    if not path.is_file():
        return {}
    try:
        content = read_small_file(path)
        if isinstance(content, dict):
            return content
        problem = "it is not a mapping"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = str(error).splitlines()[0]
    say(notes, f"{place(path)}: left out, it cannot be read ({problem})")
    return {}


def read_small_file(path: Path) -> Any:
    """What a YAML or JSON file holds.

    Raises:
        ValueError: if it is larger than `MAX_SETTINGS_BYTES`, or no JSON.
        yaml.YAMLError: if it is no plain YAML.
    """
    if path.stat().st_size > MAX_SETTINGS_BYTES:
        raise ValueError(f"larger than {MAX_SETTINGS_BYTES} bytes")
    text = path.read_text(encoding="utf-8-sig")
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


# Notes


def place(path: Path) -> str:
    """A file by its run, so that notes do not depend on where the study lies."""
    return "/".join(path.parts[-4:])


def say(notes: list[str] | None, text: str) -> None:
    """Add a note, unless it is there already or the caller wants none."""
    if notes is not None and text not in notes:
        notes.append(text)


def counted(number: int, thing: str) -> str:
    """A number of things: `1 row`, `2 rows`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
