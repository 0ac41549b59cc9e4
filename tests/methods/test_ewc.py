"""EWC on a real Learner: its penalty, its gradient, what it protects and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from tests.tiny import (
    CHOICES,
    IMAGES,
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

SMALL = {"fisher_batches": 2, "fisher_batch": 8}


def learner_with(keys: dict[str, Any] | None = None) -> ContinualSACTorchLearner:
    return build_learner("ewc", {**SMALL, **(keys or {})})


def consolidate(learner: ContinualSACTorchLearner, number: int = 1, rows: dict[str, np.ndarray] | None = None) -> None:
    which: Visit = visit(number)
    learner.visit_end(which, VisitData(which, rows=transitions(number, 50) if rows is None else rows))


def loss_gradients(learner: ContinualSACTorchLearner, name: str) -> list[torch.Tensor]:
    terms = learner.method.loss_terms(None)  # type: ignore[arg-type]
    parts = list(learner.agent.networks[name].parameters())
    return list(torch.autograd.grad(terms[name], parts))


def test_the_first_visit_is_sac_bit_for_bit():
    ours, plain = learner_with(), build_learner("sac")
    for learner in (ours, plain):
        train(learner, range(5))
    assert_same(parameters(ours), parameters(plain))
    assert ours.method.loss_terms(None) == {}


def test_right_after_a_visit_penalty_and_gradient_are_zero():
    learner = learner_with({"critic": True})
    train(learner, range(5))
    consolidate(learner)
    for name, term in learner.method.loss_terms(None).items():
        assert float(term.detach()) == 0.0
        assert all(bool((g == 0.0).all()) for g in loss_gradients(learner, name))


def test_penalty_and_gradient_by_hand():
    learner = learner_with({"coef": 3.0})
    consolidate(learner)
    method, policy = learner.method, learner.agent.networks["policy"]
    with torch.no_grad():
        for p in policy.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    triples = list(
        zip(policy.parameters(), method.pull.importance["policy"], method.pull.anchor["policy"], strict=True)
    )
    expected = 3.0 * sum(float((f.double() * (p.detach() - a).double() ** 2).sum()) for p, f, a in triples)
    assert float(method.loss_terms(None)["policy"].detach()) == pytest.approx(expected, rel=1e-5)
    for gradient, (p, f, a) in zip(loss_gradients(learner, "policy"), triples, strict=True):
        assert torch.allclose(gradient, 2 * 3.0 * f * (p - a), rtol=1e-4, atol=1e-6)


def test_a_strong_pull_holds_the_actor_and_leaves_the_critics_free():
    held, free = learner_with({"coef": 1e8, "floor": 1.0}), build_learner("sac")
    consolidate(held)
    start = parameters(held)
    for learner in (held, free):
        train(learner, range(200))
    ours, plain = parameters(held), parameters(free)

    def moved(now: dict[str, torch.Tensor], name: str) -> float:
        return max(float((now[key] - start[key]).abs().max()) for key in start if key.startswith(f"{name}."))

    assert moved(ours, "policy") < 0.1 * moved(plain, "policy")
    assert moved(ours, "qf") > 0.3 * moved(plain, "qf")


def test_only_what_is_asked_for_is_protected_and_never_targets_or_temperature():
    for critic, protected in ((False, {"policy"}), (True, set(NETWORKS))):
        learner = learner_with({"critic": critic})
        consolidate(learner)
        with torch.no_grad():
            for p in learner.agent.networks["qf"].parameters():
                p += 1.0
        terms = learner.method.loss_terms(None)
        assert set(terms) == protected
        sum(terms.values()).backward()
        assert learner.agent.log_alpha.grad is None
        assert all(p.grad is None for net in learner.agent.targets.values() for p in net.parameters())


def test_the_actors_fisher_has_a_floor_and_the_critics_none():
    learner = learner_with({"critic": True, "floor": 0.5})
    consolidate(learner)
    fisher = learner.method.pull.importance
    assert min(float(part.min()) for part in fisher["policy"]) == 0.5  # where no sample has more
    assert min(float(part.min()) for part in fisher["qf"]) == 0.0


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_the_information_is_the_mean_of_squared_gradients_sample_by_sample(floor):
    # As Continual World has it: the floor is under each sample of the actor, before the mean; the critics have none.
    learner = learner_with({"critic": True, "floor": floor})
    train(learner, range(3))
    rows = transitions(1, 50)
    same_draws = torch.Generator()
    same_draws.set_state(learner.agent.generator.get_state())
    batches = list(VisitData(visit(1), rows=rows).batches(2, 8, same_draws, torch.device("cpu")))
    consolidate(learner, rows=rows)
    for name, network in learner.agent.networks.items():
        parameters_of = list(network.parameters())
        expected = [torch.zeros_like(p, dtype=torch.float64) for p in parameters_of]
        for batch in batches:
            for obs, action in zip(batch.obs, batch.actions, strict=True):
                sample = [torch.zeros_like(p, dtype=torch.float64) for p in parameters_of]
                for scalar, weight in outputs_of(name, network, obs, action):
                    gradients = torch.autograd.grad(scalar, parameters_of, retain_graph=True)
                    for part, gradient in zip(sample, gradients, strict=True):
                        part += weight * gradient.double().square()
                for total, part in zip(expected, sample, strict=True):
                    total += part.clamp(min=floor if name == "policy" else 0.0) / 16
        for ours, total in zip(learner.method.pull.importance[name], expected, strict=True):
            assert torch.allclose(ours.double(), total, rtol=1e-4, atol=1e-8), name


def outputs_of(
    name: str, network: torch.nn.Module, obs: torch.Tensor, action: torch.Tensor
) -> list[tuple[torch.Tensor, float]]:
    """What one sample's gradients are of, each with the weight of its square: mu and sigma, or Q."""
    if name != "policy":
        return [(network(torch.cat([obs, action])[None])[0, 0], 1.0)]
    mean, raw = network(obs[None])[0].chunk(2)
    sigma = (-5 + 3.5 * (torch.tanh(raw) + 1)).exp()
    per_variance = [1 / (float(s) ** 2 + 1e-6) for s in sigma.detach()]
    return [(m, w) for m, w in zip(mean, per_variance, strict=True)] + [
        (s, 2 * w) for s, w in zip(sigma, per_variance, strict=True)
    ]


