"""First visits that runs have in common, run once.

Until its first boundary a method that protects nothing yet does what fine-tuning does: the runs of one seed whose
settings agree in all that a first visit depends on are the same run until there. One of them makes the visit and leaves
what it came to in a folder that all of them see; the others begin at its end, with scores and stores of their own.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

from rllib_nbsp.curriculum import Phase
from rllib_nbsp.locks import FolderInUse, FolderLock
from rllib_nbsp.nn.neurons import LayerStatistics, NeuronScores
from rllib_nbsp.records import versions
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sac.learner import CONTINUAL
from rllib_nbsp.settings import RunSettings, ScoringSettings
from rllib_nbsp.state.bundle import Bundle, BundleWriter, list_bundles, newest

logger = logging.getLogger(__name__)

PAUSE_S = 2.0
"""Between two looks at whether another run is through with the visit."""


def first_visit(settings: RunSettings) -> str | None:
    """What a run's first visit is, as a name that others share iff theirs is the same; None if it is its own alone."""
    run = ResolvedRun(settings)
    phases = run.method.phases(run.keys, run.curriculum.visit(1))
    if not run.method.idle_in_first_visit(run.keys) or phases != [Phase()]:
        return None
    suite = {key: value for key, value in settings.model_dump().items() if key == settings.suite}
    resources = settings.resources
    depends_on = {
        "suite": settings.suite,
        **suite,
        "tasks": settings.tasks,
        "num_visits": settings.num_visits,
        "seed": settings.seed,
        "capacity": settings.replay.capacity,
        "visit": settings.visit.model_dump(),
        "env_steps": settings.visit_env_steps[0],
        "training": run.training.model_dump(),
        "model": run.model.model_dump(),
        "evaluation": settings.evaluation.model_dump(),
        "state": settings.state.model_dump(),
        "layout": [resources.num_env_runners, resources.num_envs_per_env_runner, resources.num_learners],
        "device": resources.num_gpus_per_learner > 0,
    }
    return _hash(depends_on)


def shared_by(trials: Iterable[RunSettings]) -> list[list[RunSettings]]:
    """The trials in groups that have their first visit in common; those that share it with no other are left out."""
    groups: dict[str, list[RunSettings]] = {}
    for trial in trials:
        if trial.shared_dir is not None and (name := first_visit(trial)) is not None:
            groups.setdefault(name, []).append(trial)
    return [group for group in groups.values() if len(group) > 1]


def is_left(settings: RunSettings) -> bool:
    """Whether another run has left this one its first visit."""
    folder = _folder(settings)
    return folder is not None and bool(list_bundles(folder))


def _folder(settings: RunSettings) -> Path | None:
    """Where the run's first visit lies, or would, if others may have it."""
    name = None if settings.shared_dir is None or settings.results_dir is None else first_visit(settings)
    return None if name is None else Path(str(settings.shared_dir)) / name


class SharedVisit:
    """A run's first visit, if it may be another's.

    Args:
        algorithm: the run, a `ContinualSAC` that is set up.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._folder = _folder(algorithm.run.settings)
        self._versions = versions()
        self._lock: FolderLock | None = None
        self.waits_for: str | None = None

    def found(self) -> Bundle | None:
        """The visit as another run has left it, if it has."""
        if self._folder is None:
            return None
        bundle, _ = newest(self._folder)
        return bundle if bundle is not None and bundle.identity["versions"] == self._versions else None

    def claim(self) -> bool:
        """Make the visit for the others too; returns whether no other run is making it."""
        if self._folder is None or self._lock is not None:
            return True
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = FolderLock(self._folder, self._algorithm.filed.arm)
        except FolderInUse as error:
            self.waits_for = error.owner
            return False
        self.waits_for = None
        return True

    def wait(self) -> None:
        """For a moment, after which another look is due."""
        time.sleep(PAUSE_S)

    def release(self) -> None:
        """Let others make the visit."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def leave(self) -> None:
        """At the first visit's end, once it is evaluated: leave it to the others, if this run makes it for them."""
        if self._lock is None or self._folder is None:
            return
        run = self._algorithm
        own = set(run.learners.first("method_numbers")) - {"masked_frac"}  # which every run has
        parts = run.resumption.parts(run.iteration)
        parts["rows"] = {
            name: [{key: value for key, value in row.items() if key not in own} for row in run.records.rows(name)]
            for name in ("training.jsonl", "evaluations.jsonl")
        }
        identity = {"versions": self._versions, "arm": run.filed.arm}
        try:
            BundleWriter(self._folder).write(run.env_steps, identity, parts, run.replay.series())
        except OSError as error:  # no reason to end: the others make the visit themselves
            logger.warning("%s: the first visit could not be left to others: %s", self._folder, error)
        self.release()

    def take(self, bundle: Bundle) -> None:
        """Be at the end of the visit that another run has left, in a folder of one's own."""
        run, arm = self._algorithm, bundle.identity["arm"]
        self.waits_for = None
        method = run.learners.first("kept_state")[CONTINUAL]["method"]
        parts = copy.copy(bundle.parts)
        parts["learner"] = {**parts["learner"], CONTINUAL: {**parts["learner"][CONTINUAL], "method": method}}
        parts["sampling"] = _without_episodes(parts["sampling"])
        # What it draws at the boundary depends on the method.
        parts["run"] = {**parts["run"], "rows_rng": run.rows_rng.bit_generator.state}
        run.resumption.put_back(parts, bundle.series)
        run.open_records(fresh=True)
        own = run.learners.first("method_numbers")
        for row in parts["rows"]["training.jsonl"]:
            run.records.training({**row, **own, "shared_from": arm})
        for row in parts["rows"]["evaluations.jsonl"]:
            run.records.evaluation({**row, "shared_from": arm})

    def scores(self, scoring: ScoringSettings) -> NeuronScores | None:
        """What another run has measured of the neurons after the shared visit by these settings, if one has."""
        folder = self._scores_folder(scoring)
        bundle = None if folder is None else newest(folder)[0]
        if bundle is None:
            return None
        kept = bundle.parts["scores"]
        layers = {name: [LayerStatistics(**layer) for layer in own] for name, own in kept["layers"].items()}
        return NeuronScores(layers, kept["label_rate"], kept["env_steps"])

    def leave_scores(self, scoring: ScoringSettings, scores: NeuronScores) -> None:
        """Leave to the others what was measured after the shared visit."""
        folder = self._scores_folder(scoring)
        if folder is None:
            return
        layers = {name: [vars(layer) for layer in own] for name, own in scores.layers.items()}
        kept = {"layers": layers, "label_rate": scores.label_rate, "env_steps": scores.env_steps}
        with contextlib.suppress(OSError):  # the others measure it themselves
            BundleWriter(folder).write(self._algorithm.env_steps, {}, {"scores": kept}, [])

    def _scores_folder(self, scoring: ScoringSettings) -> Path | None:
        """Where scores after this visit lie, if the visit is one that was left to others."""
        if self._folder is None or self._algorithm.visit.number != 1 or not list_bundles(self._folder):
            return None
        measured = {key: getattr(scoring, key) for key in ScoringSettings.model_fields}
        measured["measures"] = [field.name for field in dataclasses.fields(LayerStatistics)]  # older ones lack some
        return self._folder / f"scores_{_hash(measured)}"


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _without_episodes(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Where processes are in their environments, but for the episodes that were running: a boundary ends them."""
    workers = {worker: {**state, "running": None} for worker, state in sampling["workers"].items()}
    return {**sampling, "workers": workers, "fragments": []}
