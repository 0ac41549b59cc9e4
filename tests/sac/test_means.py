"""Means of an update's numbers between two reports, by hand, and that a run's rows are such means."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_nbsp import ContinualSACConfig, NBSPConfig
from rllib_nbsp.nn import losses
from rllib_nbsp.sac.means import PENDING_UPDATES, RunningMeans
from tests.tiny import build_learner, short_run, transitions, update


def scalar(value: float) -> Tensor:
    return torch.tensor(value)


def add(means: RunningMeans, numbers: dict[str, Tensor], *, prior: bool = False) -> None:
    means.add(tuple(numbers), list(numbers.values()), of_prior=prior)


def test_batches_of_d_and_of_d_pre_have_means_of_their_own() -> None:
    means = RunningMeans()
    for value, prior in ((1.0, False), (2.0, False), (6.0, False), (10.0, True), (30.0, True)):
        add(means, {"q_mean": scalar(value), "qf_loss": scalar(-value)}, prior=prior)
    # (1 + 2 + 6) / 3 and (10 + 30) / 2
    assert means.take() == {"q_mean": 3.0, "qf_loss": -3.0, "q_mean_prior": 20.0, "qf_loss_prior": -20.0}


def test_a_batch_that_mixes_both_is_of_d() -> None:
    learner = build_learner()
    rows = transitions(0)
    rows["from_prior"][:5] = True
    update(learner, rows)
    report = learner.report()
    assert "q_mean" in report and "q_mean_prior" not in report


def test_numbers_may_come_as_one_tensor_which_a_replayed_update_leaves() -> None:
    apart, together, mixed = RunningMeans(), RunningMeans(), RunningMeans()
    for k in range(7):
        values = [scalar(k + 0.1), scalar(k + 0.7)]
        apart.add(("a", "b"), values, of_prior=k == 2)
        together.add(("a", "b"), torch.stack(values), of_prior=k == 2)
        mixed.add(("a", "b"), torch.stack(values) if k % 2 else values, of_prior=k == 2)
    assert apart.take() == together.take() == mixed.take()


def test_many_updates_are_added_up_on_the_way_and_the_last_few_are_not_lost() -> None:
    means = RunningMeans()
    count = 2 * PENDING_UPDATES + 3
    for k in range(count):
        add(means, {"a": scalar(float(k))}, prior=k % 5 == 0)
    of_d, of_prior = ([k for k in range(count) if (k % 5 == 0) is prior] for prior in (False, True))
    assert means.take() == {"a": sum(of_d) / len(of_d), "a_prior": sum(of_prior) / len(of_prior)}


def test_a_mean_begins_anew_when_it_is_taken_and_there_is_none_of_nothing() -> None:
    means = RunningMeans()
    add(means, {"q_mean": scalar(5.0)})
    assert means.take() == {"q_mean": 5.0}
    assert means.take() == {}
    add(means, {"q_mean": scalar(7.0)}, prior=True)
    assert means.take() == {"q_mean_prior": 7.0}


def test_a_number_that_not_every_update_has_is_a_mean_over_those_that_have_it() -> None:
    # A method's term begins in the middle of an interval.
    means = RunningMeans()
    add(means, {"q_mean": scalar(1.0)})
    add(means, {"q_mean": scalar(3.0), "policy_method_loss": scalar(8.0)})
    assert means.take() == {"q_mean": 2.0, "policy_method_loss": 8.0}


def test_sums_go_on_from_a_state() -> None:
    means, other = RunningMeans(), RunningMeans()
    add(means, {"a": scalar(1.0), "b": scalar(2.0)})
    other.set_state(pickle.loads(pickle.dumps(means.get_state())), torch.device("cpu"))
    for one in (means, other):
        add(one, {"a": scalar(3.0), "b": scalar(4.0)})
    assert other.take() == means.take() == {"a": 2.0, "b": 3.0}


def test_a_million_small_numbers_do_not_vanish_beside_their_sum() -> None:
    # In float32 the sum would stand still at 2**24 = 16,777,216 ones.
    means = RunningMeans()
    add(means, {"a": scalar(2.0**25)})
    for _ in range(2):
        add(means, {"a": scalar(1.0)})
    assert means.take()["a"] == (2.0**25 + 2.0) / 3.0


def test_a_report_is_the_mean_over_its_updates_of_what_each_had_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build_learner()
    learner.graphs = None  # a replay calls no Python that could be watched
    alone: dict[bool, list[float]] = {False: [], True: []}
    critic_loss = losses.critic_loss
    seen: list[float] = []

    def watched(q: Tensor, target: Tensor) -> Tensor:
        loss = critic_loss(q, target)
        seen.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(losses, "critic_loss", watched)
    for k in range(7):
        prior = k % 3 == 2
        update(learner, transitions(k, from_prior=prior))
        alone[prior].append(seen[-2])  # the first critic's, then its twin's
    report = learner.report()
    assert report["qf_loss"] == pytest.approx(np.mean(alone[False]), rel=1e-6)
    assert report["qf_loss_prior"] == pytest.approx(np.mean(alone[True]), rel=1e-6)


def rows_of(config: ContinualSACConfig, folder: Path) -> list[dict[str, Any]]:
    algo = short_run(config, folder).build_algo()
    while not algo.train()["done"]:
        pass
    algo.stop()
    return [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]


NUMBERS = ("policy_loss", "qf_loss", "qf_twin_loss", "alpha_loss", "entropy", "q_mean")


def test_rows_of_a_run_have_both_means_where_there_is_prior_replay_and_none_in_the_warmup(
    ray_session: None, tmp_path: Path
) -> None:
    rows = rows_of(NBSPConfig(), tmp_path)
    for name in NUMBERS:
        for row in rows:
            learned = row["visit_env_steps"] > 80  # the warm-up of each visit
            assert (name in row) is learned, (name, row["visit"], row["visit_env_steps"])
            assert (f"{name}_prior" in row) is (learned and row["visit"] > 1)


def test_rows_without_prior_replay_have_no_prior_means(ray_session: None, tmp_path: Path) -> None:
    rows = rows_of(ContinualSACConfig(), tmp_path)
    assert not [name for row in rows for name in row if name.endswith("_prior")]
    assert all(name in rows[-1] for name in NUMBERS)
