"""How the module acts, and the discrete one in its Learner against a plain PyTorch loop of CleanRL's discrete SAC."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor, nn
from torch.distributions import Categorical

from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from tests.tiny import (
    ACT,
    CHOICES,
    HIDDEN,
    IMAGES,
    OBS,
    assert_same,
    build_config,
    build_learner,
    build_learner_of,
    end_visit,
    game_transitions,
    parameters,
    random_scores,
    transitions,
    update,
)

CONV = [[3, 4, 2], [2, 3, 1]]
GAMMA, TAU, EPS, N = 0.99, 0.005, 1e-4, CHOICES.n


def test_evaluation_acts_by_the_squashed_mean_and_exploration_by_a_sample():
    module = build_learner().module[DEFAULT_MODULE_ID]
    obs = 10 * torch.from_numpy(transitions(0, 2000)["obs"])
    mean, raw = module.policy(obs).chunk(2, 1)
    assert torch.equal(module.act(obs, explore=False), torch.tanh(mean))
    generator = torch.Generator().manual_seed(5)
    samples = module.act(obs, explore=True, generator=generator)
    noise = torch.empty(2000, ACT).normal_(generator=torch.Generator().manual_seed(5))
    log_std = -5 + 3.5 * (torch.tanh(raw) + 1)
    assert torch.allclose(samples, torch.tanh(mean + log_std.exp() * noise), atol=1e-6)
    assert float(samples.detach().abs().max()) <= 1.0


class Elsewhere(nn.Module):
    """An actor on a device that has no numbers: it looks where its inputs are, and its outputs are made up."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, device="meta"))

    def forward(self, obs, task=None):
        assert obs.device.type == "meta"
        assert not isinstance(task, torch.Tensor) or task.device.type == "meta"
        return torch.zeros(len(obs), len(self.weight))


@pytest.mark.parametrize("discrete", [False, True])
def test_to_act_an_observation_goes_where_the_network_is_and_the_sample_is_drawn_where_it_came_from(
    monkeypatch, discrete
):
    learner = build_learner_of(build_config().networks(conv=CONV), IMAGES, CHOICES) if discrete else build_learner()
    module, obs = learner.sac.module, torch.zeros(4, OBS)
    monkeypatch.setitem(module._modules, "policy", Elsewhere(N if discrete else 2 * ACT))
    for task in (None, 1, torch.tensor([0, 1, 0, 1])):
        actions = module.act(obs, explore=True, generator=torch.Generator().manual_seed(3), task=task)
        assert actions.device.type == "cpu"
        if not discrete:  # mean 0, log std -5 + 3.5 = -1.5
            noise = torch.empty(4, ACT).normal_(generator=torch.Generator().manual_seed(3))
            assert torch.allclose(actions, torch.tanh(np.exp(-1.5) * noise))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("explore", [False, True])
def test_a_gpu_acts_as_the_cpu_does_with_the_same_noise(explore):
    module, obs = build_learner().sac.module, torch.from_numpy(transitions(0)["obs"])
    actions = [
        one.act(obs, explore=explore, generator=torch.Generator().manual_seed(3))
        for one in (module, copy.deepcopy(module).cuda())
    ]
    assert torch.allclose(*actions, atol=1e-6)


def test_the_actor_of_a_rollout_worker_is_the_learners_before_any_weights_are_sent():
    learner = build_learner(seed=4)
    spec = learner.config.get_rl_module_spec(spaces={DEFAULT_MODULE_ID: learner_spaces(learner)}, inference_only=True)
    worker = spec.build()
    assert not hasattr(worker, "qf")
    weights = {name: value for name, value in parameters(learner).items() if name.startswith("policy.")}
    assert_same(dict(worker.state_dict()), weights)


def learner_spaces(learner: ContinualSACTorchLearner) -> tuple[Any, Any]:
    module = learner.module[DEFAULT_MODULE_ID]
    return module.observation_space, module.action_space


# On images


def discrete_learner(method: str = "sac", keys: Mapping[str, Any] | None = None, **training: Any) -> Any:
    config = build_config(method, keys, training={"adam_eps": EPS, **training}).networks(conv=CONV)
    return build_learner_of(config, IMAGES, CHOICES)


