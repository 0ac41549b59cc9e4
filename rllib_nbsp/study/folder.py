"""A study's result folder: who holds it, what is finished in it, and what it should hold in the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from rllib_nbsp.envs import suite_of
from rllib_nbsp.locks import FolderInUse, FolderLock
from rllib_nbsp.reading import read_json, read_yaml
from rllib_nbsp.records import ENVIRONMENTS
from rllib_nbsp.settings import NOT_HASHED, RunSettings, config_hash, with_added, without_added
from rllib_nbsp.state.bundle import list_bundles, newest_env_steps
from rllib_nbsp.state.own import STATE
from rllib_nbsp.study.errors import PreflightError
from rllib_nbsp.study.study import Arm, CheckedStudy

MAX_TOLD = 1_000
"""Characters of what a file says in an error."""


def study_folder(root: str, name: str, resume: bool) -> Path:
    """The absolute folder of a study under a root, which need not exist yet unless it is resumed.

    Raises:
        PreflightError: if it cannot be written, something on its path is no folder, or there is nothing to resume.
    """
    try:
        folder = Path(root).expanduser().absolute() / name
        parent = existing(folder)
    except (OSError, RuntimeError) as error:  # a name that is too long, a home of nobody
        reason = error.strerror if isinstance(error, OSError) else error
        raise PreflightError([f"--results-dir {root}: {reason}"], 4) from error
    problem = None
    if folder.is_symlink():
        problem = f"{folder} is a symbolic link; name the folder itself"
    elif not parent.is_dir():
        problem = f"{parent} is a file, not a folder"
    elif not os.access(parent, os.W_OK | os.X_OK):
        problem = f"{parent} is not writable"
    if problem:
        raise PreflightError([f"--results-dir {root}: {problem}"], 4)
    if resume and not (folder / "study.yaml").is_file():
        raise PreflightError([f"--resume: there is no study in {folder}; leave --resume out to start it"], 2)
    return folder


@contextlib.contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Make the folder, and hold it alone; the lock goes with the process.

    Raises:
        PreflightError: if another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
    except OSError as error:
        raise PreflightError([f"{folder}: {error.strerror}"], 4) from error
    except FolderInUse as error:
        raise PreflightError([str(error)], 4) from error
    try:
        yield
    finally:
        lock.release()


def open_trials(study: CheckedStudy, trials: Sequence[RunSettings], folder: Path, resume: bool) -> list[RunSettings]:
    """The trials that are still to be run in a folder.

    Raises:
        PreflightError: if there are results already and `resume` is not set; if results belong to another study, or
            some that stay have other settings; if a trial's folder is a link.
    """
    for path in (inner for trial in trials for inner in (_trial_folder(trial), *_trial_folder(trial).parents[:2])):
        if path.is_symlink():
            raise PreflightError(
                [f"{path} is a symbolic link, which leads out of the study's folder; put a folder there"], 4
            )
    finished = _statuses(folder)
    if not resume:
        if finished:
            done = sum(status["done"] for status in finished.values())
            raise PreflightError(
                [
                    f"{folder} has {len(finished)} runs of an earlier start, {done} of them finished: go on with "
                    "--resume, or start another study with --name NAME"
                ],
                2,
            )
        return list(trials)
    earlier = _earlier_study(folder)
    held = earlier.get("experiment")
    if held != (own := study.settings.experiment):
        raise PreflightError(
            [f"--resume: {folder} holds the experiment {_cut(repr(held))}, not {own!r}; use --name"], 3
        )
    _check_unchanged(study, trials, finished, earlier)
    return [trial for trial in trials if not finished.get(_trial_folder(trial), {}).get("done")]


def saved_env_steps(trials: Sequence[RunSettings]) -> list[int]:
    """Of each trial, the environment step that it goes on from; 0 for one that begins anew."""
    return [newest_env_steps(_trial_folder(trial) / STATE) or 0 for trial in trials]


def _trial_folder(trial: RunSettings) -> Path:
    assert trial.results_dir is not None  # a study's trials always have one
    return Path(trial.results_dir)


def _statuses(folder: Path) -> dict[Path, dict[str, Any]]:
    rows = [*folder.glob("*/*/seed_*/status.json"), *folder.glob("*/*/seed_*/evaluations.jsonl")]
    return {path: _status(path) for path in sorted({file.parent for file in rows})}


def _status(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # absent or torn: not finished
        left = read_json(path / "status.json")
        return {"done": left["done"] is True, "config_hash": left["config_hash"]}
    return {"done": False, "config_hash": None}


def is_finished(path: Path) -> bool:
    """Whether a trial's folder says that it came to its end."""
    return bool(_status(path)["done"])


