"""Plasticity injection: what an injection must not change, what learns after it, and what travels with the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor
from torch.distributions import Normal

from rllib_nbsp.checks import check_run
from rllib_nbsp.methods.plasticity_injection import (
    FrozenHead,
    InjectableNetwork,
    PlasticityInjectionSettings,
    injection_visits,
)
from rllib_nbsp.nn.losses import squashed_gaussian
from rllib_nbsp.nn.networks import NETWORKS, Network
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import BoundarySettings
from tests.tiny import (
    ACT,
    ACTIONS,
    CHOICES,
    HIDDEN,
    IMAGES,
    OBS,
    OBSERVATIONS,
    assert_same,
    build_config,
    build_learner,
    build_learner_of,
    game_transitions,
    parameters,
    train,
    transitions,
    update,
    visit,
)

EVERY_BOUNDARY = {"schedule": "boundary", "max_injections": 3}
CONV = [[4, 4, 2], [5, 3, 1]]


def trained(keys: Mapping[str, Any] | None = None, **sections: Any) -> ContinualSACTorchLearner:
    """A Learner after its first visit."""
    learner = build_learner("plasticity_injection", keys, **sections)
    train(learner, range(5))
    return learner


def trained_on_images(keys: Mapping[str, Any] | None = None) -> ContinualSACTorchLearner:
    learner = build_learner_of(build_config("plasticity_injection", keys).networks(conv=CONV), IMAGES, CHOICES)
    for k in range(3):
        update(learner, game_transitions(k))
    return learner


def start(learner: ContinualSACTorchLearner, number: int = 2) -> None:
    """A boundary, at which the method may inject."""
    exceptions = learner.method.boundary_exceptions(learner.method.config)
    learner.boundary_reset(BoundarySettings(**exceptions))
    learner.visit_start(visit(number), None)


def all_networks(learner: ContinualSACTorchLearner) -> dict[str, InjectableNetwork]:
    networks = [*learner.agent.networks.items(), *((f"target_{name}", n) for name, n in learner.agent.targets.items())]
    return {name: net for name, net in networks if isinstance(net, InjectableNetwork)}


def inputs_of(name: str, rows: int = 9) -> Tensor:
    return torch.randn(rows, OBS if name == "policy" else OBS + ACT, generator=torch.Generator().manual_seed(5))


def images(rows: int = 9) -> Tensor:
    return torch.from_numpy(game_transitions(5, rows)["obs"])


# Functions that stay what they are


@pytest.mark.parametrize("split", [0, 1, 2])
def test_no_output_changes_by_a_bit(split):
    learner = trained({"split": split})
    before = {name: net(inputs_of(name)) for name, net in all_networks(learner).items()}
    weights = copy.deepcopy(learner.agent.networks["policy"].head.weight)
    start(learner)
    assert not torch.equal(learner.agent.networks["policy"].head.weight, weights)
    for name, net in all_networks(learner).items():
        assert net.active == 1
        assert torch.equal(net(inputs_of(name)), before[name])


def test_no_output_changes_by_a_bit_on_images():
    learner = trained_on_images()
    before = {name: net(images()) for name, net in all_networks(learner).items()}
    start(learner)
    for name, net in all_networks(learner).items():
        assert net.active == 1 and net.first == 2
        assert torch.equal(net(images()), before[name])


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_values_targets_and_log_probabilities_of_an_update_stay(kind):
    learner, rows = (trained(), transitions(3)) if kind == "continuous" else (trained_on_images(), game_transitions(3))
    columns = {name: torch.from_numpy(column) for name, column in rows.items()}

    def quantities() -> dict[str, Tensor]:
        learner.sac.module.set_noise_state(None, torch.device("cpu"))
        return learner.sac.module.forward_train(columns)

    before = quantities()
    start(learner)
    after = quantities()
    assert before.keys() >= {"logp", "q", "q_twin", "q_policy", "next_q", "next_logp"}
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


def test_the_log_probability_of_a_given_action_stays():
    learner = trained()
    u = torch.linspace(-1.0, 1.0, 9 * ACT).reshape(9, ACT)

    def log_prob() -> Tensor:
        mean, log_std = squashed_gaussian(learner.agent.networks["policy"](inputs_of("policy")))
        return (Normal(mean, log_std.exp()).log_prob(u) - torch.log(1.0 - torch.tanh(u) ** 2)).sum(-1)

    before = log_prob()
    start(learner)
    assert torch.equal(log_prob(), before)


@pytest.mark.parametrize("split", [0, 1])
def test_three_injections_change_no_output_either_and_five_and_seven_heads_add_up(split):
    learner = trained({**EVERY_BOUNDARY, "split": split})
    for number in (2, 3, 4):
        before = {name: net(inputs_of(name)) for name, net in all_networks(learner).items()}
        start(learner, number)
        for name, net in all_networks(learner).items():
            assert net.active == number - 1
            assert torch.equal(net(inputs_of(name)), before[name])
        train(learner, range(10 * number, 10 * number + 5))
        for name, net in all_networks(learner).items():
            assert torch.allclose(net(inputs_of(name)), sum_of_heads(net, inputs_of(name)), atol=1e-6)


def sum_of_heads(net: InjectableNetwork, x: Tensor) -> Tensor:
    """`h_theta + sum_k (h_k - its twin)`, without the package's forward pass."""
    layers = [(layer.weight, layer.bias) for layer in net.layers()]
    for weight, bias in layers[: net.first]:
        x = torch.relu(x @ weight.T + bias)

    def head(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        y = x
        for weight, bias in parts[:-1]:
            y = torch.relu(y @ weight.T + bias)
        return y @ parts[-1][0].T + parts[-1][1]

    def frozen(reserve: Any) -> Tensor:
        return head([(layer.weight, layer.bias) for layer in reserve])

    kept = [frozen(reserve) for reserve in net.learned[: net.active]]
    twins = [frozen(reserve) for reserve in net.twins[: net.active]]
    return sum([*kept, head(layers[net.first :])], start=torch.zeros(())) - sum(twins, start=torch.zeros(()))


def test_with_crelu_the_encoder_hands_on_both_features():
    config = build_config("plasticity_injection", {"split": 1}).networks(activation="crelu")
    learner = build_learner_of(config)
    train(learner, range(3))
    before = {name: net(inputs_of(name)) for name, net in all_networks(learner).items()}
    start(learner)
    assert all(torch.equal(net(inputs_of(name)), before[name]) for name, net in all_networks(learner).items())
    train(learner, range(3, 6))


# What learns


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


# What travels with the weights


@pytest.mark.parametrize("schedule", [{}, EVERY_BOUNDARY])
def test_state_round_trip_in_the_middle_of_a_visit(schedule):
    learner, other = trained(schedule), build_learner("plasticity_injection", schedule, seed=7)
    start(learner)
    train(learner, range(5, 8))
    other.set_state(copy.deepcopy(learner.get_state()))
    assert all(net.active == 1 for net in all_networks(other).values())
    for one in (learner, other):
        train(one, range(8, 11))
        start(one, 3)
        train(one, range(11, 14))
    assert_same(parameters(other), parameters(learner))
    assert {net.active for net in all_networks(other).values()} == {2 if schedule else 1}


def test_a_snapshot_from_before_an_injection_takes_it_back():
    learner = trained()
    snapshot, before = learner.agent.snapshot(), parameters(learner)
    start(learner)
    train(learner, range(5, 8))
    learner.agent.restore(snapshot)
    assert all(net.active == 0 for net in all_networks(learner).values())
    assert_same(parameters(learner), before)


def test_rollout_workers_act_with_all_heads():
    learner = trained()
    config = build_config("plasticity_injection", seed=3)
    spec = config.get_rl_module_spec(spaces={DEFAULT_MODULE_ID: (OBSERVATIONS, ACTIONS)}, inference_only=True)
    worker = spec.build()
    obs = inputs_of("policy")
    start(learner)
    train(learner, range(5, 10))
    worker.set_state(learner.module[DEFAULT_MODULE_ID].get_state(inference_only=True))
    assert worker.policy.active == 1
    assert torch.equal(worker.act(obs, explore=False), learner.sac.module.act(obs, explore=False))
    assert not torch.equal(worker.policy(obs), Network.forward(worker.policy, obs))


# Which and when


@pytest.mark.parametrize(
    ("keys", "visits", "expected"),
    [
        ({}, 4, [2]),
        ({"schedule": "once_mid"}, 2, [2]),
        ({"schedule": "once_mid"}, 4, [3]),  # two of four visits are over
        ({"schedule": "once_mid"}, 8, [5]),
        ({"schedule": "boundary", "max_injections": 2}, 4, [2, 3]),
        ({"schedule": "boundary", "max_injections": 9}, 4, [2, 3, 4]),
        ({}, 1, []),
        ({"schedule": "once_mid"}, 1, []),
    ],
)
def test_visits_that_begin_with_an_injection(keys, visits, expected):
    config = PlasticityInjectionSettings(**keys)
    assert injection_visits(config, "policy", visits) == injection_visits(config, "qf", visits) == expected


def test_once_mid_injects_when_the_second_half_begins():
    learner = trained({"schedule": "once_mid"})  # of four visits
    for number, injections in ((1, 0.0), (2, 0.0), (3, 1.0), (4, 1.0)):
        start(learner, number)
        assert learner.method.metrics() == {"injections": injections}


def test_the_actor_may_be_left_alone():
    learner = trained({"networks": "critic"})
    before = parameters(learner)
    start(learner)
    assert [net.active for net in learner.agent.networks.values()] == [0, 1, 1]
    for name, value in parameters(learner).items():
        if name.startswith("policy"):
            assert torch.equal(value, before[name])
    assert not any("learned" in name for name in before if name.startswith("policy"))
    assert learner.method.metrics() == {"injections": 1.0}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"max_injections": 2}, "max_injections is 2; schedule 'first_boundary' injects once"),
        ({"schedule": "boundary"}, "max_injections is 1, with which schedule 'boundary' stops at the first one"),
        ({"split": 3}, "split is 3; with 2 hidden layers it must be at most 2"),
    ],
)
def test_keys_that_make_no_sense_together_are_refused(keys, message):
    (error,) = check_run(build_config("plasticity_injection", keys).settings)
    assert error.startswith(message)


def test_a_run_of_one_visit_is_refused():
    config = build_config("plasticity_injection").curriculum(tasks=["reach-left"], cycles=1)
    (error,) = check_run(config.settings)
    assert error.startswith("schedule is 'first_boundary'; a run of one visit is never injected")


def test_everything_is_finite_after_three_injections_on_images():
    learner = trained_on_images(EVERY_BOUNDARY)
    for number in (2, 3, 4):
        start(learner, number)
        for k in range(3):
            update(learner, game_transitions(10 * number + k))
    assert all(np.isfinite(value).all() for value in learner.weights().values())
