"""Result folders -> tidy frames. Reads JSON lines, YAML and plain arrays only: no file can make it run code.

A study is `RESULTS/<sequence>/<arm>/seed_<n>/`. Files that end in `.stale` and folders whose names start with `.` or
`_` are passed over. Whatever had to be left out or mended is said in the `notes` list that a caller may pass.
"""

from __future__ import annotations

import functools
import json
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from analysis.errors import DataError, UnknownNameError

EVALUATION_COLUMNS: dict[str, str] = {
    "experiment": "name of the study",
    "suite": "metaworld, atari, point_mass or gymnasium",
    "sequence": "name of the task sequence",
    "arm": "label of the method configuration",
    "method": "registered name of the method",
    "config_hash": "of everything but seed, names, storage and resources",
    "seed": "seed of the run",
    "visit": "stay in a task, counted from 1",
    "phase": "periodic (during a visit) or boundary (at its end); metrics use boundary rows",
    "trained_task": "the visit's task",
    "eval_task": "the task that was evaluated",
    "env_steps": "training environment steps since the start of the run",
    "updates": "critic updates since the start of the run",
    "episodes": "evaluation episodes",
    "success_rate": "share of successful episodes in [0, 1]; NaN if it was not finite, or the suite has no success",
    "mean_return": "mean return of the episodes; NaN if it was not finite",
    "score": "what the metrics are of: success_rate, or on Atari the human-normalised return (Eq. 11)",
    "per_episode": "list with return, length and success of each episode",
    "policy": "deterministic or stochastic",
    "wall_s": "seconds that this evaluation took",
}
"""Columns of `load_evaluations`: a row is one task evaluated once."""

TRAINING_COLUMNS: dict[str, str] = {
    "sequence": "name of the task sequence",
    "arm": "label of the method configuration",
    "seed": "seed of the run",
    "visit": "stay in a task, counted from 1",
    "task": "the visit's task",
    "env_steps": "training environment steps since the start of the run",
    "visit_env_steps": "the same since the start of the visit",
    "updates": "critic updates since the start of the run",
    "success_window": "success rate of the last training episodes; NaN before the first",
    "mean_return": "mean return of the same episodes",
    "policy_loss": "actor loss",
    "qf_loss": "loss of the first critic",
    "qf_twin_loss": "loss of the second critic",
    "alpha_loss": "loss of the temperature",
    "alpha": "SAC's temperature",
    "entropy": "entropy of the policy",
    "q_mean": "mean action value in the batches",
    "env_steps_per_s": "speed of the interval",
    "updates_per_s": "speed of the interval",
    "masked_frac": "share of hidden neurons with a mask below 1",
    "dormant_frac": "share of dormant hidden neurons",
    "wall_s": "seconds since the run, or its resumed part, began",
}
"""Columns of `load_training`: a row is one reporting interval. Further keys of the file become further columns."""

NEURON_COLUMNS: dict[str, str] = {
    "sequence": "name of the task sequence",
    "arm": "label of the method configuration",
    "seed": "seed of the run",
    "visit": "visit after which the neurons were scored, counted from 1",
    "task": "the visit's task",
    "network": "policy, qf or qf_twin",
    "layer": "hidden layer, from 0",
    "neuron": "unit or channel in the layer, from 0",
    "score": "relevance to the task (Eq. 4), in [0.5, 1]",
    "accuracy": "Eq. 3",
    "n11": "steps with the activation and the goal above their means",
    "n10": "steps with only the activation above",
    "n01": "steps with only the goal above",
    "n00": "steps with neither above",
    "mean_activation": "standard activation (Eq. 1)",
    "mask": "factor of the neuron's updates after the visit; 1 learns, 0 is protected",
    "label_rate": "share of scored steps with the goal above its mean",
    "env_steps": "training environment steps since the start of the run",
}
"""Columns of `load_neurons`: a row is one hidden neuron after one visit."""

COSTS: dict[str, str] = {
    "auxiliary_env_steps": "training environment steps in phases beside a visit's main one",
    "auxiliary_updates": "updates in such phases",
    "scoring_env_steps": "environment steps of the rollouts that neurons were scored on",
    "trainable_parameters": "of actor and critics",
    "network_bytes": "weights, targets and what a method holds in reserve there",
    "method_bytes": "the method's own state at the end of the last visit",
    "prior_bytes": "D_pre, the store of earlier tasks' transitions",
}
"""Keys of a run's `cost.json`."""

