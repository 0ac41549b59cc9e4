"""A first visit that runs have in common: who says so is right to the last bit, and it is made once."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import pytest

from rllib_nbsp import ContinualSAC
from rllib_nbsp.methods import METHODS
from rllib_nbsp.sharing import SharedVisit, first_visit
from rllib_nbsp.study.folder import is_finished
from rllib_nbsp.study.reader import load_study
from rllib_nbsp.study.trials import in_order
from tests.resume import runs
from tests.resume.killed import everything, run_killed
from tests.studies import write_config

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "nbsp": [
        {"score": "random"},
        {"skill_frac": 0.0},
        {"uniform_lr": 0.3},
        {"mask_on": "grad", "accumulate": "per_task_min"},
        {"with_replay": False},
    ],
    "ancl": [{"aux": "concurrent", "refresh_updates": 10}],
    "sac": [{"with_replay": True}],
}
LENGTH = runs.point_mass(Path("/r"), "sac").settings.visit.max_env_steps
IDLE = [name for name, method in METHODS.items() if method.idle_in_first_visit(method.Config())]
EVERY = [(name, keys) for name in IDLE for keys in [{}, *VARIANTS.get(name, [])]]


@pytest.fixture(autouse=True)
def on_ray(ray_session: None) -> None:
    """All of these tests need it."""


def sharing(folder: Path, shared: Path, method: str, keys: dict[str, Any], stop: int | None = None) -> Any:
    config = runs.point_mass(folder, method)
    if keys:
        config = config.method(method, **{**config.given.get("method_settings", {}), **keys})
    config.given = {**config.given, "shared_dir": str(shared), "stop_env_steps": stop}
    return config


def run(
    folder: Path, shared: Path, method: str, keys: dict[str, Any] | None = None, stop: int | None = None
) -> tuple[dict[str, Any], int, set[str]]:
    """Everything there is of a run at its end, its updates, and the columns `shared_from` that its rows have."""
    algorithm = sharing(folder, shared, method, keys or {}, stop).build_algo()
    made = 0
    update = algorithm.learners.update

    def counted(columns: Any, count: int) -> None:
        nonlocal made
        made += count
        update(columns, count)

    algorithm.learners.update = counted
    while not algorithm.done:
        algorithm.train()
    seen = everything(algorithm)
    algorithm.stop()
    marks = {row.pop("shared_from", None) for name in ("training.jsonl", "evaluations.jsonl") for row in seen[name]}
    return seen, made, marks


def test_the_methods_that_are_idle_are_these() -> None:
    assert sorted(IDLE) == ["agem", "ancl", "cloning", "ewc", "l2", "nbsp", "sac"]


@pytest.mark.parametrize(("method", "keys"), [EVERY[0], ("nbsp", {})], ids=str)
def test_a_shared_visit_is_as_ones_own(method: str, keys: dict[str, Any], tmp_path: Path) -> None:
    alone, updates, none = run(tmp_path / "alone", tmp_path / "nobody", method, keys)
    assert none == {None}
    leader = "ewc" if method == "sac" else "sac"
    run(tmp_path / "leader", tmp_path / "shared", leader)
    taken, rest, marks = run(tmp_path / "taken", tmp_path / "shared", method, keys)
    assert [name for name in alone if taken[name] != alone[name]] == []
    assert rest == updates - 40 and marks == {None, leader}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "keys"), EVERY, ids=str)
def test_every_method_that_says_so_is_idle_in_its_first_visit(
    method: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    test_a_shared_visit_is_as_ones_own(method, keys, tmp_path)


def test_what_a_first_visit_depends_on() -> None:
    def name(method: str = "nbsp", **changes: dict[str, Any]) -> str | None:
        config = runs.point_mass(Path("/r"), method)
        for section, keys in changes.items():
            getattr(config, section)(**keys)
        return first_visit(config.settings)

    same = name()
    assert same == name("sac") == name("ewc") is not None
    for changes in (
        {"replay": {"prior_capacity": 7, "interval": 9, "pick": "last"}},
        {"boundary": {"clear_buffer": False, "reset_alpha": True}},
        {"training": {"skill_frac": 0.5}},
    ):
        assert name(**changes) == same, changes
    for others in (
        {"replay": {"capacity": 999}},
        {"training": {"gamma": 0.9}},
        {"networks": {"hidden": [8]}},
        {"visit": {"warmup_env_steps": 90}},
        {"evaluation": {"boundary_episodes": 3}},
        {"curriculum": {"cycles": 3}},
        {"curriculum": {"tasks": ["reach-right", "reach-left"]}},
        {"env_runners": {"num_envs_per_env_runner": 3}},
        {"state": {"every_env_steps": 80}},
        {"debugging": {"seed": 4}},
    ):
        assert name(**others) not in (same, None), others
    for method in set(METHODS) - set(IDLE):
        assert name(method) is None


def test_a_first_visit_that_is_cut_off_is_not_a_whole_one() -> None:
    settings = runs.point_mass(Path("/r"), "nbsp").settings
    length = settings.visit.max_env_steps
    names = [
        first_visit(settings.model_copy(update={"stop_env_steps": stop}))
        for stop in (None, length, length + 1, length - 1, length - 2)
    ]
    assert names[0] == names[1] == names[2] and len(set(names)) == 3


@pytest.mark.parametrize(("stop", "visits"), [(LENGTH, 1), (LENGTH + 60, 2)])
def test_a_run_that_is_cut_off_behind_a_shared_visit_takes_it(stop: int, visits: int, tmp_path: Path) -> None:
    alone, updates, _ = run(tmp_path / "alone", tmp_path / "nobody", "nbsp", stop=stop)
    run(tmp_path / "leader", tmp_path / "shared", "sac")
    taken, rest, marks = run(tmp_path / "taken", tmp_path / "shared", "nbsp", stop=stop)
    over = {"sampling"} if visits == 1 else set()  # of a run that ends there, the episodes that were running
    assert [name for name in alone.keys() - over if taken[name] != alone[name]] == []
    assert rest == updates - 40 and "sac" in marks
    assert {row["visit"] for row in taken["evaluations.jsonl"]} == set(range(1, visits + 1))
    assert is_finished(tmp_path / "taken")


def test_one_run_makes_the_visit_while_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()
    monkeypatch.setattr(SharedVisit, "wait", lambda self: waits.set())
    leader, follower = (
        sharing(tmp_path / name, tmp_path / "shared", name, {}).build_algo() for name in ("sac", "nbsp")
    )
    leader.train()
    result = follower.train()
    assert waits.is_set() and result["waits_for"] == "sac" and result["env_steps"] == 0
    assert not (tmp_path / "nbsp").exists()
    leader.stop()  # and is not over: whoever comes next makes it
    assert "waits_for" not in follower.train() and follower.env_steps == 100
    while follower.visit.number == 1:
        follower.train()
    again = sharing(tmp_path / "sac", tmp_path / "shared", "sac", {}).build_algo()
    again.train()
    assert again.env_steps == 200  # goes on from its own state
    for algorithm in (follower, again):
        algorithm.stop()


def test_a_run_that_begins_at_a_shared_visit_goes_on_after_a_kill(tmp_path: Path) -> None:
    alone = run_killed(functools.partial(runs.point_mass, method="nbsp"), tmp_path / "alone")
    run(tmp_path / "leader", tmp_path / "shared", "sac")
    build = functools.partial(_sharing_nbsp, tmp_path / "shared")
    taken = run_killed(build, tmp_path / "taken", [("write", 3), ("step", 20), ("boundary", 1)])
    for name in ("training.jsonl", "evaluations.jsonl"):
        assert {row.pop("shared_from", None) for row in taken[name]} == {None, "sac"}
    assert taken == alone


def _sharing_nbsp(shared: Path, folder: Path) -> Any:
    return sharing(folder, shared, "nbsp", {})


def test_readings_of_one_rollout_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "leader", tmp_path / "shared", "sac")
    calls: list[int] = []
    real = ContinualSAC.score_neurons

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = len(list((tmp_path / "shared").glob("*/scores_*")))
        scores = real(self, *args, **kwargs)
        if self.visit.number == 1:
            calls.append(len(list((tmp_path / "shared").glob("*/scores_*"))) - before)
        return scores

    monkeypatch.setattr(ContinualSAC, "score_neurons", counted)
    for folder, keys in (("literal", {}), ("random", {"score": "random"}), ("longer", {"score_env_steps": 220})):
        taken, _, _ = run(tmp_path / folder, tmp_path / "shared", "nbsp", keys)
        alone, _, _ = run(tmp_path / f"{folder} alone", tmp_path / f"{folder} nobody", "nbsp", keys)
        assert [name for name in alone if taken[name] != alone[name]] == []

    assert calls == [1, 0, 0, 0, 1, 0]  # of the shared visit: literal, its own, random, its own, longer, its own


def test_a_damaged_visit_is_made_anew(tmp_path: Path) -> None:
    run(tmp_path / "leader", tmp_path / "shared", "sac")
    [bundle] = (tmp_path / "shared").glob("*/bundle_*")
    (bundle / "replay.json").write_text("{")
    _, _, marks = run(tmp_path / "taken", tmp_path / "shared", "nbsp")
    assert marks == {None}


def test_those_that_make_a_visit_for_others_start_first_and_nobody_leaves_what_no_other_takes(tmp_path: Path) -> None:
    arms = {name: {"method": name} for name in ("crelu", "sac", "npc", "nbsp", "ewc")}
    trials = load_study(write_config(tmp_path, arms=arms, seeds=[0, 1])).trials(tmp_path / "results")
    ordered = in_order(trials)
    assert [(trial.arm, trial.seed) for trial in ordered] == [
        ("sac", 0), ("sac", 1), ("crelu", 0), ("npc", 0), ("crelu", 1), ("npc", 1),
        ("nbsp", 0), ("ewc", 0), ("nbsp", 1), ("ewc", 1),
    ]  # fmt: skip
    assert {trial.arm for trial in ordered if trial.shared_dir is not None} == {"sac", "nbsp", "ewc"}
    [one] = [trial for trial in trials if (trial.arm, trial.seed) == ("nbsp", 1)]
    assert in_order([one])[0].shared_dir is None
    left = Path(str(one.shared_dir)) / str(first_visit(one)) / "bundle_000000000400"
    left.mkdir(parents=True)  # of an earlier start, whose other trials are finished
    assert in_order([one]) == [one]
