"""The drawing of the rooms: its arithmetic by hand, and that it and the flows are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.architecture import PAGE, arrows, drawn, floors, main, room_of, without_implied


def test_a_room_is_what_stands_directly_in_the_package() -> None:
    modules = ("rllib_nbsp.sac.update", "rllib_nbsp.run", "rllib_nbsp.methods.parts.braking", "analysis.load")
    assert [room_of(module) for module in modules] == ["sac", "run", "methods", "analysis"]


def test_a_room_stands_above_all_that_it_imports() -> None:
    # a -> b -> c, and a -> c: c is the ground, b stands on it, a on both.
    assert floors({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": 3, "b": 2, "c": 1}


def test_an_arrow_that_a_longer_way_implies_is_left_out() -> None:
    assert without_implied({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_a_circle_is_named() -> None:
    with pytest.raises(ValueError, match="a -> b -> a"):
        floors({"a": {"b"}, "b": {"a"}})


def test_the_rooms_have_floors_and_the_agent_stands_on_the_run_and_the_methods() -> None:
    heights = floors(arrows())
    assert heights["run_tune"] > heights["study"] > heights["algorithm"] > heights["sac"] > heights["run"]
    assert heights["run"] > heights["methods"] > heights["nn"]
    assert arrows()["analysis"] == {"metrics", "reading"}


def test_the_page_is_drawn_anew_when_imports_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    page = tmp_path / PAGE.name
    text = PAGE.read_text(encoding="utf-8")
    page.write_text(text.replace("sac --> run", "run --> sac"), encoding="utf-8")
    monkeypatch.setattr("docs.architecture.PAGE", page)
    assert main(["--check"]) == 1
    assert "draw it anew" in capsys.readouterr().out
    assert main([]) == 0
    assert main(["--check"]) == 0
    assert page.read_text(encoding="utf-8") == drawn(text, arrows())


def test_every_file_on_the_three_flows_exists() -> None:
    flows = PAGE.read_text(encoding="utf-8").split("Three flows")[1]
    named = re.findall(r"`([\w/]+(?:\.py|/))`", flows)
    assert len(named) > 25
    roots = (Path("rllib_nbsp"), Path())
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []
