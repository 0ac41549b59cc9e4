"""Rollout workers that die, hang or fail in the middle of a run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from rllib_nbsp import ContinualSAC, ContinualSACConfig, NBSPConfig
from rllib_nbsp.envs import NonFiniteReward
from rllib_nbsp.envs.point_mass import PointMassEnv
from rllib_nbsp.sampling.evaluation import evaluate_tasks
from rllib_nbsp.sampling.rollout_workers import HUNG_TIMEOUTS, STALLED_TIMEOUTS, RolloutWorkers, starting
from rllib_nbsp.sampling.vector import EnvVector
from tests.algorithm.conftest import rows_of
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
    rows = algo.replay.newest(len(algo.replay))["obs"]
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
    numbers = []
    collect = RolloutWorkers.collect

    def watched(self: RolloutWorkers, request: Any) -> Any:
        replies = collect(self, request)
        numbers.extend(reply[WEIGHTS_SEQ_NO] for reply in replies)
        return replies

    monkeypatch.setattr(RolloutWorkers, "collect", watched)
    (killed,) = inject(algo, [1], lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert finish(algo) < 30
    assert algo.env_runner_group.num_remote_worker_restarts() == 1
    assert killed not in pids(algo)
    assert algo.schedule.faults["lost_fragments"] == 1
    # A new worker has the weights that the run began with, number 0, and is asked to act with those of now.
    assert algo.updates and numbers[0] > 0 and numbers == sorted(numbers)


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
    with pytest.raises(TimeoutError, match=r"no rollout worker has answered for [23] s; 1 of 1 are healthy"):
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
def test_a_worker_started_anew_unnoticed_does_not_act_with_its_first_weights():
    algo = running(1)
    (old,) = pids(algo)
    worker = algo.env_runner_group._worker_manager.actors()[1]
    asked: dict[str, Any] = {"task": "reach-left", "version": 1}
    untrained = ray.get(worker.apply.remote(lambda runner: type(runner)(config=runner.config)))
    expected, other = (
        [episode["return"] for episode in runner.evaluate(**asked, episode_indices=[0, 1, 2])["episodes"]]
        for runner in (algo.workers.local, untrained)
    )
    assert algo.updates and expected != other
    os.kill(old, signal.SIGKILL)
    while True:
        try:
            time.sleep(0.5)
            assert ray.get(worker.apply.remote(lambda runner: os.getpid())) != old
            break
        except ray.exceptions.RayActorError:
            continue
    assert algo.workers.healthy == [1]
    algo.workers._fragments.clear()  # what the old process was asked for, and would give it away
    (row, _) = evaluate_tasks(
        algo.workers, algo.run.curriculum.tasks, episodes=3, version=1, settings=algo.run.settings.evaluation
    )
    assert [episode["return"] for episode in row["per_episode"]] == expected


def slow_down(algo: ContinualSAC, worker: int, mean_s: float) -> None:
    """Have a worker's steps take a random time."""

    def arm(runner: Any) -> None:
        step, rng = EnvVector.step, np.random.default_rng(worker)

        def slow(self: EnvVector, actions: np.ndarray) -> Any:
            time.sleep(rng.exponential(mean_s))
            return step(self, actions)

        EnvVector.step = slow  # type: ignore[method-assign]

    algo.env_runner_group.foreach_env_runner(arm, remote_worker_ids=[worker], local_env_runner=False)


@pytest.mark.parametrize(("learners", "fragments"), [(0, 1), (0, 2), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_two_runs_with_remote_workers_are_equal_whoever_of_them_is_faster(
    monkeypatch: pytest.MonkeyPatch, learners: int, fragments: int, tmp_path: Path
):
    monkeypatch.setattr("rllib_nbsp.sampling.rollout_workers.TURN_ENV_STEPS", 6 * fragments)
    clock = ("wall_s", "env_steps_per_s", "updates_per_s")
    left = []
    for slow in (1, 2):
        results = tmp_path / str(slow)
        config = short_run(NBSPConfig(), results).curriculum(cycles=1).training(rollout_fragment_length=3)
        config.env_runners(num_env_runners=2, num_cpus_per_env_runner=0.5).learners(num_learners=learners)
        algo = config.build_algo()
        BUILT.append(algo)
        assert algo.workers._per_turn == fragments
        slow_down(algo, slow, 0.003)
        while not algo.train()["done"]:
            pass
        rows = {
            name: [{k: v for k, v in row.items() if k not in clock} for row in rows_of(results, name)]
            for name in ("evaluations.jsonl", "training.jsonl")
        }
        left.append((algo.learners.first("checksum"), rows))
        BUILT.remove(algo)
        algo.stop()
    assert left[0] == left[1]
    assert left[0][1]["training.jsonl"][-1]["updates"] > 0


@pytest.mark.parametrize(("workers", "fragments"), [(2, 1), (2, 2), (3, 2)])
def test_workers_take_turns_and_a_fragment_is_asked_for_with_the_weights_of_then(
    monkeypatch: pytest.MonkeyPatch, workers: int, fragments: int
):
    monkeypatch.setattr("rllib_nbsp.sampling.rollout_workers.TURN_ENV_STEPS", 10 * fragments)
    algo = running(workers, visit_env_steps=ENDLESS)
    request = {"task": "reach-left", "version": algo.schedule.version, "num_vector_steps": 1}
    taken, current = [], []
    for _ in range(6):
        current += [algo.learners.acting_weights()[0]] * fragments
        taken += [(reply["worker_index"], reply[WEIGHTS_SEQ_NO]) for reply in algo.workers.collect(request)]
        algo.learners.weights_changed()
    indices, numbers = zip(*taken, strict=True)
    assert sorted(indices[:workers]) == list(range(1, workers + 1))
    assert indices[workers:] == indices[:-workers]
    # Each of the later ones was asked for when the worker's last one was taken.
    assert list(numbers[workers:]) == current[:-workers]


def test_no_weights_travel_while_nothing_is_learned():
    config = short_run(ContinualSACConfig()).curriculum(cycles=1, visit_env_steps=480, warmup_env_steps=240)
    algo = config.env_runners(num_env_runners=2, num_cpus_per_env_runner=0.5).build_algo()
    BUILT.append(algo)
    algo.train()
    assert algo.env_steps >= 100
    given, _ = algo.learners.acting_weights()
    algo.train()
    assert algo.learners.acting_weights()[0] == given


def test_a_remote_learners_weights_are_the_local_workers_after_each_iteration():
    config = short_run(ContinualSACConfig()).curriculum(cycles=1).training(rollout_fragment_length=5)
    algo = config.env_runners(num_env_runners=1, num_cpus_per_env_runner=0.5).learners(num_learners=1).build_algo()
    BUILT.append(algo)
    algo.train()
    algo.train()
    assert algo.updates
    weights = algo.learners.first("weights")
    acting = algo.get_module().state_dict()
    assert sorted(acting) == sorted(name for name in weights if name.startswith("policy."))
    assert all(np.array_equal(weights[name], value) for name, value in acting.items())


def test_a_learner_that_gives_no_weights_ends_the_run_and_no_worker_is_blamed():
    algo = running(1)

    @ray.remote
    def weights() -> None:
        raise ValueError("nothing to give")

    algo.workers._weights = lambda: (99, weights.remote())
    with pytest.raises(RuntimeError, match=r"(?s)rollout worker 1 was given no weights: .*nothing to give"):
        finish(algo)
    assert algo.workers.healthy == [1]


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
