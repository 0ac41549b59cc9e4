"""Files of neurons' scores and of weights -> tidy frames. Plain arrays only, so no file can make it run code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from rllib_nbsp.reading import read_arrays

from .errors import check_known
from .load import find_runs
from .rows import check_name, say
from .schema import NEURON_COLUMNS, Run

_VISIT_FILE = re.compile(r"visit_(\d+)\.npz")
_HIDDEN = re.compile(r"(policy|qf|qf_twin)\.hidden\.(\d+)\.weight")


def load_neurons(
    results: str | Path, sequence: str | None = None, arm: str | None = None, notes: list[str] | None = None
) -> pd.DataFrame:
    """Scores and masks of all hidden neurons; the columns are those of `NEURON_COLUMNS`.

    Args:
        results: the study's folder.
        sequence: only this sequence.
        arm: only this arm; a full study has millions of rows.
        notes: receives a line for each file that could not be read.

    Raises:
        UnknownNameError: if no run has that sequence or arm.
    """
    return neurons_of(find_runs(results), sequence, arm, notes)


def neurons_of(
    runs: Iterable[Run], sequence: str | None = None, arm: str | None = None, notes: list[str] | None = None
) -> pd.DataFrame:
    """`load_neurons` for runs that were found already."""
    runs = list(runs)
    check_known("sequence", sequence, [run.sequence for run in runs])
    check_known("arm", arm, [run.arm for run in runs])
    frames = [
        frame
        for run in runs
        if sequence in (None, run.sequence) and arm in (None, run.arm)
        for frame in _read_neurons(run, notes)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(NEURON_COLUMNS))


def _read_neurons(run: Run, notes: list[str] | None) -> Iterator[pd.DataFrame]:
    folder = run.path / "neurons"
    for path in sorted(folder.glob("visit_*.npz")) if folder.is_dir() else []:
        if match := _VISIT_FILE.fullmatch(path.name):
            try:
                yield from _neuron_frames(run, int(match[1]), path)
            except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
                say(notes, f"{run.label}/neurons/{path.name}: left out, it cannot be read ({error})")


def incoming_changes(runs: Iterable[Run], notes: list[str] | None = None) -> pd.DataFrame:
    """How far each hidden neuron's incoming weights, its bias with them, moved from a visit's end to the next one's.

    Args:
        runs: of `find_runs`.
        notes: receives a line for each file that could not be read.

    Returns:
        Columns sequence, arm, seed, visit (the earlier one), network, layer, neuron, and weight_change: the norm of the
        difference over the norm before.
    """
    frames = [frame for run in runs for frame in _changes_of(run, notes)]
    columns = ["sequence", "arm", "seed", "visit", "network", "layer", "neuron", "weight_change"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _changes_of(run: Run, notes: list[str] | None) -> Iterator[pd.DataFrame]:
    folder = run.path / "weights"
    before: tuple[int, dict[tuple[str, int], np.ndarray]] | None = None
    for path in sorted(folder.glob("visit_*.npz")) if folder.is_dir() else []:
        if not (match := _VISIT_FILE.fullmatch(path.name)):
            continue
        try:
            visit, rows = int(match[1]), _incoming_rows(read_arrays(path))
        except (OSError, ValueError, KeyError) as error:
            say(notes, f"{run.label}/weights/{path.name}: left out, it cannot be read ({error})")
            continue
        if before is not None and before[0] == visit - 1:
            for place in sorted(rows.keys() & before[1].keys()):
                old, new = before[1][place], rows[place]
                if old.shape == new.shape:
                    yield _change_frame(run, visit - 1, place, old, new)
        before = (visit, rows)


def _incoming_rows(arrays: dict[str, np.ndarray]) -> dict[tuple[str, int], np.ndarray]:
    """By network and hidden layer a row of weights per neuron, its bias last."""
    rows = {}
    for name, weight in arrays.items():
        if match := _HIDDEN.fullmatch(name):
            flat = weight.reshape(len(weight), -1)
            bias = arrays[name.replace(".weight", ".bias")].reshape(-1, 1)
            rows[match[1], int(match[2])] = np.concatenate([flat, bias], axis=1).astype(np.float64)
    return rows


def _change_frame(run: Run, visit: int, place: tuple[str, int], old: np.ndarray, new: np.ndarray) -> pd.DataFrame:
    size = np.linalg.norm(old, axis=1)
    moved = np.linalg.norm(new - old, axis=1)
    return pd.DataFrame(
        {
            "sequence": run.sequence,
            "arm": run.arm,
            "seed": run.seed,
            "visit": visit,
            "network": place[0],
            "layer": place[1],
            "neuron": np.arange(len(old)),
            "weight_change": np.divide(moved, size, out=np.full(len(old), np.nan), where=size > 0),
        }
    )


def _neuron_frames(run: Run, visit: int, path: Path) -> list[pd.DataFrame]:
    """A frame per network and layer."""
    frames = []
    arrays = read_arrays(path)
    if "label_rate" not in arrays:
        return []  # A method's own arrays, without scores.
    layers = sorted({tuple(name.split("/")[:2]) for name in arrays if name.count("/") == 2})
    task, label_rate = str(arrays["task"]), float(arrays["label_rate"])
    env_steps = int(arrays["env_steps"])
    check_name("task", task)
    for network, layer in layers:
        get = f"{network}/{layer}/".__add__
        counts = arrays[get("counts")]
        size = len(counts)
        frames.append(
            pd.DataFrame(
                {
                    "sequence": run.sequence,
                    "arm": run.arm,
                    "seed": run.seed,
                    "visit": visit,
                    "task": task,
                    "network": network,
                    "layer": int(layer),
                    "neuron": np.arange(size),
                    "score": arrays[get("score")],
                    "accuracy": arrays[get("accuracy")],
                    # Runs had no null at first.
                    **{name: arrays.get(get(name), np.nan) for name in ("chance_accuracy", "p_value")},
                    "n11": counts[:, 0],
                    "n10": counts[:, 1],
                    "n01": counts[:, 2],
                    "n00": counts[:, 3],
                    "mean_activation": arrays[get("mean_activation")],
                    # Without masks every neuron learns freely.
                    "mask": arrays[get("mask")] if get("mask") in arrays else 1.0,
                    "label_rate": label_rate,
                    "env_steps": env_steps,
                }
            )
        )
    return frames
