"""Small files that would become large ones: refused or left out, by name and limit, before memory is taken for them."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import AnalysisError, load_neurons, load_results
from rllib_nbsp.methods.parts.texts import check_embeddings
from rllib_nbsp.reading import (
    MAX_ARRAYS_BYTES,
    MAX_ROWS_BYTES,
    MAX_ROWS_VALUES,
    MAX_SMALL_BYTES,
    Unreadable,
    read_arrays,
    read_json,
    read_lines,
    read_yaml,
)
from rllib_nbsp.settings import ConfigError
from rllib_nbsp.study.errors import PreflightError
from rllib_nbsp.study.folder import open_trials
from rllib_nbsp.study.yaml_tree import read_yaml_file
from tests.analysis.conftest import StudyBuilder
from tests.studies import leave, tiny_study

SECONDS, BYTES = 5.0, 500_000_000
"""Of a processor that does other things too: alone it takes less than half as long."""


def within_bounds(call: Callable[[], Any], measure_memory: bool = True) -> Any:
    """What a call returns, if it takes no more time and memory than a small file may."""
    start = time.process_time()
    returned = call()
    assert time.process_time() - start < SECONDS
    if not measure_memory:  # as that takes long where there are many small objects
        return returned
    tracemalloc.start()
    try:
        call()
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
    return returned


def aliases(levels: int = 9, width: int = 10) -> str:
    """A YAML text of a line a level that says `width ** levels` values."""
    lines = ["a0: &a0 [" + ", ".join(["x"] * width) + "]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * width) + "]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def merges(levels: int = 9, width: int = 10) -> str:
    """The same with merge keys."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [" + ", ".join([f"*a{i - 1}"] * width) + "]}" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def npy(shape: tuple[int, ...], dtype: str = "<f8", data: bytes = b"") -> bytes:
    """An array whose header declares any shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def npz(*members: tuple[str, bytes], packed: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packed) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def long_directory() -> bytes:
    """A zip file whose table of contents alone is longer than is read."""
    entry = b"PK\1\2" + bytes(42)
    directory = entry * 30_000
    return directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 30_000, 30_000, len(directory), 0, 0)


def many_zeros(size: int) -> bytes:
    part = gzip.compress(bytes(10_000_000))
    return part * (size // 10_000_000)


YAML_BOMBS = {
    "aliases": (aliases(), "more than 100000 values, aliases (*) expanded"),
    "a list of itself": ("a: &a [*a, *a]\n", "aliases (*) expanded"),
    "merge keys": (merges(), "a merge key (<<) is not allowed"),
    "levels": ("a: " + "[" * 100_000, "more than 20 levels"),
    "values": ("a: [" + "1," * 300_000 + "1]", "more than 100000 values"),
    "number to the base of 60": ("a: 1" + ":10" * 100_000, "a number of over 40 characters"),
    "whole number": ("a: " + "9" * 100_000, "a number of over 40 characters"),
    "hexadecimal": ("a: 0x" + "f" * 100_000, "a number of over 40 characters"),
    "object": (
        "a: !!python/object/apply:os.mkdir [ran]\n",
        "tag tag:yaml.org,2002:python/object/apply:os.mkdir is not",
    ),
    "bytes": ("#" * (MAX_SMALL_BYTES + 1), f"too long; at most {MAX_SMALL_BYTES} bytes are read"),
    "half a character": ('a: "\\ud800"\n', "character"),
}
JSON_BOMBS = {
    "levels": (b"[" * 1_000_000, "nested too deeply"),
    "bytes": (b" " * (MAX_SMALL_BYTES + 1), f"too long; at most {MAX_SMALL_BYTES} bytes are read"),
    "digits": (b"9" * 1_000_000, "integer string conversion"),
    "half a character": (b'"\\ud800"', "surrogates not allowed"),
}
ROW_BOMBS = {
    "gzip": (".gz", many_zeros(2_000_000_000), "line of more than 1000000 bytes"),
    "gzipped lines": (
        ".gz",
        gzip.compress(b" " * 999_999 + b"\n") * 110,
        f"too long; at most {MAX_ROWS_BYTES} bytes unpacked are read",
    ),
    "gzip streams": (".gz", gzip.compress(b"") * 100_000, "has more than 1000 gzip streams"),
    "line": ("", b"x" * 1_100_000, "line of more than 1000000 bytes"),
    "values": ("", b"[" + b"0," * 400_000 + b"0]\n", "1 of 1 lines are unreadable"),
    "many values": (
        "",
        (b"[" + b"[]," * 300_000 + b"0]\n") * 6,
        f"too many values; at most {MAX_ROWS_VALUES} are read",
    ),
}
ARRAY_BOMBS = {
    "declared items": (npz(("a.npy", npy((10**13,)))), "declares the shape (10000000000000,) of float64"),
    "declared rows of nothing": (npz(("a.npy", npy((10**13, 0)))), "declares the shape (10000000000000, 0)"),
    "items of no size": (npz(("a.npy", npy((10**13,), "|V0"))), "only numbers and text are read"),
    "fewer bytes than declared": (npz(("a.npy", npy((1000,)))), "cannot reshape array of size 0"),
    "unpacked": (
        npz(("a.npy", bytes(MAX_ARRAYS_BYTES + 1)), packed=zipfile.ZIP_DEFLATED),
        f"1 arrays of {MAX_ARRAYS_BYTES + 1} bytes unpacked; at most 1000 of {MAX_ARRAYS_BYTES} are read",
    ),
    "members": (npz(*((f"a{i}.npy", b"") for i in range(1001))), "1001 arrays of 0 bytes unpacked; at most 1000"),
    "table of contents": (long_directory(), "a table of contents of 1380000 bytes; at most 1000000 are read"),
    "another way of packing": (npz(("a.npy", npy((1,))), packed=zipfile.ZIP_LZMA), "packed by method 14; only deflate"),
    "brackets": (npz(("a.npy", b"\x93NUMPY\1\0\xff\xff" + b"(" * 65_535)), ""),
}


@pytest.mark.parametrize("name", YAML_BOMBS)
def test_a_yaml_file_of_results_is_read_within_limits(name: str, tmp_path: Path) -> None:
    text, said = YAML_BOMBS[name]
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert said in within_bounds(lambda: refusal(read_yaml, path))


@pytest.mark.parametrize("name", JSON_BOMBS)
def test_a_json_file_of_results_is_read_within_limits(name: str, tmp_path: Path) -> None:
    data, said = JSON_BOMBS[name]
    path = tmp_path / "status.json"
    path.write_bytes(data)
    assert said in within_bounds(lambda: refusal(read_json, path))


@pytest.mark.parametrize("name", ARRAY_BOMBS)
def test_arrays_are_read_within_limits(name: str, tmp_path: Path) -> None:
    data, said = ARRAY_BOMBS[name]
    path = tmp_path / "arrays.npz"
    path.write_bytes(data)
    assert said in within_bounds(lambda: refusal(read_arrays, path))


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(Unreadable) as caught:
        read(path)
    return str(caught.value)


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        for read in (read_yaml, read_json, read_arrays, lambda path: list(read_lines(path))):
            assert refusal(read, tmp_path / name) == "not a plain file"


def test_real_files_are_far_from_the_limits() -> None:
    # A file of Table 6 has about a hundred times the rows of the largest published one.
    rows = [*Path("results/published").rglob("training.jsonl*")]
    largest = max(sum(map(len, read_lines(path))) for path in rows)
    assert 0 < 100 * largest < MAX_ROWS_BYTES
    assert all(read_yaml(path) for path in Path("results/published").rglob("*.yaml"))


# Where they are met


@pytest.mark.parametrize("name", ROW_BOMBS)
def test_a_file_of_rows_that_is_a_bomb_is_refused_by_name(name: str, study: StudyBuilder) -> None:
    ending, data, said = ROW_BOMBS[name]
    path = study.run() / "training.jsonl"
    path.unlink()
    path = path.with_name(path.name + ending)
    path.write_bytes(data)

    def load() -> str:
        with pytest.raises(AnalysisError) as caught:
            load_results(study.root)
        return str(caught.value)

    assert within_bounds(load).startswith(f"{path}: ")
    assert said in load()


SMALL = {f"config.yaml: {name}": ("config.yaml", text.encode()) for name, (text, _) in YAML_BOMBS.items()}
SMALL |= {f"cost.json: {name}": ("cost.json", data) for name, (data, _) in JSON_BOMBS.items()}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_file_of_a_run_that_is_a_bomb_is_left_out_and_said(name: str, study: StudyBuilder) -> None:
    file, data = SMALL[name]
    (study.run() / file).write_bytes(data)
    notes = within_bounds(lambda: load_results(study.root).notes, measure_memory=False)
    assert any(f"pair/sac/seed_0/{file}: left out, it cannot be read" in note for note in notes)
    assert all(len(note) < 500 for note in notes)


@pytest.mark.parametrize("name", YAML_BOMBS)
def test_a_study_file_of_results_that_is_a_bomb_is_refused_by_name(
    name: str, study: StudyBuilder, tmp_path: Path
) -> None:
    study.run()
    text, said = YAML_BOMBS[name]
    (study.root / "study.yaml").write_text(text)

    def load() -> str:
        with pytest.raises(AnalysisError) as caught:
            load_results(study.root)
        return str(caught.value)

    assert said in within_bounds(load, measure_memory=False) and str(study.root / "study.yaml") in load()
    own = tiny_study(tmp_path)
    with pytest.raises(PreflightError) as caught:
        open_trials(own, own.trials(study.root), study.root, resume=True)
    assert caught.value.exit_code == 3 and said in str(caught.value)


@pytest.mark.parametrize("file", ["status.json", "config.yaml", "environments.json"])
def test_a_resume_takes_a_bomb_in_a_trials_folder_for_no_file(file: str, tmp_path: Path) -> None:
    own = tiny_study(tmp_path)
    trials = own.trials(tmp_path / "results")
    for trial in trials:
        leave(trial, done=True)
    (tmp_path / "results" / "study.yaml").write_text("experiment: tiny\n")
    folder = Path(str(trials[0].results_dir))
    (folder / "status.json").write_text('{"done": true, "config_hash": "another"}')
    (folder / file).write_bytes(b"[" * (MAX_SMALL_BYTES if file == "status.json" else 3_000_000))
    if file == "status.json":
        assert open_trials(own, trials, tmp_path / "results", resume=True) == trials[:1]
    else:
        with pytest.raises(PreflightError, match=r"which ones? is not known: ") as caught:
            open_trials(own, trials, tmp_path / "results", resume=True)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ARRAY_BOMBS)
def test_a_neuron_file_that_is_a_bomb_is_left_out_and_said(name: str, study: StudyBuilder) -> None:
    folder = study.run(neurons=True)
    (folder / "neurons" / "visit_01.npz").write_bytes(ARRAY_BOMBS[name][0])
    notes: list[str] = []
    frame = within_bounds(lambda: load_neurons(study.root, notes=notes))
    assert set(frame["visit"]) == {2, 3, 4}
    assert len(notes) == 1 and notes[0].startswith("pair/sac/seed_0/neurons/visit_01.npz: left out, it cannot be read")


@pytest.mark.parametrize("name", ARRAY_BOMBS)
def test_a_file_of_embeddings_that_is_a_bomb_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "embeddings.npz"
    path.write_bytes(ARRAY_BOMBS[name][0])
    (line,) = within_bounds(lambda: check_embeddings(str(path), ["a"]))
    assert line.startswith(f"embedding is '{path}', which cannot be read as an .npz file: ")


@pytest.mark.parametrize("name", [name for name in YAML_BOMBS if name != "half a character"])
def test_a_users_yaml_is_read_within_limits(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(YAML_BOMBS[name][0])

    def refused() -> str:
        with pytest.raises(ConfigError) as caught:
            read_yaml_file(path)
        return str(caught.value)

    assert within_bounds(refused, measure_memory=False).startswith(str(path))
    assert len(refused()) < 2000


@pytest.mark.parametrize(
    ("where", "change", "said"),
    [
        ("config", {"cycles": 10**12}, "no config.yaml"),
        ("row", {"visit": 10**12}, "visit is 1000000000000"),
        ("row", {"env_steps": 10**400}, "env_steps is 1"),
        ("row", {"eval_task": "x" * 1000}, "eval_task is 'xxx"),
        (
            "study",
            {"seeds": list(range(3000)), "arms": [f"a{i}" for i in range(3000)]},
            "9000000 trials; at most 100000",
        ),
        ("study", {"seeds": [10**30]}, "a seed is 1000000000000000000000000000000"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:20],
)
def test_numbers_that_would_be_lists_are_refused(
    where: str, change: dict[str, Any], said: str, study: StudyBuilder
) -> None:
    folder = study.run()
    if where == "config":
        path = folder / "config.yaml"
        path.write_text(json.dumps({"tasks": ["a"], **change}))
    elif where == "row":
        path = folder / "evaluations.jsonl"
        study.write_rows(path, [row | change for row in study.read_rows(path)])
    else:
        path = study.root / "study.yaml"
        path.write_text(json.dumps({"sequences": {"pair": ["a"]}, "arms": ["sac"], "seeds": [0]} | change))

    def load() -> str:
        try:
            return "\n".join(load_results(study.root).notes)
        except AnalysisError as error:
            return str(error)

    assert said in within_bounds(load)
