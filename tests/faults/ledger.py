"""The invariants that hold through every fault, checked on the transitions that a run has really got.

I1 no transition twice in D and D_pre; I2 the steps that are reported are those that were added; I3 each belongs to the
task of its visit; I4 what was kept of earlier visits (masks, D_pre) stays as it is; I5 updates follow from steps;
I6 evaluations are only added to; I7 all weights are finite; I8 the state that a run would go on from is whole.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rllib_nbsp import ContinualSAC, NBSPConfig
from rllib_nbsp.state.bundle import newest
from rllib_nbsp.state.own import STATE
from tests.faults.ledger_suite import SCALES, TASKS

Id = tuple[int, ...]
WARMUP, UPDATES_PER_STEP, FRAGMENT, ENVS = 40, 0.25, 5, 2


def config(
    results: Path | None,
    *,
    workers: int = 0,
    visit_env_steps: int = 200,
    sample_timeout_s: float = 60.0,
    **ledger: Any,
) -> NBSPConfig:
    """Two visits of NBSP on a dozen neurons, whose transitions are counted."""
    run = (
        NBSPConfig()
        .plugins("tests.faults.ledger_plugin")
        .suite("transition_ledger", **ledger)
        .curriculum(tasks=list(TASKS), cycles=1, visit_env_steps=visit_env_steps, warmup_env_steps=WARMUP)
        .visit(early_stop=None)
        .training(
            batch_size=16, updates_per_env_step=UPDATES_PER_STEP, rollout_fragment_length=FRAGMENT, score_env_steps=50
        )
        .networks(hidden=[8, 8])
        .replay(capacity=100_000, prior_capacity=100, interval=3)
        .evaluation(periodic_episodes=0, boundary_episodes=2, num_envs=2, report_env_steps=40)
        .env_runners(num_envs_per_env_runner=ENVS, num_env_runners=workers, num_cpus_per_env_runner=0.5)
        .env_runners(sample_timeout_s=sample_timeout_s)
        .debugging(seed=0)
    )
    return run.results(results) if results else run


def ids(obs: np.ndarray) -> list[Id]:
    """What observations say of where they come from."""
    return [tuple(row) for row in np.rint(obs / SCALES).astype(int).tolist()]


class Ledger:
    """All transitions that came into a run's D, as they came.

    Args:
        algo: the run, before its first step or between two.
    """

    def __init__(self, algo: ContinualSAC) -> None:
        self.algo = algo
        self.came: Counter[Id] = Counter()
        self.wrong_task = 0
        self._before = algo.env_steps
        self._kept = self._what_is_kept()
        self._visit = algo.visit.number
        self._rows = b""
        self._fault: tuple[float, Callable[[Id], bool]] | None = None
        self.recovery_s = 0.0
        add = algo.replay.add

        def counted(columns: dict[str, Any], task: int, successful_episodes: list[int] | None = None) -> int:
            self._note(ids(np.asarray(columns["obs"])), task)
            return add(columns, task, successful_episodes)

        algo.replay.add = counted  # type: ignore[method-assign]

    def _note(self, came: list[Id], task: int) -> None:
        self.came.update(came)
        self.wrong_task += sum(own[-1] != task or task != self.algo.visit.task.index for own in came)
        if self._fault and any(map(self._fault[1], came)):
            self.recovery_s, self._fault = time.monotonic() - self._fault[0], None

    def fault(self, recovered: Callable[[Id], bool]) -> None:
        """A fault happens now; it is recovered from when a transition comes of which this holds."""
        self._fault = time.monotonic(), recovered

    @property
    def doubled(self) -> int:
        """Transitions that came more than once."""
        return sum(self.came.values()) - len(self.came)

    @property
    def lost(self) -> int:
        """Steps of fragments that never came."""
        return self.algo.schedule.faults["lost_fragments"] * FRAGMENT * ENVS

    @property
    def extra_updates(self) -> float:
        """Updates made beside those that the steps are worth, by the ratio; less than one is rounding."""
        learned_from = self.algo.env_steps - WARMUP * self.algo.visit.number
        return self.algo.updates - UPDATES_PER_STEP * max(0, learned_from)

    def check(self) -> None:
        """All invariants, now, between two iterations."""
        algo = self.algo
        current, prior = ids(algo.replay.newest(len(algo.replay))["obs"]), ids(self._prior_obs())
        # A run that is over has filed a part of D and does not empty it: nobody draws from it any more.
        for stored in (current, prior) if algo.done else (current + prior,):
            assert len(stored) == len({*stored}), "I1"
        assert self.doubled == 0, "I1"
        assert algo.env_steps - self._before == sum(self.came.values()), "I2"
        assert self.wrong_task == 0 and all(own[-1] == algo.visit.task.index for own in current), "I3"
        kept = self._what_is_kept()
        if self._visit == algo.visit.number and not algo.done:
            assert kept == self._kept, "I4"
        self._visit, self._kept = algo.visit.number, kept
        # A fragment of every worker may be on its way in; the turn of a visit leaves its last ones aside.
        assert abs(self.extra_updates) <= UPDATES_PER_STEP * 2 * FRAGMENT * ENVS * algo.visit.number + 1, "I5"
        if algo.records:
            file = algo.records.path / "evaluations.jsonl"
            rows = file.read_bytes() if file.is_file() else b""
            assert rows.startswith(self._rows) and rows[-1:] in (b"", b"\n"), "I6"
            self._rows = rows
            bundle, damaged = newest(algo.records.path / STATE)
            # A run that is over needs none.
            assert not damaged and (bundle is not None or algo.visit.number == 1 or algo.done), "I8"
        assert all(np.isfinite(w).all() for w in algo.learners.first("weights").values()), "I7"

    def _what_is_kept(self) -> tuple[str, frozenset[Id]]:
        digest = hashlib.sha256()
        for name, array in sorted(self.algo.learners.first("method_arrays").items()):
            digest.update(name.encode() + np.asarray(array).tobytes())
        return digest.hexdigest(), frozenset(ids(self._prior_obs()))

    def _prior_obs(self) -> np.ndarray:
        replay = self.algo.replay
        return replay.prior["obs"] if replay.prior_size else np.empty((0, len(SCALES)), np.float32)


def finish(ledger: Ledger, at_each: Callable[[], None] = lambda: None) -> None:
    """Run to the end, and check at each iteration.

    Args:
        ledger: of the run.
        at_each: called before each iteration.
    """
    for _ in range(400):
        at_each()
        done = ledger.algo.train()["done"]
        ledger.check()
        if done:
            return
    raise AssertionError("the run does not end")
