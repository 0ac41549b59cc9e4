"""Bytes -> rows: JSON lines and small settings files, mended where a crash left its marks.

Only JSON and plain YAML are read, so no file can make it run code. Whatever had to be left out or mended is said in the
`notes` list that a caller may pass.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rllib_nbsp.reading import (
    MAX_INTEGER,
    MAX_NAME_LENGTH,
    MAX_NUMBER,
    MAX_ROWS_VALUES,
    MAX_VISITS,
    Unreadable,
    parse_json,
    read_json,
    read_lines,
    read_yaml,
)

from .errors import DataError
from .schema import INTEGER_KEYS, NAME_KEYS, NUMBER_KEYS, PHASES

MAX_BAD_LINES = 0.01
"""Share of a file's lines that may be unreadable before the file is refused."""


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
    required = list(required)
    rows: list[dict[str, Any]] = []
    first, bad, total, values = "", 0, 0, 0
    try:
        for number, line in enumerate(read_lines(path), start=1):
            text = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip(b"\0 \t\r\n")
            values += 1 + text.count(b",") + text.count(b"[") + text.count(b"{")
            if values > MAX_ROWS_VALUES:
                raise Unreadable(f"too many values; at most {MAX_ROWS_VALUES} are read")
            if not text:
                continue
            total += 1
            try:
                rows.append(_parse(text, required))
            except ValueError as error:
                if not line.endswith(b"\n"):
                    say(notes, f"{place(path)}: the last line is torn; it was left out")
                else:
                    first = first or f"line {number}: {error}"
                    bad += 1
    except Unreadable as error:
        raise DataError(f"{path}: {error}") from error
    if bad > MAX_BAD_LINES * total:
        raise DataError(
            f"{path}: {bad} of {total} lines are unreadable, at most 1 % may be (first: {first}); "
            "mend the file, or name its folder *.stale"
        )
    if bad:
        say(notes, f"{place(path)}: {counted(bad, 'unreadable line')} left out (first: {first})")
    return rows


def _parse(text: bytes, required: list[str]) -> dict[str, Any]:
    """One row, its numbers finite or NaN.

    Raises:
        ValueError: if the line is no row, or holds an impossible value.
    """
    row = parse_json(text)
    if not isinstance(row, dict):
        raise ValueError("it is not an object")
    if missing := [key for key in required if row.get(key) is None]:
        raise ValueError(f"it has no {', '.join(missing)}")
    for key in INTEGER_KEYS:
        lowest, highest = (1, MAX_VISITS) if key == "visit" else (0, MAX_INTEGER)
        if type(row[key]) is not int or not lowest <= row[key] <= highest:
            raise ValueError(f"{key} is {shown(row[key])}")
    for key in NAME_KEYS & row.keys():
        if row[key] is not None:
            check_name(key, row[key])
    for key in NUMBER_KEYS & row.keys():
        row[key] = _number(key, row[key])
    if "eval_task" in required and row["phase"] not in PHASES:
        raise ValueError(f"phase is {shown(row['phase'])}, not {' or '.join(PHASES)}")
    if not (0.0 <= row.get("success_rate", 0.0) <= 1.0 or math.isnan(row["success_rate"])):
        raise ValueError(f"success_rate is {row['success_rate']!r}")
    return row


def _number(key: str, value: Any) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {shown(value)}")
    return value if abs(value) <= MAX_NUMBER else float("nan")


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
    except Unreadable as error:
        problem = str(error)
    say(notes, f"{place(path)}: left out, it cannot be read ({problem})")
    return {}


def read_small_file(path: Path) -> Any:
    """What a YAML or JSON file holds.

    Raises:
        Unreadable: if it is no such file, or more than is read.
    """
    return read_json(path) if path.suffix == ".json" else read_yaml(path)


def check_name(key: str, value: Any) -> None:
    """Refuse what no run is, has or does as a name: it would stand in tables, figures and pages and on terminals.

    Raises:
        ValueError: if it is no text that can be printed on a line, or too long.
    """
    if not isinstance(value, str) or len(value) > MAX_NAME_LENGTH or not value.isprintable():
        raise ValueError(f"{key} is {shown(value)}")


def shown(value: Any) -> str:
    """A value in an error, cut where it is long."""
    return reprlib.repr(value)


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
