"""The EnvRunner in RLlib's hands: replies, weights, metrics, and what a killed one may not do."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED, NUM_EPISODES, WEIGHTS_SEQ_NO

from rllib_nbsp.algorithm_config import ContinualSACConfig
from rllib_nbsp.envs.point_mass import HORIZON
from rllib_nbsp.sampling.env_runner import ContinualEnvRunner
from tests.sampling.samplers import LEFT, RIGHT, TASKS, equal


def make_config(**resources: Any) -> ContinualSACConfig:
    config = ContinualSACConfig().curriculum(suite="point_mass", tasks=TASKS, cycles=1)
    config.networks(hidden=[8, 8])
    config.seed = 3
    for name, value in {"num_envs_per_env_runner": 2, **resources}.items():
        setattr(config, name, value)
    return config


def make_runner(worker_index: int = 0) -> ContinualEnvRunner:
    return ContinualEnvRunner(config=make_config(), worker_index=worker_index)


def test_the_runner_names_task_version_and_worker_in_every_reply():
    runner = make_runner()
    replies = [
        runner.sample(task=RIGHT, version=4, num_vector_steps=3),
        runner.evaluate(task=LEFT, version=5, episode_indices=[0, 1]),
        runner.rollout(task=RIGHT, version=6, num_env_steps=7, rollout_index=0),
    ]
    assert [(r["task"], r["version"], r["worker_index"], r[WEIGHTS_SEQ_NO]) for r in replies] == [
        (RIGHT, 4, 0, 0),
        (LEFT, 5, 0, 0),
        (RIGHT, 6, 0, 0),
    ]
    assert [len(r["columns"]["obs"]) if "columns" in r else None for r in replies] == [6, None, 7]
    runner.stop()


def test_an_error_is_an_answer_too():
    runner = make_runner(2)
    request: dict[str, Any] = {"task": RIGHT, "version": 1, "num_vector_steps": 4}
    weights = runner.module.acting_weights()
    asked = runner.answer("sample", request, 1, weights)
    assert equal(asked["columns"], make_runner(2).sample(**request)["columns"])
    answer = runner.answer("sample", {**request, "task": "reach-lft"}, 1, weights)
    assert answer["worker_index"] == 2
    assert type(answer["failure"]) is RuntimeError
    assert str(answer["failure"]).startswith("rollout worker 2, sample: ValueError: task is 'reach-lft'; the run's")


def test_the_runner_takes_pushed_weights_even_of_an_older_sequence_number():
    runner = make_runner()
    weights = runner.get_state(components=COMPONENT_RL_MODULE)[COMPONENT_RL_MODULE]
    for seq_no, value in ((5, 0.25), (3, -0.5)):
        pushed = {name: np.full_like(array, value) for name, array in weights.items()}
        runner.set_state({COMPONENT_RL_MODULE: {DEFAULT_MODULE_ID: pushed}, WEIGHTS_SEQ_NO: seq_no})
        state = runner.get_state()
        assert state[WEIGHTS_SEQ_NO] == seq_no
        assert all((array == value).all() for array in state[COMPONENT_RL_MODULE].values())
    assert runner.sample(task=LEFT, version=1, num_vector_steps=1)[WEIGHTS_SEQ_NO] == 3


def test_a_request_brings_the_weights_to_act_with():
    learning = make_runner().module
    with torch.no_grad():
        for parameter in learning.parameters():
            parameter.fill_(0.0)
    weights = learning.acting_weights()
    weights.flags.writeable = False  # as Ray's arrays are
    runner = make_runner(1)
    request = {"task": LEFT, "version": 1, "num_env_steps": 5, "rollout_index": 0, "explore": False}
    reply = runner.answer("rollout", request, 7, weights)
    assert reply[WEIGHTS_SEQ_NO] == 7
    assert (reply["columns"]["actions"] == 0.0).all()


def test_weights_are_taken_once_and_again_after_rllib_has_pushed_others():
    runner, other = make_runner(1), make_runner(2)
    with torch.no_grad():
        for parameter in other.module.parameters():
            parameter.fill_(0.0)
    zeros, ones = other.module.acting_weights(), np.ones_like(other.module.acting_weights())
    runner.take_weights(1, zeros)
    runner.take_weights(1, ones)  # under a number that is here already
    assert (runner.module.acting_weights() == 0).all()
    pushed = {name: np.ones_like(array) for name, array in runner.get_state()[COMPONENT_RL_MODULE].items()}
    runner.set_state({COMPONENT_RL_MODULE: {DEFAULT_MODULE_ID: pushed}, WEIGHTS_SEQ_NO: 1})
    runner.take_weights(1, zeros)
    assert (runner.module.acting_weights() == 0).all()


def test_the_module_that_acts_is_looked_up_at_each_step():
    runner = make_runner()
    learning = make_runner().module
    with torch.no_grad():
        for parameter in learning.parameters():
            parameter.fill_(0.0)
    runner.module = learning
    reply = runner.rollout(task=LEFT, version=1, num_env_steps=5, rollout_index=0, explore=False)
    assert (reply["columns"]["actions"] == 0.0).all()


def test_the_runner_counts_its_steps_and_episodes():
    runner = make_runner()
    for _ in range(2):
        runner.sample(task=LEFT, version=1, num_vector_steps=HORIZON)
    metrics = runner.get_metrics()
    assert metrics[NUM_ENV_STEPS_SAMPLED].peek() == 4 * HORIZON and metrics[NUM_EPISODES].peek() == 4
    assert runner.get_metrics()[NUM_ENV_STEPS_SAMPLED].peek() == 0
    assert runner.get_state()["num_env_steps_sampled_lifetime"] == 4 * HORIZON


def test_no_environment_is_built_before_a_request():
    runner = make_runner()
    runner.assert_healthy()
    assert [space.shape for space in runner.get_spaces()[DEFAULT_MODULE_ID]] == [(6,), (2,)]
    assert not runner._sampler._vectors


def test_a_remote_runner_gives_the_rows_of_a_local_one(ray_session):
    actor = ray.remote(num_cpus=0)(ContinualEnvRunner).remote(config=make_config(), worker_index=1)
    request: dict[str, Any] = {"task": RIGHT, "version": 2, "num_vector_steps": 40}
    reply = ray.get(actor.sample.remote(**request))
    assert reply["worker_index"] == 1
    assert equal(reply["columns"], make_runner(1).sample(**request)["columns"])
    evaluation = ray.get(actor.evaluate.remote(task=LEFT, version=2, episode_indices=[4, 2]))
    assert evaluation["episodes"] == make_runner().evaluate(task=LEFT, version=2, episode_indices=[4, 2])["episodes"]
    ray.kill(actor)


def test_an_idle_killed_env_runner_brings_no_wrong_task_transition(ray_session):
    config = make_config(num_env_runners=1, num_cpus_per_env_runner=0.5)
    config.visit(max_env_steps=200, warmup_env_steps=20, early_stop=None)
    config.evaluation(boundary_episodes=1, periodic_episodes=0, num_envs=1, report_env_steps=40)
    config.training(batch_size=8, rollout_fragment_length=5, updates_per_env_step=0.1)
    algo = config.build_algo()

    while algo.train()["visit"] == 1:
        pass
    algo.train()
    # Behind RLlib's back: it notices nothing, since Ray has restarted the actor when it is next asked.
    worker = algo.env_runner_group._worker_manager.actors()[1]
    pid = ray.get(worker.apply.remote(lambda runner: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    while True:
        try:
            time.sleep(0.5)
            new_pid, tag = ray.get(worker.apply.remote(lambda runner: (os.getpid(), runner._sampler._process_tag)))
            break
        except ray.exceptions.RayActorError:
            continue
    assert new_pid != pid and tag > 0
    result = algo.train()
    while not result["done"]:
        goals = algo.replay.newest(len(algo.replay))["obs"][:, 4]
        # Goals of reach-right have a positive x; an untold runner would be back at reach-left.
        assert len(goals) == algo.schedule.progress.env_steps and (goals > 0).all()
        result = algo.train()
    assert result["fault_tolerance"]["num_remote_worker_restarts"] == 0
    algo.stop()


def test_a_remote_worker_that_cannot_be_built_answers_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Any) -> Any:
        raise KeyError("unknown suite 'mine'")

    monkeypatch.setattr(ContinualSACConfig, "resolved", missing)
    with pytest.raises(KeyError, match="unknown suite"):
        make_runner(0)
    runner = make_runner(3)
    runner.assert_healthy()
    runner.set_state({COMPONENT_RL_MODULE: {}, WEIGHTS_SEQ_NO: 1})
    answer = runner.answer("sample", {"task": RIGHT, "version": 1, "num_vector_steps": 4}, 1, np.zeros(0, np.uint8))
    assert str(answer["failure"]).startswith("rollout worker 3, start with suite 'point_mass', tasks ['reach-left', ")
    assert "KeyError: \"unknown suite 'mine'\"" in str(answer["failure"])
    with pytest.raises(RuntimeError, match=r"rollout worker 3, start with .*KeyError"):
        ContinualEnvRunner(config=make_config(), worker_index=0, spaces=runner.get_spaces())


def test_a_task_that_only_the_users_own_process_knows_is_told_by_the_algorithm(ray_session: None) -> None:
    class Scripted(gym.Env[np.ndarray, np.ndarray]):
        observation_space = action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

        def reset(self, *, seed: Any = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
            return np.zeros(2, np.float32), {}

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            return np.zeros(2, np.float32), 0.0, False, False, {"is_success": False}

    gym.register("Scripted-v0", entry_point=Scripted, max_episode_steps=10)
    config = make_config(num_env_runners=1, num_cpus_per_env_runner=0.5)
    config.curriculum(suite="gymnasium", tasks=["Scripted-v0"])
    with pytest.raises(RuntimeError, match=r"rollout worker 1, start with .*Scripted-v0.*module:EnvId"):
        config.build_algo()
