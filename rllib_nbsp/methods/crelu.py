"""CReLU: hidden layers hand on relu(z) and relu(-z), so that every neuron always has a gradient (Abbas et al. 2023).

The activation itself is `networks.crelu`; the method is the choice of it, in the actor, both critics and their targets.
It has no state. Adam, targets and boundaries are those of plain SAC.

Differences from the source:
- SAC in place of Rainbow, and so in three networks: the actor is one of them.
- `variant: half` is not the source's; it has half as many neurons, so that layers are as wide as those of ReLU.
"""

from __future__ import annotations

from typing import Any, Literal

from rllib_nbsp.methods.base import ContinualMethod, MethodSettings, register_method
from rllib_nbsp.settings import ModelSettings, RunSettings


class CReLUSettings(MethodSettings):
    """The method's keys."""

    variant: Literal["full", "half"] = "full"
    """As many neurons as `model` says, with twice as many features and about twice as many weights; or half as many
    neurons and channels, with as many features and about half as many weights (as CKA-RL has it)."""


class ConcatenatedReLU(ContinualMethod):
    """No neuron is ever dead: one of its two features passes the gradient on."""

    Config = CReLUSettings

    @classmethod
    def check(cls, config: CReLUSettings, settings: RunSettings) -> list[str]:
        errors = []
        model = settings.model
        if model.activation not in ("relu", "crelu"):
            errors.append(
                f"model.activation is {model.activation!r}; method 'crelu' sets it: leave it out, or write 'crelu'"
            )
        if config.variant == "half":
            if any(width % 2 for width in model.hidden):
                errors.append(f"model.hidden is {model.hidden}; variant 'half' needs even widths")
            if any(layer[0] % 2 for layer in model.conv):
                errors.append(f"model.conv is {model.conv}; variant 'half' needs even numbers of channels")
        return errors

    @classmethod
    def model_config(cls, config: CReLUSettings, model: ModelSettings) -> dict[str, Any]:
        overrides: dict[str, Any] = {"activation": "crelu"}
        if config.variant == "half":
            overrides["hidden"] = [width // 2 for width in model.hidden]
            overrides["conv"] = [[channels // 2, kernel, stride] for channels, kernel, stride in model.conv]
        return overrides


register_method("crelu", ConcatenatedReLU)
