"""Networks as ordered hidden layers and one output layer, so that every neuron has a name: (network, layer, index).

PyTorch layout throughout: `weight` is (out, in, ...), so neuron j's incoming weights are row `weight[j]` with
`bias[j]`, and its outgoing weights are column j of the next layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NETWORKS = ("policy", "qf", "qf_twin")
"""SAC's networks: the actor and the twin critics."""
CRELU = "crelu"
Shape = tuple[tuple[int, ...], int]
"""Of a network: the shape of one input, and the number of outputs."""


def crelu(z: Tensor) -> Tensor:
    """`[relu(z), relu(-z)]` on the feature or channel axis, (B, 2N, ...) from (B, N, ...) (Abbas et al. 2023)."""
    return torch.cat([F.relu(z), F.relu(-z)], 1)


# In place: no layer needs its pre-activations again, and memory traffic is what an activation costs.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "tanh": torch.tanh_, CRELU: crelu}


def fan_in_uniform(layer: nn.Linear | nn.Conv2d, generator: torch.Generator) -> None:
    """PyTorch's default: weights and biases uniform in +-1/sqrt(fan in)."""
    bound = 1.0 / math.sqrt(layer.weight[0].numel())
    for param in layer.parameters():
        param.copy_(torch.empty(param.shape, device=generator.device).uniform_(-bound, bound, generator=generator))


def kaiming_normal(layer: nn.Linear | nn.Conv2d, generator: torch.Generator) -> None:
    """CleanRL's for images: weights normal with standard deviation sqrt(2 / fan in) (He et al. 2015), biases 0."""
    weight = torch.empty(layer.weight.shape, device=generator.device)
    layer.weight.copy_(nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator))
    assert layer.bias is not None
    layer.bias.zero_()


FAN_IN_UNIFORM = "fan_in_uniform"
INITS: dict[str, Callable[[nn.Linear | nn.Conv2d, torch.Generator], None]] = {
    FAN_IN_UNIFORM: fan_in_uniform,
    "kaiming_normal": kaiming_normal,
}
"""Ways to draw a layer, where the generator lives, so that one seed gives the same weights on every device."""


def init_layer(layer: nn.Linear | nn.Conv2d, generator: torch.Generator, init: str = FAN_IN_UNIFORM) -> None:
    """Draw a layer's weights and biases in place.

    Args:
        layer: its parameters.
        generator: source of the draws.
        init: a key of `INITS`.
    """
    if layer.weight.is_meta:
        return  # shapes without memory, of which only the size is asked
    with torch.no_grad():
        INITS[init](layer, generator)


