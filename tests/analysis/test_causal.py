"""What silencing did, from rows written by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.causal import DAMAGE_COLUMNS, causal_figure, damage_table, damage_text, load_damages

COLUMNS = ["visit", "trained_task", "task", "network", "intervention", "set", "repeat", "size", "constant"]
ACTOR = ["success", "intact_success", "mean_reward", "intact_mean_reward"]


def rows() -> pd.DataFrame:
    """Three repeats: skill neurons cost success twice, random ones once; a critic's order is lost to a half."""
    lost = {"skill": (1, 1, 0), "random": (0, 1, 0), "lowest": (0, 0, 0), "matched": (1, 1, 0)}
    found = []
    for name, losses in lost.items():
        for repeat, loss in enumerate(losses):
            place = [1, "a", "a", "policy", "zero", name, repeat, 4, 1]
            found.append(dict(zip(COLUMNS + ACTOR, [*place, 1 - loss, 1, 2.0 - loss, 2.0], strict=True)))
            critic = dict(zip(COLUMNS, [1, "a", "a", "qf", "zero", name, repeat, 4, 1], strict=True))
            found.append(critic | {"rank_damage": 0.5, "value_error": 0.25})
    return pd.DataFrame(found)


def test_damage_and_paired_differences_by_hand():
    table = damage_table(rows())
    assert list(table.columns) == list(DAMAGE_COLUMNS)
    actor = table[table["measure"] == "success"].set_index("set")
    assert actor["mean"].tolist() == pytest.approx([2 / 3, 1 / 3, 0.0, 2 / 3])
    # Less random: 1, 0 and 0 in the three repeats; less matched: nothing in each.
    assert actor["skill_over"].tolist()[1:] == pytest.approx([1 / 3, 2 / 3, 0.0]) and np.isnan(
        actor["skill_over"].iloc[0]
    )
    assert (actor["low"] >= -1).all() and (actor["high"] <= 1).all() and set(actor["n"]) == {3}
    # A reward of 2 a step that falls by 1 in two of three repeats.
    reward = table[(table["measure"] == "reward") & (table["set"] == "skill")]
    assert reward["mean"].item() == pytest.approx(1 / 3)
    critic = table[table["network"] == "qf"].set_index(["measure", "set"])["mean"]
    assert critic["rank", "skill"] == 0.5 and critic["value", "random"] == 0.25


def test_the_matrix_has_a_line_for_each_damage_and_a_figure():
    table = damage_table(rows())
    text = damage_text(table)
    damaged = ["success lost", "reward lost, of its size", "order of values lost", "change of values, in their SD"]
    assert text["Damage"].tolist() == damaged
    assert text["Skill"].iloc[0].startswith("0.67 [") and text["Skill less random"].iloc[0].startswith("+0.33 [")
    figure = causal_figure(table)
    assert len(figure.axes) == 2 * 3
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["skill", "random", "lowest", "matched"]


def test_tasks_that_tell_no_success_are_told_by_their_reward():
    table = damage_table(rows().assign(success=np.nan, intact_success=np.nan))
    assert set(table["measure"]) == {"reward", "rank", "value"}
    assert "reward" in causal_figure(table).axes[0].get_xlabel()


@pytest.mark.parametrize(("content", "message"), [("a,b\n1,2\n", "it has no constant"), ("", "cannot be read")])
def test_a_file_of_something_else_is_refused_in_one_line(content, message, tmp_path, capsys):
    (tmp_path / "visit_01.csv").write_text(content)
    assert main(["causal", str(tmp_path / "visit_01.csv")]) == 3
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_rows_survive_their_file(tmp_path):
    rows().to_csv(tmp_path / "visit_01.csv", index=False)
    assert len(load_damages(tmp_path / "visit_01.csv")) == 24
