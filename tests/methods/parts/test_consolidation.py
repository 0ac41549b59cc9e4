"""The shared pull and Fisher estimate: by hand, and against autograd in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_nbsp.methods.agent import VisitData, make_batch
from rllib_nbsp.methods.parts.consolidation import FisherEstimate, FisherSettings, QuadraticPull, quadratic_pull
from rllib_nbsp.nn.fisher import diagonal_fisher, gaussian, values
from tests.tiny import build_learner, transitions, visit


def ones_times(factor: float, agent, name: str = "policy") -> dict[str, list[Tensor]]:
    return {name: [torch.full_like(p, factor) for p in agent.networks[name].parameters()]}


def batch(seed: int):
    return make_batch({name: torch.from_numpy(column) for name, column in transitions(seed).items()})


def test_the_pull_by_hand():
    # 3 (1 - 0)^2 + 5 (2 - 2)^2 + 0.5 (1 - 3)^2 = 5
    weights = [torch.tensor([1.0, 2.0]), torch.tensor([[1.0]])]
    anchors = [torch.tensor([0.0, 2.0]), torch.tensor([[3.0]])]
    importances = [torch.tensor([3.0, 5.0]), torch.tensor([[0.5]])]
    assert quadratic_pull(weights, anchors, importances).item() == 5.0


def test_the_pulls_gradient_is_twice_the_weighted_distance():
    generator = torch.Generator().manual_seed(0)
    weights, anchors, importances = (
        [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (4,))] for _ in range(3)
    )
    weights = [w.requires_grad_() for w in weights]
    gradients = torch.autograd.grad(10.0 * quadratic_pull(weights, anchors, importances), weights)
    for gradient, w, anchor, f in zip(gradients, weights, anchors, importances, strict=True):
        assert torch.allclose(gradient, 2 * 10.0 * f * (w - anchor), rtol=1e-12)


# Visits of importance 1, 4 and 7: their sum, their mean, and 0.5 * (0.5 * 1 + 0.5 * 4) + 0.5 * 7 = 4.75.
@pytest.mark.parametrize(("merge", "merged"), [("sum", 12.0), ("mean", 4.0), ("ema", 4.75)])
def test_merging_importances_by_hand(merge, merged):
    agent = build_learner().agent
    pull = QuadraticPull(agent)
    for importance in (1.0, 4.0, 7.0):
        pull.consolidate(ones_times(importance, agent), merge)
    for part in pull.importance["policy"]:
        assert torch.allclose(part, torch.full_like(part, merged))


def test_nothing_pulls_before_the_first_consolidation():
    pull = QuadraticPull(build_learner().agent)
    assert pull.penalties() == {}
    assert pull.metrics("pull") == {}


def test_an_anchor_is_a_copy_of_the_latest_weights_or_of_other_networks():
    agent, other = build_learner().agent, build_learner(seed=1).agent
    pull = QuadraticPull(agent)
    pull.consolidate(ones_times(1.0, agent), "sum")
    with torch.no_grad():
        for p in agent.networks["policy"].parameters():
            p += 2.0
    count = sum(p.numel() for p in agent.networks["policy"].parameters())
    assert pull.metrics("pull") == {"pull_policy": pytest.approx(4.0 * count, rel=1e-5)}
    pull.consolidate(ones_times(1.0, agent), "mean")
    assert pull.metrics("pull") == {"pull_policy": 0.0}
    pull.consolidate(ones_times(1.0, agent), "mean", other.networks)
    assert all(
        torch.equal(a, p) for a, p in zip(pull.anchor["policy"], other.networks["policy"].parameters(), strict=True)
    )


def test_an_estimate_is_the_mean_over_its_batches():
    agent = build_learner().agent
    estimate = FisherEstimate(agent, FisherSettings(critic=True, floor=0.0))
    for seed in range(3):
        estimate.add(batch(seed))
    for name, part in estimate.mean().items():
        parts = []
        for seed in range(3):
            rows = batch(seed)
            inputs = rows.obs if name == "policy" else torch.cat([rows.obs, rows.actions], -1)
            scalars = gaussian() if name == "policy" else values()
            parts.append(diagonal_fisher(agent.networks[name], inputs, scalars))
        for ours, *three in zip(part, *parts, strict=True):
            assert torch.allclose(ours, sum(three) / 3, rtol=1e-5, atol=1e-9)


def test_without_heads_the_output_layer_has_no_importance_and_the_rest_is_as_before():
    agent = build_learner().agent
    means = []
    for heads in (True, False):
        estimate = FisherEstimate(agent, FisherSettings(critic=True), heads=heads)
        estimate.add(batch(0))
        means.append(estimate.mean())
    for name, network in agent.networks.items():
        shapes = [part.shape for part in means[1][name][-2:]]
        assert shapes == [network.head.weight.shape, network.head.bias.shape]
        assert all(bool((part == 0.0).all()) for part in means[1][name][-2:])
        assert all(bool((part > 0.0).any()) for part in means[0][name][-2:])
        assert all(torch.equal(a, b) for a, b in zip(means[0][name][:-2], means[1][name][:-2], strict=True))


def test_a_state_that_was_taken_does_not_change_afterwards():
    agent = build_learner().agent
    estimate, pull = FisherEstimate(agent, FisherSettings()), QuadraticPull(agent)
    estimate.add(batch(0))
    pull.consolidate(estimate.mean(), "sum")
    states = estimate.get_state()["sums"], pull.get_state()["importance"], pull.get_state()["anchor"]
    copies = [[array.copy() for array in state["policy"]] for state in states]
    estimate.add(batch(1))
    with torch.no_grad():
        for p in agent.networks["policy"].parameters():
            p += 1.0
    pull.consolidate(estimate.mean(), "sum")
    for state, kept in zip(states, copies, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(state["policy"], kept, strict=True))


def test_the_actor_is_protected_and_the_critics_if_asked_for():
    assert FisherSettings().protected == ("policy",)
    assert FisherSettings(critic=True).protected == ("policy", "qf", "qf_twin")


def test_the_information_of_a_visit_is_the_mean_of_what_the_learners_measured(monkeypatch):
    # Two devices may differ in the last bit of a backward pass; here the other one measures three times as much.
    agent = build_learner().agent
    means = []
    for other in (1.0, 3.0):
        monkeypatch.setattr(type(agent), "all_reduce_mean", lambda self, part, other=other: (part + other * part) / 2)
        agent.generator.manual_seed(0)
        estimate = FisherEstimate(agent, FisherSettings(fisher_batches=2, fisher_batch=8, floor=0.0))
        estimate.add_visit(VisitData(visit(1), rows=transitions(0)))
        means.append(estimate.mean()["policy"])
    assert all(torch.allclose(2.0 * one, two) for one, two in zip(*means, strict=True))
    assert any(bool((part > 0.0).any()) for part in means[0])
