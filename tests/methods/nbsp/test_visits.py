"""Masks from visit to visit: accumulation, records, a state to go on from (docs/readings.md R15, R10)."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import torch

from rllib_nbsp.curriculum import Curriculum
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.nn.networks import NETWORKS
from tests.methods.nbsp.bench import (
    FIRST,
    FIRST_MASKS,
    SECOND,
    SECOND_MASKS,
    TWO_OF_SEVEN,
    Bench,
    adam,
    masks_of,
    moments,
    same_scores,
    scores_from,
)
from tests.tiny import assert_same, random_scores, visit


def test_latest_is_the_last_scoring():
    bench = Bench(TWO_OF_SEVEN)
    bench.visit(1, same_scores(*FIRST))
    bench.visit(2, same_scores(*SECOND))
    assert masks_of(bench) == SECOND_MASKS


def test_min_is_the_smallest_mask_of_all_visits():
    bench = Bench({**TWO_OF_SEVEN, "accumulate": "min"})
    bench.visit(1, same_scores(*FIRST))
    bench.visit(2, same_scores(*SECOND))
    assert masks_of(bench) == ([0.02, 0.02, 1.0, 1.0], [1.0, 0.01, 0.04])


def test_min_never_rises():
    bench = Bench({"accumulate": "min"}, hidden=(30, 30))
    before = torch.ones(60)
    for number in range(1, 9):
        bench.visit(min(number, 4), random_scores(number, (30, 30)))
        now = torch.cat(bench.method.masks["qf"])
        assert bool((now <= before).all())
        before = now
    assert int((before < 1).sum()) > 30


def test_product_multiplies():
    bench = Bench({**TWO_OF_SEVEN, "accumulate": "product"})
    bench.visit(1, same_scores(*FIRST))
    # The same neurons again, less clearly: 0.2 (1 - 0.8) = 0.04 and 0.2 (1 - 0.7) = 0.06.
    bench.visit(2, same_scores([0.8, 0.5, 0.5, 0.5], [0.5, 0.7, 0.5]))
    assert masks_of(bench) == ([0.0008, 1.0, 1.0, 1.0], [1.0, 0.0006, 1.0])


def test_per_task_min_protects_the_other_tasks_alone():
    bench = Bench({**TWO_OF_SEVEN, "accumulate": "per_task_min"})
    # Tasks alternate: visit 1 and 3 are task 0, visit 2 and 4 task 1.
    bench.visit(1, same_scores(*FIRST))
    assert masks_of(bench) == FIRST_MASKS  # in visit 2 task 0 is protected
    bench.visit(2, same_scores(*SECOND))
    assert masks_of(bench) == SECOND_MASKS  # in visit 3 task 0 is trained again: task 1 alone is protected
    third = ([0.5, 0.5, 0.9, 0.5], [0.9, 0.5, 0.5])
    bench.visit(3, same_scores(*third))
    assert masks_of(bench) == ([1.0, 1.0, 0.02, 1.0], [0.02, 1.0, 1.0])  # task 0's latest masks, not its first


def test_recorded_masks_are_those_that_came_of_the_visits_scores():
    for accumulate in ("latest", "per_task_min"):
        bench = Bench({**TWO_OF_SEVEN, "accumulate": accumulate})
        for number, accuracy, masks in ((1, FIRST, FIRST_MASKS), (2, SECOND, SECOND_MASKS), (3, FIRST, FIRST_MASKS)):
            data = VisitData(visit(number), scores=same_scores(*accuracy))
            bench.method.on_visit_end(data.visit, data)
            arrays = bench.method.neuron_arrays()
            for i, layer in enumerate(masks):
                assert arrays[f"policy/{i}/mask"] == pytest.approx(np.array(layer))
            bench.method.on_visit_start(visit(number + 1), data)


def test_per_task_min_is_the_minimum_over_several_other_tasks():
    curriculum = Curriculum(["a", "b", "c"], 2)
    bench = Bench({**TWO_OF_SEVEN, "accumulate": "per_task_min"})
    for number, accuracy in ((1, FIRST), (2, SECOND)):
        data = VisitData(curriculum.visit(number), scores=same_scores(*accuracy))
        bench.method.on_visit_end(data.visit, data)
        bench.method.on_visit_start(curriculum.visit(number + 1), data)
    assert masks_of(bench) == ([0.02, 0.02, 1.0, 1.0], [1.0, 0.01, 0.04])


@pytest.mark.parametrize("accumulate", ["latest", "min", "product", "per_task_min"])
@pytest.mark.parametrize("label_rate", [0.0, 1.0])
def test_labels_that_never_change_keep_the_masks_and_warn(accumulate, label_rate, caplog):
    bench = Bench({**TWO_OF_SEVEN, "accumulate": accumulate})
    bench.visit(1, same_scores(*FIRST))
    with caplog.at_level(logging.WARNING, logger="rllib_nbsp.methods.nbsp"):
        degenerate = scores_from(dict.fromkeys(NETWORKS, SECOND), label_rate)
        bench.method.on_visit_end(visit(2), VisitData(visit(2), scores=degenerate))
    assert masks_of(bench) == FIRST_MASKS
    assert f"{100 * label_rate:.0f} %" in caplog.text
    assert "masks stay" in caplog.text


def test_a_visit_without_scores_is_an_error_unless_none_are_needed():
    with pytest.raises(ValueError, match=r"visit 1: .*needs the neurons' scores"):
        Bench().method.on_visit_end(visit(1), VisitData(visit(1)))
    replay_only = Bench({"skill_frac": 0.0})
    replay_only.method.on_visit_end(visit(1), VisitData(visit(1)))
    assert all(bool((factor == 1.0).all()) for factor in replay_only.brake().values())


# Records and state


def test_masks_are_recorded_by_network_and_layer():
    bench = Bench(TWO_OF_SEVEN)
    bench.visit(1, same_scores(*FIRST))
    arrays = bench.method.neuron_arrays()
    assert sorted(arrays) == sorted(f"{name}/{i}/mask" for name in NETWORKS for i in range(2))
    assert arrays["qf/1/mask"].tolist() == pytest.approx([1.0, 0.01, 1.0])


@pytest.mark.parametrize("accumulate", ["latest", "min", "product", "per_task_min"])
@pytest.mark.parametrize("mask_on", ["update", "grad", "grad_rescale"])
def test_state_round_trip_in_the_middle_of_a_visit(accumulate, mask_on):
    keys = {**TWO_OF_SEVEN, "accumulate": accumulate, "mask_on": mask_on}
    bench = Bench(keys, optimizer=adam())
    bench.visit(1, same_scores(*FIRST))
    bench.steps(5)
    other = Bench(keys, optimizer=adam(), seed=3)
    other.agent.restore(bench.agent.snapshot())
    other.method.set_state(pickle.loads(pickle.dumps(bench.method.get_state())))
    assert other.method.metrics() == bench.method.metrics()
    for pair, expected in zip(moments(other).values(), moments(bench).values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair, expected, strict=True))
    for number, accuracy in ((2, SECOND), (3, FIRST)):
        for _ in range(3):
            gradients = bench.random_gradients()
            bench.step(gradients)
            other.step(gradients)
        for one in (bench, other):
            one.visit(number, same_scores(*accuracy))
        assert masks_of(other) == masks_of(bench)
    assert_same(other.weights(), bench.weights())
