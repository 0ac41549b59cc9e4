"""What the documents say, for tests of the code that they speak of."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/results_folder.md"


def documented() -> set[str]:
    """The columns, keys, arrays and files that the page of the results folder names."""
    page = PAGE.read_text(encoding="utf-8")
    files = re.findall(r"^ +([\w/]+\.\w+) ", page, re.MULTILINE)
    return {*re.findall(r"`([^`\n]+)`", page), *files}
