"""What of RLlib's own configuration has an effect here, and our name for what has none."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.sac import SACConfig

from rllib_nbsp.explain import show
from rllib_nbsp.settings import ResourceSettings

OBEYED = {
    *ResourceSettings.model_fields,
    "seed",
    "observation_space",
    "action_space",
    "callbacks",
    "env_runner_cls",
    "_learner_class",
    "custom_resources_for_main_process",
    "custom_resources_per_learner",
    "num_cpus_per_learner",
    "restart_failed_env_runners",
    "ignore_env_runner_failures",
    "max_num_env_runner_restarts",
    "delay_between_env_runner_restarts_s",
    "num_consecutive_env_runner_failures_tolerance",
    "validate_env_runners_after_construction",
    "log_level",
    "log_sys_usage",
    "stats_cls_lookup",
    "_use_msgpack_checkpoints",
    "_validate_config",
}
"""What we, or RLlib in a run of ours, read and obey; by the names of RLlib's dict form. Functions given to `callbacks`
are checked with the callbacks."""
RLLIBS_OWN = {"_is_atari", "_prior_exploration_config", "in_evaluation", "simple_optimizer"}
"""What RLlib sets by itself."""

_WRAPPER = "a wrapper of the environment, which a task of suite 'gymnasium' names as module:EnvId"
_NETWORKS = ".networks(hidden=, conv=, activation=, init=), or a method's `network`"
_REPORTS = ".evaluation(report_env_steps=)"
OURS = {
    "env": ".curriculum(suite=, tasks=)",
    "env_config": ".suite(NAME, KEY=)",
    **dict.fromkeys(
        (
            "clip_rewards",
            "clip_actions",
            "normalize_actions",
            "observation_filter",
            "_env_to_module_connector",
            "_module_to_env_connector",
        ),
        _WRAPPER,
    ),
    **dict.fromkeys(("explore", "exploration_config", "evaluation_config"), ".evaluation(deterministic=)"),
    **dict.fromkeys(("model", "_model_config", "_rl_module_spec", "q_model_config", "policy_model_config"), _NETWORKS),
    **dict.fromkeys(
        ("train_batch_size", "_train_batch_size_per_learner", "minibatch_size"),
        ".training(batch_size=), over all Learners together",
    ),
    **dict.fromkeys(("num_epochs", "training_intensity"), ".training(updates_per_env_step=)"),
    **dict.fromkeys(
        (
            "rollout_fragment_length",
            "gamma",
            "tau",
            "actor_lr",
            "critic_lr",
            "alpha_lr",
            "initial_alpha",
            "target_entropy",
            "grad_clip",
        ),
        ".training() with the same name",
    ),
    "lr": ".training(actor_lr=, critic_lr=, alpha_lr=)",
    "optimizer": ".training(adam_eps=, adam_betas=, weight_decay=)",
    "target_network_update_freq": ".training(target_update_env_steps=)",
    "num_steps_sampled_before_learning_starts": ".visit(warmup_env_steps=)",
    "replay_buffer_config": ".replay(capacity=, prior_capacity=, interval=)",
    "evaluation_interval": ".evaluation(periodic_env_steps=)",
    "evaluation_duration": ".evaluation(periodic_episodes=, boundary_episodes=)",
    "evaluation_duration_unit": ".evaluation(eval_env_steps=)",
    "evaluation_num_env_runners": ".env_runners(num_env_runners=), which evaluate too",
    "custom_eval_function": "ContinualCallback.on_evaluation_end",
    **dict.fromkeys(
        ("min_time_s_per_iteration", "min_sample_timesteps_per_iteration", "min_train_timesteps_per_iteration"),
        _REPORTS,
    ),
    "metrics_num_episodes_for_smoothing": ".visit(early_stop={'window_episodes': N})",
    "num_gpus": ".learners(num_gpus_per_learner=)",
    "torch_compile_learner": "the attribute `cuda_graph`",
}
"""RLlib's name, as in its dict form -> ours."""

_SETTERS = (
    "environment",
    "env_runners",
    "learners",
    "training",
    "resources",
    "framework",
    "rl_module",
    "multi_agent",
    "offline_data",
    "evaluation",
    "reporting",
    "checkpointing",
    "debugging",
    "fault_tolerance",
    "api_stack",
    "python_environment",
    "experimental",
)


def without_effect(config: AlgorithmConfig) -> list[str]:
    """A line for each of RLlib's settings that differs from the default and that nothing reads."""
    given, default = config.to_dict(), _default(config.__class__)
    return [
        f"{_shown(name, value)} has no effect here; {instead(name)}"
        for name, value in given.items()
        if name in default and not (_is_read(name) or _same(value, default[name]))
    ]


def instead(name: str) -> str:
    """What to use in place of one of RLlib's settings."""
    return f"use {OURS[name]}" if name in OURS else "nothing of a continual run reads it: leave it out"


def foreign_keys(setter: str, keys: Iterable[str]) -> dict[str, str]:
    """Those of a setter's keys that are RLlib's, each with a line that names ours."""
    in_dict_form = {key: name for key in keys for name in (key, f"_{key}") if name in OURS}
    return {key: f"{setter}(): {key!r} is RLlib's; {instead(name)}" for key, name in in_dict_form.items()}


def _is_read(name: str) -> bool:
    return name in OBEYED or name in RLLIBS_OWN or name.startswith("callbacks_on_")


@functools.cache
def _default(kind: type[AlgorithmConfig]) -> Mapping[str, Any]:
    """RLlib's settings and what a configuration of ours makes of them before it is given anything."""
    ours: Mapping[str, Any] = kind().to_dict()
    # A name that is out of use has no place in the dict form, until somebody gives it.
    return {name: ours.get(name) for name in {*vars(SACConfig()), *SACConfig().to_dict()}}


def _same(value: Any, default: Any) -> bool:
    try:
        return bool(value is default or _from_json(value) == _from_json(default))
    except ValueError:  # arrays, of which no default has any
        return False


def _from_json(value: Any) -> Any:
    """A value as it comes back from Tune's files, where a tuple is a list."""
    if isinstance(value, Mapping):
        return {key: _from_json(inner) for key, inner in value.items()}
    return [_from_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def _shown(name: str, value: Any) -> str:
    """A setting as the user wrote it."""
    parameters = _parameters()
    written = next((n for n in (name, name.removeprefix("_"), f"{name}_") if n in parameters), None)
    return f"{parameters[written]}({written}={show(value)})" if written else f"config.{name} = {show(value)}"


@functools.cache
def _parameters() -> Mapping[str, str]:
    """For each parameter of RLlib's setters the setter."""
    signatures = {
        setter: {**inspect.signature(getattr(AlgorithmConfig, setter)).parameters}
        | {**inspect.signature(getattr(SACConfig, setter)).parameters}
        for setter in _SETTERS
    }
    return {parameter: setter for setter, parameters in signatures.items() for parameter in parameters}
