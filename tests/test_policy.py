"""A policy from a results folder: what it is, what it refuses; and the command that plays it."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from rllib_nbsp.cli import main
from rllib_nbsp.envs.point_mass import HORIZON, PointMassEnv
from rllib_nbsp.play import Film
from rllib_nbsp.policy import Policy, PolicyError, load_policy
from rllib_nbsp.records import resolved_yaml
from rllib_nbsp.run import ResolvedRun, run_settings
from rllib_nbsp.sac.actor_critic import build_actor_critic
from tests.tiny import TASKS


def leave_run(folder: Path, visits: int = 2, **settings: Any) -> Path:
    """The files of a run with other weights after each visit."""
    values = {"suite": "point_mass", "tasks": list(TASKS), "model": {"hidden": [8, 8]}} | settings
    for visit in range(1, visits + 1):
        own = run_settings(**{**values, "seed": visit})
        arrays = {name: t.numpy() for name, t in build_actor_critic(ResolvedRun(own)).state_dict().items()}
        (folder / "weights").mkdir(parents=True, exist_ok=True)
        np.savez(folder / "weights" / f"visit_{visit:02d}.npz", **arrays)
    (folder / "config.yaml").write_text(resolved_yaml(run_settings(**values)))
    return folder


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return load_policy(leave_run(tmp_path))


# What it is


def test_each_visit_has_its_own_weights_and_the_last_is_the_default(tmp_path: Path, policy: Policy):
    obs = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    first = load_policy(tmp_path, 1)
    assert (first.visit, policy.visit) == (1, 2)
    assert not np.array_equal(first.act(obs, TASKS[0]), policy.act(obs, TASKS[0]))
    assert np.array_equal(load_policy(tmp_path, 2).act(obs, TASKS[0]), policy.act(obs, TASKS[0]))


def test_actions_do_not_depend_on_how_many_are_asked_for(policy: Policy):
    obs = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    whole = policy.act(obs, TASKS[0])
    assert whole.shape == (9, 2) and np.abs(whole).max() <= 1.0
    assert np.allclose(np.concatenate([policy.act(row[None], TASKS[0]) for row in obs]), whole, atol=1e-6)


def test_a_sample_is_of_its_generator(policy: Policy):
    obs = np.zeros((4, 6), np.float32)
    sample = [policy.act(obs, TASKS[0], explore=True, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert np.array_equal(sample[0], sample[1]) and not np.array_equal(sample[0], sample[2])


def test_environments_side_by_side_play_what_one_plays_alone(policy: Policy):
    alone = policy.play(TASKS[0], range(3))
    assert policy.play(TASKS[0], [2]) == alone[2:]
    vector = policy.environments(TASKS[0], 3)
    policy.start(vector, range(3))
    returns = np.zeros(3)
    while vector.active:
        returns += vector.step(policy.act(vector.obs, TASKS[0])).rewards
    assert returns.tolist() == pytest.approx([e["return"] for e in alone])


def test_what_is_done_before_a_step_sees_every_one_of_them(policy: Policy):
    seen: list[float] = []
    policy.play(TASKS[0], range(2), on_step=lambda vector: seen.append(float(vector.obs[0, 0])))
    assert len(seen) == 2 * HORIZON


# What it refuses


@pytest.mark.parametrize(
    ("spoil", "message", "code"),
    [
        (lambda folder: (folder / "config.yaml").unlink(), "no run is here, for there is no config.yaml", 3),
        (lambda folder: [path.unlink() for path in folder.glob("weights/*")], "no weights/visit_NN.npz", 3),
        (lambda folder: (folder / "weights" / "visit_02.npz").write_bytes(b"torn"), "not the weights of this run", 3),
        (lambda folder: (folder / "config.yaml").write_text("[1, 2]"), "config.yaml: ", 3),
        (
            lambda folder: (folder / "config.yaml").write_text("suite: nowhere\ntasks: [a]"),
            "unknown suite 'nowhere'",
            4,
        ),
        (lambda folder: set_keys(folder, cycels=2), "not a run's settings (cycels: Extra inputs", 3),
        (lambda folder: set_keys(folder, model={"hidden": [9, 9]}), "not the weights of this run", 3),
    ],
)
def test_a_folder_that_is_no_finished_visit_is_refused_in_one_line(spoil, message: str, code: int, tmp_path, capsys):
    folder = leave_run(tmp_path / "run")
    spoil(folder)
    with pytest.raises(PolicyError) as caught:
        load_policy(folder)
    assert message in str(caught.value) and str(folder) in str(caught.value)
    assert main(["play", str(folder)]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and captured.out == ""


def set_keys(folder: Path, **keys: Any) -> None:
    """Other values of some keys of a run's configuration."""
    values = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(values | keys))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--visit", "3"], "no weights of visit 3; there are those of 1, 2"),
        (["--task", "reach-lift"], "no task 'reach-lift'; did you mean 'reach-left'"),
        (["--video", "film.avi"], "--video film.avi: must end in .mp4 or .gif"),
        (["--onnx", "actor.onnx"], "--onnx: of which task? --task reach-left or reach-right"),
        (["--onnx", "a.onnx", "--task", "reach-left", "--visit", "1", "2"], "--onnx: after which visit?"),
    ],
)
def test_what_the_run_has_not_is_refused_in_one_line(arguments: list[str], message: str, tmp_path, capsys):
    assert main(["play", str(leave_run(tmp_path)), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# The command


@pytest.mark.usefixtures("three_threads")
def test_play_tells_each_episode(tmp_path: Path, policy: Policy, capsys):
    assert main(["play", str(tmp_path), "--episodes", "2", "--visit", "2", "--task", "reach-left"]) == 0
    lines = capsys.readouterr().out.splitlines()
    played = policy.play("reach-left", range(2))
    assert lines[0] == "reach-left, after visit 2"
    assert [line.split(",")[0] for line in lines[1:]] == [
        f"  episode {e['episode']}: return {e['return']:.1f}" for e in played
    ]
    assert torch.get_num_threads() == policy.run.settings.resources.torch_threads == 1


def test_play_films_what_is_played(tmp_path: Path, policy: Policy, capsys):
    imageio = pytest.importorskip("imageio.v2")
    pictures: list[np.ndarray] = []
    policy.play("reach-left", on_step=lambda vector: pictures.append(vector.suite.frame(vector.envs[0])))
    assert len(pictures) == HORIZON and pictures[0].shape == (128, 128, 3)
    assert not np.array_equal(pictures[0], pictures[-1])
    assert main(["play", str(tmp_path), "--task", "reach-left", "--video", str(tmp_path / "film.gif")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "film.gif")
    film = imageio.mimread(tmp_path / "film.gif")
    assert np.abs(film[0][..., :3].astype(int) - pictures[0]).max() < 16


def test_several_visits_stand_side_by_side_on_film(tmp_path: Path, policy: Policy, capsys):
    imageio = pytest.importorskip("imageio.v2")
    taken: dict[int, list[np.ndarray]] = {1: [], 2: []}
    for visit, frames in taken.items():
        load_policy(tmp_path, visit).play(
            "reach-left", range(2), on_step=lambda vector, to=frames: to.append(vector.suite.frame(vector.envs[0]))
        )
    arguments = ["--visit", "1", "2", "--task", "reach-left", "--episodes", "2"]
    assert main(["play", str(tmp_path), *arguments, "--video", str(tmp_path / "film.gif")]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("reach")]
    assert told == ["reach-left, after visit 1", "reach-left, after visit 2"]
    film = imageio.mimread(tmp_path / "film.gif")
    assert len(film) > HORIZON  # A GIF keeps no frame twice, and a mass may stand still.
    assert film[0].shape[:2] == (128, 128 + 16 + 128)
    for frame, left, right in ((film[0], taken[1][0], taken[2][0]), (film[-1], taken[1][-1], taken[2][-1])):
        assert np.abs(frame[:, :128, :3].astype(int) - left).max() < 16
        assert np.abs(frame[:, -128:, :3].astype(int) - right).max() < 16


def test_on_film_an_episode_that_is_over_stands_still_beside_the_other(tmp_path: Path):
    imageio = pytest.importorskip("imageio.v2")
    film = Film(tmp_path / "film.gif")
    short, long = ([np.full((16, 16, 3), shade, np.uint8) for shade in shades] for shades in ((0, 80), (0, 80, 160)))
    film.add_beside([short, long])
    film.close()
    frames = imageio.mimread(tmp_path / "film.gif")
    ends = [(int(frame[8, 8, 0]), int(frame[8, -8, 0])) for frame in frames]
    assert np.allclose(ends, [(0, 0), (80, 80), (80, 160)], atol=8)


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path, monkeypatch, capsys):
    def no_display(self: PointMassEnv) -> None:
        raise RuntimeError("an OpenGL platform library has not been loaded")

    pytest.importorskip("imageio")
    monkeypatch.setattr(PointMassEnv, "render", no_display)
    assert main(["play", str(leave_run(tmp_path)), "--video", str(tmp_path / "film.gif")]) == 4
    error = capsys.readouterr().err
    assert "reach-left: cannot be drawn here (RuntimeError: an OpenGL" in error and "MUJOCO_GL=egl" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("imageio_ffmpeg", ["--video", "film.mp4"], "rllib-nbsp[video]"),
        ("onnx", ["--task", "reach-left", "--onnx", "actor.onnx"], "rllib-nbsp[onnx]"),
    ],
)
def test_a_missing_package_is_one_line_that_names_the_extra(package, arguments, extra, tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without(name: str, *rest: Any, **keywords: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {package!r}", name=package)
        return real(name, *rest, **keywords)

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["play", str(leave_run(tmp_path)), *arguments]) == 4
    error = capsys.readouterr().err
    assert package in error and extra in error and error.count("\n") == 1


def test_an_exported_actor_acts_as_the_policy(tmp_path: Path, policy: Policy):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    policy.export_onnx(tmp_path / "actor.onnx", "reach-left")
    obs = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    (actions,) = runtime.InferenceSession(tmp_path / "actor.onnx").run(None, {"obs": obs})
    assert np.allclose(actions, policy.act(obs, "reach-left"), atol=1e-6)
