"""Writes the tables of `docs/` that say what the code says: `python -m docs.tables [--check]`.

`keys.md` is made of the settings' models, and of each method's and suite's `Config`; the columns of
`results_folder.md` are those of `analysis/schema.py`. So no list is kept twice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from analysis import schema
from rllib_nbsp.study.keys import Key, groups

FOLDER, COMMAND = Path(__file__).parent, "python -m docs.tables"
END = "<!-- end -->"


def begin(name: str, command: str) -> str:
    """What stands above a table of a page, with the command that writes it."""
    return f"<!-- {name}: written by {command} -->"


def table(heads: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns(described: Mapping[str, str]) -> str:
    """Columns and what they hold."""
    return table(("column", "what"), ((f"`{name}`", text) for name, text in described.items()))


def keys_of(kind: str) -> str:
    """The keys of a kind of group, a table for each."""
    parts = []
    for group in groups():
        if group.kind == kind:
            name = group.name.capitalize() if " " in group.name else f"`{group.name}`"
            rows = ((f"`{key.name}`", key.values, _default(key), key.meaning) for key in group.keys)
            own = table(("key", "values", "default", "meaning"), rows) if group.keys else "No keys of its own."
            parts += [f"### {name}", group.meaning, own]
    return "\n\n".join(part for part in parts if part)


def _default(key: Key) -> str:
    return key.default if key.default == "required" else f"`{key.default}`"


def pages() -> dict[Path, dict[str, str]]:
    """The pages and their tables, by name."""
    return {
        FOLDER / "keys.md": {"study": keys_of("study"), "suites": keys_of("suite"), "methods": keys_of("method")},
        FOLDER / "results_folder.md": {
            "evaluations": columns(schema.EVALUATION_COLUMNS),
            "training": columns({**schema.TRAINING_COLUMNS, **schema.FURTHER_TRAINING_COLUMNS}),
            "mechanism": columns(schema.MECHANISM_COLUMNS),
            "neurons": columns(schema.NEURON_COLUMNS),
            "cost": columns(schema.COSTS),
        },
    }


def written(page: str, tables: Mapping[str, str], command: str) -> str:
    """The page with those of its tables renewed that a command writes."""
    for name, text in tables.items():
        before, rest = page.split(begin(name, command))
        _, after = rest.split(END, 1)
        page = f"{before}{begin(name, command)}\n\n{text}\n\n{END}{after}"
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, or with `--check` say whether they are up to date; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    stale = 0
    for path, tables in pages().items():
        page = path.read_text(encoding="utf-8")
        new = written(page, tables, COMMAND)
        if new == page:
            continue
        if "--check" in arguments:
            print(f"{path}: its tables are not the code's; write them anew with `{COMMAND}`")
            stale = 1
        else:
            path.write_text(new, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
