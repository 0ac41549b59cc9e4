"""What a person sees of a study while it runs."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from rllib_nbsp.settings import RunSettings
from rllib_nbsp.study.display import LiveDisplay
from tests.studies import tiny_study


def shown(
    runs: list[RunSettings],
    terminal: bool,
    success: float | None = 0.25,
    env_steps_per_s: float = 10.0,
    width: int = 80,
) -> str:
    screen = io.StringIO()
    result = {
        "visit": 2, "num_visits": 4, "task": "reach-right", "phase": "train", "visit_env_steps": 100,
        "visit_max_env_steps": 400, "mean_return": 3.0, "env_steps_per_s": env_steps_per_s, "done": False,
        "saved_env_steps": 80,
    }  # fmt: skip
    result |= {} if success is None else {"success_window": success}
    sac, nbsp = (SimpleNamespace(config={"run": run.model_dump()}) for run in runs)
    with LiveDisplay(runs, Console(file=screen, force_terminal=terminal, width=width)) as progress:
        progress.on_trial_start(0, [], sac)
        progress.on_trial_result(0, [], sac, result)
        progress.on_trial_error(0, [], nbsp)
        progress.on_step_end(0, [])
    return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", screen.getvalue())


def test_progress_is_a_line_per_trial_where_there_is_no_terminal(tmp_path: Path) -> None:
    text = shown(tiny_study(tmp_path).trials(tmp_path), terminal=False)
    assert text.splitlines() == [
        "sac/seed_0: running, visit 2/4, reach-right, 100/400 env steps, success 0.25, 10 steps/s, "
        "saved at 80, at most 2 min left",  # 1,100 steps
        "nbsp/seed_0: failed",
        "2 trials: 1 running, 1 failed",
    ]


def test_progress_shows_the_return_where_tasks_have_no_success(tmp_path: Path) -> None:
    text = shown(tiny_study(tmp_path).trials(tmp_path), terminal=False, success=None)
    assert "env steps, success - (return 3.0), 10 steps/s" in text


def test_progress_promises_no_end_while_a_phase_takes_no_steps(tmp_path: Path) -> None:
    text = shown(tiny_study(tmp_path).trials(tmp_path), terminal=False, env_steps_per_s=0.0)
    assert "0 steps/s, saved at 80\n" in text


def test_progress_is_a_table_on_a_terminal(tmp_path: Path) -> None:
    runs = tiny_study(tmp_path).trials(tmp_path)
    text = shown(runs, terminal=True)
    assert re.search(r"trial +state +visit +task +env steps +success +steps/s +left", text)
    assert re.search(r"sac/seed_0 +running +2/4 +reach-right +100/400 +0.25 +10 +2 min", text)
    text = shown(runs, terminal=True, width=120)
    assert re.search(r"trial +state +visit +task +env steps +success +steps/s +saved at +left", text)
    assert re.search(r"sac/seed_0 +running +2/4 +reach-right +100/400 +0.25 +10 +80 +2 min", text)


def many(count: int, tmp_path: Path) -> list[RunSettings]:
    return tiny_study(tmp_path, seeds=list(range(count)), arms=["sac"]).trials(tmp_path)


def test_of_many_trials_the_screen_shows_those_that_run_and_counts_the_others(tmp_path: Path) -> None:
    runs, screen = many(200, tmp_path), io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, height=24)
    with LiveDisplay(runs, console) as progress:
        for number in (5, 150, 199):
            progress.on_trial_start(0, [], SimpleNamespace(config={"run": runs[number].model_dump()}))
        progress.on_trial_error(0, [], SimpleNamespace(config={"run": runs[199].model_dump()}))
    text = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", screen.getvalue())
    first = "200 trials: 2 running, 197 waiting, 1 failed"
    lines = [line.strip() for line in text[text.rindex(first) :].splitlines() if line.strip()]
    assert lines[0] == first
    assert [re.split(" +", line)[0] for line in lines[2:6]] == [f"sac/seed_{i}" for i in (5, 150, 199, 0)]
    assert lines[-1] == f"... and {200 - (len(lines) - 3)} more"
    assert len(lines) < 24


def test_the_screen_is_drawn_once_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, screen, now = many(3, tmp_path), io.StringIO(), [100.0]
    monkeypatch.setattr("rllib_nbsp.study.display.time.monotonic", lambda: now[0])
    trial = SimpleNamespace(config={"run": runs[0].model_dump()})
    drawn = 0
    with LiveDisplay(runs, Console(file=screen, force_terminal=True, width=80)) as progress:
        for event in range(50):  # in 5 seconds
            now[0] = 100.0 + event / 10
            progress.on_trial_start(0, [], trial)
            before = len(screen.getvalue())
            progress.on_step_end(0, [])
            drawn += len(screen.getvalue()) > before
    assert drawn == 5
