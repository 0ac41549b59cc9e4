"""Methods that only the tests know; each leans on another part of the interface, as the published ones will."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rllib_nbsp.curriculum import Phase, Visit
from rllib_nbsp.methods.agent import Batch, VisitData
from rllib_nbsp.methods.base import ContinualMethod
from rllib_nbsp.nn.networks import NETWORKS, activities
from rllib_nbsp.replay.buffer import ReplayRequest
from rllib_nbsp.settings import ReplaySettings


class Anchor(ContinualMethod):
    """A quadratic pull towards the last visit's weights, weighted by squared gradients on the visit's data (as EWC)."""

    visit_data_rows = 64

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.importance: dict[str, list[Tensor]] = {}
        self.anchor: dict[str, list[Tensor]] = {}

    def on_visit_end(self, visit: Visit, data: VisitData) -> None:
        self.anchor = {n: [p.detach().clone() for p in net.parameters()] for n, net in self.agent.networks.items()}
        self.importance = {n: [torch.zeros_like(p) for p in params] for n, params in self.anchor.items()}
        for batch in data.batches(2, 8, self.agent.generator, self.agent.device):
            for name, net in self.agent.networks.items():
                inputs = batch.obs if name == "policy" else self.agent.critic_inputs(batch.obs, batch.actions)
                gradients = torch.autograd.grad(net(inputs).sum(), list(net.parameters()))
                for total, gradient in zip(self.importance[name], gradients, strict=True):
                    total += gradient.square()

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        return {
            name: sum(
                (
                    (f * (p - a).square()).sum()
                    for f, p, a in zip(
                        self.importance[name], self.agent.networks[name].parameters(), anchor, strict=True
                    )
                ),
                start=torch.zeros(()),
            )
            for name, anchor in self.anchor.items()
        }

    def get_state(self) -> dict[str, Any]:
        return {"anchor": _arrays(self.anchor), "importance": _arrays(self.importance)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.anchor, self.importance = _tensors(state["anchor"]), _tensors(state["importance"])


class Importance(ContinualMethod):
    """Slows neurons by a running mean of |activation x gradient| over all Learners (as NPC)."""

    needs_activations = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.importance = {
            name: [torch.zeros(n) for n in net.num_neurons()] for name, net in self.agent.networks.items()
        }
        self.before: list[Tensor] = []

    def transform_gradients(self, batch: Batch) -> None:
        for name, layers in self.importance.items():
            for importance, hidden in zip(layers, batch.activations[name], strict=True):
                assert hidden.grad is not None
                # Times the rows: the gradient is that of a mean over this Learner's shard.
                now = len(hidden) * activities((hidden.detach() * hidden.grad).abs()).mean(0)
                importance.lerp_(self.agent.all_reduce_mean(now), 0.1)
        self.before = [layer.weight.detach().clone() for layer in self._layers()]

    def after_step(self, batch: Batch) -> None:
        importances = [importance for layers in self.importance.values() for importance in layers]
        for layer, before, importance in zip(self._layers(), self.before, importances, strict=True):
            rate = 1.0 / (1.0 + importance)
            rows = rate.reshape(-1, *[1] * (layer.weight.dim() - 1))
            layer.weight.data.copy_(torch.lerp(before, layer.weight.data, rows))

    def _layers(self) -> list[torch.nn.Linear]:
        return [layer for net in self.agent.networks.values() for layer in net.layers()[:-1]]

    def neuron_arrays(self) -> dict[str, np.ndarray]:
        return {f"{n}/{i}/importance": x.numpy() for n, layers in self.importance.items() for i, x in enumerate(layers)}

    def get_state(self) -> dict[str, Any]:
        return {"importance": _arrays(self.importance)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.importance = _tensors(state["importance"])


class Rehearsal(ContinualMethod):
    """Pulls the critics towards zero on rows of earlier tasks beside every batch (cloning and A-GEM ask for these)."""

    @classmethod
    def replay_request(cls, config: Any, replay: ReplaySettings) -> ReplayRequest:
        return ReplayRequest(prior_rows_per_update=4)

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        if batch.prior is None:
            return {}
        inputs = self.agent.critic_inputs(batch.prior.obs, batch.prior.actions)
        return {name: self.agent.networks[name](inputs).square().mean() for name in ("qf", "qf_twin")}


class Distillation(ContinualMethod):
    """Starts later visits with updates on the last one's D, of a loss of their own and none of SAC's (as CoTASP)."""

    @classmethod
    def phases(cls, config: Any, visit: Visit) -> list[Phase]:
        distil = Phase("distil", collect=False, updates=3, sac_losses=False)
        return [Phase()] if visit.number == 1 else [distil, Phase(fresh=True)]

    @classmethod
    def boundary_exceptions(cls, config: Any) -> dict[str, bool]:
        return {"clear_buffer": False}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.distils = False

    def on_phase_start(self, visit: Visit, phase: Phase) -> None:
        self.distils = phase.name == "distil"

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        return {"policy": self.agent.networks["policy"](batch.obs).square().mean()} if self.distils else {}

    def get_state(self) -> dict[str, Any]:
        return {"distils": self.distils}

    def set_state(self, state: dict[str, Any]) -> None:
        self.distils = state["distils"]


class Perturbation(ContinualMethod):
    """Re-draws one neuron of each network at a visit's start and puts the rest back (as CBP and ANCL)."""

    def on_visit_start(self, visit: Visit, data: VisitData | None) -> None:
        kept = self.agent.snapshot()
        for name in NETWORKS:
            layer = self.agent.networks[name].layers()[0]
            self.agent.init_layer(layer, self.agent.generator)
            fresh = layer.weight.data[0].clone()
            layer.load_state_dict({k[9:]: v for k, v in kept["networks"][name].items() if k.startswith("hidden.0.")})
            layer.weight.data[0] = fresh


class Delay(ContinualMethod):
    """Nothing but SAC with delayed policy updates (CleanRL's order)."""

    @classmethod
    def training_exceptions(cls, config: Any) -> dict[str, Any]:
        return {"actor_interval": 2}


def _arrays(table: dict[str, list[Tensor]]) -> dict[str, list[np.ndarray]]:
    return {name: [t.numpy().copy() for t in tensors] for name, tensors in table.items()}


def _tensors(table: dict[str, list[np.ndarray]]) -> dict[str, list[Tensor]]:
    return {name: [torch.from_numpy(array.copy()) for array in arrays] for name, arrays in table.items()}


PROBES: dict[str, type[ContinualMethod]] = {
    "probe_anchor": Anchor,
    "probe_importance": Importance,
    "probe_rehearsal": Rehearsal,
    "probe_distillation": Distillation,
    "probe_perturbation": Perturbation,
    "probe_delay": Delay,
}
