"""What a study's file means: its trials, their settings and hashes."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from rllib_nbsp.methods import METHODS
from rllib_nbsp.records import resolved_yaml
from rllib_nbsp.run import run_settings, settings_of_results
from rllib_nbsp.settings import ADDED, config_hash
from rllib_nbsp.study.reader import load_study
from tests.study.conftest import Load


def test_a_trial_is_a_sequence_an_arm_and_a_seed_with_a_folder_of_its_own(load: Load) -> None:
    trials = load({}).trials(Path("/results/pair"))
    assert [(run.arm, run.seed) for run in trials] == [("sac", 0), ("nbsp", 0), ("sac", 1), ("nbsp", 1)]
    assert trials[3].results_dir == "/results/pair/left_right/nbsp/seed_1"
    assert trials[3].tasks == ["reach-left", "reach-right"]


def test_a_run_holds_every_key_of_its_method(load: Load) -> None:
    run = load({}).trials()[1]
    assert run.method_settings == METHODS["nbsp"].Config.model_validate({"skill_frac": 0.2}).model_dump()


def test_an_arm_changes_single_keys_of_a_section(load: Load) -> None:
    arms = {"plain": {"method": "sac"}, "reset": {"method": "sac", "replay": {"prior_capacity": 0}}}
    plain, reset = load({"arms": arms, "replay": {"capacity": 777}}, seeds=[0]).trials()
    assert (plain.replay.capacity, plain.replay.prior_capacity) == (777, 100_000)
    assert (reset.replay.capacity, reset.replay.prior_capacity) == (777, 0)


def test_an_arm_may_bring_back_an_early_stop_that_the_study_turned_off(load: Load) -> None:
    arms = {"stops": {"method": "sac", "visit": {"early_stop": {"min_env_steps": 200}}}}
    run = load({"arms": arms}).trials()[0]
    assert run.visit.early_stop is not None
    assert (run.visit.early_stop.min_env_steps, run.visit.early_stop.success_rate) == (200, 0.9)


def test_overrides_replace_what_the_file_says(load: Load) -> None:
    study = load({}, "cycles=3", "training.batch_size=32", "arms.nbsp.skill_frac=0.5", "visit.early_stop=null")
    run = study.trials()[1]
    assert (run.cycles, run.training.batch_size, run.method_settings["skill_frac"]) == (3, 32, 0.5)


def test_selections_narrow_a_study(load: Load) -> None:
    trials = load({}, sequences=["left_right"], arms=["nbsp"], seeds=[7, 5]).trials()
    assert [(run.arm, run.seed) for run in trials] == [("nbsp", 7), ("nbsp", 5)]


def test_the_config_hash_leaves_out_seed_names_storage_and_resources(load: Load) -> None:
    one = load({}).trials()[0]
    other = load({"experiment": "other", "resources": {"num_env_runners": 2}}).trials(Path("/elsewhere"))[2]
    assert config_hash(one) == config_hash(other)
    assert config_hash(one) != config_hash(load({}, "training.gamma=0.98").trials()[0])


def test_a_key_that_came_later_leaves_the_hash_of_published_runs_as_it_is(load: Load) -> None:
    published = Path(__file__).parents[2] / "results/published"
    folder = published / "fast_pendulum_pair/pendulum_pair/sac/seed_0"
    run = settings_of_results(yaml.safe_load((folder / "config.yaml").read_text()))
    assert config_hash(run) == json.loads((folder / "status.json").read_text())["config_hash"]
    for section, keys in ADDED.items():
        for key, value in keys.items():
            assert getattr(getattr(run, section), key) == value
    other = run.model_copy(update={"training": run.training.model_copy(update={"tf32": True})})
    assert config_hash(other) != config_hash(run)


def test_studies_whose_rows_are_published_make_runs_of_the_same_hash() -> None:
    repository = Path(__file__).parents[2]
    folder = repository / "results/published/fast_pendulum_pair/pendulum_pair"
    trials = load_study(repository / "tune_configs/fast/pendulum_pair.yaml", seeds=[0]).trials()
    published = {run.arm: json.loads((folder / run.arm / "seed_0/status.json").read_text()) for run in trials}
    assert {run.arm: config_hash(run) for run in trials} == {a: s["config_hash"] for a, s in published.items()}


def test_the_config_hash_does_not_depend_on_whether_a_default_is_written_out(load: Load) -> None:
    terse = load({"arms": {"a": {"method": "nbsp"}}}).trials()[0]
    wordy = load({"arms": {"a": {"method": "nbsp", "mask_alpha": 0.2, "boundary": {"reset_alpha": False}}}}).trials()[0]
    assert config_hash(terse) == config_hash(wordy)


def test_the_resolved_yaml_is_the_run(load: Load) -> None:
    for run in load({}).trials(Path("/results")):
        assert run_settings(**yaml.safe_load(resolved_yaml(run))) == run
