"""A trial's own result folder: append-only rows, neuron and weight arrays, the resolved configuration."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import yaml

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.locks import FolderLock
from rllib_nbsp.nn.neurons import NeuronScores
from rllib_nbsp.settings import RunSettings, config_hash
from rllib_nbsp.version import __version__

ROWS = "*.jsonl"
WRITTEN = (ROWS, "neurons/*.npz", "weights/*.npz", "cost.json", "error.txt")
"""What a trial adds to as it goes."""
ENVIRONMENTS = "environments.json"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a file system says that takes no more bytes."""
LOCK_WAIT_S = 60.0  # an orphan, whose driver or node was lost, ends within that
CPUINFO = Path("/proc/cpuinfo")
PACKAGES = ("ray", "torch", "numpy", "gymnasium", "metaworld", "mujoco", "ale-py")


class RecordsError(RuntimeError):
    """A trial's rows are not where it has written them, or cannot be added to."""


class TrialFolder:
    """Writes what a trial leaves behind (the files of docs/results_folder.md).

    Rows are written directly, never through Tune's staging area, and reach the file system at each call. One process
    at a time writes them, and in it the folder that was opened last.

    Args:
        path: the folder, made if it does not exist.
        settings: the trial's.
        environments: what `Suite.environments` says of the tasks.
        fresh: the trial starts; what an unfinished one left here is renamed to `*.stale`. Otherwise rows are added.

    Raises:
        FolderInUse: if another process writes here.
    """

    _writers: ClassVar[weakref.WeakValueDictionary[Path, TrialFolder]] = weakref.WeakValueDictionary()

    def __init__(
        self,
        path: Path,
        settings: RunSettings,
        *,
        fresh: bool,
        environments: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.path = path
        self.config_hash = config_hash(settings)
        path.mkdir(parents=True, exist_ok=True)
        if (before := self._writers.get(path.absolute())) is not None:
            before.close()
        self._lock: FolderLock | None = FolderLock(path, wait_s=LOCK_WAIT_S)
        self._writers[path.absolute()] = self
        self._ends: dict[str, int] = {}  # of files of rows, after our own last one
        for old in [file for pattern in WRITTEN for file in path.glob(pattern)] if fresh else []:
            os.replace(old, _unused(old))
        self._identity = {
            "experiment": settings.experiment,
            "suite": settings.suite,
            "sequence": settings.sequence,
            "arm": settings.arm,
            "method": settings.method,
            "config_hash": self.config_hash,
            "seed": settings.seed,
        }
        (path / "config.yaml").write_text(resolved_yaml(settings))
        (path / "versions.json").write_text(json.dumps(versions(), indent=1) + "\n")
        if environments:
            (path / ENVIRONMENTS).write_text(json.dumps(environments, indent=1) + "\n")
        self._status(done=False)

    def evaluation(self, row: dict[str, Any]) -> None:
        """Append a row of `evaluations.jsonl`."""
        self._append("evaluations.jsonl", row)

    def training(self, row: dict[str, Any]) -> None:
        """Append a row of `training.jsonl`."""
        self._append("training.jsonl", row)

    def neurons(self, visit: Visit, scores: NeuronScores | None, method_arrays: dict[str, np.ndarray]) -> None:
        """Write `neurons/visit_NN.npz`: what the scoring measured, and the masks that came of it."""
        arrays: dict[str, Any] = dict(method_arrays)
        if scores is not None:
            arrays |= {"label_rate": scores.label_rate, "env_steps": scores.env_steps}
            for network, layers in scores.layers.items():
                for i, layer in enumerate(layers):
                    measured = {**vars(layer), "score": layer.score, "accuracy": layer.accuracy}
                    arrays |= {f"{network}/{i}/{name}": value.numpy() for name, value in measured.items()}
        if arrays:
            self._save(self.path / "neurons" / f"visit_{visit.number:02d}.npz", {**arrays, "task": visit.task.name})

    def weights(self, visit: Visit, weights: dict[str, np.ndarray]) -> None:
        """Write `weights/visit_NN.npz`: all networks and the temperature, by parameter name."""
        self._save(self.path / "weights" / f"visit_{visit.number:02d}.npz", weights)

    def cost(self, cost: dict[str, int]) -> None:
        """Write `cost.json`: sizes of what is trained and kept, and steps beside the training of the tasks."""
        self._replace("cost.json", json.dumps(cost, indent=1) + "\n")

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a file, without what says whose they are."""
        lines = (self.path / name).read_text(encoding="utf-8").splitlines()
        return [{key: v for key, v in json.loads(line).items() if key not in self._identity} for line in lines]

    def lengths(self) -> dict[str, int]:
        """Bytes of the files of rows."""
        return {file.name: file.stat().st_size for file in self.path.glob(ROWS)}

    def cut(self, lengths: Mapping[str, int]) -> None:
        """Drop the rows behind these lengths, which will be made again.

        Raises:
            ValueError: naming a file that is shorter than it was.
        """
        for file in self.path.glob(ROWS):
            kept, found = lengths.get(file.name, 0), file.stat().st_size
            if found < kept:
                raise ValueError(f"{file}: {found:,} bytes; the run had written {kept:,} when its state was kept")
            os.truncate(file, kept)

    def finish(self) -> None:
        """Mark the trial as done, so that a resumed study leaves it alone."""
        self._status(done=True)
        self.close()

    def close(self) -> None:
        """Write no more, and let others."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _append(self, name: str, row: dict[str, Any]) -> None:
        line = f"{json.dumps(_finite({**self._identity, **row}), allow_nan=False)}\n".encode()
        path = self.path / name
        with self._writing(path), open(path, "ab") as file:
            end = self._ends.setdefault(name, file.tell())
            if file.tell() != end:
                raise RecordsError(f"{path} has {file.tell():,} bytes and had {end:,} after the run's last row")
            file.write(line)
            self._ends[name] = end + len(line)

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Whether it is ours to write, and what is wrong if it cannot be written.

        Raises:
            RecordsError: if another run writes here, or the folder is gone.
            OSError: any other, naming the file.
        """
        if self._lock is None:
            raise RecordsError(f"{self.path} was closed, by the end of this run or another run of this process")
        try:
            yield
        except OSError as error:
            if not self.path.is_dir():
                raise RecordsError(f"{self.path} is gone: it was removed or moved while the run wrote to it") from error
            raise OSError(error.errno, error.strerror, str(path)) from error

    def _save(self, path: Path, arrays: dict[str, Any]) -> None:
        temporary = path.with_suffix(".tmp")
        with self._writing(path):
            path.parent.mkdir(exist_ok=True)
            with open(temporary, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            os.replace(temporary, path)

    def _status(self, done: bool) -> None:
        self._replace("status.json", json.dumps({"done": done, "config_hash": self.config_hash}) + "\n")

    def _replace(self, name: str, text: str) -> None:
        temporary = self.path / f"{name}.tmp"
        with self._writing(self.path / name):
            temporary.write_text(text)
            os.replace(temporary, self.path / name)


def filed(settings: RunSettings, search_trial: str | None) -> RunSettings:
    """A run as it is filed, with its own folder, if it has one.

    Args:
        settings: the run's.
        search_trial: the name of a trial whose search has one folder for all of them: the run is filed below it, as an
            arm of its own.
    """
    if settings.results_dir is None or search_trial is None:
        return settings
    arm = f"{settings.arm}-{search_trial}"
    folder = Path(settings.results_dir) / settings.sequence / arm / f"seed_{settings.seed}"
    return settings.model_copy(update={"arm": arm, "results_dir": str(folder)})


def _unused(old: Path) -> Path:
    """`NAME.stale`, or `NAME.2.stale` and so on: a trial that starts for the third time loses nothing either."""
    names = (old.with_name(f"{old.name}{count}.stale") for count in ("", *(f".{n}" for n in range(2, 1000))))
    return next(name for name in names if not name.exists())


def resolved_yaml(settings: RunSettings) -> str:
    """A run with every default filled in; `run.settings_of_results` reads it back."""
    return yaml.safe_dump(settings.model_dump(), sort_keys=False)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    installed = {"python": platform.python_version(), "rllib_nbsp": __version__, "device": _device()}
    if commit := _commit():
        installed["commit"] = commit
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _device() -> str:
    """The GPU, if torch sees one, or else the processor, and by which of its instructions torch calculates.

    The same seed is the same run on one of them: another one rounds otherwise.
    """
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU {processor()} ({torch.backends.cpu.get_cpu_capability()})"


def processor() -> str:
    """The model of the processor, or its architecture where the system does not say."""
    try:
        with CPUINFO.open(encoding="utf-8", errors="replace") as lines:
            models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
            return next(filter(None, models), platform.machine())  # every core says it
    except OSError:
        return platform.machine()


@functools.cache  # that of the code that was imported; a run asks for it three times
def _commit() -> str | None:
    """The commit of the checkout that runs, with a `+` if files were changed since; None for an installed package."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git here
        return None


def _finite(value: Any) -> Any:
    """JSON has no NaN; a reader finds null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
