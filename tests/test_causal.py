"""Silencing neurons: that what is put out of work is what was asked for, and what it does to a policy, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rllib_nbsp.causal import SETS, Scored, damages, draw_sets
from rllib_nbsp.cli import main
from rllib_nbsp.nn.networks import NETWORKS, Network
from rllib_nbsp.nn.silencing import Silenced, features_of, put_out
from rllib_nbsp.policy import PolicyError, load_policy
from tests.test_policy import leave_run

HIDDEN = (8, 8)


def leave_neurons(folder: Path, visit: int, masked: list[int], constant: tuple[int, ...] = ()) -> None:
    """Scores of a visit in which these neurons of each layer were masked."""
    arrays: dict[str, object] = {"task": "reach-left", "label_rate": 0.5, "env_steps": 100}
    for network in NETWORKS:
        for i, width in enumerate(HIDDEN):
            counts = np.tile([30, 20, 20, 30], (width, 1))
            counts[list(constant)] = [0, 0, 50, 50]
            get = f"{network}/{i}/".__add__
            arrays |= {get("counts"): counts, get("score"): np.linspace(0.5, 0.9, width)}
            arrays |= {get("mean_abs_activation"): np.linspace(0.1, 0.8, width)}
            arrays |= {get("mask"): np.isin(np.arange(width), masked, invert=True).astype(np.float32)}
    (folder / "neurons").mkdir(exist_ok=True)
    np.savez(folder / "neurons" / f"visit_{visit:02d}.npz", **arrays)


# Sets


@given(st.integers(0, 2**31), st.lists(st.booleans(), min_size=2, max_size=30))
def test_all_sets_have_the_size_of_the_skill_neurons_and_share_none_while_there_are_enough(seed, skill):
    rng = np.random.default_rng(seed)
    chosen, n = np.array(skill), len(skill)
    scored = Scored([chosen], [rng.random(n)], [rng.random(n)], [np.zeros(n, bool)])
    sets = draw_sets(scored, rng)
    assert set(sets) == set(SETS)
    for kind, (neurons,) in sets.items():
        assert neurons.sum() == chosen.sum()
        if kind != "skill" and 2 * chosen.sum() <= n:
            assert not (neurons & chosen).any()
    assert np.array_equal(sets["skill"][0], chosen)


def test_lowest_and_matched_sets_by_hand():
    skill = np.array([True, False, False, False, False, False, False, False])
    score = np.array([0.9, 0.8, 0.5, 0.7, 0.6, 0.6, 0.6, 0.6])
    size = np.array([1.0, 5.0, 1.1, 0.9, 7.0, 1.3, 0.8, 0.7])
    scored = Scored([skill], [score], [size], [~skill])
    drawn = [draw_sets(scored, np.random.default_rng(s)) for s in range(60)]
    assert {int(np.flatnonzero(sets["lowest"][0])[0]) for sets in drawn} == {2}
    # The five nearest to 1.0 of the others.
    assert {int(np.flatnonzero(sets["matched"][0])[0]) for sets in drawn} == {2, 3, 5, 6, 7}
    assert {int(np.flatnonzero(sets["random"][0])[0]) for sets in drawn} == set(range(1, 8))


# Putting out of work


@pytest.mark.parametrize("activation", ["relu", "crelu"])
def test_silenced_neurons_are_those_of_a_network_whose_outgoing_weights_are_gone(activation: str):
    network = Network((4,), (5, 3), 2, activation=activation, generator=torch.Generator().manual_seed(0))
    x = torch.randn(7, 4)
    neurons = np.array([True, False, True, False, False])
    features = 2 if activation == "crelu" else 1
    with torch.no_grad(), Silenced(network) as silenced:
        network(x)
        first, second = silenced.features[0], silenced.features[1]
        nothing = torch.zeros(1, second.shape[1], dtype=torch.bool)
        silenced.replaced = [(features_of(neurons, first), put_out(first, "zero", torch.zeros(1))), (nothing, second)]
        found = network(x)
    with torch.no_grad():
        network.hidden[1].weight[:, np.tile(neurons, features)] = 0.0
        assert torch.allclose(network(x), found, atol=1e-6)
    assert "unit" not in vars(network)  # as it was before


def test_what_takes_their_place_by_hand():
    features = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    steps = torch.tensor([1, 0, 1])
    assert put_out(features, "zero", steps).tolist() == [[0.0, 0.0]]
    assert put_out(features, "mean", steps).tolist() == [[2.0, 4.0]]
    assert put_out(features, "resample", steps).tolist() == [[3.0, 6.0], [1.0, 2.0], [3.0, 6.0]]


def test_a_channels_neurons_are_replaced_everywhere_in_the_image():
    features = torch.ones(2, 3, 4, 4)
    assert features_of(np.array([True, False, True]), features).shape == (1, 3, 1, 1)


# The test


def frame_of(folder: Path, **numbers: int) -> pd.DataFrame:
    policy = load_policy(folder, 1)
    return pd.DataFrame(vars(row) for row in damages(policy, folder, **{"repeats": 3, "steps": 20, **numbers}))


def test_dead_neurons_can_be_silenced_for_nothing(tmp_path: Path):
    folder = leave_run(tmp_path)
    path = folder / "weights" / "visit_01.npz"
    weights = dict(np.load(path))
    for network in NETWORKS:
        for i in range(len(HIDDEN)):
            weights[f"{network}.hidden.{i}.bias"][:3] = -100.0  # never active again
    np.savez(path, **weights)
    leave_neurons(folder, 1, [0, 1, 2], constant=(0, 1, 2))
    frame = frame_of(folder)
    skill, others = frame[frame["set"] == "skill"], frame[frame["set"] == "random"]
    assert skill["constant"].tolist() == skill["size"].tolist() == [6] * len(skill)
    actor = skill[skill["network"] == "policy"]
    assert actor["mean_reward"].tolist() == pytest.approx(actor["intact_mean_reward"].tolist())
    critics = skill[skill["network"] != "policy"]
    assert critics["value_error"].max() == pytest.approx(0.0, abs=1e-6)
    assert others["value_error"].dropna().min() > 0.01


def test_every_condition_is_measured_in_every_task_and_repeats_are_paired(tmp_path: Path):
    folder = leave_run(tmp_path)
    leave_neurons(folder, 1, [6, 7])
    frame = frame_of(folder)
    keys = ["task", "network", "intervention", "set", "repeat"]
    assert len(frame) == len(frame.drop_duplicates(keys)) == 2 * 3 * 3 * 4 * 3
    assert set(frame["size"]) == {4} and set(frame["trained_task"]) == {"reach-left"}
    actor = frame[frame["network"] == "policy"]
    assert (actor.groupby(["task", "repeat"])["intact_mean_reward"].nunique() == 1).all()
    assert actor[["rank_damage", "value_error"]].isna().all().all()
    assert frame[frame["network"] != "policy"][["success", "mean_reward"]].isna().all().all()
    pd.testing.assert_frame_equal(frame, frame_of(folder))  # one seed in, one result out


def test_all_neurons_of_a_critic_set_to_zero_leave_one_value(tmp_path: Path):
    folder = leave_run(tmp_path)
    leave_neurons(folder, 1, list(range(8)))
    frame = frame_of(folder, repeats=1)
    gone = frame[(frame["network"] == "qf") & (frame["intervention"] == "zero")]
    assert gone["rank_damage"].tolist() == [1.0] * len(gone)


@pytest.mark.parametrize(
    ("leave", "message"),
    [
        (lambda folder: None, "not there: the run scored no neurons"),
        (lambda folder: leave_neurons(folder, 1, []), "no neuron is masked, so none is a skill neuron"),
    ],
)
def test_a_visit_without_skill_neurons_is_refused_in_one_line(leave, message, tmp_path, capsys):
    folder = leave_run(tmp_path)
    leave(folder)
    with pytest.raises(PolicyError, match=r"visit_01\.npz"):
        frame_of(folder)
    assert main(["causal", str(folder), "--visit", "1"]) == 3
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.usefixtures("three_threads")
def test_the_command_leaves_rows_tables_and_a_figure(tmp_path: Path, capsys):
    folder = leave_run(tmp_path)
    for visit in (1, 2):
        leave_neurons(folder, visit, [6, 7])
    assert main(["causal", str(folder), "--repeats", "3", "--steps", "10"]) == 0
    assert torch.get_num_threads() == 1  # the run's
    names = {path.name for path in (folder / "causal").iterdir()}
    assert names == {f"visit_{visit}{end}" for end in (".csv", ".md", ".png", "_damage.csv") for visit in ("01", "02")}
    out = capsys.readouterr().out
    assert (
        out.count("| Visit | Task") == 2
        and Path(out.splitlines()[-1]).with_suffix("") == folder / "causal" / "visit_02"
    )
