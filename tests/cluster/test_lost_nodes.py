"""A node is lost for good: of a trial, of its Learner, of one of its rollout workers."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.machines import ROOM, TASKS, TIMEOUT_S, Machines, PairStudy, finite, kill, rows, wait_until
from tests.processes import cmdline, descendants

STATE = {"every_env_steps": 1000}
TRIAL = "ray::StudyTrial"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S)]


def check_places(trial: Path) -> None:
    """A trial's rows are those of one run, each of them once."""
    assert json.loads((trial / "status.json").read_text())["done"] is True
    training = rows(trial / "training.jsonl")
    steps = [row["env_steps"] for row in training]
    assert steps == sorted({*steps})
    evaluations = rows(trial / "evaluations.jsonl")
    places = [(row["visit"], row["trained_task"], row["eval_task"]) for row in evaluations]
    assert places == [(visit, trained, task) for visit, trained in enumerate(TASKS, 1) for task in TASKS]
    assert all(map(finite, [*training, *evaluations]))


def running(word: str, nodes: list[subprocess.Popen[bytes]]) -> dict[int, subprocess.Popen[bytes]]:
    """Processes whose command line has a word, each with its node."""
    return {pid: node for node in nodes for pid in descendants(node.pid) if word in cmdline(pid)}


@pytest.mark.parametrize("lost", [TRIAL, "ray::_WrappedExecutable"], ids=["trial", "Learner"])
def test_the_node_of_a_trial_or_of_its_learner_is_lost_and_the_trial_goes_on_on_another(
    lost: str, machines: Machines, record_property: Callable[[str, Any], None]
) -> None:
    machines.start("head", "--num-cpus=0", f"--temp-dir={machines.folder}/ray")
    nodes = [machines.start("worker", "--num-cpus=1") for _ in range(3)]
    spread = {"num_learners": 1, "placement_strategy": "STRICT_SPREAD"}
    study = PairStudy(machines, resources=spread, state=STATE)
    try:
        wait_until(lambda: study.last()["env_steps"] >= 2500)
        before = running(TRIAL, nodes)
        (host,) = running(lost, nodes).values()
        kill(host, signal.SIGKILL)
        killed, known = time.monotonic(), study.last()["env_steps"]
        wait_until(lambda: bool(running(TRIAL, nodes).keys() - before) and study.last()["env_steps"] > known)
        recovery_s = time.monotonic() - killed
        printed = study.ends()
    finally:
        study.stop()
    assert "starting again" in printed
    check_places(study.trial)
    record_property("recovery_s", recovery_s)
    record_property("doubled_env_steps", 0)


def test_a_rollout_workers_node_that_never_comes_back_costs_that_worker_alone(
    machines: Machines, record_property: Callable[[str, Any], None]
) -> None:
    machines.start("head", "--num-cpus=1", ROOM, f"--temp-dir={machines.folder}/ray")
    spot = machines.start("worker", "--num-cpus=0", ROOM)
    study = PairStudy(machines, state=STATE)
    try:
        wait_until(lambda: study.last()["env_steps"] >= 500)
        kill(spot, signal.SIGKILL)
        study.ends()
    finally:
        study.stop()
    check_places(study.trial)
    assert rows(study.trial / "training.jsonl")[-1]["lost_fragments"] == 1
    record_property("doubled_env_steps", 0)
