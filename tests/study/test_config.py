"""Configs: what a file means, and what it says when it is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_nbsp.methods import METHODS
from rllib_nbsp.records import resolved_yaml
from rllib_nbsp.run import run_settings
from rllib_nbsp.settings import ConfigError, config_hash
from rllib_nbsp.study.reader import load_study
from rllib_nbsp.study.study import CheckedStudy, safe_name, sections
from rllib_nbsp.study.yaml_tree import MAX_BYTES

PRESETS = sorted(Path("tune_configs").rglob("*.yaml"))

KNOWN_METHODS = f"known methods: {', '.join(sorted(METHODS))}"

STUDY: dict[str, Any] = {
    "experiment": "pair",
    "suite": "point_mass",
    "sequences": {"left_right": ["reach-left", "reach-right"]},
    "cycles": 2,
    "seeds": [0, 1],
    "arms": {"sac": {"method": "sac"}, "nbsp": {"method": "nbsp", "skill_frac": 0.2}},
    "replay": {"capacity": 1000},
    "visit": {"max_env_steps": 500, "warmup_env_steps": 100, "early_stop": None},
    "model": {"hidden": [8, 8]},
}

Load = Callable[..., CheckedStudy]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a study from text, or from `STUDY` with some keys changed."""

    def load(content: str | dict[str, Any], *overrides: str, **selections: Any) -> CheckedStudy:
        path = tmp_path / "study.yaml"
        text = content if isinstance(content, str) else yaml.safe_dump(STUDY | content, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return load_study(path, overrides, **selections)

    return load


def problems_of(load: Load, content: str | dict[str, Any], *overrides: str, **selections: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(content, *overrides, **selections)
    return [re.sub(r"^\S*/(?=study\.yaml)", "", problem) for problem in caught.value.problems]


# What a file means


@pytest.mark.parametrize("path", PRESETS, ids=str)
def test_every_preset_is_valid(path: Path) -> None:
    study = load_study(path)
    assert len(study.trials()) == len(study.sequences) * len(study.arms) * len(study.seeds)


def in_folder(*names: str) -> list[Path]:
    """The presets of these folders under tune_configs."""
    return [path for path in PRESETS if path.parent.name in names]


def is_cpu(path: Path) -> bool:
    return path.stem.startswith("cpu_")


METHODS_OF_THE_PAPER = ["sac", "ewc", "npc", "ancl", "cotasp", "crelu", "cbp", "plasticity_injection", "nbsp"]
BASELINES = METHODS_OF_THE_PAPER[1:-1]


def test_every_preset_begins_with_what_it_asks() -> None:
    for path in PRESETS:
        comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert path.read_text().startswith("# "), path
        assert len(" ".join(comment)) > 60, path


def test_presets_have_a_result_folder_each() -> None:
    names = [load_study(path).settings.experiment for path in PRESETS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "path", [*in_folder("metaworld"), *(path for path in in_folder("ablations") if not is_cpu(path))], ids=str
)
def test_the_paper_presets_are_table_6(path: Path) -> None:
    study = load_study(path)
    assert study.seeds == [0, 1, 2]
    for run in study.trials():
        training = run.training
        assert (run.suite, run.cycles) == ("metaworld", 2)
        assert (run.visit.max_env_steps, run.visit.warmup_env_steps) == (1_000_000, 10_000)
        assert (run.replay.capacity, run.replay.prior_capacity, run.replay.interval) == (1_000_000, 100_000, 10)
        assert (training.updates_per_env_step, training.batch_size) == (2.0, 256)
        assert (training.gamma, training.tau, training.target_update_env_steps) == (0.99, 0.005, 0)
        assert (training.actor_lr, training.critic_lr) == (3e-4, 1e-3)
        assert run.model.hidden == [768, 768, 768]
        assert run.visit.early_stop is not None
        assert (run.visit.early_stop.success_rate, run.visit.early_stop.window_episodes) == (0.9, 10)
        assert run.evaluation.boundary_episodes == 20
        if run.arm == "nbsp":
            keys = run.method_settings
            assert (keys["skill_frac"], keys["mask_alpha"], keys["score_env_steps"]) == (0.2, 0.2, 100_000)


TABLE_1 = [path for path in in_folder("metaworld") if path.stem != "with_replay"]


@pytest.mark.parametrize("path", [*TABLE_1, *in_folder("atari")], ids=str)
def test_the_tables_of_the_paper_have_all_of_its_methods_as_published(path: Path) -> None:
    study = load_study(path)
    assert [arm.method for arm in study.arms] == METHODS_OF_THE_PAPER
    assert all(arm.label == arm.method for arm in study.arms)
    # No baseline replays in the paper, and NBSP does.
    assert [arm.label for arm in study.arms if arm.method_settings["with_replay"]] == ["nbsp"]


def test_baselines_with_replay_are_arms_of_their_own() -> None:
    study = load_study("tune_configs/metaworld/with_replay.yaml")
    assert {(arm.label, arm.method) for arm in study.arms} == {
        ("replay_only", "sac"),
        ("ewc_replay", "ewc"),
        ("cbp_replay", "cbp"),
        ("plasticity_injection_replay", "plasticity_injection"),
    }
    for arm in study.arms:
        plain = METHODS[arm.method].Config().model_dump()
        assert arm.method_settings == plain | {"with_replay": True}


def test_table_1_has_the_sequences_of_the_single_presets() -> None:
    table = load_study("tune_configs/metaworld/table1.yaml")
    singles = [load_study(path) for path in TABLE_1 if path.stem != "table1"]
    assert table.sequences == {name: tasks for study in singles for name, tasks in study.sequences.items()}
    assert len(table.sequences) == 5
    for study in singles:
        assert study.arms == table.arms
    assert load_study("tune_configs/metaworld/with_replay.yaml").sequences == table.sequences


def is_atari_table_6(run: Any, visit_env_steps: int) -> None:
    training = run.training
    assert (run.cycles, run.visit.max_env_steps, run.visit.warmup_env_steps) == (2, visit_env_steps, 20_000)
    assert (run.replay.capacity, run.replay.prior_capacity, run.replay.interval) == (200_000, 100_000, 10)
    assert (training.updates_per_env_step, training.batch_size, training.gamma) == (4.0, 64, 0.99)
    assert (training.tau, training.target_update_env_steps, training.adam_eps) == (1.0, 8_000, 1e-4)
    assert (training.actor_lr, training.critic_lr, training.target_entropy) == (1e-4, 1e-4, None)
    assert (run.model.conv, run.model.hidden) == ([[32, 8, 4], [64, 4, 2], [64, 3, 1]], [768, 768])
    assert (run.visit.early_stop, run.evaluation.eval_env_steps) == (None, 100_000)


@pytest.mark.parametrize(("name", "steps"), [("pong_bowling", 1_500_000), ("bankheist_alien", 3_000_000)])
def test_the_atari_presets_are_table_6(name: str, steps: int) -> None:
    for run in load_study(f"tune_configs/atari/{name}.yaml").trials():
        is_atari_table_6(run, steps)


def test_table_5_by_its_two_commands_is_the_two_presets() -> None:
    path = Path("tune_configs/atari/table5.yaml")
    overrides = re.search(r"--set (.*)", path.read_text())
    assert overrides is not None
    for name, options in (("pong_bowling", []), ("bankheist_alien", overrides[1].split())):
        table = load_study(path, options, sequences=[name])
        single = load_study(f"tune_configs/atari/{name}.yaml")
        assert table.sequences == single.sequences
        assert [config_hash(run) for run in table.trials()] == [config_hash(run) for run in single.trials()]


def test_an_ablation_has_the_same_arms_at_both_scales() -> None:
    scored = {"score_env_steps"}
    names = {path.stem for path in in_folder("ablations") if not is_cpu(path)}
    assert names == {path.stem.removeprefix("cpu_") for path in in_folder("ablations") if is_cpu(path)}
    for name in names:
        full, cpu = (load_study(f"tune_configs/ablations/{prefix}{name}.yaml") for prefix in ("", "cpu_"))
        assert [arm.label for arm in full.arms] == [arm.label for arm in cpu.arms]
        for one, other in zip(full.arms, cpu.arms, strict=True):
            keys = one.method_settings.keys() - scored
            assert [one.method_settings[key] for key in keys] == [other.method_settings[key] for key in keys]
            assert one.sections == other.sections


def test_ablations_differ_from_nbsp_by_what_they_are_named_for() -> None:
    plain = METHODS["nbsp"].Config().model_dump()

    def changed(name: str) -> dict[str, dict[str, Any]]:
        return {
            arm.label: {
                key: value for key, value in arm.method_settings.items() if arm.method == "nbsp" and value != plain[key]
            }
            for arm in load_study(f"tune_configs/ablations/{name}.yaml").arms
        }

    assert changed("table2") == {
        "base": {},
        "replay_only": {"skill_frac": 0.0},
        "mask_only": {"with_replay": False},
        "nbsp": {},
    }
    assert changed("table3")["random"] == {"score": "random"} and changed("table3")["nbsp"] == {}
    assert changed("table4") == {"actor": {"modules": "actor"}, "critic": {"modules": "critic"}, "both": {}}
    assert [keys.get("skill_frac", 0.2) for keys in changed("figure4").values()] == [
        0.05,
        0.1,
        0.15,
        0.2,
        0.25,
        0.3,
        0.4,
        0.5,
    ]
    assert {keys["uniform_lr"] for keys in changed("uniform_lr").values() if keys} == {"mean", "skill", 0.3, 0.1, 0.03}
    assert {
        (run.method_settings["mask_on"], run.boundary.reset_optimizer)
        for run in load_study("tune_configs/ablations/mask_on.yaml", seeds=[0]).trials()
    } == {("update", True), ("update", False), ("grad", True), ("grad", False), ("grad_rescale", False)}


def test_the_cpu_ablations_and_baselines_share_their_pair_and_budget() -> None:
    [reference, *_] = load_study("tune_configs/cpu/button_drawer.yaml").trials()
    of_arms = {"arm", "method", "method_settings", "boundary", "experiment", "seed"}
    paths = [Path("tune_configs/cpu/baselines.yaml"), *in_folder("tuning"), *filter(is_cpu, in_folder("ablations"))]
    for path in paths:
        for run in load_study(path).trials():
            searched = {"training"} if path.stem == "crelu" else set()
            assert run.model_dump(exclude=of_arms | searched) == reference.model_dump(exclude=of_arms | searched), path


def test_the_cpu_baselines_are_the_methods_of_the_paper_and_both_halves_of_nbsp() -> None:
    study = load_study("tune_configs/cpu/baselines.yaml")
    assert {arm.label for arm in study.arms} == {*METHODS_OF_THE_PAPER, "replay_only", "mask_only"}
    assert all(arm.method == arm.label for arm in study.arms if arm.label in METHODS_OF_THE_PAPER)


def test_every_baseline_is_tuned_with_the_same_budget_on_seeds_that_no_study_reports() -> None:
    studies = {path.stem: load_study(path) for path in in_folder("tuning")}
    assert sorted(studies) == sorted(BASELINES)
    assert {study.settings.search.model_dump_json() for study in studies.values()} == {
        '{"samples":8,"seed":0,"objective":"asr"}'
    }
    for name, study in studies.items():
        assert {(arm.origin, arm.method) for arm in study.arms} == {(name, name)}
        assert len(study.arms) == 8
    reported = {seed for path in PRESETS if "tuning" not in str(path) for seed in load_study(path).seeds}
    assert {seed for study in studies.values() for seed in study.seeds}.isdisjoint(reported)
    assert len({tuple(study.seeds) for study in studies.values()}) == 1


def test_the_tuning_smoke_searches_the_same_keys() -> None:
    smoke = load_study("tune_configs/tuning_smoke.yaml")
    assert sorted(smoke.searches) == sorted(BASELINES)
    for name in BASELINES:
        file = yaml.safe_load(Path(f"tune_configs/tuning/{name}.yaml").read_text())
        small = yaml.safe_load(Path("tune_configs/tuning_smoke.yaml").read_text())
        full, tiny = file["arms"][name], small["arms"][name]
        assert full.keys() == tiny.keys()
        assert full["search"].keys() == tiny["search"].keys()


@pytest.mark.parametrize("name", ["smoke", "atari_smoke"])
def test_the_smoke_studies_run_every_method(name: str) -> None:
    assert {arm.method for arm in load_study(f"tune_configs/{name}.yaml").arms} == set(METHODS)


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


def test_the_config_hash_does_not_depend_on_whether_a_default_is_written_out(load: Load) -> None:
    terse = load({"arms": {"a": {"method": "nbsp"}}}).trials()[0]
    wordy = load({"arms": {"a": {"method": "nbsp", "mask_alpha": 0.2, "boundary": {"reset_alpha": False}}}}).trials()[0]
    assert config_hash(terse) == config_hash(wordy)


def test_the_resolved_yaml_is_the_run(load: Load) -> None:
    for run in load({}).trials(Path("/results")):
        assert run_settings(**yaml.safe_load(resolved_yaml(run))) == run


def test_a_config_error_does_not_wait_for_ray() -> None:
    code = "import sys, rllib_nbsp.study.reader, rllib_nbsp.study.folder; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# What a wrong file says: place, value, what is allowed

FIELDS = [  # (override, what the message must say)
    (
        "suite=metawrld",
        ["suite is 'metawrld'", "did you mean 'metaworld'?", "known suites: atari, gymnasium, metaworld"],
    ),
    ("sequences.left_right=[reach-lft, reach-up]", ["unknown point_mass task 'reach-lft'", "'reach-left'"]),
    ("sequences.left_right=[]", ["sequences.left_right is []", "a list of at least 1: text"]),
    ("sequences.left_right=", ["sequences.left_right is null", "a list of at least 1: text"]),
    ("sequences={}", ["sequences is {}", "a mapping with at least 1 entry"]),
    ("arms={a b: {method: sac}}", ["arms has the name 'a b'; allowed: names of 1 to 64 letters"]),
    ("sequences={../x: [reach-up, reach-left]}", ["sequences has the name '../x'; allowed: names of"]),
    (
        "sequences.left_right=[reach-up, reach-up, reach-left]",
        ["visits 'reach-up' twice in a row (at 0 and 1)", "allow_repeats"],
    ),
    ("sequences.left_right=[reach-up]", ["twice in a row (at the turn of the cycle)", "allow_repeats: true"]),
    ("experiment=../../x", ["experiment is '../../x'", "a name of 1 to 64 letters"]),
    ("experiment=", ["experiment is null", "a name of 1 to 64 letters"]),
    (f"experiment={'a' * 300}", ["experiment is 'aaaa", "a name of 1 to 64 letters"]),
    ("cycles=0", ["cycles is 0", "a whole number >= 1 and <= 10000"]),
    ("cycles=1000000000000", ["cycles is 1000000000000", "a whole number >= 1 and <= 10000"]),
    ("seeds=[]", ["seeds is []", "a list of at least 1: a whole number >= 0 and < 4294967296"]),
    ("seeds=[0, 0, 1]", ["seeds has 0 2 times", "the same run again"]),
    ("seeds=[abc]", ["seeds[0] is 'abc'", "a whole number >= 0 and < 4294967296"]),
    ("seeds=[1.5]", ["seeds[0] is 1.5", "a whole number >= 0 and < 4294967296"]),
    ("seeds=[-1]", ["seeds[0] is -1", "a whole number >= 0 and < 4294967296"]),
    ("seeds=[1099511627776]", ["seeds[0] is 1099511627776", "a whole number >= 0 and < 4294967296"]),
    ("arms={}", ["arms is {}", "a mapping"]),
    ("arms.sac=", ["arms.sac is null", "a mapping"]),
    ("arms.sac.method=nbps", ["arms.sac.method is 'nbps'", "did you mean 'nbsp'?", KNOWN_METHODS]),
    ("arms.sac.method=", ["arms.sac.method is null", KNOWN_METHODS]),
    ("arms.new={skill_frac: 0.1}", ["arms.new.method is missing", KNOWN_METHODS]),
    ("arms.sac.skill_frac=0.1", ["unknown key 'arms.sac.skill_frac' for method 'sac'", "known keys: boundary"]),
    ("arms.nbsp.skill_frc=0.1", ["unknown key 'arms.nbsp.skill_frc'", "did you mean 'skill_frac'?"]),
    ("arms.nbsp.skill_frac=1.2", ["arms.nbsp.skill_frac is 1.2", "a number >= 0 and <= 1"]),
    ("arms.nbsp.skill_frac=-0.1", ["arms.nbsp.skill_frac is -0.1", "a number >= 0 and <= 1"]),
    ("arms.nbsp.skill_frac=.nan", ["arms.nbsp.skill_frac is nan", "a number >= 0 and <= 1"]),
    ("arms.nbsp.skill_frac=half", ["arms.nbsp.skill_frac is 'half'", "a number >= 0 and <= 1"]),
    ("arms.nbsp.skill_frac=0.01", ["arms.nbsp.skill_frac is 0.01", "selects 0 of 16 neurons"]),
    ("arms.nbsp.uniform_lr=fast", ["arms.nbsp.uniform_lr is 'fast'", "'off', 'mean', 'skill' or a number >= 0"]),
    ("arms.nbsp.mask_on=grad_rescale", ["arms.nbsp.mask_on is 'grad_rescale'", "boundary.reset_optimizer: false"]),
    ("arms.nbsp.boundary={reset_alfa: true}", ["'arms.nbsp.boundary.reset_alfa'", "did you mean 'reset_alpha'?"]),
    ("arms.nbsp.boundary=3", ["arms.nbsp.boundary is 3", "a mapping with keys clear_buffer, reset_optimizer"]),
    ("arms.nbsp.replay={interval: 0}", ["arms.nbsp.replay.interval is 0", "a whole number >= 1"]),
    ("replay.interval=2.5", ["replay.interval is 2.5", "a whole number >= 1"]),
    ("replay.intervall=10", ["unknown key 'replay.intervall'", "did you mean 'interval'?"]),
    ("replay.capacity=-1", ["replay.capacity is -1", "a whole number >= 1"]),
    ("replay.capacity=100", ["replay.capacity is 100", "training.batch_size 256"]),
    ("replay.split=equl", ["replay.split is 'equl'", "'equal', 'per_task', 'reservoir'"]),
    ("replays.capacity=1", ["unknown key 'replays'", "did you mean 'replay'?"]),
    ("training.initial_alpha=-1", ["training.initial_alpha is -1", "a number > 0"]),
    ("training.gamma=5", ["training.gamma is 5", "a number > 0 and <= 1"]),
    ("training.tau=-3", ["training.tau is -3", "a number > 0 and <= 1"]),
    (
        "training.actor_lr=1e-3",
        ["training.actor_lr is '1e-3'", "a number > 0", "YAML reads 1e-3 as text: write 1.0e-3"],
    ),
    ("training.actor_lr=yes", ["training.actor_lr is true", "a number > 0", "YAML reads yes"]),
    ("training.actor_lr=", ["training.actor_lr is null", "a number > 0"]),
    ("training.critic_lr=0", ["training.critic_lr is 0", "a number > 0"]),
    ("training.critic_lr=.inf", ["training.critic_lr is inf", "a number > 0, finite"]),
    ("training.alpha_lr=.nan", ["training.alpha_lr is nan", "a number > 0"]),
    ("visit.max_env_steps=1e6", ["visit.max_env_steps is '1e6'", "a whole number >= 1", "write 1000000"]),
    ("visit.max_env_steps=1.0e+6", ["visit.max_env_steps is 1000000.0", "a whole number >= 1", "write 1000000"]),
    ("visit.max_env_steps=0", ["visit.max_env_steps is 0", "a whole number >= 1"]),
    ("visit.warmup_env_steps=500", ["visit.warmup_env_steps is 500", "below visit.max_env_steps, 500"]),
    ("visit.early_stop={success_rate: 2}", ["visit.early_stop.success_rate is 2", "a number >= 0 and <= 1"]),
    ("visit.early_stop={min_env_steps: 500}", ["min_env_steps is 500", "below visit.max_env_steps, 500"]),
    ("model.hidden=[]", ["model.hidden is []", "a list of at least 1: a whole number >= 1"]),
    ("model.hidden=[8, 0]", ["model.hidden[1] is 0", "a whole number >= 1"]),
    ("model.hidden=[-8]", ["model.hidden[0] is -8", "a whole number >= 1"]),
    ("evaluation.periodic_env_steps=501", ["periodic_env_steps is 501", "at most visit.max_env_steps, 500"]),
    ("evaluation.boundary_episodes=0", ["evaluation.boundary_episodes is 0", "a whole number >= 1"]),
    ("resources.num_env_runners=-1", ["resources.num_env_runners is -1", "a whole number >= 0"]),
    ("resources.num_envs_per_env_runner=0", ["num_envs_per_env_runner is 0", "a whole number >= 1"]),
    ("resources.num_gpus_per_learner=1.5", ["resources.num_gpus_per_learner is 1.5", "below 1"]),
    ("resources.num_learners=3", ["training.batch_size is 256", "a multiple of resources.num_learners, 3"]),
    ("atari={frame_size: 64}", ["atari is the section of suite 'atari'", "the suite is 'point_mass': leave it out"]),
    ("score_all_methods={score_env_steps: 0}", ["score_all_methods.score_env_steps is 0", "a whole number >= 1"]),
]


@pytest.mark.parametrize(("override", "said"), FIELDS, ids=[override[:60] for override, _ in FIELDS])
def test_a_wrong_value_is_named_with_its_place_and_what_is_allowed(load: Load, override: str, said: list[str]) -> None:
    problems = problems_of(load, {}, override)
    assert len(problems) == 1
    for words in said:
        assert words in problems[0]


GAMES: dict[str, Any] = {
    "suite": "atari",
    "sequences": {"pair": ["Pong", "Bowling"]},
    "arms": {"sac": {"method": "sac"}, "nbsp": {"method": "nbsp", "gpm": "return", "score_env_steps": 100}},
}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sequences.pair=[Pong, Bowlin]", ["tasks[1]: unknown atari game 'Bowlin'; did you mean 'Bowling'"]),
        ("sequences.pair=[Pong, reach-left]", ["unknown atari game 'reach-left'"]),
        ("sequences.pair=[Pong, Breakout]", ["have 6 and 4 actions", "full_action_space: true"]),
        ("atari.frame_stack=0", ["atari.frame_stack is 0", "a whole number >= 1 and <= 16"]),
        ("atari.frame_size=500", ["atari.frame_size is 500", "a whole number >= 16 and <= 210"]),
        ("atari.frames=4", ["unknown key 'atari.frames'", "did you mean 'frame_skip'"]),
        ("atari.frame_size=20", ["model.conv[2] has a kernel of 3, larger than its input of 1x1"]),
        ("visit.early_stop={success_rate: 0.9, min_env_steps: 10}", ["visit.early_stop is set", "have no success"]),
        ("arms.nbsp.gpm=step", ["gpm is 'step'", "scored by 'return'"]),
        ("replay.pick=success", ["replay.pick is 'success'", "'uniform' or 'last'"]),
    ],
)
def test_what_games_cannot_do_is_said_before_anything_starts(load: Load, override: str, said: list[str]) -> None:
    problems = problems_of(load, GAMES, override)
    assert problems
    for words in said:
        assert any(words in problem for problem in problems), problems


