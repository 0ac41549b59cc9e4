"""Plasticity injection: freeze what a network has learned and go on learning in a fresh head (Nikishin et al. 2023).

A network is an encoder and a head. At an injection its trained head becomes the frozen h_theta; a head h_1 drawn anew
is trained in its place, and h_2, h_1's frozen twin, cancels it at first:

    f(x) = h_theta(z) + (h_1(z) - h_2(z)),   z = encoder(x).

The outputs do not change, not by a bit; the number of trained weights neither; and h_1 learns as a new network does.
A later injection freezes h_1 where it is and puts the next pair on top.

Differences from the source:
- The actor too, on its mean and log standard deviation or its logits; the source has a Q network alone
  (`networks: critic`).
- A boundary between two visits says when, as the source's fixed frame means nothing to a cycle of tasks.
- Perceptrons have no convolutions to be the encoder: the head is all of the network, or begins at layer `split`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings, register_method
from rllib_nbsp.nn.networks import FAN_IN_UNIFORM, Network, pixels
from rllib_nbsp.settings import NonNegativeInt, PositiveInt, RunSettings


class PlasticityInjectionSettings(MethodSettings):
    """The method's keys."""

    schedule: Literal["first_boundary", "boundary", "once_mid"] = "first_boundary"
    """Inject when visit 2 starts; when every later visit starts; or when the visit starts with which the second half of
    the visits begins. Visits that stop early may put that off the middle of the environment steps."""
    max_injections: PositiveInt = 1
    """With `schedule: boundary`, how many; each one adds two frozen heads to every pass."""
    split: NonNegativeInt = 0
    """Fully connected layer with which the head begins; convolutions are always the encoder."""
    networks: Literal["all", "critic"] = "all"
    """Actor and critics, or the critics alone."""
    keep_optimizer: bool = True
    """Keep Adam's state at boundaries, whatever `boundary` says: the source finds that resetting it hurts."""


def injection_visits(config: PlasticityInjectionSettings, name: str, visits: int) -> list[int]:
    """The visits at whose start the network of that name is injected."""
    if config.networks == "critic" and name == "policy":
        return []
    if config.schedule == "boundary":
        return list(range(2, visits + 1))[: config.max_injections]
    number = 2 if config.schedule == "first_boundary" else visits // 2 + 1
    return [number] if 2 <= number <= visits else []


class FrozenLayer(nn.Module):
    """A fully connected layer of buffers: they move with targets, copies and checkpoints, but never by Adam."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, param in layer.named_parameters():
            self.register_buffer(name, torch.zeros_like(param, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """Pre-activations (B, N) of inputs (B, fan in)."""
        return F.linear(x, self.weight, self.bias)


class FrozenHead(nn.ModuleList):
    """Room for a frozen copy of a head."""

    def __init__(self, layers: Sequence[nn.Module], activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__(FrozenLayer(layer) for layer in layers)
        self.activation = activation

    def forward(self, z: Tensor) -> Tensor:
        """Outputs (B, out_features) from the encoder's, (B, ...)."""
        x = z.flatten(1)
        for i, layer in enumerate(self):
            x = layer(self.activation(x) if i > 0 else x)
        return x


def copy_weights(source: Iterable[nn.Module], target: Iterable[nn.Module]) -> None:
    """Copy a head's weights into another's, in place."""
    for from_layer, to_layer in zip(source, target, strict=True):
        to_layer.load_state_dict(from_layer.state_dict())


