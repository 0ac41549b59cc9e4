"""What a search can use, against arithmetic by hand and against the analysis of the same rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rllib_nbsp import metrics
from rllib_nbsp.curriculum import Curriculum
from rllib_nbsp.outcomes import OVERALL, SO_FAR, Outcomes, evaluation_result

rates = st.floats(0.0, 1.0)


def rows(success: list[float] | np.ndarray | None, tasks: list[str], returns: float = -1.0) -> list[dict[str, Any]]:
    """An evaluation of two episodes of each task."""
    return [
        {
            "eval_task": task,
            "episodes": 2,
            "success_rate": None if success is None else float(success[i]),
            "mean_return": returns,
            "per_episode": [{"return": returns - 1.0, "length": 10}, {"return": returns + 1.0, "length": 20}],
        }
        for i, task in enumerate(tasks)
    ]


def evaluated(success: list[float] | np.ndarray | None, tasks: list[str]) -> dict[str, Any]:
    """The same as a result."""
    return evaluation_result(rows(success, tasks))


def flat(result: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A result as Tune's loggers see it."""
    inner = {key: value for key, value in result.items() if isinstance(value, dict)}
    nested = {k: v for key, value in inner.items() for k, v in flat(value, f"{prefix}{key}/").items()}
    return {**{f"{prefix}{key}": value for key, value in result.items() if key not in inner}, **nested}


def test_boundaries_give_the_metrics_so_far_by_hand() -> None:
    outcomes = Outcomes(Curriculum(["a", "b"], cycles=2), has_success=True)
    outcomes.add(evaluated([1.0, 0.0], ["a", "b"]), boundary=True)
    first = outcomes.result()
    assert (first["asr"], first["fwt"], first["final_success"]) == (1.0, 1.0, 0.5)
    assert math.isnan(first["fm"])  # nothing can be forgotten yet
    outcomes.add(evaluated([0.25, 0.5], ["a", "b"]), boundary=True)
    # ASR (1 + (0.25 + 0.5) / 2) / 2, FM 1 - 0.25, FWT (1 + 0.5) / 2, final (0.25 + 0.5) / 2
    assert [outcomes.result()[name] for name in SO_FAR] == pytest.approx([0.6875, 0.75, 0.75, 0.375])


def test_a_task_that_an_evaluation_leaves_out_keeps_its_last_result() -> None:
    outcomes = Outcomes(Curriculum(["a", "b"], cycles=1), has_success=True)
    before = outcomes.result()
    outcomes.add(evaluated([1.0, 0.0], ["a", "b"]), boundary=True)
    outcomes.add(evaluated([0.5], ["a"]), boundary=False)
    assert flat(outcomes.result()).keys() == flat(before).keys()
    assert [outcomes.result()["evaluation"][task]["success_rate"] for task in "ab"] == [0.5, 0.0]


def test_a_periodic_evaluation_counts_in_no_metric() -> None:
    outcomes = Outcomes(Curriculum(["a", "b"], cycles=1), has_success=True)
    outcomes.add(evaluated([1.0, 0.0], ["a", "b"]), boundary=True)
    before = outcomes.result()
    outcomes.add(evaluated([0.0, 0.0], ["a", "b"]), boundary=False)
    after = outcomes.result()
    assert after["evaluation"]["a"]["success_rate"] == 0.0
    assert [after[name] for name in ("asr", "fwt", "final_success")] == [1.0, 1.0, 0.5]
    assert before["evaluation"]["a"]["success_rate"] == 1.0  # a result that was handed out stays as it was


@given(arrays(float, (4, 2), elements=rates), st.permutations(["a", "b"]))
def test_metrics_of_a_finished_run_are_those_of_its_success_array(success: np.ndarray, tasks: list[str]) -> None:
    outcomes = Outcomes(Curriculum(tasks, cycles=2), has_success=True)
    for after in success:
        outcomes.add(evaluated(after, tasks), boundary=True)
    result = outcomes.result()
    assert {name: result[name] for name in metrics.METRICS} == pytest.approx(
        {name: float(metric(success)) for name, metric in metrics.METRICS.items()}
    )
    assert result["final_success"] == pytest.approx(success[-1].mean())


@pytest.mark.parametrize("has_success", [True, False])
def test_every_key_is_there_from_the_first_result_on_and_is_nan_until_measured(has_success: bool) -> None:
    outcomes = Outcomes(Curriculum(["a", "b"], cycles=1), has_success=has_success)
    keys = flat(outcomes.result())
    assert all(math.isnan(value) for value in keys.values())
    outcomes.add(evaluated([1.0, 0.0] if has_success else None, ["a", "b"]), boundary=True)
    assert flat(outcomes.result()).keys() == keys.keys()
    assert ("evaluation/a/success_rate" in keys) == ("asr" in keys) == has_success
    assert "evaluation/b/mean_return" in keys


def test_a_state_goes_on_where_it_was_taken() -> None:
    outcomes = Outcomes(Curriculum(["a", "b"], cycles=1), has_success=True)
    outcomes.add(evaluated([1.0, 0.0], ["a", "b"]), boundary=True)
    other = Outcomes(Curriculum(["a", "b"], cycles=1), has_success=True)
    other.set_state(outcomes.get_state())
    for each in (outcomes, other):
        each.add(evaluated([0.5, 1.0], ["a", "b"]), boundary=True)
    assert other.result() == outcomes.result()


def test_an_evaluation_has_rllibs_names_over_all_episodes() -> None:
    result = evaluation_result([*rows([1.0], ["a"], returns=0.0), *rows([0.0], ["b"], returns=4.0)])
    assert result["env_runners"] == dict(zip(OVERALL, (2.0, -1.0, 5.0, 15.0, 4), strict=True))
    assert result["b"] == {"success_rate": 0.0, "mean_return": 4.0, "episodes": 2}
