"""Rollout workers that die, hang or fail in the middle of a run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from rllib_nbsp import ContinualSAC, ContinualSACConfig
from rllib_nbsp.envs import NonFiniteReward
from rllib_nbsp.envs.point_mass import PointMassEnv
from rllib_nbsp.sampling.evaluation import evaluate_tasks
from rllib_nbsp.sampling.rollout_workers import HUNG_TIMEOUTS, STALLED_TIMEOUTS, RolloutWorkers, starting
from rllib_nbsp.sampling.vector import EnvVector
from tests.tiny import short_run

BUILT: list[ContinualSAC] = []
ENDLESS = 100_000  # steps of a visit that is not over before a worker is back


@pytest.fixture(autouse=True)
def on_ray(ray_session: None) -> None:
    """All of these tests need it."""


@pytest.fixture(autouse=True)
def stopped() -> Iterator[list[ContinualSAC]]:
    """What a test has built is stopped, also when it fails: the next test needs the CPUs."""
    BUILT.clear()
    yield BUILT
    for algo in BUILT:
        algo.stop()


def running(workers: int, sample_timeout_s: float = 60.0, visit_env_steps: int = 240, **resources: Any) -> ContinualSAC:
    """A run of two visits that has begun, with remote workers."""
    config = short_run(ContinualSACConfig()).curriculum(cycles=1, visit_env_steps=visit_env_steps)
    config.training(rollout_fragment_length=5).evaluation(periodic_episodes=0)
    config.env_runners(num_env_runners=workers, num_cpus_per_env_runner=0.5, sample_timeout_s=sample_timeout_s)
    config.env_runners(**resources)
    algo = config.build_algo()
    BUILT.append(algo)
    algo.train()
    return algo


def inject(algo: ContinualSAC, workers: list[int], fault: Callable[[], Any], at: int = 10) -> list[int]:
    """Have these workers meet a fault, by default at their tenth step from now; returns their processes."""

    def arm(runner: Any) -> int:
        step, steps = EnvVector.step, 0

        def faulty(self: EnvVector, actions: np.ndarray) -> Any:
            nonlocal steps
            steps += 1
            if steps == at:
                fault()
            return step(self, actions)

        EnvVector.step = faulty  # type: ignore[method-assign]
        return os.getpid()

    return algo.env_runner_group.foreach_env_runner(arm, remote_worker_ids=workers, local_env_runner=False)


def pids(algo: ContinualSAC) -> list[int]:
    return algo.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)


def train(algo: ContinualSAC) -> bool:
    """Go on to the next report; no transition may come twice. Returns whether the run is over."""
    done = algo.train()["done"]
    rows = algo.replay.newest_obs(len(algo.replay))
    assert len(np.unique(rows, axis=0)) == len(rows)
    return done


def finish(algo: ContinualSAC) -> float:
    """Run to the end, in seconds; updates must follow from steps as they should."""
    started = time.monotonic()
    while not train(algo):
        pass
    assert algo.env_steps >= 2 * algo.run.settings.visit.max_env_steps
    assert algo.updates == pytest.approx((algo.env_steps - 160) / 4, abs=10)
    return time.monotonic() - started


def until_restarted(algo: ContinualSAC) -> None:
    """Run until a worker is back, within a minute."""
    started = time.monotonic()
    while algo.env_runner_group.num_remote_worker_restarts() == 0:
        assert time.monotonic() - started < 60
        train(algo)
    assert algo.updates == pytest.approx((algo.env_steps - 80) / 4, abs=10)


def test_the_only_worker_killed_in_the_middle_of_a_fragment_costs_a_fragment(monkeypatch: pytest.MonkeyPatch):
    algo = running(1)
    versions = []
    collect = RolloutWorkers.collect

    def watched(self: RolloutWorkers, request: Any) -> Any:
        replies = collect(self, request)
        versions.extend(reply[WEIGHTS_SEQ_NO] for reply in replies)
        return replies

    monkeypatch.setattr(RolloutWorkers, "collect", watched)
    (killed,) = inject(algo, [1], lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert finish(algo) < 30
    assert algo.env_runner_group.num_remote_worker_restarts() == 1
    assert killed not in pids(algo)
    assert algo.updates and min(versions) > 0  # a new worker has the weights that the run began with, number 0


@pytest.mark.slow
def test_a_worker_of_two_killed_in_the_middle_of_a_fragment_does_not_stop_the_other():
    algo = running(2, visit_env_steps=ENDLESS)
    inject(algo, [1], lambda: os.kill(os.getpid(), signal.SIGKILL))
    steps = algo.env_steps
    until_restarted(algo)
    assert algo.env_steps > steps + 100


@pytest.mark.slow
def test_a_hung_worker_is_started_anew_while_the_other_goes_on():
    algo = running(2, sample_timeout_s=1.0, visit_env_steps=ENDLESS)
    inject(algo, [2], lambda: time.sleep(3600))
    steps = algo.env_steps
    until_restarted(algo)
    assert algo.env_steps > steps + 100


@pytest.mark.slow
def test_a_run_ends_when_no_worker_answers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rllib_nbsp.sampling.rollout_workers.HUNG_TIMEOUTS", 10 * STALLED_TIMEOUTS)
    algo = running(1, sample_timeout_s=0.5)
    inject(algo, [1], lambda: time.sleep(3600))
    with pytest.raises(RuntimeError, match=r"no rollout worker has answered for [23] s; 1 of 1 are healthy"):
        finish(algo)
    assert HUNG_TIMEOUTS < STALLED_TIMEOUTS


@pytest.mark.slow
def test_a_worker_that_hangs_in_a_fragment_does_not_stop_an_evaluation():
    algo = running(1, sample_timeout_s=1.0)
    inject(algo, [1], lambda: time.sleep(3600), at=1)
    request = {"task": "reach-left", "version": algo.schedule.version, "num_vector_steps": 5}
    algo.workers.collect(request)
    started = time.monotonic()
    rows = evaluate_tasks(
        algo.workers, algo.run.curriculum.tasks, episodes=2, version=1, settings=algo.run.settings.evaluation
    )
    assert time.monotonic() - started < 30
    assert [row["episodes"] for row in rows] == [2, 2]


@pytest.mark.slow
def test_a_worker_started_anew_unnoticed_does_not_evaluate_with_its_first_weights(monkeypatch: pytest.MonkeyPatch):
    algo = running(1)
    (old,) = pids(algo)
    worker = algo.env_runner_group._worker_manager.actors()[1]
    publish, killed = RolloutWorkers.publish, []

    def publish_and_kill(self: RolloutWorkers, *args: Any, **kwargs: Any) -> None:
        publish(self, *args, **kwargs)
        if not killed:
            killed.append(old)
            ray.get(worker.apply.remote(lambda runner: None))  # it has the weights
            os.kill(old, signal.SIGKILL)
            while True:
                try:
                    time.sleep(0.5)
                    assert ray.get(worker.apply.remote(lambda runner: os.getpid())) != old
                    break
                except ray.exceptions.RayActorError:
                    continue

    asked: dict[str, Any] = {"task": "reach-left", "version": 1}
    algo.workers.publish(wait_s=10.0)
    expected = algo.workers.local.evaluate(**asked, episode_indices=[0, 1, 2])["episodes"]
    monkeypatch.setattr(RolloutWorkers, "publish", publish_and_kill)
    (row, _) = evaluate_tasks(
        algo.workers, algo.run.curriculum.tasks, episodes=3, version=1, settings=algo.run.settings.evaluation
    )
    assert killed == [old]
    assert [episode["return"] for episode in row["per_episode"]] == [episode["return"] for episode in expected]


def test_an_environment_that_cannot_go_on_in_a_remote_worker_ends_the_run_at_once():
    algo = running(1)

    def arm(runner: Any) -> None:
        step = PointMassEnv.step

        def diverging(self: PointMassEnv, action: np.ndarray) -> Any:
            obs, _, *rest = step(self, action)
            return obs, float("nan"), *rest

        PointMassEnv.step = diverging  # type: ignore[method-assign]

    algo.env_runner_group.foreach_env_runner(arm, local_env_runner=False)
    started = time.monotonic()
    with pytest.raises(
        NonFiniteReward, match=r"rollout worker 1, sample: point_mass task 'reach-left', sub-environment 0, .*step \d+"
    ):
        finish(algo)
    assert time.monotonic() - started < 20


@pytest.mark.slow
def test_a_lost_node_costs_a_fragment_and_not_the_run():
    ray.shutdown()  # the other tests' session: the next one that needs it starts another
    quick = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_initial_delay_ms": 500}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, "_system_config": quick}
    )
    try:
        node = cluster.add_node(num_cpus=1, resources={"rollout": 1})
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        algo = running(1, visit_env_steps=ENDLESS, custom_resources_per_env_runner={"rollout": 1})
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1, resources={"rollout": 1})
        until_restarted(algo)
        steps = algo.env_steps
        train(algo)
        assert algo.env_steps > steps
        BUILT.remove(algo)
        algo.stop()
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_workers_that_cannot_start_say_why_and_other_errors_stay_as_they_are(ray_session: None) -> None:
    def get_spaces() -> Any:
        return [][0]

    with pytest.raises(RuntimeError, match="no rollout worker could be started: "), starting():
        get_spaces()
    with pytest.raises(IndexError), starting():
        print([][0])
