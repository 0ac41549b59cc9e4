"""Rows and small files: what is mended, what is left out and said, what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

import analysis
from analysis import DataError, load_evaluations, load_results
from tests.analysis.conftest import ROWS, StudyBuilder


def many_rows(study: StudyBuilder, count: int = 200) -> Path:
    """A run with so many rows that one of them is below 1 %."""
    path = study.run() / "evaluations.jsonl"
    row = study.read_rows(path)[-1]
    study.write_rows(path, [row | {"env_steps": 10_000 + i} for i in range(count)])
    return path


def test_torn_last_line_keeps_the_other_rows(study):
    path = study.run() / "evaluations.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    notes: list[str] = []
    assert len(load_evaluations(study.root, notes)) == ROWS - 1
    assert notes == ["pair/sac/seed_0/evaluations.jsonl: the last line is torn; it was left out"]


def test_last_line_that_only_lacks_its_end_is_kept(study):
    path = study.run() / "evaluations.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    notes: list[str] = []
    assert len(load_evaluations(study.root, notes)) == ROWS
    assert notes == []


def test_byte_order_mark_crlf_blank_lines_and_nul_padding_do_not_matter(study):
    path = study.run() / "evaluations.jsonl"
    lines = path.read_bytes().splitlines()
    lines[5] = b"\0\0\0" + lines[5]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([*lines[:10], b"", *lines[10:], b"\0" * 500, b""]))
    assert len(load_evaluations(study.root)) == ROWS


def test_gzipped_rows_are_read_and_a_cut_archive_keeps_its_whole_rows(study):
    path = study.run() / "evaluations.jsonl"
    packed = gzip.compress(path.read_bytes())
    path.unlink()
    target = path.with_name("evaluations.jsonl.gz")
    target.write_bytes(packed)
    assert len(load_evaluations(study.root)) == ROWS
    target.write_bytes(packed[: len(packed) * 2 // 3])
    notes: list[str] = []
    assert 0 < len(load_evaluations(study.root, notes)) < ROWS
    assert "torn" in notes[0]
    target.write_bytes(packed[:200] + b"garbage" + packed[207:])
    with pytest.raises(DataError, match="not a readable gzip file"):
        load_evaluations(study.root)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1, 2]",
        b"\x80\x81",
        b'{"seed": 0\0\0}',
        b'{"seed": 0}',
        b"[" * 100_000,
        b'{"sequence": "pair", "arm": "sac", "seed": 0, "visit": 1, "phase": "periodic", "eval_task": "a"}',
    ],
    ids=["cut", "no object", "no utf-8", "nul inside", "keys missing", "deep", "no steps"],
)
def test_few_unreadable_lines_are_left_out_and_counted(study, line):
    path = many_rows(study)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:50], line, *lines[50:], b""]))
    notes: list[str] = []
    assert len(load_evaluations(study.root, notes)) == 200
    assert "pair/sac/seed_0/evaluations.jsonl: 1 unreadable line left out (first: line 51: " in notes[0]


@pytest.mark.parametrize(
    "change",
    [
        {"success_rate": 1.5},
        {"success_rate": "high"},
        {"visit": 0},
        {"env_steps": -1},
        {"seed": "0"},
        {"phase": "bondary"},
        {"eval_task": 3},
    ],
)
def test_rows_with_impossible_values_count_as_unreadable(study, change):
    path = many_rows(study)
    rows = study.read_rows(path)
    study.write_rows(path, [rows[0] | change, *rows[1:]])
    notes: list[str] = []
    assert len(load_evaluations(study.root, notes)) == 199
    assert any("1 unreadable line" in note for note in notes)


def test_more_than_one_percent_of_unreadable_lines_is_refused(study):
    path = many_rows(study)
    with path.open("ab") as file:
        file.write(b"rubbish\n" * 3)
    with pytest.raises(DataError, match=r"evaluations\.jsonl: 3 of 203 lines are unreadable, .* \(first: line 201: "):
        load_evaluations(study.root)


# Small files


def test_settings_cannot_run_code(study):
    folder = study.run()
    (folder / "config.yaml").write_text(f"tasks: !!python/object/apply:os.mkdir ['{study.root}/ran']\n")
    results = load_results(study.root)
    assert not (study.root / "ran").exists()
    assert any("config.yaml: left out, it cannot be read" in note for note in results.notes)


def test_broken_versions_are_left_out_and_said(study):
    folder = study.run()
    (folder / "versions.json").write_text('{"ray": ')
    notes: list[str] = []
    assert analysis.find_runs(study.root, notes)[0].versions == {}
    assert notes[0].startswith("pair/sac/seed_0/versions.json: left out")
