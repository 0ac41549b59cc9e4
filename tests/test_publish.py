"""Runs that are published: what a page reads, small and the same each time."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import yaml

from analysis import DataError, load_results
from docs.publish import publish

PUBLISHED = Path("results/published/fast_pendulum_pair")
ARMS = 13  # of its file


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two finished runs and one that goes on, as a study of two arms leaves them."""
    folder = tmp_path / "results" / "fast_pendulum_pair"
    for arm, seed in (("sac", 0), ("nbsp", 0), ("nbsp", 1)):
        run = folder / "pendulum_pair" / arm / f"seed_{seed}"
        shutil.copytree(PUBLISHED / run.relative_to(folder), run)
        for name in ("evaluations", "training"):
            (run / f"{name}.jsonl").write_bytes(gzip.decompress((run / f"{name}.jsonl.gz").read_bytes()))
            (run / f"{name}.jsonl.gz").unlink()
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("results_dir: null", f"results_dir: {run}"))
    (run / "status.json").write_text(json.dumps({"done": False, "config_hash": "0"}))
    plan = yaml.safe_load((PUBLISHED / "study.yaml").read_text())
    (folder / "study.yaml").write_text(yaml.safe_dump(plan | {"arms": ["sac", "nbsp"], "seeds": [0, 1]}))
    return folder


def test_finished_runs_are_published_as_they_were(study: Path, tmp_path: Path):
    published = tmp_path / "published"
    labels = publish(study, published)
    assert labels == ["pendulum_pair/nbsp/seed_0", "pendulum_pair/sac/seed_0"]
    for label in labels:
        of_repo, copied = PUBLISHED / label, published / label
        assert {path.name for path in of_repo.iterdir()} == {path.name for path in copied.iterdir()}
        assert (copied / "config.yaml").read_text() == (of_repo / "config.yaml").read_text()
        for name in ("evaluations.jsonl.gz", "training.jsonl.gz"):
            assert gzip.decompress((copied / name).read_bytes()) == gzip.decompress((of_repo / name).read_bytes())
    assert str(tmp_path) not in "".join(path.read_text() for path in published.rglob("*.[yj]*") if path.suffix != ".gz")
    # A part of a study shows as one: its file has 13 arms.
    results = load_results(published)
    assert results.study is not None and len(results.study.arms) == ARMS and len(results.runs) == 2


def test_what_is_published_stays(study: Path, tmp_path: Path):
    published = tmp_path / "published"
    publish(study, published)
    before = {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}
    assert publish(study, published) == []
    assert {path: path.read_bytes() for path in published.rglob("*") if path.is_file()} == before
    status = study / "pendulum_pair" / "sac" / "seed_0" / "status.json"
    status.write_text(json.dumps({"done": True, "config_hash": "of another run"}))
    with pytest.raises(DataError, match=r"sac/seed_0 is there with other settings"):
        publish(study, published)


def test_a_study_with_other_keys_keeps_its_own_plan(study: Path, tmp_path: Path):
    plan = yaml.safe_load((study / "study.yaml").read_text())
    (study / "study.yaml").write_text(yaml.safe_dump(plan | {"overrides": ["cycles=1"]}))
    publish(study, tmp_path / "published")
    assert yaml.safe_load((tmp_path / "published" / "study.yaml").read_text())["arms"] == ["sac", "nbsp"]
