"""The driver's side of sampling: requests to the rollout workers, of which some may be lost or hang.

RLlib revives lost workers before each `training_step` and then waits for their pings; ours stays inside one for many
fragments, so it revives them there, and without waiting as long as others answer. A lost worker costs a fragment.
"""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

HUNG_TIMEOUTS = 2  # after so many without its answer a worker is killed, for Ray to start it anew
STALLED_TIMEOUTS = 5  # after so many without any answer the run ends
PING_INTERVAL_S = 0.5

Reply = dict[str, Any]

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """While RLlib builds the workers: it logs why none could start, and fails when it asks one for its spaces.

    Raises:
        RuntimeError: with what kept them from starting.
    """
    try:
        yield
    except IndexError as error:
        if traceback.extract_tb(error.__traceback__)[-1].name != "get_spaces":
            raise
        raise RuntimeError(f"no rollout worker could be started: {_why_not()}") from error


def _why_not() -> str:
    """What a worker process says that imports this package and does nothing."""
    try:
        ray.get(ray.remote(num_cpus=0)(_nothing).remote())
    except Exception as error:  # of whatever is missing there
        reasons = [line for line in str(error).splitlines() if "Error: " in line]
        return (reasons or str(error).splitlines())[-1].strip()
    return "RLlib's log says why"


def _nothing() -> None:
    """Imported by name."""


