"""NPC (reconstruction): neuron-level plasticity control, slower learning for neurons that matter (Paik et al. 2019).

A neuron matters as far as the loss would change without it, to first order: |activation x gradient|, which the backward
pass gives away. All incoming weights of a neuron are braked together, by a lower rate and not by a pull:

    m_j = min(1, sqrt(kappa / C_j)),

with C_j a running mean of the neuron's importance. NBSP masks a chosen fifth of the neurons; here every neuron is
braked, by its own importance.

Differences from the source:
- This is a reconstruction without the source's equations: its overview says what is above in words; the normalisation,
  the running mean and the map from importance to rate are ours. Results are those of "NPC (reconstruction)".
- Importances are frozen when a visit ends (`mode: snapshot`), as visits are given here; the source knows no tasks, to
  which `mode: online` comes closer.
- The rate multiplies the optimizer's step, since Adam cancels a factor on the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.agent import Agent, Batch, VisitData
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings, register_method
from rllib_nbsp.methods.parts.braking import Brake
from rllib_nbsp.settings import PositiveFloat, ReplaySettings, RunSettings

FLOOR = 1e-12
"""Added to what is divided by."""


class NPCSettings(MethodSettings):
    """The method's keys."""

    delta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Share of the old value in the running mean of importances, per update."""
    kappa: PositiveFloat = 0.01
    """Importance up to which a neuron learns freely; a layer's importances have a root mean square of 1."""
    mode: Literal["snapshot", "online"] = "snapshot"
    """Brake by the importances as they were when the visits so far ended, so never in the first; or as they are."""
    accumulate: Literal["max", "sum", "mean"] = "max"
    """Snapshots over visits."""
    last_layer: bool = False
    """Brake the head too, by the network's mean multiplier: its outputs have no importance."""


class NeuronPlasticityControl(ContinualMethod):
    """NPC (reconstruction): the more a neuron matters, the slower its incoming weights change.

    Attributes:
        importance: C, running over all visits, (all hidden neurons of all networks,).
        consolidated: C-bar, what the brakes go by in mode snapshot.
        multiplier: m, in [0, 1].
    """

    Config = NPCSettings
    needs_activations = True

    def __init__(self, config: NPCSettings, agent: Agent, replay: ReplaySettings) -> None:
        super().__init__(config, agent, replay)
        self.sizes = [n for net in agent.networks.values() for n in net.num_neurons()]
        self.importance = torch.zeros(sum(self.sizes), device=agent.device)
        self.consolidated = torch.zeros_like(self.importance)
        self.multiplier = torch.ones_like(self.importance)
        self.visits = 0
        self.brakes: list[Brake] = []

    @classmethod
    def check(cls, config: NPCSettings, settings: RunSettings) -> list[str]:
        if config.mode == "online" and config.accumulate != "max":
            return [f"accumulate is {config.accumulate!r}; mode 'online' takes no snapshots: leave it out"]
        return []

    @classmethod
    def no_graph(cls, config: NPCSettings) -> str | None:
        return "mode 'online' makes new brakes at every update" if config.mode == "online" else None

    # Hooks

    def transform_gradients(self, batch: Batch) -> None:
        now = self.normalised(self.loss_changes(batch))
        self.importance.lerp_(now, 1.0 - self.config.delta)
        if self.config.mode == "online":
            self._brake(self.multipliers(self.importance))
        for brake in self.brakes:
            brake.remember()

    def after_step(self, batch: Batch) -> None:
        for brake in self.brakes:
            brake.scale_step()

    def on_visit_end(self, visit: Visit, data: VisitData) -> None:
        if self.config.mode == "snapshot":
            self.visits += 1
            old, new = self.consolidated, self.importance
            self.consolidated = {
                "max": torch.maximum(old, new),
                "sum": old + new,
                "mean": torch.lerp(old, new, 1.0 / self.visits),
            }[self.config.accumulate]
            self._brake(self.multipliers(self.consolidated))

    # Activations to importances to brakes

    def loss_changes(self, batch: Batch) -> Tensor:
        """`mean_batch |sum_space h dL/dh|` of every hidden neuron, L a row's loss: what removing it would change."""
        changes = []
        for name in self.agent.networks:
            for hidden in batch.activations[name]:
                assert hidden.grad is not None
                change = hidden.detach() * hidden.grad
                if change.dim() > 2:
                    change = change.flatten(2).sum(-1)
                # The loss is a mean over rows: a row's own gradient is B times as large, and the mean a sum.
                changes.append(change.abs().sum(0))
        return self.agent.all_reduce_mean(torch.cat(changes))

    def normalised(self, changes: Tensor) -> Tensor:
        """Each layer's over their root mean square, so that layers and losses compare."""
        return torch.cat([part / (part.square().mean() + FLOOR).sqrt() for part in changes.split(self.sizes)])

    def multipliers(self, importance: Tensor) -> Tensor:
        """`m = min(1, sqrt(kappa / C))`."""
        return (self.config.kappa / (importance + FLOOR)).sqrt().clamp(max=1.0)

    def _brake(self, multiplier: Tensor) -> None:
        self.multiplier = multiplier
        self.brakes = [Brake(param, mask) for param, mask in self._masks() if bool((mask < 1.0).any())]

    def _masks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each weight and bias that may be braked with the multipliers of its rows, (rows, 1)."""
        for name, multipliers in self._by_layer(self.multiplier).items():
            layers = self.agent.networks[name].layers()
            if self.config.last_layer:
                multipliers = [*multipliers, torch.cat(multipliers).mean().expand(len(layers[-1].weight))]
            for layer, multiplier in zip(layers, multipliers, strict=False):
                for param in layer.parameters():
                    yield param, multiplier.unsqueeze(1)

    def _by_layer(self, values: Tensor) -> dict[str, list[Tensor]]:
        """A number for each hidden neuron, by network and layer."""
        parts = iter(values.split(self.sizes))
        return {name: [next(parts) for _ in net.num_neurons()] for name, net in self.agent.networks.items()}

    # Records and state

    def metrics(self) -> dict[str, float]:
        return {
            "multiplier_mean": float(self.multiplier.mean()),
            "masked_frac": float((self.multiplier < 1.0).double().mean()),
        }

    def neuron_arrays(self) -> dict[str, np.ndarray]:
        return {
            f"{name}/{i}/{quantity}": part.cpu().numpy().copy()
            for quantity, values in (("importance", self.importance), ("multiplier", self.multiplier))
            for name, parts in self._by_layer(values).items()
            for i, part in enumerate(parts)
        }

    def get_state(self) -> dict[str, Any]:
        return {
            "importance": self.importance.cpu().numpy().copy(),
            "consolidated": self.consolidated.cpu().numpy(),
            "multiplier": self.multiplier.cpu().numpy(),
            "visits": self.visits,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        def tensor(array: np.ndarray) -> Tensor:
            return torch.tensor(array, device=self.agent.device)

        self.importance, self.consolidated = tensor(state["importance"]), tensor(state["consolidated"])
        self.visits = state["visits"]
        self._brake(tensor(state["multiplier"]))


register_method("npc", NeuronPlasticityControl)
