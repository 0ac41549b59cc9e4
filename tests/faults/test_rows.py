"""The fault plan has every row, and no row passes without a test that exists."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from docs.faults import rows_of
from tests.faults.__main__ import report_of
from tests.faults.rows import ROWS, Row


def test_the_plan_has_all_its_rows_once() -> None:
    numbers = [row.number for row in ROWS]
    assert numbers == [f"F{n:02d}" for n in range(1, len(ROWS) + 1)] and len(ROWS) >= 46


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.number)
def test_a_row_has_tests_that_exist_or_says_why_it_has_none(row: Row) -> None:
    assert row.tests or row.open
    for test in row.tests:
        file, _, name = test.partition("::")
        functions = [node.name for node in ast.parse(Path(file).read_text()).body if isinstance(node, ast.FunctionDef)]
        assert name in functions


def test_what_did_not_run_or_failed_is_not_said_to_have_passed() -> None:
    row = Row("F01", "a fault", "survives", ("a.py::test_a", "a.py::test_b"), open="of a kind")
    passed, failed, skipped = (
        {"outcome": outcome, "seconds": 1.0, "recovery_s": 2.0} for outcome in ("passed", "failed", "skipped")
    )

    def cells(cases: dict[str, list[dict[str, Any]]]) -> tuple[str, ...]:
        return next(iter(rows_of([report_of(row, cases)])))

    assert cells({"a.py::test_a": [passed, passed]})[2:5] == ("2", "goes on", "")
    assert cells({"a.py::test_a": [passed, failed]})[2:4] == ("2", "**1 of 2 not so**: goes on")
    assert cells({"a.py::test_a": [skipped]})[2:4] == ("0", "**not covered**")
    assert cells({"a.py::test_a": [passed], "a.py::test_b": [{**passed, "recovery_s": 3.5}]})[7] == "3.5"
    assert report_of(row, {"a.py::test_a": [passed, skipped]})["skipped"] == 2
