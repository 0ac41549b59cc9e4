"""The best sample of a search: by hand, with runs that are missing, and as the line that the user copies."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import yaml

from analysis import DataError, UnknownNameError, load_results, load_study, tables
from analysis.__main__ import main
from analysis.findings import find
from analysis.report import write_report
from analysis.search import OBJECTIVES, arm_line, best_lines, objective_of, rank_samples, search_text
from rllib_nbsp.study.reader import load_study as load_config
from rllib_nbsp.study.search import SearchSettings
from tests.analysis.conftest import FORGETFUL, PAIR, PERFECT
from tests.studies import write_config

# ASR by hand, rows being visits over two tasks:
# UNLEARNED = ((0) + (0 + 1) / 2 + (0 + 1) / 2 + (0 + 1) / 2) / 4 = 0.375, FWT = (0 + 1 + 0 + 1) / 4 = 0.5
UNLEARNED = [[0.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]

STATED = {
    "ewc-s00": {"method": "ewc", "coef": 1e5},
    "ewc-s01": {"method": "ewc", "coef": 1e-5, "training": {"critic_lr": 0.001}},
    "ewc-s02": {"method": "ewc", "coef": 0.0},
}


def search(study: Any, arms: dict[str, dict[str, Any]], seeds: list[int], objective: str = "asr") -> None:
    """Write what a study with these searches leaves in study.yaml."""
    labels = [label for samples in arms.values() for label in samples]
    study.study(labels, seeds)
    path = study.root / "study.yaml"
    content = yaml.safe_load(path.read_text()) | {"search": {"objective": objective, "arms": arms}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def ranking(study: Any) -> Any:
    results = load_results(study.root)
    return rank_samples(results, tables.metric_values(results))


@pytest.fixture
def searched(study: Any) -> Any:
    """Three samples with two seeds each, of mean ASR (0.75 + 0.375) / 2, (1 + 0.75) / 2 and (1 + 0.375) / 2."""
    for label, runs in {
        "ewc-s00": (FORGETFUL, UNLEARNED),
        "ewc-s01": (PERFECT, FORGETFUL),
        "ewc-s02": (PERFECT, UNLEARNED),
    }.items():
        for seed, success in zip((100, 101), runs, strict=True):
            study.run(success, arm=label, seed=seed, method="ewc")
    search(study, {"ewc": STATED}, [100, 101])
    return study


def test_samples_are_ranked_by_their_mean_over_seeds(searched):
    samples = ranking(searched)["ewc"]
    assert [(sample.label, sample.objective) for sample in samples] == [
        ("ewc-s01", 0.875),
        ("ewc-s02", 0.6875),
        ("ewc-s00", 0.5625),
    ]
    assert samples[0].stated == STATED["ewc-s01"]
    assert all((sample.runs, sample.expected, sample.complete) == (2, 2, True) for sample in samples)


def test_another_objective_may_choose_another_sample(study):
    # FWT of FORGETFUL is 1 and its ASR 0.75. The other one learns its first task less well at first and keeps both:
    # FWT = (0.8 + 1 + 1 + 1) / 4 = 0.95, ASR = (0.8 + (1 + 1) / 2 + 1 + 1) / 4 = 0.95.
    study.run(FORGETFUL, arm="ewc-s00", method="ewc")
    study.run([[0.8, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], arm="ewc-s01", method="ewc")
    for objective, best in (("asr", "ewc-s01"), ("fwt", "ewc-s00")):
        search(study, {"ewc": {label: STATED[label] for label in ("ewc-s00", "ewc-s01")}}, [0], objective)
        assert ranking(study)["ewc"][0].label == best


def test_the_mean_is_over_sequences_as_well(study):
    for label, runs in {"ewc-s00": (PERFECT, UNLEARNED), "ewc-s01": (FORGETFUL, FORGETFUL)}.items():
        for sequence, success in zip(("one", "two"), runs, strict=True):
            study.run(success, arm=label, sequence=sequence, method="ewc")
    search(study, {"ewc": {label: STATED[label] for label in ("ewc-s00", "ewc-s01")}}, [0])
    path = study.root / "study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"sequences": {"one": PAIR, "two": PAIR}}))
    assert [(sample.label, sample.objective) for sample in ranking(study)["ewc"]] == [
        ("ewc-s01", 0.75),
        ("ewc-s00", 0.6875),
    ]


def test_a_sample_with_a_run_missing_or_unfinished_is_no_candidate(study):
    study.run(FORGETFUL, arm="ewc-s00", seed=100, method="ewc")
    study.run(FORGETFUL, arm="ewc-s00", seed=101, method="ewc")
    study.run(PERFECT, arm="ewc-s01", seed=100, method="ewc")
    study.run(PERFECT, arm="ewc-s02", seed=100, method="ewc")
    study.run(PERFECT, arm="ewc-s02", seed=101, method="ewc", visits=3)
    search(study, {"ewc": STATED}, [100, 101])
    samples = ranking(study)["ewc"]
    assert [(sample.label, sample.runs, sample.complete) for sample in samples] == [
        ("ewc-s00", 2, True),
        ("ewc-s01", 1, False),
        ("ewc-s02", 1, False),
    ]
    assert "best of 1 (2 more are incomplete)" in best_lines({"ewc": samples}, "asr")[0]
    assert search_text({"ewc": samples}, "asr")["Runs"].tolist() == ["n=2", "n=1/2", "n=1/2"]


def test_no_sample_is_named_while_all_are_incomplete(study):
    study.run(PERFECT, arm="ewc-s00", seed=100, method="ewc")
    search(study, {"ewc": STATED}, [100, 101])
    assert best_lines(ranking(study), "asr") == ["# ewc: none of 3 samples has all of its runs"]


def test_of_equal_samples_the_one_drawn_first_is_named_with_the_others(study):
    for label in STATED:
        study.run(UNLEARNED if label == "ewc-s00" else PERFECT, arm=label, method="ewc")
    search(study, {"ewc": STATED}, [0])
    comment, line = best_lines(ranking(study), "asr")
    assert comment == "# ewc-s01: asr 1.000, mean of 1 run; best of 3; as good: ewc-s02"
    assert line == "ewc: {method: ewc, coef: 1.0e-05, training: {critic_lr: 0.001}}"


def test_each_search_has_its_best(searched):
    for label in ("npc-s00", "npc-s01"):
        for seed in (100, 101):
            searched.run(PERFECT if label == "npc-s01" else UNLEARNED, arm=label, seed=seed, method="npc")
    npc = {"npc-s00": {"method": "npc"}, "npc-s01": {"method": "npc", "kappa": 0.1}}
    search(searched, {"ewc": STATED, "npc": npc}, [100, 101])
    assert best_lines(ranking(searched), "asr")[1::2] == [
        "ewc: {method: ewc, coef: 1.0e-05, training: {critic_lr: 0.001}}",
        "npc: {method: npc, kappa: 0.1}",
    ]


@pytest.mark.parametrize("stated", STATED.values(), ids=STATED)
def test_the_line_is_what_a_study_file_takes(tmp_path, stated):
    line = arm_line("ewc", stated)
    assert "\n" not in line and yaml.safe_load(line) == {"ewc": stated}
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace("arms:\n", f"arms:\n  {line}\n"))
    assert load_config(path).arms[0].stated == stated


def test_the_command_and_the_page_name_the_best(searched, capsys):
    assert main(["report", str(searched.root)]) == 0
    printed = capsys.readouterr().out
    line = "ewc: {method: ewc, coef: 1.0e-05, training: {critic_lr: 0.001}}"
    assert f"best of each search:\n# ewc-s01: asr 0.875, mean of 2 runs; best of 3\n{line}\n" in printed
    for name in ("report.html", "table.md"):
        text = (searched.root / "report" / name).read_text()
        assert line in text and "looks better than it is" in text


def test_a_study_without_a_search_names_no_best(study, capsys):
    study.run()
    study.study(["sac"], [0])
    report = write_report(study.root)
    assert report.best == [] and objective_of(load_results(study.root)) == "asr"
    assert 'id="search"' not in report.html.read_text()


# Samples that saw a part of a lifetime: 4 visits of 1,000 steps


def cut_study(study: Any, percent: int, samples: dict[str, list[list[float]]], visits: int) -> None:
    """A search whose samples ended within the visit of that number, beside fine-tuning that made all of its visits."""
    for label, success in samples.items():
        config = {"stop_env_steps": 40 * percent}
        study.run(success, arm=label, method="ewc", visits=visits, visit_env_steps=1000, config=config)
    study.run(FORGETFUL, visit_env_steps=1000)
    search(study, {"ewc": {label: STATED[label] for label in samples}}, [0])
    path = study.root / "study.yaml"
    content = yaml.safe_load(path.read_text())
    content["search"]["lifetime_percent"] = percent
    content["arms"].append("sac")
    path.write_text(yaml.safe_dump(content))


def test_the_objective_of_a_part_is_over_the_visits_that_were_begun(study):
    # Of two visits: UNLEARNED (0 + (0 + 1) / 2) / 2 = 0.25, PERFECT 1, FORGETFUL (1 + (0.5 + 1) / 2) / 2 = 0.875.
    samples = {"ewc-s00": UNLEARNED, "ewc-s01": FORGETFUL, "ewc-s02": PERFECT}
    cut_study(study, 40, samples, visits=2)
    ranked = ranking(study)["ewc"]
    assert [(sample.label, sample.objective) for sample in ranked] == [
        ("ewc-s02", 1.0),
        ("ewc-s01", 0.875),
        ("ewc-s00", 0.25),
    ]
    comment, _ = best_lines({"ewc": ranked}, "asr")
    assert comment.endswith("; best of 3; by the first 40 % of a lifetime")


def test_within_the_first_visit_nothing_is_forgotten_and_who_learned_it_is_equal(study):
    cut_study(study, 20, {"ewc-s00": UNLEARNED, "ewc-s01": FORGETFUL, "ewc-s02": PERFECT}, visits=1)
    ranked = ranking(study)["ewc"]
    assert [sample.objective for sample in ranked] == [1.0, 1.0, 0.0]
    assert "as good: ewc-s02" in best_lines({"ewc": ranked}, "asr")[0]
    values = tables.metric_values(load_results(study.root)).set_index("arm")
    assert values.loc[list(STATED), "fm"].isna().all() and values.loc[list(STATED), "complete"].all()


def test_a_part_that_is_not_yet_over_is_incomplete(study):
    cut_study(study, 40, {"ewc-s00": PERFECT, "ewc-s01": PERFECT}, visits=1)  # 1,000 of 1,600 steps
    assert [(sample.label, sample.complete) for sample in ranking(study)["ewc"]] == [
        ("ewc-s00", False),
        ("ewc-s01", False),
    ]


def test_steps_beside_the_visits_are_no_part_of_a_lifetime(study):
    samples = {"ewc-s00": PERFECT, "ewc-s01": PERFECT}
    cut_study(study, 40, samples, visits=2)  # 2,000 steps
    (study.root / "pair" / "ewc-s01" / "seed_0" / "cost.json").write_text('{"auxiliary_env_steps": 500}')
    assert [(sample.label, sample.complete) for sample in ranking(study)["ewc"]] == [
        ("ewc-s00", True),
        ("ewc-s01", False),
    ]


def test_a_part_of_a_lifetime_is_compared_with_no_whole_one(study):
    cut_study(study, 40, {"ewc-s00": PERFECT}, visits=2)
    found = find(study.root, compare=True, protocol="nbsp-visits")
    assert not found.partial
    assert found.differences["asr_difference"].isna().all()
    assert "sac has the highest ASR of 1 arm" in found.headline.sentence
    assert "ewc" not in f"{found.headline.kept}{found.headline.caveats}"
    assert any("compared with each other alone" in note for note in found.notes)
    assert not any("needed results are missing" in note or "env steps, as visits" in note for note in found.notes)
    write_report(study.root)


def test_where_all_saw_a_part_they_are_compared(study):
    for arm, success in {"sac": FORGETFUL, "ewc": PERFECT}.items():
        study.run(success, arm=arm, visits=2, visit_env_steps=1000, config={"stop_env_steps": 1500})
    found = find(study.root, compare=False, protocol="nbsp-visits")
    assert found.differences["asr_difference"].tolist() == [0.125]
    write_report(study.root)


def test_a_damaged_search_is_refused(searched):
    path = searched.root / "study.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"search": {"objective": "asr", "arms": ["ewc"]}}))
    with pytest.raises(DataError, match=r"study\.yaml is not"):
        load_study(searched.root)
    path.write_text(yaml.safe_dump(content | {"search": {"objective": "luck", "arms": {"ewc": STATED}}}))
    with pytest.raises(UnknownNameError, match="unknown objective 'luck'"):
        ranking(searched)


def test_a_study_may_ask_for_most_of_what_is_better_the_higher_alone():
    allowed = get_args(SearchSettings.model_fields["objective"].annotation)
    assert set(allowed) <= set(OBJECTIVES) and "fm" not in OBJECTIVES
