"""A-GEM: an update may not raise the losses of earlier tasks; what of its gradient would is projected away.

Chaudhry et al. 2018b (arXiv:1812.00420), in the form that Continual World (Wolczyk et al. 2021) gives it for SAC: the
reference gradient `g_ref` is that of SAC's own losses on rows of earlier tasks, actor and critics are one gradient
vector `g`, and where `g . g_ref < 0` it becomes `g - (g . g_ref) / (g_ref . g_ref) g_ref`. The temperature stays free.

Differences from the source:
- The rows come from D_pre, which the run's `replay` section governs: by default 1e5 rows shared by all tasks, where
  Continual World keeps 1e4 of each; `replay: {prior_capacity: 10000, split: per_task}` gives that.
- A revisited task's rows are replaced; Continual World's sequences add a memory for every stay.
- One head for all tasks and no task identity, so that the two gradients always share every weight.
- With `training.actor_interval` above 1, the gradients of actor and critics are projected apart, each in its step.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.agent import Agent, Batch, VisitData
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings, register_method
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.replay.buffer import ReplayRequest
from rllib_nbsp.settings import PositiveInt, ReplaySettings, RunSettings


class AGEMSettings(MethodSettings):
    """The method's keys."""

    memory_batch: PositiveInt = 128
    """Rows of D_pre behind each reference gradient, over all Learners together (Continual World's)."""


class AveragedGradientEpisodicMemory(ContinualMethod):
    """The joint gradient of actor and critics never points against that of earlier tasks."""

    Config = AGEMSettings

    def __init__(self, config: AGEMSettings, agent: Agent, replay: ReplaySettings) -> None:
        super().__init__(config, agent, replay)
        # Tensors: they count what a GPU replays, which would stall if they were read at every update.
        self.steps = torch.zeros((), device=agent.device)
        self.violations = torch.zeros((), device=agent.device)

    # Declarations

    @classmethod
    def check(cls, config: AGEMSettings, settings: RunSettings) -> list[str]:
        if not settings.replay.prior_capacity:
            return [
                f"memory_batch is {config.memory_batch}, but D_pre holds nothing to draw from: replay.prior_capacity "
                "is 0; raise it or use method: sac"
            ]
        return []

    @classmethod
    def idle_in_first_visit(cls, config: AGEMSettings) -> bool:
        return True

    @classmethod
    def replay_request(cls, config: AGEMSettings, replay: ReplaySettings) -> ReplayRequest:
        interval = super().replay_request(config, replay).interval
        return ReplayRequest(interval, prior_rows_per_update=config.memory_batch)

    @classmethod
    def no_graph(cls, config: AGEMSettings) -> str | None:
        return None

    # Hooks

    def on_visit_start(self, visit: Visit, data: VisitData | None) -> None:
        self.steps.zero_()
        self.violations.zero_()

    def transform_gradients(self, batch: Batch) -> None:
        if batch.prior is None:
            return
        names = [name for name in NETWORKS if name in batch.moving]
        weights: list[Tensor] = [p for name in names for p in self.agent.networks[name].parameters()]
        gradients = [p.grad for p in weights if p.grad is not None]
        prior = dataclasses.replace(batch.prior, moving=batch.moving)
        self.violations += project(gradients, self._reference(prior, names, weights))
        self.steps += 1.0

    def _reference(self, prior: Batch, names: list[str], weights: list[Tensor]) -> list[Tensor]:
        """The gradient of these networks' losses on rows of earlier tasks, the mean over all Learners."""
        losses = self.agent.sac_losses(prior)
        total = torch.stack([losses[name] for name in names]).sum()
        return [self.agent.all_reduce_mean(part) for part in torch.autograd.grad(total, weights)]

    # Records and state

    def metrics(self) -> dict[str, float]:
        """The share of this visit's steps whose gradient was projected."""
        steps = float(self.steps)
        return {"agem_violation_frac": float(self.violations) / steps} if steps else {}

    def get_state(self) -> dict[str, Any]:
        return {"steps": float(self.steps), "violations": float(self.violations)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.steps.fill_(state["steps"])
        self.violations.fill_(state["violations"])


def project(gradients: list[Tensor], reference: list[Tensor]) -> Tensor:
    """`g <- g - (g . g_ref) / (g_ref . g_ref) g_ref` in place where `g . g_ref < 0`.

    Args:
        gradients: the parts of one vector g.
        reference: the parts of g_ref, of the same shapes.

    Returns:
        Whether `g . g_ref < 0`, a bool scalar.
    """
    dot = _dot(gradients, reference)
    # No branch on a value: with 0 for a dot product that is not negative, nothing changes.
    factor = dot.clamp(max=0.0) / _dot(reference, reference).clamp(min=torch.finfo(dot.dtype).tiny)
    torch._foreach_sub_(gradients, torch._foreach_mul(reference, factor))
    return dot < 0.0


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


register_method("agem", AveragedGradientEpisodicMemory)