class PlainDiscreteSAC:
    """Discrete SAC as a PyTorch script has it, written without the package's code."""

    def __init__(self, weights: Mapping[str, Tensor], reduce: str) -> None:
        self.actor = self._cnn(weights, "policy")
        self.critics = [self._cnn(weights, name) for name in ("qf", "qf_twin")]
        self.targets = [self._cnn(weights, name) for name in ("target_qf", "target_qf_twin")]
        self.log_alpha = weights["log_alpha"].clone().requires_grad_()
        self.reduce = torch.mean if reduce == "mean" else lambda x: x.sum(1).mean()
        self.optimizers = [
            torch.optim.Adam(params, lr=lr, eps=EPS, fused=False)
            for params, lr in (
                (self.actor.parameters(), 3e-4),
                ([p for critic in self.critics for p in critic.parameters()], 1e-3),
                ([self.log_alpha], 1e-3),
            )
        ]

    @staticmethod
    def _cnn(weights: Mapping[str, Tensor], name: str) -> nn.Sequential:
        parts: list[nn.Module] = []
        for i, (layer, stride) in enumerate(zip(("0", "1", "2", "3"), (2, 1, 0, 0), strict=True)):
            weight, bias = weights[f"{name}.hidden.{layer}.weight"], weights[f"{name}.hidden.{layer}.bias"]
            out, into = weight.shape[:2]
            module = nn.Conv2d(into, out, weight.shape[2], stride) if stride else nn.Linear(into, out)
            module.weight.data, module.bias.data = weight.clone(), bias.clone()
            parts += [nn.Flatten(), module, nn.ReLU()] if i == 2 else [module, nn.ReLU()]
        head = nn.Linear(HIDDEN[-1], N)
        head.weight.data, head.bias.data = weights[f"{name}.head.weight"].clone(), weights[f"{name}.head.bias"].clone()
        return nn.Sequential(*parts, head)

    def update(self, columns: Mapping[str, np.ndarray]) -> None:
        batch = {name: torch.from_numpy(column) for name, column in columns.items()}
        obs, next_obs = batch["obs"].float() / 255, batch["new_obs"].float() / 255
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            policy = Categorical(logits=self.actor(next_obs))
            q = torch.minimum(*(target(next_obs) for target in self.targets))
            value = (policy.probs * (q - alpha * policy.probs.log())).sum(1)
            y = batch["rewards"] + GAMMA * (~batch["terminateds"]).float() * value
            q_actor = torch.minimum(*(critic(obs) for critic in self.critics))
        policy = Categorical(logits=self.actor(obs))
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.reduce(policy.probs * (alpha * policy.logits - q_actor)).backward()
        taken = batch["actions"].view(-1, 1)
        sum(((critic(obs).gather(1, taken).view(-1) - y) ** 2).mean() for critic in self.critics).backward()
        entropy = 0.89 * math.log(N)
        probs, logits = policy.probs.detach(), policy.logits.detach()
        self.reduce(probs * (-self.log_alpha.exp() * (logits + entropy))).backward()
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            for critic, target in zip(self.critics, self.targets, strict=True):
                for p, t in zip(critic.parameters(), target.parameters(), strict=True):
                    t.lerp_(p, TAU)


class DelayedDiscreteSAC(PlainDiscreteSAC):
    """The same, but that the actor steps twice every second time, against critics that have stepped."""

    updates = 0

    def update(self, columns: Mapping[str, np.ndarray]) -> None:
        self.updates += 1
        actor, critics, temperature = self.optimizers
        self.optimizers = [critics]
        super().update(columns)  # which makes all gradients and takes the critics' step
        self.optimizers = [actor, critics, temperature]
        obs = torch.from_numpy(columns["obs"]).float() / 255
        for _ in range(0 if self.updates % 2 else 2):
            with torch.no_grad():
                q = torch.minimum(*(critic(obs) for critic in self.critics))
            policy = Categorical(logits=self.actor(obs))
            probs, logits = policy.probs.detach(), policy.logits.detach()
            entropy = 0.89 * math.log(N)
            actor.zero_grad()
            temperature.zero_grad()
            self.reduce(policy.probs * (self.log_alpha.exp().detach() * policy.logits - q)).backward()
            self.reduce(probs * (-self.log_alpha.exp() * (logits + entropy))).backward()
            actor.step()
            temperature.step()


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_updates_on_images_are_those_of_a_plain_loop(reduce, interval):
    learner = discrete_learner(discrete_reduce=reduce, actor_interval=interval)
    plain = {1: PlainDiscreteSAC, 2: DelayedDiscreteSAC}[interval](parameters(learner), reduce)
    for k in range(5):
        columns = game_transitions(k)
        update(learner, columns)
        plain.update(columns)
    ours = parameters(learner)
    for name, theirs in (("policy", plain.actor), ("qf", plain.critics[0]), ("target_qf_twin", plain.targets[1])):
        expected = list(theirs.parameters())
        got = [value for key, value in ours.items() if key.startswith(f"{name}.")]
        assert len(got) == len(expected) == 10
        for a, b in zip(got, expected, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-6), name
    assert torch.allclose(ours["log_alpha"], plain.log_alpha, atol=1e-7)


