"""The Learner: updates of one call, scores, reports, state and checkpoints."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_nbsp.learners import call_learner
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.nn.significance import TURNS, turned_labels
from rllib_nbsp.replay.stacks import PAIRS
from rllib_nbsp.sac.graphs import WARMUP
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import BoundarySettings
from tests.sac.inside import optimizer_steps, stacked
from tests.tiny import (
    CHOICES,
    HIDDEN,
    IMAGES,
    ROWS,
    assert_same,
    build_config,
    build_learner,
    build_learner_of,
    end_visit,
    game_transitions,
    multi_agent_batch,
    parameters,
    random_scores,
    train,
    transitions,
    update,
    visit,
)

# Updates of a call


def test_frames_that_travel_once_make_the_same_updates():
    once, apart = (
        build_learner_of(build_config("nbsp").networks(conv=[[6, 4, 2], [5, 3, 1]]), IMAGES, CHOICES) for _ in range(2)
    )
    stack, *frame = IMAGES.shape
    for k in range(WARMUP + 3):  # as ever, recorded and replayed
        pairs = np.random.default_rng(k).integers(0, 256, (ROWS, stack + 1, *frame), np.uint8)
        rest = {name: column for name, column in game_transitions(k).items() if "obs" not in name}
        frames = multi_agent_batch({PAIRS: pairs, **rest})
        stacks = multi_agent_batch({"obs": pairs[:, :-1], "new_obs": pairs[:, 1:], **rest})
        assert len(pickle.dumps(frames)) < 1.1 * (stack + 1) / (2 * stack) * len(pickle.dumps(stacks))
        once.update(batch=frames, minibatch_size=ROWS)
        apart.update(batch=stacks, minibatch_size=ROWS)
    assert_same(parameters(once), parameters(apart))


def test_many_minibatches_in_one_call_are_the_same_updates_one_by_one():
    together, apart = build_learner("nbsp"), build_learner("nbsp")
    for learner in (together, apart):
        train(learner, range(3))
        end_visit(learner, 1, random_scores(0))
    batches = [transitions(k, from_prior=k == 2) for k in range(6)]
    update(together, stacked(*batches))
    for batch in batches:
        update(apart, batch)
    assert_same(parameters(together), parameters(apart))


def test_a_call_without_minibatch_size_is_one_update():
    whole, half = build_learner(), build_learner()
    update(whole, transitions(0))
    update(half, transitions(0), ROWS // 2)
    assert whole.get_state()["continual"]["updates"] == 1
    assert half.get_state()["continual"]["updates"] == 2


def test_a_seed_gives_one_result_and_another_seed_another():
    results = []
    for seed in (1, 1, 2):
        learner = build_learner(seed=seed)
        train(learner, range(5))
        results.append(learner.checksum())
    assert results[0] == results[1] != results[2]


def test_a_learners_error_comes_back_as_text_and_its_values_as_they_are():
    learner = build_learner()
    assert call_learner(learner, "checksum", []) == (True, learner.checksum())
    ok, text = call_learner(learner, "boundary_reset", [None])
    assert not ok
    assert text.startswith("AttributeError")


# Scoring


def test_neurons_are_scored_on_observations_and_executed_actions():
    learner = build_learner()
    train(learner, range(3))
    chunks = [{**transitions(k, rows), "labels": np.arange(rows) % 3 == 0} for k, rows in enumerate((30, 12, 1))]
    columns = [{name: chunk[name] for name in ("obs", "actions", "labels")} for chunk in chunks]
    scores = learner.score_neurons(columns, None, 0.35)
    assert (scores.label_rate, scores.env_steps) == (0.35, 43)
    everything = stacked(*columns)
    obs, actions = torch.from_numpy(everything["obs"]), torch.from_numpy(everything["actions"])
    weights = parameters(learner)
    for name in NETWORKS:
        h = obs if name == "policy" else torch.cat([obs, actions], 1)
        assert [len(layer.score) for layer in scores.layers[name]] == list(HIDDEN)  # no head
        for i, layer in enumerate(scores.layers[name]):
            h = torch.relu(h @ weights[f"{name}.hidden.{i}.weight"].T + weights[f"{name}.hidden.{i}.bias"])
            above = h.double() > h.double().mean(0)
            agree = (above == torch.from_numpy(everything["labels"]).unsqueeze(1)).double().mean(0)
            assert torch.equal(layer.accuracy, agree)
            assert layer.p_value.isnan().all()


def test_a_rollout_with_the_labels_of_a_null_gives_p_values():
    learner = build_learner()
    rows = transitions(0, 400)
    turned = np.packbits(turned_labels(rows["obs"][:, 0] > 0, np.arange(400) % 4), axis=1)
    columns = {"obs": rows["obs"], "actions": rows["actions"], "labels": rows["obs"][:, 0] > 0, "turned": turned}
    whole = learner.score_neurons([columns], None, 0.5)
    halves = [{name: column[part] for name, column in columns.items()} for part in (slice(150), slice(150, None))]
    cut = learner.score_neurons(halves, None, 0.5)
    for name in NETWORKS:
        for layer, other in zip(whole.layers[name], cut.layers[name], strict=True):
            assert torch.equal(layer.p_value, other.p_value)
            assert (layer.p_value[layer.is_constant] == 1.0).all()
            assert layer.p_value.min() == 1 / (TURNS + 1)  # a neuron of a plain function of what the goal is of


def test_a_second_rollout_gives_the_standard_activations_alone():
    learner = build_learner()
    first = [{**transitions(0, 40), "labels": np.arange(40) % 2 == 0}]
    second = [{**transitions(1, 25), "labels": np.zeros(25, bool)}]
    scores = learner.score_neurons(first, second, 0.5)
    of_second = learner.score_neurons(second, None, 0.0)
    for name in NETWORKS:
        for layer, other in zip(scores.layers[name], of_second.layers[name], strict=True):
            assert torch.equal(layer.mean_activation, other.mean_activation)
            assert layer.counts.sum(1).tolist() == [40] * len(layer.score)


def test_scoring_changes_nothing():
    learner = build_learner("nbsp")
    train(learner, range(2))
    before = learner.checksum()
    state = learner.get_state()["continual"]
    learner.score_neurons([{**transitions(0, 40), "labels": np.arange(40) % 2 == 0}], None, 0.5)
    assert learner.checksum() == before
    after = learner.get_state()["continual"]
    assert np.array_equal(state["noise"], after["noise"])
    assert np.array_equal(state["method_generator"], after["method_generator"])


# Reports and state


@pytest.mark.parametrize("method", ["sac", "nbsp"])
def test_reported_numbers_are_finite_and_say_what_the_last_update_was(method):
    learner = build_learner(method)
    rows = transitions(0)
    before = learner.report(rows)  # in a warm-up there is a report, but no update yet
    assert before["alpha"] == 1.0
    train(learner, range(3))
    end_visit(learner, 1, random_scores(0))
    train(learner, range(3, 6))
    report = learner.report(rows)
    assert {"policy_loss", "qf_loss", "qf_twin_loss", "alpha_loss", "alpha", "entropy", "q_mean"} <= report.keys()
    assert {"masked_frac", "dormant_frac"} <= report.keys()
    assert all(math.isfinite(value) for value in report.values())
    total = sum(report[f"{name}_loss"] for name in ("policy", "qf", "qf_twin", "alpha"))
    assert report["total_loss"] == pytest.approx(total, rel=1e-5)
    # A fifth of 14 neurons, floored: 2.
    assert report["masked_frac"] == pytest.approx(0.0 if method == "sac" else 2 / 14)


def drift(learner: ContinualSACTorchLearner, start: int) -> None:
    """Training with a boundary whose masks are drawn at random."""
    train(learner, range(start, start + 4))
    data = end_visit(learner, 2, random_scores(start))
    learner.boundary_reset(BoundarySettings())
    learner.visit_start(visit(3), data)
    train(learner, range(start + 4, start + 8))


def snapshot(learner: ContinualSACTorchLearner) -> dict[str, Any]:
    return {"checksum": learner.checksum(), "report": learner.report(), "masks": learner.method_arrays()}


def assert_same_snapshot(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    assert first["checksum"] == second["checksum"]
    assert first["report"] == second["report"]
    assert first["masks"].keys() == second["masks"].keys()
    assert all(np.array_equal(first["masks"][name], second["masks"][name]) for name in first["masks"])


RANDOM = {"score": "random", "accumulate": "min"}


@pytest.fixture
def interrupted() -> tuple[ContinualSACTorchLearner, dict[str, Any], dict[str, Any]]:
    """A learner that went on, its state in the middle, and where it came to."""
    learner = build_learner("nbsp", RANDOM)
    train(learner, range(3))
    end_visit(learner, 1, random_scores(1))
    train(learner, range(3, 6))
    state = pickle.loads(pickle.dumps(learner.get_state()))
    drift(learner, 6)
    return learner, state, snapshot(learner)


def test_a_restored_learner_never_parts_from_one_that_never_stopped(interrupted):
    _, state, expected = interrupted
    restored = build_learner("nbsp", RANDOM, seed=99)
    restored.set_state(state)
    drift(restored, 6)
    assert_same_snapshot(snapshot(restored), expected)


def test_an_older_state_really_is_applied(interrupted):
    learner, state, expected = interrupted
    for _ in range(2):  # the second time too: training must not change the state that was handed over
        learner.set_state(state)
        assert learner.get_state()["continual"]["updates"] == 6
        drift(learner, 6)
        assert_same_snapshot(snapshot(learner), expected)


def test_a_state_from_before_the_first_update_is_applied_too():
    learner = build_learner("nbsp", RANDOM)
    state = learner.get_state()
    drift(learner, 0)
    expected = snapshot(learner)
    learner.set_state(state)
    assert optimizer_steps(learner) == set()
    drift(learner, 0)
    assert_same_snapshot(snapshot(learner), expected)


def test_a_state_is_a_copy():
    learner = build_learner("nbsp", RANDOM)
    drift(learner, 0)
    state = learner.get_state()
    frozen = pickle.dumps(state)
    drift(learner, 8)
    assert pickle.dumps(pickle.loads(frozen)) == pickle.dumps(pickle.loads(pickle.dumps(state)))


def test_rllibs_checkpoint_keeps_temperature_masks_and_noise(interrupted, tmp_path: Path):
    _, state, expected = interrupted
    saved = build_learner("nbsp", RANDOM)
    saved.set_state(state)
    saved.save_to_path(tmp_path)
    restored = build_learner("nbsp", RANDOM, seed=7)
    restored.restore_from_path(tmp_path)
    assert restored.agent.log_alpha.item() == saved.agent.log_alpha.item() != 0.0
    assert restored.method.metrics()["masked_frac"] > 0.0
    drift(restored, 6)
    assert_same_snapshot(snapshot(restored), expected)


def test_weights_for_rollout_workers_carry_nothing_of_ours():
    learner = build_learner("nbsp")
    state = learner.get_state(components=f"rl_module/{DEFAULT_MODULE_ID}", inference_only=True)
    assert "continual" not in state
    assert "optimizer" not in state
    assert {name.split(".")[0] for name in state["rl_module"][DEFAULT_MODULE_ID]} == {"policy"}


def test_the_checksum_sees_every_weight_and_the_masks():
    learner = build_learner("nbsp")
    seen = {learner.checksum()}
    module = learner.module[DEFAULT_MODULE_ID]
    for param in (module.log_alpha, module.policy.head.bias, module.target_qf_twin.head.weight):
        with torch.no_grad():
            param.view(-1)[0] += 1e-6
        seen.add(learner.checksum())
    end_visit(learner, 1, random_scores(0))
    seen.add(learner.checksum())
    assert len(seen) == 5