def test_all_eighteen_actions_fit_any_two_games(load: Load) -> None:
    study = load(GAMES, "sequences.pair=[Pong, Breakout]", "atari.full_action_space=true")
    assert study.notes() == []
    assert "2 is RIGHT and UP" in load(GAMES).notes()[0]


def test_games_are_also_checked_as_an_arm_has_them(load: Load) -> None:
    overrides = ("sequences.pair=[Pong, Breakout]", "atari.full_action_space=true")
    [problem] = problems_of(load, GAMES, *overrides, "arms.nbsp.atari={full_action_space: false}")
    assert "arms.nbsp.atari: sequences.pair: " in problem
    assert "have 6 and 4 actions" in problem


def test_the_line_of_a_wrong_value_is_named(load: Load) -> None:
    text = yaml.safe_dump(STUDY, sort_keys=False).replace("capacity: 1000", "capacity: none")
    line = next(i for i, content in enumerate(text.splitlines(), 1) if "capacity" in content)
    assert problems_of(load, text) == [f"study.yaml:{line}: replay.capacity is 'none'; allowed: a whole number >= 1"]


def test_an_option_that_replaces_a_key_is_named_instead_of_the_line(load: Load) -> None:
    [problem] = problems_of(load, {}, "training={gamma: 2}")
    assert problem.startswith("--set training={gamma: 2}: training.gamma is 2")


