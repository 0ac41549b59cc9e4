"""Every setting of RLlib's is obeyed, or refused with our name for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.sac import SACConfig

import rllib_nbsp
from rllib_nbsp import NBSP, NBSPConfig
from rllib_nbsp.rllib_surface import OBEYED, OURS, RLLIBS_OWN, without_effect
from rllib_nbsp.settings import ConfigError
from tests.tiny import short_run

ATTRIBUTES = sorted({*vars(SACConfig())} - {"algo_class", "_is_frozen"})
IN_DICT_FORM = {
    "callbacks_class": "callbacks",
    "framework_str": "framework",
    "input_": "input",
    "create_env_on_local_worker": "create_env_on_driver",
    "custom_evaluation_function": "custom_eval_function",
}
CHECKS = {Path(sys.modules[kind.__module__].__file__) for kind in (AlgorithmConfig, SACConfig)}
"""Files in which a read is a check, or hands on what somebody else asks for."""
ELSEWHERE = {
    "_learner_class",
    "_use_msgpack_checkpoints",
    "_validate_config",
    "delay_between_env_runner_restarts_s",
    "log_sys_usage",
}
"""Read through RLlib's configuration itself, in a checkpoint, or in the process of a rollout worker."""


def config() -> NBSPConfig:
    """A run in which everything is as it was made."""
    return short_run(NBSPConfig())


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_is_obeyed_or_refused(name: str) -> None:
    changed = config()
    setattr(changed, name, "another value" if name != "policies" else {"a": "another value"})
    if name == "env_config":
        changed.env_config = {"key": 1}
    key = IN_DICT_FORM.get(name, name)
    lines = without_effect(changed) if key != "callbacks" else []
    if key in OBEYED or key in RLLIBS_OWN or key.startswith("callbacks_on_"):
        assert lines == []
    else:
        assert len(lines) == 1
        assert "has no effect here; " in lines[0]
        assert OURS.get(key, "leave it out") in lines[0]
        with pytest.raises(ConfigError, match="has no effect here"):
            changed.validate()


@pytest.mark.parametrize(
    ("setter", "given", "line"),
    [
        (
            "environment",
            {"env": "CartPole-v1"},
            "environment(env='CartPole-v1') has no effect here; use .curriculum(suite=, tasks=)",
        ),
        (
            "env_runners",
            {"explore": False},
            "env_runners(explore=false) has no effect here; use .evaluation(deterministic=)",
        ),
        (
            "env_runners",
            {"rollout_fragment_length": 50},
            "env_runners(rollout_fragment_length=50) has no effect here; use .training()",
        ),
        (
            "env_runners",
            {"observation_filter": "MeanStdFilter"},
            "env_runners(observation_filter='MeanStdFilter') has no effect here",
        ),
        (
            "env_runners",
            {"env_to_module_connector": print},
            "env_runners(env_to_module_connector=<built-in function print>) has no",
        ),
        (
            "rl_module",
            {"model_config": {"fcnet_hiddens": [8]}},
            "rl_module(model_config={'fcnet_hiddens': [8]}) has no effect here; use .networks",
        ),
        (
            "reporting",
            {"min_time_s_per_iteration": 5},
            "reporting(min_time_s_per_iteration=5) has no effect here; use .evaluation(report_",
        ),
        (
            "offline_data",
            {"input_": "file"},
            "offline_data(input_='file') has no effect here; nothing of a continual run reads it",
        ),
        (
            "training",
            {"lr": 1e-3},
            "training(): 'lr' is RLlib's; use .training(actor_lr=, critic_lr=, alpha_lr=)",
        ),
        (
            "evaluation",
            {"evaluation_interval": 1},
            "evaluation(): 'evaluation_interval' is RLlib's; use .evaluation(periodic_env",
        ),
    ],
)
def test_a_setter_is_named_with_what_to_use_instead(setter: str, given: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        getattr(config(), setter)(**given).validate()
    (problem,) = caught.value.problems
    assert problem.startswith(line)


def test_a_configuration_that_was_checked_can_be_checked_again_and_comes_back_from_its_dict_form() -> None:
    once = config()
    once.validate()
    once.validate()
    again = NBSPConfig.from_dict(once.to_dict())
    again.validate()
    assert without_effect(again) == []


def test_attributes_of_ones_own_are_left_alone() -> None:
    mine = config()
    mine.label = "mine"
    mine.validate()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, set[Path]]]:
    """Which files read which attribute of a configuration."""
    found: dict[str, set[Path]] = {}

    def get(self: Any, name: str) -> Any:
        found.setdefault(name, set()).add(Path(sys._getframe(1).f_code.co_filename))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(AlgorithmConfig, "__getattribute__", get, raising=False)
    yield found


def test_what_is_obeyed_is_read_and_what_we_read_is_obeyed(ray_session: None, reads: dict[str, set[Path]]) -> None:
    algo = config().curriculum(cycles=1).build_algo()
    algo.train()
    algo.stop()
    NBSP.default_resource_request(config().learners(num_learners=1))
    of_rllib = vars(SACConfig()).keys()
    beside_checks = {name for name, files in reads.items() if files - CHECKS}
    assert {name for name in OBEYED & of_rllib if name not in beside_checks} <= ELSEWHERE
    ours = Path(rllib_nbsp.__file__).parent
    of_ours = {name for name, files in reads.items() if any(ours in file.parents for file in files)}
    names = {name for name in of_ours & of_rllib if not name.startswith("callbacks_on_")}
    assert {IN_DICT_FORM.get(name, name) for name in names} <= OBEYED
