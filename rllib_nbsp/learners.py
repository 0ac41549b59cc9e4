"""The driver's side of the Learners: ask every one, or the first, and check every reply; RLlib swallows errors."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from rllib_nbsp.plugins import USER_ERRORS, of_ray

ANSWER_S = 10.0


class Learners:
    """RLlib's group of Learners, local or remote.

    Args:
        group: the Learners.
        count: how many there are, a local one included.
    """

    def __init__(self, group: LearnerGroup, count: int) -> None:
        self._group = group
        self._count = count
        self._acting: tuple[int, ray.ObjectRef] | None = None
        self._numbered = 0

    def update(self, columns: dict[str, np.ndarray], count: int) -> None:
        """Make updates on the rows of these columns, which are ordered [rank][update][row].

        Raises:
            ConnectionError: if a Learner was lost; the others only say that they cannot reach it.
        """
        self.weights_changed()
        batch = rllib_batch(columns)
        try:
            self._group.update(batch=batch, minibatch_size=batch.count // (count * self._count))
        except RayError as error:
            if lost := self._lost():
                raise ConnectionError(f"{lost} of {self._count} Learners were lost in an update") from error
            raise

    def _lost(self) -> int:
        """How many Learners' processes are gone."""
        lost = 0
        for learner in self._group._worker_manager.actors().values():
            try:
                ray.get(learner.apply.remote(_nothing), timeout=ANSWER_S)
            except GetTimeoutError:  # at work
                continue
            except RayActorError:
                lost += 1
        return lost

    def every(self, name: str, *args: Any) -> list[Any]:
        """Call a method of every Learner.

        Raises:
            RuntimeError: with the Learner's error.
            ConnectionError: if a Learner did not answer.
        """
        self.weights_changed()
        call = functools.partial(call_learner, name=name, args=tuple(self.stored(arg) for arg in args))
        results = [result.get() for result in self._group.foreach_learner(call)]
        if len(results) != self._count:
            raise ConnectionError(f"{name}: {len(results)} of {self._count} Learners answered")
        for ok, value in results:
            if not ok:
                raise RuntimeError(f"Learner.{name}: {value}")
        return [value for _, value in results]

    def first(self, name: str, *args: Any) -> Any:
        """Call a method of the first Learner.

        Raises:
            RuntimeError: with the Learner's error.
            ConnectionError: if it did not answer.
        """
        call = functools.partial(call_learner, name=name, args=args)
        first = None if self._group.is_local else [0]
        results = [r.get() for r in self._group.foreach_learner(call, remote_actor_ids=first)]
        if not results:
            raise ConnectionError(f"Learner.{name}: no answer")
        ok, value = results[0]
        if not ok:
            raise RuntimeError(f"Learner.{name}: {value}")
        return value

    def weights_changed(self) -> None:
        """From here on, those that were given away are old."""
        self._acting = None

    def acting_weights(self) -> tuple[int, ray.ObjectRef]:
        """What a rollout worker acts with, from the first Learner: once for all that ask until the weights change.

        Returns:
            A number that no weights before these had, from 1; and where they lie in the object store, or will lie: for
            a remote Learner nobody waits here.
        """
        if self._acting is None:
            self._numbered += 1
            if self._group.is_local:
                weights = ray.put(self._group._learner.acting_weights())
            else:
                first = self._group._worker_manager.actors()
                weights = first[min(first)].acting_weights.remote()
            self._acting = self._numbered, weights
        return self._acting

    def stored(self, value: Any) -> Any:
        """A value to hand over: itself, or where it lies in the object store if Learners are remote."""
        return value if self._group.is_local else ray.put(value)

    def check_agree(self, place: str) -> None:
        """Compare the Learners' weights and method states; `place` is for the error.

        Raises:
            RuntimeError: if they differ.
        """
        if self._count > 1:
            checksums = self.every("checksum")
            if len(set(checksums)) > 1:
                raise RuntimeError(f"{place}: weights or method states of the Learners differ: {checksums}")


def _nothing(learner: Learner) -> None:
    """Asked of a Learner to see whether it is there."""


def rllib_batch(columns: dict[str, np.ndarray]) -> MultiAgentBatch:
    """Rows as a Learner takes them; a bare `SampleBatch` would not be converted to tensors."""
    return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=len(columns["rewards"]))


def call_learner(learner: Learner, name: str, args: Sequence[Any]) -> tuple[bool, Any]:
    """Call a Learner's method and return (True, value) or (False, error text).

    An exception must not leave a Learner by itself: RLlib would mark it unhealthy and skip it from then on, and the
    next update would wait for it forever.
    """
    try:
        return True, getattr(learner, name)(*(_resolve(arg) for arg in args))
    except USER_ERRORS as error:  # reported to the driver, which raises it
        if of_ray(error):
            raise
        return False, f"{type(error).__name__}: {error}"


def _resolve(arg: Any) -> Any:
    if isinstance(arg, ray.ObjectRef):
        return ray.get(arg)
    if isinstance(arg, list):
        return [_resolve(item) for item in arg]
    return arg
