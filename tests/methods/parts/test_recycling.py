"""What CBP and ReDo share: a neuron that starts afresh, and an optimizer that forgets it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rllib_nbsp.methods.parts.recycling import Init, Recycler, YoungEntries
from rllib_nbsp.nn.networks import INITS, Network, activities
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import BoundarySettings
from tests.tiny import (
    ACT,
    CHOICES,
    IMAGES,
    OBS,
    assert_same,
    build_config,
    build_learner,
    build_learner_of,
    game_transitions,
    parameters,
    train,
    update,
    visit,
)

CONV = [[3, 4, 2], [2, 3, 1]]


def neurons(*layers: list[int]) -> list[Tensor]:
    return [torch.tensor(layer, dtype=torch.int64) for layer in layers]


def trained_learner() -> ContinualSACTorchLearner:
    learner = build_learner()
    train(learner, range(5))
    return learner


def trained_on_images() -> ContinualSACTorchLearner:
    learner = build_learner_of(build_config().networks(conv=CONV), IMAGES, CHOICES)
    for k in range(3):
        update(learner, game_transitions(k))
    return learner


def adam(learner: ContinualSACTorchLearner, name: str, param: Tensor) -> dict[str, Any]:
    return learner.agent.optimizers[name].state[param]


# Weights


def test_a_recycled_neuron_is_silent_in_both_halves_of_the_actors_head():
    learner = trained_learner()
    policy = learner.agent.networks["policy"]
    Recycler(learner.agent).recycle("policy", neurons([], [1, 4]))
    assert policy.head.weight.shape == (2 * ACT, 6)  # mean and log standard deviation
    assert (policy.head.weight == 0.0).all(0).tolist() == [False, True, False, False, True, False]


def test_its_incoming_weights_are_new_and_within_the_bound_and_its_bias_is_zero():
    learner = trained_learner()
    layer = learner.agent.networks["qf"].hidden[0]
    before = layer.weight.detach().clone()
    Recycler(learner.agent).recycle("qf", neurons([2, 5], []))
    assert (layer.weight != before).all(1).nonzero().flatten().tolist() == [2, 5]
    assert float(layer.weight.detach()[[2, 5]].abs().max()) <= 1.0 / math.sqrt(OBS + ACT)
    assert layer.bias[[2, 5]].tolist() == [0.0, 0.0]


def all_new(init: Init, network_init: str) -> tuple[Tensor, torch.Generator]:
    """A layer's weights when all its neurons are recycled, and a generator that draws the same."""
    learner = build_learner_of(build_config(hidden=(400, 6)).networks(init=network_init))
    same_draws = torch.Generator()
    same_draws.set_state(learner.agent.generator.get_state())
    Recycler(learner.agent, init=init).recycle("policy", [torch.arange(400), torch.tensor([], dtype=torch.int64)])
    return learner.agent.networks["policy"].hidden[0].weight.detach(), same_draws


@pytest.mark.parametrize(
    ("init", "network_init", "gain"),
    [
        ("network", "fan_in_uniform", 1.0),
        # By name they are what they say, whatever the networks began with.
        *[("lecun", network_init, 3.0**0.5) for network_init in INITS],
        *[("kaiming", network_init, 6.0**0.5) for network_init in INITS],
    ],
)
def test_the_bound_is_that_of_the_chosen_distribution(init, network_init, gain):
    weight, _ = all_new(init, network_init)
    bound = gain / math.sqrt(OBS)
    # 1200 uniform draws: all within 1 % of the bound with probability 6e-6.
    assert 0.99 * bound < float(weight.abs().max()) <= bound * (1.0 + 1e-6)


def test_the_networks_own_distribution_is_the_runs():
    weight, same_draws = all_new("network", "kaiming_normal")
    assert torch.equal(weight, torch.nn.init.kaiming_normal_(torch.empty(400, OBS), generator=same_draws))
    # 1200 draws, whose standard deviation has an error of 2 %.
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / OBS), rel=0.08)