def test_all_problems_come_at_once_and_in_the_order_of_the_file(load: Load) -> None:
    problems = problems_of(
        load,
        {
            "suite": "doom",
            "seeds": [0, 0, -1],
            "arms": {"a": {"method": "nbps"}, "b": {"method": "nbsp", "mask_alpha": 7, "replay": {"intervall": 1}}},
            "visit": {"max_env_steps": -1, "early_stop": {"window": 3}},
        },
    )
    told = ["suite", "seeds has 0", "seeds[2]", "arms.a.method", "arms.b.mask_alpha", "arms.b.replay.intervall"]
    told += ["visit.max_env_steps", "visit.early_stop.window"]
    assert len(problems) == len(told)
    assert all(any(words in problem for problem in problems) for words in told)
    lines = [int(problem.split(":")[1]) for problem in problems]
    assert lines == sorted(lines)


def test_tasks_whose_spaces_differ_are_refused_together(load: Load) -> None:
    tasks = ["Pendulum-v1@return>=-200", "MountainCarContinuous-v0@return>=90"]
    [problem] = problems_of(load, {"suite": "gymnasium", "sequences": {"mix": tasks}})
    assert all(task in problem for task in tasks)
    assert "observation space" in problem


def test_repeated_tasks_are_allowed_when_they_are_meant(load: Load) -> None:
    study = load({"sequences": {"same": ["reach-up", "reach-up"]}, "allow_repeats": True})
    assert study.sequences["same"] == ["reach-up", "reach-up"]


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".hidden", "~", "a" * 65, "a\n", "%2e%2e", "a\0b", "\u2170\u2024\u2024", "/abs"]
)
def test_a_name_that_could_leave_the_results_folder_is_refused(load: Load, name: str) -> None:
    with pytest.raises(ConfigError, match="1 to 64 letters"):
        safe_name("--name", name)
    assert "1 to 64 letters" in problems_of(load, {"sequences": {name: ["reach-left", "reach-right"]}})[0]
    assert "1 to 64 letters" in problems_of(load, {"arms": {name: {"method": "sac"}}})[0]


