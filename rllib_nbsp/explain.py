"""Words for what a configuration gets wrong; what is allowed at a key is read from its model's JSON schema."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from rllib_nbsp.envs import SUITES
from rllib_nbsp.registry import unknown
from rllib_nbsp.settings import Settings

MAX_NAME_LENGTH = 64
NAME_PATTERN = rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_LENGTH - 1}}}$"
NAME_WORDS = f"1 to {MAX_NAME_LENGTH} letters, digits, '.', '_' or '-', the first a letter or digit"

KeyPath = tuple[str | int, ...]
Schema = dict[str, Any]


@functools.cache
def schema_of(model: type[Settings]) -> Schema:
    """A model's JSON schema."""
    return model.model_json_schema()


def options_at(schema: Schema, path: Iterable[str | int]) -> tuple[list[Schema], KeyPath]:
    """The schemas of which a value at a path must meet one, and how much of the path the schema knows."""
    known: list[str | int] = []
    options = _options(schema, schema)
    for key in path:
        inner = [found for option in options if (found := _child(option, key)) is not None]
        if not inner:
            break
        options = _options(inner[0], schema)
        known.append(key)
    return options, tuple(known)


def _options(part: Schema, schema: Schema) -> list[Schema]:
    """Resolve references and unions."""
    if "$ref" in part:
        return _options(schema["$defs"][part["$ref"].rsplit("/", 1)[-1]], schema)
    return [leaf for option in part["anyOf"] for leaf in _options(option, schema)] if "anyOf" in part else [part]


def _child(option: Schema, key: str | int) -> Schema | None:
    if isinstance(key, int):
        return option.get("items")
    if key in option.get("properties", {}):
        return option["properties"][key]
    if "patternProperties" in option:
        return next(iter(option["patternProperties"].values()))
    values = option.get("additionalProperties")
    return values if isinstance(values, dict) else None


def input_path(loc: Sequence[str | int], schema: Schema) -> KeyPath:
    """A pydantic location without the tags of union members and of keys; an unknown key at its end is kept."""
    loc = loc[:-1] if loc[-1:] == ("[key]",) else loc
    options, known = options_at(schema, loc)
    rest = loc[len(known) :]
    return (*known, rest[0]) if rest and any(option.get("type") == "object" for option in options) else known


def wrong_values(error: ValidationError, schema: Schema) -> Iterator[tuple[Mapping[str, Any], KeyPath]]:
    """What pydantic found, once for each value, with the value's path in the schema."""
    seen = set()
    for detail in error.errors(include_url=False):
        path = input_path(detail["loc"], schema)
        if path not in seen:
            seen.add(path)
            yield detail, path


def problem_line(detail: Mapping[str, Any], schema: Schema, inner: KeyPath, path: KeyPath, suite: object) -> str:
    """A line about a value, without its place.

    Args:
        detail: what pydantic found.
        schema: of the model.
        inner: the value's path in the schema.
        path: the value's path as the user wrote it.
        suite: that of the run or study.
    """
    name = dotted(path)
    if detail["type"] == "extra_forbidden":
        if len(inner) == 1 and inner[0] in SUITES and SUITES[str(inner[0])].Config is not None:
            return f"{name} is the section of suite {name!r}, and the suite is {show(suite)}: leave it out"
        options, _ = options_at(schema, inner[:-1])
        known = [key for option in options for key in option.get("properties", {})]
        return f"unknown key {name!r}: {unknown(str(inner[-1]), known)}"
    allowed = allowed_at(schema, inner)
    if detail["type"] == "missing":
        return f"{name} is missing; it must be {allowed}"
    if detail["loc"] and detail["loc"][-1] == "[key]":
        return f"{dotted(path[:-1])} has the name {show(inner[-1])}; allowed: names of {NAME_WORDS}"
    if detail["type"] == "finite_number":
        allowed += ", finite"
    return f"{name} is {show(detail['input'])}; allowed: {allowed}{hint(detail['input'], allowed)}"


def allowed_at(schema: Schema, path: KeyPath) -> str:
    """What may stand at a path."""
    return " or ".join(_describe(option, schema) for option in options_at(schema, path)[0])


def _describe(option: Schema, schema: Schema) -> str:
    if "enum" in option or "const" in option:
        return ", ".join(repr(value) for value in option.get("enum", [option.get("const")]))
    match option.get("type"):
        case "integer":
            return f"a whole number{_range(option)}"
        case "number":
            return f"a number{_range(option)}"
        case "array":
            items = " or ".join(_describe(item, schema) for item in _options(option["items"], schema))
            least = f" of at least {option['minItems']}" if "minItems" in option else ""
            exactly = f" of {option['maxItems']}" if option.get("maxItems") == option.get("minItems", -1) else least
            return f"a list{exactly}: {items}"
        case "object":
            keys = ", ".join(option.get("properties", {}))
            least = f" with at least {option['minProperties']} entry" if "minProperties" in option else ""
            return f"a mapping with keys {keys}" if keys else f"a mapping{least}"
        case "string":
            return f"a name of {NAME_WORDS}" if option.get("pattern") == NAME_PATTERN else "text"
        case "boolean":
            return "true or false"
    return "null"


def _range(option: Schema) -> str:
    words = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {option[key]:.12g}" for key, sign in words.items() if key in option]
    return f" {' and '.join(bounds)}" if bounds else ""


def dotted(path: KeyPath) -> str:
    """A path as the user would write it: `model.hidden[0]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def show(value: Any) -> str:
    """A value as YAML writes it, cut to one short line."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def hint(value: Any, allowed: str) -> str:
    """Why a value that looks right is not: YAML 1.1 reads `1e6` as text, `yes` as true, and 1.0e+6 is no integer."""
    if "number" not in allowed:
        return ""
    whole = "whole number" in allowed
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value) and math.isfinite(float(value)):
        return f" (YAML reads {value[:20]} as text: write {_yaml_number(float(value), whole)})"
    if isinstance(value, float) and whole and value.is_integer():
        return f" (write {value:.0f})"
    if isinstance(value, bool):
        return " (YAML reads yes, no, on and off as true and false)"
    return ""


def _yaml_number(number: float, whole: bool) -> str:
    if whole and number.is_integer():
        return f"{number:.0f}"
    mantissa, exponent = f"{number:e}".split("e")
    return f"{float(mantissa)}e{exponent[0]}{int(exponent[1:])}"
