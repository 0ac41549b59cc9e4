"""A-GEM on a real Learner: what is projected, by how much, and when nothing is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_nbsp.checks import check_run
from rllib_nbsp.methods.agem import project
from rllib_nbsp.methods.agent import Batch, make_batch
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

MEMORY = 8


def beside(rows: dict[str, np.ndarray], prior: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch with rows of D_pre at its end, as the replay buffer hands them over."""
    return {name: np.concatenate([column, prior[name]]) for name, column in rows.items()}


def prior_rows(seed: int) -> dict[str, np.ndarray]:
    return transitions(seed, MEMORY, from_prior=True, task=1)


def learner_with(**sections: Any) -> ContinualSACTorchLearner:
    return build_learner("agem", {"memory_batch": MEMORY}, **sections)


def weights(learner: ContinualSACTorchLearner) -> list[Tensor]:
    return [p for name in NETWORKS for p in learner.agent.networks[name].parameters()]


def flat(tensors: list[Any]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors]).double()


def batch_of(columns: dict[str, np.ndarray]) -> Batch:
    return make_batch({name: torch.from_numpy(column) for name, column in columns.items()})


def gradients_of(learner: ContinualSACTorchLearner, batch: Batch) -> list[Tensor]:
    losses = learner.agent.sac_losses(batch)
    return list(torch.autograd.grad(losses["policy"] + losses["qf"] + losses["qf_twin"], weights(learner)))


def reset_noise(learner: ContinualSACTorchLearner) -> None:
    """The next pass draws the noise that the first one drew."""
    learner.sac.module.set_noise_state(None, torch.device("cpu"))


# The projection


def test_projection_by_hand():
    # g = (1, 2 | -3), g_ref = (1, 0 | 1): g . g_ref = 1 - 3 = -2, g_ref . g_ref = 2, so g + 1 g_ref = (2, 2 | -2).
    g = [torch.tensor([1.0, 2.0]), torch.tensor([-3.0])]
    reference = [torch.tensor([1.0, 0.0]), torch.tensor([1.0])]
    assert bool(project(g, reference))
    assert [part.tolist() for part in g] == [[2.0, 2.0], [-2.0]]
    assert float(flat(g) @ flat(reference)) == 0.0
    assert [part.tolist() for part in reference] == [[1.0, 0.0], [1.0]]


@pytest.mark.parametrize("last", [3.0, -1.0])  # dot products 4 and 0
def test_a_gradient_that_does_no_harm_stays_as_it_is(last):
    g = [torch.tensor([1.0, 2.0]), torch.tensor([last])]
    assert not bool(project(g, [torch.tensor([1.0, 0.0]), torch.tensor([1.0])]))
    assert [part.tolist() for part in g] == [[1.0, 2.0], [last]]


def test_a_reference_of_zeros_changes_nothing():
    g = [torch.tensor([1.0, -2.0])]
    assert not bool(project(g, [torch.zeros(2)]))
    assert g[0].tolist() == [1.0, -2.0]


# On a Learner


def opposed_batches(learner: ContinualSACTorchLearner) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Rows, and the same rows with opposite rewards: what lowers the critics' loss on some raises it on the others."""
    rows = transitions(0)
    rows["rewards"] = np.full_like(rows["rewards"], 100.0)
    prior = {name: column[:MEMORY].copy() for name, column in rows.items()}
    prior["rewards"] *= -1.0
    return rows, prior


def test_actor_and_critics_are_projected_as_one_vector_and_the_temperature_not_at_all():
    learner = learner_with()
    rows, prior = opposed_batches(learner)
    batch = batch_of(rows)
    batch.prior = batch_of(prior)
    reference = gradients_of(learner, batch.prior)
    losses = learner.agent.sac_losses(batch)
    torch.stack([losses[name].squeeze() for name in (*NETWORKS, "alpha")]).sum().backward()
    before = [p.grad.clone() for p in weights(learner)]
    alpha_before = learner.agent.log_alpha.grad.clone()
    reset_noise(learner)  # so that the method draws what `reference` drew
    learner.method.transform_gradients(batch)
    g, g_ref = flat(before), flat(reference)
    assert float(g @ g_ref) < 0.0
    expected = g - (g @ g_ref) / (g_ref @ g_ref) * g_ref
    after = flat([p.grad for p in weights(learner)])
    assert torch.allclose(after, expected, rtol=1e-4, atol=1e-4 * float(g.abs().max()))
    assert abs(float(after @ g_ref)) < 1e-4 * float(g.norm() * g_ref.norm())
    # One factor for all networks: the actor moves although the critics alone made the dot product negative.
    policy = sum(p.numel() for p in learner.agent.networks["policy"].parameters())
    assert not torch.equal(after[:policy], g[:policy])
    assert torch.equal(learner.agent.log_alpha.grad, alpha_before)


def test_no_projection_on_rows_that_ask_for_the_same():
    learner = learner_with()
    batch = batch_of(transitions(0))
    batch.prior = batch_of(transitions(0))
    losses = learner.agent.sac_losses(batch)
    torch.stack([losses[name] for name in NETWORKS]).sum().backward()
    before = [p.grad.clone() for p in weights(learner)]
    reset_noise(learner)
    learner.method.transform_gradients(batch)
    assert all(torch.equal(a, p.grad) for a, p in zip(before, weights(learner), strict=True))
    assert learner.method.metrics() == {"agem_violation_frac": 0.0}


