"""The code of README and `docs/` runs as it stands there, each page's blocks in order, in a folder of its own.

A block's language says what is done with it: `python` is run; each line of `console` that begins with `$ ` is a
command, other lines are what it prints; `yaml` is a study, or a part of one, and is checked by `--dry-run`. Further
words of the fence change that:

    slow                   in the slow tier, as is every study that brings plugins
    with: ARGUMENTS        the commands get these arguments too, so that they end soon
    not run: REASON        the block is left out, and the tests say why
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from rllib_nbsp.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```([\w{}]+)[ ]?(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
CODE = ("python", "console", "yaml")
OTHER = ("text", "toml", "mermaid", "{toctree}", "{literalinclude}")
NO_FOLDERS = (".git", ".venv", "results", "build")
TIMEOUT_S = 840
"""Of a command in the slow tier; others end with the test, as any test does."""

STUDY = """
experiment: part
suite: point_mass
sequences: {pair: [reach-left, reach-right]}
seeds: [0]
arms: {sac: {method: sac}}
"""
"""What a YAML block leaves out."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    manner: str
    text: str

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def arguments(self) -> str:
        """What its commands get beside their own."""
        return self.manner.partition("with: ")[2]

    @property
    def brings_plugins(self) -> bool:
        """Whether it is a study with modules of its own, which stay in the process that imports them."""
        return self.language == "yaml" and "plugins:" in self.text


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        language, manner, code = match.groups()
        yield Block(page, text[: match.start()].count("\n") + 1, language, manner.strip(), code)


ALL = [block for page in PAGES for block in blocks(page)]


def cases() -> Iterator[object]:
    """Each block of code as a test's parameter, with the marks that its fence asks for."""
    for block in (block for block in ALL if block.language in CODE):
        marks = [pytest.mark.skip(reason=block.manner)] if block.manner.startswith("not run: ") else []
        if block.manner.startswith("slow") or block.brings_plugins:
            marks += [pytest.mark.slow, pytest.mark.timeout(3 * TIMEOUT_S)]
        yield pytest.param(block, id=block.name, marks=marks)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """For each page a folder that looks like this repository, and keeps what the page's blocks leave in it."""
    made = {}
    for page in PAGES:
        made[page] = tmp_path_factory.mktemp(page.stem)
        for entry in ROOT.iterdir():
            if entry.name not in NO_FOLDERS:
                (made[page] / entry.name).symlink_to(entry)
        (made[page] / "results").mkdir()
        (made[page] / "results" / "published").symlink_to(ROOT / "results" / "published")
        for block in blocks(page):
            if block.language == "yaml":
                save(block, made[page])
    return made


def save(block: Block, folder: Path) -> str:
    """Save a YAML block under the name of its experiment, as a reader does, with the plugins beside it."""
    study = {**yaml.safe_load(STUDY), **yaml.safe_load(block.text)}
    name = f"{study['experiment']}.yaml"
    (folder / name).write_text(block.text if "experiment" in block.text else yaml.safe_dump(study, sort_keys=False))
    for plugin in study.get("plugins", []):
        shutil.copy(ROOT / "examples" / f"{plugin}.py", folder)
    return name


def run(command: list[str] | str, folder: Path) -> None:
    """Run a command in a folder; it must end well."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        cwd=folder,
        shell=isinstance(command, str),
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


def commands(block: Block) -> list[str]:
    """A console block's commands, without their comments; a line that ends with a backslash goes on."""
    lines = re.findall(r"^\$ (.*)$", block.text.replace("\\\n", " "), re.MULTILINE)
    return [f"{re.sub(r' +#.*', '', line)} {block.arguments}".rstrip() for line in lines]


@pytest.mark.parametrize("block", cases())
def test_a_block_of_code_runs_as_it_stands(
    block: Block, folders: dict[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders[block.page]
    monkeypatch.chdir(folder)
    if block.language == "python":
        run([sys.executable, "-c", block.text], folder)
    elif block.language == "console":
        assert commands(block), f"{block.name} has no command"
        for command in commands(block):
            run(command, folder)
    elif block.brings_plugins:
        run([sys.executable, "run_tune.py", save(block, folder), "--dry-run"], folder)
    else:
        assert main(["plan", save(block, folder)]) == 0


def test_every_block_names_its_language_and_what_is_done_with_it() -> None:
    manner = re.compile(r"(slow)?( ?with: .+)?|not run: .+")
    assert len(ALL) > 20
    odd = [b.name for b in ALL if b.language not in (*CODE, *OTHER)]
    odd += [b.name for b in ALL if b.language in CODE and not manner.fullmatch(b.manner)]
    fences = {page: len(re.findall("^```", page.read_text(encoding="utf-8"), re.MULTILINE)) for page in PAGES}
    assert odd == []
    assert {page: count // 2 for page, count in fences.items()} == {
        page: sum(block.page == page for block in ALL) for page in PAGES
    }


def test_no_command_stands_outside_a_block_that_is_run() -> None:
    indented = re.compile(r"^ {4,}(?:python|make|pip|rllib-nbsp) .*$", re.MULTILINE)
    found = {page.name: indented.findall(page.read_text(encoding="utf-8")) for page in PAGES}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_what_is_not_run_says_why_in_a_sentence() -> None:
    skipped = [block for block in ALL if block.manner.startswith("not run: ")]
    assert [block.name for block in skipped if len(block.manner.split()) < 4] == []