def _check_unchanged(
    study: CheckedStudy,
    trials: Sequence[RunSettings],
    statuses: Mapping[Path, Mapping[str, Any]],
    earlier: Mapping[str, Any],
) -> None:
    """Whether all results that stay are of the study's settings.

    Seeds of an arm are averaged, so those of an arm to be run must agree in everything. Arms are compared, so that the
    others must agree in what they do not state for themselves.
    """
    problems: dict[Path, str] = {}
    to_run = {_trial_folder(trial) for trial in trials}
    averaged_with = {path.parent for path in to_run}
    arms = {arm.label: arm for arm in (*study.arms, *study.other_arms)}
    for path, status in statuses.items():
        sequence, label = path.parts[-3:-1]
        starts_anew = path in to_run and not status["done"] and not list_bundles(path / STATE)
        if path.parent in problems or starts_anew or sequence not in study.sequences or label not in arms:
            continue
        trial = study.trial(sequence, arms[label], study.seeds[0])
        averaged = path.parent in averaged_with
        if averaged and (changed := _environment_changes(path, trial)):
            problems[path.parent] = (
                f"--resume: {path} has results of another environment ({changed}), and seeds are averaged; put it "
                "back, or use another --name"
            )
            continue
        if status["config_hash"] in (None, config_hash(trial)) or not (averaged or status["done"] or path in to_run):
            continue
        changes = _changes(path, trial, () if averaged else _own_keys(arms[label], earlier))
        if changes:
            problems[path.parent] = (
                f"--resume: {path} has results of other settings ({changes}); put them back, or use another --name"
            )
    if problems:
        raise PreflightError(problems.values(), 3)


def _environment_changes(path: Path, trial: RunSettings) -> str:
    """How the environments of a finished trial differ from what its tasks' names stand for now."""
    try:
        before = read_json(path / ENVIRONMENTS)
    except FileNotFoundError:  # of a suite that says nothing, or of an earlier version
        return ""
    except (OSError, ValueError) as error:
        return f"which one is not known: {ENVIRONMENTS}: {error}"
    was, now = _flat(before), _flat(suite_of(trial).environments(trial.tasks))
    differing = [key for key in dict.fromkeys([*now, *was]) if was.get(key) != now.get(key)]
    return _cut(", ".join(f"{key} {_was(was, key)} and {_is(now, key)}" for key in differing))


def _own_keys(arm: Arm, earlier: Mapping[str, Any]) -> list[str]:
    """The keys that an arm states for itself, now or in the options of an earlier start."""
    stated = [key for key, value in _flat(arm.stated).items() if value != {}]
    prefix = f"arms.{arm.origin}."
    options = [option.split("=")[0] for option in earlier.get("overrides") or []]
    before = [option.removeprefix(prefix) for option in options if option.startswith(prefix)]
    return ["method", "method_settings", *stated, *before]


def _changes(path: Path, trial: RunSettings, own: Sequence[str]) -> str:
    """The settings of a finished trial that differ from a trial's, but for the keys of its own."""
    try:
        read = read_yaml(path / "config.yaml")
        if not isinstance(read, dict):
            raise ValueError(f"not a mapping but {_cut(repr(read))}")
        old = without_added(with_added(read))
    except (OSError, ValueError, TypeError) as error:
        return f"which ones is not known: config.yaml: {error}"
    was, now = _flat(old), _flat(without_added(trial.model_dump(exclude=NOT_HASHED)))
    absent = object()
    differing = [
        key
        for key in dict.fromkeys([*now, *was])
        if key.split(".")[0] not in NOT_HASHED
        and was.get(key, absent) != now.get(key, absent)
        and not any(f"{key}.".startswith(f"{o}.") for o in own)
    ]
    return _cut(", ".join(f"{key} {_was(was, key)} and {_is(now, key)}" for key in differing))