PAPER_COLUMNS: dict[str, str] = {
    "source": "table of the paper",
    "tasks": "task names without version, joined by ' -> '",
    "method": "as the paper calls it",
    "metric": "asr, fm or fwt",
    "mean": "over 3 seeds",
    "spread": "printed after +-; the paper does not say whether standard deviation or error",
}
"""Columns of `load_paper`."""

EVALUATION_KEY = ["sequence", "arm", "seed", "visit", "phase", "eval_task", "env_steps"]
"""What names one evaluation; of several rows with the same key the last one counts."""

TRAINING_KEY = ["sequence", "arm", "seed", "visit", "env_steps", "updates"]
"""What names one reporting interval."""

MAX_BAD_LINES = 0.01
"""Share of a file's lines that may be unreadable before the file is refused."""

MAX_SETTINGS_BYTES = 1_000_000
MAX_NEURON_BYTES = 1_000_000_000

PHASES = ("periodic", "boundary")
GAMES = "atari"
"""The suite whose tasks have no success: their returns are normalised."""

_INTEGERS = ("seed", "visit", "env_steps")
_NAMES = {"sequence", "arm", "eval_task"}
_NUMBERS = {"success_rate", "episodes", *TRAINING_COLUMNS} - {"sequence", "arm", "task", *_INTEGERS}
_SEED_FOLDER = re.compile(r"seed_(\d+)")
_NEURON_FILE = re.compile(r"visit_(\d+)\.npz")


@dataclass(frozen=True)
class Run:
    """One trial's folder: (task sequence, arm, seed)."""

    path: Path
    sequence: str
    arm: str
    seed: int
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved settings; empty if the run left none."""
    versions: dict[str, str] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    """What `cost.json` says, by the keys of `COSTS`; empty if the run left none."""

    @property
    def label(self) -> str:
        """The run's place under the study's folder."""
        return f"{self.sequence}/{self.arm}/seed_{self.seed}"


@dataclass(frozen=True)
class Search:
    """The arms that are samples of searches."""

    objective: str
    """What the best sample has most of: asr, fwt or final_success."""
    arms: dict[str, dict[str, dict[str, Any]]]
    """For each arm with a search what its samples state in the study's file, by their labels."""


@dataclass(frozen=True)
class Study:
    """What `study.yaml` expects: every arm with every seed on every sequence."""

    sequences: dict[str, list[str]]
    arms: list[str]
    seeds: list[int]
    notes: list[str] = field(default_factory=list)
    """What the suite says of these tasks together, and how much of its combinations a search tries."""
    search: Search | None = None


@dataclass(frozen=True)
class TaskOrder:
    """The tasks of one sequence and the order of its visits."""

    tasks: list[str]
    """Distinct tasks: the columns of a success array."""
    order: list[int]
    """Column of the task of each visit, length V."""


@dataclass(frozen=True)
class Results:
    """All rows of one study."""

    name: str
    runs: list[Run]
    study: Study | None
    orders: dict[str, TaskOrder]
    evaluations: pd.DataFrame
    training: pd.DataFrame
    notes: list[str]

    @property
    def of_returns(self) -> bool:
        """Whether the metrics are of human-normalised returns, because all tasks are games."""
        return bool((self.evaluations["suite"] == GAMES).all())


# Public readers


def find_runs(results: str | Path, notes: list[str] | None = None) -> list[Run]:
    """The trial folders under a study's folder, sorted by sequence, arm and seed.

    Raises:
        DataError: if there are none, or two folders are the same seed of the same arm.
    """
    root = Path(results)
    if not root.is_dir():
        raise DataError(f"no results in {root}: there is no such folder")
    runs = []
    for sequence in _folders(root):
        for arm in _folders(sequence):
            for folder in _folders(arm):
                if match := _SEED_FOLDER.fullmatch(folder.name):
                    config = _read_mapping(folder / "config.yaml", notes)
                    versions = {str(k): str(v) for k, v in _read_mapping(folder / "versions.json", notes).items()}
                    cost = _cost_of(folder, notes)
                    runs.append(Run(folder, sequence.name, arm.name, int(match[1]), config, versions, cost))
    if not runs:
        raise DataError(f"no trials in {root}: expected <sequence>/<arm>/seed_<n>/evaluations.jsonl{_hint(root)}")
    for label, count in Counter(run.label for run in runs).items():
        if count > 1:
            raise DataError(f"{count} folders under {root} are {label}; keep one, or name the others *.stale")
    return sorted(runs, key=lambda run: (run.sequence, run.arm, run.seed))


