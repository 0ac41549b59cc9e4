"""ANCL's auxiliary network beside the main ones: it learns on its own, and pulls from where it was last refreshed."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_nbsp.nn.fisher import diagonal_fisher, gaussian
from rllib_nbsp.nn.networks import NETWORKS
from tests.methods import contract, test_contract
from tests.methods.ancl.visits import CONCURRENT, Visits, twin_weights
from tests.tiny import assert_same, parameters, train, transitions


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
            parts.append(diagonal_fisher(copy.deepcopy(run.twin().networks["policy"]), obs, gaussian(), floor=1e-5))
    for ours, first, second in zip(run.method.auxiliary.importance["policy"], *parts, strict=True):
        assert torch.allclose(ours, (first + second) / 2, rtol=1e-5)


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
    test_contract.test_three_visits_have_finite_losses_and_weights("ancl", kind)
    test_contract.test_state_round_trip_in_the_middle_of_a_visit("ancl", kind)
    test_contract.test_a_seed_gives_one_run("ancl", kind)
