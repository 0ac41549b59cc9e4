"""L2 on a real Learner: every protected weight is pulled equally hard."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rllib_nbsp.methods.l2 import L2Settings
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from tests.tiny import assert_same, build_learner, end_visit, parameters, train


def displaced(keys: dict[str, Any], visits: int = 1) -> ContinualSACTorchLearner:
    """A Learner after so many visits whose every weight is then half a unit away from its anchor."""
    learner = build_learner("l2", keys)
    for number in range(1, visits + 1):
        end_visit(learner, number, None)
    with torch.no_grad():
        for network in learner.agent.networks.values():
            for p in network.parameters():
                p += 0.5
    return learner


def test_the_coefficient_is_continual_worlds():
    assert L2Settings().coef == 1e5
    assert L2Settings().merge == "sum"
    assert not L2Settings().critic


def test_the_first_visit_is_sac_bit_for_bit():
    ours, plain = build_learner("l2"), build_learner("sac")
    for learner in (ours, plain):
        train(learner, range(5))
    assert_same(parameters(ours), parameters(plain))
    assert ours.method.loss_terms(None) == {}


# Importance after two visits: 1 + 1, or the mean of 1 and 1.
@pytest.mark.parametrize(("visits", "merge", "importance"), [(1, "sum", 1.0), (2, "sum", 2.0), (2, "mean", 1.0)])
def test_penalty_and_gradient_by_hand(visits, merge, importance):
    learner = displaced({"coef": 3.0, "merge": merge}, visits)
    policy = learner.agent.networks["policy"]
    count = sum(p.numel() for p in policy.parameters())
    term = learner.method.loss_terms(None)["policy"]
    assert term.item() == pytest.approx(3.0 * importance * 0.25 * count, rel=1e-5)
    for gradient in torch.autograd.grad(term, list(policy.parameters())):
        assert torch.allclose(gradient, torch.full_like(gradient, 2 * 3.0 * importance * 0.5), rtol=1e-5)


def test_right_after_a_visit_nothing_pulls():
    learner = build_learner("l2", {"critic": True})
    train(learner, range(3))
    end_visit(learner, 1, None)
    assert {name: term.item() for name, term in learner.method.loss_terms(None).items()} == dict.fromkeys(NETWORKS, 0.0)


@pytest.mark.parametrize(("critic", "protected"), [(False, {"policy"}), (True, set(NETWORKS))])
def test_only_what_is_asked_for_is_held_and_never_targets_or_temperature(critic, protected):
    learner = displaced({"critic": critic})
    terms = learner.method.loss_terms(None)
    assert set(terms) == protected
    sum(terms.values()).backward()
    assert learner.agent.log_alpha.grad is None
    assert all(p.grad is None for net in learner.agent.targets.values() for p in net.parameters())


def test_the_default_pull_holds_the_actor_and_leaves_the_critics_free():
    held, free = build_learner("l2"), build_learner("sac")
    end_visit(held, 1, None)
    start = parameters(held)
    for learner in (held, free):
        train(learner, range(200))
    moved = [
        max(float((parameters(learner)[key] - start[key]).abs().max()) for key in start if key.startswith(network))
        for learner in (held, free)
        for network in ("policy.", "qf.")
    ]
    assert moved[0] < 0.1 * moved[2]
    assert moved[1] > 0.3 * moved[3]


def test_the_recorded_loss_shows_the_penalty():
    learner = displaced({"coef": 3.0})
    expected = learner.method.loss_terms(None)["policy"].item()
    train(learner, range(1))
    report = learner.report()
    assert report["policy_method_loss"] == pytest.approx(expected)
    assert report["l2_penalty_policy"] == pytest.approx(expected / 3.0, rel=0.01)
