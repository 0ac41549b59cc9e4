"""Files of results to which anything was done: read, left out with a note, or refused in our own words."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import AnalysisError, load_neurons, load_results, tables
from analysis.further import further_tables, paper_tables
from analysis.notes import collect_notes
from analysis.paper import compare_with_paper
from analysis.report import write_report
from analysis.search import best_lines, objective_of, rank_samples
from rllib_nbsp.study.errors import PreflightError
from rllib_nbsp.study.folder import open_trials, planned, write_study
from rllib_nbsp.study.study import CheckedStudy
from tests.analysis.conftest import COST, StudyBuilder
from tests.studies import leave, tiny_study

SECONDS = 5.0
"""Of a processor that does other things too."""
MANY = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
FILES = (
    "pair/sac/seed_0/evaluations.jsonl",
    "pair/sac/seed_0/training.jsonl",
    "pair/sac/seed_0/config.yaml",
    "pair/sac/seed_0/versions.json",
    "pair/sac/seed_0/cost.json",
    "pair/sac/seed_0/neurons/visit_01.npz",
    "study.yaml",
)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 10**20, 10**400, 1e308, -1e308, 1e-320]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "..", "x" * 300, "\x1b[2J", "$x_{$", "<b>", "1e3", "\ud800", "0"]),
    st.recursive(
        st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
)


@contextlib.contextmanager
def quick() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two arms with every file."""
    builder = StudyBuilder(tmp_path_factory.mktemp("fuzz") / "study")
    for arm in ("sac", "nbsp"):
        folder = builder.run(arm=arm, neurons=True)
        (folder / "cost.json").write_text(json.dumps(COST))
    builder.study(["sac", "nbsp"], [0])
    content = yaml.safe_load((builder.root / "study.yaml").read_text())
    content |= {"notes": ["a note"], "search": {"objective": "asr", "arms": {"nbsp": {"nbsp": {"skill_frac": 0.2}}}}}
    (builder.root / "study.yaml").write_text(yaml.safe_dump(content))
    return builder.root


def read_all(root: Path) -> None:
    """All that a report reads and counts, without its figures."""
    results = load_results(root)
    values = tables.metric_values(results)
    comparison = compare_with_paper(results, values)
    collect_notes(results, values, tables.metric_table(results, values), comparison)
    further_tables(results, values)
    paper_tables(results, comparison)
    tables.threshold_values(results)
    tables.cost_values(results)
    best_lines(rank_samples(results, values), objective_of(results))
    load_neurons(root, notes=[])


def check(root: Path, name: str, data: bytes) -> None:
    """A study with one file replaced: read, or refused by name."""
    path = root / name
    before = path.read_bytes() if path.is_file() else None
    path.write_bytes(data)
    try:
        with quick():
            read_all(root)
    except AnalysisError as error:
        assert len(str(error)) < 5000
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


@MANY
@given(name=st.sampled_from(FILES), data=st.binary(max_size=300))
def test_any_bytes_in_any_file(whole: Path, name: str, data: bytes) -> None:
    check(whole, name, data)


@MANY
@given(name=st.sampled_from(FILES), choices=st.data())
def test_any_damage_to_any_file(whole: Path, name: str, choices: st.DataObject) -> None:
    data = bytearray((whole / name).read_bytes())
    for _ in range(choices.draw(st.integers(1, 4))):
        at = choices.draw(st.integers(0, max(0, len(data) - 1)))
        kind = choices.draw(st.sampled_from(["flip", "cut", "drop", "double", "put"]))
        if kind == "flip":
            data[at : at + 1] = bytes([choices.draw(st.integers(0, 255))])
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + choices.draw(st.integers(1, 40))]
        elif kind == "double":
            data[at:at] = data[at : at + 200]
        else:
            data[at:at] = choices.draw(st.binary(max_size=20))
    check(whole, name, bytes(data))


@MANY
@given(name=st.sampled_from(FILES[:2]), cut=st.integers(0, 2000), data=st.binary(max_size=20))
def test_any_damage_to_packed_rows(whole: Path, name: str, cut: int, data: bytes) -> None:
    packed = gzip.compress((whole / name).read_bytes(), mtime=0)
    path = whole / name
    path.rename(path.with_suffix(".kept"))
    try:
        check(whole, f"{name}.gz", packed[:cut] + data + packed[cut + len(data) :])
    finally:
        path.with_suffix(".kept").rename(path)


def replaced(value: Any, choices: st.DataObject) -> Any:
    """A value with something odd in a place of it."""
    if isinstance(value, dict | list) and value and choices.draw(st.integers(0, 5)):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = choices.draw(st.sampled_from(keys))
        copy = value.copy()
        copy[key] = replaced(value[key], choices)
        return copy
    return choices.draw(ODD)


