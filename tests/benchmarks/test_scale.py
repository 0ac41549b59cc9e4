"""The benchmark of many trials and many rollout workers: its arithmetic, and a small one from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.scale import main, report, stretches


def test_stretches_by_hand() -> None:
    # Ten trials end every 2 s, then every 3 s from the sixth on.
    ends = [0, 2, 4, 6, 8, 10, 13, 16, 19, 22, 25]
    rows = [{"at_s": 100.0 + end, "driver_bytes": 10.0 * end, "open_files": i} for i, end in enumerate(ends)]
    found = stretches(rows)
    assert [row["trials"] for row in found] == [2, 4, 6, 8, 10]
    assert [row["seconds"] for row in found] == [2.0, 2.0, 2.5, 3.0, 3.0]
    assert [row["driver_bytes"] for row in found] == [40, 80, 130, 190, 250]
    assert [row["open_files"] for row in found] == [2, 4, 6, 8, 10]


def test_the_tables_by_hand() -> None:
    trials = [{"trials": 40, "driver_bytes": 4.2e8, "open_files": 61, "seconds": 1.234}]
    runs = [{"runners": 16, "env_steps_per_s": 812.4, "driver_bytes": 6e8, "runner_bytes": 4.5e9}]
    assert report(trials, runs).splitlines() == [
        "| trials over | driver, MB | open files | s a trial |",
        "| ---: | ---: | ---: | ---: |",
        "| 40 | 420 | 61 | 1.23 |",
        "",
        "| rollout workers | env steps/s | run's process, MB | workers, MB |",
        "| ---: | ---: | ---: | ---: |",
        "| 16 | 812 | 600 | 4500 |",
    ]


def test_too_few_trials_to_tell_apart_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--trials", "4"])
    assert "--trials is 4; allowed: 5 or more" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_one_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "scale.json"
    assert main(["--trials", "5", "--runners", "2", "--seconds", "0.5", "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert [row["trials"] for row in written["trials"]] == [1, 2, 3, 4, 5]
    assert all(row["seconds"] > 0 and row["driver_bytes"] > 1e8 for row in written["trials"])
    (run,) = written["runs"]
    assert run["env_steps_per_s"] > 0 and run["runner_bytes"] > 2e8
    assert capsys.readouterr().out.count("\n| 5 |") == 1
