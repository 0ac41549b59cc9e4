"""Raylets that stand for machines, and the study that runs on them."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 840
VISIT_ENV_STEPS = 6000
TURN = 8
"""Steps that both workers bring together; a visit ends with one, and one from which a fragment was lost is shorter."""
TASKS = ("reach-left", "reach-right")
STUDY: dict[str, Any] = {
    "experiment": "my_pair",
    "suite": "point_mass",
    "sequences": {"my_pair": list(TASKS)},
    "cycles": 1,
    "seeds": [0],
    "arms": {"nbsp": {"method": "nbsp", "score_env_steps": 400}},
    "replay": {"capacity": 6000, "prior_capacity": 200},
    "visit": {"max_env_steps": VISIT_ENV_STEPS, "warmup_env_steps": 200, "early_stop": None},
    "training": {"updates_per_env_step": 0.25, "batch_size": 32},
    "model": {"hidden": [16, 16]},
    "evaluation": {"boundary_episodes": 2, "periodic_episodes": 0, "report_env_steps": 100},
    "resources": {
        "num_env_runners": 2,
        "num_cpus_per_env_runner": 0,
        "custom_resources_per_env_runner": {"rollout": 1},
    },
}
ROOM = '--resources={"rollout": 1}'
"""For one rollout worker."""


class Machines:
    """Raylets on this machine that share a user's home, each with the processes it starts.

    Args:
        folder: of all that they write.
        host: the head's address, if not this machine's own.
    """

    def __init__(self, folder: Path, host: str = "") -> None:
        self.folder = folder  # with a short path: Ray's sockets lie below it
        (folder / "home").mkdir()
        (folder / "bin").mkdir()
        command = folder / "bin" / "rllib-nbsp"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m rllib_nbsp.cli "$@"\n')
        command.chmod(0o755)
        with socket.create_server(("", 0)) as server:
            self.address = f"{host or ray.util.get_node_ip_address()}:{server.getsockname()[1]}"
        quick = {f"RAY_health_check_{name}_ms": "1000" for name in ("period", "timeout", "initial_delay")}
        path = [str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        self.env = {**clean, **quick, "HOME": str(folder / "home"), "PATH": os.pathsep.join(path)}
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start(self, role: str, *options: str, within: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start a raylet, and wait until it has joined.

        Args:
            role: head or worker.
            options: of `ray start`.
            within: a command that runs another one where the raylet is to be.
        """
        log = self.folder / f"node_{len(self.nodes)}.log"
        with open(log, "wb") as out:
            node = subprocess.Popen(
                [*within, "bash", "cluster/start.sh", role, self.address, "--block", *options],
                cwd=ROOT, env=self.env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.nodes.append(node)
        wait_until(lambda: "Ray runtime started" in log.read_text() or node.poll() is not None)
        assert node.poll() is None, log.read_text()
        return node

    def run(self, command: str, **env: str) -> subprocess.Popen[str]:
        """Start a command as Ray's job server does: by a shell on the head, which knows the cluster's address."""
        return subprocess.Popen(
            command, shell=True, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**self.env, "RAY_ADDRESS": self.address, "PYTHONPATH": str(ROOT), **env}, start_new_session=True,
        )  # fmt: skip

    def said_by_trials(self) -> str:
        """What trials and rollout workers have logged."""
        return "".join(log.read_text(errors="replace") for log in self.folder.glob("ray/session_*/logs/worker-*.err"))


def kill(process: subprocess.Popen[Any], how: signal.Signals) -> None:
    """End a process with all that it started."""
    try:
        os.killpg(process.pid, how)
    except ProcessLookupError:
        return
    process.wait(timeout=120)


def wait_until(happened: Callable[[], bool], timeout_s: float = 240.0) -> None:
    """Wait for something, up to a limit on a busy machine."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def entrypoint(folder: Path, **sections: Any) -> str:
    """The job's command line, with a study, of which some sections are other ones, and a results folder here."""
    documents = yaml.safe_load_all((ROOT / "cluster" / "rayjob.yaml").read_text(encoding="utf-8"))
    (job,) = [document for document in documents if document["kind"] == "RayJob"]
    (folder / "study").mkdir()
    (folder / "study" / "my_pair.yaml").write_text(yaml.safe_dump(STUDY | sections), encoding="utf-8")
    return job["spec"]["entrypoint"].replace("/study/", f"{folder}/study/", 1).replace("/results", f"{folder}/results")


class PairStudy:
    """The study of `entrypoint` while it runs, and its one trial.

    Args:
        machines: on which.
        sections: of the study's file, in place of its own.

    Attributes:
        command: that started it.
        trial: the trial's folder.
    """

    def __init__(self, machines: Machines, **sections: Any) -> None:
        self.command = entrypoint(machines.folder, **sections)
        self.trial = machines.folder / "results" / "my_pair" / "my_pair" / "nbsp" / "seed_0"
        self._process = machines.run(self.command, RAY_AUTH_MODE="token")

    def last(self) -> dict[str, Any]:
        """The trial's last training row; the study must go on so long."""
        assert self._process.poll() is None, self._process.communicate()[0][-3000:]
        return (rows(self.trial / "training.jsonl") or [{"env_steps": 0, "visit": 1, "lost_fragments": 0}])[-1]

    def ends(self) -> str:
        """What it has said, once it is over."""
        printed, _ = self._process.communicate(timeout=TIMEOUT_S)
        assert self._process.returncode == 0, printed[-3000:]
        return printed

    def stop(self) -> None:
        """End it, if it still runs."""
        kill(self._process, signal.SIGTERM)


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that may be in the making."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def finite(value: Any) -> bool:
    """Whether every number in a row's value is one."""
    if isinstance(value, list | dict):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def check_rows(trial: Path, *, lost: int, visit_env_steps: int = VISIT_ENV_STEPS) -> None:
    """The invariants of a trial's rows, whatever came and went."""
    assert json.loads((trial / "status.json").read_text())["done"] is True
    assert list(trial.rglob("*.stale*")) == []  # it was not started anew
    training = rows(trial / "training.jsonl")
    ends = [0]
    for visit, task in enumerate(TASKS, start=1):
        own = [row for row in training if row["visit"] == visit and row["phase"] == "train"]
        steps = [row["visit_env_steps"] for row in own]
        assert {row["task"] for row in own} == {task}
        assert steps == sorted({*steps}) and visit_env_steps <= steps[-1] < visit_env_steps + TURN
        assert [row["env_steps"] for row in own] == [ends[-1] + step for step in steps]
        ends.append(own[-1]["env_steps"])
    assert len(training) == sum(row["phase"] == "train" for row in training)
    assert training[-1]["updates"] == pytest.approx((ends[-1] - 2 * 200) * 0.25, abs=TURN)
    assert training[-1]["lost_fragments"] == lost
    evaluations = rows(trial / "evaluations.jsonl")
    assert [(r["visit"], r["trained_task"], r["eval_task"], r["env_steps"], r["episodes"]) for r in evaluations] == [
        (visit, trained, evaluated, ends[visit], 2)
        for visit, trained in enumerate(TASKS, start=1)
        for evaluated in TASKS
    ]
    assert all(map(finite, [*training, *evaluations]))
