"""PackNet: which weights a visit keeps, that they never move again, and what each task is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_nbsp.checks import check_run
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.methods.packnet import PackedNetwork
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import BoundarySettings
from tests.tiny import (
    ACTIONS,
    CHOICES,
    IMAGES,
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

KEYS: dict[str, Any] = {"retrain_updates": 10}


def learner_with(keys: dict[str, Any] | None = None, **sections: Any) -> ContinualSACTorchLearner:
    return build_learner("packnet", {**KEYS, **(keys or {})}, **sections)


def on_images() -> ContinualSACTorchLearner:
    return build_learner_of(build_config("packnet", KEYS).networks(conv=[[6, 4, 2], [5, 3, 1]]), IMAGES, CHOICES)


def rows(learner: ContinualSACTorchLearner, seed: int, task: int = 0) -> dict[str, np.ndarray]:
    columns = game_transitions(seed) if learner.agent.discrete else transitions(seed)
    return {**columns, "task": np.full(len(columns["rewards"]), task, np.int64)}


def play(learner: ContinualSACTorchLearner, number: int, updates: int = 30, reset_optimizer: bool = True) -> None:
    """A whole visit and its boundary."""
    this = visit(number)
    learner.visit_start(this, VisitData(visit(number - 1)) if number > 1 else None)
    for phase in learner.method.phases(learner.method.config, this):
        learner.phase_start(this, phase)
        for k in range(updates if phase.collect else phase.updates):
            update(learner, rows(learner, 100 * number + k, this.task.index))
        learner.phase_end(this, phase, VisitData(this))
    learner.visit_end(this, VisitData(this))
    learner.boundary_reset(BoundarySettings(reset_optimizer=reset_optimizer))


def start(learner: ContinualSACTorchLearner, number: int) -> None:
    learner.visit_start(visit(number), VisitData(visit(number - 1)) if number > 1 else None)


def close(learner: ContinualSACTorchLearner, number: int) -> None:
    """The end of the phase that collects: pruning."""
    phase = learner.method.phases(learner.method.config, visit(number))[0]
    learner.phase_end(visit(number), phase, VisitData(visit(number)))


def outputs(learner: ContinualSACTorchLearner, task: int | None) -> Tensor:
    with torch.no_grad():
        return learner.agent.networks["policy"](torch.from_numpy(rows(learner, 9)["obs"]), task=task)


def packed(conv: tuple[Any, ...] = (), activation: str = "relu") -> PackedNetwork:
    """A network whose weights three visits share; task 0 was visited first, task 1 third."""
    generator = torch.Generator().manual_seed(0)
    net = PackedNetwork(
        (2, 9, 9) if conv else (3,), (5, 4), 2, tasks=2, activation=activation, conv=conv, generator=generator
    )
    for owner in net.owners():
        owner.copy_(torch.randint(1, 4, owner.shape, generator=generator))
    net.limit_of.copy_(torch.tensor([1, 2, 3]))
    return net


# What a task is shown


@pytest.mark.parametrize("activation", ["relu", "tanh", "crelu"])
@pytest.mark.parametrize("conv", [(), ((4, 3, 2), (3, 2, 1))])
def test_a_task_sees_the_weights_of_its_latest_visit_and_those_before(conv, activation):
    net = packed(conv, activation)
    x = torch.randn(6, *((2, 9, 9) if conv else (3,)), generator=torch.Generator().manual_seed(1))
    for task, limit in ((0, 1), (1, 2), (None, 3)):
        zeroed = packed(conv, activation)
        with torch.no_grad():
            for layer, owner in zip(zeroed.layers(), zeroed.owners(), strict=True):
                layer.weight[owner > limit] = 0.0
        ours: list[Tensor] = []
        theirs: list[Tensor] = []
        assert torch.allclose(net(x, task=task, record=ours), zeroed(x, record=theirs), atol=1e-6)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))
    assert not torch.allclose(net(x, task=0), net(x, task=1), atol=1e-3)


@pytest.mark.parametrize("conv", [(), ((4, 3, 2), (3, 2, 1))])
def test_a_pass_grouped_by_task_is_each_rows_own_pass(conv):
    net = packed(conv)
    net.limit_of.copy_(torch.tensor([1, 2, 2]))
    x = torch.randn(8, *((2, 9, 9) if conv else (3,)), generator=torch.Generator().manual_seed(1))
    task = torch.tensor([1, 0, 0, 1, 0, 1, 1, 0])
    record: list[Tensor] = []
    together = net(x, task=task, record=record)
    singles: list[list[Tensor]] = [[] for _ in range(8)]
    alone = [net(x[i : i + 1], task=int(task[i]), record=singles[i]) for i in range(8)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)
    for hidden, parts in zip(record, zip(*singles, strict=True), strict=True):
        assert torch.allclose(hidden, torch.cat(parts), atol=1e-6)
    assert not torch.allclose(together, net(x, task=0), atol=1e-3)


def test_gradients_reach_the_visible_weights_alone_and_none_in_a_frozen_pass():
    net, x = packed(activation="tanh"), torch.randn(4, 3, requires_grad=True)
    net(x, task=1, frozen=True).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in net.parameters())
    net(x, task=1).square().sum().backward()
    for layer, owner in zip(net.layers(), net.owners(), strict=True):
        assert bool((layer.weight.grad[owner == 3] == 0.0).all())
        assert bool((layer.weight.grad[owner < 3] != 0.0).any())


def test_tasks_that_were_never_visited_see_everything():
    learner = learner_with()
    limits = learner.agent.networks["policy"].limit_of
    seen = []
    for number in (1, 2, 3):
        start(learner, number)
        seen.append(limits.tolist())
    assert seen == [[1, 1, 1], [1, 2, 2], [3, 2, 3]]


# Pruning


def test_each_visit_keeps_an_equal_share_of_each_layer():
    learner = learner_with()
    for number in (1, 2, 3, 4):
        start(learner, number)
        close(learner, number)
    for owner in learner.agent.networks["policy"].owners():
        counts = [int((owner == number).sum()) for number in (1, 2, 3, 4)]
        # 24, 48 and 24 weights; each step rounds what is freed down.
        assert sum(counts) == owner.numel()
        assert max(counts) - min(counts) <= 1
    assert [o.numel() for o in learner.agent.networks["policy"].owners()] == [24, 48, 24]


def test_the_smallest_weights_are_freed_and_set_to_0():
    learner = learner_with()
    policy = learner.agent.networks["policy"]
    start(learner, 1)
    with torch.no_grad():  # 24 weights in a known order: 1, -2, 3, -4, ...
        values = torch.arange(1.0, 25.0) * torch.tensor([1.0, -1.0]).repeat(12)
        order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
        policy.hidden[0].weight.copy_(values[order].reshape(8, 3))
    close(learner, 1)
    # Three visits follow: of four shares of 6, the largest 6 stay.
    expected = torch.where(values.abs() > 18.0, values, 0.0)[order].reshape(8, 3)
    assert torch.equal(policy.hidden[0].weight, expected)
    assert torch.equal(policy.owners()[0], torch.where(expected != 0.0, 1, 2).to(torch.uint8))
    start(learner, 2)
    with torch.no_grad():
        free = (policy.owners()[0] == 2).nonzero()
        for i, (a, b) in enumerate(free):
            policy.hidden[0].weight[a, b] = 0.01 * (i + 1)
    before = policy.hidden[0].weight.detach().clone()
    close(learner, 2)
    # Of visit 2's 18 weights, 12 are handed on, however small they are beside those of visit 1.
    assert torch.equal(policy.owners()[0] == 1, expected != 0.0)
    assert torch.equal(policy.hidden[0].weight, torch.where((before < 0.125) & (before > 0.0), 0.0, before))
    assert int((policy.owners()[0] == 3).sum()) == 12


def test_retraining_moves_the_kept_weights_alone():
    learner = learner_with()
    policy = learner.agent.networks["policy"]
    start(learner, 1)
    train(learner, range(5))
    close(learner, 1)
    assert not any(optimizer.state for optimizer in learner.agent.optimizers.values())
    before = parameters(learner)
    learner.phase_start(visit(1), learner.method.phases(learner.method.config, visit(1))[1])
    train(learner, range(5, 15))
    now = parameters(learner)
    for i, (name, owner) in enumerate(zip(("hidden.0", "hidden.1", "head"), policy.owners(), strict=True)):
        weight, old = now[f"policy.{name}.weight"], before[f"policy.{name}.weight"]
        assert bool((weight[owner == 2] == 0.0).all()), i
        assert not torch.equal(weight[owner == 1], old[owner == 1])
        assert torch.equal(now[f"policy.{name}.bias"], before[f"policy.{name}.bias"])
    assert not torch.equal(now["qf.hidden.0.weight"], before["qf.hidden.0.weight"])


def test_the_last_visit_neither_prunes_nor_retrains():
    learner = learner_with()
    config = learner.method.config
    names = [[phase.name for phase in learner.method.phases(config, visit(number))] for number in (1, 2, 3, 4)]
    assert names == [["train", "retrain"]] * 3 + [["train"]]
    for number in (1, 2, 3):
        play(learner, number, updates=2)
    start(learner, 4)
    train(learner, range(5))
    before = parameters(learner)
    close(learner, 4)
    assert_same(parameters(learner), before)
    assert learner.agent.optimizers["policy"].state


def test_without_retraining_there_is_one_phase_and_still_a_pruning():
    learner = learner_with({"retrain_updates": 0})
    assert [p.name for p in learner.method.phases(learner.method.config, visit(1))] == ["train"]
    play(learner, 1, updates=2)
    assert all(bool((owner == 2).any()) for owner in learner.agent.networks["policy"].owners())


# What never moves again


def test_the_first_visit_is_sac_until_its_pruning():
    ours, plain = learner_with(), build_learner("sac")
    start(ours, 1)
    for learner in (ours, plain):
        train(learner, range(8))
    theirs = parameters(plain)
    assert_same({name: value for name, value in parameters(ours).items() if name in theirs}, theirs)


@pytest.mark.parametrize("build", [learner_with, on_images])
@pytest.mark.parametrize("reset_optimizer", [True, False])
def test_owned_weights_and_what_an_earlier_task_does_are_bit_constant_under_a_warm_adam(build, reset_optimizer):
    learner = build()
    policy = learner.agent.networks["policy"]
    play(learner, 1, reset_optimizer=reset_optimizer)
    owned = [owner == 1 for owner in policy.owners()]
    weights = [layer.weight.detach().clone() for layer in policy.layers()]
    biases = [layer.bias.detach().clone() for layer in policy.layers()]
    first, acted = (
        outputs(learner, 0),
        learner.sac.module.act(torch.from_numpy(rows(learner, 9)["obs"]), explore=False, task=0),
    )
    play(learner, 2, updates=60, reset_optimizer=reset_optimizer)
    assert torch.equal(outputs(learner, 0), first)
    assert not torch.equal(outputs(learner, 1), first)
    second = outputs(learner, 1)
    for number in (3, 4):  # task 0 gets weights of its own again, then task 1
        play(learner, number, updates=60, reset_optimizer=reset_optimizer)
        assert all(
            torch.equal(layer.weight[mask], weight[mask])
            for layer, mask, weight in zip(policy.layers(), owned, weights, strict=True)
        )
        assert all(torch.equal(layer.bias, bias) for layer, bias in zip(policy.layers(), biases, strict=True))
        if number == 3:
            assert torch.equal(outputs(learner, 1), second)
            assert not torch.equal(outputs(learner, 0), first)
    policy.limit_of[0] = 1
    again = learner.sac.module.act(torch.from_numpy(rows(learner, 9)["obs"]), explore=False, task=0)
    assert torch.equal(outputs(learner, 0), first) and torch.equal(again, acted)


def test_free_weights_start_at_0_and_learn_while_critics_are_never_packed():
    learner = learner_with()
    policy = learner.agent.networks["policy"]
    play(learner, 1)
    free = [owner == 2 for owner in policy.owners()]
    assert all(bool((layer.weight[mask] == 0.0).all()) for layer, mask in zip(policy.layers(), free, strict=True))
    critic = {name: value.clone() for name, value in learner.agent.networks["qf"].state_dict().items()}
    start(learner, 2)
    for k in range(30):
        update(learner, rows(learner, k, 1))
    for layer, mask in zip(policy.layers(), free, strict=True):
        assert bool((layer.weight[mask] != 0.0).any())
    assert all(
        not torch.equal(value, critic[name]) for name, value in learner.agent.networks["qf"].state_dict().items()
    )


def test_replayed_rows_of_earlier_tasks_move_nothing_that_these_own():
    learner = learner_with({"with_replay": True})
    play(learner, 1)
    first = outputs(learner, 0)
    start(learner, 2)
    for k in range(20):
        update(learner, {**transitions(k), "task": np.arange(16) % 2})
    assert torch.equal(outputs(learner, 0), first)


def test_owners_travel_with_the_weights():
    learner = learner_with()
    play(learner, 1)
    start(learner, 2)
    for k in range(10):
        update(learner, rows(learner, k, 1))
    config = build_config("packnet", KEYS, seed=7)
    spec = config.get_default_rl_module_spec()
    spec.observation_space, spec.action_space, spec.inference_only = OBSERVATIONS, ACTIONS, True
    spec.model_config = config._model_config_auto_includes
    worker = spec.build()
    worker.set_state(learner.sac.module.get_state(inference_only=True))
    obs = torch.from_numpy(transitions(3)["obs"])
    for task in (0, 1, torch.arange(len(obs)) % 2):
        assert torch.equal(
            worker.act(obs, explore=False, task=task), learner.sac.module.act(obs, explore=False, task=task)
        )
    assert not torch.equal(worker.act(obs, explore=False, task=0), worker.act(obs, explore=False, task=1))


# Records and configuration


def test_the_masked_share_is_what_the_visit_may_not_move():
    learner = learner_with()
    start(learner, 1)
    assert learner.method.metrics() == {"masked_frac": 0.0}
    close(learner, 1)
    assert learner.method.metrics() == {"masked_frac": 0.75}  # in retraining: what was freed
    start(learner, 2)
    assert learner.method.metrics() == {"masked_frac": 0.25}


def test_continual_worlds_clip_is_one_key_away():
    assert ResolvedRun(build_config("packnet").settings).training.grad_clip is None
    assert ResolvedRun(build_config("packnet", training={"grad_clip": 1.0}).settings).training.grad_clip == 1.0
    assert ResolvedRun(build_config("packnet", {"grad_clip": 2e-5}).settings).training.grad_clip == 2e-5


def test_more_visits_than_owners_can_be_told_apart_are_refused():
    assert check_run(build_config("packnet").curriculum(cycles=127).settings) == []
    [error] = check_run(build_config("packnet").curriculum(cycles=128).settings)
    assert error.startswith("cycles is 128") and "255" in error
