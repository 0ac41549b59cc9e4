"""Text: what tables say of one seed and of what is not defined, and numbers as people write them."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import compare_with_paper, load_results, tables
from analysis.text import (
    bytes_text,
    comparison_text,
    cost_over_baseline_text,
    cost_text,
    number,
    short_name,
    signed,
    steps_text,
    time_text,
    to_markdown,
)
from tests.analysis.conftest import FORGETFUL, table_of, text_of, with_cost


def test_one_seed_shows_its_value_and_n_but_no_interval(study):
    study.run(FORGETFUL)
    row = text_of(study).loc["sac"]
    assert (row["ASR ↑"], row["FM ↓"], row["Seeds"]) == ("0.75", "0.67", "n=1")
    assert not any("±" in cell for cell in row)


def test_one_cycle_has_no_relearning_and_says_so_with_a_dash(study):
    study.run(FORGETFUL[:2], cycles=1)
    row = text_of(study).loc["sac"]
    assert (row["Relearn ↑"], row["FM ↓"], row["Seeds"]) == ("–", "0.50", "n=1")  # noqa: RUF001


def test_arms_of_a_reconstructed_method_say_so_beside_the_papers_name(study):
    study.run(arm="sac")
    study.run(arm="slow", method="npc")
    assert list(text_of(study).index) == ["sac", "slow: NPC (reconstruction)"]
    results, values, _ = table_of(study)
    frame = compare_with_paper(results, values)
    text = comparison_text(frame).set_index("Arm")
    assert text.loc["slow: NPC (reconstruction)", "Source"].tolist() == ["Table 1, NPC"] * 3


def test_steps_of_scoring_and_of_auxiliary_phases_stand_beside_the_env_steps(study):
    with_cost(study, "nbsp", speeds=[1.0], scoring_env_steps=800, auxiliary_env_steps=1500)
    row = cost_text(tables.cost_values(load_results(study.root))).iloc[0]
    assert (row["Env steps"], row["Of them auxiliary"], row["Scoring steps"]) == ("4.0k", "1.5k", "800")


def test_runs_that_left_no_costs_show_a_dash_and_never_0(study):
    with_cost(study, "sac", speeds=[None])
    with_cost(study, "nbsp", speeds=[10.0], method_bytes=5)
    costs = tables.cost_values(load_results(study.root))
    text = cost_over_baseline_text(costs, "sac").set_index("Arm")
    assert text.loc["sac"].tolist()[1:] == ["–"] * 7  # noqa: RUF001
    assert text.loc["nbsp"].tolist()[1:] == ["10.0", "–", "100", "–", "2.0 kB", "5 B", "0 B"]  # noqa: RUF001
    steps = cost_text(costs).set_index("Arm").loc["sac"]
    assert (steps["Env steps"], steps["Of them auxiliary"], steps["Scoring steps"]) == ("4.0k", "–", "–")  # noqa: RUF001


def test_markdown_columns_line_up_and_pipes_are_escaped(study):
    study.run(arm="sac")
    study.run(arm="nbsp")
    text = to_markdown(text_of(study).reset_index())
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 4
    assert to_markdown(text_of(study).assign(**{"FM ↓": "a|b"})).count("a\\|b") == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (9_730_000, "9.7 MB"), (999_990_000, "1.0 GB"), (np.nan, "–")],  # noqa: RUF001
)
def test_sizes_as_text(value, text):
    assert bytes_text(value) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(-0.001), "0.00"),
        (number(float("nan")), "–"),  # noqa: RUF001
        (signed(-0.001), "0.00"),
        (signed(0.126), "+0.13"),
        (steps_text(950), "950"),
        (steps_text(90_000), "90.0k"),
        (steps_text(1_250_000), "1.25M"),
        (time_text(30), "30 s"),
        (time_text(600), "10.0 min"),
        (time_text(9000), "2.5 h"),
        (short_name("window-open-v3"), "window-open"),
    ],
)
def test_numbers_as_text(text, expected):
    assert text == expected
