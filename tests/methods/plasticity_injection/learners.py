"""Learners with injected networks, inputs for these, and what the heads add up to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rllib_nbsp.methods.plasticity_injection import InjectableNetwork
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import BoundarySettings
from tests.tiny import (
    ACT,
    CHOICES,
    IMAGES,
    OBS,
    build_config,
    build_learner,
    build_learner_of,
    game_transitions,
    train,
    update,
    visit,
)

EVERY_BOUNDARY = {"schedule": "boundary", "max_injections": 3}
CONV = [[4, 4, 2], [5, 3, 1]]


def trained(keys: Mapping[str, Any] | None = None, **sections: Any) -> ContinualSACTorchLearner:
    """A Learner after its first visit."""
    learner = build_learner("plasticity_injection", keys, **sections)
    train(learner, range(5))
    return learner


def trained_on_images(keys: Mapping[str, Any] | None = None) -> ContinualSACTorchLearner:
    """A Learner with convolutions and discrete actions, after some updates."""
    learner = build_learner_of(build_config("plasticity_injection", keys).networks(conv=CONV), IMAGES, CHOICES)
    for k in range(3):
        update(learner, game_transitions(k))
    return learner


def start(learner: ContinualSACTorchLearner, number: int = 2) -> None:
    """A boundary, at which the method may inject."""
    exceptions = learner.method.boundary_exceptions(learner.method.config)
    learner.boundary_reset(BoundarySettings(**exceptions))
    learner.visit_start(visit(number), None)


def all_networks(learner: ContinualSACTorchLearner) -> dict[str, InjectableNetwork]:
    """Networks and targets that can be injected, by name."""
    networks = [*learner.agent.networks.items(), *((f"target_{name}", n) for name, n in learner.agent.targets.items())]
    return {name: net for name, net in networks if isinstance(net, InjectableNetwork)}


def inputs_of(name: str, rows: int = 9) -> Tensor:
    """The same random rows each time, as wide as that network needs."""
    return torch.randn(rows, OBS if name == "policy" else OBS + ACT, generator=torch.Generator().manual_seed(5))


def images(rows: int = 9) -> Tensor:
    """The same random images each time."""
    return torch.from_numpy(game_transitions(5, rows)["obs"])


def sum_of_heads(net: InjectableNetwork, x: Tensor) -> Tensor:
    """`h_theta + sum_k (h_k - its twin)`, without the package's forward pass."""
    layers = [(layer.weight, layer.bias) for layer in net.layers()]
    for weight, bias in layers[: net.first]:
        x = torch.relu(x @ weight.T + bias)

    def head(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        y = x
        for weight, bias in parts[:-1]:
            y = torch.relu(y @ weight.T + bias)
        return y @ parts[-1][0].T + parts[-1][1]

    def frozen(reserve: Any) -> Tensor:
        return head([(layer.weight, layer.bias) for layer in reserve])

    kept = [frozen(reserve) for reserve in net.learned[: net.active]]
    twins = [frozen(reserve) for reserve in net.twins[: net.active]]
    return sum([*kept, head(layers[net.first :])], start=torch.zeros(())) - sum(twins, start=torch.zeros(()))
