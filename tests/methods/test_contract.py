"""What every method owes: finite losses, a state to go on from, the same result on every Learner."""

from __future__ import annotations

import copy
import functools
import multiprocessing
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_nbsp.curriculum import Phase
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.methods.base import Acting, ContinualMethod, MethodSettings
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.nn.neurons import goal_labels
from rllib_nbsp.replay.buffer import ReplayRequest, TaskReplayBuffer
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import BoundarySettings, ModelSettings, ReplaySettings, ScoringSettings, TrainingSettings
from tests.methods.probes import PROBES
from tests.tiny import (
    ACTIONS,
    CHOICES,
    HIDDEN,
    IMAGES,
    OBSERVATIONS,
    ROWS,
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

ALL = {**METHODS, **PROBES}
EVERY_METHOD = [*sorted(METHODS), *PROBES]


@pytest.fixture(autouse=True)
def _probes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, method in PROBES.items():
        monkeypatch.setitem(METHODS, name, method)
    yield


KEYS: dict[str, dict[str, Any]] = {
    "agem": {"memory_batch": 2},
    "ancl": {"lam": 20.0, "lam_a": 5.0, "critic": True, "fisher_batches": 2, "fisher_batch": 8},
    "cbp": {"rate": 0.05, "maturity": 3, "bias_transfer": True},
    "cloning": {"memory_rows": 20, "batch_rows": 8, "coef": 1.0, "critic": True},
    "cotasp": {"distill_updates": 4, "alternate": [3, 2]},
    "l2": {"coef": 10.0, "critic": True},
    "npc": {"delta": 0.9},
    "packnet": {"retrain_updates": 6},
    "plasticity_injection": {"schedule": "boundary", "max_injections": 2},
    "redo": {"interval": 5, "threshold": 0.3},
}
"""Keys under which a method does all that it does within the few updates and neurons of these tests."""

KINDS = ("continuous", "discrete")
SPACES = {"continuous": (OBSERVATIONS, ACTIONS), "discrete": (IMAGES, CHOICES)}
ROWS_OF = {"continuous": transitions, "discrete": game_transitions}
CONV = [[4, 4, 2], [5, 3, 1]]
NEURONS = {"continuous": HIDDEN, "discrete": (4, 5, *HIDDEN)}
EVERY_RUN = [(method, kind) for method in EVERY_METHOD for kind in KINDS]
every_run = pytest.mark.parametrize(("method", "kind"), EVERY_RUN)


class Run:
    """One Learner's part of a run: what the driver does, without environments and without Ray.

    Visits alternate between two tasks. Each adds 60 transitions and makes 20 updates in calls of several, with a real
    replay buffer; then comes the boundary. Actions are continuous, or discrete on images.
    """

    def __init__(
        self,
        method: str,
        kind: str = "continuous",
        *,
        ranks: int = 1,
        rank: int = 0,
        seed: int = 0,
        keys: dict[str, Any] | None = None,
        **training: Any,
    ) -> None:
        self.kind = kind
        keys = {**KEYS.get(method, {}), **(keys or {})}
        config = build_config(method, keys, seed=seed, training=training).networks(conv=CONV)
        config.learners(num_learners=ranks if ranks > 1 else 0)
        self.learner: ContinualSACTorchLearner = build_learner_of(config, *SPACES[kind])
        self.run = config.resolved()
        self.schedule = self.run.schedule()
        self.ranks, self.rank = ranks, rank
        self.buffer = TaskReplayBuffer(
            ReplaySettings(capacity=200, prior_capacity=40, interval=5),
            self.run.replay_request,
            self.run.row_spec,
            batch_size=ROWS,
            num_shards=ranks,
            seed=seed,
        )
        self.data: VisitData | None = None

    def visit(self, number: int) -> None:
        """A whole visit and the boundary after it."""
        self.start(number)
        self.train(20)
        self.end()

    def rows(self, seed: int, count: int = ROWS) -> dict[str, np.ndarray]:
        """Random rows of the run's spaces."""
        return ROWS_OF[self.kind](seed, count)

    def start(self, number: int) -> None:
        """Up to the first update of the last phase that collects."""
        self.schedule.start_visit(visit(number))
        self.learner.visit_start(visit(number), self.data)
        self._start_phase()
        while self.schedule.is_auxiliary:
            self._run_phase()
            self._end_phase()
            self.schedule.next_phase()
            self._start_phase()

    def train(self, updates: int) -> None:
        """So many updates, four a call."""
        for _ in range(updates // 4):
            self._update(4)

    def _start_phase(self) -> None:
        now, phase = self.schedule.visit, self.schedule.phase
        if phase.fresh:
            self.buffer.clear()
        if phase.collect:
            number = now.number
            fresh = {**self.rows(number, 60), "episode": np.arange(60) // 10, "truncateds": np.zeros(60, bool)}
            if self.kind == "discrete":  # the next row's stack is this one's next, but for its oldest frame
                frames = np.random.default_rng(number).integers(0, 256, (64 + 6, *IMAGES.shape[1:]), np.uint8)
                first = np.arange(60) + np.arange(60) // 10
                fresh["obs"] = np.stack([frames[i : i + 4] for i in first])
                fresh["new_obs"] = np.stack([frames[i + 1 : i + 5] for i in first])
            self.buffer.add(fresh, now.task.index)
        self.learner.phase_start(now, phase)

    def _run_phase(self) -> None:
        if self.schedule.phase.collect:
            self.train(20)
        elif self.schedule.updates_owed:
            self._update(self.schedule.updates_owed, self.schedule.phase.data)

    def _end_phase(self) -> None:
        now = self.schedule.visit
        self.learner.phase_end(now, self.schedule.phase, VisitData(now, rows=self._visit_rows()))

    def _visit_rows(self) -> dict[str, np.ndarray]:
        wanted, now = self.run.method.visit_data_rows, self.schedule.visit
        return self.buffer.current_rows(now.task.index, wanted, np.random.default_rng(now.number)) if wanted else {}

    def _update(self, count: int, only: str | None = None) -> None:
        first = self.schedule.updates + 1
        columns = self.buffer.sample(range(first, first + count), self.schedule.visit.task.index, only)
        size = len(columns["rewards"]) // self.ranks
        # As RLlib shards a batch: contiguous parts.
        shard = {name: column[self.rank * size : (self.rank + 1) * size] for name, column in columns.items()}
        update(self.learner, shard, size // count)
        self.schedule.updated(count)

    def end(self) -> None:
        """The phases that are left, then the boundary: scores of the first Learner, the method, D_pre, the resets."""
        self._end_phase()
        while self.schedule.next_phase():
            self._start_phase()
            self._run_phase()
            self._end_phase()
        now = self.schedule.visit
        self.data = VisitData(now, rows=self._visit_rows(), scores=self.scores(now.number))
        self.learner.visit_end(now, self.data)
        self.buffer.store_prior(now.task.index)
        if self.run.boundary.clear_buffer:
            self.buffer.clear()
        self.learner.boundary_reset(self.run.boundary)

    def scores(self, number: int) -> Any:
        """Of a random rollout after that visit, if the method needs any."""
        if self.run.scoring is None:
            return None
        rollout = self.rows(100 + number, 80)
        labels = goal_labels((rollout["obs"].reshape(80, -1).mean(1) > 0.2).astype(float))
        if self.kind == "discrete":
            labels = rollout["obs"].reshape(80, -1).mean(1) > 127.5
        chunk = {"obs": rollout["obs"], "actions": rollout["actions"], "labels": labels}
        # On two Learners the first one scores, on its own weights, and everybody gets its scores.
        message = [self.learner.score_neurons([chunk], None, float(labels.mean()))] if self.rank == 0 else [None]
        if self.ranks > 1:
            torch.distributed.broadcast_object_list(message)
        return message[0]


# One Learner


@dataclass
class Alone:
    """What a run of one Learner through three visits left on its way, made once for all tests of it."""

    reports: list[dict[str, float]]
    weights: list[dict[str, Tensor]]
    checksums: list[str]
    arrays: dict[str, np.ndarray]
    """After the first visit."""
    amid: dict[str, Any]
    """The method's state at the start of the second one."""


def alone(method: str, kind: str) -> Alone:
    """The run of that method, seed 0."""
    return _alone(method, kind, repr(KEYS.get(method)))


@functools.cache
def _alone(method: str, kind: str, keys: str) -> Alone:
    # `keys` tells runs apart whose tests have put others in their place.
    run, seen = Run(method, kind), Alone([], [], [], {}, {})
    for number in range(1, 4):
        run.start(number)
        if number == 2:
            seen.amid = copy.deepcopy(run.learner.method.get_state())
        run.train(20)
        run.end()
        seen.reports.append(run.learner.report(run.rows(0)["obs"]))
        seen.weights.append(parameters(run.learner))
        seen.checksums.append(run.learner.checksum())
        if number == 1:
            seen.arrays = {name: array.copy() for name, array in run.learner.method_arrays().items()}
    return seen


@every_run
def test_three_visits_have_finite_losses_and_weights(method, kind):
    seen = alone(method, kind)
    for report, weights in zip(seen.reports, seen.weights, strict=True):
        assert all(np.isfinite(value) for value in report.values()), report
        assert all(bool(torch.isfinite(value).all()) for value in weights.values())


@every_run
def test_state_round_trip_in_the_middle_of_a_visit(method, kind):
    assert_goes_on_from_its_state(Run(method, kind), Run(method, kind, seed=77))


def assert_goes_on_from_its_state(run: Run, other: Run) -> None:
    """`other` with the state of `run` in the middle of a visit never parts from it."""
    run.visit(1)
    run.start(2)
    run.train(8)
    state = pickle.loads(pickle.dumps(run.learner.get_state()))
    batches = [run.rows(k) for k in range(12)]
    other.learner.set_state(state)
    for one in (run, other):
        for batch in batches:
            update(one.learner, batch)
        one.data = VisitData(visit(2), rows=run.rows(5, 64), scores=one.scores(2))
        one.learner.visit_end(visit(2), one.data)
        one.learner.boundary_reset(BoundarySettings())
        one.learner.visit_start(visit(3), one.data)
        for k in range(12, 20):
            update(one.learner, run.rows(k))
    assert_same(parameters(other.learner), parameters(run.learner))
    assert other.learner.checksum() == run.learner.checksum()
    assert other.learner.report() == run.learner.report()


CONCURRENT = {"aux": "concurrent", "refresh_updates": 6, "fisher_batches": 2}
IN_STEPS = [(method, None) for method in sorted(METHODS) if not METHODS[method].needs_activations]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("method", "keys"), [*IN_STEPS, ("ancl", CONCURRENT)])
def test_with_a_delayed_actor_a_method_learns_and_goes_on_from_its_state(method, keys, kind):
    runs = [Run(method, kind, seed=seed, keys=keys, actor_interval=3) for seed in (0, 77)]
    before = parameters(runs[0].learner)
    assert_goes_on_from_its_state(*runs)
    report, after = runs[0].learner.report(runs[0].rows(0)["obs"]), parameters(runs[0].learner)
    assert all(np.isfinite(value) for value in report.values()), report
    assert {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])} >= {*NETWORKS}
    # 20 updates in the first visit, and 8, 12 and 8 after it.
    assert runs[0].learner.get_state()["continual"]["updates"] >= 48


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(plain(item) for item in value)
    return isinstance(value, Tensor | np.ndarray | bool | int | float | str)


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


def learn_on_rank(rank: int, folder: str, runs: list[tuple[str, str]]) -> None:
    """One of two processes: these methods through two visits, each rank on its own shard of every batch."""
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
    folder = tmp_path_factory.mktemp("two_learners")
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=learn_on_rank, args=(rank, str(folder), runs), daemon=True) for rank in range(2)
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