def load_study(results: str | Path) -> Study | None:
    """The expected sequences, arms and seeds of `study.yaml`; None if the study left none.

    Raises:
        DataError: if the file is there but cannot be read.
    """
    path = Path(results) / "study.yaml"
    if not path.is_file():
        return None
    try:
        content = _small_file(path)
        return Study(
            sequences={str(name): [str(task) for task in tasks] for name, tasks in content["sequences"].items()},
            arms=[str(arm) for arm in content["arms"]],
            seeds=[int(seed) for seed in content["seeds"]],
            notes=[str(note) for note in content.get("notes", ())],
            search=_search_of(content["search"]) if "search" in content else None,
        )
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        wanted = "a mapping with sequences {name: [tasks]}, arms [names] and seeds [numbers]"
        raise DataError(f"{path} is not {wanted}: {error}") from error


def _search_of(content: dict[str, Any]) -> Search:
    arms = {
        str(arm): {str(label): dict(stated) for label, stated in samples.items()}
        for arm, samples in content["arms"].items()
    }
    return Search(str(content["objective"]), arms)


def load_evaluations(results: str | Path, notes: list[str] | None = None) -> pd.DataFrame:
    """All evaluation rows of a study; the columns are those of `EVALUATION_COLUMNS`.

    Args:
        results: the study's folder.
        notes: receives a line for whatever was left out, mended or looks odd.

    Raises:
        DataError: if there are no rows, a file has more than 1 % unreadable lines, rows do not belong to their folder,
            or the seeds of one arm were run with different settings.
    """
    return _evaluations_of(find_runs(results, notes), notes)


def load_training(results: str | Path, notes: list[str] | None = None) -> pd.DataFrame:
    """All reporting intervals of a study; columns are those of `TRAINING_COLUMNS` and further keys of the files.

    Args:
        results: the study's folder.
        notes: receives a line for whatever was left out or mended.

    Raises:
        DataError: if a file has more than 1 % unreadable lines, or rows do not belong to their folder.
    """
    return _training_of(find_runs(results, notes), notes)


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
    check_name("sequence", sequence, [run.sequence for run in runs])
    check_name("arm", arm, [run.arm for run in runs])
    frames = [
        frame
        for run in runs
        if sequence in (None, run.sequence) and arm in (None, run.arm)
        for frame in _read_neurons(run, notes)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(NEURON_COLUMNS))


def load_paper() -> pd.DataFrame:
    """The published numbers of Lan et al. 2025 (arXiv:2504.08000); the columns are those of `PAPER_COLUMNS`."""
    return pd.read_csv(Path(__file__).with_name("paper.csv"), comment="#")


@functools.cache
def atari_scores() -> pd.DataFrame:
    """Published returns of random play and of a human, indexed by game: columns random, human, source."""
    return pd.read_csv(Path(__file__).with_name("atari_scores.csv"), comment="#", index_col="game")


def normalised_returns(games: pd.Series, returns: pd.Series) -> pd.Series:
    """Eq. 11: 0 is random play, 1 a human; NaN for a game without published scores."""
    scores = atari_scores().reindex(games)
    low, high = scores["random"].to_numpy(), scores["human"].to_numpy()
    return (returns - low) / (high - low)


def load_results(results: str | Path) -> Results:
    """Everything of a study but the neurons' scores, with the notes that came up on the way.

    Raises:
        DataError: as `load_evaluations` and `load_training`, and if rows contradict the order of the tasks.
    """
    notes: list[str] = []
    runs = find_runs(results, notes)
    study = load_study(results)
    evaluations = _evaluations_of(runs, notes)
    training = _training_of(runs, notes)
    orders = {
        sequence: _task_order(sequence, runs, study, evaluations, notes)
        for sequence in sorted(set(evaluations["sequence"]))
    }
    _check_visits(evaluations, orders, notes)
    return Results(Path(results).resolve().name, runs, study, orders, evaluations, training, notes)


def check_name(kind: str, name: str | None, known: Iterable[str]) -> None:
    """Refuse a name that is not known, with the close ones; None passes.

    Raises:
        UnknownNameError: if it is not known.
    """
    names = sorted(set(known))
    if name is not None and name not in names:
        raise UnknownNameError(kind, name, names)


# JSON lines


