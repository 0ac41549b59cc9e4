"""What a wrong file says: place, value, what is allowed; and any value in any field."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_nbsp.methods import METHODS
from rllib_nbsp.settings import ConfigError
from rllib_nbsp.study.reader import load_study
from rllib_nbsp.study.study import safe_name, sections
from tests.study.conftest import STUDY, Load, problems_of

KNOWN_METHODS = f"known methods: {', '.join(sorted(METHODS))}"

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
    ("arms.nbsp.skill_frc=0.1", ["unknown key 'arms.nbsp.skill_frc'", "did you mean 'skill_frac' or 'skill_fdr'?"]),
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


def test_a_missing_file_names_the_nearest_preset() -> None:
    with pytest.raises(ConfigError, match=r"no such file or preset; did you mean 'quickstart'"):
        load_study("tune_configs/quickstrat.yaml")


def test_a_config_error_does_not_wait_for_ray() -> None:
    code = "import sys, rllib_nbsp.study.reader, rllib_nbsp.study.folder; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# Any value in any field

PATHS = [("experiment",), ("suite",), ("cycles",), ("seeds",), ("sequences",), ("sequences", "left_right"), ("arms",)]
PATHS += [
    ("allow_repeats",),
    ("search",),
    ("search", "samples"),
    ("search", "seed"),
    ("search", "objective"),
    ("search", "lifetime_percent"),
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
