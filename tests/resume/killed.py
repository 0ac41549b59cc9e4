"""Runs in processes of their own that are killed at chosen moments, and what there is of a run when it is over."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from rllib_nbsp.algorithm import ContinualSAC
from rllib_nbsp.algorithm_config import ContinualSACConfig
from rllib_nbsp.learners import Learners
from rllib_nbsp.sampling.vector import EnvVector
from rllib_nbsp.state import bundle
from rllib_nbsp.state.packing import pack

Moment = tuple[str, int]
"""A place of `PLACES`, and how many times it is passed in a process before that is killed there."""
PLACES: dict[str, tuple[Any, str]] = {
    "step": (EnvVector, "step"),
    "update": (Learners, "update"),
    "write": (bundle, "_write"),
    "rename": (bundle.os, "rename"),
    "boundary": (ContinualSAC, "_finish_phase"),
    "evaluation": (ContinualSAC, "_measure"),
}
OF_TIME = ("wall_s", "env_steps_per_s", "updates_per_s")


def run_killed(build: Callable[[Path], ContinualSACConfig], folder: Path, moments: Sequence[Moment] = ()) -> Any:
    """A run to its end, through as many processes as it is killed.

    Args:
        build: the run, given its results folder; a function of a module's.
        folder: of its results.
        moments: where each process but the last is killed.

    Returns:
        What there is of it, by name, as `everything` says.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.resume.killed"])
    address = ray.get_runtime_context().gcs_address
    for moment in (*moments, None):
        told, tells = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(build, folder, address, moment, tells))
        process.start()
        tells.close()
        try:
            result = told.recv()
        except EOFError:
            result = None
        process.join()
        if isinstance(result, str):
            raise RuntimeError(f"a process that was to be killed at {moment} failed: {result}")
        if result is not None:
            return result
        assert process.exitcode == -signal.SIGKILL, (moment, process.exitcode)
    raise AssertionError("the last process was killed too")


def _child(build: Callable[[Path], ContinualSACConfig], folder: Path, address: str, moment: Any, tells: Any) -> None:
    try:
        if moment is not None:
            _kill_at(*moment)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        algorithm = build(folder).build_algo()
        while not algorithm.done:
            algorithm.train()
        tells.send(everything(algorithm))
        algorithm.stop()
    except Exception as error:
        tells.send(f"{type(error).__name__}: {error}")
        raise


def _kill_at(place: str, passes: int) -> None:
    owner, name = PLACES[place]
    real, count = getattr(owner, name), 0

    @functools.wraps(real)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == passes:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(owner, name, counted)


def everything(algorithm: Any) -> dict[str, Any]:
    """Hashes of all that a run has in memory, and its rows and arrays on disk, without what speaks of time."""
    in_memory = {
        "learner": algorithm.learners.first("kept_state"),
        "method": algorithm.learners.first("method_arrays"),
        "schedule": algorithm.schedule.get_state(),
        "outcomes": algorithm.outcomes.get_state(),
        "replay": algorithm.replay.get_state(),
        "stores": {series.name: series.take(series.first, series.end) for series in algorithm.replay.series()},
        "sampling": copy.deepcopy(algorithm.workers.get_state()),
        "rows_rng": algorithm.rows_rng.bit_generator.state,
    }
    for fragment in in_memory["sampling"]["fragments"]:
        del fragment["weights_seq_no"]  # which counts since the process began
    folder = algorithm.records.path
    return {
        **{name: hashlib.sha256(b"".join(pack(state))).hexdigest() for name, state in in_memory.items()},
        **{file.name: _rows(file) for file in sorted(folder.glob("*.jsonl"))},
        **{str(file.relative_to(folder)): _digest(file) for file in sorted(folder.glob("*/*.npz"))},
        "left": sorted(str(file.relative_to(folder)) for file in folder.glob("state*")),
    }


def _rows(file: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in OF_TIME} for row in rows]


def _digest(file: Path) -> str:
    with np.load(file) as arrays:
        return hashlib.sha256(b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))).hexdigest()
