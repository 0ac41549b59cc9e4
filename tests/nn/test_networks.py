"""Networks: which weight belongs to which neuron, what is recorded, where gradients go."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_nbsp.nn.networks import INITS, Network, activities, conv_features, init_layer
from rllib_nbsp.settings import ModelSettings


def network(*, seed: int = 0, activation: str = "relu", hidden: tuple[int, ...] = (5, 4)) -> Network:
    return Network((3,), hidden, 2, activation=activation, generator=torch.Generator().manual_seed(seed))


def inputs(rows: int = 7) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "function"), [("relu", torch.relu), ("tanh", torch.tanh)])
def test_forward_is_hidden_layers_with_activation_and_then_a_linear_head(name, function):
    net, x = network(activation=name), inputs()
    (w1, b1), (w2, b2), (w3, b3) = [(layer.weight, layer.bias) for layer in net.layers()]
    expected = function(function(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    assert torch.allclose(net(x), expected, atol=1e-6)


def test_each_input_of_a_layer_has_the_neuron_that_feeds_it():
    # Three channels of 2 x 2 pixels after the convolution of a 5 x 5 image: 12 inputs, a channel's pixels side by side.
    generator = torch.Generator().manual_seed(0)
    net = Network((1, 5, 5), (4,), 2, activation="relu", conv=[(2, 2, 1), (3, 3, 1)], generator=generator)
    assert net.sources(1).tolist() == [0] * 9 + [1] * 9  # two channels in kernels of 3 x 3
    assert net.sources(2).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert net.sources(3).tolist() == [0, 1, 2, 3]
    # With CReLU a neuron feeds an input of relu(z) and, as many places further on, one of relu(-z).
    assert network(activation="crelu").sources(1).tolist() == [0, 1, 2, 3, 4] * 2


def test_silencing_a_neurons_outgoing_weights_silences_it():
    for activation in ("relu", "crelu"):
        net, x = network(activation=activation), inputs()
        with torch.no_grad():
            net.layers()[1].weight[:, net.sources(1) == 2] = 0.0
            before = net(x)
            net.layers()[0].bias[2] += 5.0
        assert torch.equal(net(x), before)


def test_a_networks_size_can_be_asked_without_memory_for_it():
    with torch.device("meta"):
        net = Network((3,), (10**9,), 2, activation="relu", generator=torch.Generator())
    assert sum(p.numel() for p in net.parameters()) == 6 * 10**9 + 2


def test_sizes_are_those_of_the_paper():
    # docs/readings.md R31: actor 39-768-768-768-8 and critics 43-768-768-768-1, 3 x 768 = 2304 neurons each.
    generator = torch.Generator().manual_seed(0)
    actor = Network((39,), [768] * 3, 8, activation="relu", generator=generator)
    critic = Network((43,), [768] * 3, 1, activation="relu", generator=generator)
    assert sum(p.numel() for p in actor.parameters()) == 1_218_056
    assert sum(p.numel() for p in critic.parameters()) == 1_215_745
    assert actor.num_neurons() == critic.num_neurons() == [768, 768, 768]


def test_row_j_and_bias_j_are_the_incoming_weights_of_neuron_j_and_column_j_its_outgoing_ones():
    net, x = network(), inputs()
    with torch.no_grad():
        net.hidden[0].weight[2] = 0.0
        net.hidden[0].bias[2] = 0.75
    record: list[Tensor] = []
    net(x, record=record)
    assert torch.equal(record[0][:, 2], torch.full((7,), 0.75))
    with torch.no_grad():
        net.hidden[1].weight[:, 2] = 0.0
        before = net(x)
        net.hidden[0].weight[2] = 9.0
    assert torch.equal(net(x), before)


def test_the_record_holds_activations_of_hidden_layers_alone():
    net, x = network(), inputs()
    record: list[Tensor] = []
    out = net(x, record=record)
    assert [tuple(h.shape) for h in record] == [(7, 5), (7, 4)]
    assert all(bool((h >= 0).all()) for h in record)
    assert torch.equal(record[0], torch.relu(F.linear(x, net.hidden[0].weight, net.hidden[0].bias)))
    assert torch.equal(out, F.linear(record[-1], net.head.weight, net.head.bias))


def test_recording_changes_no_output():
    assert torch.equal(network()(inputs()), network()(inputs(), record=[]))


def test_a_frozen_pass_has_the_same_output_and_input_gradient_but_gives_no_weight_a_gradient():
    net = network()
    free, frozen = inputs().requires_grad_(), inputs().requires_grad_()
    out = net(frozen, frozen=True)
    assert torch.equal(out, net(free))
    out.square().sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert all(p.requires_grad for p in net.parameters())
    net(free).square().sum().backward()
    assert torch.equal(free.grad, frozen.grad)


def test_one_generator_state_gives_one_network_and_another_seed_another():
    first, same, other = network(), network(), network(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [(nn.Linear(400, 50), 400), (nn.Conv2d(4, 32, 8, stride=4), 4 * 64)],
)
def test_initial_weights_and_biases_are_uniform_within_one_over_root_fan_in(layer, fan_in):
    bound = 1.0 / math.sqrt(fan_in)
    init_layer(layer, torch.Generator().manual_seed(0))
    weight, bias = layer.weight.detach(), layer.bias.detach()
    for values in (weight, bias):
        assert 0.9 * bound < float(values.abs().max()) <= bound
    # Uniform in +-b has standard deviation b / sqrt(3).
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert float(weight.mean()) == pytest.approx(0.0, abs=0.03 * bound)


def test_kaiming_normal_is_torchs_own_of_every_layer_and_zero_biases():
    # CleanRL's actor and critics for stacks of four 84 x 84 frames and 6 actions, heads included.
    net = Network(
        (4, 84, 84),
        [512],
        6,
        activation="relu",
        conv=NATURE,
        init="kaiming_normal",
        generator=torch.Generator().manual_seed(0),
    )
    same_draws = torch.Generator().manual_seed(0)
    for layer in net.layers():
        expected = nn.init.kaiming_normal_(torch.empty_like(layer.weight), generator=same_draws)
        assert torch.equal(layer.weight, expected)
        assert not layer.bias.any()
    # sqrt(2 / fan in) of 4 x 8 x 8, 32 x 4 x 4, 64 x 3 x 3, 64 x 7 x 7 and 512 inputs; PyTorch's default for the first
    # is 1 / sqrt(3 x 256) = 0.0361. The head's 3072 draws have a standard deviation that is 1.3 % off.
    deviations = [float(layer.weight.detach().std()) for layer in net.layers()]
    assert deviations == pytest.approx([0.0884, 0.0625, 0.0589, 0.0253, 0.0625], rel=0.05)


def test_the_settings_name_every_initial_distribution():
    assert get_args(ModelSettings.model_fields["init"].annotation) == tuple(INITS)
    assert ModelSettings().init == "fan_in_uniform"


def test_activities_of_units_are_themselves_and_of_channels_their_spatial_means():
    # One image, two channels of 2 x 2: means (0 + 1 + 2 + 3) / 4 and (4 + 5 + 6 + 7) / 4.
    assert activities(torch.arange(8.0).reshape(1, 2, 2, 2)).tolist() == [[1.5, 5.5]]
    hidden = torch.randn(3, 4)
    assert torch.equal(activities(hidden), hidden)


def test_an_unknown_activation_is_refused():
    with pytest.raises(KeyError):
        network(activation="gelu")


# Images

NATURE = [(32, 8, 4), (64, 4, 2), (64, 3, 1)]


def image_network(conv=((3, 3, 1), (2, 2, 2)), hidden=(5,)) -> Network:
    generator = torch.Generator().manual_seed(0)
    return Network((4, 7, 7), hidden, 2, activation="relu", conv=conv, generator=generator)


def images(rows: int = 6) -> Tensor:
    return torch.randint(0, 256, (rows, 4, 7, 7), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_sizes_are_those_of_the_paper_on_atari():
    # docs/readings.md R31: 84 x 84 images, 3136 features, 1696 neurons, 3,082,406 parameters with 6 actions.
    net = Network(
        (4, 84, 84), [768, 768], 6, activation="relu", conv=NATURE, generator=torch.Generator().manual_seed(0)
    )
    assert conv_features((4, 84, 84), NATURE) == 3136
    assert net.num_neurons() == [32, 64, 64, 768, 768]
    assert sum(p.numel() for p in net.parameters()) == 3_082_406


def test_forward_of_images_by_torchs_own_functions():
    net, x = image_network(), images()
    first, second, dense = net.hidden
    y = torch.relu(F.conv2d(x / 255.0, first.weight, first.bias))
    y = torch.relu(F.conv2d(y, second.weight, second.bias, stride=2))
    expected = F.linear(torch.relu(F.linear(y.flatten(1), dense.weight, dense.bias)), net.head.weight, net.head.bias)
    assert torch.allclose(net(x), expected, atol=1e-6)
    assert torch.equal(net(x), net(x / 255.0))  # bytes are pixels, everything else is taken as it is


def test_a_channel_is_one_neuron_after_its_activation():
    net, record = image_network(), []
    net(images(), record=record)
    assert [tuple(h.shape) for h in record] == [(6, 3, 5, 5), (6, 2, 2, 2), (6, 5)]
    assert all(bool((h >= 0).all()) for h in record)
    assert [activities(h).shape[1] for h in record] == net.num_neurons() == [3, 2, 5]


def test_a_frozen_pass_of_images_gives_no_weight_a_gradient():
    net, x = image_network(conv=((8, 3, 1), (8, 2, 2))), (images() / 255.0).requires_grad_()
    out = net(x, frozen=True)
    assert torch.equal(out, net(x))
    out.sum().backward()
    assert all(p.grad is None for p in net.parameters()) and bool((x.grad != 0).any())


def test_a_kernel_larger_than_its_input_is_refused():
    with pytest.raises(ValueError, match=r"model.conv\[1\] has a kernel of 6, larger than its input of 5x5"):
        image_network(conv=((3, 3, 1), (2, 6, 1)))
