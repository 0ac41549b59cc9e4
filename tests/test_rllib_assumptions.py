"""Facts of Ray 2.60 that our code leans on or works around; what to look at first after an upgrade of Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchSquashedGaussian
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.actor_manager import RemoteCallResults

from rllib_nbsp import ContinualSACConfig
from rllib_nbsp.learners import call_learner
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from tests.tiny import (
    ACT,
    OBS,
    ROWS,
    assert_same,
    build_config,
    build_learner,
    multi_agent_batch,
    parameters,
    train,
    transitions,
)

SPACES = {DEFAULT_MODULE_ID: (Box(-1, 1, (OBS,), np.float32), Box(-1, 1, (ACT,), np.float32))}


def stacked(count: int) -> dict[str, np.ndarray]:
    batches = [transitions(k) for k in range(count)]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def group_of(config: ContinualSACConfig) -> LearnerGroup:
    return config.build_learner_group(spaces=SPACES)


# The path of an update: what our Learner overrides is what RLlib calls


def test_our_columns_have_rllibs_names():
    columns = transitions(0)
    assert set(columns) - {"task", "from_prior"} == {
        Columns.OBS,
        Columns.ACTIONS,
        Columns.REWARDS,
        Columns.NEXT_OBS,
        Columns.TERMINATEDS,
    }


def test_a_local_group_hands_batch_and_minibatch_size_to_our_update(monkeypatch):
    calls: list[Mapping[str, Any]] = []
    ours = ContinualSACTorchLearner.update

    def spy(self: ContinualSACTorchLearner, *args: Any, **kwargs: Any) -> dict[str, Any]:
        calls.append({"args": args, **kwargs})
        return ours(self, *args, **kwargs)

    monkeypatch.setattr(ContinualSACTorchLearner, "update", spy)
    group = group_of(build_config())
    assert group.is_local
    results = group.update(batch=multi_agent_batch(stacked(3)), minibatch_size=ROWS)
    assert results == [{}]
    (call,) = calls
    assert call["args"] == ()
    assert call["minibatch_size"] == ROWS
    assert isinstance(call["training_data"], TrainingData)
    assert len(call["training_data"].batch.policy_batches[DEFAULT_MODULE_ID]["rewards"]) == 3 * ROWS
    assert group._learner.get_state()["continual"]["updates"] == 3


def test_a_batch_is_sharded_into_contiguous_parts():
    # Why the rows of a call are ordered [rank][update][row].
    columns = stacked(4)
    shards = [data.batch for data, _ in TrainingData(batch=multi_agent_batch(columns)).shard(num_shards=2)]
    rows = [shard.policy_batches[DEFAULT_MODULE_ID]["rewards"] for shard in shards]
    assert np.array_equal(rows[0], columns["rewards"][: 2 * ROWS])
    assert np.array_equal(rows[1], columns["rewards"][2 * ROWS :])


def test_one_update_calls_forward_losses_gradients_hook_and_step_in_this_order(monkeypatch):
    learner = build_learner()
    order: list[str] = []

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            order.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    watch(learner.module[DEFAULT_MODULE_ID], "_forward_train")
    for name in (
        "compute_loss_for_module",
        "compute_gradients",
        "postprocess_gradients_for_module",
        "apply_gradients",
        "after_gradient_based_update",
    ):
        watch(learner, name)
    train(learner, range(1))
    assert order == [
        "_forward_train",
        "compute_loss_for_module",
        "compute_gradients",
        "postprocess_gradients_for_module",
        "apply_gradients",
    ]


def update_by_rllib(monkeypatch: pytest.MonkeyPatch, learner: ContinualSACTorchLearner) -> None:
    """Three minibatches in one call, through the loop that ours replaces."""
    inner = learner._update

    def prepared(batch: Any) -> Any:
        learner.sac.begin(of_prior=False)
        result = inner({DEFAULT_MODULE_ID: learner.sac.take(batch[DEFAULT_MODULE_ID])})
        learner.sac.finish()
        return result

    monkeypatch.setattr(learner, "_update", prepared)
    TorchLearner.update(learner, batch=multi_agent_batch(stacked(3)), minibatch_size=ROWS)


def test_rllibs_own_loop_calls_the_hook_for_target_networks_once_for_many_minibatches(monkeypatch):
    # Why the target networks move in `apply_gradients`.
    learner = build_learner()
    calls = []
    monkeypatch.setattr(learner, "after_gradient_based_update", lambda **kwargs: calls.append(kwargs))
    update_by_rllib(monkeypatch, learner)
    assert learner.get_state()["continual"]["updates"] == 3
    assert len(calls) == 1


def test_our_loop_does_what_rllibs_loop_does(monkeypatch):
    ours, theirs = build_learner(), build_learner()
    ours.update(batch=multi_agent_batch(stacked(3)), minibatch_size=ROWS)
    update_by_rllib(monkeypatch, theirs)
    assert_same(parameters(ours), parameters(theirs))


def test_a_parameter_is_its_own_reference_and_gradients_are_changed_in_place():
    learner = build_learner()
    param = learner.agent.networks["qf"].head.weight
    assert learner.get_param_ref(param) is param
    assert any(key is param for key in learner._params)
    train(learner, range(1))
    gradients = {key: key.grad for key in learner._params}
    assert learner.postprocess_gradients(gradients)[param] is param.grad


# Calls to Learners


def test_foreach_learner_gives_results_in_rllibs_wrapping():
    group = group_of(build_config())
    results = group.foreach_learner(lambda learner: call_learner(learner, "checksum", []))
    assert isinstance(results, RemoteCallResults)
    (result,) = list(results)
    assert result.ok
    assert result.get() == (True, group._learner.checksum())


def test_an_error_on_a_learner_becomes_text():
    group = group_of(build_config())
    (result,) = list(group.foreach_learner(lambda learner: call_learner(learner, "boundary_reset", [None])))
    ok, text = result.get()
    assert not ok
    assert "AttributeError" in text


# State


def test_rllib_silently_keeps_newer_weights_when_an_older_state_is_set():
    # Why `set_state` puts the sequence number back.
    learner = build_learner()
    train(learner, range(2))
    older = learner.get_state()
    train(learner, range(2, 4))
    newer = parameters(learner)
    TorchLearner.set_state(learner, older)
    assert_same(parameters(learner), newer)
    learner.set_state(older)
    assert not torch.equal(parameters(learner)["qf.head.weight"], newer["qf.head.weight"])


def test_rllib_loads_optimizers_without_a_copy():
    # Why `set_state` copies: training would go on inside the state that was handed over.
    learner = build_learner()
    train(learner, range(2))
    state = learner.get_state()
    moments = state["optimizer"][f"{DEFAULT_MODULE_ID}_qf"]["state"]["state"][0]["exp_avg"]
    before = moments.copy()
    TorchLearner.set_state(learner, state)
    train(learner, range(2, 3))
    assert not np.array_equal(moments, before)


def test_rllibs_sac_forgets_its_temperature():
    # Why log_alpha is a parameter of our module.
    learner = SACConfig().build_learner(spaces=SPACES)
    with torch.no_grad():
        learner.curr_log_alpha[DEFAULT_MODULE_ID].fill_(-3.0)
    other = SACConfig().build_learner(spaces=SPACES)
    other.set_state(learner.get_state())
    assert float(other.curr_log_alpha[DEFAULT_MODULE_ID].detach()) == 0.0


def test_rllibs_learner_state_has_nothing_of_ours():
    learner = build_learner("nbsp")
    assert set(learner.get_state()) - set(Learner.get_state(learner)) == {"continual"}


def test_an_inference_only_state_is_filtered_by_the_modules_list():
    module = build_learner().module[DEFAULT_MODULE_ID]
    assert {name.split(".")[0] for name in module.get_state(inference_only=True)} == {"policy"}


# Why some of RLlib's SAC is replaced


def test_rllibs_deterministic_squashed_gaussian_is_not_squashed():
    # Why the module acts by itself (`act`): evaluation would run the clipped mean, 2.0, instead of tanh 2 = 0.964.
    distribution = TorchSquashedGaussian.from_logits(torch.tensor([[2.0, -0.5, 0.0, 0.0]]))
    assert distribution.to_deterministic().sample().tolist() == [[2.0, -0.5]]


def test_rllibs_sac_loss_grows_only_linearly_with_the_error():
    # Why the losses are ours: RLlib's is Huber's. With rewards a thousand times larger, squared errors would grow by
    # a million.
    losses = []
    for scale in (1e3, 1e6):
        learner = SACConfig().build_learner(spaces=SPACES)
        columns = {**transitions(0), "weights": np.ones(ROWS, np.float32), "n_step": np.ones(ROWS, np.float32)}
        columns["rewards"] = columns["rewards"] * scale
        batch = {DEFAULT_MODULE_ID: {name: torch.as_tensor(column) for name, column in columns.items()}}
        outputs = learner.module.forward_train(batch)
        learner.compute_losses(fwd_out=outputs, batch=batch)
        losses.append(learner.metrics.peek((DEFAULT_MODULE_ID, "qf_loss")).item())
    assert losses[1] / losses[0] == pytest.approx(1e3, rel=0.1)