class RolloutWorkers:
    """RLlib's group of rollout workers and how long each has kept us waiting.

    Args:
        group: the workers; without remote ones, the local one answers.
        learner_group: where a worker that was started anew gets its weights from.
        timeout_s: how long to wait for a fragment before looking after the workers.
    """

    def __init__(self, group: EnvRunnerGroup, learner_group: LearnerGroup, timeout_s: float) -> None:
        self._group = group
        self._learner_group = learner_group
        self._timeout_s = timeout_s
        self._next_ping = 0.0
        # Seconds of waiting alone: what the driver spends elsewhere says nothing about a worker.
        self._waited = dict.fromkeys(range(1, group.num_remote_env_runners() + 1), 0.0)
        self._waited_for_any = 0.0
        self._early: list[Reply] = []  # fragments that came before they were collected

    @property
    def local(self) -> Any:
        """The worker in the driver's process."""
        return self._group.local_env_runner

    @property
    def healthy(self) -> list[int]:
        """Indices of the remote workers that are not known to be lost."""
        return self._group.healthy_env_runner_ids()

    def collect(self, request: Mapping[str, Any]) -> list[Reply]:
        """Take the fragments that are there and ask for the next ones, which are sampled during the updates.

        Args:
            request: keyword arguments of `ContinualEnvRunner.sample`.

        Raises:
            EnvironmentFailure: if a worker's environment cannot go on.
            RuntimeError: if a worker failed otherwise, or none has answered for `STALLED_TIMEOUTS` timeouts.
        """
        if not self._waited:
            return [self.local.sample(**request)]
        replies = [*self._early, *self._fragments()]
        self._early.clear()
        self._group.foreach_env_runner_async("answer", kwargs={"request": "sample", **request}, tag="sample")
        return replies

    def _fragments(self) -> list[Reply]:
        """Wait for the fragments that were asked for, up to the timeout."""
        started = time.monotonic()
        answers = dict(self._group.fetch_ready_async_reqs(tags="sample", timeout_seconds=self._timeout_s))
        self._count(time.monotonic() - started, answers)
        return [_checked(reply) for reply in answers.values()]

    def restore(self) -> list[int]:
        """Ping the lost workers; those that were started anew get the weights.

        Waits for `PING_INTERVAL_S` if no other worker is left.

        Returns:
            The workers that are back.
        """
        lost = sorted(self._waited.keys() - self.healthy)
        pause = self._next_ping - time.monotonic()
        if not lost or (pause > 0 and self.healthy):
            return []
        if pause > 0:
            time.sleep(pause)
            self._count(pause, {})
        self._next_ping = time.monotonic() + PING_INTERVAL_S
        answers = self._group.foreach_env_runner_async_fetch_ready(
            "ping",
            tag="ping",
            remote_worker_ids=lost,
            healthy_only=False,
            mark_healthy=True,
            return_actor_ids=True,
        )
        restored = [worker for worker, _ in answers]
        if restored:
            logger.warning("rollout workers %s were lost and are back", restored)
            self._waited.update(dict.fromkeys(restored, 0.0))
            self.publish(restored)
        return restored

    def publish(self, workers: list[int] | None = None, *, wait_s: float = 0.0) -> None:
        """Send the Learner's weights to these workers, or to all.

        Args:
            workers: indices, or None.
            wait_s: how long to wait for a worker that has not taken the last weights yet; it is then left out.
        """
        self._group.sync_weights(
            from_worker_or_learner_group=self._learner_group,
            policies=[DEFAULT_MODULE_ID],
            to_worker_indices=workers,
            timeout_seconds=wait_s,
            inference_only=True,
        )

    def ask(self, request: str, kwargs: Mapping[int, Mapping[str, Any]]) -> dict[int, Reply]:
        """Have some remote workers answer a request, each with keyword arguments of its own, and wait for them.

        They answer with the Learner's weights of now.

        Returns:
            The replies by worker; one that was lost meanwhile has none, also if Ray has started it anew, unnoticed.

        Raises:
            EnvironmentFailure: if a worker's environment cannot go on.
            RuntimeError: if a worker failed otherwise, or none has answered for `STALLED_TIMEOUTS` timeouts.
        """
        # A fragment stands before the request in a worker's queue, and only for fragments is a hung worker found out.
        while self._group.num_in_flight_async_reqs("sample"):
            self._early += self._fragments()
        self.publish(wait_s=self._timeout_s)
        replies = self._group.foreach_env_runner(
            "answer",
            kwargs=[{"request": request, **own} for own in kwargs.values()],
            remote_worker_ids=list(kwargs),
            local_env_runner=False,
        )
        published = self.local.weights_seq_no
        return {reply["worker_index"]: reply for reply in map(_checked, replies) if reply[WEIGHTS_SEQ_NO] == published}

    def ask_one(self, request: str, kwargs: Mapping[str, Any]) -> Reply:
        """Have one worker answer a request; the next one is asked if a worker is lost, in the end the local one."""
        for worker in self.healthy:
            if replies := self.ask(request, {worker: kwargs}):
                return replies[worker]
        return getattr(self.local, request)(**kwargs)

    def _count(self, seconds: float, answered: Mapping[int, Reply]) -> None:
        """Note who has kept us waiting, kill who hangs, and give up if all do."""
        healthy = self.healthy
        self._waited_for_any = 0.0 if answered else self._waited_for_any + seconds
        for worker in self._waited:
            self._waited[worker] = 0.0 if worker in answered else self._waited[worker] + seconds
            if worker in healthy and self._waited[worker] > HUNG_TIMEOUTS * self._timeout_s:
                logger.warning("rollout worker %d: no answer for %.0f s, started anew", worker, self._waited[worker])
                self._waited[worker] = 0.0
                self._kill(worker, restart=True)
        if self._waited_for_any > STALLED_TIMEOUTS * self._timeout_s:
            for worker in self._waited:
                self._kill(worker, restart=False)  # RLlib's `stop` would wait for them
            raise RuntimeError(
                f"no rollout worker has answered for {self._waited_for_any:.0f} s; {len(healthy)} of "
                f"{len(self._waited)} are healthy"
            )

    def _kill(self, worker: int, *, restart: bool) -> None:
        ray.kill(self._group._worker_manager.actors()[worker], no_restart=not restart)


def _checked(reply: Reply) -> Reply:
    if "failure" in reply:
        raise reply["failure"]
    return reply
