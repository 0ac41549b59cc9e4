"""Real, tiny things that the tests share: a Learner without a cluster, random transitions, scores of a chosen size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from torch import Tensor

from rllib_nbsp import ContinualSACConfig
from rllib_nbsp.curriculum import Curriculum, Visit
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.nn.neurons import HISTOGRAM_BINS, LayerStatistics, NeuronScores
from rllib_nbsp.sac.learner import ContinualSACTorchLearner

OBS, ACT, ROWS, HIDDEN = 3, 2, 16, (8, 6)
TASKS = ("reach-left", "reach-right")
OBSERVATIONS, ACTIONS = Box(-1, 1, (OBS,), np.float32), Box(-1, 1, (ACT,), np.float32)
IMAGES, CHOICES = Box(0, 255, (4, 12, 12), np.uint8), Discrete(3)


def build_config(
    method: str = "sac",
    keys: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    hidden: Sequence[int] = HIDDEN,
    training: Mapping[str, Any] | None = None,
    replay: Mapping[str, Any] | None = None,
    boundary: Mapping[str, Any] | None = None,
) -> ContinualSACConfig:
    """A configuration whose networks have a dozen neurons."""
    config: ContinualSACConfig = ContinualSACConfig().curriculum(suite="point_mass", tasks=TASKS, cycles=2)
    config = config.method(method, **(keys or {})).networks(hidden=list(hidden))
    config = config.training(**{"batch_size": ROWS, **(training or {})})
    return config.replay(**(replay or {})).boundary(**(boundary or {})).debugging(seed=seed)


def short_run(config: ContinualSACConfig, results: Path | None = None, **visit: Any) -> ContinualSACConfig:
    """Two cycles of a pair, a few hundred steps a visit."""
    config = (
        config.curriculum(suite="point_mass", tasks=TASKS, cycles=2, visit_env_steps=240, warmup_env_steps=80)
        .training(batch_size=16, updates_per_env_step=0.25)
        .networks(hidden=[16, 16])
        .replay(capacity=1000, prior_capacity=100, interval=3)
        .visit(early_stop=None, **visit)
        .evaluation(periodic_episodes=1, periodic_env_steps=120, boundary_episodes=2, num_envs=2, report_env_steps=100)
        .env_runners(num_envs_per_env_runner=2)
    )
    if config.given.get("method") == "nbsp":
        config.training(score_env_steps=200)
    return config.results(results) if results else config


def build_learner(
    method: str = "sac", keys: Mapping[str, Any] | None = None, **sections: Any
) -> ContinualSACTorchLearner:
    """A built Learner of that configuration."""
    return build_learner_of(build_config(method, keys, **sections))


def build_learner_of(
    config: ContinualSACConfig, observation_space: Space[Any] = OBSERVATIONS, action_space: Space[Any] = ACTIONS
) -> ContinualSACTorchLearner:
    """A built Learner for observations and actions of the tests' size, or of these spaces."""
    config = config.environment(observation_space=observation_space, action_space=action_space)
    learner = config.build_learner(spaces={DEFAULT_MODULE_ID: (observation_space, action_space)})
    assert isinstance(learner, ContinualSACTorchLearner)
    return learner


def transitions(seed: int, rows: int = ROWS, *, from_prior: bool = False, task: int = 0) -> dict[str, np.ndarray]:
    """Random rows as the replay buffer gives them."""
    rng = np.random.default_rng(seed)
    return {
        "obs": rng.normal(size=(rows, OBS)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, ACT)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "new_obs": rng.normal(size=(rows, OBS)).astype(np.float32),
        "terminateds": rng.random(rows) < 0.2,
        "task": np.full(rows, task, np.int64),
        "from_prior": np.full(rows, from_prior),
    }


def game_transitions(seed: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Random rows of `IMAGES` and `CHOICES`."""
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (rows, *IMAGES.shape), np.uint8) for name in ("obs", "new_obs")}
    return {**transitions(seed, rows), **images, "actions": rng.integers(0, CHOICES.n, rows)}


def multi_agent_batch(columns: Mapping[str, np.ndarray]) -> MultiAgentBatch:
    """The rows as a Learner takes them."""
    return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(dict(columns))}, env_steps=len(columns["rewards"]))


def update(learner: ContinualSACTorchLearner, columns: Mapping[str, np.ndarray], minibatch: int = ROWS) -> None:
    """One call of the Learner."""
    learner.update(batch=multi_agent_batch(columns), minibatch_size=minibatch)


def train(learner: ContinualSACTorchLearner, updates: range) -> None:
    """Updates on random batches; number k has always the same batch."""
    for k in updates:
        update(learner, transitions(1000 + k))


def parameters(learner: ContinualSACTorchLearner) -> dict[str, Tensor]:
    """Copies of all weights, targets and log_alpha by name."""
    return {name: torch.from_numpy(array.copy()) for name, array in learner.weights().items()}


def assert_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Equal to the last bit, by name."""
    assert first.keys() == second.keys()
    differing = [name for name in first if not torch.equal(first[name], second[name])]
    assert not differing


def layer_with(accuracy: Sequence[float], *, steps: int = 1000, label_rate: float = 0.5) -> LayerStatistics:
    """Statistics of a layer whose neurons have these accuracies (Eq. 3): agreements first at steps with the goal."""
    positives = round(label_rate * steps)
    rows = []
    for value in accuracy:
        agree = round(value * steps)
        both = min(agree, positives)
        neither = agree - both
        rows.append([both, steps - positives - neither, positives - both, neither])
    n = len(rows)
    zeros = torch.zeros(n, HISTOGRAM_BINS, dtype=torch.int64)
    return LayerStatistics(
        counts=torch.tensor(rows, dtype=torch.int64),
        mean_activation=torch.ones(n, dtype=torch.float64),
        mean_abs_activation=torch.linspace(0.1, 1.0, n, dtype=torch.float64),
        hist_success=zeros,
        hist_failure=zeros,
        hist_edges=torch.zeros(n, HISTOGRAM_BINS + 1, dtype=torch.float64),
        chance_accuracy=torch.full((n,), 0.5, dtype=torch.float64),
        p_value=torch.linspace(0.001, 1.0, n, dtype=torch.float64),
    )


def random_scores(seed: int, hidden: Sequence[int] = HIDDEN, label_rate: float = 0.5) -> NeuronScores:
    """Scores with accuracies drawn uniformly; no neuron is constant."""
    rng = np.random.default_rng(seed)
    layers = {
        name: [layer_with(rng.uniform(0.05, 0.95, n).tolist(), label_rate=0.5) for n in hidden] for name in NETWORKS
    }
    return NeuronScores(layers, label_rate, 1000)


def visit(number: int) -> Visit:
    """That visit of two tasks in two cycles."""
    return Curriculum(TASKS, 2).visit(number)


def end_visit(learner: ContinualSACTorchLearner, number: int, scores: NeuronScores | None) -> VisitData:
    """The method's end of a visit with these scores."""
    data = VisitData(visit(number), scores=scores)
    learner.visit_end(data.visit, data)
    return data