def read_rows(path: Path, required: Iterable[str], notes: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, plain or gzipped, mended where a crash left its marks.

    A byte order mark, CRLF, blank lines and NUL bytes around a row do not matter. A last line without an end is what a
    killed writer leaves: it is dropped and counted. Other unreadable lines are dropped and counted too.

    Args:
        path: the file; with none there, `path` + `.gz` is read.
        required: keys that a row must have.
        notes: receives what was dropped.

    Raises:
        DataError: if more than 1 % of the lines are unreadable, the torn last one aside.
    """
    path = path if path.is_file() else path.with_name(path.name + ".gz")
    if not path.is_file():
        return []
    data, whole = _decompressed(path)
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    torn_at = len(lines) - 1 if lines[-1].strip(b"\0 \t\r") or not whole else None
    required = list(required)
    rows, bad, total = [], [], 0
    for number, line in enumerate(lines):
        text = line.strip(b"\0 \t\r")
        if not text:
            continue
        total += 1
        try:
            rows.append(_parse(text, required))
        except (ValueError, RecursionError) as error:
            if number == torn_at:
                _say(notes, f"{_place(path)}: the last line is torn; it was left out")
            else:
                bad.append(f"line {number + 1}: {error}")
    if len(bad) > MAX_BAD_LINES * total:
        raise DataError(
            f"{path}: {len(bad)} of {total} lines are unreadable, at most 1 % may be (first: {bad[0]}); "
            "mend the file, or name its folder *.stale"
        )
    if bad:
        _say(notes, f"{_place(path)}: {_count(len(bad), 'unreadable line')} left out (first: {bad[0]})")
    return rows


def _decompressed(path: Path) -> tuple[bytes, bool]:
    """A file's bytes, unpacked if gzipped, and whether the packed stream was complete."""
    data = path.read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data, True
    parts, whole = [], True
    while data:
        stream = zlib.decompressobj(wbits=31)
        try:
            parts.append(stream.decompress(data))
        except zlib.error as error:
            raise DataError(f"{path}: not a readable gzip file ({error})") from error
        whole, data = stream.eof, stream.unused_data
    return b"".join(parts), whole


def _parse(text: bytes, required: list[str]) -> dict[str, Any]:
    """One row, its numbers finite or NaN.

    Raises:
        ValueError: if the line is no row, or holds an impossible value.
    """
    row = json.loads(text)
    if not isinstance(row, dict):
        raise ValueError("it is not an object")
    if missing := [key for key in required if row.get(key) is None]:
        raise ValueError(f"it has no {', '.join(missing)}")
    for key in _INTEGERS:
        if type(row[key]) is not int or row[key] < (key == "visit"):
            raise ValueError(f"{key} is {row[key]!r}")
    for key in _NAMES & row.keys():
        if not isinstance(row[key], str):
            raise ValueError(f"{key} is {row[key]!r}")
    for key in _NUMBERS & row.keys():
        row[key] = _number(key, row[key])
    if "eval_task" in required and row["phase"] not in PHASES:
        raise ValueError(f"phase is {row['phase']!r}, not {' or '.join(PHASES)}")
    if not (0.0 <= row.get("success_rate", 0.0) <= 1.0 or math.isnan(row["success_rate"])):
        raise ValueError(f"success_rate is {row['success_rate']!r}")
    return row


def _number(key: str, value: Any) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r}")
    return value if math.isfinite(value) else float("nan")


# Frames


def _evaluations_of(runs: list[Run], notes: list[str] | None) -> pd.DataFrame:
    frame = _frame(runs, "evaluations.jsonl", EVALUATION_COLUMNS, EVALUATION_KEY, notes)
    if frame.empty:
        raise DataError(f"no evaluation rows in any of {_count(len(runs), 'trial')}: nothing was evaluated yet")
    games = frame["suite"] == GAMES
    frame["score"] = frame["success_rate"].where(~games, normalised_returns(frame["eval_task"], frame["mean_return"]))
    unknown = sorted(set(frame.loc[games, "eval_task"]) - set(atari_scores().index))
    if unknown:
        _say(notes, f"{', '.join(unknown)}: no published random and human scores, so no metric of their returns")
    unusable = frame["score"].isna() & ~frame["eval_task"].isin(unknown)
    if unusable.any():
        name = "mean_return" if games.all() else "success_rate"
        rows = _count(int(unusable.sum()), "evaluation row")
        _say(notes, f"{rows} without a finite {name}: kept as NaN, never counted as 0")
    _check_one_config_per_arm(frame)
    return frame


