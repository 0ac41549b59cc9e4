"""The learning benchmark: both arms meet the same tasks, a run repeats itself, curves and verdicts are arithmetic."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.statistics import interval
from benchmarks import learning
from benchmarks.contender import Episode
from benchmarks.curves import Comparison, TaskCurves, draw, last_half_mean, window_means
from benchmarks.learning import ARMS, HIDDEN, Job, Length, Report, main, parse, run, training_env
from benchmarks.plain_sac import PlainLoop
from rllib_nbsp.envs import SUITES
from rllib_nbsp.sampling.sampler import Sampler
from tests.tiny import build_config

TASK = "reach-left"
LENGTH = Length(env_steps=320, warmup=280, window=80)
"""Episodes of 50 steps: five end in the warm-up, and the sixth behind it."""


def job(arm: str, seed: int = 0) -> Job:
    return Job(TASK, arm, seed, LENGTH)


def episodes(*values: tuple[int, float, bool]) -> list[Episode]:
    return [Episode(*value) for value in values]


# Runs


@pytest.mark.usefixtures("ray_session")
def test_all_arms_begin_alike_and_then_learn_by_themselves() -> None:
    runs = {arm: run(job(arm)) for arm in ARMS}
    steps, returns, successes = zip(*runs["plain_torch"]["episodes"], strict=True)
    assert steps == (50, 100, 150, 200, 250, 300)
    for arm, result in runs.items():
        assert {key: result[key] for key in ("task", "arm", "seed")} == {"task": TASK, "arm": arm, "seed": 0}
        assert result["length"] == asdict(LENGTH)
        assert result["seconds"] > 0.0
        other_steps, other_returns, other_successes = zip(*result["episodes"], strict=True)
        assert other_steps == steps
        # The same goals, starting states and random actions.
        assert other_returns[:5] == pytest.approx(returns[:5], rel=1e-6)
        assert other_successes[:5] == successes[:5]
    assert len({result["episodes"][5][1] for result in runs.values()}) == len(ARMS)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("arm", ["plain_torch", "sac"])
def test_a_run_repeats_itself_by_its_seed(arm: str) -> None:
    first, again, other = (run(job(arm, seed))["episodes"] for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("suite", "task", "steps"), [("point_mass", TASK, 50), ("gymnasium", "Pendulum-v1@return>=-300", 200)]
)
def test_the_plain_loops_environment_is_that_of_our_sampling(suite: str, task: str, steps: int) -> None:
    config = build_config(seed=7).curriculum(suite=suite, tasks=[task], cycles=1)
    config.env_runners(num_envs_per_env_runner=1)
    run_of = config.resolved()
    sampler = Sampler(run_of.suite, *run_of.spaces, act=None, settings=run_of.settings)  # type: ignore[arg-type]
    columns, _ = sampler.sample(
        task=task, version=learning.FIRST_VERSION, num_vector_steps=steps + 1, random_actions=True
    )
    env = training_env(suite, task, seed=7)
    assert np.array_equal(env.reset()[0], columns["obs"][0])
    for action in columns["actions"][:steps]:
        obs, *_, truncated, _ = env.step(action)
    assert truncated
    assert np.array_equal(obs, columns["new_obs"][steps - 1])
    assert np.array_equal(env.reset()[0], columns["obs"][steps])
    sampler.close()


def test_the_plain_loop_updates_once_a_step_after_its_warm_up_and_bootstraps_through_time_limits() -> None:
    env = training_env("point_mass", TASK, 0)
    loop = PlainLoop(env, (8, 8), SUITES["point_mass"].success, replay_seed=0, uniform=np.random.default_rng(0))
    loop.warm_up(60)
    assert (loop.env_steps, loop.agent.updates) == (60, 0)
    for _ in range(45):
        loop.train()
    assert (loop.env_steps, loop.agent.updates) == (105, 45)
    assert [e.env_steps for e in loop.episodes] == [50, 100]
    stored = [column[:105] for column in loop._ring._columns]
    obs, actions, rewards, next_obs, terminateds = stored
    assert not terminateds.any()
    assert np.abs(actions).max() <= 1.0
    # Within an episode a row goes on where the one before it ended; the next one starts elsewhere.
    follows = (next_obs[:-1] == obs[1:]).all(1)
    assert np.flatnonzero(~follows).tolist() == [49, 99]
    assert [e.episode_return for e in loop.episodes] == pytest.approx(
        [rewards[:50].sum(), rewards[50:100].sum()], rel=1e-4
    )


def test_an_episode_is_a_success_if_any_step_was_one() -> None:
    class Lucky:
        """Two episodes of three steps; the second step of the first one is a success."""

        observation_space, action_space = SUITES["point_mass"].task_spaces(TASK)

        def __init__(self) -> None:
            self.steps = 0

        def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
            return np.zeros(6, np.float32), {}

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            self.steps += 1
            return np.zeros(6, np.float32), 2.0, False, self.steps % 3 == 0, {"success": self.steps == 2}

    loop = PlainLoop(
        Lucky(),  # type: ignore[arg-type]
        (8,),
        SUITES["point_mass"].success,
        replay_seed=0,
        uniform=np.random.default_rng(0),
    )
    loop.warm_up(7)
    assert loop.episodes == [(3, 6.0, True), (6, 6.0, False)]


# Curves


def test_windows_and_the_last_half_by_hand() -> None:
    run_of = episodes((3, 10.0, False), (5, 20.0, True), (6, 40.0, True), (11, 7.0, False))
    # Up to and with step 5, from 6 to 10, 11 and 12.
    assert window_means("return", run_of, 12, 5).tolist() == [15.0, 40.0, 7.0]
    assert window_means("success", run_of, 12, 5).tolist() == [0.5, 1.0, 0.0]
    assert math.isnan(window_means("return", run_of, 20, 5)[3])
    assert last_half_mean("return", run_of, 12) == 7.0  # step 6 is the last of the first half
    assert last_half_mean("success", run_of, 11) == 0.5
    assert math.isnan(last_half_mean("return", run_of, 30))


def arm_of(*returns: float) -> dict[int, Sequence[Episode]]:
    """Seeds 0, 1, ... with one episode in each half of 10 steps, of which the first returns nothing."""
    return {seed: episodes((4, 0.0, False), (9, value, value > 10.0)) for seed, value in enumerate(returns)}


def test_arms_are_compared_by_seed() -> None:
    arms = {"plain_torch": arm_of(100.0, 1.0, 5.0), "sac": arm_of(101.0, 4.0)}
    result = TaskCurves.of(arms, 10, 5)
    comparison, *_ = (c for c in result.comparisons if c.metric == "return")
    assert (comparison.arm, comparison.base) == ("sac", "plain_torch")
    # 1 and 3 over the two seeds that both have: 2 +- t(0.975, 1) sqrt(2) / sqrt(2).
    assert comparison.last_half.mean == 2.0
    assert comparison.last_half.half_width == pytest.approx(12.7062, abs=1e-3)
    assert comparison.last_half.n == 2
    assert [window.mean for window in comparison.windows] == [0.0, 2.0]
    assert result.curves["plain_torch"]["return"][1] == interval([100.0, 1.0, 5.0])
    assert [point.mean for point in result.curves["sac"]["success"]] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (
            (9.0, 8.9, 9.1, 9.0, 9.0),
            "return: sac learns WORSE than plain_torch: -1 [-1, -1] over the last half, 5 seeds of both",
        ),
        (
            (11.0, 11.1, 10.9, 11.0, 11.0),
            "return: sac learns BETTER than plain_torch: +1 [+1, +1] over the last half, 5 seeds of both",
        ),
        (
            (9.0, 14.0, 7.0, 9.0, 11.0),
            "return: sac shows no difference to plain_torch: +0 [-3, +3] over the last half, 5 seeds of both",
        ),
        (
            (11.0, 11.1),
            "return: sac is not to be told from plain_torch: +1 [+0, +2] over the last half, 2 seeds of both; that "
            "takes 5 seeds or more",
        ),
        (
            (90.0,),
            "return: sac is not to be told from plain_torch: +80 over the last half, 1 seed of both; that takes 5 "
            "seeds or more",
        ),
    ],
)
def test_the_verdict_is_what_the_interval_of_the_last_half_says(ours: tuple[float, ...], verdict: str) -> None:
    result = TaskCurves.of({"plain_torch": arm_of(*[10.0] * 5), "sac": arm_of(*ours)}, 10, 5)
    (comparison,) = (c for c in result.comparisons if c.metric == "return")
    assert comparison.verdict == verdict
    assert f"reach-left, {verdict}" in result.table("reach-left")


def test_a_table_has_a_row_a_window_and_a_figure_is_drawn(tmp_path: Path) -> None:
    arms = {"plain_torch": arm_of(1.0, 3.0), "sac": arm_of(2_000.0, 2_000.0)}
    result = TaskCurves.of(arms, 12, 5)
    lines = result.table("reach-left").splitlines()
    assert "| training return, steps to | plain_torch | sac | sac - plain_torch |" in lines
    assert "| 10 | 2 ± 13 | 2,000 ± 0 | 1,998 ± 13 |" in lines
    assert "| 12 |  |  |  |" in lines  # no episode ended there
    draw({"reach-left": result}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_a_report_is_plain_json() -> None:
    result = TaskCurves.of({"plain_torch": arm_of(1.0), "sac": arm_of(2.0)}, 12, 5)
    report = json.loads(json.dumps(result.report(), allow_nan=False))
    assert report["curves"]["sac"]["return"][1] == {"mean": 2.0, "low": None, "high": None, "n": 1, "kind": "none"}
    (comparison,) = (c for c in report["comparisons"] if c["metric"] == "return")
    assert comparison["last_half"]["mean"] == 1.0
    assert comparison["windows"][2]["mean"] is None


def test_three_arms_are_compared_two_by_two() -> None:
    arms = {"plain_torch": arm_of(1.0), "sac": arm_of(2.0), "sac_delayed": arm_of(4.0)}
    pairs = {(c.arm, c.base) for c in TaskCurves.of(arms, 10, 5).comparisons if isinstance(c, Comparison)}
    assert pairs == {("sac", "plain_torch"), ("sac_delayed", "plain_torch"), ("sac_delayed", "sac")}


# The file and the command line


def finished(arm: str, seed: int, value: float = 1.0) -> dict[str, Any]:
    rows = [[50, value, False], [300, value, True]]
    return {**asdict(job(arm, seed)), "seconds": 1.0, "episodes": rows}


def test_what_a_file_has_is_left_out_and_another_length_is_refused() -> None:
    report = Report([finished("sac", 0)], None)
    assert report.missing([job("sac", 0), job("sac", 1), job("plain_torch", 0)]) == [
        job("sac", 1),
        job("plain_torch", 0),
    ]
    longer = replace(job("sac", 0), length=replace(LENGTH, env_steps=640))
    with pytest.raises(ValueError, match=r"reach-left, sac, seed 0 is there with Length\(env_steps=320"):
        report.missing([longer])


def test_a_file_has_every_finished_run_at_once(tmp_path: Path) -> None:
    file = tmp_path / "learning.json"
    report = Report([], file)
    for count, (arm, seed) in enumerate([("sac", 0), ("plain_torch", 0)], start=1):
        report.add(finished(arm, seed, value=float(count)))
        written = json.loads(file.read_text())
        assert len(written["runs"]) == count
    assert written["runs"][0] == finished("sac", 0)
    (comparison,) = (c for c in written["tasks"][TASK]["comparisons"] if c["metric"] == "return")
    assert (comparison["arm"], comparison["base"], comparison["last_half"]["mean"]) == ("sac", "plain_torch", -1.0)
    assert written["settings"]["hidden"] == list(HIDDEN)
    assert not file.with_suffix(".tmp").exists()


def test_lengths_are_the_suites_unless_they_are_given() -> None:
    options = parse(["--seeds", "2", "--arms", "sac"])
    assert [(j.task, j.seed) for j in options.jobs] == [
        *(("Pendulum-v1@return>=-300", seed) for seed in range(2)),
        *(("button-press-v3", seed) for seed in range(2)),
    ]
    assert [j.length for j in options.jobs[1:3]] == [Length(20_000, 1_000, 1_000), Length(100_000, 5_000, 10_000)]
    (one,) = parse(["--tasks", TASK, "--seeds", "1", "--arms", "sac", "--env-steps", "2000", "--window", "500"]).jobs
    assert (one.suite, one.length) == ("point_mass", Length(2_000, 1_000, 500))
    assert (options.json_file, parse(["--resume", "a.json"]).json_file) == (None, Path("a.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "Pendulum-v9"], "gymnasium task 'Pendulum-v9'"),
        (["--tasks", "CartPole-v1@return>=100"], "the plain loop takes vectors and continuous actions"),
        (["--tasks", TASK, "--env-steps", "1000"], "no step is left to learn from"),
    ],
)
def test_what_cannot_be_run_is_said_at_once(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert message in capsys.readouterr().err


def test_a_run_is_resumed_in_processes_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "learning.json"
    command = ["--tasks", TASK, "--env-steps", "320", "--warmup", "280", "--window", "80", "--resume", str(file)]
    assert main([*command, "--arms", "plain_torch", "--seeds", "1"]) == 0
    (first,) = json.loads(file.read_text())["runs"]
    assert main([*command, "--arms", "plain_torch", "--seeds", "2"]) == 0
    runs = json.loads(file.read_text())["runs"]
    assert runs[0] == first
    assert [(r["arm"], r["seed"]) for r in runs] == [("plain_torch", 0), ("plain_torch", 1)]
    assert runs[1]["episodes"] == run(job("plain_torch", 1))["episodes"]
    assert "### reach-left" in capsys.readouterr().out
    assert file.with_suffix(".png").exists()
    assert main([*command, "--arms", "plain_torch", "--seeds", "2", "--window", "40"]) == 2
    assert "seed 0 is there with Length(" in capsys.readouterr().err
