"""CoTASP's keys: what they stand in for, and which are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rllib_nbsp.checks import check_run
from rllib_nbsp.methods.parts.dictionary import sparse_code
from rllib_nbsp.run import ResolvedRun
from tests.methods.cotasp.learners import learner_with, start
from tests.tiny import build_config


def test_the_methods_own_rates_and_scale_stand_in_for_the_runs_unless_they_are_none():
    run = build_config("cotasp", training={"actor_lr": 0.5, "reward_scale": 2.0}).settings
    training = ResolvedRun(run).training
    assert (training.actor_lr, training.reward_scale, training.target_entropy) == (3e-4, 0.002, None)
    assert training.initial_alpha == math.e
    keys = {"actor_lr": None, "reward_scale": None, "target_entropy": -2.0}
    training = ResolvedRun(
        build_config("cotasp", keys, training={"actor_lr": 0.5, "reward_scale": 2.0}).settings
    ).training
    assert (training.actor_lr, training.reward_scale, training.target_entropy) == (0.5, 2.0, -2.0)


def test_a_width_of_its_own():
    assert ResolvedRun(build_config("cotasp").settings).model.hidden == [8, 6]
    assert ResolvedRun(build_config("cotasp", {"width": [5, 4, 3]}).settings).model.hidden == [5, 4, 3]


def test_alternating_between_nothing_and_nothing_is_refused():
    assert check_run(build_config("cotasp", {"alternate": [0, 0]}).settings) == [
        "alternate is [0, 0]; one of the two must be at least 1"
    ]


def test_sentence_vectors_from_a_file(tmp_path):
    path = str(tmp_path / "texts.npz")
    left, right = np.array([3.0, 4.0, 0.0]), np.array([0.0, 0.0, 2.0])
    np.savez(path, **{"reach-left": left, "reach-right": right, "another": left})
    assert check_run(build_config("cotasp", {"embedding": path}).settings) == []
    learner = learner_with({"embedding": path})
    atoms = [dictionary.atoms.copy() for dictionary in learner.method.dictionaries]
    assert [table.shape for table in atoms] == [(12, 3), (10, 3)]
    start(learner, 1)
    for prompts, table in zip(learner.agent.networks["policy"].prompts, atoms, strict=True):
        np.testing.assert_allclose(prompts[0].detach(), sparse_code(left / 5.0, table, 1e-3), atol=1e-6)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (None, "cannot be read as an .npz file"),
        ({"reach-left": [1.0, 2.0]}, "no vector for reach-right"),
        ({"reach-left": [1.0, 2.0], "reach-right": [1.0]}, "shapes [(1,), (2,)]"),
        ({"reach-left": [[1.0]], "reach-right": [[1.0]]}, "shapes [(1, 1)]"),
        ({"reach-left": [1.0], "reach-right": [0.0]}, "a vector of zeros"),
        ({"reach-left": [1.0], "reach-right": [math.nan]}, "not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, vectors, message):
    path = str(tmp_path / "texts.npz")
    if vectors is not None:
        np.savez(path, **{name: np.array(vector) for name, vector in vectors.items()})
    errors = check_run(build_config("cotasp", {"embedding": path}).settings)
    assert len(errors) == 1
    assert errors[0].startswith("embedding is ") and message in errors[0]


def test_other_files_and_relative_paths_are_refused(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").touch()
    for name in ("one.npy", "text.npz", "empty.npz"):
        [error] = check_run(build_config("cotasp", {"embedding": str(tmp_path / name)}).settings)
        assert "cannot be read as an .npz file" in error
    [error] = check_run(build_config("cotasp", {"embedding": "texts.npz"}).settings)
    assert "give an absolute path" in error