class Network(nn.Module):
    """Hidden layers, each followed by the activation, then the output layer ("head").

    Images pass convolutions first, a channel of which is one neuron; everything else is a perceptron. The head is the
    paper's "last layer": its outputs are no neurons, are never ranked and never masked. An actor's mean and log
    standard deviation are the two halves of one head.

    Args:
        in_shape: shape of one input: (features,), or (channels, height, width) of an image.
        hidden: widths of the fully connected hidden layers.
        out_features: width of the head.
        activation: a key of `ACTIVATIONS`; with "crelu" each layer has twice as many inputs as the one before it has
            neurons.
        conv: (channels, kernel size, stride) of each convolution before them, for images.
        init: distribution of the initial weights, a key of `INITS`; the head's too.
        generator: source of the initial weights.

    Raises:
        ValueError: if an image is smaller than the kernels need.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        hidden: Sequence[int],
        out_features: int,
        *,
        activation: str,
        conv: Sequence[tuple[int, int, int]] = (),
        init: str = FAN_IN_UNIFORM,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.features_per_neuron = features = 2 if activation == CRELU else 1
        channels = in_shape[0]
        for out_channels, kernel, stride in conv:
            layers.append(nn.Conv2d(channels, out_channels, kernel, stride))
            channels = features * out_channels
        width = features * conv_features(in_shape, conv) if conv else math.prod(in_shape)
        for neurons in hidden:
            layers.append(nn.Linear(width, neurons))
            width = features * neurons
        self.hidden = nn.ModuleList(layers)
        self.head = nn.Linear(width, out_features)
        self.activation = ACTIVATIONS[activation]
        for layer in self.layers():
            init_layer(layer, generator, init)

    def layers(self) -> list[nn.Linear | nn.Conv2d]:
        """Hidden layers in order, then the head."""
        return [*self.hidden, self.head]

    def num_neurons(self) -> list[int]:
        """Neurons of each hidden layer; a convolution's channel is one."""
        return [layer.weight.shape[0] for layer in self.layers()[:-1]]

    def sources(self, layer: int) -> Tensor:
        """Which neuron of the hidden layer before it feeds each input of a layer, shape (fan in,), int64.

        Args:
            layer: place in `layers()`, from 1. A channel feeds a kernel's inputs, or its pixels' after a flatten; with
                CReLU a neuron feeds two features.
        """
        before, weight = self.layers()[layer - 1].weight, self.layers()[layer].weight
        features = self.features_per_neuron * before.shape[0]
        neuron = torch.arange(features, device=weight.device) % before.shape[0]
        return neuron.repeat_interleave(weight[0].numel() // features)

    def forward(
        self,
        inputs: Tensor,
        *,
        task: Tensor | int | None = None,
        frozen: bool = False,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """Outputs of the head, shape (B, out_features).

        Args:
            inputs: shape (B, *in_shape); bytes are taken for pixels and scaled to [0, 1].
            task: index of the distinct task that all rows, or each of them (B,), come from; for networks that a method
                conditions on it, and ignored here.
            frozen: treat the weights as constants; gradients still flow to `inputs`.
            record: if given, the activations of each hidden layer are appended, of shape (B, N) or (B, N, H, W): one
                for each neuron, with CReLU the z of which relu(z) and relu(-z) are the two features.
        """
        return self.run_through(inputs, task, frozen, record)

    def run_through(self, inputs: Tensor, shown: Any, frozen: bool, record: list[Tensor] | None) -> Tensor:
        """Every layer in turn.

        Args:
            inputs, frozen, record: as `forward` has them.
            shown: what `unit` and `layer_outputs` make of the task; a method's network may hand on something else.
        """
        x = pixels(inputs)
        i = -1
        for i, layer in enumerate(self.hidden):
            x, activations = self.unit(i, layer, x, shown, frozen)
            if record is not None:
                record.append(activations)
        return self.layer_outputs(i + 1, self.head, x, shown, frozen)

    def unit(self, i: int, layer: nn.Module, x: Tensor, shown: Any, frozen: bool) -> tuple[Tensor, Tensor]:
        """What hidden layer `i` hands on, and the activations of its neurons: the same, but for CReLU."""
        z = self.layer_outputs(i, layer, x, shown, frozen)
        features = self.activation(z)
        return features, z if self.features_per_neuron == 2 else features

    def layer_outputs(self, i: int, layer: nn.Module, x: Tensor, shown: Any, frozen: bool) -> Tensor:
        """The pre-activations of layer `i` of `layers()`, the last of which is the head."""
        return apply_layer(layer, x, frozen)


def pixels(inputs: Tensor) -> Tensor:
    """Inputs of a network as it sees them: bytes are pixels, scaled to [0, 1]."""
    x = inputs / 255.0 if inputs.dtype == torch.uint8 else inputs
    # The layout that convolutions in bfloat16 are fast with; in float32 it would change the last bits of results.
    lies_anew = x.dim() == 4 and torch.is_autocast_enabled(x.device.type)
    return x.contiguous(memory_format=torch.channels_last) if lies_anew else x


def apply_layer(layer: nn.Module, x: Tensor, frozen: bool = False) -> Tensor:
    """A layer's pre-activations, of the weights' format; images are flattened before a fully connected layer."""
    if x.dim() == 4 and isinstance(layer, nn.Linear):
        x = x.flatten(1)
    z = _products(layer, x, frozen)
    return z.float() if z.dtype == torch.bfloat16 else z  # the format of `training.autocast` is that of products alone


def _products(layer: nn.Module, x: Tensor, frozen: bool) -> Tensor:
    # Detached views, not requires_grad flags: the flags would be shared with the pass that must train the weights.
    if not frozen:
        return layer(x)
    weight, bias = layer.weight.detach(), layer.bias.detach()  # type: ignore[operator]
    return F.conv2d(x, weight, bias, layer.stride) if isinstance(layer, nn.Conv2d) else F.linear(x, weight, bias)


def conv_features(in_shape: tuple[int, ...], conv: Sequence[Sequence[int]]) -> int:
    """How many numbers the last of `conv` hands on.

    Raises:
        ValueError: naming the convolution whose kernel is larger than what it is given.
    """
    channels, height, width = in_shape
    for i, (out_channels, kernel, stride) in enumerate(conv):
        if kernel > min(height, width):
            raise ValueError(f"model.conv[{i}] has a kernel of {kernel}, larger than its input of {height}x{width}")
        channels, height, width = out_channels, (height - kernel) // stride + 1, (width - kernel) // stride + 1
    return channels * height * width


def sac_shapes(obs_shape: tuple[int, ...], act_dim: int, discrete: bool) -> tuple[Shape, Shape]:
    """Inputs and outputs of SAC's actor and of one of its critics, as `Network` takes them.

    Args:
        obs_shape: of one observation.
        act_dim: action dimensions A, or the number n of discrete actions.
        discrete: the actor gives n logits and a critic n values of an observation; else the actor gives A means and A
            log standard deviations, and a critic the value of an observation and an action.
    """
    if discrete:
        return (obs_shape, act_dim), (obs_shape, act_dim)
    return (obs_shape, 2 * act_dim), ((math.prod(obs_shape) + act_dim,), 1)


def activities(hidden: Tensor) -> Tensor:
    """One number per neuron and row: the activation itself, or a channel's spatial mean (Eq. 1), shape (B, N)."""
    return hidden if hidden.dim() == 2 else hidden.flatten(2).mean(-1)