def test_an_update_takes_the_projected_gradient(monkeypatch):
    # A step along it leaves the old loss where it is, to first order; plain SAC's raises it.
    learner, plain = learner_with(), build_learner("sac")
    for one in (learner, plain):
        for optimizer in one.agent.optimizers.values():
            monkeypatch.setattr(optimizer, "step", lambda: None)  # the gradients stay those of the first weights
        rows, prior = opposed_batches(one)
        reset_noise(one)
        update(one, beside(rows, prior), len(rows["rewards"]) + MEMORY)
    reset_noise(learner)
    learner.agent.sac_losses(batch_of(rows))  # the update's own noise comes before the reference's
    reference = flat(gradients_of(learner, batch_of(prior)))
    along = [float(flat([p.grad for p in weights(one)]) @ reference) for one in (learner, plain)]
    assert along[1] < 0.0
    assert abs(along[0]) < 1e-4 * abs(along[1])


def test_with_a_delayed_actor_each_steps_gradient_is_projected_by_itself(monkeypatch):
    learner = learner_with(training={"actor_interval": 2})
    rows, prior = opposed_batches(learner)
    reset_noise(learner)
    for optimizer in learner.agent.optimizers.values():
        monkeypatch.setattr(optimizer, "step", lambda: None)
    update(learner, beside(rows, prior), len(rows["rewards"]) + MEMORY)  # the first: critics alone
    critics = [p for name in ("qf", "qf_twin") for p in learner.agent.networks[name].parameters()]
    assert all(p.grad is None for p in learner.agent.networks["policy"].parameters())
    assert learner.method.metrics() == {"agem_violation_frac": 1.0}
    reset_noise(learner)
    losses = learner.agent.sac_losses(replace(batch_of(rows), moving=("qf", "qf_twin")))
    assert losses.keys() == {"qf", "qf_twin"}
    losses = learner.agent.sac_losses(replace(batch_of(prior), moving=("qf", "qf_twin")))
    reference = flat(list(torch.autograd.grad(losses["qf"] + losses["qf_twin"], critics)))
    gradient = flat([p.grad for p in critics])
    assert abs(float(gradient @ reference)) < 1e-4 * float(gradient.norm() * reference.norm())
    update(learner, beside(rows, prior), len(rows["rewards"]) + MEMORY)  # the second: critics, actor, actor
    assert float(learner.method.steps) == 4.0
    assert all(p.grad is None for p in critics)


def test_without_earlier_rows_it_is_sac_to_the_last_bit():
    ours, plain = learner_with(), build_learner("sac")
    for learner in (ours, plain):
        learner.visit_start(visit(1), None)
        train(learner, range(6))
    assert_same(parameters(ours), parameters(plain))
    assert ours.method.metrics() == {}


def test_a_reference_gradient_without_a_violation_leaves_no_trace():
    learner, plain = learner_with(), build_learner("sac")
    rows = transitions(0)
    update(
        learner, beside(rows, {name: column[:MEMORY] for name, column in rows.items()}), len(rows["rewards"]) + MEMORY
    )
    update(plain, rows)
    assert learner.method.metrics() == {"agem_violation_frac": 0.0}
    assert_same(parameters(learner), parameters(plain))
    assert all(p.grad is None for net in learner.agent.targets.values() for p in net.parameters())


def test_the_share_of_violations_is_counted_anew_in_each_visit():
    learner = learner_with()
    learner.graphs = None  # a recording does not know the generator that a test puts in
    learner.visit_start(visit(2), None)
    rows, prior = opposed_batches(learner)
    same = {name: column[:MEMORY] for name, column in rows.items()}
    for earlier in (prior, same, same, same):
        reset_noise(learner)
        update(learner, beside(rows, earlier), len(rows["rewards"]) + MEMORY)
    assert learner.method.metrics() == {"agem_violation_frac": 0.25}
    learner.visit_start(visit(3), None)
    assert learner.method.metrics() == {}


def test_state_round_trip_in_the_middle_of_a_visit():
    learner, other = learner_with(), learner_with(seed=3)
    learner.visit_start(visit(2), None)
    batches = [beside(transitions(k), prior_rows(100 + k)) for k in range(10)]
    for batch in batches[:5]:
        update(learner, batch, 16 + MEMORY)
    other.set_state(learner.get_state())
    for one in (learner, other):
        for batch in batches[5:]:
            update(one, batch, 16 + MEMORY)
    assert_same(parameters(learner), parameters(other))
    assert learner.method.metrics() == other.method.metrics()


def test_on_images_and_discrete_actions():
    config = build_config("agem", {"memory_batch": MEMORY}).networks(conv=[[3, 4, 2], [2, 3, 1]])
    learner = build_learner_of(config, IMAGES, CHOICES)
    rows = game_transitions(0)
    rows["rewards"] = np.full_like(rows["rewards"], 100.0)
    prior = {name: column[:MEMORY].copy() for name, column in rows.items()}
    prior["rewards"] *= -1.0
    before = parameters(learner)
    update(learner, beside(rows, prior), 16 + MEMORY)
    after = parameters(learner)
    assert learner.method.metrics() == {"agem_violation_frac": 1.0}
    assert all(bool(torch.isfinite(value).all()) for value in after.values())
    assert not torch.equal(before["policy.hidden.0.weight"], after["policy.hidden.0.weight"])


# What it asks of a run


def test_prior_rows_beside_every_batch_and_with_replay_every_interval_th_from_d_pre_too():
    for with_replay, interval in ((False, None), (True, 7)):
        config = build_config("agem", {"memory_batch": 6, "with_replay": with_replay}, replay={"interval": 7}).settings
        learner = build_learner("agem", config.method_settings)
        request = learner.method.replay_request(learner.method.config, config.replay)
        assert (request.prior_rows_per_update, request.interval) == (6, interval)
        assert request.needs_store


def test_a_run_without_d_pre_is_refused():
    assert check_run(build_config("agem").settings) == []
    (error,) = check_run(build_config("agem", replay={"prior_capacity": 0}).settings)
    assert error.startswith("memory_batch is 128") and "replay.prior_capacity is 0" in error
