"""What nodes answer, and that they may not."""

from __future__ import annotations

import pytest

from rllib_nbsp import nodes
from rllib_nbsp.study.trials import _node_problems


def test_a_node_that_does_not_answer_is_told_in_a_line(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "TIMEOUT_S", 0.0)
    (line,) = _node_problems(None, ["json"])
    assert line.startswith("no process could be started within 0 s on ")
