"""A second SAC beside the agent's, for methods that train one: same losses and rates, its own weights and noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rllib_nbsp.methods.base import Agent, Batch
from rllib_nbsp.settings import TrainingSettings


class Twin(Agent):
    """Starts from the agent's weights with fresh optimizers, and learns nothing but what `update` is given.

    The agent's generator seeds its noise, so that it is the same on every Learner; a run goes on from `get_state`.

    Args:
        module: whose networks these are, and which draws the noise; the twin's alone.
        training: rates and clip.
        target_period: updates between two moves of the target networks.
        parts: of the `Agent`.
    """

    def __init__(self, module: Any, training: TrainingSettings, target_period: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.updates = 0
        self._module = module
        self._training = training
        self._target_period = target_period
        self._pairs = self.target_pairs()
        self._parameters = [*(p for net in self.networks.values() for p in net.parameters()), self.log_alpha]
        seed = int(torch.randint(2**31, (), generator=self.generator))
        noise = torch.Generator(self.device).manual_seed(seed)
        module.set_noise_state(noise.get_state().numpy(), self.device)

    def update(self, batch: Batch) -> None:
        """SAC's update, as a Learner has it without a method; `batch` is this Learner's part of the whole."""
        for parameter in self._parameters:
            parameter.grad = None
        torch.stack(list(self.sac_losses(batch).values())).sum().backward()
        for parameter in self._parameters:
            assert isinstance(parameter.grad, Tensor)
            self.all_reduce_mean(parameter.grad)
        if self._training.grad_clip is not None:
            for network in self.networks.values():
                torch.nn.utils.clip_grad_norm_(network.parameters(), self._training.grad_clip)
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.updates += 1
        if self.updates % self._target_period == 0:
            with torch.no_grad():
                torch._foreach_lerp_(*self._pairs, self._training.tau)

    def get_state(self) -> dict[str, Any]:
        """All that it goes on from, fit for a method's state."""
        return {**self.snapshot(), "updates": self.updates, "noise": self._module.noise_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_state` gave."""
        self.restore(state)
        self.updates = state["updates"]
        self._module.set_noise_state(state["noise"], self.device)
