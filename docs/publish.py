"""Finished runs among the published ones: `python -m docs.publish results/NAME ...` copies to `results/published/NAME`.

What reports and pages read is copied, small: rows compressed, and no path of a machine. The study's plan is its file's,
so that a part of it, `--arms` or `--seeds`, shows as a part.
"""

from __future__ import annotations

import argparse
import gzip
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from analysis.errors import DataError
from analysis.load import find_runs
from rllib_nbsp.reading import read_json, read_yaml
from rllib_nbsp.study.folder import StudyDumper

PUBLISHED = Path("results/published")
ROWS = ("evaluations.jsonl", "training.jsonl")
WHOLE = ("cost.json", "status.json", "versions.json")


def publish(study: Path, published: Path) -> list[str]:
    """Copy a study's finished runs that are not there yet.

    Returns:
        The labels of the runs that were copied.

    Raises:
        DataError: if a run is there with other settings.
    """
    finished = []
    for run in find_runs(study):
        status = read_json(run.path / "status.json")
        there = published / run.path.relative_to(study)
        if not status["done"]:
            continue
        if not there.is_dir():
            finished.append((run, there))
        elif read_json(there / "status.json")["config_hash"] != status["config_hash"]:
            raise DataError(f"{there}: {run.label} is there with other settings")
    for run, there in finished:
        there.mkdir(parents=True)
        for name in ROWS:
            # Without a name and a time, so that the same rows are the same bytes.
            (there / f"{name}.gz").write_bytes(gzip.compress((run.path / name).read_bytes(), mtime=0))
        for name in WHOLE:
            shutil.copyfile(run.path / name, there / name)
        config = (run.path / "config.yaml").read_text(encoding="utf-8")
        here = re.sub(r"^results_dir: .*$", "results_dir: null", config, flags=re.MULTILINE)
        (there / "config.yaml").write_text(here, encoding="utf-8")
    if finished:
        (published / "study.yaml").write_text(_whole_plan(study / "study.yaml"), encoding="utf-8")
    return [run.label for run, _ in finished]


def _whole_plan(path: Path) -> str:
    """A study's plan with all arms and seeds of its file, unless it ran with other keys."""
    plan = read_yaml(path)
    if not plan["overrides"]:
        of_file = yaml.safe_load(plan["text"])
        plan |= {"arms": list(of_file["arms"]), "seeds": list(of_file["seeds"])}
    return yaml.dump(plan, Dumper=StudyDumper, sort_keys=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.publish", description="Publish finished runs.")
    parser.add_argument("studies", nargs="+", type=Path, metavar="results/NAME")
    for study in parser.parse_args(arguments).studies:
        try:
            labels = publish(study, PUBLISHED / study.resolve().name)
        except DataError as error:
            print(f"error: {error}", file=sys.stderr)
            return 3
        print(f"{study}: {len(labels)} runs published" + "".join(f"\n  {label}" for label in labels))
    return 0


if __name__ == "__main__":
    sys.exit(main())
