"""A study as Ray Tune trials: start Ray, run what is left to run, stop cleanly.

One trial is one run of `rllib_nbsp.config.Study.trials`. Rows are written by the trials themselves; Tune schedules,
restarts what fails, and keeps its own files in `_tune` beside the results.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

import rllib_nbsp
from rllib_nbsp.algorithm import ContinualSAC
from rllib_nbsp.preflight import PreflightError
from rllib_nbsp.progress import LiveProgress, trial_label
from rllib_nbsp.settings import RunSettings
from rllib_nbsp.stop_signal import StopSignal

MAX_FAILURES = 3
SHARED_FOLDER_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a study ended.

    Attributes:
        failed: trials that failed for good, with their errors' last lines.
        stopped: whether a signal ended it early.
        seconds: wall time of the trials.
    """

    failed: dict[str, str]
    stopped: bool
    seconds: float


def trial_bundles(run: RunSettings) -> list[dict[str, float]]:
    """The resource bundles that Tune reserves for a trial."""
    request = ContinualSAC.default_resource_request({"run": run.model_dump()})
    return [dict(bundle) for bundle in request.bundles]


def local_resources() -> dict[str, float]:
    """What a cluster of this machine alone would offer."""
    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(torch.cuda.device_count())}


@contextlib.contextmanager
def ray_session(address: str | None, torch_threads: int, stop: StopSignal) -> Iterator[Mapping[str, float]]:
    """Start Ray on this machine, or join a cluster to which the package then travels; yields its resources.

    Raises:
        PreflightError: if there is no cluster at the address.
    """
    quiet_ray()
    threads = {"OMP_NUM_THREADS": str(torch_threads)}
    os.environ.update(threads)  # inherited by the workers of a local cluster
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(num_cpus=int(local_resources()["CPU"]), **quiet)
        else:
            package = str(Path(rllib_nbsp.__file__).parent)
            runtime_env = {"py_modules": [package], "env_vars": threads}
            ray.init(address=address, runtime_env=runtime_env, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise PreflightError([f"--address {address or 'local'}: {str(error).splitlines()[0]}"], 4) from error
    try:
        stop.install()
        _protect_token()
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def quiet_ray() -> None:
    """Ray's and Tune's own displays and advice off; errors stay."""
    os.environ.update(
        RAY_AIR_NEW_OUTPUT="0",
        RAY_CHDIR_TO_TRIAL_DIR="0",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S="0",
    )
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Tune logs every failed trial; the end of a study says which failed and why.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def _protect_token() -> None:
    """Ray writes its authentication token readable by everybody."""
    with contextlib.suppress(OSError):
        (Path.home() / ".ray" / "auth_token").chmod(0o600)


def check_shared(folder: Path) -> None:
    """Every node must see the result folder, since trials write their rows themselves.

    Raises:
        PreflightError: naming the nodes that do not.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    marker = folder / f".shared-{uuid.uuid4().hex}"
    marker.touch()
    try:
        seen = {
            node["NodeManagerHostname"]: _exists.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(marker))
            for node in nodes
        }
        blind = [host for host, there in seen.items() if not ray.get(there, timeout=SHARED_FOLDER_TIMEOUT_S)]
    finally:
        marker.unlink()
    if blind:
        raise PreflightError(
            [f"--results-dir: {folder} is not shared with {', '.join(blind)}; use a folder that all nodes see"], 4
        )


@ray.remote(num_cpus=0)
def _exists(path: str) -> bool:
    return os.path.exists(path)


def run_trials(runs: Sequence[RunSettings], folder: Path, max_concurrent: int | None, console: Console) -> Outcome:
    """Run trials to their ends; SIGTERM and Ctrl-C stop all of them, and the study can then be resumed."""
    start = time.monotonic()
    with LiveProgress(runs, console) as progress:
        tuner = tune.Tuner(
            ContinualSAC,
            param_space={"run": tune.grid_search([run.model_dump() for run in runs])},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=max_concurrent,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d-%H%M%S"),
                storage_path=str(folder / "_tune"),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=[progress],
                verbose=0,
            ),
        )
        results = tuner.fit()
    failed = {}
    for result in results:
        if result.error is not None and result.config is not None:
            lines = str(result.error).strip().splitlines()
            failed[trial_label(RunSettings(**result.config["run"]))] = f"{lines[-1]} ({result.path}/error.txt)"
    stopped = any(result.error is None and not (result.metrics or {}).get("done") for result in results)
    return Outcome(failed, stopped, time.monotonic() - start)


def _trial_name(trial: Any) -> str:
    run = trial.config["run"]
    return f"{run['sequence']}-{run['arm']}-{run['seed']}-{trial.trial_id}"
