"""A study's YAML file -> a checked study; every problem is found in one pass.

Defaults live in `rllib_nbsp.settings` and in the methods' `Config`; a file states what its experiment changes. Nothing
here knows Ray, so that a mistake is told in a second.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rllib_nbsp.checks import check_run, task_errors
from rllib_nbsp.envs import SUITES, Suite, suite_of
from rllib_nbsp.explain import (
    MAX_NAME_LENGTH,
    KeyPath,
    allowed_at,
    dotted,
    problem_line,
    schema_of,
    show,
    wrong_values,
)
from rllib_nbsp.methods import METHODS
from rllib_nbsp.plugins import PluginError, find_beside, import_plugin
from rllib_nbsp.registry import unknown
from rllib_nbsp.settings import ConfigError, RunSettings, Settings
from rllib_nbsp.study.presets import study_file
from rllib_nbsp.study.search import Options, SearchSettings, combinations, draw, sample_label
from rllib_nbsp.study.study import EXTRAS, Arm, CheckedStudy, sections, study_model
from rllib_nbsp.study.yaml_tree import YamlTree, apply_overrides, read_yaml_file


def load_study(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    sequences: Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> CheckedStudy:
    """Read and check a study.

    Args:
        path: of the YAML file, or the name of a preset.
        overrides: `key.path=value`, in place of what the file says; a key that an arm states itself is set under
            `arms.LABEL`.
        sequences, arms: which of the file's to run; None runs all.
        seeds: in place of the file's.

    Modules beside the file can be imported from then on, by its `plugins` and other names of modules.

    Raises:
        ConfigError: listing every problem.
    """
    path = study_file(path)
    tree, text = read_yaml_file(path)
    find_beside(path.parent)
    apply_overrides(tree, overrides)
    if seeds is not None:
        tree.set(["seeds"], list(seeds), "--seeds")
    return _Reader(tree).study(path, text, sequences, arms)


class _Reader:
    """Collects the problems of one tree, first of single values, then of values together."""

    def __init__(self, tree: YamlTree) -> None:
        self.tree = tree
        self.problems: list[str] = []
        self._import_plugins()
        self.sections = sections(tree.data.get("suite"))
        self.searches: dict[str, int] = {}

    def _import_plugins(self) -> None:
        """Before all else: what the other keys may be hangs on them.

        Raises:
            ConfigError: if one cannot be used.
        """
        names = self.tree.data.get("plugins")
        for i, name in enumerate(names if isinstance(names, list) else ()):
            try:
                if isinstance(name, str):
                    import_plugin(name)
            except PluginError as error:
                self._refuse(("plugins", i), f"is {show(name)}: {error}")
        suite = self.tree.data.get("suite")
        if not self.problems and isinstance(suite, str) and ":" in suite and (problem := SUITES.problem(suite)):
            self._refuse(("suite",), f"is {show(suite)}: {problem}")
        if self.problems:
            raise ConfigError(self.problems)

    def study(
        self, path: Path, text: str, sequence_names: Sequence[str] | None, arm_names: Sequence[str] | None
    ) -> CheckedStudy:
        settings = self._validate(study_model(self.tree.data.get("suite")), self.tree.data, ())
        arms = list(self._arms())
        self._check_search()
        self._check_tasks()
        self._check_seeds()
        self._check_loggers()
        sequences = self._mapping("sequences")
        chosen_sequences = self._choose("--sequences", sequence_names, sequences)
        labels = dict.fromkeys([*self._mapping("arms"), *(arm.label for arm in arms)])
        chosen_arms = self._choose("--arms", arm_names, labels)
        if not self.problems and settings is not None:
            selected = _select(arms, chosen_arms)
            study = CheckedStudy(
                path,
                text,
                settings,
                {name: settings.sequences[name] for name in chosen_sequences},
                selected,
                [arm for arm in arms if arm not in selected],
                settings.seeds,
                self.searches,
            )
            self._check_runs(study)
        if self.problems:
            raise ConfigError(sorted(dict.fromkeys(self.problems), key=self._line))
        return study

    def _line(self, problem: str) -> int:
        match = re.match(rf"{re.escape(self.tree.source)}:(\d+): ", problem)
        return int(match[1]) if match else 0

    def _mapping(self, key: str) -> dict[str, Any]:
        value = self.tree.data.get(key)
        return value if isinstance(value, dict) else {}

    def _choose(self, option: str, names: Sequence[str] | None, known: Iterable[str]) -> list[str]:
        known = list(known)
        for name in names or ():
            if name not in known:
                self.problems.append(f"{option} {name}: {unknown(name, known, option.strip('-'))}")
        return list(dict.fromkeys(names)) if names is not None else known

    # Single values

    def _validate(
        self, model: type[Settings], data: Any, path: KeyPath, only: Any = None, option: int | None = None
    ) -> Any:
        """The model of some data, or None; problems are named by `path` and, if `only` is given, only those of keys
        that `only` has too. With `option`, the data hold one key's value at that place of a list."""
        try:
            return model.model_validate(data)
        except ValidationError as error:
            schema = schema_of(model)
            for detail, inner in wrong_values(error, schema):
                if only is None or _reaches(only, inner):
                    place = (*path, *inner) if option is None else (*path, inner[0], option, *inner[1:])
                    line = problem_line(detail, schema, inner, place, self.tree.data.get("suite"))
                    self.problems.append(f"{self.tree.place(place)}: {line}")
            return None

    # Arms

    def _arms(self) -> Iterator[Arm]:
        for label, raw in self._mapping("arms").items():
            if isinstance(raw, dict):
                stated = {key: value for key, value in raw.items() if key != "search"}
                arm = self._arm(label, label, stated)
                if arm is not None:
                    yield from self._samples(arm, raw["search"]) if "search" in raw else [arm]

    def _arm(self, label: str, origin: str, raw: dict[str, Any]) -> Arm | None:
        path: KeyPath = ("arms", origin)
        method = raw.get("method")
        if "method" not in raw:
            self._refuse((*path, "method"), f"is missing; known methods: {', '.join(sorted(METHODS))}")
            return None
        if not isinstance(method, str) or METHODS.problem(method):
            self._refuse((*path, "method"), f"is {show(method)}: {METHODS.problem(str(method))}")
            return None
        before = len(self.problems)
        keys = {key: value for key, value in raw.items() if key != "method" and key not in self.sections}
        config = METHODS[method].Config
        known = [*config.model_fields, *self.sections, "search"]
        for key in [key for key in keys if key not in config.model_fields]:
            del keys[key]
            place, name = self.tree.place((*path, key)), dotted((*path, key))
            self.problems.append(f"{place}: unknown key {name!r} for method {method!r}: {unknown(key, known)}")
        settings = self._validate(config, keys, path)
        sections = {name: self._section(name, raw[name], path) for name in self.sections if name in raw}
        if len(self.problems) > before or settings is None or not all(sections.values()):
            return None
        return Arm(label, method, settings.model_dump(), sections, origin, raw)

    def _section(self, name: str, override: Any, path: KeyPath) -> Any:
        """The file's section with an arm's changes."""
        if not isinstance(override, dict):
            place = self.tree.place((*path, name))
            keys = ", ".join(self.sections[name].model_fields)
            self.problems.append(
                f"{place}: {dotted((*path, name))} is {show(override)}; allowed: a mapping with keys {keys}"
            )
            return None
        base = self.tree.data.get(name)
        merged = _merge(base, override) if isinstance(base, dict) else override
        return self._validate(self.sections[name], merged, (*path, name), only=override)

    # Searches

    def _samples(self, arm: Arm, raw: Any) -> Iterator[Arm]:
        """The arms that an arm's search stands for."""
        before = len(self.problems)
        options = self._options(arm, raw)
        if len(self.problems) > before:
            return
        self.searches[arm.origin] = combinations(options)
        search = self._search_settings()
        for number, chosen in enumerate(draw(options, search.samples, search.seed)):
            stated = arm.stated
            for path, value in chosen.items():
                for key in reversed(path):
                    value = {key: value}
                stated = _merge(stated, value)
            sample = self._arm(sample_label(arm.label, number), arm.origin, stated)
            if sample is not None:
                yield sample

    def _options(self, arm: Arm, raw: Any) -> Options:
        """The values to choose from; whatever else stands in a search is a problem."""
        path: KeyPath = ("arms", arm.origin, "search")
        config = METHODS[arm.method].Config
        options: dict[tuple[str, ...], Any] = {}
        if not isinstance(raw, dict) or not raw:
            self._refuse(path, f"is {show(raw)}; allowed: a mapping of the arm's keys to lists of values")
            return {}
        for name, values in raw.items():
            if name in config.model_fields:
                self._check_option(config, path, name, values, arm.stated)
                options[(name,)] = values
            elif name not in self.sections:
                place, where = self.tree.place((*path, name)), dotted((*path, name))
                known = unknown(name, [*config.model_fields, *self.sections])
                self.problems.append(f"{place}: unknown key {where!r} for method {arm.method!r}: {known}")
            elif not isinstance(values, dict) or not values:
                keys = ", ".join(self.sections[name].model_fields)
                self._refuse((*path, name), f"is {show(values)}; allowed: a mapping to lists, with keys {keys}")
            else:
                for key, inner in values.items():
                    self._check_option(self.sections[name], (*path, name), key, inner, arm.stated.get(name, {}))
                    options[name, key] = inner
        return options

    def _check_option(
        self, model: type[Settings], path: KeyPath, key: str, values: Any, stated: Mapping[str, Any]
    ) -> None:
        """Whether a key's list can be searched."""
        where = (*path, key)
        if key not in model.model_fields:
            known = unknown(key, model.model_fields)
            self.problems.append(f"{self.tree.place(where)}: unknown key {dotted(where)!r}: {known}")
        elif not isinstance(values, list) or not values:
            allowed = allowed_at(schema_of(model), (key,))
            self._refuse(where, f"is {show(values)}; allowed: a list of at least 1: {allowed}")
        else:
            if key in stated:
                self._refuse(where, "is searched, but the arm states it too; leave out one of them")
            for i, value in enumerate(values):
                if value in values[:i]:
                    self._refuse(where, f"has {show(value)} twice; a sample is run once")
                self._validate(model, {key: value}, path, option=i)

    def _refuse(self, path: KeyPath, what: str) -> None:
        self.problems.append(f"{self.tree.place(path)}: {dotted(path)} {what}")

    def _search_settings(self) -> SearchSettings:
        """The file's, or the defaults if these are wrong."""
        with contextlib.suppress(ValidationError):
            return SearchSettings.model_validate(self.tree.data.get("search", {}))
        return SearchSettings()

    def _check_search(self) -> None:
        arms = self._mapping("arms")
        searched = [label for label, raw in arms.items() if isinstance(raw, dict) and "search" in raw]
        if "search" in self.tree.data and not searched:
            self._refuse(("search",), "is given, but no arm has a search of its own, lists of values for its keys")
        samples = self._search_settings().samples
        for label in searched:
            taken = [other for other in arms if re.fullmatch(rf"{re.escape(label)}-s\d\d+", other)]
            last = sample_label(label, min(samples, self.searches.get(label, 1)) - 1)
            if taken:
                self._refuse(("arms", taken[0]), f"is called as a sample of arms.{label}.search is; rename one of them")
            if len(label) <= MAX_NAME_LENGTH < len(last):
                self._refuse(("arms", label), f"has samples up to {last}, longer than {MAX_NAME_LENGTH} characters")

    # Values together

    def _check_tasks(self) -> None:
        suite = self.tree.data.get("suite")
        configured = None
        if isinstance(suite, str):
            if problem := SUITES.problem(suite):
                self._refuse(("suite",), f"is {suite!r}: {problem}")
            else:
                configured = self._configured(SUITES[suite])
        for name, tasks in self._mapping("sequences").items():
            if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
                continue
            self._check_repeats(name, tasks)
            if configured is not None:
                place = self.tree.place(("sequences", name))
                self.problems += [f"{place}: sequences.{name}: {error}" for error in task_errors(configured, tasks)]

    def _configured(self, suite: Suite) -> Suite | None:
        """The suite under the file's settings for it; None if these are wrong, which is told; tasks must wait."""
        if suite.Config is not None and suite.name in self.tree.data:
            try:
                suite = suite.configured(suite.Config.model_validate(self.tree.data[suite.name]))
            except ValidationError:
                return None  # a single value's problem, which is told already
        errors = suite.check_section()
        for line in errors:
            self.problems.append(f"{self.tree.place(_key_of(line))}: {line}")
        return None if errors else suite

    def _check_repeats(self, name: str, tasks: list[str]) -> None:
        if self.tree.data.get("allow_repeats") is True:
            return
        cycles = self.tree.data.get("cycles", 2)
        wraps = isinstance(cycles, int) and cycles > 1
        following = [*tasks[1:], tasks[0]] if wraps and tasks else tasks[1:]
        for i, (task, after) in enumerate(zip(tasks, following, strict=False)):
            if task == after:
                place = self.tree.place(("sequences", name, i))
                where = "at the turn of the cycle" if i == len(tasks) - 1 else f"at {i} and {i + 1}"
                self.problems.append(
                    f"{place}: sequences.{name} visits {task!r} twice in a row ({where}); allowed with "
                    "allow_repeats: true"
                )

    def _check_seeds(self) -> None:
        seeds = self.tree.data.get("seeds")
        counts = Counter(seed for seed in seeds if isinstance(seed, int)) if isinstance(seeds, list) else Counter()
        self.problems += [
            f"{self.tree.place(('seeds',))}: seeds has {seed} {count} times; a seed run twice is the same run again"
            for seed, count in counts.items()
            if count > 1
        ]

    def _check_loggers(self) -> None:
        loggers = self.tree.data.get("loggers")
        for i, name in enumerate(loggers if isinstance(loggers, list) else ()):
            if name in EXTRAS and importlib.util.find_spec(name) is None:
                self._refuse(("loggers", i), f"is {name!r}, which is not installed: pip install 'rllib-nbsp[{name}]'")

    def _check_runs(self, study: CheckedStudy) -> None:
        for sequence in study.sequences:
            for arm in study.arms:
                settings = study.trial(sequence, arm, study.seeds[0])
                self.problems += [self._placed(line, arm) for line in check_run(settings)]
                self._check_seen(settings, study.settings.search.lifetime_percent)
                suite = suite_of(settings)
                if suite.name in arm.sections:  # the file's own section is checked with the sequences
                    errors = suite.check_section()
                    self.problems += [self._placed(line, arm) for line in errors]
                    path: KeyPath = ("arms", arm.origin, suite.name)
                    self.problems += [
                        f"{self.tree.place(path)}: {dotted(path)}: sequences.{sequence}: {error}"
                        for error in (() if errors else task_errors(suite, settings.tasks))
                    ]

    def _check_seen(self, settings: RunSettings, percent: float) -> None:
        """Whether what a sample sees of a lifetime is enough for an update."""
        stop, least = settings.stop_env_steps, settings.first_update_env_steps
        if stop is not None and stop < least:
            self._refuse(
                ("search", "lifetime_percent"),
                f"is {percent:g}, {stop} of {settings.num_visits * settings.visit.max_env_steps} environment steps, in "
                f"which no update is made; the first one is after {least}",
            )

    def _placed(self, line: str, arm: Arm) -> str:
        """A line that begins with a key, with that key's place."""
        keys = _key_of(line)
        own = ("arms", arm.origin, *keys)
        searched = ("arms", arm.origin, "search", *keys[: 2 if keys[0] in self.sections else 1])
        if self.tree.get(searched) is not None:
            return f"{self.tree.place(searched)}: arms.{arm.origin}.search.{line}"
        if keys[0] in arm.method_settings or self.tree.get(own) is not None:
            return f"{self.tree.place(own)}: arms.{arm.origin}.{line}"
        if keys[0] in self.sections:
            return f"{self.tree.place(keys)}: {line}"
        return f"{self.tree.place(('arms', arm.origin))}: arms.{arm.origin}: {line}"


def _key_of(line: str) -> tuple[str, ...]:
    """The key with which a line begins."""
    return tuple(line.split(" ", 1)[0].rstrip(":").split("."))


def _select(arms: Sequence[Arm], labels: Iterable[str]) -> list[Arm]:
    """The arms of those labels, a search's label standing for all of its samples; each once."""
    chosen = {arm.label: arm for label in labels for arm in arms if label in (arm.label, arm.origin)}
    return list(chosen.values())


def _reaches(data: Any, path: KeyPath) -> bool:
    for key in path:
        if not isinstance(data, Mapping) or key not in data:
            return not isinstance(data, Mapping)
        data = data[key]
    return True


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
