"""ANCL's two pulls on a real Learner: when there are any, what they pull to, what is recorded and refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from rllib_nbsp.curriculum import Phase
from rllib_nbsp.methods.ancl import ANCLSettings, AuxiliaryNetworks
from rllib_nbsp.nn.networks import NETWORKS
from tests.methods.ancl.visits import FORMS, Visits, move, penalty_gradients
from tests.tiny import assert_same, build_config, build_learner, parameters, train, visit

# What a visit consists of


def test_by_default_the_auxiliary_pull_is_a_thousandth_of_the_old():
    assert ANCLSettings().lam == 2e4
    assert ANCLSettings().auxiliary_lam == 20.0
    assert ANCLSettings(lam=5.0).auxiliary_lam == 0.005
    assert ANCLSettings(lam=5.0, lam_a=0.0).auxiliary_lam == 0.0


def test_phases_are_an_auxiliary_and_a_main_run_from_the_second_visit_on():
    assert AuxiliaryNetworks.phases(ANCLSettings(), visit(1)) == [Phase()]
    auxiliary, main = AuxiliaryNetworks.phases(ANCLSettings(), visit(2))
    assert (auxiliary.name, auxiliary.collect) == ("auxiliary", True)
    assert (main.name, main.collect, main.fresh) == ("main", True, True)
    for plain in (ANCLSettings(aux="concurrent"), ANCLSettings(lam_a=0.0)):
        assert AuxiliaryNetworks.phases(plain, visit(2)) == [Phase()]


@FORMS
def test_the_first_visit_is_sac_bit_for_bit(form):
    ours, sac = Visits(keys=form), build_learner("sac")
    ours.to_main(1)
    ours.train(1)
    train(sac, range(100, 112))
    assert_same(parameters(ours.learner), parameters(sac))
    assert ours.method.loss_terms(None) == {}


# The two pulls


def test_the_gradient_by_hand():
    run = Visits(keys={"lam": 6.0, "lam_a": 3.0, "critic": True})
    run.visit(1)
    run.to_main(2)
    move(run)
    old, auxiliary = run.method.old, run.method.auxiliary
    for name in NETWORKS:
        weights = [p.detach() for p in run.learner.agent.networks[name].parameters()]
        columns = (old.importance[name], old.anchor[name], auxiliary.importance[name], auxiliary.anchor[name])
        for gradient, w, f_o, w_o, f_a, w_a in zip(penalty_gradients(run, name), weights, *columns, strict=True):
            expected = 6.0 * f_o * (w - w_o) + 3.0 * f_a * (w - w_a)
            assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_with_equal_importances_the_weights_rest_at_the_convex_combination():
    run = Visits(keys={"lam": 3.0, "lam_a": 1.0})
    run.visit(1)
    run.to_main(2)
    old, auxiliary = run.method.old, run.method.auxiliary
    for pull in (old, auxiliary):
        pull.importance = {"policy": [torch.ones_like(p) for p in run.policy]}
    with torch.no_grad():
        for p, w_o, w_a in zip(run.policy, old.anchor["policy"], auxiliary.anchor["policy"], strict=True):
            p.copy_((3.0 * w_o + 1.0 * w_a) / 4.0)
    assert all(float(g.abs().max()) < 1e-6 for g in penalty_gradients(run))
    move(run, 0.01)
    assert all(float(g.abs().max()) > 1e-3 for g in penalty_gradients(run))


def test_the_auxiliary_pull_alone_leads_to_the_auxiliary_weights():
    run = Visits(keys={"lam": 0.0, "lam_a": 1.0})
    run.visit(1)
    run.to_main(2)
    distances = []
    for _ in range(20):
        distances.append(
            sum(
                float((w - a).square().sum())
                for w, a in zip(run.policy, run.method.auxiliary.anchor["policy"], strict=True)
            )
        )
        for p, gradient in zip(run.policy, penalty_gradients(run), strict=True):
            p -= 1e-3 * gradient
    assert all(later < earlier for earlier, later in itertools.pairwise(distances))


@FORMS
@pytest.mark.parametrize("merge", ["sum", "ema"])
def test_without_the_auxiliary_pull_it_is_ewc_bit_for_bit(form, merge):
    ours = Visits(keys={**form, "lam": 20.0, "lam_a": 0.0, "merge": merge, "critic": True})
    ewc = Visits("ewc", {"coef": 10.0, "merge": merge, "critic": True})
    for number in (1, 2, 3):
        for run in (ours, ewc):
            run.visit(number)
    assert_same(parameters(ours.learner), parameters(ewc.learner))


def test_old_information_is_half_the_old_and_half_the_new():
    merged = {}
    for merge in ("sum", "ema"):
        run = Visits(keys={"lam": 0.0, "lam_a": 0.0, "merge": merge})
        run.visit(1)
        first = [part.clone() for part in run.method.old.importance["policy"]]
        run.visit(2)
        merged[merge] = run.method.old.importance["policy"]
    for f, total, half in zip(first, merged["sum"], merged["ema"], strict=True):
        assert torch.allclose(half, 0.5 * f + 0.5 * (total - f), rtol=1e-3, atol=1e-6)


def test_the_output_layer_is_free_if_it_is_not_regularised():
    run = Visits(keys={"lam": 5.0, "lam_a": 5.0, "reg_output_layer": False})
    run.visit(1)
    run.to_main(2)
    move(run)
    *hidden, weight, bias = penalty_gradients(run)
    assert bool((weight == 0.0).all())
    assert bool((bias == 0.0).all())
    assert all(bool((gradient != 0.0).any()) for gradient in hidden)


@FORMS
def test_targets_and_temperature_are_never_pulled(form):
    run = Visits(keys={**form, "critic": True})
    run.visit(1)
    run.to_main(2)
    run.train(2)
    run.learner.agent.log_alpha.grad = None
    sum(run.method.loss_terms(None).values()).backward()
    assert run.learner.agent.log_alpha.grad is None
    assert all(p.grad is None for net in run.learner.agent.targets.values() for p in net.parameters())


# Records and configuration


def test_both_penalties_are_recorded_and_the_loss_shows_their_sum():
    run = Visits(keys={"lam": 6.0, "lam_a": 3.0})
    run.visit(1)
    run.to_main(2)
    move(run)
    old, auxiliary = (pull.penalties()["policy"].item() for pull in (run.method.old, run.method.auxiliary))
    assert run.method.metrics() == {
        "ancl_old_penalty_policy": pytest.approx(old),
        "ancl_aux_penalty_policy": pytest.approx(auxiliary),
    }
    run.learner.report()  # the next one is of the updates since
    run.train(2, 1)
    assert run.learner.report()["policy_method_loss"] == pytest.approx(3.0 * old + 1.5 * auxiliary, rel=1e-5)


def test_what_would_never_happen_is_an_error():
    def errors(warmup_each_visit: bool = True, **keys: Any) -> list[str]:
        config = build_config("ancl", keys).visit(max_env_steps=1000, warmup_env_steps=200)
        run = config.training(updates_per_env_step=0.5).boundary(warmup_each_visit=warmup_each_visit).settings
        return AuxiliaryNetworks.check(ANCLSettings(**keys), run)

    assert errors() == errors(aux="concurrent", refresh_updates=400) == errors(aux="concurrent", lam_a=0.0) == []
    (late,) = errors(aux="concurrent", refresh_updates=401)
    assert late.startswith("refresh_updates is 401; a visit has at most 400 updates")
    # Nothing learns beside the first visit, so that a warm-up in it alone takes nothing from what it learns.
    assert errors(False, aux="concurrent", refresh_updates=500) == []
    (short,) = errors(aux="concurrent", refresh_updates=9)
    assert short.startswith("refresh_updates is 9; it must be at least fisher_batches, 10")
