"""CBP's Adam: betas and weight decay, and the steps of entries that began anew."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from tests.methods.test_cbp import replaced
from tests.tiny import build_learner, train


class EntryAdam:
    """Adam with L2 in the gradient and a count of steps for each entry, from its formulas, in double precision."""

    def __init__(self, param: Tensor, lr: float, betas: list[float], decay: float) -> None:
        self.weights = param.detach().double().clone()
        self.lr, self.betas, self.decay = lr, betas, decay
        self.mean, self.square, self.count = (torch.zeros_like(self.weights) for _ in range(3))

    def step(self, gradient: Tensor) -> None:
        gradient = gradient.double() + self.decay * self.weights
        beta1, beta2 = self.betas
        self.count += 1
        self.mean = beta1 * self.mean + (1 - beta1) * gradient
        self.square = beta2 * self.square + (1 - beta2) * gradient**2
        mean, square = self.mean / (1 - beta1**self.count), self.square / (1 - beta2**self.count)
        self.weights -= self.lr * mean / (square.sqrt() + 1e-8)

    def restart(self, entries: Tensor, weights: Tensor) -> None:
        for table in (self.mean, self.square, self.count):
            table[entries] = 0.0
        self.weights[entries] = weights.detach().double()[entries]


def replaced_entries(learner: ContinualSACTorchLearner) -> dict[Tensor, Tensor]:
    """Of each parameter those entries that the last update replaced."""
    masks, parts = {}, iter(replaced(learner))
    for name in NETWORKS:
        layers = learner.agent.networks[name].layers()
        masks |= {p: torch.zeros_like(p, dtype=torch.bool) for layer in layers for p in (layer.weight, layer.bias)}
        for layer, after in itertools.pairwise(layers):
            neurons = next(parts)
            masks[layer.weight][neurons] = masks[layer.bias][neurons] = True
            masks[after.weight][:, neurons] = True
    return masks


@pytest.mark.parametrize("betas", [[0.99, 0.99], [0.9, 0.999]])
def test_every_step_is_that_of_an_adam_that_counts_for_each_entry_and_decays(betas):
    keys = {"rate": 0.03, "maturity": 4, "betas": betas, "weight_decay": 0.05}
    learner = build_learner("cbp", keys)
    references = {
        param: EntryAdam(param, learner.agent.optimizers[name].param_groups[0]["lr"], betas, 0.05)
        for name in NETWORKS
        for param in learner.agent.networks[name].parameters()
    }
    for k in range(60):
        train(learner, range(k, k + 1))
        entries = replaced_entries(learner)
        for param, reference in references.items():
            reference.step(param.grad)
            reference.restart(entries[param], param)
            # 60 steps of up to 1e-3; without the decay weights would differ by 0.07, under Adam's own count by 5e-3.
            assert torch.allclose(param.detach().double(), reference.weights, rtol=0.0, atol=2e-6)
    assert learner.method.metrics()["replaced_neurons"] > 20.0
    assert any(int(reference.count.min()) < 30 for reference in references.values())


def test_the_first_two_steps_of_a_weight_by_hand():
    # Betas 0.99 both, decay 1e-4, a weight of 0.5 and gradients of 0 and 1e-4; lr is the actor's, 3e-4.
    # Step 1: g = 0 + 1e-4 * 0.5 = 5e-5, and m / c1 = g, sqrt(v / c2) = |g|: minus lr * 5e-5 / (5e-5 + 1e-8).
    # Step 2: g' = 1e-4 + 1e-4 * 0.49970006, m / c1 = 0.01 (0.99 g + g') / (1 - 0.99^2) = (0.99 g + g') / 1.99 and
    # v / c2 = (0.99 g^2 + g'^2) / 1.99, so that the step is 3e-4 * 1.00236e-4 / (1.12008e-4 + 1e-8) = 2.6845e-4.
    learner = build_learner("cbp", {"rate": 0.0, "betas": [0.99, 0.99], "weight_decay": 1e-4})
    weight = learner.agent.networks["policy"].hidden[0].weight
    with torch.no_grad():
        weight[0, 0] = 0.5
    for gradient, expected in ((0.0, 0.5 - 2.9994e-4), (1e-4, 0.5 - 2.9994e-4 - 2.6845e-4)):
        weight.grad = torch.full_like(weight, gradient)
        learner.agent.optimizers["policy"].step()
        assert float(weight[0, 0].detach()) == pytest.approx(expected, abs=1e-7)


def test_betas_and_decay_are_the_methods_own_or_else_the_runs():
    source = {"betas": [0.99, 0.99], "weight_decay": 1e-4}
    of_the_run = {"adam_betas": [0.5, 0.6], "weight_decay": 0.1}
    for keys, training, betas, decay in (
        ({}, {}, (0.9, 0.999), 0.0),
        (source, {}, (0.99, 0.99), 1e-4),
        ({}, of_the_run, (0.5, 0.6), 0.1),
        (source, of_the_run, (0.99, 0.99), 1e-4),
        ({"weight_decay": 0.0}, of_the_run, (0.5, 0.6), 0.0),
    ):
        learner = build_learner("cbp", keys, training=training)
        groups = {name: optimizer.param_groups[0] for name, optimizer in learner.agent.optimizers.items()}
        assert {group["betas"] for group in groups.values()} == {betas}
        # The temperature has no size to keep small: it does not decay towards 1.
        assert {name: group["weight_decay"] for name, group in groups.items()} == {
            **dict.fromkeys(NETWORKS, decay),
            "alpha": 0.0,
        }
