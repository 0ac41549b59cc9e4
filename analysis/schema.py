"""The vocabulary of the analysis: columns of the frames, keys of the files, and what a loaded study consists of."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

EVALUATION_COLUMNS: dict[str, str] = {
    "experiment": "name of the study",
    "suite": "metaworld, atari, point_mass, gymnasium or offset",
    "sequence": "name of the task sequence",
    "arm": "label of the method configuration",
    "method": "registered name of the method",
    "config_hash": "of everything but seed, names, storage and resources",
    "seed": "seed of the run",
    "visit": "stay in a task, counted from 1",
    "phase": "periodic (during a visit) or boundary (at its end); metrics use boundary rows",
    "trained_task": "the visit's task",
    "eval_task": "the task that was evaluated",
    "env_steps": "training environment steps since the start of the run",
    "updates": "critic updates since the start of the run",
    "episodes": "evaluation episodes",
    "success_rate": "share of successful episodes in [0, 1]; NaN if it was not finite, or the suite has no success",
    "mean_return": "mean return of the episodes; NaN if it was not finite",
    "score": "what the metrics are of: success_rate, or on Atari the human-normalised return (Eq. 11)",
    "per_episode": "list with return, length and success of each episode",
    "policy": "deterministic or stochastic",
    "wall_s": "seconds that this evaluation took",
    "shared_from": "arm whose run made this first visit for this one too; NaN for a run's own",
}
"""Columns of `load_evaluations`: a row is one task evaluated once."""

TRAINING_COLUMNS: dict[str, str] = {
    "sequence": "name of the task sequence",
    "arm": "label of the method configuration",
    "seed": "seed of the run",
    "visit": "stay in a task, counted from 1",
    "task": "the visit's task",
    "env_steps": "training environment steps since the start of the run",
    "visit_env_steps": "the same since the start of the visit",
    "updates": "critic updates since the start of the run",
    "success_window": "success rate of the last training episodes; NaN before the first",
    "mean_return": "mean return of the same episodes",
    "policy_loss": "actor loss; like the next five a mean over the row's updates on batches of D",
    "qf_loss": "loss of the first critic",
    "qf_twin_loss": "loss of the second critic",
    "alpha_loss": "loss of the temperature",
    "entropy": "entropy of the policy",
    "q_mean": "mean action value in the batches",
    "policy_loss_prior": "actor loss; like the next five a mean over the row's updates on batches of D_pre alone",
    "qf_loss_prior": "loss of the first critic on them",
    "qf_twin_loss_prior": "loss of the second critic on them",
    "alpha_loss_prior": "loss of the temperature on them",
    "entropy_prior": "entropy of the policy on them",
    "q_mean_prior": "mean action value in them",
    "rebuilt_envs": "environments that failed and were built anew since the start of the run",
    "lost_fragments": "fragments asked of rollout workers that did not answer, since the start of the run",
    "alpha": "SAC's temperature at the row's end",
    "env_steps_per_s": "speed of the interval",
    "updates_per_s": "speed of the interval",
    "masked_frac": "share of hidden neurons with a mask below 1",
    "dormant_frac": "share of dormant hidden neurons",
    "wall_s": "seconds that the run has taken, without those that were lost or between two parts of it",
    "shared_from": "arm whose run made this first visit for this one too; NaN for a run's own",
}
"""Columns of `load_training`: a row is one reporting interval; a mean over no update, as in a warm-up, is NaN. Further
keys of the file (a method's own numbers and losses) become further columns."""

FURTHER_TRAINING_COLUMNS: dict[str, str] = {
    "experiment": "name of the study",
    "suite": "of the tasks",
    "method": "registered name of the method",
    "config_hash": "of everything but seed, names, storage and resources",
    "num_visits": "visits of the whole run",
    "phase": "stretch of the visit: main, or one of the method's own",
    "visit_max_env_steps": "the key visit.max_env_steps",
    "prior_size": "transitions in D_pre",
    "policy_method_loss": "what the method adds to the actor's loss, a mean as of the losses",
    "qf_method_loss": "what it adds to the first critic's",
    "qf_twin_method_loss": "what it adds to the second critic's",
    "total_loss": "all losses together, the method's terms included: what the backward pass is of",
    "total_loss_prior": "the same, of batches of D_pre alone",
}
"""Columns of `training.jsonl` that stand in the frame as they stand in the rows. A loss may have a `_prior` beside it,
over batches of D_pre alone."""

MECHANISM_COLUMNS: dict[str, str] = {
    "dead_frac_NETWORK_LAYER": "share of a layer's neurons that are 0 on all rows",
    "dormant_frac_NETWORK_LAYER": "share with a mean |activity| of at most 0.025 of the layer's mean",
    "active_frac_NETWORK_LAYER": "mean share of a layer's neurons that are above 0",
    "grad_dormant_frac_NETWORK_LAYER": "share whose weights' gradient has a norm of at most 0.025 of the layer's mean",
    "stable_rank_NETWORK": "of the features that the head is given: squared singular values over the largest of them",
    "effective_rank_NETWORK": "of the same: exp of the entropy of the singular values",
    "srank_NETWORK": "of the same: the fewest singular values with 99 % of the sum of all",
    "feature_norm_NETWORK": "mean L2 norm of these features",
    "weight_norm_NETWORK": "L2 norm of all parameters",
    "weight_diff_NETWORK": "L2 distance of all parameters to the visit's start",
    "grad_norm_NETWORK": "L2 norm of the gradient, root mean square over Adam's memory",
    "effective_lr_NETWORK": "distance to the last measured row, over the norm then and the updates since",
    "churn_NETWORK": "how far what is decided, or valued, on these rows moved since the last measured row",
    "churn_representation_NETWORK": "how far the hidden layers' change alone moves it",
    "churn_head_NETWORK": "how far the output layer's change alone moves it",
}
"""Columns of every `evaluation.mechanism_rows`-th row of a visit, and of its first (docs/glossary.md): NETWORK is
policy, qf or qf_twin, LAYER a hidden layer from 0, as in `dead_frac_qf_0`. Rows of earlier versions have none."""

NEURON_COLUMNS: dict[str, str] = {
    "sequence": "name of the task sequence",
    "arm": "label of the method configuration",
    "seed": "seed of the run",
    "visit": "visit after which the neurons were scored, counted from 1",
    "task": "the visit's task",
    "network": "policy, qf or qf_twin",
    "layer": "hidden layer, from 0",
    "neuron": "unit or channel in the layer, from 0",
    "score": "relevance to the task (Eq. 4), in [0.5, 1]",
    "accuracy": "Eq. 3",
    "chance_accuracy": "mean of Eq. 3 with the goal turned against the activations",
    "p_value": "of as much association with the turned goal (rllib_nbsp/nn/significance.py); 1 for a constant neuron",
    "n11": "steps with the activation and the goal above their means",
    "n10": "steps with only the activation above",
    "n01": "steps with only the goal above",
    "n00": "steps with neither above",
    "mean_activation": "standard activation (Eq. 1)",
    "mask": "factor of the neuron's updates after the visit; 1 learns, 0 is protected",
    "label_rate": "share of scored steps with the goal above its mean",
    "env_steps": "training environment steps since the start of the run",
}
"""Columns of `load_neurons`: a row is one hidden neuron after one visit."""

COSTS: dict[str, str] = {
    "auxiliary_env_steps": "training environment steps in phases beside a visit's main one",
    "auxiliary_updates": "updates in such phases",
    "scoring_env_steps": "environment steps of the rollouts that neurons were scored on",
    "trainable_parameters": "of actor and critics",
    "network_bytes": "weights, targets and what a method holds in reserve there",
    "method_bytes": "the method's own state at the end of the last visit",
    "prior_bytes": "D_pre, the store of earlier tasks' transitions",
}
"""Keys of a run's `cost.json`."""

PAPER_COLUMNS: dict[str, str] = {
    "source": "table of the paper",
    "tasks": "task names without version, joined by ' -> '",
    "method": "as the paper calls it",
    "metric": "asr, fm or fwt",
    "mean": "over 3 seeds",
    "spread": "printed after +-; the paper does not say whether standard deviation or error",
}
"""Columns of `load_paper`."""

EVALUATION_KEY = ["sequence", "arm", "seed", "visit", "phase", "eval_task", "env_steps"]
"""What names one evaluation; of several rows with the same key the last one counts."""

TRAINING_KEY = ["sequence", "arm", "seed", "visit", "env_steps", "updates"]
"""What names one reporting interval."""

PHASES = ("periodic", "boundary")
GAMES = "atari"
"""The suite whose tasks have no success: their returns are normalised."""

INTEGER_KEYS = ("seed", "visit", "env_steps")
"""Keys of a row that hold whole numbers; every row has them."""

NAME_KEYS = {
    "experiment",
    "suite",
    "sequence",
    "arm",
    "method",
    "config_hash",
    "trained_task",
    "eval_task",
    "task",
    "policy",
}
"""Keys that hold text."""

NUMBER_KEYS = {"success_rate", "episodes", *TRAINING_COLUMNS} - {
    "sequence",
    "arm",
    "task",
    "shared_from",
    *INTEGER_KEYS,
}
"""Keys that hold numbers, or nothing where there was none to measure."""


@dataclass(frozen=True)
class Run:
    """One trial's folder: (task sequence, arm, seed)."""

    path: Path
    sequence: str
    arm: str
    seed: int
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved settings; empty if the run left none."""
    versions: dict[str, str] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    """What `cost.json` says, by the keys of `COSTS`; empty if the run left none."""

    @property
    def label(self) -> str:
        """The run's place under the study's folder."""
        return f"{self.sequence}/{self.arm}/seed_{self.seed}"

    @property
    def stop_env_steps(self) -> int | None:
        """Environment steps of the visits after which the run was to end; None: when all visits are over."""
        stop = self.config.get("stop_env_steps")
        return stop if isinstance(stop, int) else None


@dataclass(frozen=True)
class Search:
    """The arms that are samples of searches."""

    objective: str
    """What the best sample has most of: one of `search.OBJECTIVES`."""
    arms: dict[str, dict[str, dict[str, Any]]]
    """For each arm with a search what its samples state in the study's file, by their labels."""
    lifetime_percent: float = 100.0
    """How much of a lifetime the samples were run for."""


@dataclass(frozen=True)
class Study:
    """What `study.yaml` expects: every arm with every seed on every sequence."""

    sequences: dict[str, list[str]]
    arms: list[str]
    seeds: list[int]
    notes: list[str] = field(default_factory=list)
    """What the suite says of these tasks together, and how much of its combinations a search tries."""
    search: Search | None = None


@dataclass(frozen=True)
class TaskOrder:
    """The tasks of one sequence and the order of its visits."""

    tasks: list[str]
    """Distinct tasks: the columns of a success array."""
    order: list[int]
    """Column of the task of each visit, length V."""


@dataclass(frozen=True)
class Results:
    """All rows of one study."""

    name: str
    runs: list[Run]
    study: Study | None
    orders: dict[str, TaskOrder]
    evaluations: pd.DataFrame
    training: pd.DataFrame
    notes: list[str]

    @functools.cached_property
    def of_returns(self) -> bool:
        """Whether the metrics are of human-normalised returns, because all tasks are games."""
        return bool((self.evaluations["suite"] == GAMES).all())

    @functools.cached_property
    def cut_arms(self) -> set[str]:
        """The arms whose runs were to see a part of a lifetime alone: samples of a search."""
        return {run.arm for run in self.runs if run.stop_env_steps is not None}

    @functools.cached_property
    def methods(self) -> dict[str, str]:
        """The method of each arm that has rows."""
        return dict(self.evaluations[["arm", "method"]].drop_duplicates().itertuples(index=False))