def _training_of(runs: list[Run], notes: list[str] | None) -> pd.DataFrame:
    return _frame(runs, "training.jsonl", TRAINING_COLUMNS, TRAINING_KEY, notes)


def _frame(
    runs: list[Run], file: str, columns: dict[str, str], key: list[str], notes: list[str] | None
) -> pd.DataFrame:
    """The rows of that file of all runs, checked against their folders, without duplicates."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        found = read_rows(run.path / file, key, notes)
        if not found:
            _say(notes, f"{run.label}: no rows in {file}")
        _check_identity(run, file, found)
        _note_going_back(run, file, found, notes)
        rows += found
    extra = sorted({name for row in rows for name in row} - columns.keys())
    frame = pd.DataFrame.from_records(rows, columns=[*columns, *extra])
    for name in sorted(_NUMBERS & columns.keys()):
        frame[name] = frame[name].astype(float)
    kept = frame.drop_duplicates(key, keep="last", ignore_index=True)
    if len(kept) < len(frame):
        dropped = _count(len(frame) - len(kept), "duplicate row")
        _say(notes, f"{file}: {dropped} left out; of rows with the same {', '.join(key)} the last one counts")
    return kept


def _check_identity(run: Run, file: str, rows: list[dict[str, Any]]) -> None:
    """A copied or renamed folder would count one run as two seeds."""
    for row in rows:
        found = f"{row['sequence']}/{row['arm']}/seed_{row['seed']}"
        if found != run.label:
            raise DataError(f"{run.path / file}: holds a row of {found}; a folder may hold one run only")


def _note_going_back(run: Run, file: str, rows: list[dict[str, Any]], notes: list[str] | None) -> None:
    furthest: dict[object, int] = {}
    backwards = 0
    for row in rows:
        curve = row.get("eval_task")
        backwards += row["env_steps"] < furthest.get(curve, 0)
        furthest[curve] = max(row["env_steps"], furthest.get(curve, 0))
    if backwards:
        _say(notes, f"{run.label}: {file} goes back {_count(backwards, 'time')} to fewer env_steps, as after a resume")


def _check_one_config_per_arm(evaluations: pd.DataFrame) -> None:
    for (sequence, arm), rows in evaluations.groupby(["sequence", "arm"]):
        groups = rows.groupby(rows["config_hash"].fillna("none"))["seed"].unique()
        if len(groups) > 1:
            listed = "; ".join(f"{hash_}: seeds {', '.join(map(str, sorted(s)))}" for hash_, s in groups.items())
            raise DataError(
                f"{sequence}/{arm} mixes runs of different settings and cannot be averaged: {listed}. "
                "Give each its own arm or study"
            )


def _task_order(
    sequence: str, runs: list[Run], study: Study | None, evaluations: pd.DataFrame, notes: list[str]
) -> TaskOrder:
    """Tasks and visits from the runs' settings, else from study.yaml, else from the rows."""
    rows = evaluations[evaluations["sequence"] == sequence]
    configs = [run.config for run in runs if run.sequence == sequence]
    settings = {(tuple(config["tasks"]), int(config["cycles"])) for config in configs if _has_curriculum(config)}
    if len(settings) > 1:
        listed = "; ".join(f"{' -> '.join(tasks)} x {cycles}" for tasks, cycles in sorted(settings))
        raise DataError(f"{sequence}: runs with different tasks or cycles cannot be compared: {listed}")
    if settings:
        positions, cycles = next(iter(settings))
    else:
        by_visit = rows.dropna(subset=["trained_task"]).groupby("visit")["trained_task"].first()
        positions = tuple(study.sequences.get(sequence, ())) if study else ()
        positions = positions or tuple(dict.fromkeys([*by_visit, *sorted(rows["eval_task"].unique())]))
        cycles = math.ceil(int(rows["visit"].max()) / len(positions))
        _say(notes, f"{sequence}: no config.yaml; {' -> '.join(positions)} x {cycles} was inferred from what is there")
    tasks = list(dict.fromkeys(positions))
    return TaskOrder(tasks, [tasks.index(task) for task in positions] * cycles)


def _has_curriculum(config: dict[str, Any]) -> bool:
    tasks, cycles = config.get("tasks"), config.get("cycles")
    return (
        isinstance(tasks, list) and bool(tasks) and all(isinstance(t, str) for t in tasks) and isinstance(cycles, int)
    )


