"""A study: the keys of its file, its arms, and the runs that it stands for. Nothing here knows Ray."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from rllib_nbsp.envs import suite_of, with_suite_section
from rllib_nbsp.explain import NAME_PATTERN, NAME_WORDS, show
from rllib_nbsp.run import run_settings
from rllib_nbsp.settings import CommonSettings, ConfigError, RunSettings, Seed, Settings
from rllib_nbsp.study.search import SearchSettings

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
LoggerName = Literal["tensorboard", "csv", "wandb", "mlflow"]
SHARED = "_shared"
"""In a study's folder, while it runs: first visits that its trials have in common."""
EXTRAS = ("wandb", "mlflow")
"""Loggers that are packages of their own, which `pip install rllib-nbsp[NAME]` brings."""


class StudySettings(CommonSettings):
    """The keys of a study's file. Its sections hold for every arm that does not state its own."""

    experiment: Name
    """The study's name, and that of its folder."""
    sequences: Annotated[dict[Name, Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]
    """Task sequences by name."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """Each arm runs once for each of these."""
    arms: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    """Method configurations by label: `method`, the method's own keys, and changes of the sections. Under `search` an
    arm lists values for some of these keys, and stands for as many arms as are drawn from them."""
    search: SearchSettings = SearchSettings()
    loggers: list[LoggerName] = Field(["tensorboard", "csv"])
    """What logs the iterations of each trial, beside the rows, under `_tune`. `wandb` is offline unless `WANDB_MODE`
    says otherwise; `mlflow` writes files unless `MLFLOW_TRACKING_URI` names a server."""
    share_visits: bool = True
    """Run a first visit that arms of one seed have in common once; the others begin at its end (docs/resume.md)."""
    allow_repeats: bool = False
    """Let a sequence visit the same task twice in a row."""


def trial_label(trial: RunSettings) -> str:
    """How a person names a trial."""
    return f"{trial.sequence}/{trial.arm}/seed_{trial.seed}"


def how_far(trial: RunSettings) -> str:
    """How far through its visits a run comes that ends before they are over, for a person."""
    seen = trial.visit_env_steps
    steps = f"{sum(seen):,} of {trial.num_visits * trial.visit.max_env_steps:,} env steps"
    where = "the end of" if seen[-1] == trial.visit.max_env_steps else "within"
    sooner = " or further, as visits may end early" if trial.visit.early_stop else ""
    nothing = ": nothing can be forgotten there" if len(seen) == 1 and not sooner else ""
    return f"{steps}, to {where} visit {len(seen)} of {trial.num_visits}{sooner}{nothing}"


def study_model(suite: object) -> type[StudySettings]:
    """The keys of a study's file, with the section of the suite of that name if it has one."""
    return with_suite_section(StudySettings, suite)


def sections(suite: object) -> dict[str, type[Settings]]:
    """The sections that an arm may change, by name."""
    return {
        name: field.annotation
        for name, field in with_suite_section(CommonSettings, suite).model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    }


@dataclass(frozen=True)
class Arm:
    """A labelled method configuration: the method, all of its keys, and the sections that it changes.

    Attributes:
        origin: its label in the file; another than its own for a sample of a search.
        stated: what the file says of it, with a sample's values in place of the search.
    """

    label: str
    method: str
    method_settings: dict[str, Any]
    sections: dict[str, Settings]
    origin: str
    stated: dict[str, Any]


@dataclass(frozen=True)
class CheckedStudy:
    """A checked study.

    Attributes:
        path: of its file.
        text: of its file.
        settings: the file's keys, with defaults and overrides.
        sequences: the selected task sequences.
        arms: the selected arms.
        other_arms: the file's arms that are not selected.
        seeds: the selected seeds.
        searches: for each of the file's arms with a search, how many combinations it has.
    """

    path: Path
    text: str
    settings: StudySettings
    sequences: dict[str, list[str]]
    arms: list[Arm]
    other_arms: list[Arm]
    seeds: list[int]
    searches: dict[str, int]

    def trials(self, folder: Path | None = None) -> list[RunSettings]:
        """One run per sequence, seed and arm; the arms of a seed stand together, so that they can be compared early.

        Args:
            folder: the study's absolute result folder; None writes no rows.
        """
        return [
            self.trial(sequence, arm, seed, folder)
            for sequence in self.sequences
            for seed in self.seeds
            for arm in self.arms
        ]

    def notes(self) -> list[str]:
        """What the suite says of the sequences' tasks, and how much of its combinations a search tries, a line each."""
        of_tasks = [
            f"{sequence}: {note}"
            for sequence, tasks in self.sequences.items()
            for note in suite_of(self.settings).notes(tasks)
        ]
        return [*of_tasks, *(self._search_note(arm) for arm in self.samples())]

    def samples(self) -> dict[str, list[Arm]]:
        """The selected samples of each search."""
        return {origin: own for origin in self.searches if (own := [arm for arm in self.arms if arm.origin == origin])}

    def _search_note(self, origin: str) -> str:
        search, total = self.settings.search, self.searches[origin]
        seen = "" if search.lifetime_percent == 100 else f"; {self._seen(origin)}"
        if search.samples < total:
            return f"{origin}: {search.samples} of {total} combinations, drawn with seed {search.seed}{seen}"
        return f"{origin}: all {total} combinations, {search.samples} samples being asked for{seen}"

    def _seen(self, origin: str) -> str:
        """How much of a lifetime the samples of a search see."""
        runs = [self.trial(name, arm, self.seeds[0]) for name in self.sequences for arm in self.samples()[origin]]
        seen = ", or ".join(dict.fromkeys(map(how_far, runs)))
        return f"they see the first {self.settings.search.lifetime_percent:g} % of a lifetime, {seen}"

    def trial(self, sequence: str, arm: Arm, seed: int, folder: Path | None = None) -> RunSettings:
        """The settings of one trial."""
        names = with_suite_section(CommonSettings, self.settings.suite).model_fields
        common = {name: getattr(self.settings, name) for name in names}
        run = run_settings(
            **{**common, **arm.sections},
            sequence=sequence,
            tasks=self.settings.sequences[sequence],
            arm=arm.label,
            method=arm.method,
            method_settings=arm.method_settings,
            seed=seed,
            results_dir=str(folder / sequence / arm.label / f"seed_{seed}") if folder else None,
            shared_dir=str(folder / SHARED) if folder and self.settings.share_visits else None,
        )
        stop = self.settings.search.env_steps_of(sum(run.visit_env_steps)) if arm.origin in self.searches else None
        return run.model_copy(update={"stop_env_steps": stop})


def safe_name(option: str, name: str) -> str:
    """A name that is safe as a folder.

    Raises:
        ConfigError: if it is not.
    """
    if not re.fullmatch(NAME_PATTERN, name) or name.endswith("\n"):
        raise ConfigError([f"{option} is {show(name)}; allowed: {NAME_WORDS}"])
    return name
