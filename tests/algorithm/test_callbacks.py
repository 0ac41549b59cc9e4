"""Callbacks: ours stays beside a user's, RLlib's hooks are called or refused, functions are called too."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
from ray.rllib.callbacks.callbacks import RLlibCallback

from rllib_nbsp import ContinualSACConfig, NBSPConfig
from rllib_nbsp.callbacks import CALLED, HOOKS, ContinualCallback, SkillNeuronCallback
from rllib_nbsp.settings import ConfigError
from tests.algorithm.conftest import finish
from tests.tiny import short_run

OF_RLLIB = [name for name in dir(RLlibCallback) if name.startswith("on_")]


class Forgets(ContinualCallback):
    """Says that it scores and files, and does not."""

    scores_neurons = files_prior = True


class Scores(SkillNeuronCallback):
    """Ours, and more."""


class Watches(ContinualCallback):
    """Does nothing of ours."""


class Plain(RLlibCallback):
    """Knows nothing of us."""


# Which callbacks a run has


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (Watches, [SkillNeuronCallback, Watches]),
        (Plain, [SkillNeuronCallback, Plain]),
        ([Plain, Watches], [SkillNeuronCallback, Plain, Watches]),
        ([], [SkillNeuronCallback]),
        (None, [SkillNeuronCallback, RLlibCallback]),
        (Scores, Scores),
        ([Plain, Scores], [Plain, Scores]),
        ([Watches, SkillNeuronCallback], [Watches, SkillNeuronCallback]),
        (Forgets, Forgets),
    ],
)
def test_the_scoring_callback_stays_unless_it_is_replaced_by_name(given: Any, kept: Any) -> None:
    config = short_run(NBSPConfig()).callbacks(given)
    assert config.callbacks_class == kept
    assert NBSPConfig.from_dict(config.to_dict()).callbacks_class == kept
    config.validate()


def test_neurons_are_scored_and_d_pre_is_filled_beside_a_callback_of_ones_own() -> None:
    seen: list[tuple[Any, int]] = []

    class Looks(ContinualCallback):
        def on_visit_end(self, *, algorithm: Any, visit: Any, data: Any) -> None:
            seen.append((data.scores, algorithm.replay.prior_size))

    finish(short_run(NBSPConfig()).curriculum(cycles=1).callbacks(Looks))
    assert [size for _, size in seen] == [100, 100]
    assert all(scores is not None for scores, _ in seen)


def test_a_method_that_needs_scores_is_refused_when_the_callback_was_taken_away() -> None:
    config = short_run(NBSPConfig())
    config.callbacks_class = []
    with pytest.raises(
        ConfigError, match=r"with scores_neurons = True.*SkillNeuronCallback; callbacks\(\) was given none"
    ):
        config.validate()


@pytest.mark.parametrize("need", ["scores_neurons", "files_prior"])
def test_a_callback_that_does_half_of_what_the_method_needs_is_refused_by_name(need: str) -> None:
    half = type("Half", (ContinualCallback,), {"scores_neurons": True, "files_prior": True, need: False})
    with pytest.raises(ConfigError, match=f"with {need} = True.*was given Half"):
        short_run(NBSPConfig()).callbacks(half).validate()


def test_a_callback_of_ones_own_takes_the_place_of_ours() -> None:
    with pytest.raises(RuntimeError, match="needs the neurons' scores"):
        finish(short_run(NBSPConfig()).callbacks(Forgets))


def test_a_class_with_arguments_is_a_class_and_a_function_is_none() -> None:
    config = short_run(NBSPConfig()).callbacks(functools.partial(Scores))
    config.validate()
    with pytest.raises(ConfigError, match=r"callbacks\(\) was given <function .*; allowed: classes"):
        config.callbacks(lambda: Scores())


# Which hooks are called


@pytest.mark.parametrize("hook", OF_RLLIB)
def test_a_hook_of_rllibs_is_called_or_refused(hook: str) -> None:
    calls: list[str] = []
    config = short_run(ContinualSACConfig()).callbacks(
        type("Mine", (Plain,), {hook: lambda *_, **__: calls.append(hook)})
    )
    if hook not in CALLED:
        with pytest.raises(ConfigError, match=rf"callbacks\(\): nothing calls Mine\.{hook}: "):
            config.build_algo()
    elif hook not in ("on_env_runners_recreated", "on_checkpoint_loaded"):  # which a run alone does not bring about
        finish(config.curriculum(cycles=1))
        assert calls


@pytest.mark.parametrize("hook", [name for name in OF_RLLIB if hasattr(ContinualSACConfig(), f"callbacks_{name}")])
def test_a_function_for_a_hook_is_called_or_refused(hook: str) -> None:
    calls: list[str] = []
    config = short_run(ContinualSACConfig()).callbacks(**{hook: lambda **_: calls.append(hook)})
    if hook not in CALLED:
        with pytest.raises(ConfigError, match=rf"callbacks\(\): nothing calls {hook}=: "):
            config.build_algo()
    else:
        config.validate()


def test_functions_for_our_hooks_are_called_in_order() -> None:
    calls: list[tuple[str, int]] = []

    def note(hook: str) -> Any:
        return lambda *, visit, **_: calls.append((hook, visit.number))

    finish(short_run(ContinualSACConfig()).curriculum(cycles=1).callbacks(**{hook: note(hook) for hook in HOOKS}))
    order = list(dict.fromkeys(calls))
    assert order == [
        (hook, number)
        for number in (1, 2)
        for hook in ("on_visit_start", "on_episodes_end", "on_evaluation_end", "on_visit_end")
    ]


def test_episodes_end_with_return_length_and_success() -> None:
    episodes: list[dict[str, Any]] = []
    algo, _ = finish(
        short_run(ContinualSACConfig())
        .curriculum(cycles=1)
        .callbacks(on_episodes_end=lambda **k: episodes.extend(k["episodes"]))
    )
    assert (
        len(episodes) * 50 <= algo.env_steps < (len(episodes) + 5) * 50
    )  # 2 environments in 2 visits may be under way
    assert {"return", "length", "success", "final_success"} <= episodes[0].keys()
    assert {episode["length"] for episode in episodes} == {50}


def test_metrics_of_a_callback_are_in_the_result() -> None:
    def log(*, metrics_logger: Any, evaluation_metrics: dict[str, Any], **_: Any) -> None:
        metrics_logger.log_value("evaluations", 1, reduce="lifetime_sum")
        evaluation_metrics["mine"] = 7.0

    _, results = finish(short_run(ContinualSACConfig()).curriculum(cycles=1).callbacks(on_evaluate_end=log))
    assert results[-1]["evaluations"] == 4  # halfway and at the end of each visit
    assert results[-1]["evaluation"]["mine"] == 7.0


# Evaluation on request


def test_evaluate_plays_every_task_and_leaves_training_as_it_was() -> None:
    asked, never = (short_run(NBSPConfig()).curriculum(cycles=1).build_algo() for _ in range(2))
    before = asked.evaluate()
    assert set(before) == {"env_runners", "reach-left", "reach-right"}
    assert before["env_runners"]["num_episodes"] == 4
    while not asked.train()["done"]:
        asked.evaluate()
    while not never.train()["done"]:
        pass
    assert asked.evaluate() == never.evaluate() != before
    assert math.isfinite(asked.evaluate()["env_runners"]["episode_return_mean"])
    for algo in (asked, never):
        algo.stop()
