"""The driver's side of sampling: requests to the rollout workers, of which some may be lost or hang.

Each request has the weights to act with, so that nothing needs to be published beside it, and each worker has one
request at a time. Fragments are taken in the order in which they were asked for, a fixed number of them in a turn, and
whoever gave one is asked for the next at once: the weights that act are those of the worker's last turn, and what is
learned does not depend on which worker was faster. The driver waits for the workers whose turn it is, and for no other.
A turn also costs a call of the Learners and another set of weights, however few fragments it takes.

RLlib revives lost workers before each `training_step` and then waits for their pings; ours stays inside one for many
fragments, so it revives them there, and without waiting as long as others answer. A lost worker costs a fragment.
"""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from rllib_nbsp.settings import RunSettings

HUNG_TIMEOUTS = 2  # after so many without its answer a worker is killed, for Ray to start it anew
STALLED_TIMEOUTS = 5  # after so many without any answer the run ends
PING_INTERVAL_S = 0.5

Reply = dict[str, Any]
Weights = tuple[int, ray.ObjectRef]

TURN_ENV_STEPS = 32
"""Steps that are collected before a call of the Learners, if all workers together bring as many and a fragment is not
longer: fewer do not pay for the call, and with more the weights that act are older."""

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


def fragments_per_turn(settings: RunSettings) -> int:
    """How many fragments make a turn of `TURN_ENV_STEPS`."""
    each = settings.training.rollout_fragment_length * settings.resources.num_envs_per_env_runner
    return max(1, min(settings.resources.num_env_runners, TURN_ENV_STEPS // each))


class RolloutWorkers:
    """RLlib's group of rollout workers, what they were asked for, and how long each has kept us waiting.

    Args:
        group: the workers; without remote ones, the local one answers.
        weights: the number of the weights to act with now, and where they lie (`Learners.acting_weights`).
        timeout_s: how long to wait for a fragment before looking after the workers.
        fragments: how many are taken in a turn; at most one of each worker.
        shares_network: whether the local worker acts with the Learner's own network, and needs no weights.
    """

    def __init__(
        self,
        group: EnvRunnerGroup,
        weights: Callable[[], Weights],
        timeout_s: float,
        *,
        fragments: int,
        shares_network: bool,
    ) -> None:
        self._group = group
        self._weights = weights
        self._timeout_s = timeout_s
        self._per_turn = fragments
        self._shares_network = shares_network
        self._lost = 0
        self._next_ping = 0.0
        # Of each worker that was asked for a fragment: where it will be, or the fragment; in order of the requests.
        self._fragments: dict[int, ray.ObjectRef | Reply] = {}
        self._version: int | None = None  # of the fragments
        # Seconds of waiting alone: what the driver spends elsewhere says nothing about a worker.
        self._waited = dict.fromkeys(range(1, group.num_remote_env_runners() + 1), 0.0)
        self._waited_for_any = 0.0

    @property
    def local(self) -> Any:
        """The worker in the driver's process, with the Learner's weights of now."""
        self.refresh_local()
        return self._group.local_env_runner

    def refresh_local(self) -> None:
        """Give the local worker the Learner's weights of now: RLlib and its users look for them there."""
        if not self._shares_network:
            self._group.local_env_runner.take_weights(*self._weights())

    @property
    def healthy(self) -> list[int]:
        """Indices of the remote workers that are not known to be lost."""
        return self._group.healthy_env_runner_ids()

    def collect(self, request: Mapping[str, Any]) -> list[Reply]:
        """Take the fragments of a turn, and ask for the next ones, which are sampled during the updates.

        Args:
            request: keyword arguments of `ContinualEnvRunner.sample`.

        Returns:
            The fragments; nothing of a worker that was lost or is late, whose turn then comes last. At the first
            request of a version, those of the one before it too, which are too late.

        Raises:
            EnvironmentFailure: if a worker's environment cannot go on.
            RuntimeError: if a worker failed otherwise.
            TimeoutError: if none has answered for `STALLED_TIMEOUTS` timeouts.
        """
        if not self._waited:
            return [self.local.sample(**request)]
        fragments = []
        if request["version"] != self._version:  # all workers begin anew, in the order of their numbers
            self._settle()
            fragments = [_checked(fragment) for fragment in self._fragments.values() if isinstance(fragment, dict)]
            self._fragments, self._version = {}, request["version"]
        self._ask_the_idle(request)
        for worker in list(self._fragments)[: self._per_turn]:
            self._wait_for(worker)
            if isinstance(self._fragments.get(worker), dict):
                fragments.append(_checked(self._fragments.pop(worker)))
            self._ask_the_idle(request)
        return fragments

    def take_lost(self) -> int:
        """How many fragments were asked of workers that were lost before they answered, since the last time."""
        lost, self._lost = self._lost, 0
        return lost

    def _ask_the_idle(self, request: Mapping[str, Any]) -> None:
        for worker in self.healthy:
            if worker not in self._fragments:
                self._fragments[worker] = self._actor(worker).answer.remote("sample", request, *self._weights())

    def _wait_for(self, worker: int) -> None:
        """Wait for a worker's fragment, up to the timeout; a late one goes to the end of the queue, a lost one out."""
        fragment = self._fragments[worker]
        if not isinstance(fragment, ray.ObjectRef):
            return
        started = time.monotonic()
        try:
            self._fragments[worker] = ray.get(fragment, timeout=self._timeout_s)
            self._waited[worker] = self._waited_for_any = 0.0
        except RayTaskError as error:  # `answer` raises nothing
            raise RuntimeError(f"rollout worker {worker} was given no weights: {error}") from error
        except GetTimeoutError:
            self._fragments[worker] = self._fragments.pop(worker)
            self._count(time.monotonic() - started)
        except RayError as error:
            logger.warning("rollout worker %d was lost: %s", worker, error)
            del self._fragments[worker]
            self._lost += 1
            self._group._worker_manager.set_actor_state(worker, healthy=False)
            self._count(time.monotonic() - started)

    def restore(self) -> list[int]:
        """Ping the lost workers.

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
            self._count(pause)
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
        return restored

    def ask(self, request: str, kwargs: Mapping[int, Mapping[str, Any]]) -> dict[int, Reply]:
        """Have some remote workers answer a request, each with keyword arguments of its own, and wait for them.

        They answer with the Learner's weights of now.

        Returns:
            The replies by worker; one that was lost meanwhile has none.

        Raises:
            EnvironmentFailure: if a worker's environment cannot go on.
            RuntimeError: if a worker failed otherwise.
            TimeoutError: if none has answered for `STALLED_TIMEOUTS` timeouts.
        """
        self._settle()
        if not kwargs:
            return {}
        number, weights = self._weights()
        replies = self._group.foreach_env_runner(
            "answer",
            kwargs=[
                {"request": request, "kwargs": own, "number": number, "weights": weights} for own in kwargs.values()
            ],
            remote_worker_ids=list(kwargs),
            local_env_runner=False,
        )
        return {reply["worker_index"]: reply for reply in map(_checked, replies)}

    def _settle(self) -> None:
        """Wait for every fragment: each stands before the next request in its worker's queue, and only for fragments is
        a hung worker found out."""
        while late := [worker for worker, f in self._fragments.items() if isinstance(f, ray.ObjectRef)]:
            self._wait_for(late[0])

    # State

    def get_state(self) -> dict[str, Any]:
        """Where every process is in its environments, and the fragments that nobody has taken yet."""
        asked = self.ask("sampling_state", {worker: {} for worker in self.healthy})
        replies = [self._group.local_env_runner.sampling_state(), *asked.values()]
        return {
            "workers": {reply["worker_index"]: reply["state"] for reply in replies},
            "fragments": [f for worker, f in self._fragments.items() if worker in asked],
            "version": self._version,
        }

    def set_state(self, state: Mapping[str, Any]) -> bool:
        """Go on from where `get_state` was, with as many workers.

        Returns:
            Whether all environments are where they were.
        """
        fragments = state["fragments"]
        self._fragments, self._version = {reply["worker_index"]: reply for reply in fragments}, state["version"]
        states = {worker: {"state": own} for worker, own in state["workers"].items()}
        local = self._group.local_env_runner.set_sampling_state(**states.pop(0))
        replies = self.ask(
            "set_sampling_state", {worker: states[worker] for worker in self.healthy if worker in states}
        )
        return all(reply["same"] for reply in (local, *replies.values()))

    def ask_one(self, request: str, kwargs: Mapping[str, Any]) -> Reply:
        """Have one worker answer a request; the next one is asked if a worker is lost, in the end the local one."""
        for worker in self.healthy:
            if replies := self.ask(request, {worker: kwargs}):
                return replies[worker]
        return getattr(self.local, request)(**kwargs)

    def _count(self, seconds: float) -> None:
        """Note who has kept us waiting in vain, kill who hangs, and give up if all do."""
        self._waited_for_any += seconds
        asked = {f: worker for worker, f in self._fragments.items() if isinstance(f, ray.ObjectRef)}
        late = ray.wait(list(asked), num_returns=len(asked), timeout=0, fetch_local=False)[1] if asked else []
        for worker in (asked[fragment] for fragment in late):
            self._waited[worker] += seconds
            if self._waited[worker] > HUNG_TIMEOUTS * self._timeout_s:
                logger.warning("rollout worker %d: no answer for %.0f s, started anew", worker, self._waited[worker])
                self._waited[worker] = 0.0
                ray.kill(self._actor(worker), no_restart=False)
        if self._waited_for_any > STALLED_TIMEOUTS * self._timeout_s:
            for worker in self._waited:
                ray.kill(self._actor(worker))  # RLlib's `stop` would wait for them
            raise TimeoutError(
                f"no rollout worker has answered for {self._waited_for_any:.0f} s; {len(self.healthy)} of "
                f"{len(self._waited)} are healthy"
            )

    def _actor(self, worker: int) -> Any:
        return self._group._worker_manager.actors()[worker]


def _checked(reply: Reply) -> Reply:
    if "failure" in reply:
        raise reply["failure"]
    return reply
