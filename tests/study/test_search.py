"""Searches: what an arm with lists of values stands for, and what it says when the lists are wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from analysis import load_study as load_written_study
from rllib_nbsp.settings import ConfigError, config_hash, without_added
from rllib_nbsp.study.errors import PreflightError
from rllib_nbsp.study.folder import open_trials, write_study
from rllib_nbsp.study.reader import load_study
from rllib_nbsp.study.search import SearchSettings, combinations, draw, sample_label
from rllib_nbsp.study.study import CheckedStudy
from tests.studies import TINY, leave

EWC: dict[str, Any] = {"method": "ewc", "search": {"coef": [1.0, 10.0, 100.0], "critic": [False, True]}}
STUDY: dict[str, Any] = TINY | {"arms": {"sac": {"method": "sac"}, "ewc": EWC}, "search": {"samples": 4}}

Load = Callable[..., CheckedStudy]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads the study, with options of the command line."""

    def load(*overrides: str, **selections: Any) -> CheckedStudy:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(STUDY, sort_keys=False), encoding="utf-8")
        return load_study(path, overrides, **selections)

    return load


def labels(study: CheckedStudy) -> list[str]:
    return [arm.label for arm in study.arms]


# The draw

OPTIONS = st.dictionaries(
    st.tuples(st.sampled_from("abcdef")), st.lists(st.integers(), min_size=1, max_size=4, unique=True), min_size=1
)


@given(options=OPTIONS, samples=st.integers(1, 50), seed=st.integers(0, 2**32 - 1))
def test_a_draw_is_distinct_combinations_as_many_as_asked_for_or_all(
    options: dict[tuple[str, ...], list[int]], samples: int, seed: int
) -> None:
    drawn = [tuple(sample[path] for path in options) for sample in draw(options, samples, seed)]
    everything = set(itertools.product(*options.values()))
    assert combinations(options) == len(everything)
    assert len(drawn) == len(set(drawn)) == min(samples, len(everything))
    assert set(drawn) <= everything


@given(options=OPTIONS, fewer=st.integers(1, 20), more=st.integers(0, 20), seed=st.integers(0, 99))
def test_more_samples_begin_with_the_same_ones(
    options: dict[tuple[str, ...], list[int]], fewer: int, more: int, seed: int
) -> None:
    few = draw(options, fewer, seed)
    assert draw(options, fewer + more, seed)[: len(few)] == few


def test_every_combination_is_drawn_about_equally_often() -> None:
    options = {("a",): [0, 1], ("b",): [0, 1, 2]}
    counts = dict.fromkeys(itertools.product([0, 1], [0, 1, 2]), 0)
    for seed in range(600):
        for sample in draw(options, 3, seed):
            counts[sample["a",], sample["b",]] += 1
    # Each of 6 has 3 chances in 6 at 600 draws: 300, with a standard deviation of sqrt(600 / 4) = 12.
    assert all(240 < count < 360 for count in counts.values())


def test_a_space_too_large_to_list_is_drawn_from() -> None:
    options = {(str(key),): list(range(10)) for key in range(100)}
    assert len(draw(options, 5, 0)) == 5


# What a study makes of it


def test_a_searched_arm_stands_for_its_samples_in_its_place(load: Load) -> None:
    study = load()
    assert labels(study) == ["sac", "ewc-s00", "ewc-s01", "ewc-s02", "ewc-s03"]
    for arm in study.arms[1:]:
        assert (arm.method, arm.origin) == ("ewc", "ewc")
        assert arm.method_settings["coef"] in EWC["search"]["coef"]
        assert arm.stated == {"method": "ewc"} | {key: arm.method_settings[key] for key in ("coef", "critic")}
    assert len({str(arm.stated) for arm in study.arms}) == 5


def test_a_sample_is_a_trial_like_any_other(load: Load) -> None:
    trials = load("seeds=[100, 101]").trials(Path("/results"))
    assert [(run.arm, run.seed) for run in trials[:6]] == [
        ("sac", 100), ("ewc-s00", 100), ("ewc-s01", 100), ("ewc-s02", 100), ("ewc-s03", 100), ("sac", 101)
    ]  # fmt: skip
    assert trials[1].results_dir == "/results/left_right/ewc-s00/seed_100"


def test_the_same_file_has_the_same_samples_and_another_seed_has_others(load: Load) -> None:
    assert load().arms == load().arms
    assert load().arms != load("search.seed=1").arms


def test_what_other_arms_search_does_not_change_the_draw(load: Load) -> None:
    more = load("arms.sac={method: nbsp, search: {mask_alpha: [0.1, 0.2, 0.3]}}")
    assert [arm for arm in more.arms if arm.origin == "ewc"] == load().arms[1:]


