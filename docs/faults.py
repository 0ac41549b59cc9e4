"""Writes the table of `docs/faults.md`: `python -m docs.faults fault_report.json`, of what `make faults` measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from docs.tables import table, written

PAGE, COMMAND = Path(__file__).parent / "faults.md", "python -m docs.faults"
HEADS = ("", "fault", "injected", "outcome", "lost steps", "doubled", "extra updates", "recovery, s", "no test of")
FIGURES = ("lost_env_steps", "doubled_env_steps", "extra_updates", "recovery_s")
OUTCOMES = {"survives": "goes on", "clean error": "clean error", "both": "goes on, or clean error"}


def rows_of(report: Iterable[dict[str, Any]]) -> Iterable[tuple[str, ...]]:
    """The table's rows."""
    for row in report:
        figures = (row[name] for name in FIGURES)
        yield (
            row["number"],
            row["fault"],
            str(row["injected"]),
            _outcome(row),
            *("" if value is None else f"{value:.3g}" for value in figures),
            row["not_covered"],
        )


def _outcome(row: dict[str, Any]) -> str:
    if not row["injected"]:
        return "**not covered**" if row["not_covered"] else "**not run**"
    said = OUTCOMES[row["ends"]]
    wrong = row["injected"] - row["as_it_must"]
    return f"**{wrong} of {row['injected']} not so**: {said}" if wrong else said


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table; returns the exit code."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    report = json.loads(Path(path).read_text(encoding="utf-8"))["rows"]
    tables = {"faults": table(HEADS, iter(rows_of(report)))}
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), tables, COMMAND), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
