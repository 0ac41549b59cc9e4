"""Writes the tables of `docs/` that say what the code says: `python -m docs.tables [--check]`.

`keys.md` is made of the settings' models, and of each method's and suite's `Config`; the columns of
`results_folder.md` are those of `analysis/schema.py`. So no list is kept twice.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import schema
from rllib_nbsp.envs import SUITES
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.base import MethodSettings
from rllib_nbsp.settings import EarlyStopSettings, ScoringSettings, Settings
from rllib_nbsp.study.search import SearchSettings
from rllib_nbsp.study.study import StudySettings

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- {}: written by docs/tables.py -->", "<!-- end -->"
SHORTHANDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "null": "null"}
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def table(heads: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns(described: Mapping[str, str]) -> str:
    """Columns and what they hold."""
    return table(("column", "what"), ((f"`{name}`", text) for name, text in described.items()))


def values(shape: Mapping[str, Any]) -> str:
    """What a key takes, of its JSON schema, in words."""
    if "anyOf" in shape:
        return ", or ".join(values(one) for one in shape["anyOf"])
    if "enum" in shape or "const" in shape:
        return ", ".join(f"`{value}`" for value in shape.get("enum", [shape.get("const")]))
    if shape.get("type") == "array":
        return f"list of: {values(shape['items'])}"
    if shape.get("type") == "object":
        return "mapping"
    bounds = [f"{sign} {shape[name]:.10g}" for name, sign in BOUNDS.items() if name in shape]
    return " ".join([SHORTHANDS[shape["type"]], *bounds]) if "type" in shape else "section"


def keys(model: type[Settings], prefix: str = "", *, but: type[Settings] | None = None) -> str:
    """A model's keys: what each takes, its default, and what it means.

    Args:
        model: whose keys.
        prefix: of the key's name, with its dot.
        but: a base whose keys stand elsewhere, where they are the same.
    """
    shapes = model.model_json_schema()["properties"]

    def rows() -> Iterator[tuple[str, ...]]:
        for name, field in model.model_fields.items():
            if but and repr(but.model_fields.get(name)) == repr(field):
                continue
            # A section's keys have tables of their own.
            if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
                continue
            default = "required" if field.is_required() else f"`{json.dumps(field.default, default=dict)}`"
            meaning = " ".join((field.description or "").split())
            yield f"`{prefix}{name}`", values(shapes[name]), default, meaning

    found = list(rows())
    return table(("key", "values", "default", "meaning"), iter(found)) if found else "No keys of its own."


def sections() -> Iterator[tuple[str, type[Settings]]]:
    """The sections of a study, by name."""
    for name, field in StudySettings.model_fields.items():
        if isinstance(field.default, Settings) and not isinstance(field.default, SearchSettings):
            yield name, type(field.default)


def study_keys() -> str:
    """The keys of a study's file, section by section."""
    parts = ["### At the top", keys(StudySettings)]
    for name, model in sections():
        parts += [f"### `{name}`", " ".join((model.__doc__ or "").split()), keys(model, f"{name}.")]
    parts += ["### `visit.early_stop`", " ".join((EarlyStopSettings.__doc__ or "").split())]
    parts += [keys(EarlyStopSettings, "visit.early_stop.")]
    parts += ["### `search`", " ".join((SearchSettings.__doc__ or "").split()), keys(SearchSettings, "search.")]
    parts += ["### `score_all_methods`", " ".join((ScoringSettings.__doc__ or "").split())]
    return "\n\n".join([*parts, keys(ScoringSettings, "score_all_methods.")])


def suite_keys() -> str:
    """The sections that suites bring, by the suite's name."""
    parts = []
    for name in sorted(SUITES):
        config = SUITES[name].Config
        if config is not None:
            parts += [f"### `{name}`", " ".join((config.__doc__ or "").split()), keys(config, f"{name}.")]
    return "\n\n".join(parts)


def method_keys() -> str:
    """The flat keys of an arm, by method."""
    parts = ["### Every method", keys(MethodSettings)]
    for name in sorted(METHODS):
        config = METHODS[name].Config
        if config is not MethodSettings:
            parts += [f"### `{name}`", keys(config, but=MethodSettings)]
    return "\n\n".join(parts)


def pages() -> dict[Path, dict[str, str]]:
    """The pages and their tables, by name."""
    return {
        FOLDER / "keys.md": {"study": study_keys(), "suites": suite_keys(), "methods": method_keys()},
        FOLDER / "results_folder.md": {
            "evaluations": columns(schema.EVALUATION_COLUMNS),
            "training": columns({**schema.TRAINING_COLUMNS, **schema.FURTHER_TRAINING_COLUMNS}),
            "neurons": columns(schema.NEURON_COLUMNS),
            "cost": columns(schema.COSTS),
        },
    }


def written(page: str, tables: Mapping[str, str]) -> str:
    """The page with its tables renewed."""
    for name, text in tables.items():
        before, rest = page.split(BEGIN.format(name))
        _, after = rest.split(END, 1)
        page = f"{before}{BEGIN.format(name)}\n\n{text}\n\n{END}{after}"
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, or with `--check` say whether they are up to date; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    stale = 0
    for path, tables in pages().items():
        page = path.read_text(encoding="utf-8")
        new = written(page, tables)
        if new == page:
            continue
        if "--check" in arguments:
            print(f"{path}: its tables are not the code's; write them anew with `python -m docs.tables`")
            stale = 1
        else:
            path.write_text(new, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
