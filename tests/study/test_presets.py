"""The presets: each one is valid and is what its name and the paper say."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from rllib_nbsp.methods import METHODS
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.settings import config_hash
from rllib_nbsp.study.estimate import evaluation_env_steps
from rllib_nbsp.study.reader import load_study

PRESETS = sorted(Path("tune_configs").rglob("*.yaml"))


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


def test_evaluations_of_twenty_tasks_take_at_most_15_percent_of_the_steps() -> None:
    long = [run for path in PRESETS for run in load_study(path, seeds=[0]).trials() if len(set(run.tasks)) >= 20]
    assert {run.experiment for run in long} == {"twenty_tasks"}
    for run in long:
        steps = evaluation_env_steps(ResolvedRun(run), horizon=500)
        assert steps <= 0.15 * run.num_visits * run.visit.max_env_steps


def is_atari_table_6(run: Any, visit_env_steps: int) -> None:
    training = run.training
    assert (run.cycles, run.visit.max_env_steps, run.visit.warmup_env_steps) == (2, visit_env_steps, 20_000)
    assert (run.replay.capacity, run.replay.prior_capacity, run.replay.interval) == (200_000, 100_000, 10)
    assert (training.updates_per_env_step, training.batch_size, training.gamma) == (4.0, 64, 0.99)
    assert (training.tau, training.target_update_env_steps, training.adam_eps) == (1.0, 8_000, 1e-4)
    assert (training.actor_lr, training.critic_lr, training.target_entropy) == (1e-4, 1e-4, None)
    assert (run.model.conv, run.model.hidden) == ([[32, 8, 4], [64, 4, 2], [64, 3, 1]], [768, 768])
    assert (run.model.activation, run.model.init) == ("relu", "kaiming_normal")
    assert (run.visit.early_stop, run.evaluation.eval_env_steps) == (None, 100_000)


@pytest.mark.parametrize(("name", "steps"), [("pong_bowling", 1_500_000), ("bankheist_alien", 3_000_000)])
def test_the_atari_presets_are_table_6(name: str, steps: int) -> None:
    for run in load_study(f"tune_configs/atari/{name}.yaml").trials():
        is_atari_table_6(run, steps)


def test_games_begin_with_cleanrls_weights_and_vectors_with_pytorchs() -> None:
    for path in PRESETS:
        study = load_study(path)
        inits = {run.model.init for run in study.trials()}
        assert inits == {"kaiming_normal" if study.settings.suite == "atari" else "fan_in_uniform"}, path


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


def test_the_fast_pair_is_pendulum_moved_by_numbers_of_seed_1() -> None:
    study = load_study("tune_configs/fast/pendulum_pair.yaml")
    assert study.seeds == list(range(20))
    assert study.sequences == {"pendulum_pair": ["plain", "offset-1"]}
    controls = {"replay_only", "mask_only", "random", "balanced"}
    assert {arm.label for arm in study.arms} == {*METHODS_OF_THE_PAPER, *controls}
    for run in study.trials():
        assert run.model_dump()["offset"] == {"base": "Pendulum-v1@return>=-300", "std": 2.0, "offsets": {}}
        assert (run.cycles, run.visit.max_env_steps, run.visit.warmup_env_steps) == (2, 15_000, 500)
        assert (run.visit.early_stop, run.training.updates_per_env_step, run.training.batch_size) == (None, 1.0, 64)
        assert (run.replay.capacity, run.replay.prior_capacity, run.model.hidden) == (20_000, 5_000, [64, 64])
        assert run.resources.num_envs_per_env_runner == 4
        scoring = ResolvedRun(run).scoring
        assert scoring is None or (scoring.gpm, scoring.score_env_steps) == ("return", 5_000)


def test_the_first_minutes_are_one_cycle_of_the_fast_pair() -> None:
    pair, first = (load_study(f"tune_configs/{name}.yaml") for name in ("fast/pendulum_pair", "first_minutes"))
    assert first.sequences == pair.sequences and {*first.seeds} <= {*pair.seeds}
    arms = {arm.label: arm for arm in pair.arms}
    assert [arm.label for arm in first.arms] == ["sac", "nbsp"] and all(arm == arms[arm.label] for arm in first.arms)
    ours, theirs = (study.trial("pendulum_pair", study.arms[0], 0) for study in (first, pair))
    assert ours.model_dump(exclude={"experiment", "cycles"}) == theirs.model_dump(exclude={"experiment", "cycles"})


def test_the_fast_four_have_the_budget_and_the_methods_of_the_pair() -> None:
    pair, four = (load_study(f"tune_configs/fast/pendulum_{name}.yaml") for name in ("pair", "four"))
    assert [len(tasks) for tasks in four.sequences.values()] == [4] and four.seeds == list(range(10))
    arms = {arm.label: arm for arm in pair.arms}
    assert len(four.arms) == 8 and all(arm == arms[arm.label] for arm in four.arms)
    of_tasks = {"experiment", "sequence", "tasks"}
    ours, theirs = four.trial("pendulum_four", four.arms[0], 0), pair.trial("pendulum_pair", arms["sac"], 0)
    assert ours.model_dump(exclude=of_tasks) == theirs.model_dump(exclude=of_tasks)


@pytest.mark.parametrize("base", ["pendulum", "point_mass"])
def test_ways_to_choose_neurons_are_compared_on_the_protocol_of_the_pair(base) -> None:
    pair, selection = (load_study(f"tune_configs/fast/{base}_{name}.yaml") for name in ("pair", "selection"))
    assert selection.sequences == pair.sequences and selection.seeds == list(range(10))
    of_pair, of_selection = ({arm.label: arm for arm in study.arms} for study in (pair, selection))
    shared = of_pair.keys() & of_selection.keys()
    assert shared >= {"sac", "random"} - ({"random"} if base == "point_mass" else set())
    (sequence,) = pair.sequences
    ours, theirs = (
        study.trial(sequence, arms["sac"], 0) for study, arms in ((selection, of_selection), (pair, of_pair))
    )
    assert ours.model_dump(exclude={"experiment"}) == theirs.model_dump(exclude={"experiment"})
    keys = [tuple(sorted(arm.method_settings.items(), key=str)) for arm in selection.arms]
    assert len(set(map(str, keys))) == len(keys)
    with_replay = {arm.method_settings.get("with_replay", True) for arm in selection.arms if arm.method == "nbsp"}
    assert with_replay == {base == "pendulum"}
    assert {arm.method_settings.get("skill_frac") for arm in selection.arms} >= {"auto"}


def test_nbsp_and_what_keeps_a_task_are_tuned_alike_on_the_protocol_of_the_pair() -> None:
    pair, tuning = (load_study(f"tune_configs/fast/pendulum_{name}.yaml") for name in ("pair", "tuning"))
    assert tuning.sequences == pair.sequences and {*tuning.seeds}.isdisjoint(pair.seeds)
    counts = Counter(arm.origin for arm in tuning.arms)
    assert counts == dict.fromkeys(("nbsp", "replay_only", "ewc", "ancl", "cloning", "agem"), 8)
    ours, theirs = (study.trial("pendulum_pair", study.arms[0], 0) for study in (tuning, pair))
    unlike = {"experiment", "arm", "method", "method_settings", "replay"}
    assert ours.model_dump(exclude=unlike) == theirs.model_dump(exclude=unlike)
    assert ours.replay.capacity == theirs.replay.capacity and ours.replay.prior_capacity == theirs.replay.prior_capacity


def test_the_fast_point_mass_has_the_arms_of_the_four_and_the_proportions_of_the_pair() -> None:
    studies = [
        load_study(f"tune_configs/fast/{name}.yaml") for name in ("pendulum_pair", "pendulum_four", "point_mass_pair")
    ]
    pair, four, mass = studies
    assert mass.seeds == four.seeds and [arm.label for arm in mass.arms] == [arm.label for arm in four.arms]
    assert mass.sequences == {"point_mass_pair": ["plain", "offset-1"]}
    theirs, ours = (
        study.trial(name, study.arms[0], 0) for study, name in ((pair, "pendulum_pair"), (mass, "point_mass_pair"))
    )
    assert ours.model_dump()["offset"] == {"base": "point_mass:reach-left", "std": 0.5, "offsets": {}}
    assert ours.evaluation.success == "final"
    assert (ours.visit.max_env_steps, ours.visit.early_stop, ours.cycles) == (6_000, None, 2)
    assert ours.replay.capacity >= ours.visit.max_env_steps
    shares = [run.replay.prior_capacity / run.visit.max_env_steps for run in (theirs, ours)]
    assert shares == [1 / 3, 1 / 3]
    assert (ours.training, ours.model, ours.resources) == (theirs.training, theirs.model, theirs.resources)
    scorings = [scoring for run in mass.trials() if (scoring := ResolvedRun(run).scoring) is not None]
    assert scorings and all((s.gpm, s.score_env_steps) == ("step", 2_000) for s in scorings)


def test_every_baseline_is_tuned_with_the_same_budget_on_seeds_that_no_study_reports() -> None:
    studies = {path.stem: load_study(path) for path in in_folder("tuning")}
    assert sorted(studies) == sorted(BASELINES)
    assert {study.settings.search.model_dump_json() for study in studies.values()} == {
        '{"samples":8,"seed":0,"objective":"asr","lifetime_percent":100.0}'
    }
    for name, study in studies.items():
        assert {(arm.origin, arm.method) for arm in study.arms} == {(name, name)}
        assert len(study.arms) == 8
    reported = {seed for path in PRESETS if "tuning" not in str(path) for seed in load_study(path).seeds}
    assert {seed for study in studies.values() for seed in study.seeds}.isdisjoint(reported)
    assert len({tuple(study.seeds) for study in studies.values()}) == 1


def test_the_tuning_smoke_searches_the_same_keys() -> None:
    smoke = load_study("tune_configs/tuning_smoke.yaml")
    assert all(run.visit_env_steps == [400, 200] for run in smoke.trials())  # cut off within its second visit
    assert sorted(smoke.searches) == sorted(BASELINES)
    for name in BASELINES:
        file = yaml.safe_load(Path(f"tune_configs/tuning/{name}.yaml").read_text())
        small = yaml.safe_load(Path("tune_configs/tuning_smoke.yaml").read_text())
        full, tiny = file["arms"][name], small["arms"][name]
        assert full.keys() == tiny.keys()
        assert full["search"].keys() == tiny["search"].keys()


@pytest.mark.parametrize("name", ["smoke", "atari_smoke"])
def test_the_smoke_studies_run_every_method(name: str) -> None:
    further = {"agem", "cloning", "l2", "packnet", "redo"}
    assert {arm.method for arm in load_study(f"tune_configs/{name}.yaml").arms} == {*METHODS_OF_THE_PAPER, *further}
