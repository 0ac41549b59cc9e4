"""The driver's side of the Learners: when it asks for weights to act with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import ray

from rllib_nbsp.learners import Learners
from rllib_nbsp.settings import BoundarySettings
from tests.tiny import build_learner, transitions


class Group:
    """A local Learner as RLlib's group has it."""

    is_local = True

    def __init__(self) -> None:
        self._learner = build_learner()

    def update(self, *, batch: Any, minibatch_size: int) -> None:
        self._learner.update(batch=batch, minibatch_size=minibatch_size)

    def foreach_learner(self, call: Any, remote_actor_ids: Any = None) -> list[Any]:
        class Result:
            def __init__(self, value: Any) -> None:
                self.get = lambda: value

        return [Result(call(self._learner))]


def test_weights_are_given_away_once_until_something_changes_them(ray_session: None):
    group = Group()
    learners = Learners(group, 1)
    first, stored = learners.acting_weights()
    assert first == 1
    learners.first("report")
    assert learners.acting_weights() == (1, stored)
    numbers = []
    for change in (
        lambda: learners.update(transitions(0), 1),
        lambda: learners.every("boundary_reset", BoundarySettings()),
        learners.weights_changed,
    ):
        change()
        number, weights = learners.acting_weights()
        assert learners.acting_weights() == (number, weights)
        numbers.append(number)
        np.testing.assert_array_equal(ray.get(weights), group._learner.acting_weights())
    assert numbers == [2, 3, 4]
    assert not np.array_equal(ray.get(stored), group._learner.acting_weights())


def test_an_error_of_a_learner_is_raised_by_name():
    with pytest.raises(RuntimeError, match=r"Learner.phase_end: TypeError"):
        Learners(Group(), 1).every("phase_end")
