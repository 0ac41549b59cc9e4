"""The harness: medians, ratios and options, and a file with the promised keys."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contender import Window
from benchmarks.plain_atari import UPDATE_PERIOD
from benchmarks.throughput import (
    CLEANRL,
    CONTENDERS,
    PARTS,
    RATIOS,
    Plan,
    build_ratios_of,
    main,
    parse,
    ratios_of,
    summary,
    table,
    unfair_sizes,
    widths_of,
)


class FakeContender:
    name, gflop_per_update, passes = "sac", 2.0, "none"

    def run(self, seconds: float) -> Window:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def test_a_summary_is_the_median_of_the_windows() -> None:
    builds = [[Window(env_steps=10 * n, updates=20 * n, seconds=10.0) for n in ns] for ns in ((1, 9, 2), (3, 4, 5))]
    row = summary(FakeContender(), builds)
    assert (row["env_steps_per_s"], row["updates_per_s"], row["gflop_per_s"]) == (3.5, 7.0, 14.0)
    assert row["builds"] == [2.0, 4.0]
    assert row["windows"][0][1] == {"env_steps": 90, "updates": 180, "seconds": 10.0, "env_steps_per_s": 9.0}
    assert [len(build) for build in row["windows"]] == [3, 3]


def results(**env_steps_per_s: float) -> dict[str, dict[str, Any]]:
    """One GFLOP an update, one update a step."""
    rows = {
        name: {
            "env_steps_per_s": speed,
            "builds": [speed, 2 * speed],
            "windows": [[{"env_steps_per_s": speed}] * 2, [{"env_steps_per_s": 2 * speed}] * 2],
            "updates_per_s": speed,
            "gflop_per_update": 1.0,
            "gflop_per_s": speed,
            "passes": "",
        }
        for name, speed in env_steps_per_s.items()
    }
    return {"contenders": rows, "update": {"ratio": 1.5, "interval": [1.4, 1.6], "full_ms": 3.0, "bare_ms": 2.0}}


def test_ratios_put_us_over_the_others() -> None:
    measured = results(rllib_sac=5, rllib_sac_mlp=8, plain_torch=32, plain_torch_frozen=64, sac=40, nbsp=30)
    assert ratios_of("256", measured) == {
        "over_rllib_sac_256": 8.0,
        "over_rllib_sac_mlp_256": 5.0,
        "over_plain_torch_256": 1.25,
        "over_plain_torch_frozen_256": 0.625,
        "nbsp_over_sac_256": 0.75,
        "update_over_bare_256": 1.5,
    }
    assert set(ratios_of("768", results(sac=40, nbsp=30))) == {"nbsp_over_sac_768", "update_over_bare_768"}
    assert "| over_plain_torch_256 | 1.250 | 1.250 to 1.250 | 1.250, 1.250 |" in table("256", measured)


def test_a_share_of_the_ceiling_is_said_where_it_was_measured() -> None:
    measured = results(sac=40)
    speed = measured["contenders"]["sac"]["gflop_per_s"]
    assert f"| {speed:.1f} | not measured |" in table("256", measured)
    assert f"| {speed:.1f} | 50% |" in table("256", {**measured, "gemm": {"gflop_per_s": 2 * speed}})


def test_each_build_has_a_ratio_of_its_own() -> None:
    measured = results(sac=40, nbsp=30)
    measured["contenders"]["nbsp"]["builds"] = [30, 60, 20]
    measured["contenders"]["sac"]["builds"] = [40, 60, 10]
    assert build_ratios_of("256", measured) == {"nbsp_over_sac_256": [0.75, 1.0, 2.0]}
    assert "| nbsp_over_sac_256 | 0.750 | 0.750 to 0.750 | 0.750, 1.000, 2.000 |" in table("256", measured)


def test_a_slow_plain_loop_is_an_error_of_the_benchmark() -> None:
    assert unfair_sizes({"256": results(sac=40, plain_torch=36)}) == []
    (message,) = unfair_sizes({"256": results(sac=40, plain_torch=40), "768": results(sac=40, plain_torch=35)})
    assert message.startswith("768: the plain loop runs 35.0 GFLOP/s, under 0.9 of our 40.0")


def test_a_size_is_one_width_of_three_layers_or_all_widths(capsys: pytest.CaptureFixture[str]) -> None:
    assert (widths_of("768"), widths_of(CLEANRL)) == ([768, 768, 768], [256, 256])
    for wrong in ("0", "256x", "wide"):
        with pytest.raises(SystemExit):
            parse(["--sizes", wrong])
        assert f"{wrong!r} is no size: a width such as 256" in capsys.readouterr().err


def test_command_line_values_overrule_the_quick_plan() -> None:
    plan, json_file = parse(["--quick", "--windows", "3", "--sizes", "16", "32x8", "--json", "out.json"])
    assert (plan.windows, plan.sizes, plan.seconds, json_file) == (3, ("16", "32x8"), 2.0, Path("out.json"))
    assert plan.only == CONTENDERS + PARTS
    full, _ = parse([])
    assert full == Plan()
    assert full.windows >= 5
    assert full.seconds >= 20


KEYS = {
    "ratios",
    "intervals",
    "build_ratios",
    "contenders",
    "gemm",
    "update",
    "overlap",
    "small",
    "replay",
    "frame_replay",
    "settings",
    "versions",
    "machine",
}


def run_tiny(file: Path, *more: str) -> tuple[int, dict[str, Any]]:
    command = ["--quick", "--sizes", "16", "--windows", "1", "--seconds", "0.1", "--json", str(file), *more]
    code = main(command)
    report = json.loads(file.read_text())
    assert set(report) == KEYS
    for name, row in report["contenders"].items():
        # One window a build.
        assert row["builds"] == [w["env_steps"] / w["seconds"] for (w,) in row["windows"]], name
        assert row["env_steps_per_s"] == statistics.median(row["builds"]), name
        steps_per_update = UPDATE_PERIOD if name.endswith("atari") else 1
        for (window,) in row["windows"]:
            assert abs(window["updates"] - window["env_steps"] / steps_per_update) < 1, name
    return code, report


@pytest.mark.usefixtures("ray_session")
def test_what_was_not_asked_for_is_not_measured(tmp_path: Path) -> None:
    code, report = run_tiny(tmp_path / "throughput.json", "--only", "plain_torch", "sac", "gemm")
    assert set(report["contenders"]) == {"plain_torch_16", "sac_16"}
    assert set(report["ratios"]) == {"over_plain_torch_16"}
    assert report["gemm"]["16"]["gflop_per_s"] > 0
    assert (report["update"], report["overlap"], report["small"], report["replay"]) == ({}, {}, {}, {})
    speed = {name: row["gflop_per_s"] for name, row in report["contenders"].items()}
    assert code == int(speed["plain_torch_16"] < 0.9 * speed["sac_16"])


@pytest.mark.usefixtures("ray_session")
def test_contenders_are_built_anew_as_often_as_asked(tmp_path: Path) -> None:
    _, report = run_tiny(tmp_path / "throughput.json", "--only", "plain_torch", "sac", "--builds", "2")
    assert [len(row["builds"]) for row in report["contenders"].values()] == [2, 2]
    (ratios,) = report["build_ratios"].values()
    assert len(set(ratios)) == 2


@pytest.mark.usefixtures("ray_session")
def test_a_game_is_measured_beside_the_plain_loop(tmp_path: Path) -> None:
    _, report = run_tiny(tmp_path / "throughput.json", "--only", "atari")
    assert set(report["contenders"]) == {"plain_torch_atari", "sac_atari"}
    assert set(report["ratios"]) == {"over_plain_torch_atari"}
    assert report["gemm"]["atari"]["gflop_per_s"] > 0
    replay = report["frame_replay"]
    assert (replay["rows"], replay["prior_rows"]) == (2_000, 1_000)
    assert replay["prior_bytes"] < 1.1 * 1_000 * 84 * 84


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_a_whole_run_measures_every_contender_and_part(tmp_path: Path) -> None:
    _, report = run_tiny(tmp_path / "throughput.json")
    assert set(report["contenders"]) == {*(f"{name}_16" for name in CONTENDERS), "plain_torch_atari", "sac_atari"}
    ratios = {f"{name}_16" for name in (*RATIOS, "update_over_bare")}
    assert set(report["ratios"]) == {*ratios, "over_plain_torch_atari"}
    assert report["small"].keys() == {"replayed_ms", "stepwise_ms", "ratio", "interval", "windows"}
    assert report["replay"].keys() == {"rows", "sample_ms", "bytes"}
    assert report["overlap"]["16"].keys() >= {"sampling_ms", "updates_ms", "sum_of_parts_ms", "overlapped_ms"}
    # The MLP critics put into RLlib make its arithmetic ours.
    gflop_per_update = {name: row["gflop_per_update"] for name, row in report["contenders"].items()}
    assert gflop_per_update["rllib_sac_mlp_16"] == pytest.approx(gflop_per_update["sac_16"])
