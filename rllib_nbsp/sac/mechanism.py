"""What becomes of a Learner's networks between two training rows and since the visit's start. torch alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from rllib_nbsp.methods.agent import Agent
from rllib_nbsp.methods.parts.braking import rows_of
from rllib_nbsp.nn import plasticity
from rllib_nbsp.nn.losses import squashed_gaussian
from rllib_nbsp.nn.networks import Network, activities

HEAD = "head."
DIGITS = 6
"""Significant ones of a number in a row: float32 has hardly more, and there are dozens."""
Weights = dict[str, Tensor]
"""A network's parameters, and maybe its buffers, by name."""


class Mechanism:
    """Measures actor and critics at a training row, on observations and actions of the visit's task.

    It draws nothing and writes to nothing that training reads. What a later row is compared with are copies: weights at
    the visit's start, and weights and buffers at the last row that was measured.

    Args:
        agent: whose networks.
        every: rows of a visit from one that is measured to the next; the first one is measured too.
    """

    def __init__(self, agent: Agent, every: int) -> None:
        self._agent = agent
        self.every = every
        self.visit_start(0)

    def visit_start(self, updates: int) -> None:
        """Compare with the weights as they are now, after so many updates."""
        self._rows = 0
        self._updates = updates
        self._last = {name: _copy(network.state_dict()) for name, network in self._agent.networks.items()}
        self._start = {
            name: {key: self._last[name][key] for key, _ in network.named_parameters()}
            for name, network in self._agent.networks.items()
        }

    def row(self, rows: Mapping[str, np.ndarray] | None, task: int, updates: int) -> dict[str, float]:
        """The numbers of the next training row by name, none if it is not measured.

        Args:
            rows: columns "obs" (B, ...) and "actions" (B, ...) that the networks are measured on; None: there are none.
            task: index of their task.
            updates: made so far.
        """
        self._rows += 1
        if rows is None or not (self._rows == 1 or self._rows % self.every == 0):
            return {}
        numbers = self._measure(rows, task, updates - self._updates)
        self._updates = updates
        self._last = {name: _copy(network.state_dict()) for name, network in self._agent.networks.items()}
        together = torch.stack([number.double() for number in numbers.values()]).tolist()  # one wait for the device
        return {name: float(f"{number:.{DIGITS}g}") for name, number in zip(numbers, together, strict=True)}

    @torch.no_grad()
    def _measure(self, rows: Mapping[str, np.ndarray], task: int, updates: int) -> dict[str, Tensor]:
        obs, actions = (torch.as_tensor(rows[name], device=self._agent.device) for name in ("obs", "actions"))
        numbers: dict[str, Tensor] = {}
        for name, network in self._agent.networks.items():
            inputs = obs if name == "policy" else self._agent.critic_inputs(obs, actions)
            record: list[Tensor] = []
            outputs = network(inputs, task=task, record=record)
            for i, hidden in enumerate(record):
                numbers |= {f"{key}_{name}_{i}": value for key, value in _of_layer(activities(hidden)).items()}
            parts = {**_of_features(network, record[-1]), **self._of_weights(name)}
            if self._agent.optimizers[name].state:
                parts |= self._of_gradients(name)
            if updates:
                parts |= self._since_last(name, inputs, outputs, task, updates)
            numbers |= {key.format(name): value for key, value in parts.items()}
        return numbers

    def _of_weights(self, name: str) -> dict[str, Tensor]:
        now = dict(self._agent.networks[name].named_parameters())
        start = self._start[name]
        return {
            "weight_norm_{}": plasticity.norm(list(now.values())),
            "weight_diff_{}": plasticity.distance([now[key] for key in start], list(start.values())),
        }

    def _of_gradients(self, name: str) -> dict[str, Tensor]:
        network, optimizer = self._agent.networks[name], self._agent.optimizers[name]
        squares: dict[Tensor, Tensor] = {
            param: plasticity.mean_square_gradient(optimizer, param) for param in network.parameters()
        }
        parts = {"grad_norm_{}": torch.stack([square.sum() for square in squares.values()]).sum().sqrt()}
        for i, layer in enumerate(network.layers()[:-1]):
            of_neurons = rows_of(squares[layer.weight]).sum(1).sqrt()
            parts[f"grad_dormant_frac_{{}}_{i}"] = plasticity.dormant_share(of_neurons, plasticity.DORMANT)
        return parts

    def _since_last(self, name: str, inputs: Tensor, outputs: Tensor, task: int, updates: int) -> dict[str, Tensor]:
        """What the updates since the last measured row changed."""
        network, last = self._agent.networks[name], self._last[name]
        now = dict(network.state_dict())
        learned = [key for key, _ in network.named_parameters()]
        before = [last[key] for key in learned]
        moved = plasticity.distance([now[key] for key in learned], before)

        def decided_by(weights: Weights) -> Tensor:
            return self._decided(name, functional_call(network, weights, (inputs,), {"task": task}))

        was = decided_by(last)
        old_head = {key: last[key] for key in now if key.startswith(HEAD)}
        new_head = {key: now[key] for key in old_head}
        decisions = {
            "churn_{}": self._decided(name, outputs),
            "churn_representation_{}": decided_by({**now, **old_head}),
            "churn_head_{}": decided_by({**last, **new_head}),
        }
        distributions = name == "policy" and self._agent.discrete
        return {
            "effective_lr_{}": moved / plasticity.norm(before) / updates,
            **{key: plasticity.churn(was, new, distributions=distributions) for key, new in decisions.items()},
        }

    def _decided(self, name: str, outputs: Tensor) -> Tensor:
        """What a network's outputs come to, (B, n): probabilities, or the mean action in [-1, 1]; or action values."""
        if name != "policy":
            return outputs
        return F.softmax(outputs, -1) if self._agent.discrete else squashed_gaussian(outputs)[0].tanh()

    def get_state(self) -> dict[str, Any]:
        """What a later row depends on."""
        copies = {"start": self._start, "last": self._last}
        return {
            "rows": self._rows,
            "updates": self._updates,
            **{
                kind: {name: {key: tensor.cpu().numpy() for key, tensor in own.items()} for name, own in those.items()}
                for kind, those in copies.items()
            },
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `get_state` gave."""
        self._rows, self._updates = state["rows"], state["updates"]
        self._start, self._last = (
            {
                name: {key: torch.tensor(array, device=self._agent.device) for key, array in own.items()}
                for name, own in state[kind].items()
            }
            for kind in ("start", "last")
        )


def _copy(state: Mapping[str, Tensor]) -> Weights:
    return {key: tensor.detach().clone() for key, tensor in state.items()}


def _of_layer(hidden: Tensor) -> dict[str, Tensor]:
    """Of a layer's activities, (B, N)."""
    mean_abs = hidden.abs().mean(0)
    return {
        "dead_frac": plasticity.dormant_share(mean_abs, 0.0),
        "dormant_frac": plasticity.dormant_share(mean_abs, plasticity.DORMANT),
        "active_frac": plasticity.active_share(hidden),
    }


def _of_features(network: Network, hidden: Tensor) -> dict[str, Tensor]:
    """Of what the head is given, from the last layer's recorded activations: with CReLU the two features of each."""
    features = network.activation(hidden) if network.features_per_neuron == 2 else hidden
    values = plasticity.singular_values(features)
    return {
        "feature_norm_{}": features.norm(dim=1).mean(),
        "stable_rank_{}": plasticity.stable_rank(values),
        "effective_rank_{}": plasticity.effective_rank(values),
        "srank_{}": plasticity.srank(values),
    }
