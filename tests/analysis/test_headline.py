"""The sentence that a report begins with."""

from __future__ import annotations

import pytest

from analysis import load_results, metric_values
from analysis.headline import headline_of
from tests.analysis.conftest import FORGETFUL, PERFECT

# ASR of FORGETFUL is 0.75, of PERFECT 1, of WORSE (1 + 0.25 + 0.5 + 0.5) / 4 = 0.5625.
WORSE = [[1.0, 0.0], [0.0, 0.5], [1.0, 0.0], [0.0, 1.0]]


def told(study):
    results = load_results(study.root)
    return headline_of(results, metric_values(results))


def test_the_best_arm_with_its_difference_interval_and_verdict(study):
    for seed in range(7):
        study.run(FORGETFUL, seed=seed)
        # Seed 0 is better by 0.25, as are the others; one keeps less: (1 + 1 + 0.75 + 0.5) / 4 = 0.8125.
        study.run(PERFECT if seed else [[1.0, 0.0], [1.0, 1.0], [1.0, 0.5], [0.0, 1.0]], arm="nbsp", seed=seed)
    # Differences 0.0625 and six times 0.25: mean 0.223, t(6) 2.447 * 0.0709 / sqrt(7) = 0.066; p = 2 / 128.
    assert told(study).sentence == (
        "nbsp has the highest ASR of 2 arms, 0.97: +0.22 to sac, 95 % interval [+0.16, +0.29], p 0.016 after Holm: "
        "better than sac."
    )
    assert told(study).caveats == ["7 seeds an arm", "pairs of tasks: a ranking of arms need not hold on others"]


def test_an_interval_above_0_is_no_proof_where_so_few_pairs_can_give_none(study):
    for seed in range(3):
        study.run(FORGETFUL, seed=seed)
        study.run(PERFECT, arm="nbsp", seed=seed)
    assert told(study).sentence.endswith(
        "p 0.250 after Holm: above sac by the interval, but 3 pairs cannot give a p below 0.25."
    )


def test_what_differs_by_chance_is_not_told_apart_and_the_choice_of_the_best_is_a_caveat(study):
    for seed, (sac, nbsp) in enumerate([(FORGETFUL, PERFECT), (FORGETFUL, WORSE), (WORSE, PERFECT)]):
        study.run(sac, seed=seed)
        study.run(nbsp, arm="nbsp", seed=seed)
        study.run(WORSE, arm="ewc", seed=seed)
    headline = told(study)
    assert headline.sentence.startswith("nbsp has the highest ASR of 3 arms, 0.85: +0.17 to sac, 95 % interval [-0.")
    assert headline.sentence.endswith("not told apart from sac.")
    assert "the best of 3 looks better than it is" in headline.caveats


@pytest.mark.parametrize(
    ("runs", "end"),
    [
        ([("sac", PERFECT, 0), ("nbsp", FORGETFUL, 0)], "1.00: no arm is above fine-tuning (sac)."),
        (
            [("sac", FORGETFUL, 0), ("nbsp", PERFECT, 0)],
            "+0.25 to sac in the one seed that both have, which is no evidence.",
        ),
        (
            [("sac", FORGETFUL, 0), ("nbsp", PERFECT, 1)],
            "it has no seed in common with sac, so the two cannot be compared.",
        ),
        ([("nbsp", PERFECT, 0)], "1.00; there is no arm of fine-tuning to compare with."),
    ],
)
def test_what_cannot_be_compared_says_why(study, runs, end):
    for arm, success, seed in runs:
        study.run(success, arm=arm, seed=seed)
    assert told(study).sentence.endswith(end)


def test_without_a_complete_run_there_is_no_result(study):
    study.run(visits=1)
    assert told(study).sentence == "No arm has a complete run yet, so there is no result."


def test_a_baseline_that_has_not_finished_is_named(study):
    study.run(visits=1)
    study.run(PERFECT, arm="nbsp")
    assert told(study).sentence.endswith("1.00; sac has no complete run.")
    assert "no complete run of sac" in told(study).caveats


def test_over_several_sequences_a_seed_counts_once_and_only_if_it_has_them_all(study):
    for sequence in ("one", "two"):
        study.run(FORGETFUL, sequence=sequence)
        study.run(PERFECT if sequence == "one" else FORGETFUL, arm="nbsp", sequence=sequence)
    study.run(PERFECT, arm="nbsp", sequence="one", seed=1)
    # Seed 0: (1 + 0.75) / 2 against 0.75; seed 1 has no run of the second sequence.
    assert "0.88: +0.12 to sac in the one seed" in told(study).sentence


def test_what_is_left_of_tasks_that_are_not_trained_last_by_hand(study):
    # Task one's last visit is the third of four, after which it is at 1; after the fourth at 0, in the second seed 0.5.
    study.run(FORGETFUL)
    study.run([[1.0, 0.0], [0.0, 1.0], [0.8, 0.0], [0.5, 1.0]], seed=1)
    study.run(PERFECT, arm="nbsp")
    assert told(study).kept == (
        "Left at the end of earlier tasks, of what their own last visit had reached: "
        "sac 0.25 of 0.90, nbsp 1.00 of 1.00."
    )


def test_of_many_arms_those_that_keep_most_are_named_beside_the_baseline(study):
    study.run(FORGETFUL)
    for number in range(6):
        study.run([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [number / 10, 1.0]], arm=f"arm_{number}")
    assert told(study).kept.endswith("sac 0.00 of 1.00, arm_3 0.30 of 1.00, arm_4 0.40 of 1.00, arm_5 0.50 of 1.00.")


def test_of_one_task_nothing_is_told_of_what_is_left(study):
    study.run([[1.0], [1.0]], tasks=["one"])
    assert told(study).kept == ""