@pytest.mark.parametrize(
    ("option", "selection", "near"),
    [
        ("--sequences left_rigt", {"sequences": ["left_rigt"]}, "left_right"),
        ("--arms nbps", {"arms": ["nbps"]}, "nbsp"),
    ],
)
def test_an_unknown_selection_names_the_nearest(load: Load, option: str, selection: Any, near: str) -> None:
    [problem] = problems_of(load, {}, **selection)
    assert problem.startswith(option)
    assert f"did you mean '{near}'?" in problem


@pytest.mark.parametrize(
    ("override", "said"),
    [("cycles", "not of the form key.path=value"), ("=3", "not of the form"), ("cycles.x=3", "has no keys to set")],
)
def test_a_malformed_option_is_refused(load: Load, override: str, said: str) -> None:
    assert said in problems_of(load, {}, override)[0]


# YAML itself


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("experiment: x\n\tsuite: y\n", "study.yaml:2: not valid YAML: "),
        ("experiment: [x\n", "not valid YAML"),
        ("cycles: 2\nsuite: x\ncycles: 3\n", "study.yaml:3: key 'cycles' is given twice; first at line 1"),
        ("suite: !!python/object/apply:os.system [exit]\n", "study.yaml:1: tag tag:yaml.org,2002:python/object"),
        ("suite: !!binary aGk=\n", "tag tag:yaml.org,2002:binary is not allowed"),
        ("yes: 1\n", "study.yaml:1: key 'yes' is not text; put it in quotes"),
        ("? [a, b]\n: 1\n", "key a list or mapping is not text"),
        ("[1, 2]\n", "a mapping of keys to values is needed, got list"),
        ("a: " + "[" * 3000, "nested deeper than 20 levels"),
        ("a: " + "[" * 30 + "]" * 30, "more than 20 levels"),
        ("a: &a [*a]\n", "more than 20 levels"),
        ("cycles: " + "9" * 5000, "longer than 40 characters"),
        ("a: 1\n--- \nb: 2\n", "not valid YAML"),
        ("a: \x07\n", "not valid YAML"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_yaml_that_hides_a_mistake_is_refused(load: Load, text: str, said: str) -> None:
    assert said in problems_of(load, text)[0]


def test_an_alias_bomb_is_refused(load: Load) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
    assert "more than 10000 values" in problems_of(load, bomb)[0]


def test_a_file_that_is_no_small_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_text("#" * (MAX_BYTES + 1))
    (tmp_path / "binary.yaml").write_bytes(b"experiment: \xff\xfe")
    for name, said in (("big.yaml", "at most 1000000"), ("binary.yaml", "byte 12 is not UTF-8"), (".", "directory")):
        with pytest.raises(ConfigError, match=said):
            load_study(tmp_path / name)


def test_a_missing_file_names_the_nearest_preset() -> None:
    with pytest.raises(ConfigError, match=r"no such file; did you mean 'tune_configs/quickstart\.yaml'"):
        load_study("tune_configs/quickstrat.yaml")


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    text = yaml.safe_dump(STUDY, sort_keys=False).replace("\n", "\r\n")
    (tmp_path / "windows.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_study(tmp_path / "windows.yaml").settings.experiment == "pair"


# Any value in any field

PATHS = [("experiment",), ("suite",), ("cycles",), ("seeds",), ("sequences",), ("sequences", "left_right"), ("arms",)]
PATHS += [
    ("allow_repeats",),
    ("search",),
    ("search", "samples"),
    ("search", "seed"),
    ("search", "objective"),
    ("arms", "nbsp", "search"),
    ("arms", "nbsp", "search", "skill_frac"),
    ("arms", "nbsp", "search", "uniform_lr"),
    ("arms", "nbsp", "search", "training"),
    ("arms", "nbsp", "search", "visit", "early_stop"),
    ("score_all_methods",),
    ("arms", "nbsp"),
    ("arms", "sac", "method"),
    ("visit", "early_stop"),
]
PATHS += [(name,) for name in sections("metaworld")]
PATHS += [(name, key) for name, section in sections("metaworld").items() for key in section.model_fields]
PATHS += [
    ("arms", "nbsp", name, key) for name, section in sections("metaworld").items() for key in section.model_fields
]
PATHS += [("arms", "nbsp", key) for key in METHODS["nbsp"].Config.model_fields]
SCALARS = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=30)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
)


@settings(max_examples=300)
@given(path=st.sampled_from(PATHS), value=VALUES)
def test_any_value_in_any_field_is_accepted_or_named(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[str, ...], value: Any
) -> None:
    study = deepcopy(STUDY)
    inner = study
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = value
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(study, allow_unicode=True), encoding="utf-8")
    try:
        load_study(file).trials()
    except ConfigError as error:
        assert any(path[-1] in problem for problem in error.problems)
