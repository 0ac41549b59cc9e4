"""ANCL on a real Learner: two pulls, an auxiliary run or network, and nothing that leaks between them."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_nbsp.curriculum import Phase
from rllib_nbsp.methods.agent import Twin, VisitData
from rllib_nbsp.methods.ancl import ANCLSettings, AuxiliaryNetworks
from rllib_nbsp.nn.fisher import diagonal_fisher, gaussian
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import BoundarySettings
from tests.methods import test_contract as contract
from tests.tiny import assert_same, build_config, build_learner, parameters, train, transitions, visit

SMALL: dict[str, Any] = {"fisher_batches": 2, "fisher_batch": 8}
CONCURRENT = {"aux": "concurrent", "refresh_updates": 6}
FORMS = pytest.mark.parametrize("form", [{}, CONCURRENT])


class Visits:
    """A Learner through visits of 12 updates on the same batches for every method, as the driver directs it."""

    def __init__(self, method: str = "ancl", keys: dict[str, Any] | None = None, **sections: Any) -> None:
        self.learner: ContinualSACTorchLearner = build_learner(method, {**SMALL, **(keys or {})}, **sections)
        self.boundary = BoundarySettings(**sections.get("boundary", {}))
        self.method: Any = self.learner.method

    def start(self, number: int) -> list[Phase]:
        """Into the visit's first phase."""
        self.learner.visit_start(visit(number), None)
        phases = type(self.method).phases(self.method.config, visit(number))
        self.learner.phase_start(visit(number), phases[0])
        return phases

    def end_phase(self, number: int, phase: Phase) -> None:
        self.learner.phase_end(visit(number), phase, self.data(number))

    def data(self, number: int) -> VisitData:
        return VisitData(visit(number), rows=transitions(number, 50))

    def train(self, number: int, updates: int = 12) -> None:
        train(self.learner, range(100 * number, 100 * number + updates))

    def to_main(self, number: int) -> None:
        """To the first update of the visit's main phase."""
        phases = self.start(number)
        for phase, following in itertools.pairwise(phases):
            self.train(number)
            self.end_phase(number, phase)
            self.learner.phase_start(visit(number), following)

    def visit(self, number: int) -> None:
        """A whole visit and its boundary."""
        self.to_main(number)
        self.train(number)
        self.end(number)

    def end(self, number: int) -> None:
        self.learner.visit_end(visit(number), self.data(number))
        self.learner.boundary_reset(self.boundary)

    @property
    def policy(self) -> list[Tensor]:
        return [p.detach() for p in self.learner.agent.networks["policy"].parameters()]

    def twin(self) -> Twin:
        return self.method.companion[0]


def penalty_gradients(run: Visits, name: str = "policy") -> list[Tensor]:
    term = run.method.loss_terms(None)[name]
    return list(torch.autograd.grad(term, list(run.learner.agent.networks[name].parameters())))


