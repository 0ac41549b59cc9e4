"""The driver's benchmark: what its table says, and one case of it from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray.rllib.core import DEFAULT_MODULE_ID

from benchmarks.driver import Case, config_of, main, table


def row(runners: int, fragment: int, **cpu_ms: float) -> dict[str, Any]:
    figures = {name: {"cpu_ms": value, "env_steps_per_s": 1e3 / value} for name, value in cpu_ms.items()}
    return {"runners": runners, "fragment": fragment, **figures}


def test_the_table_says_what_is_left_of_a_steps_cost_and_how_it_grows_with_the_runners() -> None:
    rows = [row(2, 1, before=2.0, after=0.5), row(16, 1, before=1.0, after=0.6), row(2, 8, before=0.4, after=0.2)]
    assert table(rows, ["before", "after"]).splitlines() == [
        "| runners | fragment | before: CPU ms/step | after: CPU ms/step | before: env steps/s | after: env steps/s "
        "| CPU after/before |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| 2 | 1 | 2.00 | 0.50 | 500 | 2000 | 0.25 |",
        "| 16 | 1 | 1.00 | 0.60 | 1000 | 1667 | 0.60 |",
        "| 2 | 8 | 0.40 | 0.20 | 2500 | 5000 | 0.50 |",
        "",
        "CPU a step at fragment 1, from 2 to 16 runners: before 0.50x, after 1.20x",
    ]
    assert table(rows[:1], ["after"]).splitlines()[2] == "| 2 | 1 | 0.50 | 2000 |"


def test_the_case_is_the_papers_preset_and_its_learner_makes_no_update() -> None:
    settings = config_of(Case(runners=2, fragment=1)).settings
    assert settings.model.hidden == [768] * 3
    assert (settings.training.batch_size, settings.training.updates_per_env_step) == (256, 2.0)
    assert (settings.resources.num_envs_per_env_runner, settings.resources.num_learners) == (4, 1)
    config = config_of(Case(runners=0, fragment=1, width=8, learners=0))
    learner = config.build_learner(spaces={DEFAULT_MODULE_ID: config.resolved().spaces})
    before = learner.checksum()
    learner.update(batch=None, minibatch_size=256)
    assert learner.checksum() == before


@pytest.mark.slow
def test_a_case_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "driver.json"
    short = ["--runners", "1", "--fragments", "8", "--width", "8", "--windows", "2", "--seconds", "0.1"]
    assert main([*short, "--json", str(file)]) == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["runners"], row["fragment"], row["width"]) == (1, 8, 8)
    assert len(row["after"]["windows"]["cpu_ms"]) == 2
    assert 0 < row["after"]["cpu_ms"] < 1e3 and row["after"]["env_steps_per_s"] > 0
    assert "| 1 | 8 |" in capsys.readouterr().out