def test_every_search_gets_the_same_budget_or_all_that_it_has(load: Load) -> None:
    study = load(
        "arms.npc={method: ewc, search: {coef: [1.0, 2.0]}}", "arms.cbp={method: ewc, search: {floor: [1, 2, 3, 4, 5]}}"
    )
    assert {origin: len(arms) for origin, arms in study.samples().items()} == {"ewc": 4, "npc": 2, "cbp": 4}
    assert study.notes() == [
        "ewc: 4 of 6 combinations, drawn with seed 0",
        "npc: all 2 combinations, 4 samples being asked for",
        "cbp: 4 of 5 combinations, drawn with seed 0",
    ]


def test_keys_of_sections_are_searched_too(load: Load) -> None:
    study = load(
        "arms.ewc={method: ewc, training: {tau: 0.1}, search: {training: {critic_lr: [0.1, 0.2], gamma: [0.9]}}}"
    )
    runs = [run for run in study.trials() if run.arm.startswith("ewc-")]
    assert sorted(run.training.critic_lr for run in runs) == [0.1, 0.2]
    assert {(run.training.tau, run.training.gamma, run.training.batch_size) for run in runs} == {(0.1, 0.9, 16)}


def test_a_search_is_selected_whole_or_by_sample(load: Load) -> None:
    assert labels(load(arms=["ewc"])) == ["ewc-s00", "ewc-s01", "ewc-s02", "ewc-s03"]
    assert labels(load(arms=["ewc-s02", "sac"])) == ["ewc-s02", "sac"]
    assert labels(load(arms=["ewc-s02", "ewc"])) == ["ewc-s02", "ewc-s00", "ewc-s01", "ewc-s03"]
    with pytest.raises(ConfigError, match=r"--arms ewc-s04: did you mean .*ewc-s0"):
        load(arms=["ewc-s04"])


def test_labels_keep_their_numbers_when_there_are_more() -> None:
    assert [sample_label("ewc", number) for number in (0, 7, 99, 100)] == ["ewc-s00", "ewc-s07", "ewc-s99", "ewc-s100"]


