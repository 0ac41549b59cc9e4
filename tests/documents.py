"""What the documents say, for tests of the code that they speak of."""

from __future__ import annotations

import re
from pathlib import Path

from analysis import MECHANISM_COLUMNS

PAGE = Path(__file__).parents[1] / "docs/results_folder.md"


def documented() -> set[str]:
    """The columns, keys, arrays and files that the page of the results folder names."""
    page = PAGE.read_text(encoding="utf-8")
    files = re.findall(r"^ +([\w/]+\.\w+) ", page, re.MULTILINE)
    return {*re.findall(r"`([^`\n]+)`", page), *files}


def as_documented(column: str) -> str:
    """A column of training rows as the page has it: of batches of either kind, of any network and layer."""
    column = column.removesuffix("_prior")
    by_network = re.sub(r"_(policy|qf_twin|qf)(_\d+)?$", lambda m: "_NETWORK" + ("_LAYER" if m[2] else ""), column)
    return by_network if by_network in MECHANISM_COLUMNS else column
