"""Behavioural cloning: on states of earlier tasks the policy is held to what it did there when their visits ended.

The cloning half of ClonEx-SAC (Wolczyk et al. 2022, arXiv:2209.13900): at a visit's end some of its states are kept
with the policy's outputs on them, and every later update adds `coef * KL(kept policy || current policy)` on a batch of
all that is kept. Loss, coefficient and the memory's handling follow COOM (Tomilin et al. 2023).

Differences from the source:
- The exploration half of ClonEx (a visit begins with the earlier policy of the best return) is not included: it would
  give this method other data than all the others have.
- COOM takes the mean of the task's and the cloning gradient, which halves both; here they are added. Adam makes no
  difference between the two.
- A task has one memory: a revisit's end replaces it, where the source adds one for every stay. While a task is trained
  again, the policy that its last visit left is cloned too.
- One head for all tasks and no task identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.agent import Agent, Batch, VisitData
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings, register_method
from rllib_nbsp.nn.losses import squashed_gaussian
from rllib_nbsp.settings import NonNegativeFloat, PositiveInt, ReplaySettings

MEMORY_ROWS = 10_000
CRITICS = ("qf", "qf_twin")
ROWS_PER_PASS = 1_000


class CloningSettings(MethodSettings):
    """The method's keys."""

    coef: NonNegativeFloat = 100.0
    """COOM's."""
    memory_rows: Annotated[int, Field(ge=1, le=MEMORY_ROWS)] = MEMORY_ROWS
    """Rows of the finished task that are kept, with images as bytes: 282 MB for 1e4 stacks of four 84x84 frames."""
    batch_rows: PositiveInt = 128
    """Rows of all memories together that an update clones, drawn with replacement."""
    critic: bool = False
    """Clone the critics' values too, by their squared error times `coef`; COOM's default is the actor alone."""


class BehaviouralCloning(ContinualMethod):
    """The policy keeps answering old states as it did."""

    Config = CloningSettings
    visit_data_rows = MEMORY_ROWS

    def __init__(self, config: CloningSettings, agent: Agent, replay: ReplaySettings) -> None:
        super().__init__(config, agent, replay)
        self.memory: dict[str, Tensor] = {}
        self._drawn = torch.zeros(config.batch_rows, dtype=torch.int64, device=agent.device)

    @classmethod
    def idle_in_first_visit(cls, config: CloningSettings) -> bool:
        return True

    @classmethod
    def no_graph(cls, config: CloningSettings) -> str | None:
        return None

    # Hooks

    def on_visit_end(self, visit: Visit, data: VisitData) -> None:
        new = self._remember({key: column[: self.config.memory_rows] for key, column in data.rows.items()})
        if self.memory:
            others = self.memory["task"] != visit.task.index
            new = {key: torch.cat([column[others], new[key]]) for key, column in self.memory.items()}
        self.memory = new

    @torch.no_grad()
    def _remember(self, rows: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """States with what the networks say of them, a column each."""
        kept = ("obs", "task", "actions") if self.config.critic else ("obs", "task")
        memory = {key: torch.from_numpy(rows[key]).to(self.agent.device) for key in kept}
        memory["policy"] = torch.cat([self._policy(part["obs"]) for part in _parts(memory)])
        for name in CRITICS if self.config.critic else ():
            memory[name] = torch.cat([self._values(name, part) for part in _parts(memory)])
        return memory

    def on_update_start(self) -> None:
        if self.memory:
            # The same rows on every Learner, so that the mean of their gradients is the gradient of each.
            rows = len(self.memory["task"])
            drawn = torch.randint(rows, self._drawn.shape, generator=self.agent.generator)
            # From page-locked memory a GPU fetches them when it gets there, and nobody waits.
            self._drawn.copy_(drawn.pin_memory() if self._drawn.is_cuda else drawn, non_blocking=True)

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        if not self.memory:
            return {}
        rows = {key: column[self._drawn] for key, column in self.memory.items()}
        divergence = categorical_kl if self.agent.discrete else gaussian_kl
        terms = {"policy": self.config.coef * divergence(rows["policy"], self._policy(rows["obs"])).mean()}
        for name in CRITICS if self.config.critic else ():
            terms[name] = self.config.coef * F.mse_loss(self._values(name, rows), rows[name])
        return terms

    def _policy(self, obs: Tensor) -> Tensor:
        """Log probabilities (B, n), or mean and log deviation before tanh, side by side (B, 2A)."""
        head = self.agent.networks["policy"](obs)
        return F.log_softmax(head, -1) if self.agent.discrete else torch.cat(squashed_gaussian(head), -1)

    def _values(self, name: str, rows: dict[str, Tensor]) -> Tensor:
        """A critic's value of each row's action (B, 1), or of every discrete action (B, n)."""
        return self.agent.networks[name](self.agent.critic_inputs(rows["obs"], rows["actions"]))

    # Records and state

    def metrics(self) -> dict[str, float]:
        return {"cloning_memory_rows": float(len(self.memory["task"]))} if self.memory else {}

    def get_state(self) -> dict[str, Any]:
        return {"memory": {key: column.cpu().numpy() for key, column in self.memory.items()}}

    def set_state(self, state: dict[str, Any]) -> None:
        self.memory = {key: torch.tensor(column, device=self.agent.device) for key, column in state["memory"].items()}


def gaussian_kl(kept: Tensor, current: Tensor) -> Tensor:
    """KL(kept || current) of diagonal Gaussians, shape (B,); tanh is a bijection, so the squashed ones have the same.

    Args:
        kept, current: mean and log standard deviation side by side, (B, 2A).
    """
    (mean, log_std), (other_mean, other_log_std) = kept.chunk(2, -1), current.chunk(2, -1)
    squares = (2.0 * log_std).exp() + (mean - other_mean).square()
    return (other_log_std - log_std + 0.5 * squares * (-2.0 * other_log_std).exp() - 0.5).sum(-1)


def categorical_kl(kept: Tensor, current: Tensor) -> Tensor:
    """KL(kept || current), shape (B,), from log probabilities (B, n)."""
    return (kept.exp() * (kept - current)).sum(-1)


def _parts(columns: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(columns["obs"]), ROWS_PER_PASS):
        yield {key: column[start : start + ROWS_PER_PASS] for key, column in columns.items()}


register_method("cloning", BehaviouralCloning)
