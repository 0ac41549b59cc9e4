"""ANCL's auxiliary run before the main run: free of pulls, an anchor at its end, and nothing else left of it."""

from __future__ import annotations

import pickle

import pytest
import torch

from rllib_nbsp.curriculum import Phase
from rllib_nbsp.nn.fisher import diagonal_fisher, gaussian
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.settings import BoundarySettings
from tests.methods import contract
from tests.methods.ancl.visits import Visits
from tests.tiny import assert_same, build_learner, parameters, train, visit


def test_the_auxiliary_run_has_no_regulariser():
    ours, sac = Visits(keys={"lam": 1e8, "lam_a": 1e8, "critic": True}), build_learner("sac")
    ours.visit(1)
    ours.start(2)
    train(sac, range(100, 112))
    sac.boundary_reset(BoundarySettings())
    assert ours.method.loss_terms(None) == {}
    ours.train(2)
    train(sac, range(200, 212))
    assert_same(parameters(ours.learner), parameters(sac))


@pytest.mark.parametrize("reset", [True, False])
def test_the_main_run_starts_where_the_auxiliary_run_started(reset):
    run = Visits(boundary={"reset_optimizer": reset})
    run.visit(1)
    start, moments = parameters(run.learner), run.learner.agent.snapshot()["optimizers"]
    run.start(2)
    run.train(2)
    assert not torch.equal(parameters(run.learner)["target_qf.head.weight"], start["target_qf.head.weight"])
    run.end_phase(2, Phase("auxiliary"))
    assert_same(parameters(run.learner), start)
    after = run.learner.agent.snapshot()["optimizers"]
    assert contract.plain(after)
    assert {name: len(state) for name, state in moments.items()} == {name: len(state) for name, state in after.items()}
    for name, state in moments.items():
        assert bool(state) is not reset
        for i, before in state.items():
            assert_same(before, after[name][i])


def test_the_auxiliary_anchor_is_where_the_auxiliary_run_ended():
    run = Visits(keys={"critic": True})
    run.visit(1)
    run.start(2)
    run.train(2)
    reached = {name: [p.detach().clone() for p in net.parameters()] for name, net in run.learner.agent.networks.items()}
    run.end_phase(2, Phase("auxiliary"))
    for name, weights in reached.items():
        assert all(torch.equal(a, w) for a, w in zip(run.method.auxiliary.anchor[name], weights, strict=True))


def test_at_the_main_runs_start_only_the_auxiliary_pull_is_there_and_none_if_nothing_was_learned():
    for updates in (12, 0):
        run = Visits(keys={"critic": True})
        run.visit(1)
        run.start(2)
        run.train(2, updates)
        run.end_phase(2, Phase("auxiliary"))
        for name in NETWORKS:
            assert run.method.old.penalties()[name].item() == 0.0
            assert (run.method.auxiliary.penalties()[name].item() == 0.0) is (updates == 0)


def test_the_auxiliary_information_is_that_of_the_visit_and_never_accumulates():
    run = Visits(keys={"merge": "sum"})
    for number in (1, 2):
        run.visit(number)
        assert run.method.auxiliary.penalties() == {}
    run.start(3)
    run.train(3)
    same_draws = torch.Generator()
    same_draws.set_state(run.learner.agent.generator.get_state())
    parts = [
        diagonal_fisher(run.learner.agent.networks["policy"], batch.obs, gaussian(), floor=1e-5)
        for batch in run.data(3).batches(2, 8, same_draws, torch.device("cpu"))
    ]
    run.end_phase(3, Phase("auxiliary"))
    for ours, first, second in zip(run.method.auxiliary.importance["policy"], *parts, strict=True):
        assert torch.allclose(ours, (first + second) / 2, rtol=1e-5)


def test_a_run_goes_on_from_the_middle_of_an_auxiliary_run():
    run, other = Visits(keys={"critic": True}), Visits(keys={"critic": True}, seed=7)
    run.visit(1)
    run.start(2)
    run.train(2, 5)
    assert contract.plain(run.method.get_state())
    other.learner.set_state(pickle.loads(pickle.dumps(run.learner.get_state())))
    for one in (run, other):
        train(one.learner, range(300, 304))
        one.end_phase(2, Phase("auxiliary"))
        one.learner.phase_start(visit(2), Phase("main", fresh=True))
        one.train(2)
        one.end(2)
    assert_same(parameters(run.learner), parameters(other.learner))
    assert run.learner.checksum() == other.learner.checksum()