def move(run: Visits, by: float = 0.1) -> None:
    """Every weight of every network somewhere else."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in NETWORKS:
            for p in run.learner.agent.networks[name].parameters():
                p += by * torch.randn(p.shape, generator=generator)


def twin_weights(run: Visits) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": v.clone() for name in NETWORKS for key, v in run.twin().networks[name].state_dict().items()
    }


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


# Two-phase


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
        diagonal_fisher(run.learner.agent.networks["policy"], batch.obs, gaussian())
        for batch in run.data(3).batches(2, 8, same_draws, torch.device("cpu"))
    ]
    run.end_phase(3, Phase("auxiliary"))
    for ours, first, second in zip(run.method.auxiliary.importance["policy"], *parts, strict=True):
        assert torch.allclose(ours, ((first + second) / 2).clamp(min=1e-5), rtol=1e-5)


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


# Concurrent


def test_an_auxiliary_network_lives_from_a_visits_start_to_its_end():
    run = Visits(keys=CONCURRENT)
    run.visit(1)
    assert run.method.companion is None
    run.to_main(2)
    assert_same(twin_weights(run), {k: v for k, v in parameters(run.learner).items() if k in twin_weights(run)})
    run.train(2)
    run.end(2)
    assert run.method.companion is None
    assert run.method.auxiliary.penalties() == {}


def test_it_learns_the_same_whatever_pulls_the_main_networks():
    weights = []
    for lam in (0.0, 1e6):
        run = Visits(keys={**CONCURRENT, "lam": lam, "lam_a": 1e3, "critic": True})
        run.visit(1)
        run.to_main(2)
        run.train(2, 9)
        weights.append((twin_weights(run), parameters(run.learner)))
    assert_same(weights[0][0], weights[1][0])
    assert not torch.equal(weights[0][1]["policy.head.weight"], weights[1][1]["policy.head.weight"])


def test_before_the_first_refresh_nothing_pulls_to_it_and_then_the_anchor_is_where_it_was_last_refreshed():
    run = Visits(keys={**CONCURRENT, "critic": True})
    run.visit(1)
    run.to_main(2)
    reached: dict[str, list[Tensor]] = {}
    for k in range(14):
        train(run.learner, range(200 + k, 201 + k))
        if (k + 1) % 6 == 0:
            reached = {name: [p.detach().clone() for p in run.twin().networks[name].parameters()] for name in NETWORKS}
        assert set(run.method.auxiliary.anchor) == set(reached)
        for name, weights in reached.items():
            assert all(torch.equal(a, w) for a, w in zip(run.method.auxiliary.anchor[name], weights, strict=True))
    assert reached


def test_its_information_comes_from_the_last_batches_before_a_refresh():
    run = Visits(keys=CONCURRENT)
    run.visit(1)
    run.to_main(2)
    parts = []
    for k in range(12):
        train(run.learner, range(200 + k, 201 + k))
        if k in (10, 11):  # the second refresh is after 12 updates, and has forgotten the first
            obs = torch.from_numpy(transitions(1000 + 200 + k)["obs"])
            parts.append(diagonal_fisher(copy.deepcopy(run.twin().networks["policy"]), obs, gaussian()))
    for ours, first, second in zip(run.method.auxiliary.importance["policy"], *parts, strict=True):
        assert torch.allclose(ours, ((first + second) / 2).clamp(min=1e-5), rtol=1e-5)


@pytest.mark.parametrize("updates", [3, 5, 9])
def test_a_run_goes_on_from_before_amid_and_after_a_measurement(updates):
    keys = {**CONCURRENT, "critic": True}
    run, other = Visits(keys=keys), Visits(keys=keys, seed=7)
    run.visit(1)
    run.to_main(2)
    run.train(2, updates)
    assert contract.plain(run.method.get_state())
    other.learner.set_state(pickle.loads(pickle.dumps(run.learner.get_state())))
    for one in (run, other):
        train(one.learner, range(300, 310))
        one.end(2)
        one.visit(3)
    assert_same(parameters(run.learner), parameters(other.learner))
    assert run.learner.checksum() == other.learner.checksum()


def use_concurrent() -> None:
    contract.KEYS["ancl"] = {**contract.KEYS["ancl"], **CONCURRENT}


@pytest.fixture
def concurrent_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contract.KEYS, "ancl", contract.KEYS["ancl"])
    use_concurrent()


def learn_on_rank(rank: int, folder: str) -> None:
    """One of two processes, as in the contract."""
    torch.set_num_threads(1)
    use_concurrent()
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for kind in contract.KINDS:
        run = contract.Run("ancl", kind, ranks=2, rank=rank)
        run.visit(1)
        run.start(2)
        run.train(16)  # amid a measurement
        result = (run.learner.checksum(), run.learner.weights())
        Path(folder, f"{kind}-{rank}.pickle").write_bytes(pickle.dumps(result))
    torch.distributed.destroy_process_group()


def test_two_learners_agree_and_learn_what_one_learns(tmp_path, concurrent_keys):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=learn_on_rank, args=(rank, str(tmp_path)), daemon=True) for rank in range(2)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=200)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    for kind in contract.KINDS:
        (first, weights), (second, _) = (pickle.loads((tmp_path / f"{kind}-{r}.pickle").read_bytes()) for r in range(2))
        assert first == second
        alone = contract.Run("ancl", kind)
        alone.visit(1)
        alone.start(2)
        alone.train(16)
        for name, value in alone.learner.weights().items():
            np.testing.assert_allclose(weights[name], value, rtol=0.0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("kind", contract.KINDS)
def test_the_contract_holds_for_the_concurrent_form(kind, concurrent_keys):
    contract.test_three_visits_have_finite_losses_and_weights("ancl", kind)
    contract.test_state_round_trip_in_the_middle_of_a_visit("ancl", kind)
    contract.test_a_seed_gives_one_run("ancl", kind)


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