def test_the_analysis_learns_what_each_sample_states(load: Load, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    write_study(load("search.objective=fwt"), [], folder, resume=False)
    written = load_written_study(folder)
    assert written is not None and written.search is not None
    assert written.search.objective == "fwt"
    assert written.search.arms == {"ewc": {arm.label: arm.stated for arm in load().arms[1:]}}
    assert written.arms == labels(load())


def test_resuming_with_more_samples_adds_them(load: Load, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    write_study(load(), [], folder, resume=False)
    write_study(load("search.samples=6"), [], folder, resume=True)
    written = load_written_study(folder)
    assert written is not None and written.search is not None
    assert list(written.search.arms["ewc"]) == [f"ewc-s0{number}" for number in range(6)]


def test_resuming_leaves_finished_samples_alone(load: Load, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    first = load()
    write_study(first, [], folder, resume=False)
    for run in first.trials(folder)[:3]:  # sac and two samples
        leave(run, done=True)
    more = load("search.samples=6")
    left = open_trials(more, more.trials(folder), folder, resume=True)
    assert [run.arm for run in left] == ["ewc-s02", "ewc-s03", "ewc-s04", "ewc-s05"]


def test_a_search_whose_lists_changed_is_not_resumed_over_finished_samples(load: Load, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    first = load()
    write_study(first, [], folder, resume=False)
    leave(first.trials(folder)[1], done=True)
    changed = load("arms.ewc.search.coef=[7.0, 8.0, 9.0]")
    with pytest.raises(
        PreflightError, match=r"ewc-s00/seed_0 has results of other settings \(method_settings\.coef was"
    ):
        open_trials(changed, changed.trials(folder), folder, resume=True)


def test_a_study_without_a_search_says_nothing_of_one(load: Load, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    write_study(load(arms=["sac"]), [], folder, resume=False)
    assert "search" not in yaml.safe_load((folder / "study.yaml").read_text())


# Of a part of a lifetime: 4 visits of 400 steps, 100 of them warm-up


def test_samples_alone_are_cut_off(load: Load) -> None:
    runs = {run.arm: run for run in load("search.lifetime_percent=30").trials()}
    assert {arm: run.stop_env_steps for arm, run in runs.items()} == {
        "sac": None, "ewc-s00": 480, "ewc-s01": 480, "ewc-s02": 480, "ewc-s03": 480
    }  # fmt: skip
    assert runs["ewc-s00"].visit_env_steps == [400, 80] and runs["sac"].visit_env_steps == [400] * 4


def test_all_of_a_lifetime_is_what_there_was_before_the_key(load: Load) -> None:
    whole, plain = (load(*options).trials() for options in (("search.lifetime_percent=100",), ()))
    assert whole == plain
    assert [config_hash(run) for run in whole] == [config_hash(run) for run in plain]
    assert {run.stop_env_steps for run in plain} == {None}
    assert "stop_env_steps" not in without_added(plain[0].model_dump())
    cut = load("search.lifetime_percent=30").trials()
    assert [config_hash(a) == config_hash(b) for a, b in zip(cut, plain, strict=True)] == [True, *[False] * 4]


def test_a_samples_own_visits_make_its_lifetime(load: Load) -> None:
    study = load(
        "search.lifetime_percent=50", "arms.ewc={method: ewc, search: {visit: {max_env_steps: [400, 600, 1001]}}}"
    )
    assert sorted((run.visit.max_env_steps, run.stop_env_steps) for run in study.trials() if run.arm != "sac") == [
        (400, 800), (600, 1200), (1001, 2002)
    ]  # fmt: skip


@given(percent=st.floats(0.001, 100), lifetime=st.integers(1, 10**9))
def test_no_less_than_was_asked_for_is_seen_and_no_whole_step_more(percent: float, lifetime: int) -> None:
    steps = SearchSettings(lifetime_percent=percent).env_steps_of(lifetime)
    assert steps is None if percent == 100 else steps is not None and 1 <= steps <= lifetime
    assert steps is None or steps - 1 < lifetime * percent / 100 <= steps


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["20"], "320 of 1,600 env steps, to within visit 1 of 4: nothing can be forgotten there"),
        (["25"], "400 of 1,600 env steps, to the end of visit 1 of 4: nothing can be forgotten there"),
        (["75"], "1,200 of 1,600 env steps, to the end of visit 3 of 4"),
        (["99.99"], "1,600 of 1,600 env steps, to the end of visit 4 of 4"),
        (
            ["20", "visit.early_stop={min_env_steps: 200}"],
            "320 of 1,600 env steps, to within visit 1 of 4 or further, as visits may end early",
        ),
    ],
)
def test_the_notes_say_how_much_is_seen(options: list[str], said: str, load: Load) -> None:
    percent, *others = options
    study = load(f"search.lifetime_percent={percent}", *others)
    seen = f"they see the first {percent} % of a lifetime, {said}"
    assert study.notes() == [f"ewc: 4 of 6 combinations, drawn with seed 0; {seen}"]


def test_what_a_part_of_a_lifetime_comes_to_is_not_averaged_with_the_whole(load: Load, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    part = load("search.lifetime_percent=30")
    write_study(part, [], folder, resume=False)
    written = load_written_study(folder)
    assert written is not None and written.search is not None and written.search.lifetime_percent == 30
    leave(part.trials(folder)[1], done=True)
    whole = load("seeds=[0, 1]")
    with pytest.raises(PreflightError, match=r"has results of other settings \(stop_env_steps was 480 and is gone\)"):
        open_trials(whole, whole.trials(folder), folder, resume=True)


@pytest.mark.parametrize(("percent", "seen"), [(0.01, 1), (6.5, 104), (6.87, 110)])
def test_too_little_of_a_lifetime_for_an_update_is_one_line(percent: float, seen: int, load: Load) -> None:
    # 16 rows make a batch; 10 steps behind a warm-up of 100 are an update.
    if seen == 110:
        load(f"search.lifetime_percent={percent}")
        return
    with pytest.raises(ConfigError) as caught:
        load(f"search.lifetime_percent={percent}")
    [problem] = caught.value.problems
    assert f"search.lifetime_percent is {percent}, {seen} of 1600 environment steps, in which no update is" in problem
    assert problem.endswith("made; the first one is after 110")


# What is wrong with one


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.samples=0", ["search.samples is 0", "a whole number >= 1 and <= 1000"]),
        ("search.samples=many", ["search.samples is 'many'", "a whole number >= 1"]),
        ("search.objective=fm", ["search.objective is 'fm'", "'asr', 'fwt', 'final_success'"]),
        ("search.sample=4", ["unknown key 'search.sample'", "did you mean 'samples'?"]),
        ("search.lifetime_percent=0", ["search.lifetime_percent is 0", "a number > 0 and <= 100"]),
        ("search.lifetime_percent=-20", ["search.lifetime_percent is -20", "a number > 0 and <= 100"]),
        ("search.lifetime_percent=101", ["search.lifetime_percent is 101", "a number > 0 and <= 100"]),
        ("search.lifetime_percent=.nan", ["search.lifetime_percent is nan", "a number > 0 and <= 100"]),
        ("search.lifetime_percent=all", ["search.lifetime_percent is 'all'", "a number > 0 and <= 100"]),
        ("search.seed=-1", ["search.seed is -1", "a whole number >= 0"]),
        ("search=4", ["search is 4", "a mapping with keys samples, seed, objective, lifetime_percent"]),
        ("arms.ewc.search=", ["arms.ewc.search is null", "a mapping of the arm's keys to lists"]),
        ("arms.ewc.search={}", ["arms.ewc.search is {}", "a mapping of the arm's keys to lists"]),
        ("arms.ewc.search=[1]", ["arms.ewc.search is [1]", "a mapping of the arm's keys to lists"]),
        ("arms.ewc.search.coeff=[1]", ["unknown key 'arms.ewc.search.coeff' for method 'ewc'", "did you mean 'coef'?"]),
        ("arms.ewc.search.method=[ewc]", ["unknown key 'arms.ewc.search.method'"]),
        ("arms.ewc.search.coef=[]", ["arms.ewc.search.coef is []", "a list of at least 1: a number >= 0"]),
        ("arms.ewc.search.coef=3.0", ["arms.ewc.search.coef is 3.0", "a list of at least 1: a number >= 0"]),
        ("arms.ewc.search.coef=[1.0, 1e3]", ["arms.ewc.search.coef[1] is '1e3'", "a number >= 0", "write 1.0e+3"]),
        ("arms.ewc.search.critic=[1]", ["arms.ewc.search.critic[0] is 1", "true or false"]),
        ("arms.ewc.search.coef=[1.0, 2.0, 1.0]", ["arms.ewc.search.coef has 1.0 twice"]),
        ("arms.ewc.coef=1.0", ["arms.ewc.search.coef is searched, but the arm states it too"]),
        ("arms.ewc.search.training=[1]", ["arms.ewc.search.training is [1]", "a mapping to lists, with keys updates_"]),
        ("arms.ewc.search.training={}", ["arms.ewc.search.training is {}", "a mapping to lists"]),
        ("arms.ewc.search.training={tau: 0.1}", ["arms.ewc.search.training.tau is 0.1", "a list of at least 1"]),
        ("arms.ewc.search.training={tau: [0.1, 2]}", ["arms.ewc.search.training.tau[1] is 2", "> 0 and <= 1"]),
        ("arms.ewc.search.training={gama: [0.1]}", ["unknown key 'arms.ewc.search.training.gama'", "mean 'gamma'?"]),
        ("arms.ewc.search.visit={early_stop: [{window: 3}]}", ["unknown key", "search.visit.early_stop[0].window'"]),
        ("arms.ewc.serach={coef: [1]}", ["unknown key 'arms.ewc.serach'", "did you mean 'search' or"]),
        ("arms.ewc-s07={method: sac}", ["arms.ewc-s07 is called as a sample of arms.ewc.search"]),
        ("arms.ewc={method: ewc}", ["search is given, but no arm has a search of its own"]),
        (f"arms.{'a' * 61}={{method: ewc, search: {{coef: [1.0]}}}}", ["has samples up to aaa", "longer than 64"]),
    ],
)  # fmt: skip
def test_a_wrong_search_is_one_line_with_its_place(load: Load, override: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(override)
    [problem] = caught.value.problems
    for words in said:
        assert words in problem


def test_values_that_do_not_fit_the_run_are_told_once_and_not_by_sample(load: Load) -> None:
    override = "arms.ewc={method: nbsp, search: {skill_frac: [0.01, 0.2], mask_alpha: [0.1, 0.2, 0.3]}}"
    with pytest.raises(ConfigError) as caught:
        load(override, "search.samples=6")
    [problem] = caught.value.problems
    assert "arms.ewc.search.skill_frac is 0.01" in problem


def test_the_line_of_a_wrong_list_is_named(tmp_path: Path) -> None:
    text = yaml.safe_dump(STUDY, sort_keys=False).replace("- 10.0", "- ten")
    path = tmp_path / "study.yaml"
    path.write_text(text)
    line = next(i for i, content in enumerate(text.splitlines(), 1) if "ten" in content)
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    assert caught.value.problems == [f"{path}:{line}: arms.ewc.search.coef[1] is 'ten'; allowed: a number >= 0"]


def test_all_problems_of_searches_come_with_the_others(load: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        load("arms.ewc.search={coef: [x, -1.0], critc: [true]}", "search.samples=0", "training.gamma=7", "seeds=[0, 0]")
    told = ["search.coef[0]", "search.coef[1]", "search.critc", "search.samples", "training.gamma", "seeds has 0"]
    assert len(caught.value.problems) == len(told)
    assert all(any(words in problem for problem in caught.value.problems) for words in told)
