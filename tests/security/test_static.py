"""No line of the package runs what it reads or reads without a limit, but for the files named here, with the reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

RUNS_CODE = re.compile(
    r"\bcloudpickle\b|\bpickle\.|\bimport pickle|\bpickle import|\bdill\b|\bjoblib\b|\bshelve\b|\bmarshal\.|read_pickle"
    r"|torch\.load\(|weights_only=False|allow_pickle=True|np\.load\(|extractall\("
    r"|yaml\.(unsafe_|full_)?load(_all)?\(|yaml\.\w*(?<!Safe)Loader\b"
    r"|(?<![\w.])(eval|exec|compile|__import__)\(|shell=True|os\.(system|popen|exec\w+|spawn\w+)\(|\bsubprocess\b"
)
READS = re.compile(r"\.read_(text|bytes)\(|safe_load\(|json\.loads?\(|\bgzip\.|ZipFile\(|read_csv\(|(?<!def )\bopen\(")
RUNNING = {
    "rllib_nbsp/records.py": "asks git for the commit that `versions.json` names, without a shell",
    "analysis/tools.py": "has the browser print a page that was just written, and `play` film a run, without a shell",
}
READING = {
    "rllib_nbsp/reading.py": "reads within limits; all others call it",
    "rllib_nbsp/records.py": "opens what it writes, and reads the processor's name from the kernel",
    "rllib_nbsp/locks.py": "opens a lock, of which it reads a name",
    "rllib_nbsp/study/needs.py": "reads a number of the kernel's",
    "rllib_nbsp/state/packing.py": "reads bytes whose size and SHA-256 a manifest says, arrays as long as their header",
    "rllib_nbsp/state/bundle.py": "reads a manifest of bounded size, and what it lists",
    "rllib_nbsp/state/sealed.py": "reads a list of files that lies beside them",
    "rllib_nbsp/envs/gymnasium.py": "hashes the code of an installed environment",
    "analysis/causal.py": "parses a table that `reading` has read",
    "analysis/games.py": "reads a table of its own",
    "analysis/paper.py": "reads a table of its own",
}
LINES = [
    ("yaml.load(text)", RUNS_CODE),
    ("yaml.load(text, Loader=yaml.Loader)", RUNS_CODE),
    ("yaml.unsafe_load(text)", RUNS_CODE),
    ("torch.load(path)", RUNS_CODE),
    ("np.load(path, allow_pickle=True)", RUNS_CODE),
    ("from ray import cloudpickle", RUNS_CODE),
    ("import pickle", RUNS_CODE),
    ("value = eval(text)", RUNS_CODE),
    ("exec(text)", RUNS_CODE),
    ("run(command, shell=True)", RUNS_CODE),
    ("os.system(command)", RUNS_CODE),
    ("path.read_text()", READS),
    ("with open(path) as file:", READS),
    ("yaml.safe_load(text)", READS),
]


def found(pattern: re.Pattern[str]) -> dict[str, list[str]]:
    """The lines of the package and the analysis that match, by file."""
    files = [Path("run_tune.py"), *sorted(Path("rllib_nbsp").rglob("*.py")), *sorted(Path("analysis").rglob("*.py"))]
    assert len(files) > 90
    lines = {
        str(path): [line.strip() for line in path.read_text().splitlines() if pattern.search(line)] for path in files
    }
    return {path: own for path, own in lines.items() if own}


@pytest.mark.parametrize(("line", "pattern"), LINES, ids=[line for line, _ in LINES])
def test_the_patterns_find_what_they_are_for(line: str, pattern: re.Pattern[str]) -> None:
    assert pattern.search(line)
    assert not pattern.search("self.agent.evaluate(); re.compile(text) ; yaml.SafeLoader; yaml.CSafeLoader; opened(it)")


def test_no_line_runs_what_it_reads() -> None:
    lines = found(RUNS_CODE)
    assert {path: own for path, own in lines.items() if path not in RUNNING} == {}
    assert {*lines} == {*RUNNING}  # a reason that no line needs any more goes


def test_what_is_read_is_read_within_the_limits_of_one_module() -> None:
    lines = found(READS)
    assert {path: own for path, own in lines.items() if path not in READING} == {}
    assert {*lines} == {*READING}
