"""Every key of a study's file: what it takes, its default, and what it means, from the settings' models alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Column, Table

from rllib_nbsp.envs import SUITES
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.base import MethodSettings
from rllib_nbsp.settings import EarlyStopSettings, ScoringSettings, Settings
from rllib_nbsp.study.search import SearchSettings
from rllib_nbsp.study.study import StudySettings

SHORTHANDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "null": "null"}
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


class Key(NamedTuple):
    """A key's name, what it takes, its default as JSON ("required" if it has none), and what it means."""

    name: str
    values: str
    default: str
    meaning: str


class Group(NamedTuple):
    """Keys that stand together: those at the top, of a section, of a suite's section or of a method.

    `kind` is "study", "suite" or "method".
    """

    kind: str
    name: str
    meaning: str
    keys: list[Key]


def keys(model: type[Settings], prefix: str = "", *, but: type[Settings] | None = None) -> Iterator[Key]:
    """A model's keys, those of its sections left out.

    Args:
        model: whose keys.
        prefix: of the key's name, with its dot.
        but: a base whose keys stand elsewhere, where they are the same.
    """
    shapes = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        if but and repr(but.model_fields.get(name)) == repr(field):
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            continue
        default = "required" if field.is_required() else json.dumps(field.default, default=dict)
        yield Key(prefix + name, values(shapes[name]), default, _one_line(field.description))


def values(shape: Mapping[str, Any]) -> str:
    """What a key takes, of its JSON schema, in words."""
    if "anyOf" in shape:
        return ", or ".join(values(one) for one in shape["anyOf"])
    if "enum" in shape or "const" in shape:
        return ", ".join(str(value) for value in shape.get("enum", [shape.get("const")]))
    if shape.get("type") == "array":
        return f"list of: {values(shape['items'])}"
    if shape.get("type") == "object":
        return "mapping"
    bounds = [f"{sign} {shape[name]:.10g}" for name, sign in BOUNDS.items() if name in shape]
    return " ".join([SHORTHANDS[shape["type"]], *bounds]) if "type" in shape else "section"


def groups() -> Iterator[Group]:
    """All keys: of the file, of the sections that suites bring, and of an arm, by method."""
    yield Group("study", "at the top", "", list(keys(StudySettings)))
    inner: list[tuple[str, type[Settings]]] = [
        (name, type(field.default))
        for name, field in StudySettings.model_fields.items()
        if isinstance(field.default, Settings) and not isinstance(field.default, SearchSettings)
    ]
    inner += [("visit.early_stop", EarlyStopSettings), ("search", SearchSettings)]
    inner.append(("score_all_methods", ScoringSettings))
    for name, model in inner:
        yield Group("study", name, _one_line(model.__doc__), list(keys(model, f"{name}.")))
    for name in sorted(SUITES):
        config = SUITES[name].Config
        if config is not None:
            yield Group("suite", name, _one_line(config.__doc__), list(keys(config, f"{name}.")))
    yield Group("method", "every method", "", list(keys(MethodSettings)))
    for name in sorted(METHODS):
        config = METHODS[name].Config
        if config is not MethodSettings:
            yield Group("method", name, "", list(keys(config, but=MethodSettings)))


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def json_schema() -> dict[str, Any]:
    """The JSON schema of a study's file, for editors; under a suite or a method that nobody registered, any key."""
    schema = StudySettings.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    definitions = schema.setdefault("$defs", {})

    def part(model: type[Settings]) -> dict[str, Any]:
        own = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(own.pop("$defs", {}))
        return own

    common = list(schema["properties"])
    sections = {
        name: definitions[type(field.default).__name__]
        for name, field in StudySettings.model_fields.items()
        if isinstance(field.default, Settings) and not isinstance(field.default, SearchSettings)
    }
    suites = {name: part(suite.Config) for name, suite in SUITES.items() if suite.Config is not None}
    methods = {name: part(METHODS[name].Config)["properties"] for name in sorted(METHODS)}
    # An arm changes some keys of a section: what is required of a whole one is not of it.
    changes = {
        name: {word: value for word, value in section.items() if word != "required"}
        for name, section in {**sections, **suites}.items()
    }
    arm: dict[str, Any] = {
        "type": "object",
        "required": ["method"],
        "properties": {"method": {"type": "string", "examples": [*methods]}, "search": {"type": "object"}, **changes},
        "allOf": [
            _if("method", name, {"properties": own, **_only(["method", "search", *changes, *own])})
            for name, own in methods.items()
        ],
    }
    arms = schema["properties"]["arms"]
    arms["patternProperties"] = dict.fromkeys(arms["patternProperties"], arm)
    schema["properties"] |= suites
    schema["properties"]["suite"] |= {"examples": sorted(SUITES)}
    schema["allOf"] = [_if("suite", name, _only([*common, *{name} & {*suites}])) for name in sorted(SUITES)]
    del schema["additionalProperties"]  # the section of a suite that nobody registered
    return schema


def _if(key: str, value: str, then: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"required": [key], "properties": {key: {"const": value}}}, "then": then}


def _only(names: Sequence[str]) -> dict[str, Any]:
    return {"propertyNames": {"enum": list(names)}}


def main(argv: Sequence[str]) -> int:
    """Print the keys, those with a word in their names if one is given; returns the exit code."""
    parser = argparse.ArgumentParser(prog="rllib-nbsp keys", description=__doc__)
    parser.add_argument("word", nargs="?", default="", metavar="WORD", help="only keys whose names have it")
    parser.add_argument("--json-schema", action="store_true", help="of a study's file, for editors")
    options = parser.parse_args(argv)
    if options.json_schema:
        print(json.dumps(json_schema(), indent=1))
        return 0
    console = Console()
    found = [(group, [key for key in group.keys if options.word in key.name]) for group in groups()]
    for group, own in found:
        if own:
            name = Column("key", no_wrap=True)
            table = Table(name, "values", "default", "meaning", box=None, pad_edge=False, title_justify="left")
            table.title = group.name if group.kind == "study" else f"{group.kind} {group.name}"
            for key in own:
                table.add_row(*key)
            console.print(table, markup=False)
    if not any(own for _, own in found):
        console.print(f"no key's name has {options.word!r} in it", markup=False, highlight=False)
        return 2
    return 0
