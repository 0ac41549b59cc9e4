"""Whole runs on real Ray: the point mass for seconds, a game, and one pair of real Meta-World tasks."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rllib_nbsp import NBSP, ContinualSAC, ContinualSACConfig, NBSPConfig
from rllib_nbsp.envs.point_mass import PointMassEnv
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.schedule import EXTRA
from tests.algorithm.conftest import PAIR, finish, rows_of, same, weights
from tests.tiny import short_run

# What a run does


def test_a_run_visits_every_task_twice_and_files_its_rows(tmp_path: Path) -> None:
    algo, results = finish(short_run(NBSPConfig(), tmp_path))
    boundary = [row for row in rows_of(tmp_path, "evaluations.jsonl") if row["phase"] == "boundary"]
    assert [(row["visit"], row["eval_task"]) for row in boundary] == [(v, t) for v in (1, 2, 3, 4) for t in PAIR]
    assert [row["trained_task"] for row in boundary[::2]] == PAIR * 2
    assert all(row["episodes"] == len(row["per_episode"]) == 2 for row in boundary)
    assert [row["env_steps"] for row in boundary[::2]] == [240, 480, 720, 960]
    periodic = [row for row in rows_of(tmp_path, "evaluations.jsonl") if row["phase"] == "periodic"]
    assert {row["env_steps"] % 240 for row in periodic} == {120}
    training = rows_of(tmp_path, "training.jsonl")
    assert {"success_window", "alpha", "qf_loss", "masked_frac", "dormant_frac", "updates_per_s"} <= training[-1].keys()
    assert json.loads((tmp_path / "status.json").read_text())["done"] is True
    masks = np.load(tmp_path / "neurons" / "visit_01.npz")["policy/0/mask"]
    assert masks.shape == (16,)
    assert sorted(np.load(tmp_path / "weights" / "visit_04.npz")) == sorted(weights(algo))
    assert results[-1]["visit"] == results[-1]["num_visits"] == 4
    cost = json.loads((tmp_path / "cost.json").read_text())
    module = weights(algo)
    trained = [value for name, value in module.items() if name.split(".")[0] in NETWORKS]
    assert cost["trainable_parameters"] == sum(value.size for value in trained)
    assert cost["network_bytes"] == 4 * sum(value.size for value in module.values())  # targets and log_alpha too
    assert cost["method_bytes"] == 3 * 2 * 16 * 4  # a mask for every hidden neuron
    assert cost["prior_bytes"] == algo.replay.nbytes[1] > 0
    # 200 steps after each of four visits; nothing but the main phase.
    assert [cost[name] for name in EXTRA] == [800, 0, 0]


def on_breakout(config: ContinualSACConfig, results: Path) -> ContinualSACConfig:
    """Two visits of a game that a random player ends in two hundred steps."""
    config = (
        config.curriculum(suite="atari", tasks=["Breakout"], cycles=2, visit_env_steps=300, warmup_env_steps=60)
        .training(batch_size=8, updates_per_env_step=0.1, target_update_env_steps=100, tau=1.0)
        .networks(conv=[[4, 8, 4], [6, 4, 2]], hidden=[16])
        .replay(capacity=300, prior_capacity=100, interval=3)
        .visit(early_stop=None)
        .evaluation(periodic_episodes=0, boundary_episodes=2, num_envs=2, deterministic=False, report_env_steps=100)
        .env_runners(num_envs_per_env_runner=1)
    )
    if config.given.get("method") == "nbsp":
        config.training(gpm="return", score_env_steps=900)
    return config.results(results)


def test_a_run_on_a_game_learns_from_frames_and_masks_channels(tmp_path: Path) -> None:
    algo, _ = finish(on_breakout(NBSPConfig(), tmp_path))
    assert (algo.env_steps, algo.updates) == (600, 48)
    rows = rows_of(tmp_path, "evaluations.jsonl")
    assert [row["visit"] for row in rows] == [1, 2]
    assert all(row["success_rate"] is None and row["episodes"] == 2 and row["mean_return"] >= 0 for row in rows)
    neurons = np.load(tmp_path / "neurons" / "visit_01.npz")
    masks = [neurons[f"policy/{layer}/mask"] for layer in range(3)]
    assert [len(mask) for mask in masks] == [4, 6, 16]
    assert sum((mask < 1).sum() for mask in masks) == int(0.2 * 26)
    assert algo.replay.prior_size == 100
    newest = algo.replay.newest(2)["obs"]
    assert newest.shape == (2, 4, 84, 84)
    training = rows_of(tmp_path, "training.jsonl")
    assert training[-1]["success_window"] is None
    assert any(row["mean_return"] is not None and row["mean_return"] >= 0 for row in training)


def test_tasks_that_periodic_evaluation_leaves_out_change_nothing_else(tmp_path: Path) -> None:
    rows = {}
    for which in ("all", "seen", "current"):
        finish(short_run(ContinualSACConfig(), tmp_path / which).evaluation(periodic_tasks=which))
        rows[which] = [
            {key: value for key, value in row.items() if key not in ("wall_s", "time", "config_hash")}
            for row in rows_of(tmp_path / which, "evaluations.jsonl")
        ]
    by_visit = {1: {"reach-left"}, 2: {"reach-right"}, 3: {"reach-left"}, 4: {"reach-right"}}
    for which, kept in (
        ("current", lambda row: row["eval_task"] in by_visit[row["visit"]]),
        ("seen", lambda row: row["visit"] > 1 or row["eval_task"] == "reach-left"),
    ):
        assert rows[which] == [row for row in rows["all"] if row["phase"] == "boundary" or kept(row)]
        assert len(rows[which]) < len(rows["all"])


def test_updates_are_counted_against_the_steps_really_added() -> None:
    algo, _ = finish(short_run(ContinualSACConfig()))
    # 4 visits of 240 steps, 80 of them warm-up, one update every 4 steps.
    assert algo.env_steps == 960
    assert algo.updates == 4 * (240 - 80) // 4


@pytest.mark.parametrize(("method", "stop"), [("sac", 100), ("nbsp", 240), ("ancl", 400), ("sac", 10_000)])
def test_a_run_that_ends_early_is_the_beginning_of_one_that_does_not(method: str, stop: int, tmp_path: Path) -> None:
    config = short_run(ContinualSACConfig().method(method), tmp_path / "whole")
    whole, _ = finish(config)
    part = config.settings.model_copy(update={"stop_env_steps": stop, "results_dir": str(tmp_path / "part")})
    algo, results = finish(ContinualSACConfig.from_settings(part))
    assert algo.env_steps - algo.schedule.extra["auxiliary_env_steps"] == min(stop, 960)
    assert results[-1]["visit"] == min(4, -(-stop // 240))
    assert json.loads((tmp_path / "part" / "status.json").read_text())["done"] is True
    beside = ("wall_s", "config_hash")
    rows, every = (
        [{k: v for k, v in row.items() if k not in beside} for row in rows_of(tmp_path / name, "evaluations.jsonl")]
        for name in ("part", "whole")
    )
    assert [row["eval_task"] for row in rows[-2:]] == PAIR
    assert {(row["phase"], row["env_steps"]) for row in rows[-2:]} == {("boundary", algo.env_steps)}
    cut = stop % 240 > 0 and stop < 960
    assert rows[:-2] == every[: len(rows) - 2] and cut is (rows[-2:] != every[len(rows) - 2 : len(rows)])
    # Sampling drew what the whole run's did.
    assert same(weights(algo), weights(whole)) is (stop >= 960)


def test_mastery_ends_a_visit_early() -> None:
    config = short_run(ContinualSACConfig()).curriculum(cycles=1)
    config.visit(early_stop={"success_rate": 0.0, "window_episodes": 2, "min_env_steps": 120})
    algo, _ = finish(config)
    assert algo.env_steps < 2 * 240


def test_gymnasium_tasks_of_ones_own_run_with_a_return_goal(tmp_path: Path) -> None:
    config = short_run(NBSPConfig(), tmp_path).curriculum(
        suite="gymnasium",
        tasks=["MountainCarContinuous-v0@return>=90", "MountainCarContinuous-v0@return>=-1"],
        cycles=1,
        visit_env_steps=1100,
    )
    finish(config.evaluation(periodic_episodes=0, boundary_episodes=1, num_envs=1))
    assert len(rows_of(tmp_path, "evaluations.jsonl")) == 4


def test_a_pair_of_real_meta_world_tasks_runs_through(tmp_path: Path) -> None:
    config = short_run(NBSPConfig(), tmp_path).curriculum(
        suite="metaworld", tasks=["window-open-v3", "drawer-close-v3"], cycles=1, visit_env_steps=1200
    )
    algo, _ = finish(config.training(score_env_steps=600).evaluation(periodic_episodes=0, boundary_episodes=2))
    rows = rows_of(tmp_path, "evaluations.jsonl")
    assert {row["eval_task"] for row in rows} == {"window-open-v3", "drawer-close-v3"}
    assert {episode["length"] for row in rows for episode in row["per_episode"]} == {500}
    assert algo.replay.prior_size == 100


@pytest.mark.slow
def test_remote_workers_and_learners_give_a_complete_run(tmp_path: Path) -> None:
    config = short_run(NBSPConfig(), tmp_path).training(rollout_fragment_length=10)
    config.env_runners(num_env_runners=2, num_cpus_per_env_runner=0.5).learners(num_learners=2)
    finish(config)
    boundary = [row for row in rows_of(tmp_path, "evaluations.jsonl") if row["phase"] == "boundary"]
    assert [(row["visit"], row["eval_task"]) for row in boundary] == [(v, t) for v in (1, 2, 3, 4) for t in PAIR]


def test_nbsp_is_continual_sac_with_its_method() -> None:
    assert issubclass(NBSP, ContinualSAC)
    assert NBSP.get_default_config().given["method"] == "nbsp"


# Runs that must be the same, or must not


def test_same_seed_same_result_on_a_game(tmp_path: Path) -> None:
    first, _ = finish(on_breakout(ContinualSACConfig(), tmp_path / "a"))
    second, _ = finish(on_breakout(ContinualSACConfig(), tmp_path / "b"))
    assert same(weights(first), weights(second))


def test_same_seed_same_result_and_another_seed_another(tmp_path: Path) -> None:
    first, _ = finish(short_run(NBSPConfig(), tmp_path / "a"))
    torch.manual_seed(123)  # nothing of a run comes from the global streams
    np.random.seed(123)
    second, _ = finish(short_run(NBSPConfig(), tmp_path / "b"))
    other, _ = finish(short_run(NBSPConfig().debugging(seed=1)))
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(other))
    drop = ("wall_s", "env_steps_per_s", "updates_per_s")
    for name in ("evaluations.jsonl", "training.jsonl"):
        a, b = (rows_of(tmp_path / side, name) for side in "ab")
        assert [{k: v for k, v in r.items() if k not in drop} for r in a] == [
            {k: v for k, v in r.items() if k not in drop} for r in b
        ]


def test_evaluation_does_not_change_training() -> None:
    often, _ = finish(short_run(ContinualSACConfig()))
    never, _ = finish(short_run(ContinualSACConfig()).evaluation(periodic_episodes=0, boundary_episodes=1))
    assert same(weights(often), weights(never))


def test_scoring_does_not_change_training() -> None:
    plain, _ = finish(short_run(ContinualSACConfig()))
    scored = short_run(ContinualSACConfig())
    scored.given = {**scored.given, "score_all_methods": {"score_env_steps": 200}}
    assert same(weights(plain), weights(finish(scored)[0]))


def test_nbsp_without_masks_and_replay_is_sac_bit_for_bit() -> None:
    sac, _ = finish(short_run(ContinualSACConfig()))
    bare, _ = finish(short_run(NBSPConfig()).training(skill_frac=0.0, with_replay=False))
    ones, _ = finish(short_run(NBSPConfig()).training(uniform_lr=1.0, with_replay=False))
    masked, _ = finish(short_run(NBSPConfig()).training(with_replay=False))
    assert same(weights(sac), weights(bare))
    assert same(weights(sac), weights(ones))
    assert not same(weights(sac), weights(masked))


def test_an_empty_prior_store_is_mask_only_bit_for_bit() -> None:
    mask_only, _ = finish(short_run(NBSPConfig()).training(with_replay=False))
    empty, _ = finish(short_run(NBSPConfig()).replay(prior_capacity=0))
    both, _ = finish(short_run(NBSPConfig()))
    assert same(weights(mask_only), weights(empty))
    assert not same(weights(mask_only), weights(both))
    assert both.replay.prior_size == 100
    assert sorted(np.bincount(both.replay.prior["task"])) == [50, 50]


def test_a_network_of_its_own_for_acting_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # As with a Learner in another process.
    one, _ = finish(short_run(NBSPConfig()))
    monkeypatch.setattr(ContinualSAC, "_can_share_network", lambda self: False)
    two, _ = finish(short_run(NBSPConfig()))
    assert two.env_runner.module is not two.learner_group._learner.module["default_policy"].unwrapped()
    assert same(weights(one), weights(two))


def test_a_result_speaks_of_the_visit_that_it_ends_and_holds_no_none() -> None:
    _, results = finish(short_run(NBSPConfig()))
    ends = [result for result in results if result["visit_env_steps"] == result["visit_max_env_steps"]]
    assert [(end["visit"], end["task"]) for end in ends] == [(1, PAIR[0]), (2, PAIR[1]), (3, PAIR[0]), (4, PAIR[1])]
    assert all(end["success_window"] >= 0.0 and end["mean_return"] < 0.0 for end in ends)
    assert None not in {value for result in results for value in result.values() if not isinstance(value, dict | list)}


def test_environments_that_were_built_anew_are_counted_in_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    step, steps = PointMassEnv.step, itertools.count(1)

    def failing(self: PointMassEnv, action: np.ndarray) -> Any:
        if next(steps) in (50, 130, 131):
            raise OSError("now and then")
        return step(self, action)

    monkeypatch.setattr(PointMassEnv, "step", failing)
    finish(short_run(ContinualSACConfig(), tmp_path).curriculum(cycles=1))
    counts = [(row["rebuilt_envs"], row["lost_fragments"]) for row in rows_of(tmp_path, "training.jsonl")]
    assert counts == sorted(counts) and counts[0] == (1, 0) and counts[-1] == (3, 0)
