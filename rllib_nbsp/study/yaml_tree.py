"""Reading a YAML file into plain values that remember their lines, and refusing what YAML lets slip by.

PyYAML keeps the last of two equal keys, builds Python objects, expands aliases without limit, reads `yes` as a key
named True, `1:30` as 90 and `010` as 8; each of these is an error here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rllib_nbsp.explain import KeyPath
from rllib_nbsp.reading import (
    MAX_DEPTH,
    MAX_NUMBER_LENGTH,
    MAX_STUDY_BYTES,
    MAX_VALUES,
    StudyLoader,
    Unreadable,
    read_bytes,
)
from rllib_nbsp.registry import did_you_mean
from rllib_nbsp.settings import ConfigError
from rllib_nbsp.study.presets import preset_name, presets

_OTHER_BASE = re.compile(r"[-+]?(\d[\d_]*(:[\d_.]+)+|0[0-9_]+)")
"""Whole numbers and fractions to the base of 60, and octal ones."""
_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "null")}
# A date is a name here, as in `experiment: 2026-01-31`.
_TEXTS = {f"tag:yaml.org,2002:{name}" for name in ("str", "timestamp")}


@dataclass
class YamlTree:
    """Nested dicts, lists and scalars, and where each of them stands.

    Attributes:
        source: the file's name as the user gave it.
        data: the top-level mapping.
        places: "file:line" or the command-line option, by path.
    """

    source: str
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: Sequence[str | int]) -> str:
        """Where a value stands, or else the nearest mapping or list around it."""
        for end in range(len(path), 0, -1):
            if (place := self.places.get(tuple(path[:end]))) is not None:
                return place
        return self.source

    def get(self, path: Sequence[str | int]) -> Any:
        """The value at a path; None if there is none."""
        value: Any = self.data
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def set(self, path: Sequence[str], value: Any, place: str) -> None:
        """Put a value at a path of keys.

        Raises:
            ConfigError: if the path leads through something that is no mapping.
        """
        inner = self.data
        for depth, key in enumerate(path[:-1]):
            child = inner.setdefault(key, {})
            if not isinstance(child, dict):
                raise ConfigError([f"{place}: {'.'.join(path[: depth + 1])} is {child!r} and has no keys to set"])
            self.places.setdefault(tuple(path[: depth + 1]), place)
            inner = child
        inner[path[-1]] = value
        for known in [known for known in self.places if known[: len(path)] == tuple(path)]:
            del self.places[known]
        self.places[tuple(path)] = place


def read_yaml_file(path: Path) -> tuple[YamlTree, str]:
    """A file's tree and text.

    Raises:
        ConfigError: if it cannot be read, is not UTF-8, is too large, or is refused by `read_yaml`.
    """
    try:
        data = read_bytes(path, MAX_STUDY_BYTES)
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file or preset{did_you_mean(preset_name(path), presets())}"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from None
    except Unreadable as error:
        raise ConfigError([f"{path}: {error}"]) from None
    except ValueError as error:  # a name with a NUL
        raise ConfigError([f"{str(path)!r}: {error}"]) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: byte {error.start} is not UTF-8 text"]) from None
    tree = read_yaml(text, str(path))
    if not isinstance(tree.data, dict):
        raise ConfigError([f"{path}: a mapping of keys to values is needed, got {type(tree.data).__name__}"])
    return tree, text


def read_yaml(text: str, source: str) -> YamlTree:
    """Parse one YAML document.

    Raises:
        ConfigError: for syntax errors, duplicate keys, keys that are not text, tags other than YAML's plain types, or
            more values than a configuration can have.
    """
    try:
        node = yaml.compose(text, StudyLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        hint = "; indent with spaces, not tabs" if "'\\t'" in str(error.problem) else ""
        raise ConfigError([f"{source}{line}: not valid YAML: {error.problem}{hint}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{source}: not valid YAML: {' '.join(str(error).split())}"]) from None
    except Unreadable as error:
        raise ConfigError([f"{source}:{error}"]) from None
    builder = _Builder(source)
    tree = YamlTree(source, {} if node is None else builder.build(node, ()), builder.places)
    if builder.problems:
        raise ConfigError(builder.problems)
    return tree


class _Builder:
    """Nodes to values. Values, not nodes, are counted, so that nested aliases cannot multiply without limit."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.places: dict[KeyPath, str] = {}
        self.problems: list[str] = []
        self._count = 0
        self._constructor = yaml.constructor.SafeConstructor()

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        place = f"{self.source}:{node.start_mark.line + 1}"
        self.places.setdefault(path, place)
        self._count += 1
        if self._count > MAX_VALUES or len(path) > MAX_DEPTH:
            limit = f"{MAX_VALUES} values" if self._count > MAX_VALUES else f"{MAX_DEPTH} levels"
            raise ConfigError([f"{place}: more than {limit}, aliases (*) expanded"])
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        if node.tag in _TEXTS:
            return node.value
        if node.tag in _SCALARS:
            try:
                if len(node.value) > MAX_NUMBER_LENGTH:
                    raise ValueError(f"longer than {MAX_NUMBER_LENGTH} characters")
                if _OTHER_BASE.fullmatch(node.value):
                    read = self._constructor.construct_object(node)
                    raise ValueError(f"YAML reads it as {read}; write that, or put it in quotes if it is a name")
                return self._constructor.construct_object(node)
            except (ValueError, OverflowError, yaml.YAMLError) as error:
                self.problems.append(f"{place}: {node.value[:60]!r} is not a value: {error}")
                return None
        self.problems.append(f"{place}: tag {node.tag} is not allowed; a configuration has plain values only")
        return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        built: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            place, key = f"{self.source}:{line}", key_node.value
            if key_node.tag not in _TEXTS:
                shown = repr(key) if isinstance(key, str) else "a list or mapping"
                self.problems.append(f"{place}: key {shown} is not text; put it in quotes if it is a name")
            elif key in built:
                self.problems.append(f"{place}: key {key!r} is given twice; first at line {lines[key]}")
            else:
                lines[key] = line
                self.places[(*path, key)] = place
                built[key] = self.build(value_node, (*path, key))
        return built


def apply_overrides(tree: YamlTree, overrides: Iterable[str]) -> None:
    """Put `key.path=value` options into a tree; values are YAML.

    Raises:
        ConfigError: listing every option that is malformed.
    """
    problems: list[str] = []
    for option in overrides:
        place = f"--set {option}"
        path, equals, text = option.partition("=")
        keys = path.strip().split(".")
        try:
            if not equals or not all(keys):
                raise ConfigError([f"{place}: not of the form key.path=value"])
            tree.set(keys, read_yaml(text, place).data if text.strip() else None, place)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
