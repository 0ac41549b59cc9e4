"""CReLU: the activation's identities, sizes, gradients, and that a neuron with two features is one neuron."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_nbsp.checks import check_run
from rllib_nbsp.methods.crelu import ConcatenatedReLU, CReLUSettings
from rllib_nbsp.nn.networks import NETWORKS, Network, crelu
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.settings import ModelSettings
from tests.tiny import (
    ACT,
    CHOICES,
    HIDDEN,
    IMAGES,
    OBS,
    assert_same,
    build_config,
    build_learner,
    build_learner_of,
    end_visit,
    game_transitions,
    parameters,
    random_scores,
    train,
    transitions,
    update,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(in_shape: tuple[int, ...], out_features: int, model: ModelSettings, variant: str = "full") -> Network:
    """A network as the method has it built."""
    model = model.model_copy(update=ConcatenatedReLU.model_config(CReLUSettings(variant=variant), model))
    conv = [(c, kernel, stride) for c, kernel, stride in model.conv] if len(in_shape) == 3 else ()
    return Network(in_shape, model.hidden, out_features, activation=model.activation, conv=conv, generator=generator())


def size(net: Network) -> int:
    return sum(p.numel() for p in net.parameters())


# The activation


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3, 2)])
def test_the_two_halves_are_z_its_magnitude_and_never_both_there(shape):
    z = torch.randn(shape, generator=generator())
    h = crelu(z)
    assert h.shape == (5, 14, *shape[2:])
    positive, negative = h[:, :7], h[:, 7:]
    assert torch.equal(positive - negative, z)
    assert torch.equal(positive + negative, z.abs())
    assert not (positive * negative).any()
    assert int((h == 0.0).sum()) == z.numel()


def test_exactly_one_of_a_neurons_features_has_a_derivative_and_it_is_1_or_minus_1():
    z = torch.tensor([[2.0, -3.0, 0.5, -0.1]])
    jacobian = torch.autograd.functional.jacobian(crelu, z)[0, :, 0]
    positive, negative = jacobian[:4], jacobian[4:]
    assert torch.equal(positive, torch.diag(torch.tensor([1.0, 0.0, 1.0, 0.0])))
    assert torch.equal(negative, torch.diag(torch.tensor([0.0, -1.0, 0.0, -1.0])))


# Sizes


def test_each_layer_has_two_inputs_for_each_neuron_before_it():
    net = network((OBS,), 4, ModelSettings(hidden=[6, 10]))
    assert [tuple(layer.weight.shape) for layer in net.layers()] == [(6, OBS), (10, 12), (4, 20)]
    assert net.num_neurons() == [6, 10]
    assert net(torch.zeros(9, OBS)).shape == (9, 4)


def test_channels_and_the_features_after_the_flatten_double():
    net = network((4, 84, 84), 6, ModelSettings(hidden=[768, 768]))
    kernels = [(32, 4, 8, 8), (64, 64, 4, 4), (64, 128, 3, 3)]
    assert [tuple(layer.weight.shape) for layer in net.layers()][:4] == [*kernels, (768, 2 * 3136)]
    assert net.num_neurons() == [32, 64, 64, 768, 768]


def test_numbers_of_weights_are_those_of_the_papers_networks():
    # docs/readings.md R30, R31: actor 39-768-768-768-8 and the Atari network with 6 actions.
    actor = ModelSettings(hidden=[768, 768, 768])
    assert size(network((39,), 8, actor)) == 2_403_848
    assert size(network((39,), 8, actor, "half")) == 612_104
    assert size(network((4, 84, 84), 6, ModelSettings(hidden=[768, 768]))) == 6_154_918


def test_half_of_the_neurons_have_as_many_features_as_relu():
    model = ModelSettings(hidden=[8, 6])
    net = network((4, 84, 84), 6, model, "half")
    relu = Network(
        (4, 84, 84), [8, 6], 6, activation="relu", conv=[(32, 8, 4), (64, 4, 2), (64, 3, 1)], generator=generator()
    )
    assert net.num_neurons() == [16, 32, 32, 4, 3]
    for own, plain in zip(net.layers(), relu.layers(), strict=True):
        assert own.weight.shape[1:] == plain.weight.shape[1:]


@pytest.mark.parametrize(("variant", "neurons"), [("full", [4, 6, 8, 6]), ("half", [2, 3, 4, 3])])
def test_every_network_of_a_run_has_it_and_learns(variant, neurons):
    config = build_config("crelu", {"variant": variant}).networks(conv=[[4, 4, 2], [6, 3, 1]])
    learner = build_learner_of(config, IMAGES, CHOICES)
    before = parameters(learner)
    for k in range(3):
        update(learner, game_transitions(k))
    for net in (*learner.agent.networks.values(), *learner.agent.targets.values()):
        assert net.activation is crelu and net.num_neurons() == neurons
    assert all(not torch.equal(value, before[name]) for name, value in parameters(learner).items())


def test_the_update_is_plain_sacs():
    ours = build_learner("crelu")
    plain = build_learner_of(build_config("sac").networks(activation="crelu"))
    for learner in (ours, plain):
        train(learner, range(5))
    assert_same(parameters(ours), parameters(plain))


# A neuron with two features is one neuron


def test_scoring_counts_a_neuron_once_by_its_z():
    learner = build_learner("crelu")
    rows = transitions(0, 50)
    labels = rows["obs"][:, 0] > 0.0
    chunk = {"obs": rows["obs"], "actions": rows["actions"], "labels": labels}
    scores = learner.score_neurons([chunk], None, float(labels.mean()))
    assert {name: [len(s.score) for s in layers] for name, layers in scores.layers.items()} == {
        name: list(HIDDEN) for name in NETWORKS
    }
    first = learner.agent.networks["policy"].hidden[0]
    z = rows["obs"] @ first.weight.detach().numpy().T + first.bias.detach().numpy()
    agreement = ((z > z.mean(0)) == labels[:, None]).mean(0)
    np.testing.assert_allclose(scores.layers["policy"][0].accuracy.numpy(), agreement, atol=1e-6)


def test_masking_outgoing_weights_masks_both_columns_of_a_neuron():
    config = build_config("nbsp", {"mask_side": "out", "mask_alpha": 0.0}).networks(activation="crelu")
    learner = build_learner_of(config)
    end_visit(learner, 1, random_scores(3))
    before = {name: [w.clone() for w in weights_of(net)] for name, net in learner.agent.networks.items()}
    train(learner, range(20))
    for name, net in learner.agent.networks.items():
        masks = learner.method.masks[name]
        assert any(bool((mask == 0.0).any()) for mask in masks)
        for mask, old, new in zip(masks, before[name][1:], weights_of(net)[1:], strict=True):
            positive, negative = (new != old).any(0).chunk(2)
            assert torch.equal(positive | negative, mask > 0.0)


def weights_of(net: Network) -> list[Tensor]:
    return [layer.weight.detach() for layer in net.layers()]


# Settings


def test_odd_widths_cannot_be_halved():
    config = build_config("crelu", {"variant": "half"}, hidden=(8, 7)).networks(conv=[[3, 4, 2]])
    assert check_run(config.settings) == [
        "model.hidden is [8, 7]; variant 'half' needs even widths",
        "model.conv is [[3, 4, 2]]; variant 'half' needs even numbers of channels",
    ]
    assert check_run(build_config("crelu", hidden=(8, 7)).settings) == []


def test_another_activation_is_refused():
    assert check_run(build_config("crelu").networks(activation="tanh").settings) == [
        "model.activation is 'tanh'; method 'crelu' sets it: leave it out, or write 'crelu'"
    ]
    settings = build_config("crelu").networks(activation="crelu").settings
    assert check_run(settings) == [] and ResolvedRun(settings).model.activation == "crelu"


def test_actions_are_shaped_as_ever():
    learner = build_learner("crelu")
    obs = torch.from_numpy(transitions(0, 5)["obs"])
    assert learner.sac.module.act(obs, explore=False).shape == (5, ACT)