def test_nothing_else_changes():
    learner = trained_learner()
    before, recycler = parameters(learner), Recycler(learner.agent)
    recycler.recycle("qf", neurons([3], []))
    after = parameters(learner)
    touched = {"qf.hidden.0.weight": (3,), "qf.hidden.0.bias": (3,), "qf.hidden.1.weight": (slice(None), 3)}
    for name, place in touched.items():
        assert not torch.equal(after[name], before[name])
        after[name][place] = before[name][place]
    assert_same(after, before)  # targets and the other networks included
    assert recycler.recycled == 1


def test_a_channel_is_silent_in_all_its_kernels_and_all_its_pixels():
    learner = trained_on_images()
    qf = learner.agent.networks["qf"]
    Recycler(learner.agent).recycle("qf", neurons([1], [1], [], []))
    second, dense = qf.hidden[1].weight, qf.hidden[2].weight
    assert (second == 0.0).flatten(2).all(2).all(0).tolist() == [False, True, False]
    pixels = (dense == 0.0).all(0).view(2, -1)  # (channels, pixels)
    assert pixels.shape[1] > 1
    assert pixels.all(1).tolist() == [False, True]
    assert not pixels[0].any()


def test_with_crelu_both_features_of_a_neuron_are_silent():
    learner = build_learner_of(build_config().networks(activation="crelu"))
    Recycler(learner.agent).recycle("policy", neurons([], [2]))
    silent = (learner.agent.networks["policy"].head.weight == 0.0).all(0)
    assert silent.nonzero().flatten().tolist() == [2, 6 + 2]


def test_a_new_neuron_is_silent_to_new_ones_too():
    learner = trained_learner()
    layer = learner.agent.networks["policy"].hidden[1]
    Recycler(learner.agent).recycle("policy", neurons([1], [0, 1]))
    assert layer.weight[:, 1].tolist() == [0.0] * 6
    assert bool((layer.weight[0, [0, *range(2, 8)]] != 0.0).all())


def outputs(network: Network, obs: Tensor) -> tuple[Tensor, list[Tensor]]:
    record: list[Tensor] = []
    with torch.no_grad():
        return network(obs, record=record), record


def test_the_output_changes_by_what_the_neuron_gave_and_not_at_all_if_it_gave_nothing():
    learner = trained_learner()
    policy, recycler = learner.agent.networks["policy"], Recycler(learner.agent)
    obs = torch.randn(50, OBS, generator=torch.Generator().manual_seed(0))
    before, hidden = outputs(policy, obs)
    given = hidden[1][:, 3:4] * policy.head.weight.detach()[:, 3]
    recycler.recycle("policy", neurons([], [3]))
    once = outputs(policy, obs)[0]
    assert float(given.abs().max()) > 0.01
    assert torch.allclose(once, before - given, atol=1e-6)
    recycler.recycle("policy", neurons([], [3]))
    assert torch.equal(outputs(policy, obs)[0], once)


