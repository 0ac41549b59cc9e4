"""Has every fault of the plan happen and writes what it has cost: `python -m tests.faults [F06 ...] [--fast]`.

`python -m docs.faults FILE` makes the table of `docs/faults.md` of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults.rows import ROWS, Row

FIGURES = ("lost_env_steps", "doubled_env_steps", "extra_updates", "recovery_s")


class Collected:
    """A pytest plugin: of each test, by its node id without parameters, how its cases ended and what they filed."""

    def __init__(self) -> None:
        self.cases: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """pytest's hook."""
        if report.when == "call" or report.outcome != "passed":
            case = {"outcome": report.outcome, "seconds": report.duration, **dict(report.user_properties)}
            self.cases[report.nodeid.partition("[")[0]].append(case)


def report_of(row: Row, cases: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What the report says of a row.

    Args:
        row: the fault.
        cases: of all tests that ran.
    """
    own = [case for test in row.tests for case in cases.get(test, [])]
    ran = [case for case in own if case["outcome"] != "skipped"]
    passed = [case for case in ran if case["outcome"] == "passed"]
    return {
        "number": row.number,
        "fault": row.fault,
        "injected": len(ran),
        "as_it_must": len(passed),
        "ends": row.ends,
        "skipped": len(own) - len(ran) + sum(test not in cases for test in row.tests),
        **{name: max((case[name] for case in ran if name in case), default=None) for name in FIGURES},
        "seconds": round(sum(case["seconds"] for case in ran), 1),
        "not_covered": row.open,
        "tests": list(row.tests),
    }


def run(rows: Iterable[Row], fast: bool) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Run the tests of these rows; returns pytest's exit code, and their cases."""
    collected = Collected()
    tests = list(dict.fromkeys(test for row in rows for test in row.tests))
    speed = ["-m", "not slow"] if fast else []
    return int(pytest.main(["-q", "--show-capture=no", *speed, *tests], plugins=[collected])), dict(collected.cases)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="F06", help="these alone; of the others FILE keeps what it says")
    parser.add_argument("--fast", action="store_true", help="without the tests that take long")
    parser.add_argument("--json", default="fault_report.json", metavar="FILE", help="default: %(default)s")
    options = parser.parse_args(arguments)
    wanted = [row for row in ROWS if row.number in options.rows or not options.rows]
    code, cases = run(wanted, options.fast)
    file = Path(options.json)
    known: dict[str, dict[str, Any]] = {}
    if options.rows and file.is_file():
        known = {row["number"]: row for row in json.loads(file.read_text(encoding="utf-8"))["rows"]}
    known |= {row.number: report_of(row, cases) for row in wanted}
    rows = [known.get(row.number) or report_of(row, {}) for row in ROWS]
    file.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    injected, taken = (sum(row[name] for row in rows) for name in ("injected", "as_it_must"))
    print(f"{injected} faults, {taken} taken as they must be")
    return code


if __name__ == "__main__":
    sys.exit(main())
