"""What a run's processes hold, visit after visit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import ray

from benchmarks import soak

LEAK = 33_000
"""Bytes a visit, which is 1 MB an hour of visits of two minutes."""


def test_a_leak_is_seen_and_what_fills_at_first_is_not() -> None:
    def readings(leak: int) -> list[dict[str, object]]:
        return [
            {
                "seconds": 60.0 * visit,
                "processes": {"run": {"bytes": min(visit, 20) * 10**6 + leak * visit, "files": 30 + leak * visit}},
            }
            for visit in range(1, 101)
        ]

    tight, leaking = soak.slope(readings(0), "run"), soak.slope(readings(1000), "run")
    assert (tight["bytes_per_visit"], tight["least_files"], tight["most_files"]) == (0, 30, 30)
    assert leaking["bytes_per_visit"] == pytest.approx(1000)
    assert leaking["bytes_per_hour"] == pytest.approx(60_000)
    assert leaking["most_files"] > leaking["least_files"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_of_many_visits_keeps_its_memory_and_its_files(tmp_path: Path) -> None:
    ray.shutdown()  # the other tests' session: the next one that needs it starts another
    assert soak.main(["--minutes", "5", "--visit-env-steps", "500", "--json", str(tmp_path / "soak.json")]) == 0
    slopes = json.loads((tmp_path / "soak.json").read_text())["slopes"]
    for own in slopes.values():
        assert own["most_files"] <= own["least_files"] + 1  # one may be open for a moment
        assert own["bytes_per_visit"] < LEAK