@MANY
@given(name=st.sampled_from(FILES[:2]), choices=st.data())
def test_any_value_in_any_row(whole: Path, name: str, choices: st.DataObject) -> None:
    rows = StudyBuilder.read_rows(whole / name)
    key = choices.draw(st.sampled_from([*rows[0], "another"]))
    value = choices.draw(ODD)
    every = choices.draw(st.booleans())
    at = choices.draw(st.integers(0, len(rows) - 1))
    rows = [row | {key: value} if every or i == at else row for i, row in enumerate(rows)]
    check(whole, name, "".join(json.dumps(row) + "\n" for row in rows).encode())


@MANY
@given(name=st.sampled_from([FILES[2], FILES[3], FILES[4], FILES[6]]), choices=st.data())
def test_any_value_in_any_place_of_a_small_file(whole: Path, name: str, choices: st.DataObject) -> None:
    content = replaced(yaml.safe_load((whole / name).read_text()), choices)
    check(whole, name, json.dumps(content).encode())


@MANY
@given(choices=st.data())
def test_any_array_in_a_neuron_file(whole: Path, choices: st.DataObject) -> None:
    with np.load(whole / FILES[5]) as file:
        arrays = dict(file)
    name = choices.draw(st.sampled_from(sorted(arrays)))
    shape = choices.draw(st.lists(st.integers(0, 6), max_size=3))
    dtype = choices.draw(st.sampled_from(["f8", "f4", "f2", "i8", "u1", "?", "U3", "S3", "c16", "M8[s]", "O", "f8,i4"]))
    arrays[name] = np.zeros(shape, dtype)
    if choices.draw(st.booleans()):
        arrays[choices.draw(st.sampled_from(["a/b/score", "policy/9/counts", "../x", "policy/-1/score"]))] = np.ones(2)
    saved = io.BytesIO()
    np.savez(saved, **arrays)
    check(whole, FILES[5], saved.getvalue())


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), choices=st.data())
def test_a_report_of_any_value_in_any_place(whole: Path, name: str, choices: st.DataObject) -> None:
    before = (whole / name).read_bytes()
    if name.endswith(".npz"):
        names = zipfile.ZipFile(whole / name).namelist()
        with np.load(whole / name) as file:
            arrays = dict(file)
        own = choices.draw(st.sampled_from([member.removesuffix(".npy") for member in names]))
        saved = io.BytesIO()
        np.savez(saved, **arrays | {own: np.full_like(arrays[own], choices.draw(st.sampled_from([0, 1, 9])))})
        data = saved.getvalue()
    elif name.endswith(".jsonl"):
        rows = StudyBuilder.read_rows(whole / name)
        key, value = choices.draw(st.sampled_from(list(rows[0]))), choices.draw(ODD)
        data = "".join(json.dumps(row | {key: value}) + "\n" for row in rows).encode()
    else:
        data = json.dumps(replaced(yaml.safe_load(before), choices)).encode()
    (whole / name).write_bytes(data)
    try:
        write_report(whole)
    except AnalysisError as error:
        assert str(error)
    finally:
        (whole / name).write_bytes(before)
        shutil.rmtree(whole / "report", ignore_errors=True)


# What a resume reads


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[CheckedStudy, Path]:
    """A study that was run to its end, and its folder."""
    folder = tmp_path_factory.mktemp("resume")
    study = tiny_study(folder)
    for trial in study.trials(folder / "results"):
        leave(trial, done=True)
    write_study(study, [], folder / "results", resume=False)
    (folder / "results" / "left_right" / "sac" / "seed_0" / "environments.json").write_text('{"reach-left": {"a": 1}}')
    return study, folder / "results"


@MANY
@given(
    name=st.sampled_from(["study.yaml", "status.json", "config.yaml", "environments.json"]),
    as_bytes=st.booleans(),
    choices=st.data(),
)
def test_a_resume_of_anything(
    resumed: tuple[CheckedStudy, Path], name: str, as_bytes: bool, choices: st.DataObject
) -> None:
    study, folder = resumed
    path = folder / name if name == "study.yaml" else folder / "left_right" / "sac" / "seed_0" / name
    before, kept = path.read_bytes(), (folder / "study.yaml").read_bytes()
    odd = choices.draw(st.binary(max_size=200)) if as_bytes else replaced(yaml.safe_load(before), choices)
    path.write_bytes(odd if as_bytes else json.dumps(odd).encode())
    try:
        with quick():
            open_trials(study, study.trials(folder), folder, resume=True)
            write_study(study, [], folder, resume=True)
            planned(folder)
    except PreflightError as error:
        assert error.exit_code == 3 and len(str(error)) < 5000
    finally:
        path.write_bytes(before)
        (folder / "study.yaml").write_bytes(kept)