class InjectableNetwork(Network):
    """A network with frozen heads in reserve, so that its shapes never change.

    `layers()`, and so neurons, scores and the optimizer, are those of the encoder and the trained head. Before the
    first injection a pass is a plain network's.

    Args:
        split: fully connected layer with which the head begins.
        at_visits: the visits at whose start it is injected, which is how many pairs of frozen heads it keeps.

    Attributes:
        injections: how many there have been, a number that travels with the weights.
    """

    injections: Tensor

    def __init__(
        self,
        in_shape: tuple[int, ...],
        hidden: Sequence[int],
        out_features: int,
        *,
        split: int,
        at_visits: Sequence[int],
        activation: str,
        conv: Sequence[tuple[int, int, int]] = (),
        init: str = FAN_IN_UNIFORM,
        generator: torch.Generator,
    ) -> None:
        super().__init__(
            in_shape, hidden, out_features, activation=activation, conv=conv, init=init, generator=generator
        )
        self.first = len(conv) + split
        self.at_visits = list(at_visits)
        head = self.trained_head()
        self.learned = nn.ModuleList(FrozenHead(head, self.activation) for _ in at_visits)
        self.twins = nn.ModuleList(FrozenHead(head, self.activation) for _ in at_visits)
        self.register_buffer("injections", torch.zeros(()))
        self.register_load_state_dict_post_hook(_count_injections)
        # Beside the buffer, which a pass would have to wait for on a GPU.
        self.active = 0

    def trained_head(self) -> list[nn.Linear | nn.Conv2d]:
        """The layers after the encoder that are trained: the only head, later h_1."""
        return self.layers()[self.first :]

    def inject(self, fresh: Sequence[nn.Module]) -> None:
        """Freeze the trained head and train the weights of `fresh` in its place, above their own twin."""
        head = self.trained_head()
        copy_weights(head, self.learned[self.active].children())
        copy_weights(fresh, self.twins[self.active].children())
        copy_weights(fresh, head)
        self.active += 1
        self.injections.fill_(self.active)

    def forward(
        self,
        inputs: Tensor,
        *,
        task: Tensor | int | None = None,
        frozen: bool = False,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """As `Network.forward`; the activations that it records are those of the encoder and the trained head."""
        if not self.active:
            return super().forward(inputs, task=task, frozen=frozen, record=record)
        hidden: list[Tensor] = []
        trained = super().forward(inputs, task=task, frozen=frozen, record=hidden)
        if record is not None:
            record.extend(hidden)
        z = self._features(inputs, hidden)
        # In this order, each difference is exactly zero right after its injection.
        out = self.learned[0](z)
        for i in range(1, self.active):
            out = out + (self.learned[i](z) - self.twins[i - 1](z))
        return out + (trained - self.twins[self.active - 1](z))

    def _features(self, inputs: Tensor, hidden: list[Tensor]) -> Tensor:
        """The encoder's outputs, from the activations of a pass."""
        if self.first == 0:
            return pixels(inputs)
        encoded = hidden[self.first - 1]
        return self.activation(encoded) if self.features_per_neuron == 2 else encoded


def _count_injections(network: InjectableNetwork, _: Any) -> None:
    network.active = int(network.injections)


class PlasticityInjection(ContinualMethod):
    """Trains a fresh head on top of the frozen one, from some boundary on."""

    Config = PlasticityInjectionSettings

    @classmethod
    def check(cls, config: PlasticityInjectionSettings, settings: RunSettings) -> list[str]:
        errors = []
        visits, layers = settings.num_visits, len(settings.model.hidden)
        if visits == 1:
            errors.append(f"schedule is {config.schedule!r}; a run of one visit is never injected: use method 'sac'")
        if config.schedule != "boundary" and config.max_injections > 1:
            errors.append(
                f"max_injections is {config.max_injections}; schedule {config.schedule!r} injects once: leave it out, "
                "or use schedule 'boundary'"
            )
        if config.schedule == "boundary" and config.max_injections == 1:
            errors.append(
                "max_injections is 1, with which schedule 'boundary' stops at the first one: raise it, or use schedule "
                "'first_boundary'"
            )
        if config.split > layers:
            errors.append(f"split is {config.split}; with {layers} hidden layers it must be at most {layers}")
        return errors

    @classmethod
    def network(cls, config: PlasticityInjectionSettings, name: str, tasks: int, visits: int) -> Callable[..., Network]:
        return partial(InjectableNetwork, split=config.split, at_visits=injection_visits(config, name, visits))

    @classmethod
    def boundary_exceptions(cls, config: PlasticityInjectionSettings) -> dict[str, bool]:
        return {"reset_optimizer": False} if config.keep_optimizer else {}

    def on_visit_start(self, visit: Visit, data: VisitData | None) -> None:
        for name, network in self._networks.items():
            if visit.number in network.at_visits:
                self._inject(name, network)

    @property
    def _networks(self) -> dict[str, InjectableNetwork]:
        return cast(dict[str, InjectableNetwork], self.agent.networks)

    def _inject(self, name: str, network: InjectableNetwork) -> None:
        """Give a network and its target the same h_1 = h_2; each keeps its own h_theta, and the averaging goes on."""
        fresh = copy.deepcopy(network.trained_head())
        for layer in fresh:
            self.agent.init_layer(layer, self.agent.generator)
        network.inject(fresh)
        if name in self.agent.targets:
            cast(InjectableNetwork, self.agent.targets[name]).inject(fresh)
        for layer in network.trained_head():
            for param in layer.parameters():
                self.agent.optimizers[name].state.pop(param, None)  # its moments were the frozen head's

    # Records

    def metrics(self) -> dict[str, float]:
        return {"injections": float(max(network.active for network in self._networks.values()))}


register_method("plasticity_injection", PlasticityInjection)
