"""Notes: what weakens the numbers is said, whatever it is."""

from __future__ import annotations

from analysis import compare_with_paper, load_results, tables
from analysis.notes import collect_notes
from tests.analysis.conftest import FORGETFUL


def notes_of(study, protocol="nbsp-visits"):
    results = load_results(study.root)
    values = tables.metric_values(results, protocol)
    table = tables.metric_table(results, values)
    return "\n".join(collect_notes(results, values, table, compare_with_paper(results, values)))


def test_notes_name_what_weakens_the_numbers(study):
    study.run([[0.2, 0.0], [0.1, 1.0], [0.3, 0.5], [0.0, 1.0]], arm="sac", visit_env_steps=1000)
    study.run(FORGETFUL, arm="nbsp", visit_env_steps=2000)
    (study.root / "pair" / "nbsp" / "seed_0" / "versions.json").write_text('{"ray": "2.61.0"}')
    notes = notes_of(study)
    for text in (
        "One seed per arm says what happened once",
        "pair: in a pair of tasks the relation between these two decides",
        "pair/sac: window-open was never learned (at most 0.30 after its own visits)",
        "pair: arms used between 4.0k (sac) and 8.0k (nbsp) env steps",
        "different versions: ray 2.60.0 and 2.61.0",
    ):
        assert text in notes


def test_notes_name_missing_seeds_and_cells(study):
    study.run(seed=0)
    study.run(seed=1, visits=3)
    study.run(arm="extra")
    study.study(["sac"], [0, 1, 2])
    notes = notes_of(study)
    assert "pair/sac: 1 of 3 seeds are complete; not started: seed 2." in notes
    assert "pair/sac/seed_1: 2 of the needed results are missing (after visit 4)" in notes
    assert "pair/extra/seed_0: study.yaml does not list this run; it is included." in notes
    assert "env steps, as visits may end early" not in notes  # Only seed 1 has fewer, and it is not done.


def test_comparison_notes_name_other_scales(study):
    study.run(config={"visit": {"max_env_steps": 90_000}, "model": {"hidden": [256, 256, 256]}})
    study.run(arm="ewc")
    assert (
        "No verdict across scales: pair/sac had visits of 90.0k env steps, the paper's 1.00M; hidden layers "
        "[256, 256, 256], the paper's [768, 768, 768]."
    ) in notes_of(study)
    assert "fit the protocol nbsp-visits, not positions" in notes_of(study, "positions")


def test_a_published_row_that_no_runs_can_have_is_told(study):
    tasks = ["button-press-topdown-v3", "window-open-v3"]
    study.run(tasks=tasks)
    assert "cannot be" not in notes_of(study)
    study.run(tasks=tasks, arm="crelu")
    assert (
        "The paper's row of CReLU (button-press-topdown -> window-open) cannot be: with its ASR and FWT, FM 0.94 would "
        "have to lie in -0.12 to 0.89."
    ) in notes_of(study)


def test_rows_of_the_last_update_before_a_report_are_told_from_means(study):
    # Rows with D_pre at work and no mean over its batches are from before rows were means.
    replay = {"method_settings": {"with_replay": True}}
    for arm, numbers in (("before", {}), ("means", {"q_mean_prior": 60.0})):
        path = study.run(arm=arm, method="nbsp", config=replay) / "training.jsonl"
        rows = [{**row, "prior_size": 100, "q_mean": 70.0, **numbers} for row in study.read_rows(path)]
        study.write_rows(path, rows)
    study.run(arm="sac", config={"method_settings": {"with_replay": False}})
    notes = notes_of(study)
    assert "in the training rows of before are those of the last update" in notes


def test_environments_that_failed_and_workers_that_were_lost_are_told(study):
    for seed, counts in ((0, (0, 0)), (1, (1, 0)), (2, (3, 2))):
        path = study.run(seed=seed) / "training.jsonl"
        rows = study.read_rows(path)
        rows[-1] |= dict(zip(("rebuilt_envs", "lost_fragments"), counts, strict=True))
        study.write_rows(path, rows)
    notes = notes_of(study)
    assert "seed_0: " not in notes
    assert "pair/sac/seed_1: went on after 1 rebuilt environment." in notes
    assert "pair/sac/seed_2: went on after 3 rebuilt environments and 2 lost fragments." in notes
