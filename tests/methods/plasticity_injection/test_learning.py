"""What learns after an injection: the encoder and the new head, its targets, its Adam."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from rllib_nbsp.methods.plasticity_injection import FrozenHead, PlasticityInjectionSettings
from rllib_nbsp.nn.networks import NETWORKS, Network
from tests.methods.plasticity_injection.learners import EVERY_BOUNDARY, inputs_of, start, sum_of_heads, trained
from tests.tiny import (
    HIDDEN,
    assert_same,
    build_config,
    build_learner,
    build_learner_of,
    parameters,
    train,
    transitions,
    update,
)


def test_the_number_of_trained_weights_never_changes():
    learner = trained(EVERY_BOUNDARY)
    plain = build_learner("sac").agent.networks

    def shapes(net: Network) -> list[torch.Size]:
        return [p.shape for p in net.parameters()]

    before = {name: list(net.parameters()) for name, net in learner.agent.networks.items()}
    state = {name: value.shape for name, value in learner.weights().items()}
    start(learner, 2)
    start(learner, 3)
    for name, net in learner.agent.networks.items():
        assert shapes(net) == shapes(plain[name])
        assert all(a is b for a, b in zip(net.parameters(), before[name], strict=True))
        assert all(p.requires_grad for p in net.parameters())
    assert {name: value.shape for name, value in learner.weights().items()} == state


@pytest.mark.parametrize("split", [0, 1])
def test_only_the_encoder_and_the_new_head_learn(split):
    learner = trained({"split": split})
    start(learner)
    before = parameters(learner)
    for seed in range(1, 4):
        update(learner, transitions(seed))
    for name, value in parameters(learner).items():
        if name.startswith(NETWORKS):
            frozen = ".learned." in name or ".twins." in name or name.endswith(".injections")
            assert torch.equal(value, before[name]) == frozen, name


def test_the_new_head_is_drawn_anew_and_the_twin_is_its_copy():
    learner = trained({"split": 1})
    encoder = {name: net.hidden[0].weight.clone() for name, net in learner.agent.networks.items()}
    old = {name: net.hidden[1].weight.clone() for name, net in learner.agent.networks.items()}
    start(learner)
    for name, net in learner.agent.networks.items():
        assert torch.equal(net.hidden[0].weight, encoder[name])
        assert torch.equal(net.learned[0][0].weight, old[name])
        for fresh, twin in zip(net.trained_head(), net.twins[0], strict=True):
            assert torch.equal(fresh.weight, twin.weight) and torch.equal(fresh.bias, twin.bias)
            assert float(fresh.weight.detach().abs().max()) <= fresh.weight.shape[1] ** -0.5
        assert not (net.hidden[1].weight == old[name]).any()


def test_the_new_head_is_drawn_as_the_runs_networks_began():
    learner = build_learner_of(build_config("plasticity_injection").networks(init="kaiming_normal"))
    same_draws = torch.Generator()
    same_draws.set_state(learner.agent.generator.get_state())
    start(learner)
    for net in learner.agent.networks.values():
        for layer in net.trained_head():
            expected = torch.nn.init.kaiming_normal_(torch.empty_like(layer.weight), generator=same_draws)
            assert torch.equal(layer.weight, expected)
            assert not layer.bias.any()


def test_gradients_reach_the_encoder_through_all_three_heads():
    learner = trained({"split": 1})
    start(learner)
    train(learner, range(5, 10))
    for name, net in learner.agent.networks.items():
        x = inputs_of(name)
        net.zero_grad()
        net(x).square().sum().backward()
        encoder = list(net.hidden[0].parameters())
        expected = torch.autograd.grad(sum_of_heads(net, x).square().sum(), encoder)
        alone = torch.autograd.grad(Network.forward(net, x).square().sum(), encoder)
        for param, gradient, other in zip(encoder, expected, alone, strict=True):
            assert torch.allclose(param.grad, gradient, rtol=1e-4, atol=1e-6)
            assert not torch.allclose(param.grad, other, rtol=1e-2)


def test_a_frozen_pass_gives_inputs_their_gradient_and_no_weight_any():
    learner = trained()
    start(learner)
    train(learner, range(5, 8))
    net = learner.agent.networks["qf"]
    free, frozen = inputs_of("qf").requires_grad_(), inputs_of("qf").requires_grad_()
    net.zero_grad()
    out = net(frozen, frozen=True)
    out.sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(out, net(free))
    net(free).sum().backward()
    assert torch.equal(free.grad, frozen.grad)


def test_records_hold_the_encoder_and_the_trained_head():
    learner = trained({"split": 1})
    start(learner)
    net, record = learner.agent.networks["policy"], []
    x = inputs_of("policy")
    assert torch.equal(net(x, record=record), net(x))
    assert [h.shape[1] for h in record] == net.num_neurons() == list(HIDDEN)
    first = torch.relu(F.linear(x, net.hidden[0].weight, net.hidden[0].bias))
    assert torch.equal(record[0], first)
    assert torch.equal(record[1], torch.relu(F.linear(first, net.hidden[1].weight, net.hidden[1].bias)))


def test_before_the_first_injection_it_is_sac_and_runs_no_frozen_head(monkeypatch):
    def refuse(*_: Any) -> None:
        raise AssertionError("a frozen head was run")

    monkeypatch.setattr(FrozenHead, "forward", refuse)
    ours, plain = trained(), build_learner("sac")
    train(plain, range(5))
    learned = parameters(ours)
    assert_same({name: learned[name] for name in parameters(plain)}, parameters(plain))
    start(ours)
    with pytest.raises(AssertionError, match="a frozen head was run"):
        train(ours, range(5, 6))


# Targets


def test_targets_get_the_same_new_head_and_keep_their_own_old_one():
    learner = trained()
    own = {name: net.head.weight.clone() for name, net in learner.agent.targets.items()}
    start(learner)
    for name, target in learner.agent.targets.items():
        online = learner.agent.networks[name]
        assert torch.equal(target.learned[0][-1].weight, own[name])
        assert not torch.equal(target.learned[0][-1].weight, online.learned[0][-1].weight)
        for a, b, twin in zip(target.trained_head(), online.trained_head(), target.twins[0], strict=True):
            assert torch.equal(a.weight, b.weight) and torch.equal(a.weight, twin.weight)
    assert not torch.equal(*[learner.agent.networks[name].head.weight for name in ("qf", "qf_twin")])


def test_targets_follow_in_the_frozen_head_too():
    learner = trained(training={"tau": 0.25})
    start(learner)
    before = parameters(learner)
    train(learner, range(5, 6))
    after = parameters(learner)
    followed = 0
    for name, value in after.items():
        if name.startswith("target_") and ".learned.0" in name:
            online = before[name.removeprefix("target_")]
            assert torch.allclose(value, 0.75 * before[name] + 0.25 * online, atol=1e-7)
            followed += int(not torch.equal(value, before[name]))
        elif name.startswith("target_") and (".twins.0" in name or name.endswith(".injections")):
            assert torch.equal(value, before[name])
    assert followed == 2 * 2 * (len(HIDDEN) + 1)


# Adam


def test_the_new_heads_start_with_fresh_adam_and_the_rest_goes_on():
    learner = trained({"split": 1})
    start(learner)
    train(learner, range(5, 8))
    steps = {
        name: [float(learner.agent.optimizers[name].state[p]["step"]) for p in net.parameters()]
        for name, net in learner.agent.networks.items()
    }
    assert steps == {name: [8.0, 8.0, 3.0, 3.0, 3.0, 3.0] for name in NETWORKS}
    assert float(learner.agent.optimizers["alpha"].state[learner.agent.log_alpha]["step"]) == 8.0
    start(learner, 3)  # the next boundary injects nothing
    train(learner, range(8, 9))
    state = learner.agent.optimizers["qf"].state
    assert [float(state[p]["step"]) for p in learner.agent.networks["qf"].parameters()] == [9.0] * 2 + [4.0] * 4


def test_the_first_step_of_a_new_head_is_adams_first():
    learner = trained({"networks": "critic"}, training={"critic_lr": 1e-3})
    start(learner)
    before = parameters(learner)
    train(learner, range(5, 6))
    # Adam's first step is the learning rate times the gradient's sign, where the gradient is far above its epsilon.
    moved = (parameters(learner)["qf.head.bias"] - before["qf.head.bias"]).abs()
    assert torch.allclose(moved, torch.full_like(moved, 1e-3), rtol=1e-3)


def test_keeping_the_optimizer_is_an_exception_that_can_be_switched_off():
    exceptions = build_learner("plasticity_injection").method.boundary_exceptions
    assert exceptions(PlasticityInjectionSettings()) == {"reset_optimizer": False}
    assert exceptions(PlasticityInjectionSettings(keep_optimizer=False)) == {}