def _cut(text: str) -> str:
    """What a file says, in an error, of which the beginning is enough."""
    return text if len(text) <= MAX_TOLD else f"{text[:MAX_TOLD]}..."


def _was(was: Mapping[str, Any], key: str) -> str:
    return f"was {was[key]!r}" if key in was else "did not exist"


def _is(now: Mapping[str, Any], key: str) -> str:
    return f"is {now[key]!r}" if key in now else "is gone"


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {name: value}
    return {
        key: leaf for part, inner in value.items() for key, leaf in _flat(inner, f"{name}.{part}".lstrip(".")).items()
    }


class StudyDumper(yaml.SafeDumper):
    """Writes text of several lines, as a study's own is, as it stands."""


StudyDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def write_study(study: CheckedStudy, overrides: Sequence[str], folder: Path, resume: bool) -> None:
    """Write `study.yaml`: which trials the folder should hold, for the analysis, and the study's own text."""
    earlier = _earlier_study(folder) if resume else {}
    searches = _searches(study, earlier.get("search", {}))
    content = {
        "experiment": study.settings.experiment,
        "suite": study.settings.suite,
        "sequences": {**(earlier.get("sequences") or {}), **study.sequences},
        "arms": list(dict.fromkeys([*earlier.get("arms", []), *(arm.label for arm in study.arms)])),
        "seeds": list(dict.fromkeys([*earlier.get("seeds", []), *study.seeds])),
        "notes": list(dict.fromkeys([*earlier.get("notes", []), *study.notes()])),
        **({"search": searches} if searches else {}),
        "overrides": list(dict.fromkeys([*earlier.get("overrides", []), *overrides])),
        "file": study.path.name,
        "text": study.text,
    }
    temporary = folder / "study.yaml.tmp"
    temporary.unlink(missing_ok=True)
    temporary.write_text(yaml.dump(content, Dumper=StudyDumper, sort_keys=False), encoding="utf-8")
    os.replace(temporary, folder / "study.yaml")


def planned(folder: Path) -> tuple[list[str], list[str], list[int]]:
    """The sequences, arms and seeds that `study.yaml` says the folder should hold in the end, each with each."""
    content = _earlier_study(folder)
    return list(content["sequences"]), content["arms"], content["seeds"]


def _searches(study: CheckedStudy, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """What the analysis must know to name the best samples: the objective, how much they see, what each one states."""
    arms = {label: dict(samples) for label, samples in earlier.get("arms", {}).items()}
    for label, samples in study.samples().items():
        arms.setdefault(label, {}).update({arm.label: arm.stated for arm in samples})
    search = study.settings.search
    return {"objective": search.objective, "lifetime_percent": search.lifetime_percent, "arms": arms} if arms else {}


class _StudyFile(BaseModel):
    """What goes on from an earlier `study.yaml`."""

    model_config = ConfigDict(strict=True)

    experiment: str | None = None
    sequences: dict[str, list[str]] | None = None
    arms: list[str] = []
    seeds: list[int] = []
    notes: list[str] = []
    overrides: list[str] | None = None
    search: dict[str, str | float | dict[str, dict[str, dict[str, Any]]]] = {}


def _earlier_study(folder: Path) -> dict[str, Any]:
    try:
        return _StudyFile.model_validate(read_yaml(folder / "study.yaml")).model_dump(exclude_unset=True)
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
    except (OSError, ValueError) as error:
        problem = str(error)
    raise PreflightError([f"{folder / 'study.yaml'} cannot be read: {_cut(problem)}"], 3)


def existing(path: Path) -> Path:
    """The path itself, or the nearest thing above it that exists."""
    return next(parent for parent in (path, *path.parents) if parent.exists() or parent.is_symlink())