@pytest.mark.parametrize("images", [False, True])
def test_what_a_neuron_gives_on_average_can_go_to_the_next_biases(images):
    # Of one input, of one grey all over if it is an image, an average is exact: the output stays.
    learner = trained_on_images() if images else trained_learner()
    policy, recycler = learner.agent.networks["policy"], Recycler(learner.agent)
    obs = torch.full((1, *IMAGES.shape), 100, dtype=torch.uint8) if images else torch.ones(1, OBS)
    with torch.no_grad():
        for layer in policy.hidden:
            layer.bias.add_(0.1)
    before, hidden = outputs(policy, obs)
    most_active = [int(activities(h).argmax()) for h in hidden]
    means = []
    for h, after in zip(hidden, policy.layers()[1:], strict=True):
        inputs = h.mean((0, 2, 3)) if after.weight.dim() == 4 else h.flatten(1).mean(0)
        means.append(inputs.repeat_interleave(after.weight[0].numel() // len(inputs)))
    for i, neuron in enumerate(most_active):
        assert float(hidden[i][:, neuron].abs().max()) > 0.01
        recycler.recycle("policy", neurons(*[[neuron] if k == i else [] for k in range(len(hidden))]), means)
    assert torch.allclose(outputs(policy, obs)[0], before, atol=1e-5)
    assert recycler.recycled == len(hidden)


def test_targets_follow_only_if_they_are_to():
    for mirror in (False, True):
        learner = trained_learner()
        before = parameters(learner)
        Recycler(learner.agent, mirror_targets=mirror).recycle("qf", neurons([3], [2]))
        after = parameters(learner)
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        ours = {"qf.hidden.0.weight", "qf.hidden.0.bias", "qf.hidden.1.weight", "qf.hidden.1.bias", "qf.head.weight"}
        assert changed == (ours | {f"target_{name}" for name in ours} if mirror else ours)
        if mirror:
            assert torch.equal(after["target_qf.hidden.0.weight"][3], after["qf.hidden.0.weight"][3])
            assert torch.equal(after["target_qf.hidden.1.weight"][2], after["qf.hidden.1.weight"][2])
            assert not after["target_qf.head.weight"][:, 2].any()


def test_learners_with_one_generator_state_draw_the_same_weights():
    learners = [trained_learner(), trained_learner()]
    for learner in learners:
        Recycler(learner.agent).recycle("policy", neurons([0, 7], [1]))
    assert_same(parameters(learners[0]), parameters(learners[1]))


# The optimizer


def test_moments_of_the_entries_that_changed_are_zero_and_no_others():
    learner = trained_learner()
    qf = learner.agent.networks["qf"]
    before = {
        param: (adam(learner, "qf", param)["exp_avg"].clone(), adam(learner, "qf", param)["exp_avg_sq"].clone())
        for param in qf.parameters()
    }
    Recycler(learner.agent).recycle("qf", neurons([3], [2]))
    touched = {param: torch.zeros_like(param, dtype=torch.bool) for param in qf.parameters()}
    touched[qf.hidden[0].weight][3] = True
    touched[qf.hidden[0].bias][3] = True
    touched[qf.hidden[1].weight][:, 3] = True
    touched[qf.hidden[1].weight][2] = True
    touched[qf.hidden[1].bias][2] = True
    touched[qf.head.weight][:, 2] = True
    for param, moments in before.items():
        state = adam(learner, "qf", param)
        assert float(state["step"]) == 5.0
        for now, old in zip((state["exp_avg"], state["exp_avg_sq"]), moments, strict=True):
            assert torch.equal(now, old.masked_fill(touched[param], 0.0))


def test_the_first_update_of_a_new_neuron_is_at_most_the_learning_rate():
    learner = build_learner("redo", {"interval": 10_000})
    train(learner, range(5))
    policy, rate = learner.agent.networks["policy"], learner.run.training.actor_lr
    for param in policy.parameters():
        adam(learner, "policy", param)["step"].fill_(1e6)  # where zeroed moments alone give 3.2 learning rates
    learner.method.recycler.recycle("policy", neurons([], [0, 1, 2, 3, 4, 5]))
    train(learner, range(5, 6))
    moved = policy.head.weight.detach().abs()
    assert float(moved.max()) == pytest.approx(rate, rel=1e-3)
    assert float(moved.max()) <= rate * (1.0 + 1e-5)


class Adams:
    """An Adam with young entries beside what it must equal: an undisturbed Adam, and one for each restart."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype = torch.float64, **keys: Any) -> None:
        self.random, self.size = torch.Generator().manual_seed(0), size
        self.keys = {"eps": eps, **keys}
        self.dtype = dtype
        self.param, self.optimizer = self._new(torch.zeros(size, dtype=dtype))
        self.fresh: list[tuple[Tensor, torch.optim.Adam, Tensor]] = []
        self.restarted = torch.zeros(size, dtype=torch.bool)
        self.undisturbed, self.reference = self._new(torch.zeros(size, dtype=dtype))
        self.young = YoungEntries([self.param], self.optimizer)

    def _new(self, start: Tensor) -> tuple[Tensor, torch.optim.Adam]:
        param = torch.nn.Parameter(start.clone())
        return param, torch.optim.Adam([param], lr=1e-3, fused=True, **self.keys)

    def restart(self, places: list[int]) -> None:
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[places] = True
        self.young.restart([mask])
        self.restarted |= mask
        self.fresh = [(p, o, which & ~mask) for p, o, which in self.fresh]
        self.fresh.append((*self._new(self.param.detach()), mask))

    def steps(self, count: int) -> None:
        scale = torch.logspace(-3, 1, self.size, dtype=self.dtype)
        for _ in range(count):
            gradient = scale * (1.0 + torch.randn(self.size, generator=self.random, dtype=self.dtype))
            for param, optimizer in [
                (self.param, self.optimizer),
                (self.undisturbed, self.reference),
                *[(p, o) for p, o, _ in self.fresh],
            ]:
                param.grad = gradient.clone()
                optimizer.step()
            self.young.correct_step()
            self.young.count_step()

    def differences(self) -> float:
        parts = [(self.param - self.undisturbed)[~self.restarted]]
        parts += [(self.param - p)[which] for p, _, which in self.fresh]
        return max(float(part.detach().abs().max()) for part in parts if len(part))


@pytest.mark.parametrize("eps", [1e-12, 1e-8, 1e-4])
def test_corrected_steps_are_those_of_an_adam_made_for_the_entries(eps):
    both = Adams(8, eps)
    both.steps(3000)
    both.restart([1, 4, 7])
    both.steps(200)
    # 200 steps of up to 1e-3; uncorrected ones would differ by a fifth of that.
    assert both.differences() < 1e-11


@pytest.mark.parametrize("betas", [(0.99, 0.99), (0.9, 0.999), (0.0, 0.5)])
def test_corrected_steps_have_the_betas_and_the_decay_of_the_optimizer(betas):
    both = Adams(8, 1e-8, betas=betas, weight_decay=0.1)
    both.steps(3000)
    both.restart([1, 4, 7])
    both.steps(200)
    assert both.differences() < 1e-11


def test_an_entry_that_starts_again_counts_from_its_last_start():
    both = Adams(8, 1e-8)
    both.steps(500)
    both.restart([1, 4, 7])
    both.steps(60)
    both.restart([2, 4])
    both.steps(60)
    assert len(both.young.index.unique()) == len(both.young) == 4
    assert both.differences() < 1e-11


def test_without_the_correction_steps_would_be_too_long():
    both = Adams(8, 1e-8)
    both.steps(3000)
    both.restart([1])
    both.young.keep(torch.zeros(1, dtype=torch.bool))
    both.steps(20)
    assert both.differences() > 0.03


def test_single_precision_is_enough():
    both = Adams(8, 1e-8, torch.float32)
    both.steps(3000)
    both.restart([0, 5])
    both.steps(200)
    assert both.differences() < 2e-5


def test_entries_whose_count_no_longer_matters_are_let_go():
    both = Adams(4, 1e-8)
    both.steps(10)
    both.restart([1])
    # 1 - 0.999^n reaches (1 - 1e-3)^2 at n = ln(0.002) / ln(0.999) = 6211.
    both.steps(6100)
    assert len(both.young) == 1
    both.steps(200)
    assert len(both.young) == 0


def test_a_recycler_without_young_entries_has_nothing_to_do():
    learner = build_learner("redo", {"interval": 10_000})
    train(learner, range(5))
    recycler = learner.method.recycler
    recycler.recycle("policy", neurons([0], [1]))
    assert set(recycler.young) == {"policy"}
    for young in recycler.young.values():
        young.keep(torch.zeros(len(young), dtype=torch.bool))
    recycler.let_go_of_grown()
    assert recycler.young == {}


def test_in_a_fresh_optimizer_no_entry_is_younger_than_others():
    learner = build_learner("redo", {"interval": 10_000})
    train(learner, range(5))
    recycler = learner.method.recycler
    recycler.recycle("policy", neurons([0], []))
    learner.visit_start(visit(2), None)
    assert recycler.young
    learner.boundary_reset(BoundarySettings())
    learner.visit_start(visit(2), None)
    assert not recycler.young
    recycler.recycle("policy", neurons([0], []))  # before the optimizer's first step
    assert not recycler.young