def _check_visits(evaluations: pd.DataFrame, orders: dict[str, TaskOrder], notes: list[str]) -> None:
    """Rows must agree with the order of the tasks, or every metric would be wrong without a sign of it."""
    visits = evaluations[["sequence", "arm", "seed", "visit", "trained_task"]].drop_duplicates()
    for sequence, arm, seed, visit, task in visits.itertuples(index=False):
        order = orders[sequence]
        if visit > len(order.order):
            raise DataError(f"{sequence}/{arm}/seed_{seed}: has rows of visit {visit} of {len(order.order)}")
        expected = order.tasks[order.order[visit - 1]]
        if isinstance(task, str) and task != expected:
            raise DataError(
                f"{sequence}/{arm}/seed_{seed}: visit {visit} trained {task!r}, but the sequence says {expected!r}"
            )
    for sequence, rows in evaluations.groupby("sequence"):
        foreign = sorted(set(rows["eval_task"]) - set(orders[sequence].tasks))
        if foreign:
            _say(notes, f"{sequence}: evaluated tasks outside the sequence are left out: {', '.join(foreign)}")


# Neurons


def _read_neurons(run: Run, notes: list[str] | None) -> Iterator[pd.DataFrame]:
    folder = run.path / "neurons"
    for path in sorted(folder.glob("visit_*.npz")) if folder.is_dir() else []:
        if match := _NEURON_FILE.fullmatch(path.name):
            try:
                yield from _neuron_frames(run, int(match[1]), path)
            except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile, zlib.error) as error:
                _say(notes, f"{run.label}/neurons/{path.name}: left out, it cannot be read ({error})")


def _neuron_frames(run: Run, visit: int, path: Path) -> list[pd.DataFrame]:
    """A frame per network and layer."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MAX_NEURON_BYTES:
        raise ValueError(f"{size} bytes unpacked; at most {MAX_NEURON_BYTES}")
    frames = []
    with np.load(path, allow_pickle=False) as arrays:
        if "label_rate" not in arrays:
            return []  # A method's own arrays, without scores.
        layers = sorted({tuple(name.split("/")[:2]) for name in arrays.files if name.count("/") == 2})
        task, label_rate = str(arrays["task"]), float(arrays["label_rate"])
        env_steps = int(arrays["env_steps"])
        for network, layer in layers:
            get = f"{network}/{layer}/".__add__
            counts = np.asarray(arrays[get("counts")])
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


# Folders and small files


def _hint(root: Path) -> str:
    """Where the studies are, if a folder above or below them was named."""
    below = [str(child) for child in _folders(root) if any(child.glob("*/*/seed_*"))]
    above = [str(root.parents[n]) for n, pattern in enumerate(("*/seed_*", "seed_*")) if any(root.glob(pattern))]
    return f"; did you mean {' or '.join(below + above)}?" if below + above else ""


def _folders(path: Path) -> list[Path]:
    return sorted(
        child
        for child in path.iterdir()
        if child.is_dir() and not child.name.startswith((".", "_")) and not child.name.endswith(".stale")
    )


def _cost_of(folder: Path, notes: list[str] | None) -> dict[str, float]:
    """The counts of `cost.json`; one that is no count is left out, with a note."""
    content = _read_mapping(folder / "cost.json", notes)
    counts = {key: content[key] for key in COSTS if type(content.get(key)) is int and content[key] >= 0}
    if content and len(counts) < len(COSTS):
        _say(notes, f"{_place(folder / 'cost.json')}: no count for {', '.join(sorted(COSTS.keys() - counts.keys()))}")
    return counts


def _read_mapping(path: Path, notes: list[str] | None) -> dict[str, Any]:
    """A small YAML or JSON mapping; empty, with a note, if it cannot be read."""
    if not path.is_file():
        return {}
    try:
        content = _small_file(path)
        if isinstance(content, dict):
            return content
        problem = "it is not a mapping"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = str(error).splitlines()[0]
    _say(notes, f"{_place(path)}: left out, it cannot be read ({problem})")
    return {}


def _small_file(path: Path) -> Any:
    if path.stat().st_size > MAX_SETTINGS_BYTES:
        raise ValueError(f"larger than {MAX_SETTINGS_BYTES} bytes")
    text = path.read_text(encoding="utf-8-sig")
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


def _place(path: Path) -> str:
    """A file by its run, so that notes do not depend on where the study lies."""
    return "/".join(path.parts[-4:])


def _say(notes: list[str] | None, text: str) -> None:
    if notes is not None and text not in notes:
        notes.append(text)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
