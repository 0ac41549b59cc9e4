"""Networks as ordered hidden layers and one output layer, so that every neuron has a name: (network, layer, index).

PyTorch layout throughout: `weight` is (out, in, ...), so neuron j's incoming weights are row `weight[j]` with
`bias[j]`, and its outgoing weights are column j of the next layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# In place: no layer needs its pre-activations again, and memory traffic is what an activation costs.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "tanh": torch.tanh_}


def init_layer(layer: nn.Linear | nn.Conv2d, generator: torch.Generator) -> None:
    """Draw a layer's weights and biases as PyTorch does by default: uniform in +-1/sqrt(fan in)."""
    bound = 1.0 / math.sqrt(layer.weight[0].numel())
    with torch.no_grad():
        for param in layer.parameters():
            # Drawn where the generator lives, so that one seed gives the same weights on every device.
            param.copy_(torch.empty(param.shape, device=generator.device).uniform_(-bound, bound, generator=generator))


class Network(nn.Module):
    """A perceptron: hidden layers, each followed by the activation, then the output layer ("head").

    The head is the paper's "last layer": its outputs are no neurons, are never ranked and never masked. An actor's
    mean and log standard deviation are the two halves of one head.

    Args:
        in_features: width of the input.
        hidden: widths of the hidden layers.
        out_features: width of the head.
        activation: a key of `ACTIVATIONS`.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        activation: str,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], out_features)
        self.activation = ACTIVATIONS[activation]
        for layer in self.layers():
            init_layer(layer, generator)

    def layers(self) -> list[nn.Linear]:
        """Hidden layers in order, then the head."""
        return [*self.hidden, self.head]

    def num_neurons(self) -> list[int]:
        """Neurons of each hidden layer."""
        return [layer.weight.shape[0] for layer in self.layers()[:-1]]

    def forward(self, inputs: Tensor, *, frozen: bool = False, record: list[Tensor] | None = None) -> Tensor:
        """Outputs of the head, shape (B, out_features).

        Args:
            inputs: shape (B, in_features).
            frozen: treat the weights as constants; gradients still flow to `inputs`.
            record: if given, the activations of each hidden layer are appended, each of shape (B, N).
        """
        x = inputs
        for layer in self.hidden:
            x = self.activation(_apply(layer, x, frozen))
            if record is not None:
                record.append(x)
        return _apply(self.head, x, frozen)


def _apply(layer: nn.Module, x: Tensor, frozen: bool) -> Tensor:
    # Detached views, not requires_grad flags: the flags would be shared with the pass that must train the weights.
    if frozen:
        return F.linear(x, layer.weight.detach(), layer.bias.detach())  # type: ignore[operator]
    return layer(x)


def activities(hidden: Tensor) -> Tensor:
    """One number per neuron and row: the activation itself, or a channel's spatial mean (Eq. 1), shape (B, N)."""
    return hidden if hidden.dim() == 2 else hidden.flatten(2).mean(-1)
