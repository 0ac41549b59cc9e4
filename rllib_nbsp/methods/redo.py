"""ReDo: dormant neurons are recycled (Sokar et al. 2023, arXiv:2302.12902).

A neuron's score is its mean |activation| over a batch as a share of its layer's mean; at most tau makes it dormant.
Every `interval` updates the dormant neurons of all hidden layers start afresh.

Differences from the source:
- Adam forgets a recycled neuron's step count and bias too; the public code zeroes the moments of its weights alone.
- New weights are drawn as the networks began; in the public code by Xavier's rule, as its networks for DQN and SAC are.
- Scores are from the batch of the update itself, taken before its step, as in the public code for SAC; the one for DQN
  samples a batch for them after it.
- Where a channel is flattened, its own pixels are silenced; in the public code for DQN the mask lies channel by channel
  and the features pixel by pixel, so that it silences others.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.agent import Agent, Batch, VisitData
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings, register_method
from rllib_nbsp.methods.parts.recycling import Recycler
from rllib_nbsp.nn.networks import activities
from rllib_nbsp.nn.plasticity import is_dormant
from rllib_nbsp.settings import Frac, PositiveInt, ReplaySettings, RunSettings


class ReDoSettings(MethodSettings):
    """The method's keys."""

    interval: PositiveInt = 1000
    """Updates between two searches for dormant neurons."""
    threshold: Frac = 0.1
    """tau. The paper reports 0.1 and 0.025; the public code's default, 0, recycles neurons that are exactly dead."""


class DormantNeuronRecycling(ContinualMethod):
    """Neurons that hardly ever fire are given another beginning."""

    Config = ReDoSettings
    needs_activations = True

    def __init__(self, config: ReDoSettings, agent: Agent, replay: ReplaySettings) -> None:
        super().__init__(config, agent, replay)
        self.recycler = Recycler(agent)
        self.updates = 0
        self.recycled_frac = 0.0

    @classmethod
    def check(cls, config: ReDoSettings, settings: RunSettings) -> list[str]:
        updates = settings.updates_within(settings.num_visits)
        if config.interval > updates:
            return [
                f"interval is {config.interval}; the run makes at most {updates} updates, so that no neuron is ever "
                "recycled: lower it"
            ]
        return []

    @classmethod
    def no_graph(cls, config: ReDoSettings) -> str | None:
        return None

    # Hooks

    def on_visit_start(self, visit: Visit, data: VisitData | None) -> None:
        self.recycler.on_visit_start()

    @property
    def _is_due(self) -> bool:
        """Whether the update that is being made searches for dormant neurons."""
        return (self.updates + 1) % self.config.interval == 0

    def graph_key(self, *, of_prior: bool) -> Hashable | None:
        return None if self._is_due else self.recycler.changes

    def after_step(self, batch: Batch) -> None:
        self.recycler.correct_steps()
        if self._is_due:
            self._recycle(batch)

    def on_update_end(self) -> None:
        self.updates += 1
        self.recycler.let_go_of_grown()

    def _recycle(self, batch: Batch) -> None:
        before = self.recycler.recycled
        for name in self.agent.networks:
            dormant = [self.is_dormant(hidden).nonzero().squeeze(1) for hidden in batch.activations[name]]
            if any(len(neurons) for neurons in dormant):
                self.recycler.recycle(name, dormant)
        neurons = sum(sum(network.num_neurons()) for network in self.agent.networks.values())
        self.recycled_frac = (self.recycler.recycled - before) / neurons

    @torch.no_grad()
    def is_dormant(self, hidden: Tensor) -> Tensor:
        """Which neurons score at most tau: `E|h_j| <= tau mean_k E|h_k|`, bool (N,), from (B, N) or (B, N, H, W)."""
        activity = self.agent.all_reduce_mean(activities(hidden.abs()).mean(0))
        return is_dormant(activity, self.config.threshold)

    # Records and state

    def metrics(self) -> dict[str, float]:
        return {"recycled_neurons": float(self.recycler.recycled), "recycled_frac": self.recycled_frac}

    def get_state(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "recycled_frac": self.recycled_frac,
            "recycler": self.recycler.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.recycled_frac = state["recycled_frac"]
        self.recycler.set_state(state["recycler"])


register_method("redo", DormantNeuronRecycling)
