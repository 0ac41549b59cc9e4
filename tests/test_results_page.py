"""The page of results: questions of pairs of arms, and verdicts that few seeds cannot have."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from analysis import load_results, metric_values, statistics
from docs.results import (
    ASKED,
    LEVEL,
    PRESETS,
    STUDIES,
    Answer,
    Study,
    answers,
    braked,
    constants,
    lasting,
    main,
    progress,
    verdicts,
)


def answer(*differences: float) -> Answer:
    estimate = statistics.interval(differences, limits=(-1.0, 1.0))
    return Answer("a", "b", "asr", differences, estimate, statistics.sign_flip_test(differences))


@pytest.mark.parametrize(
    ("differences", "questions", "says"),
    [
        ([0.1, 0.2, 0.1, 0.2, 0.1, 0.2], 1, "**more**"),
        ([-0.1, -0.2, -0.1, -0.2, -0.1, -0.2], 1, "**less**"),
        ([0.1, -0.2, 0.1, -0.2, 0.1, 0.2], 1, "open"),
        ([0.1, 0.2, 0.1, 0.2, 0.1], 1, "open: too few seeds"),  # no sign flips of five are rarer than 1 in 16
        ([0.1, 0.2, 0.1, 0.2, 0.1, 0.2], 2, "open: too few seeds"),
        ([], 1, "no seed has both"),
    ],
)
def test_a_verdict_is_what_so_many_seeds_can_say(differences, questions, says):
    found = answer(*differences)
    assert found.says(min(1.0, questions * found.p), questions) == says


def test_seeds_for_the_half_width_by_hand():
    # Student's t of 3 degrees of freedom is 3.182, of 4 is 2.776: a standard deviation of 0.1 times t over the root of
    # n is 0.159 with four seeds and 0.124 with five; ever so on, 9 seeds have 0.0769 and 8 have 0.0836.
    spread = [0.1 * (3 / 4) ** 0.5 * sign for sign in (1, -1, 1, -1)]
    assert answer(*spread).seeds == "9"
    assert answer(0.3).seeds == ""


def test_an_answer_is_of_the_seeds_that_both_arms_have():
    study = next(study for study in STUDIES if study.name == "cpu_button_drawer")
    results = load_results("results/published/cpu_button_drawer")
    values = metric_values(results)
    values = values[(values["arm"] != "sac") | (values["seed"] != 1)]
    found = answers(study, results, values)
    assert len(found) == 2 * len(study.questions)
    both = {(a.arm, a.control, a.metric): a.differences for a in found}
    assert len(both["nbsp", "sac", "asr"]) == 2 and len(both["nbsp", "mask_only", "asr"]) == 3
    by_hand = values[values["arm"] == "nbsp"]["asr"].iloc[0] - values[values["arm"] == "sac"]["asr"].iloc[0]
    assert both["nbsp", "sac", "asr"][0] == pytest.approx(by_hand)
    assert verdicts(study, results, values).count("open: too few seeds") == len(found)


def test_progress_counts_what_the_preset_asks_for(tmp_path: Path):
    published = Path("results/published/fast_pendulum_pair")
    for run in [*published.glob("*/*/seed_0"), *published.glob("*/sac/seed_1"), *published.glob("*/ewc/seed_1")]:
        shutil.copytree(run, tmp_path / run.relative_to(published))
    shutil.copy(published / "study.yaml", tmp_path)
    results = load_results(tmp_path)
    said = progress(Study("fast_pendulum_pair", "fast/pendulum_pair.yaml"), results)
    # Every arm has 19 seeds to go but sac and ewc, which have 18, at the mean of their two.
    clocks = results.training.groupby(["arm", "seed"])["wall_s"].max()
    rest = sum((20 - len(own)) * own.mean() for _, own in clocks.groupby("arm"))
    assert said == (
        f"So far 15 of 260 trials ran, in {clocks.sum() / 60:.1f} min by the trials' own clocks; "
        f"the others take {rest / 3600:.1f} h at that pace; all 13 arms of seed 0."
    )


def test_constant_neurons_of_each_seed_or_as_means_over_seeds():
    results = load_results("results/published/cpu_button_drawer")
    training = results.training
    told = training[(training["arm"] == "nbsp") & (training["visit"] == 2)].groupby("seed").last()
    actor = told["constant_skill_frac_policy"]
    by_seed = constants(Study("a", "", by_seed=True), results)
    assert f"| `nbsp` | 1 | {actor[1]:.2f} " in by_seed and by_seed.count("`nbsp` |") == 3
    assert f"| `nbsp` | {actor.mean():.2f} " in constants(Study("a", ""), results)


def test_how_long_the_first_task_lasts_by_hand():
    results = load_results("results/published/cpu_after_mastery")
    # sac, seed 0: 1.0 in all evaluations from 50,000 to 150,000 steps; 0.0 in all of visit 2; 0.6 at 430,000 steps and
    # then 1.0 twice, 140,000 steps into visit 3; of visit 4 the first five are 0.2, 0.2, 0.0, 0.0, 0.4, then 0.
    assert "| `sac` | 0 | from 50 | 0.00 of it | from 140 | 0.05 of it |" in lasting(results)
    rows = results.evaluations
    last = (rows["eval_task"] == "button-press-v3") & (rows["seed"] == 0) & (rows["env_steps"] == 450_000)
    told = lasting(replace(results, evaluations=rows.assign(score=rows["score"].where(~last, 0.89))))
    assert "| `sac` | 0 | from 50 | 0.00 of it | not to its end | 0.05 of it |" in told


def test_what_an_arm_brakes_by_hand():
    results = load_results("results/published/fast_pendulum_pair")
    training = results.training
    own = training[(training["arm"] == "cotasp") & (training["visit"] == 3)].groupby("seed")["masked_frac"].last()
    lines = braked(results).splitlines()
    (cotasp,) = (line for line in lines if line.startswith("| `cotasp` |"))
    assert cotasp.split(" | ")[3] == f"{own.mean():.2f} ({own.min():.2f} to {own.max():.2f})"
    assert "| `nbsp` | 0.00 | 0.20 | 0.20 | 0.20 |" in lines
    assert not any(line.startswith("| `sac` |") for line in lines)


@pytest.mark.parametrize("study", [study for study in STUDIES if study.name.startswith("fast")], ids=lambda s: s.name)
def test_the_seeds_of_a_fast_study_can_answer_its_questions(study):
    preset = yaml.safe_load((PRESETS / study.preset).read_text(encoding="utf-8"))
    assert {arm for pair in study.questions for arm in pair} <= preset["arms"].keys()
    assert len(ASKED) * len(study.questions) * statistics.smallest_p(len(preset["seeds"])) < LEVEL


def test_the_page_has_the_tables_of_the_published_rows():
    assert main(["--check"]) == 0
