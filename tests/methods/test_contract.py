"""What every method owes: finite losses, a state to go on from, the same result on every Learner."""

from __future__ import annotations

import multiprocessing
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_nbsp.curriculum import Phase
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.methods.base import Acting, ContinualMethod, MethodSettings
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.plugins import import_plugins
from rllib_nbsp.replay.buffer import ReplayRequest
from rllib_nbsp.settings import BoundarySettings, ModelSettings, ReplaySettings, ScoringSettings, TrainingSettings
from tests.documents import as_documented, documented
from tests.methods.contract import (
    ALL,
    CONV,
    EVERY_METHOD,
    EVERY_RUN,
    KEYS,
    KINDS,
    NEURONS,
    SPACES,
    Run,
    alone,
    assert_goes_on_from_its_state,
    plain,
)
from tests.methods.probes import PROBES
from tests.tiny import (
    build_config,
    build_learner,
    parameters,
    train,
    transitions,
    visit,
)

every_run = pytest.mark.parametrize(("method", "kind"), EVERY_RUN)


@pytest.fixture(autouse=True)
def _probes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, method in PROBES.items():
        monkeypatch.setitem(METHODS, name, method)
    yield


# One Learner


@every_run
def test_three_visits_have_finite_losses_and_weights(method, kind):
    seen = alone(method, kind)
    for report, weights in zip(seen.reports, seen.weights, strict=True):
        assert all(np.isfinite(value) for value in report.values()), report
        assert all(bool(torch.isfinite(value).all()) for value in weights.values())


@every_run
def test_a_rollout_worker_acts_as_the_learner_does_with_what_it_gives_away(method, kind):
    run = Run(method, kind)
    run.visit(1)
    run.start(2)
    run.train(8)
    config = build_config(method, KEYS.get(method), seed=77).networks(conv=CONV)
    config.environment(observation_space=SPACES[kind][0], action_space=SPACES[kind][1])
    worker = config.get_rl_module_spec(spaces={DEFAULT_MODULE_ID: SPACES[kind]}, inference_only=True).build()
    module, obs = run.learner.sac.module, torch.from_numpy(run.rows(9)["obs"])
    assert not np.array_equal(worker.acting_weights(), module.acting_weights())
    worker.set_acting_weights(run.learner.acting_weights())
    assert np.array_equal(worker.acting_weights(), module.acting_weights())
    for task in (0, 1, torch.arange(len(obs)) % 2):
        for explore in (False, True):
            actions = [
                one.act(obs, explore=explore, generator=torch.Generator().manual_seed(0), task=task)
                for one in (worker, module)
            ]
            assert torch.equal(*actions)


@every_run
def test_state_round_trip_in_the_middle_of_a_visit(method, kind):
    assert_goes_on_from_its_state(Run(method, kind), Run(method, kind, seed=77))


CONCURRENT = {"aux": "concurrent", "refresh_updates": 6, "fisher_batches": 2}
IN_STEPS = [(method, None) for method in sorted(METHODS) if not METHODS[method].needs_activations]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("method", "keys"), [*IN_STEPS, ("ancl", CONCURRENT)])
def test_with_a_delayed_actor_a_method_learns_and_goes_on_from_its_state(method, keys, kind):
    runs = [Run(method, kind, seed=seed, keys=keys, actor_interval=3) for seed in (0, 77)]
    before = parameters(runs[0].learner)
    assert_goes_on_from_its_state(*runs)
    report, after = runs[0].learner.report(runs[0].rows(0)), parameters(runs[0].learner)
    assert all(np.isfinite(value) for value in report.values()), report
    assert {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])} >= {*NETWORKS}
    # 20 updates in the first visit, and 8, 12 and 8 after it.
    assert runs[0].learner.get_state()["continual"]["updates"] >= 48


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_states_are_tensors_arrays_numbers_and_strings_in_dicts_and_lists(method):
    assert plain(alone(method, "continuous").amid)


@every_run
def test_recorded_arrays_are_named_by_network_layer_and_quantity(method, kind):
    for name, array in alone(method, kind).arrays.items():
        network, layer, quantity = name.split("/")
        assert network in NETWORKS
        assert len(array) == NEURONS[kind][int(layer)]
        assert re.fullmatch(r"[a-z_]+", quantity)


OURS = [method for method in sorted(METHODS) if METHODS[method].__module__.startswith("rllib_nbsp.")]


@pytest.mark.parametrize("method", OURS)
def test_every_number_and_array_that_a_method_of_ours_records_is_documented(method):
    seen = alone(method, "continuous")
    numbers = {as_documented(name) for report in seen.reports for name in report}
    arrays = {f"policy/i/{name.split('/')[2]}" for name in seen.arrays}
    assert numbers | arrays <= documented()


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_declarations_are_what_the_driver_reads(method):
    cls = METHODS[method]
    assert issubclass(cls.Config, MethodSettings)
    config = cls.Config()
    assert isinstance(cls.scoring(config), ScoringSettings | None)
    assert isinstance(cls.replay_request(config, ReplaySettings()), ReplayRequest)
    assert isinstance(cls.acting(config), Acting)
    assert set(cls.boundary_exceptions(config)) <= set(BoundarySettings.model_fields)
    assert set(cls.model_config(config, ModelSettings())) <= set(ModelSettings.model_fields)
    assert set(cls.training_exceptions(config)) <= set(TrainingSettings.model_fields)
    for name in NETWORKS:
        assert callable(cls.network(config, name, 2, 4))
    for number in range(1, 5):
        phases = cls.phases(config, visit(number))
        assert all(isinstance(phase, Phase) for phase in phases)
        assert any(phase.collect for phase in phases)
    assert cls.check(config, build_config(method).settings) == []


