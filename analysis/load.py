"""Result folders -> tidy frames -> a study's `Results`; what must not be averaged is refused.

A study is `RESULTS/<sequence>/<arm>/seed_<n>/`. Files that end in `.stale` and folders whose names start with `.` or
`_` are passed over. Whatever had to be left out or mended is said in the `notes` list that a caller may pass.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from rllib_nbsp.reading import MAX_INTEGER, MAX_TRIALS, MAX_VISITS

from .errors import DataError
from .games import atari_scores, normalised_returns
from .rows import check_name, counted, place, read_mapping, read_rows, read_small_file, say, shown
from .schema import (
    COSTS,
    EVALUATION_COLUMNS,
    EVALUATION_KEY,
    GAMES,
    NUMBER_KEYS,
    TRAINING_COLUMNS,
    TRAINING_KEY,
    Results,
    Run,
    Search,
    Study,
    TaskOrder,
)

_SEED_FOLDER = re.compile(r"seed_(\d+)")


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
                    _check_folder_names(root, sequence.name, arm.name, match[1])
                    config = read_mapping(folder / "config.yaml", notes)
                    versions = {str(k): str(v) for k, v in read_mapping(folder / "versions.json", notes).items()}
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
        content = read_small_file(path)
        study = Study(
            sequences={str(name): [str(task) for task in tasks] for name, tasks in content["sequences"].items()},
            arms=[str(arm) for arm in content["arms"]],
            seeds=[int(seed) for seed in content["seeds"]],
            notes=[str(note) for note in content.get("notes", ())],
            search=_search_of(content["search"], content["arms"]) if "search" in content else None,
        )
        _check_study(study)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        wanted = "a mapping with sequences {name: [tasks]}, arms [names] and seeds [numbers]"
        raise DataError(f"{path} is not {wanted}: {error}") from error
    return study


def _search_of(content: dict[str, Any], listed: list[Any]) -> Search:
    arms = {
        str(arm): {str(label): dict(stated) for label, stated in samples.items()}
        for arm, samples in content["arms"].items()
    }
    if unlisted := {label for samples in arms.values() for label in samples} - {*map(str, listed)}:
        raise ValueError(f"search has the samples {shown(sorted(unlisted))}, which are no arms")
    return Search(str(content["objective"]), arms, float(content.get("lifetime_percent", 100)))


def _check_study(study: Study) -> None:
    """Whether it can be looked for.

    Raises:
        ValueError: if a name is none, a number too large, or there are more trials than anybody runs.
    """
    for name in (*study.sequences, *study.arms, *(task for tasks in study.sequences.values() for task in tasks)):
        check_name("a name", name)
    if odd := [seed for seed in study.seeds if not 0 <= seed <= MAX_INTEGER]:
        raise ValueError(f"a seed is {shown(odd[0])}")
    if (count := len(study.sequences) * len(study.arms) * len(study.seeds)) > MAX_TRIALS:
        raise ValueError(f"it expects {count} trials; at most {MAX_TRIALS} are looked for")


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


# Folders


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


def _check_folder_names(root: Path, sequence: str, arm: str, seed: str) -> None:
    try:
        check_name("a sequence's folder", sequence)
        check_name("an arm's folder", arm)
        if int(seed) > MAX_INTEGER:
            raise ValueError(f"a seed is {shown(seed)}")
    except ValueError as error:
        raise DataError(f"{root}: {error}; name it *.stale to leave it out") from error


def _cost_of(folder: Path, notes: list[str] | None) -> dict[str, float]:
    """The counts of `cost.json`; one that is no count is left out, with a note."""
    content = read_mapping(folder / "cost.json", notes)
    counts = {key: content[key] for key in COSTS if type(content.get(key)) is int and 0 <= content[key] <= MAX_INTEGER}
    if content and len(counts) < len(COSTS):
        say(notes, f"{place(folder / 'cost.json')}: no count for {', '.join(sorted(COSTS.keys() - counts.keys()))}")
    return counts


# Frames


def _evaluations_of(runs: list[Run], notes: list[str] | None) -> pd.DataFrame:
    frame = _frame(runs, "evaluations.jsonl", EVALUATION_COLUMNS, EVALUATION_KEY, notes)
    if frame.empty:
        raise DataError(f"no evaluation rows in any of {counted(len(runs), 'trial')}: nothing was evaluated yet")
    games = frame["suite"] == GAMES
    frame["score"] = frame["success_rate"].where(~games, normalised_returns(frame["eval_task"], frame["mean_return"]))
    unknown = sorted(set(frame.loc[games, "eval_task"]) - set(atari_scores().index))
    if unknown:
        say(notes, f"{', '.join(unknown)}: no published random and human scores, so no metric of their returns")
    unusable = frame["score"].isna() & ~frame["eval_task"].isin(unknown)
    if unusable.any():
        name = "mean_return" if games.all() else "success_rate"
        rows = counted(int(unusable.sum()), "evaluation row")
        say(notes, f"{rows} without a finite {name}: kept as NaN, never counted as 0")
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
            say(notes, f"{run.label}: no rows in {file}")
        _check_identity(run, file, found)
        _note_going_back(run, file, found, notes)
        rows += found
    extra = sorted({name for row in rows for name in row} - columns.keys())
    frame = pd.DataFrame.from_records(rows, columns=[*columns, *extra])
    for name in sorted(NUMBER_KEYS & columns.keys()):
        frame[name] = frame[name].astype(float)
    kept = frame.drop_duplicates(key, keep="last", ignore_index=True)
    if len(kept) < len(frame):
        dropped = counted(len(frame) - len(kept), "duplicate row")
        say(notes, f"{file}: {dropped} left out; of rows with the same {', '.join(key)} the last one counts")
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
        say(notes, f"{run.label}: {file} goes back {counted(backwards, 'time')} to fewer env_steps, as after a resume")


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
        say(notes, f"{sequence}: no config.yaml; {' -> '.join(positions)} x {cycles} was inferred from what is there")
    tasks = list(dict.fromkeys(positions))
    return TaskOrder(tasks, [tasks.index(task) for task in positions] * cycles)


def _has_curriculum(config: dict[str, Any]) -> bool:
    tasks, cycles = config.get("tasks"), config.get("cycles")
    try:
        for task in tasks if isinstance(tasks, list) else ():
            check_name("a task", task)
    except ValueError:
        return False
    return isinstance(tasks, list) and type(cycles) is int and 1 <= len(tasks) * cycles <= MAX_VISITS


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
            say(notes, f"{sequence}: evaluated tasks outside the sequence are left out: {', '.join(foreign)}")
