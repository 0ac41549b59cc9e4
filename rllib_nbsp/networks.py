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
    """Hidden layers, each followed by the activation, then the output layer ("head").

    Images pass convolutions first, a channel of which is one neuron; everything else is a perceptron. The head is the
    paper's "last layer": its outputs are no neurons, are never ranked and never masked. An actor's mean and log
    standard deviation are the two halves of one head.

    Args:
        in_shape: shape of one input: (features,), or (channels, height, width) of an image.
        hidden: widths of the fully connected hidden layers.
        out_features: width of the head.
        activation: a key of `ACTIVATIONS`.
        conv: (channels, kernel size, stride) of each convolution before them, for images.
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
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_shape[0]
        for out_channels, kernel, stride in conv:
            layers.append(nn.Conv2d(channels, out_channels, kernel, stride))
            channels = out_channels
        widths = [conv_features(in_shape, conv) if conv else math.prod(in_shape), *hidden]
        layers += [nn.Linear(i, o) for i, o in itertools.pairwise(widths)]
        self.hidden = nn.ModuleList(layers)
        self.head = nn.Linear(widths[-1], out_features)
        self.activation = ACTIVATIONS[activation]
        for layer in self.layers():
            init_layer(layer, generator)

    def layers(self) -> list[nn.Linear | nn.Conv2d]:
        """Hidden layers in order, then the head."""
        return [*self.hidden, self.head]

    def num_neurons(self) -> list[int]:
        """Neurons of each hidden layer; a convolution's channel is one."""
        return [layer.weight.shape[0] for layer in self.layers()[:-1]]

    def forward(self, inputs: Tensor, *, frozen: bool = False, record: list[Tensor] | None = None) -> Tensor:
        """Outputs of the head, shape (B, out_features).

        Args:
            inputs: shape (B, *in_shape); bytes are taken for pixels and scaled to [0, 1].
            frozen: treat the weights as constants; gradients still flow to `inputs`.
            record: if given, the activations of each hidden layer are appended, of shape (B, N) or (B, N, H, W).
        """
        x = inputs / 255.0 if inputs.dtype == torch.uint8 else inputs
        for layer in self.hidden:
            x = self.activation(_apply(layer, x, frozen))
            if record is not None:
                record.append(x)
        return _apply(self.head, x, frozen)


def _apply(layer: nn.Module, x: Tensor, frozen: bool) -> Tensor:
    if x.dim() == 4 and isinstance(layer, nn.Linear):
        x = x.flatten(1)
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


def num_parameters(
    in_shape: tuple[int, ...], hidden: Sequence[int], out_features: int, conv: Sequence[Sequence[int]] = ()
) -> int:
    """Weights and biases of a `Network`, without building it."""
    count, channels = 0, in_shape[0]
    for out_channels, kernel, _ in conv:
        count += (channels * kernel * kernel + 1) * out_channels
        channels = out_channels
    widths = [conv_features(in_shape, conv) if conv else math.prod(in_shape), *hidden, out_features]
    return count + sum((i + 1) * o for i, o in itertools.pairwise(widths))


def activities(hidden: Tensor) -> Tensor:
    """One number per neuron and row: the activation itself, or a channel's spatial mean (Eq. 1), shape (B, N)."""
    return hidden if hidden.dim() == 2 else hidden.flatten(2).mean(-1)
