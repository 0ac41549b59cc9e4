"""NBSP in a Learner: SAC where nothing is masked, and masked rows that move less or not at all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from rllib_nbsp.curriculum import Curriculum
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.methods.nbsp import NBSPSettings, NeuronLevelBalance
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.nn.neurons import select_top
from rllib_nbsp.settings import BoundarySettings
from tests.tiny import (
    assert_same,
    build_learner,
    end_visit,
    parameters,
    random_scores,
    train,
    transitions,
    update,
    visit,
)


def masked(keys: Mapping[str, Any]) -> dict[str, Tensor]:
    """A run of two visits with random scores between them."""
    learner = build_learner("nbsp", keys)
    train(learner, range(15))
    data = end_visit(learner, 1, random_scores(0))
    learner.boundary_reset(BoundarySettings())
    learner.visit_start(visit(2), data)
    train(learner, range(15, 40))
    return parameters(learner)


def fine_tuned() -> dict[str, Tensor]:
    learner = build_learner("sac")
    train(learner, range(15))
    data = end_visit(learner, 1, None)
    learner.boundary_reset(BoundarySettings())
    learner.visit_start(visit(2), data)
    train(learner, range(15, 40))
    return parameters(learner)


@pytest.mark.parametrize("keys", [{"uniform_lr": 1.0}, {"skill_frac": 0.0}, {"mask_on": "grad", "uniform_lr": 1.0}])
def test_mask_1_is_sac_bit_for_bit(keys):
    assert_same(masked(keys), fine_tuned())


def test_masks_do_change_what_is_learned():
    sac, nbsp = fine_tuned(), masked({})
    assert all(not torch.equal(sac[name], nbsp[name]) for name in sac)


def test_rows_without_a_mask_take_sacs_step_to_the_last_bit():
    sac, nbsp = build_learner(), build_learner("nbsp")
    end_visit(nbsp, 1, random_scores(0))
    before = parameters(sac)
    for learner in (sac, nbsp):
        update(learner, transitions(0))
    plain, braked = parameters(sac), parameters(nbsp)
    for name, i in itertools.product(NETWORKS, range(2)):
        mask = nbsp.method.masks[name][i]
        for part in ("weight", "bias"):
            key = f"{name}.hidden.{i}.{part}"
            free = mask == 1.0
            assert torch.equal(plain[key][free], braked[key][free])
            rows = [mask[~free].view(-1, *[1] * (plain[key].dim() - 1))]
            step = (plain[key] - before[key])[~free]
            assert torch.allclose((braked[key] - before[key])[~free], rows[0] * step, rtol=1e-3, atol=1e-7)
    assert torch.equal(plain["log_alpha"], braked["log_alpha"])


def test_a_frozen_neuron_stays_in_a_warm_learner_and_the_rest_of_its_layer_moves():
    # mask_alpha 0 freezes whatever is chosen.
    learner = build_learner("nbsp", {"mask_alpha": 0.0})
    train(learner, range(20))
    end_visit(learner, 1, random_scores(0))
    before = parameters(learner)
    train(learner, range(20, 70))
    after = parameters(learner)
    for name, i in itertools.product(NETWORKS, range(2)):
        frozen = learner.method.masks[name][i] == 0.0
        for part in ("weight", "bias"):
            key = f"{name}.hidden.{i}.{part}"
            assert torch.equal(before[key][frozen], after[key][frozen])
            moved = (before[key] != after[key]).flatten(1).any(1) if part == "weight" else before[key] != after[key]
            assert int(moved[~frozen].sum()) >= int((~frozen).sum()) - 1  # a dead unit may stand still
    assert all(not torch.equal(before[f"{n}.head.weight"], after[f"{n}.head.weight"]) for n in NETWORKS)


def test_clipping_comes_after_the_mask_on_the_gradient():
    # A gradient that a mask of 0 has removed must not count in the norm.
    clip = 0.05
    learner = build_learner("nbsp", {"mask_on": "grad", "uniform_lr": 0.0}, training={"grad_clip": clip})
    end_visit(learner, 1, random_scores(0))
    update(learner, transitions(0))
    for name in NETWORKS:
        network = learner.agent.networks[name]
        assert all(bool((p.grad == 0.0).all()) for p in network.hidden.parameters())
        norm = sum(float(p.grad.square().sum()) for p in network.head.parameters()) ** 0.5
        assert norm == pytest.approx(clip, rel=1e-3)


def test_actor_and_critics_are_masked_on_replayed_batches_too():
    # docs/readings.md R16.
    learner = build_learner("nbsp", {"uniform_lr": 0.0})
    end_visit(learner, 1, random_scores(0))
    before = parameters(learner)
    for k in range(4):
        update(learner, transitions(k, from_prior=k % 2 == 0))
    after = parameters(learner)
    assert all(torch.equal(before[name], after[name]) for name in before if ".hidden." in name and "target" not in name)


def test_the_real_selection_and_the_masks_agree():
    # The independent way round: rank all hidden neurons of a network by hand from the scores.
    scores = random_scores(5)
    learner = build_learner("nbsp")
    end_visit(learner, 1, scores)
    for name, layers in scores.layers.items():
        expected = select_top({name: [layer.score for layer in layers]}, 0.2, "network")[name]
        for mask, chosen, layer in zip(learner.method.masks[name], expected, layers, strict=True):
            assert torch.equal(mask < 1, chosen)
            assert torch.allclose(mask[chosen].double(), 0.2 * (1 - layer.score[chosen]), atol=1e-7)


def test_a_given_factor_needs_no_scores():
    assert NeuronLevelBalance.scoring(NBSPSettings(uniform_lr=0.3)) is None
    assert NeuronLevelBalance.scoring(NBSPSettings(uniform_lr="skill")) is not None
    learner = build_learner("nbsp", {"uniform_lr": 0.3, "modules": "actor"})
    visit = Curriculum(["a", "b"], 1).visit(1)
    learner.visit_end(visit, VisitData(visit))
    assert {name: float(layers[0][0]) for name, layers in learner.method.masks.items()} == pytest.approx(
        {"policy": 0.3, "qf": 1.0, "qf_twin": 1.0}
    )
