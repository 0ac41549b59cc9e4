"""A run's state and checkpoints: it goes on from them, and a finished run stays finished."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from rllib_nbsp import ContinualSACConfig, NBSPConfig, register_method
from rllib_nbsp.methods.agent import Agent
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings
from rllib_nbsp.settings import ReplaySettings
from tests.algorithm.conftest import finish, rows_of, same, weights
from tests.tiny import short_run


def test_a_state_goes_on_with_remote_rollout_workers(tmp_path: Path) -> None:
    algo = short_run(NBSPConfig()).curriculum(cycles=1).build_algo()
    algo.train()
    state, steps = algo.get_state(), algo.env_steps
    algo.stop()
    config = short_run(NBSPConfig()).curriculum(cycles=1).env_runners(num_env_runners=1, num_cpus_per_env_runner=0.5)
    restored = config.build_algo()
    restored.set_state(state)
    restored.train()
    assert restored.env_steps > steps
    restored.stop()


def test_save_and_restore_keep_temperature_masks_and_place(tmp_path: Path) -> None:
    algo = short_run(NBSPConfig()).build_algo()
    while algo.train()["visit"] < 3:
        pass
    algo.train()
    path = algo.save_to_path(tmp_path / "checkpoint")
    before, learner = weights(algo), algo.learner_group._learner
    masks = learner.method.get_state()["masks"]
    place = (algo.visit.number, algo.schedule.progress.env_steps, algo.env_steps, algo.updates, algo.schedule.extra)
    algo.stop()

    restored = short_run(NBSPConfig()).build_algo()
    restored.restore_from_path(path)
    after = restored.learner_group._learner
    assert same(before, weights(restored))
    assert before["log_alpha"] != 0.0
    for name, layers in masks.items():
        assert all(np.array_equal(a, b) for a, b in zip(layers, after.method.get_state()["masks"][name], strict=True))
    assert min(mask.min() for layers in masks.values() for mask in layers) < 1.0
    there = (
        restored.visit.number,
        restored.schedule.progress.env_steps,
        restored.env_steps,
        restored.updates,
        restored.schedule.extra,
    )
    assert there == place
    assert restored.schedule.extra["scoring_env_steps"] == 400
    while not (result := restored.train())["done"]:
        pass
    assert result["visit"] == 4
    restored.stop()


def test_going_back_in_a_running_algorithm_is_what_a_new_one_does() -> None:
    algo = short_run(NBSPConfig()).build_algo()
    algo.train()
    algo.train()
    state = algo.get_state()
    other = short_run(NBSPConfig()).build_algo()
    other.set_state(copy.deepcopy(state))
    while algo.train()["visit"] < 3:
        pass
    assert algo.replay.prior_size
    algo.set_state(state)
    assert len(algo.replay) == algo.replay.prior_size == 0
    for restored in (algo, other):
        while not restored.train()["done"]:
            pass
        restored.stop()
    assert same(weights(algo), weights(other))


def test_looking_at_a_finished_run_leaves_it_finished(tmp_path: Path) -> None:
    algo = short_run(ContinualSACConfig(), tmp_path).curriculum(cycles=1).build_algo()
    while not algo.train()["done"]:
        pass
    other = short_run(ContinualSACConfig(), tmp_path).curriculum(cycles=1).build_algo()
    other.set_state(algo.get_state())
    assert other.train()["done"]
    assert json.loads((tmp_path / "status.json").read_text())["done"] is True
    algo.stop()
    other.stop()


def test_an_algorithm_that_becomes_another_trial_does_what_a_new_one_does(tmp_path: Path) -> None:
    # As Tune has it with `reuse_actors`, whatever ran in the process before.
    other, _ = finish(short_run(ContinualSACConfig().method("cbp", maturity=10), tmp_path / "new").debugging(seed=3))
    algo = short_run(NBSPConfig(), tmp_path / "first").build_algo()
    algo.train()
    config = short_run(ContinualSACConfig().method("cbp", maturity=10), tmp_path / "second").debugging(seed=3)
    assert algo.reset_config({"run": config.settings.model_dump()})
    while not algo.train()["done"]:
        pass
    algo.stop()
    assert same(weights(algo), weights(other))
    first, second = (rows_of(tmp_path / name, "evaluations.jsonl") for name in ("new", "second"))
    assert [row | {"wall_s": 0} for row in first] == [row | {"wall_s": 0} for row in second]


class Unbuildable(ContinualMethod):
    """A method of a user's own that fails where it is built."""

    def __init__(self, config: MethodSettings, agent: Agent, replay: ReplaySettings) -> None:
        raise KeyError("not at the start")


def test_a_trial_that_cannot_be_built_does_not_harm_the_next_in_its_process(tmp_path: Path) -> None:
    register_method("unbuildable", Unbuildable)
    good = short_run(ContinualSACConfig(), tmp_path / "good").curriculum(cycles=1)
    algo = short_run(NBSPConfig(), tmp_path / "first").build_algo()
    algo.train()
    bad = {**good.settings.model_dump(), "method": "unbuildable", "results_dir": str(tmp_path / "bad")}
    for _ in range(2):  # after a good one, and after another bad one
        with pytest.raises(KeyError, match="not at the start"):
            algo.reset_config({"run": bad})
    assert algo.reset_config({"run": good.settings.model_dump()})
    while not algo.train()["done"]:
        pass
    algo.stop()
    assert json.loads((tmp_path / "good" / "status.json").read_text())["done"] is True
