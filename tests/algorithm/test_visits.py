"""What methods and callbacks see of a run: boundaries in order, phases of a visit, rows of earlier tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from rllib_nbsp import ContinualSAC, ContinualSACConfig
from rllib_nbsp.callbacks import SkillNeuronCallback
from rllib_nbsp.curriculum import Phase, Visit
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.agent import Batch, VisitData
from rllib_nbsp.methods.base import ContinualMethod
from rllib_nbsp.replay.buffer import ReplayRequest
from tests.algorithm.conftest import finish, rows_of, same, weights
from tests.tiny import short_run


class Journal(ContinualMethod):
    """Writes down what is called, in order."""

    calls: ClassVar[list[str]] = []

    def on_visit_start(self, visit: Visit, data: VisitData | None) -> None:
        self.calls.append(f"method start {visit.number} {data is not None}")

    def on_visit_end(self, visit: Visit, data: VisitData) -> None:
        self.steps_kept = len(self.agent.optimizers["qf"].state)
        self.calls.append(f"method end {visit.number} {len(data.rows.get('rewards', ()))}")

    visit_data_rows = 30


class JournalCallback(SkillNeuronCallback):
    def on_visit_start(self, *, algorithm: ContinualSAC, visit: Visit) -> None:
        Journal.calls.append(f"callback start {visit.number} {len(algorithm.replay)}")

    def on_evaluation_end(self, *, algorithm: ContinualSAC, visit: Visit, rows: list[dict[str, Any]]) -> None:
        if rows[0]["phase"] == "boundary":
            Journal.calls.append(f"evaluated {visit.number} {len(algorithm.replay)}")

    def on_visit_end(self, *, algorithm: ContinualSAC, visit: Visit, data: VisitData) -> None:
        Journal.calls.append(f"callback end {visit.number} {len(algorithm.replay)}")


def test_a_boundary_runs_in_the_documented_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "journal", Journal)
    Journal.calls.clear()
    finish(short_run(ContinualSACConfig().method("journal")).curriculum(cycles=1).callbacks(JournalCallback))
    assert Journal.calls == [
        "method start 1 False",
        "callback start 1 0",
        "evaluated 1 240",
        "callback end 1 240",
        "method end 1 30",
        "method start 2 True",
        "callback start 2 0",
        "evaluated 2 240",
        "callback end 2 240",
        "method end 2 30",
    ]


class TwoRuns(ContinualMethod):
    """An auxiliary run, then the main run from the same start, then some updates without collecting."""

    seen: ClassVar[list[tuple[str, bool]]] = []

    @classmethod
    def phases(cls, config: Any, visit: Visit) -> list[Phase]:
        return [Phase("auxiliary"), Phase("main", fresh=True), Phase("retrain", collect=False, updates=70)]

    def on_phase_start(self, visit: Visit, phase: Phase) -> None:
        if phase.name == "auxiliary":
            self.start = self.agent.snapshot()

    def on_phase_end(self, visit: Visit, phase: Phase, data: VisitData) -> None:
        moved = not torch.equal(
            self.start["networks"]["qf"]["head.weight"], self.agent.networks["qf"].state_dict()["head.weight"]
        )
        self.seen.append((phase.name, moved))
        if phase.name == "auxiliary":
            self.agent.restore(self.start)


def test_phases_run_inside_a_visit_and_do_not_shift_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(METHODS, "two_runs", TwoRuns)
    TwoRuns.seen.clear()
    algo, _ = finish(short_run(ContinualSACConfig().method("two_runs"), tmp_path).curriculum(cycles=1))
    assert TwoRuns.seen == [("auxiliary", True), ("main", True), ("retrain", True)] * 2
    boundary = [row for row in rows_of(tmp_path, "evaluations.jsonl") if row["phase"] == "boundary"]
    assert [row["visit"] for row in boundary] == [1, 1, 2, 2]
    # The auxiliary run is not the agent: it is not evaluated.
    assert {row["env_steps"] for row in rows_of(tmp_path, "evaluations.jsonl")} == {360, 480, 840, 960}
    # Each visit: 40 updates of each run after its warm-up, 70 without collecting. D holds the second run alone.
    assert algo.updates == 2 * (40 + 40 + 70)
    assert len(algo.replay) == 240
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert (algo.env_steps, cost["auxiliary_env_steps"], cost["auxiliary_updates"]) == (2 * 480, 2 * 240, 2 * (40 + 70))
    assert (cost["scoring_env_steps"], cost["prior_bytes"]) == (0, 0)


@pytest.mark.parametrize(("warmup_each_visit", "updates"), [(True, 40), (False, 60)])
def test_every_run_of_a_visit_warms_up_if_its_visit_does(
    monkeypatch: pytest.MonkeyPatch, warmup_each_visit: bool, updates: int
) -> None:
    monkeypatch.setitem(METHODS, "two_runs", TwoRuns)
    config = short_run(ContinualSACConfig().method("two_runs")).boundary(warmup_each_visit=warmup_each_visit)
    algo, _ = finish(config.curriculum(cycles=1))
    # An update per 4 of 240 steps, 80 of which may be a warm-up; the first visit always has one.
    assert algo.updates == (2 * 40 + 70) + (2 * updates + 70)


def test_a_state_of_a_phase_without_collecting_is_refused_at_once_and_one_of_its_end_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(METHODS, "two_runs", TwoRuns)
    config = short_run(ContinualSACConfig().method("two_runs")).curriculum(cycles=1)
    algo = config.build_algo()
    algo.train()
    while algo.schedule.phase.collect:
        algo.train()
    midway = algo.get_state()
    while not algo.train()["done"]:
        pass
    finished = algo.get_state()
    algo.stop()
    other = config.copy(copy_frozen=False).build_algo()
    before = weights(other)
    with pytest.raises(ValueError, match=r"phase 'retrain' of visit 1 .* holds neither D nor D_pre"):
        other.set_state(midway)
    assert same(before, weights(other))
    other.set_state(finished)
    assert other.train()["done"]
    assert same(weights(algo), weights(other))
    other.stop()


class RowsBeside(ContinualMethod):
    """Rows of D_pre beside each batch."""

    seen: ClassVar[list[tuple[int, int, set[int]]]] = []

    @classmethod
    def replay_request(cls, config: Any, replay: Any) -> Any:
        return ReplayRequest(prior_rows_per_update=8)

    def loss_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        if batch.prior is not None:
            self.seen.append((len(batch.rewards), len(batch.prior.rewards), set(batch.prior.task.tolist())))
            return {"qf": self.agent.networks["qf"](torch.cat([batch.prior.obs, batch.prior.actions], -1)).mean() * 0.0}
        return {}


def test_rows_of_earlier_tasks_come_beside_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "beside", RowsBeside)
    RowsBeside.seen.clear()
    finish(short_run(ContinualSACConfig().method("beside")).curriculum(cycles=1))
    assert RowsBeside.seen == [(16, 8, {0})] * 40
