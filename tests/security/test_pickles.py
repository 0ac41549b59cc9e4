"""Nothing that is read of a results folder can run code: pickles planted under every name stay what they are."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune

from analysis import load_neurons
from rllib_nbsp.cli import main
from rllib_nbsp.study.trials import ErrorsAsText
from tests.analysis.conftest import StudyBuilder
from tests.studies import call, leave, tiny_study, write_config


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.marker,)


TUNES = [
    "tuner.pkl",
    "trainable.pkl",
    "experiment_state-2026-01-31_00-00-00.json",
    "basic-variant-state-2026-01-31_00-00-00.json",
    "searcher-state-2026-01-31_00-00-00.pkl",
    "search_gen_state-2026-01-31_00-00-00.json",
    "sac-0/params.pkl",
    "sac-0/params.json",
    "sac-0/result.json",
    "sac-0/error.pkl",
    "sac-0/checkpoint_000000/class_and_ctor_args.pkl",
    "sac-0/checkpoint_000000/algorithm_state.pkl",
    "sac-0/checkpoint_000000/learner_group/learner/state.pkl",
]
"""Names under which Tune and RLlib keep pickles, or JSON with pickles in it."""
TRIALS = [
    "status.json",
    "config.yaml",
    "versions.json",
    "environments.json",
    "cost.json",
    "error.txt",
    "evaluations.jsonl",
    "training.jsonl",
    "evaluations.jsonl.gz",
    "neurons/visit_01.npz",
    "weights/visit_01.npz",
    "state/state.pkl",
]
"""What a trial leaves, and a name that nobody writes."""


def shapes(marker: Path) -> dict[str, bytes]:
    """The same payload in every dress that some reader would open."""
    raw = pickle.dumps(Payload(marker))
    return {
        "pickle": raw,
        "json": json.dumps({"_type": "CLOUDPICKLE_FALLBACK", "value": raw.hex()}).encode(),
        "yaml": f"tasks: !!python/object/apply:os.mkdir ['{marker}']\ndone: true\n".encode(),
    }


def plant(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_the_payload_would_run(tmp_path: Path) -> None:
    pickle.loads(shapes(tmp_path / "ran")["pickle"])
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("dress", ["pickle", "json", "yaml"])
def test_a_report_runs_nothing_of_what_it_reads(dress: str, tmp_path: Path, study: StudyBuilder) -> None:
    for seed, name in enumerate([*TRIALS, "last"]):
        folder = study.run(seed=seed, neurons=name.startswith("neurons"))
        if name != "last":
            if name.endswith(".gz"):
                (folder / name.removesuffix(".gz")).unlink()
            plant(folder / name, shapes(tmp_path / "ran")[dress])
    for name in TUNES:
        plant(study.root / "_tune" / "20260131-000000" / name, shapes(tmp_path / "ran")[dress])
    # What is one line without an end is torn and left out; a file of other lines is refused.
    assert main(["report", str(study.root), "--allow-partial"]) == (3 if dress == "yaml" else 0)
    plant(study.root / "study.yaml", shapes(tmp_path / "ran")[dress])
    assert main(["report", str(study.root), "--allow-partial"]) == 3
    assert not (tmp_path / "ran").exists()


def test_an_array_of_objects_is_left_out_and_said(tmp_path: Path, study: StudyBuilder) -> None:
    folder = study.run(neurons=True)
    path = folder / "neurons" / "visit_01.npz"
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"policy/0/score": np.array([Payload(tmp_path / "ran")] * 5, dtype=object)})
    notes: list[str] = []
    assert set(load_neurons(study.root, notes=notes)["visit"]) == {2, 3, 4}
    assert notes == [
        "pair/sac/seed_0/neurons/visit_01.npz: left out, it cannot be read (policy/0/score.npy: an array of object; "
        "only numbers and text are read)"
    ]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("dress", ["pickle", "json", "yaml"])
@pytest.mark.parametrize("name", [*TRIALS, "../../../study.yaml", *(f"../../../_tune/1/{name}" for name in TUNES)])
def test_resuming_and_planning_run_nothing_of_what_they_read(
    name: str, dress: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    trials = tiny_study(tmp_path).trials(results / "tiny")
    for trial in trials:
        leave(trial, done=True)
    (results / "tiny" / "study.yaml").write_text("experiment: tiny\nsequences: {}\narms: []\nseeds: []\n")
    plant(Path(str(trials[0].results_dir)) / name, shapes(tmp_path / "ran")[dress])
    command = [str(write_config(tmp_path)), "--results-dir", str(results), "--resume"]
    code = main(["plan", *command])
    assert not (tmp_path / "ran").exists()
    assert code in (0, 3), capsys.readouterr().err
    if code == 3:
        assert str(results / "tiny") in capsys.readouterr().err


class Plant(tune.Callback):
    """Puts the payload where Tune has put a failed trial's error."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        for trial in trials:
            assert Path(trial.path, "error.pkl").is_file()
            plant(Path(trial.path, "error.pkl"), shapes(self.marker)["pickle"])


def failing(config: dict[str, Any]) -> None:
    raise ValueError(config["word"])


@pytest.mark.parametrize("as_text", [True, False])
def test_tunes_own_file_of_an_error_is_not_unpickled(as_text: bool, tmp_path: Path, ray_session: None) -> None:
    marker = tmp_path / "ran"
    callbacks = [Plant(marker), *([ErrorsAsText()] if as_text else [])]
    run_config = tune.RunConfig(storage_path=str(tmp_path), name="errors", callbacks=callbacks, verbose=0)
    results = tune.Tuner(failing, param_space={"word": "a word"}, run_config=run_config).fit()
    assert marker.exists() is not as_text  # Ray alone would have run it
    if as_text:
        assert str(results[0].error).splitlines()[-1] == "ValueError: a word"


@pytest.mark.slow
def test_a_study_resumes_among_planted_pickles_and_runs_none(tmp_path: Path) -> None:
    config, results, marker = write_config(tmp_path), tmp_path / "results", tmp_path / "ran"
    command = (config, "--results-dir", results, "--sequences", "left_right", "--arms", "sac")
    assert call(*command).returncode == 0
    folder = results / "tiny"
    for path in [path for path in (folder / "_tune").rglob("*") if path.is_file()]:
        plant(path, shapes(marker)["json" if path.suffix == ".json" else "pickle"])
    for name in TUNES:
        plant(folder / "_tune" / name, shapes(marker)["pickle"])
    shutil.rmtree(folder / "report")
    done = call(*command, "--seeds", "0", "1", "--resume")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 trials are finished already" in done.stdout
    assert not marker.exists()
