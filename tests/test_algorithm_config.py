"""The fluent face: any order of calls, nothing dropped, every problem at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_nbsp import ContinualSACConfig, NBSPConfig
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sampling.env_runner import ContinualEnvRunner
from rllib_nbsp.settings import ConfigError
from tests.tiny import TASKS, short_run

CALLS: list[Callable[[ContinualSACConfig], Any]] = [
    lambda c: c.method("ewc", with_replay=True),
    lambda c: c.training(coef=10.0, batch_size=32),
    lambda c: c.training(replay_interval=5, tau=0.01),
    lambda c: c.suite("offset", base="point_mass:reach-left"),
    lambda c: c.curriculum(tasks=("plain", "offset-1"), visit_env_steps=500),
    lambda c: c.curriculum(cycles=3, warmup_env_steps=100),
    lambda c: c.visit(early_stop=None),
    lambda c: c.networks(hidden=[8]),
    lambda c: c.replay(capacity=500, prior_capacity=50),
    lambda c: c.debugging(seed=3),
    lambda c: c.env_runners(num_env_runners=2),
]


def problems_of(config: ContinualSACConfig) -> list[str]:
    """What is said of a configuration that is wrong."""
    with pytest.raises(ConfigError) as caught:
        config.validate()
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


@given(st.permutations(CALLS))
def test_the_order_of_calls_does_not_matter(calls: list[Callable[[ContinualSACConfig], Any]]) -> None:
    ordered, shuffled = ContinualSACConfig(), ContinualSACConfig()
    for call in CALLS:
        call(ordered)
    for call in calls:
        call(shuffled)
    assert shuffled.settings == ordered.settings
    keys = ResolvedRun(ordered.settings).keys
    assert (keys.with_replay, keys.coef, ordered.settings.arm) == (True, 10.0, "ewc")


def test_a_method_that_is_named_again_keeps_its_keys_and_another_refuses_them() -> None:
    config = short_run(ContinualSACConfig()).method("ewc", coef=10.0).method("ewc", with_replay=True)
    assert ResolvedRun(config.settings).keys.coef == 10.0
    (problem,) = problems_of(config.method("nbsp"))
    assert problem.startswith("unknown key 'coef' for method 'nbsp': ")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda c: c.training(skil_frac=0.3),
            "unknown key 'skil_frac' for method 'nbsp': did you mean 'skill_frac' or 'skill_fdr'? known keys: ",
        ),
        (lambda c: c.training(batch_sise=8), "unknown key 'batch_sise' for method 'nbsp': did you mean 'batch_size'"),
        (lambda c: c.method("ewcc"), "method is 'ewcc': did you mean 'ewc'? known methods: "),
        (lambda c: c.curriculum(suite="metawrld"), "suite is 'metawrld': did you mean 'metaworld'? known suites: "),
        (lambda c: c.visit(max_steps=3), "unknown key 'visit.max_steps': did you mean 'max_env_steps'"),
        (lambda c: c.training(batch_size="many"), "training.batch_size is 'many'; allowed: a whole number >= 1"),
        (lambda c: c.method("nbsp", skill_frac=2.0), "skill_frac is 2.0; allowed: a number >= 0 and <= 1"),
        (lambda c: c.debugging(seed=-1), "seed is -1; allowed: a whole number >= 0 and < 4294967296"),
        (
            lambda c: c.env_runners(num_env_runners=0.5),
            "resources.num_env_runners is 0.5; allowed: a whole number >= 0",
        ),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(change: Callable[[Any], Any], problem: str) -> None:
    (line,) = problems_of(change(short_run(NBSPConfig())))
    assert line.startswith(problem)


def test_every_problem_is_told_at_once() -> None:
    config = short_run(NBSPConfig()).training(skil_frac=0.3, batch_size=0).environment("CartPole-v1")
    assert len(problems_of(config.evaluation(evaluation_interval=1))) == 4


def test_a_run_without_tasks_says_so() -> None:
    assert problems_of(NBSPConfig().training(skill_frac=0.3)) == [
        "suite is missing; it must be text",
        "tasks is missing; it must be a list of at least 1: text",
    ]


def test_the_section_of_another_suite_is_refused() -> None:
    config = (
        short_run(ContinualSACConfig()).suite("offset", base="point_mass:reach-left").curriculum(suite="point_mass")
    )
    (line,) = problems_of(config.curriculum(tasks=list(TASKS)))
    assert line == "offset is the section of suite 'offset', and the suite is 'point_mass': leave it out"


def test_parts_of_rllibs_are_refused_and_subclasses_of_ours_are_not() -> None:
    class Mine(ContinualEnvRunner):
        pass

    config = short_run(ContinualSACConfig()).env_runners(env_runner_cls=Mine)
    config.validate()
    (line,) = problems_of(config.env_runners(env_runner_cls=SingleAgentEnvRunner))
    assert line.endswith("allowed: subclasses of ContinualEnvRunner")