@pytest.mark.parametrize("method", sorted(METHODS))
def test_any_method_replays_beside_what_it_does_if_asked(method):
    cls = METHODS[method]
    without, with_replay = (
        cls.replay_request(cls.Config(with_replay=value), ReplaySettings(interval=7)) for value in (False, True)
    )
    assert (without.interval, with_replay.interval) == (None, 7)
    assert with_replay.prior_rows_per_update == without.prior_rows_per_update


@every_run
def test_a_seed_gives_one_run(method, kind):
    again = Run(method, kind)
    again.visit(1)
    again.visit(2)
    assert again.learner.checksum() == alone(method, kind).checksums[1]


def test_the_base_method_is_fine_tuning_and_draws_no_random_number():
    assert METHODS["sac"] is ContinualMethod
    run = Run("sac")
    before = run.learner.agent.generator.get_state()
    run.visit(1)
    run.visit(2)
    assert torch.equal(run.learner.agent.generator.get_state(), before)
    assert run.buffer.prior_size == 0
    assert run.learner.method.get_state() == {}


# What a method may touch


def test_a_snapshot_is_a_copy_and_restores_everything():
    learner = build_learner()
    train(learner, range(4))
    snapshot, before = learner.agent.snapshot(), learner.checksum()
    train(learner, range(4, 8))
    after = learner.checksum()
    for _ in range(2):
        learner.agent.restore(snapshot)
        assert learner.checksum() == before
        learner.sac.module.set_noise_state(None, torch.device("cpu"))
        train(learner, range(4))
        learner.sac.module.set_noise_state(None, torch.device("cpu"))
    assert after != before
    assert {float(s["step"]) for o in learner.agent.optimizers.values() for s in o.state.values()} == {8.0}


def test_the_mean_over_one_learner_is_the_value_itself():
    value = torch.tensor([1.0, 2.0])
    assert build_learner().agent.all_reduce_mean(value) is value
    assert value.tolist() == [1.0, 2.0]


def test_batches_of_a_visit_are_uniform_and_the_same_for_one_generator_state():
    data = VisitData(visit(1), rows=transitions(0, 50))
    drawn = [
        [b.obs for b in data.batches(40, 25, torch.Generator().manual_seed(seed), torch.device("cpu"))]
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not torch.equal(drawn[0][0], drawn[2][0])
    rows, counts = torch.cat(drawn[0]).unique(dim=0, return_counts=True)
    # 1000 draws of 50 rows: 20 each, standard deviation 4.4.
    assert len(rows) == 50
    assert int((counts - 20).abs().max()) < 5 * 4.4


# Two Learners

RANKS_TIMEOUT_S = 560
"""Two processes take every method of both kinds through two visits: half a minute on a quiet machine."""


def learn_on_rank(rank: int, folder: str, runs: list[tuple[str, str]], modules: list[str]) -> None:
    """One of two processes: these methods through two visits, each rank on its own shard of every batch."""
    import_plugins(modules)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    METHODS.update(PROBES)
    for method, kind in runs:
        run = Run(method, kind, ranks=2, rank=rank)
        run.visit(1)
        boundary = run.learner.checksum()
        run.visit(2)
        result = {"boundary": boundary, "end": run.learner.checksum(), "report": run.learner.report()}
        Path(folder, f"{method}-{kind}-{rank}.pickle").write_bytes(pickle.dumps((result, run.learner.weights())))
        own = torch.tensor([float(rank)])
        assert run.learner.agent.all_reduce_mean(own).item() == 0.5
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_learners(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], list[Any]]:
    """Per method and kind of actions, of those that were selected, the result and weights of each of two processes."""
    selected = {
        (item.callspec.params["method"], item.callspec.params["kind"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and "two_learners" in item.fixturenames
    }
    runs = [run for run in SEVERAL if run in selected]
    modules = [ALL[method].__module__ for method, _ in runs]
    folder = tmp_path_factory.mktemp("two_learners")
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=learn_on_rank, args=(rank, str(folder), runs, modules), daemon=True) for rank in range(2)
    ]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=RANKS_TIMEOUT_S)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return {
        (method, kind): [pickle.loads((folder / f"{method}-{kind}-{rank}.pickle").read_bytes()) for rank in range(2)]
        for method, kind in runs
    }


SEVERAL = [(method, kind) for method, kind in EVERY_RUN if ALL[method].max_learners != 1]
"""Others are refused before a run starts."""
on_two_learners = pytest.mark.parametrize(("method", "kind"), SEVERAL)


@pytest.mark.timeout(RANKS_TIMEOUT_S + 40)
@on_two_learners
def test_every_method_stays_bit_equal_across_two_processes_through_a_boundary(two_learners, method, kind):
    (first, weights), (second, other) = two_learners[method, kind]
    assert first["boundary"] == second["boundary"]
    assert first["end"] == second["end"]
    assert first["end"] != first["boundary"]
    for name, value in weights.items():
        assert np.array_equal(value, other[name]), name
    if method == "nbsp":
        assert first["report"]["masked_frac"] > 0.0


@pytest.mark.timeout(RANKS_TIMEOUT_S + 40)
@on_two_learners
def test_two_learners_learn_what_one_learns(two_learners, method, kind):
    # The same rows and the same noise: the gradient is the mean over the batch, however it is cut into shards.
    result, weights = two_learners[method, kind][0]
    one = alone(method, kind)
    for name, value in one.weights[1].items():
        np.testing.assert_allclose(weights[name], value, rtol=0.0, atol=2e-6, err_msg=name)
    assert result["report"]["masked_frac"] == one.reports[1]["masked_frac"]
