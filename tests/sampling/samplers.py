"""Samplers of the point mass, of the toy suite and of a game, and short ways to ask them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from rllib_nbsp.envs import SUITES, Suite
from rllib_nbsp.run import run_settings
from rllib_nbsp.sampling.episodes import Rows
from rllib_nbsp.sampling.sampler import Sampler
from rllib_nbsp.settings import EvaluationSettings, ResourceSettings
from tests.toy_suite import ToySuite

TASKS = ["reach-left", "reach-right"]
LEFT, RIGHT = TASKS


class Policy:
    """A small fixed network with Gaussian noise."""

    def __init__(self, obs_size: int, seed: int = 0, width: int = 256) -> None:
        generator = torch.Generator().manual_seed(seed)
        sizes = [obs_size, width, width, 2]
        self.weights = [
            torch.empty(o, i).normal_(0, i**-0.5, generator=generator) for i, o in itertools.pairwise(sizes)
        ]

    def __call__(self, obs: Tensor, *, explore: bool, generator: torch.Generator | None, task: Tensor | int) -> Tensor:
        for weight in self.weights[:-1]:
            obs = torch.relu(linear(obs, weight))
        mean = linear(obs, self.weights[-1])
        if explore:
            mean = mean + torch.empty_like(mean).normal_(generator=generator)
        return torch.tanh(mean)


def make_sampler(
    suite: Suite | None = None,
    *,
    seed: int = 0,
    worker: int = 0,
    num_envs: int = 3,
    evaluation_envs: int = 5,
    act: Any = None,
    process_tag: int = 0,
) -> Sampler:
    """A sampler of the point mass or of this suite; it acts by a `Policy` unless told otherwise."""
    suite = suite or SUITES["point_mass"]
    settings = run_settings(
        suite=suite.name,
        tasks=["a", "b"] if isinstance(suite, ToySuite) else TASKS,
        seed=seed,
        resources=ResourceSettings(num_envs_per_env_runner=num_envs),
        evaluation=EvaluationSettings(num_envs=evaluation_envs),
    )
    observation_space, action_space = suite.spaces(settings.tasks)
    act = act or Policy(observation_space.shape[0])
    return Sampler(suite, observation_space, action_space, act, settings, worker_index=worker, process_tag=process_tag)


def sample(sampler: Sampler, task: str = LEFT, version: int = 1, steps: int = 60, **kwargs: Any) -> Rows:
    """The rows of one request."""
    return sampler.sample(task=task, version=version, num_vector_steps=steps, **kwargs)[0]


def equal(first: Rows, second: Rows) -> bool:
    """Whether two requests' rows are the same to the last bit."""
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def games(name: str = "Breakout", num_envs: int = 2) -> Sampler:
    """Random players of a game."""
    suite = SUITES["atari"]
    settings = run_settings(
        suite="atari",
        tasks=[name],
        resources=ResourceSettings(num_envs_per_env_runner=num_envs),
        evaluation=EvaluationSettings(num_envs=num_envs),
    )
    observation_space, action_space = suite.spaces([name])

    def act(obs: Tensor, *, explore: bool, generator: torch.Generator | None, task: Tensor | int) -> Tensor:
        return torch.randint(int(action_space.n), (len(obs),), generator=generator)

    return Sampler(suite, observation_space, action_space, act, settings)