def test_actions_are_drawn_by_the_policy_and_the_likeliest_is_taken_without_exploration():
    module = discrete_learner().sac.module
    obs = torch.from_numpy(game_transitions(0, 4)["obs"])
    with torch.no_grad():
        module.policy.head.weight.zero_()
        module.policy.head.bias.copy_(torch.tensor([0.0, math.log(3.0), -200.0]))  # 1/4, 3/4, nothing
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([module.act(obs, explore=True, generator=generator) for _ in range(500)])
    assert drawn.dtype == torch.int64
    share = drawn.bincount(minlength=3) / len(drawn)
    assert share.tolist() == pytest.approx([0.25, 0.75, 0.0], abs=4 * math.sqrt(0.1875 / len(drawn)))
    assert module.act(obs, explore=False).tolist() == [1, 1, 1, 1]


def test_an_inference_only_module_draws_the_same_actor():
    learner = discrete_learner()
    spec = learner.config.get_rl_module_spec(spaces={"default_policy": (IMAGES, CHOICES)}, inference_only=True)
    module = spec.build()
    assert all(
        torch.equal(a, b)
        for a, b in zip(module.policy.parameters(), learner.sac.module.policy.parameters(), strict=True)
    )
    assert not hasattr(module, "qf")


def braked(learner: ContinualSACTorchLearner) -> None:
    end_visit(learner, 1, random_scores(0, hidden=[3, 2, *HIDDEN]))


def test_nbsp_freezes_whole_kernels_and_nothing_else():
    learner = discrete_learner("nbsp", {"mask_alpha": 0.0})
    for k in range(5):
        update(learner, game_transitions(k))
    braked(learner)
    before = parameters(learner)
    for k in range(5, 25):
        update(learner, game_transitions(k))
    after = parameters(learner)
    chosen = 0
    for name in NETWORKS:
        for i, mask in enumerate(learner.method.masks[name]):
            frozen = mask == 0.0
            chosen += int(frozen.sum())
            for part in ("weight", "bias"):
                key = f"{name}.hidden.{i}.{part}"
                assert torch.equal(before[key][frozen], after[key][frozen]), key
        for i in (0, 1):
            moved = (before[f"{name}.hidden.{i}.weight"] != after[f"{name}.hidden.{i}.weight"]).flatten(1).any(1)
            assert bool(moved[learner.method.masks[name][i] == 1.0].any())
    assert chosen == 3 * int(0.2 * 19)


def test_mask_1_is_sac_bit_for_bit_on_images():
    ours, plain = discrete_learner("nbsp", {"uniform_lr": 1.0}), discrete_learner("sac")
    for learner in (ours, plain):
        update(learner, game_transitions(0))
        end_visit(learner, 1, None)
        update(learner, game_transitions(1))
    assert_same(parameters(ours), parameters(plain))


def test_scores_read_a_channel_by_its_spatial_mean():
    learner = discrete_learner()
    rows = game_transitions(3, 40)
    labels = np.arange(40) % 2 == 0
    scores = learner.score_neurons([{"obs": rows["obs"], "actions": rows["actions"], "labels": labels}], None, 0.5)
    record: list[Tensor] = []
    with torch.no_grad():
        learner.agent.networks["qf"](torch.from_numpy(rows["obs"]), record=record)
    activity = record[0].mean((2, 3))
    agrees = (activity > activity.mean(0)) == torch.from_numpy(labels)[:, None]
    expected = agrees.double().mean(0)
    assert torch.allclose(scores.layers["qf"][0].accuracy, expected)
