"""A Learner's part of a whole run under any method, without environments and without Ray: what the contract is of."""

from __future__ import annotations

import copy
import functools
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.nn.neurons import goal_labels
from rllib_nbsp.replay.buffer import TaskReplayBuffer
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import BoundarySettings, ReplaySettings
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
    build_learner_of,
    game_transitions,
    parameters,
    transitions,
    update,
    visit,
)

ALL = {**METHODS, **PROBES}
EVERY_METHOD = [*sorted(METHODS), *PROBES]


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
        seen.reports.append(run.learner.report(run.rows(0)))
        seen.weights.append(parameters(run.learner))
        seen.checksums.append(run.learner.checksum())
        if number == 1:
            seen.arrays = {name: array.copy() for name, array in run.learner.method_arrays().items()}
    return seen


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
    assert other.learner.report(run.rows(0)) == run.learner.report(run.rows(0))


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(plain(item) for item in value)
    return isinstance(value, Tensor | np.ndarray | bool | int | float | str)
