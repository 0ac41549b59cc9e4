"""What the code says of its documents, and they of it, is so."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import yaml

from docs import faults, results, tables
from rllib_nbsp.envs import with_suite_section
from rllib_nbsp.methods import METHODS
from rllib_nbsp.settings import CommonSettings, Settings

FOLDERS = ("analysis", "benchmarks", "docs", "examples", "rllib_nbsp", "tests", "tune_configs")
ENDINGS = (".py", ".md", ".yaml", ".toml", ".j2")
TEXTS = {
    path: path.read_text()
    for path in [*Path().iterdir(), *(path for folder in FOLDERS for path in Path(folder).rglob("*"))]
    if path.name == "Makefile" or path.suffix in ENDINGS
}
WRITTEN = {"table.md", "neurons.md", "visit_NN.md"}
"""What a report writes and no repository holds."""

READINGS = TEXTS[Path("docs/readings.md")]
CODE_SPAN = re.compile(r"`([^`]+)`")
FILE = re.compile(r".*(\.py|\.yaml|/)")
KEY = re.compile(r"([a-z_]+(?:\.[a-z_]+)*)(?:: (.+))?")
SECTIONS = with_suite_section(CommonSettings, "atari")(suite="atari")


def keys(text: str) -> list[tuple[str, str | None]]:
    """The keys in a text, each with a dot or with a value, and that value."""
    spans = [span for span in CODE_SPAN.findall(text) if not FILE.fullmatch(span)]
    found = [(match[1], match[2]) for span in spans if (match := KEY.fullmatch(span))]
    return [(key, value) for key, value in found if "." in key or value is not None]


def section_of(key: str) -> Settings:
    """The settings that have a key, at their defaults: a section or, without a dot, NBSP's keys or another method's."""
    *sections, name = key.split(".")
    section: Any = SECTIONS
    for inner in sections:
        section = getattr(section, inner, None)
    if not sections:
        configs = [METHODS["nbsp"].Config(), *(method.Config() for method in METHODS.values())]
        section = next((config for config in configs if name in type(config).model_fields), None)
    assert section is not None and name in type(section).model_fields, f"there is no key {key}"
    return section


def test_no_two_readings_share_a_number() -> None:
    numbers = re.findall(r"^- \*\*(R\d+) ", READINGS, re.MULTILINE)
    assert len(numbers) == len(set(numbers)) > 0


def test_every_reading_that_is_cited_exists() -> None:
    cited = {
        (str(path), number)
        for path, text in TEXTS.items()
        for numbers in re.findall(r"readings\.md ((?:R\d+(?:, )?)+)", text)
        for number in re.findall(r"R\d+", numbers)
    }
    assert cited
    assert [place for place in sorted(cited) if f"\n- **{place[1]} " not in READINGS] == []


def test_no_file_names_a_document_that_is_not_in_the_repository() -> None:
    named = {(path, name) for path, text in TEXTS.items() for name in re.findall(r"[\w./-]*\w\.md\b", text)}
    assert named
    missing = [
        f"{path}: {name}"
        for path, name in named
        if not (name in WRITTEN or Path(name).exists() or (path.parent / name).exists())
    ]
    assert missing == []


def test_every_link_of_a_document_leads_to_a_file_that_exists() -> None:
    links = {
        (path, target)
        for path, text in TEXTS.items()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)", text)
        if "://" not in target
    }
    assert links
    assert [f"{path}: {target}" for path, target in links if not (path.parent / target).exists()] == []


def test_every_file_that_the_readings_name_exists() -> None:
    named = [span for span in CODE_SPAN.findall(READINGS) if FILE.fullmatch(span)]
    assert named
    assert [name for name in named if not (Path(name).exists() or Path("rllib_nbsp", name).exists())] == []


def test_every_key_that_the_readings_name_exists_and_takes_the_value_that_they_give_it() -> None:
    named = keys(READINGS)
    assert named
    for key, value in named:
        section = section_of(key)
        if value is not None:
            type(section).model_validate({**dict(section), key.split(".")[-1]: yaml.safe_load(value)})


def test_the_defaults_that_the_readings_state_are_those_of_the_code() -> None:
    stated = re.findall(r"Default: (`[^`]+`(?:, `[^`]+`)*)", " ".join(READINGS.split()))
    defaults = {key: value for text in stated for key, value in keys(text)}
    assert defaults
    code = {key: getattr(section_of(key), key.split(".")[-1]) for key in defaults}
    assert {key: yaml.safe_load(str(value)) for key, value in defaults.items()} == code


def test_every_table_is_written_by_the_command_that_stands_above_it() -> None:
    found = [
        (command, path.resolve(), name)
        for path in Path("docs").glob("*.md")
        for name, command in re.findall(r"<!-- (.+): written by (.+) -->", TEXTS[path])
    ]
    written = {
        tables.COMMAND: {(path, name) for path, pages in tables.pages().items() for name in pages},
        results.COMMAND: {(results.PAGE, name) for name in results.pages()},
        faults.COMMAND: {(faults.PAGE, "faults")},
    }
    assert {command for command, _, _ in found} == written.keys()
    assert [(path, name) for command, path, name in found if (path, name) not in written[command]] == []
    for command in written:
        program, option, module = command.split()
        assert (program, option) == ("python", "-m") and f"`{command}" in (
            importlib.import_module(module).__doc__ or ""
        )
