"""How many more seeds: by hand, and what the stopping rule makes of unequal arms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import load_results, statistics, tables
from analysis.further import seeds_text
from analysis.seeds import HALF_WIDTH, decide, seed_table
from tests.analysis.conftest import FORGETFUL, PERFECT


def table_of(study):
    results = load_results(study.root)
    return seed_table(results, tables.metric_values(results)).set_index("arm")


def test_each_arm_says_how_many_more_seeds_it_needs(study):
    for seed in range(3):
        study.run(FORGETFUL, seed=seed)
        study.run(PERFECT if seed else FORGETFUL, arm="nbsp", seed=seed)
    study.run(FORGETFUL, arm="ewc", seed=0)
    table = table_of(study)
    # ASR of nbsp is 0.75, 1, 1: s = 0.144338.
    needed = statistics.seeds_for(HALF_WIDTH, [0.75, 1.0, 1.0])
    assert table.loc["nbsp", ["n", "needed", "more"]].tolist() == [3, needed, needed - 3]
    assert table.loc["nbsp", "half_width"] == pytest.approx(4.302653 * 0.144338 / np.sqrt(3), abs=1e-5)
    assert table.loc["sac", ["needed", "more"]].tolist() == [2, 0] and np.isnan(table.loc["ewc", "needed"])
    text = seeds_text(table.reset_index()).set_index("Arm")
    assert text.loc["nbsp", ["More", "Against the baseline"]].tolist() == [str(needed - 3), "more seeds"]
    assert text.loc["sac", "Against the baseline"] == text.loc["ewc", "More"] == "–"  # noqa: RUF001


def test_a_study_without_the_baseline_has_no_decisions(study):
    study.run(FORGETFUL, arm="nbsp")
    assert table_of(study)["decision"].isna().all()


def by_seed(values):
    return dict(enumerate(values))


def test_clear_arms_are_decided_and_close_ones_stay_open():
    arms = {"up": by_seed([0.5] * 10), "down": by_seed([-0.5] * 10), "same": by_seed([0.1, -0.1] * 5)}
    assert decide(arms) == {"up": "above", "down": "below", "same": "more seeds"}
    assert decide({"same": by_seed([0.1, -0.1] * 10)}) == {"same": "not told apart"}
    assert decide({"up": by_seed([0.5] * 4)}) == {"up": "more seeds"} and decide({}) == {}


def test_a_decided_arm_may_stop_and_an_open_one_that_lacks_seeds_is_judged_at_the_last_look_it_reached():
    arms = {"up": by_seed([0.5] * 10), "same": by_seed([0.1, -0.1] * 10)}
    assert decide(arms) == {"up": "above", "same": "not told apart"}
    short = {"up": by_seed([0.5] * 15), "short": by_seed([0.1, -0.1] * 3)}
    # At the first look, of 5 seeds, no p is small enough; the second would need 10 of "short" too.
    assert decide(short) == {"up": "more seeds", "short": "more seeds"}


def test_a_seed_that_is_missing_ends_what_an_arm_can_be_judged_by():
    gap = {seed: 0.5 for seed in range(12) if seed != 3}
    assert decide({"gap": gap, "up": by_seed([0.5] * 12)})["gap"] == "more seeds"


@given(st.lists(st.lists(st.integers(-10, 10), min_size=0, max_size=22), min_size=1, max_size=3))
def test_every_arm_gets_a_decision(drawn):
    arms = {f"arm{number}": by_seed([value / 20 for value in values]) for number, values in enumerate(drawn)}
    found = decide(arms)
    assert found.keys() == arms.keys()
    assert set(found.values()) <= {"above", "below", "more seeds", "not told apart"}