def test_of_an_actor_that_is_linear_in_its_last_layer_in_closed_form():
    # mu = W h + b with sigma held at s: F_b = 1 / s^2 and F_W = h^2 / s^2, of one state.
    learner = learner_with({"floor": 0.0})
    policy = learner.agent.networks["policy"]
    with torch.no_grad():
        policy.head.weight[2:] = 0.0
        policy.head.bias[2:] = 0.0  # tanh(0) is the middle: log sigma = -1.5
    state = {name: np.repeat(column[:1], 50, axis=0) for name, column in transitions(0).items()}
    record: list[torch.Tensor] = []
    policy(torch.from_numpy(state["obs"][:1]), record=record)
    consolidate(learner, 1, state)
    weight, bias = learner.method.pull.importance["policy"][-2:]
    precision = 1 / (np.exp(-3.0) + 1e-6)
    assert bias[:2].tolist() == pytest.approx([precision, precision], rel=1e-5)
    assert torch.allclose(weight[:2], precision * record[-1].detach().square().expand(2, -1), rtol=1e-5)
    # 2 (d sigma)^2 / sigma^2 with d sigma = sigma * 3.5 (1 - tanh(0)^2).
    assert bias[2:].tolist() == pytest.approx([2 * 3.5**2] * 2, rel=1e-4)


def test_two_identical_consolidations_double_the_information():
    learner = learner_with()
    state = {name: np.repeat(column[:1], 50, axis=0) for name, column in transitions(0).items()}
    consolidate(learner, 1, state)
    once = [part.clone() for part in learner.method.pull.importance["policy"]]
    consolidate(learner, 2, state)
    for first, second in zip(once, learner.method.pull.importance["policy"], strict=True):
        assert torch.allclose(second, 2.0 * first, rtol=1e-6)


@pytest.mark.parametrize(("merge", "factor"), [("sum", 3.0), ("mean", 1.0), ("ema", 1.0)])
def test_the_same_information_again_and_again(merge, factor):
    learner = learner_with({"merge": merge})
    same = {name: np.repeat(column[:1], 50, axis=0) for name, column in transitions(0).items()}
    consolidate(learner, 1, same)
    once = [part.clone() for part in learner.method.pull.importance["policy"]]
    consolidate(learner, 2, same)
    consolidate(learner, 3, same)
    for first, third in zip(once, learner.method.pull.importance["policy"], strict=True):
        assert torch.allclose(third, factor * first, rtol=1e-5)


def test_merging_two_different_visits_by_hand():
    parts = []
    for merge in ("sum", "mean", "ema"):
        learner = learner_with({"merge": merge})
        consolidate(learner, 1)
        first = learner.method.pull.importance["policy"][0].clone()
        train(learner, range(3))
        consolidate(learner, 2)
        parts.append((first, learner.method.pull.importance["policy"][0]))
    (first, total), (_, mean), (_, ema) = parts
    second = total - first
    assert not torch.allclose(first, second)
    assert torch.allclose(mean, (first + second) / 2, rtol=1e-4, atol=1e-7)
    assert torch.allclose(ema, (first + second) / 2, rtol=1e-4, atol=1e-7)


def test_state_round_trip_in_the_middle_of_a_visit():
    learner, other = learner_with({"critic": True}), learner_with({"critic": True})
    train(learner, range(3))
    consolidate(learner)
    train(learner, range(3, 6))
    other.set_state(learner.get_state())
    for one in (learner, other):
        train(one, range(6, 9))
        consolidate(one, 2)
        train(one, range(9, 12))
    assert_same(parameters(learner), parameters(other))


def test_on_images_and_discrete_actions():
    config = build_config("ewc", {**SMALL, "critic": True}).networks(conv=[[3, 4, 2], [2, 3, 1]])
    learner = build_learner_of(config, IMAGES, CHOICES)
    consolidate(learner, 1, game_transitions(0, 20))
    for k in range(3):
        update(learner, game_transitions(k))
    assert all(np.isfinite(value) for value in learner.method.metrics().values())
    assert learner.method.metrics()["ewc_penalty_policy"] > 0.0
    assert [part.shape for part in learner.method.pull.importance["qf"]] == [
        p.shape for p in learner.agent.networks["qf"].parameters()
    ]
