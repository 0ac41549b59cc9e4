"""What is being done is said before it is done, and how long it took behind it."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from rllib_nbsp.study.stages import stage


def test_a_stage_is_named_while_it_lasts() -> None:
    out = io.StringIO()
    with stage(Console(file=out), "starting [Ray]"):
        assert out.getvalue() == "starting [Ray] ... "
    assert re.fullmatch(r"starting \[Ray\] \.\.\. \d+\.\d s\n", out.getvalue())


def test_a_stage_that_fails_ends_its_line_and_takes_no_time() -> None:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), stage(Console(file=out), "importing"):
        raise KeyboardInterrupt
    assert out.getvalue() == "importing ... \n"
