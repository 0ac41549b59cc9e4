"""Ray Tune takes our configuration: its dict form, search spaces inside, schedulers, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from ray.tune.result import TRIAL_INFO

from analysis import load_evaluations
from rllib_nbsp import NBSP, ContinualSACConfig, NBSPConfig
from tests.algorithm.conftest import finish, rows_of
from tests.tiny import short_run


def fit(config: ContinualSACConfig, folder: Path, name: Any = NBSP, **run_config: Any) -> tune.ResultGrid:
    """Tune's results of a search over a configuration by what is left of its tasks, under ASHA."""
    scheduler = tune.schedulers.ASHAScheduler(max_t=run_config.pop("max_t", 100))
    return tune.Tuner(
        name,
        param_space=config,
        tune_config=tune.TuneConfig(metric="final_success", mode="max", scheduler=scheduler),
        run_config=tune.RunConfig(storage_path=str(folder), name="search", verbose=0, **run_config),
    ).fit()


def lost_once(folder: Path) -> Callable[..., None]:
    """A callback with which the third iteration ends in an error, the first time."""

    def on_train_result(*, result: dict[str, Any], **kwargs: Any) -> None:
        if result["training_iteration"] == 3 and not (folder / "lost").exists():
            (folder / "lost").touch()
            raise RuntimeError("the machine is lost")

    return on_train_result


def test_a_configuration_comes_back_from_rllibs_dict_form() -> None:
    config = short_run(NBSPConfig()).training(skill_frac=0.3).env_runners(num_env_runners=2).debugging(seed=5)
    for again in (NBSPConfig.from_dict(config.to_dict()), NBSPConfig().update_from_dict(config.to_dict())):
        assert again.to_dict() == config.to_dict()
        assert again.settings == config.settings
    algo = NBSP(config=short_run(NBSPConfig()).curriculum(cycles=1).to_dict())
    assert algo.train()["visit"] == 1
    algo.stop()


def test_a_method_is_chosen_by_a_search_and_names_its_arm(tmp_path: Path) -> None:
    config = short_run(ContinualSACConfig()).method(tune.grid_search(["sac", "l2"]))
    variants = [config.from_dict({**config.to_dict(), "given": {**config.given, "method": m}}) for m in ("sac", "l2")]
    assert [(v.settings.method, v.settings.arm) for v in variants] == [("sac", "sac"), ("l2", "l2")]
    assert config.results(tmp_path, arm="mine").from_dict(variants[0].to_dict()).settings.arm == "sac"


def test_a_trial_of_a_search_files_its_rows_below_the_searchs_folder(tmp_path: Path) -> None:
    config = short_run(NBSPConfig(), tmp_path).curriculum(cycles=1)
    algo = NBSP(config={**config.to_dict(), TRIAL_INFO: SimpleNamespace(trial_id="t1")})
    algo.train()
    algo._trial_info = SimpleNamespace(trial_id="t2")  # as Tune has it with `reuse_actors`
    algo.reset_config(config.to_dict())
    algo.train()
    algo.stop()
    folders = [tmp_path / "sequence" / f"nbsp-{name}" / "seed_0" for name in ("t1", "t2")]
    assert [rows_of(folder, "training.jsonl")[0]["arm"] for folder in folders] == ["nbsp-t1", "nbsp-t2"]


def test_a_result_carries_what_a_search_for_retention_needs() -> None:
    _, results = finish(short_run(NBSPConfig()).curriculum(cycles=1))
    first, last = results[0], results[-1]
    assert math.isnan(first["asr"]) and math.isnan(first["evaluation"]["reach-left"]["success_rate"])
    assert 0.0 <= last["asr"] <= 1.0 and last["evaluation"]["reach-right"]["episodes"] == 2
    assert {"asr", "fm", "fwt", "final_success", "evaluation"} <= first.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", [NBSP, "NBSP"])
def test_tune_searches_inside_a_configuration(tmp_path: Path, name: Any) -> None:
    config = (
        short_run(NBSPConfig())
        .curriculum(cycles=1)
        .training(skill_frac=tune.grid_search([0.1, 0.3]), actor_lr=tune.loguniform(1e-4, 1e-3))
        .replay(interval=tune.choice([2, 3]))
        .debugging(seed=tune.randint(0, 100))
        .results(tmp_path / "rows", arm="mine")
    )
    results = fit(config, tmp_path, name)
    assert not results.errors
    given = [result.config["given"] for result in results]
    assert sorted(chosen["method_settings"]["skill_frac"] for chosen in given) == [0.1, 0.3]
    assert all(1e-4 <= chosen["training"]["actor_lr"] <= 1e-3 for chosen in given)
    assert all(chosen["replay"]["interval"] in (2, 3) for chosen in given)
    assert results.get_best_result().metrics["done"]
    arms = {f"mine-{result.metrics['trial_id']}" for result in results}
    assert set(load_evaluations(tmp_path / "rows")["arm"]) == arms
    assert results.get_dataframe()["evaluation/reach-left/success_rate"].between(0, 1).all()


def test_asha_stops_a_trial_early(tmp_path: Path) -> None:
    (result,) = fit(short_run(NBSPConfig()), tmp_path, max_t=2)
    assert result.error is None
    assert result.metrics["training_iteration"] == 2
    assert result.metrics["visit"] == 1


def test_a_trial_that_failed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    config = short_run(NBSPConfig()).curriculum(cycles=1).callbacks(on_train_result=lost_once(tmp_path))
    checkpoints = tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=1)
    (lost,) = fit(config, tmp_path, "NBSP", checkpoint_config=checkpoints)
    assert "the machine is lost" in str(lost.error)
    restored = tune.Tuner.restore(str(tmp_path / "search"), "NBSP", resume_errored=True, param_space=config).fit()
    assert not restored.errors
    metrics = restored[0].metrics
    assert (metrics["done"], metrics["visit"], metrics["env_steps"]) == (True, 2, 480)
    assert 0.0 <= metrics["asr"] <= 1.0
