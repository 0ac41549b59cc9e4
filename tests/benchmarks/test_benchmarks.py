"""The benchmark measures what it says: its opponent is SAC, its counts are right, its file has the promised keys."""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain_atari
from benchmarks.contender import Window
from benchmarks.flops import (
    CLEANRL_DISCRETE_UPDATE,
    CLEANRL_FROZEN_UPDATE,
    CLEANRL_UPDATE,
    JOINT_DISCRETE_UPDATE,
    JOINT_UPDATE,
    GemmCeiling,
    Passes,
    UpdatePasses,
    cnn_update_gemms,
    gflop,
    mlp_gemms,
    update_gemms,
)
from benchmarks.ours import BareUpdate, measure_replay, sac_config
from benchmarks.plain_atari import CONV, UPDATE_PERIOD, PlainDiscreteSAC
from benchmarks.plain_sac import POLICY_PERIOD, Batch, PlainSAC, ReplayRing
from benchmarks.throughput import (
    CONTENDERS,
    PARTS,
    RATIOS,
    Plan,
    build_ratios_of,
    main,
    parse,
    ratios_of,
    summary,
    table,
    unfair_sizes,
)
from rllib_nbsp.learners import rllib_batch
from rllib_nbsp.nn import losses
from rllib_nbsp.sac.learner import ContinualSACTorchLearner

OBS, ACT, ROWS, HIDDEN = 3, 2, 16, (8, 8)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random_batch(rows: int = ROWS) -> Batch:
    return Batch(
        obs=torch.randn(rows, OBS),
        actions=torch.rand(rows, ACT) * 2 - 1,
        rewards=torch.randn(rows),
        next_obs=torch.randn(rows, OBS),
        terminateds=(torch.rand(rows) < 0.3).float(),
    )


def make_learner() -> ContinualSACTorchLearner:
    """A Learner without a cluster."""
    config = sac_config(HIDDEN, ROWS).training(batch_size=ROWS)
    learner = config.build_learner(spaces={DEFAULT_MODULE_ID: (Box(-1, 1, (OBS,)), Box(-1, 1, (ACT,)))})
    assert isinstance(learner, ContinualSACTorchLearner)
    return learner


def learner_columns() -> dict[str, np.ndarray]:
    batch = random_batch()
    return {
        "obs": batch.obs.numpy(),
        "actions": batch.actions.numpy(),
        "rewards": batch.rewards.numpy(),
        "new_obs": batch.next_obs.numpy(),
        "terminateds": batch.terminateds.numpy().astype(bool),
        "task": np.zeros(ROWS, np.int64),
        "from_prior": np.zeros(ROWS, bool),
    }


# Counting


def test_flops_of_a_small_perceptron_by_hand() -> None:
    # 3 -> 5 -> 2 with 4 rows: 2 * 4 * (3 * 5 + 5 * 2) = 200 a direction; downwards only the second layer's 2 * 4 * 10
    # = 80, and the first one's 2 * 4 * 15 = 120 if the gradient is wanted at the input.
    def flop(**passes: float) -> float:
        return 1e9 * gflop(mlp_gemms([3, 5, 2], 4, Passes(**{"forward": 0, "weights": 0, "inputs": 0, **passes})))

    assert flop(forward=1) == pytest.approx(200)
    assert flop(weights=3) == pytest.approx(600)
    assert flop(inputs=1) == pytest.approx(80)
    assert flop(inputs=1, to_input=1) == pytest.approx(200)


@pytest.mark.parametrize(("freeze", "passes"), [(False, CLEANRL_UPDATE), (True, CLEANRL_FROZEN_UPDATE)])
def test_the_plain_loop_executes_the_products_that_are_counted(freeze: bool, passes: UpdatePasses) -> None:
    agent = PlainSAC(OBS, ACT, HIDDEN, freeze_critics=freeze)
    with FlopCounterMode(display=False) as counter:
        for _ in range(POLICY_PERIOD):
            agent.update(random_batch())
    counted = POLICY_PERIOD * gflop(update_gemms(OBS, ACT, HIDDEN, ROWS, passes))
    assert counter.get_total_flops() == pytest.approx(1e9 * counted)


def test_our_learner_executes_the_products_that_are_counted() -> None:
    learner = make_learner()
    with FlopCounterMode(display=False) as counter:
        learner.update(batch=rllib_batch(learner_columns()), minibatch_size=ROWS)
    assert counter.get_total_flops() == pytest.approx(1e9 * gflop(update_gemms(OBS, ACT, HIDDEN, ROWS, JOINT_UPDATE)))


def game_columns(rows: int) -> dict[str, np.ndarray]:
    images: dict[str, np.ndarray] = {
        name: np.random.randint(0, 256, (rows, 4, 84, 84), np.uint8) for name in ("obs", "new_obs")
    }
    rest: dict[str, np.ndarray] = {
        "actions": np.random.randint(0, 6, rows),
        "rewards": np.random.randn(rows).astype(np.float32),
    }
    labels = {"task": np.zeros(rows, np.int64), "from_prior": np.zeros(rows, bool)}
    return {**images, **rest, "terminateds": np.random.rand(rows) < 0.3, **labels}


def test_the_plain_loop_on_a_game_executes_the_products_that_are_counted() -> None:
    agent = PlainDiscreteSAC(6, (16, 8))
    columns = game_columns(4)
    batch = {name: torch.from_numpy(column) for name, column in columns.items()}
    with FlopCounterMode(display=False) as counter:
        agent.update(batch["obs"], batch["actions"], batch["rewards"], batch["new_obs"], batch["terminateds"].float())
    gemms = cnn_update_gemms((4, 84, 84), CONV, (16, 8), 6, 4, CLEANRL_DISCRETE_UPDATE)
    assert counter.get_total_flops() == pytest.approx(1e9 * gflop(gemms))


def test_our_learner_on_a_game_executes_the_products_that_are_counted() -> None:
    config = sac_config((16, 8), 4).networks(conv=[list(layer) for layer in CONV]).training(batch_size=4)
    spaces = (Box(0, 255, (4, 84, 84), np.uint8), Discrete(6))
    config = config.environment(observation_space=spaces[0], action_space=spaces[1])
    learner = config.build_learner(spaces={DEFAULT_MODULE_ID: spaces})
    with FlopCounterMode(display=False) as counter:
        learner.update(batch=rllib_batch(game_columns(4)), minibatch_size=4)
    gemms = cnn_update_gemms((4, 84, 84), CONV, (16, 8), 6, 4, JOINT_DISCRETE_UPDATE)
    assert counter.get_total_flops() == pytest.approx(1e9 * gflop(gemms))


def test_the_plain_loop_on_a_game_minimises_what_we_minimise() -> None:
    columns = game_columns(4)
    agent = PlainDiscreteSAC(6, (16, 8))
    batch = {name: torch.from_numpy(column) for name, column in columns.items()}
    with torch.no_grad():
        x, x_next = batch["obs"] / 255.0, batch["new_obs"] / 255.0
        logp, next_logp = (torch.log_softmax(agent.actor(inputs), -1) for inputs in (x, x_next))
        next_q = torch.minimum(*(target(x_next) for target in agent.targets))
        q = [critic(x) for critic in agent.critics]
    one = torch.ones(1)
    next_value = losses.expectation(next_logp, next_q), losses.expectation(next_logp, next_logp)
    target = losses.critic_target(batch["rewards"], batch["terminateds"], *next_value, one, 0.99)
    taken = [values.gather(-1, batch["actions"].unsqueeze(-1)).squeeze(-1) for values in q]
    wanted = sum(float(losses.critic_loss(values, target)) for values in taken)
    seen: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_atari, "_step", lambda optimizer, loss: seen.append(float(loss.detach())))
        agent.update(batch["obs"], batch["actions"], batch["rewards"], batch["new_obs"], batch["terminateds"].float())
    q_policy = losses.expectation(logp, torch.minimum(*q))
    entropy = losses.expectation(logp, logp)
    assert seen[0] == pytest.approx(wanted, rel=1e-5)
    # CleanRL's mean over actions: a sixth of the expectation.
    assert seen[1] == pytest.approx(float(losses.actor_loss(entropy, q_policy, one)) / 6, rel=1e-4)
    temperature = losses.temperature_loss(torch.zeros(1), entropy, agent.target_entropy)
    assert seen[2] == pytest.approx(float(temperature) / 6, rel=1e-4)


def test_the_ceiling_runs_the_products_that_are_counted() -> None:
    gemms = update_gemms(OBS, ACT, HIDDEN, ROWS, JOINT_UPDATE)
    ceiling = GemmCeiling(gemms)
    with FlopCounterMode(display=False) as counter:
        assert ceiling.run(1e-9) > 0
    assert counter.get_total_flops() == pytest.approx(1e9 * gflop(gemms))


# The plain loop


class HandAdam:
    """Adam by its formulas (Kingma & Ba 2015, Algorithm 1)."""

    def __init__(self, lr: float) -> None:
        self.lr, self.steps = lr, 0
        self.m = self.v = torch.zeros(())

    def step(self, w: Tensor, g: Tensor) -> Tensor:
        self.steps += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        m_hat, v_hat = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        return w - self.lr * m_hat / (v_hat**0.5 + 1e-8)


class HandSAC:
    """SAC in CleanRL's order (docs/readings.md R35), in float64 on flat lists, with PyTorch's own tanh-Gaussian."""

    def __init__(self, agent: PlainSAC) -> None:
        self.actor = weights_of(agent.actor)
        self.critics = [weights_of(critic) for critic in agent.critics]
        self.targets = [weights_of(critic) for critic in agent.critics]
        self.log_alpha = torch.zeros(1, dtype=torch.float64)
        self.actor_adams = [HandAdam(3e-4) for _ in self.actor]
        self.critic_adams = [[HandAdam(1e-3) for _ in critic] for critic in self.critics]
        self.alpha_adam = HandAdam(1e-3)

    def update(self, batch: Batch, noises: list[Tensor], with_actor: bool) -> None:
        obs, actions, rewards, next_obs, terminateds = (column.double() for column in batch)
        noise = iter(n.double() for n in noises)
        alpha = self.log_alpha.exp()
        next_actions, next_log_prob = policy(self.actor, next_obs, next(noise))
        next_q = torch.stack([forward(t, next_obs, next_actions) for t in self.targets]).amin(0)
        y = rewards + 0.99 * (1 - terminateds) * (next_q - alpha * next_log_prob)
        for weights, adams in zip(self.critics, self.critic_adams, strict=True):
            descend(weights, adams, lambda w: ((forward(w, obs, actions) - y.detach()) ** 2).mean())
        for _ in range(2 * with_actor):
            epsilon = next(noise)
            alpha = self.log_alpha.exp()

            def actor_loss(w: list[Tensor], epsilon: Tensor = epsilon, alpha: Tensor = alpha) -> Tensor:
                new_actions, log_prob = policy(w, obs, epsilon)
                q = torch.stack([forward(critic, obs, new_actions) for critic in self.critics]).amin(0)
                return (alpha * log_prob - q).mean()

            descend(self.actor, self.actor_adams, actor_loss)
            _, log_prob = policy(self.actor, obs, next(noise))
            # d/d log_alpha of mean(-exp(log_alpha) (log pi + H)) with H = -|A|.
            gradient = -(self.log_alpha.exp() * (log_prob - ACT).mean())
            self.log_alpha = self.alpha_adam.step(self.log_alpha, gradient)
        for target, critic in zip(self.targets, self.critics, strict=True):
            for i, weight in enumerate(critic):
                target[i] = 0.005 * weight + 0.995 * target[i]


def weights_of(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().double().clone() for parameter in module.parameters()]


def forward(weights: Sequence[Tensor], *inputs: Tensor) -> Tensor:
    x = torch.cat(inputs, -1)
    for i in range(0, len(weights), 2):
        x = x @ weights[i].T + weights[i + 1]
        x = x.clamp(min=0) if i + 2 < len(weights) else x
    return x.squeeze(-1) if x.shape[-1] == 1 else x


def policy(weights: Sequence[Tensor], obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    out = forward(weights, obs)
    mean, log_std = out[:, :ACT], -5 + 3.5 * (torch.tanh(out[:, ACT:]) + 1)
    tanh = TanhTransform(cache_size=1)  # the cache spares it the inverse, which is inexact near +-1
    actions = tanh(mean + log_std.exp() * noise)
    return actions, TransformedDistribution(Normal(mean, log_std.exp()), [tanh]).log_prob(actions).sum(-1)


def descend(weights: list[Tensor], adams: list[HandAdam], loss: Any) -> None:
    leaves = [w.clone().requires_grad_() for w in weights]
    gradients = torch.autograd.grad(loss(leaves), leaves)
    weights[:] = [adam.step(w, g) for adam, w, g in zip(adams, weights, gradients, strict=True)]


def test_the_plain_update_is_sac_written_out_by_hand() -> None:
    agent = PlainSAC(OBS, ACT, HIDDEN)
    hand = HandSAC(agent)
    batches = [random_batch() for _ in range(4)]
    for number, batch in enumerate(batches, start=1):
        state = torch.get_rng_state()
        agent.update(batch)
        # One draw for the target's actions, then two for each of the two actor updates of every second step.
        torch.set_rng_state(state)
        noises = [torch.randn(ROWS, ACT) for _ in range(1 if number % 2 else 5)]
        hand.update(batch, noises, with_actor=number % 2 == 0)
        for ours, by_hand in [(agent.actor, hand.actor), *zip(agent.critics, hand.critics, strict=True)]:
            for a, b in zip(weights_of(ours), by_hand, strict=True):
                torch.testing.assert_close(a, b, atol=2e-6, rtol=0)
        for target, by_hand in zip(agent.targets, hand.targets, strict=True):
            for a, b in zip(weights_of(target), by_hand, strict=True):
                torch.testing.assert_close(a, b, atol=2e-7, rtol=0)
        assert agent.alpha == pytest.approx(float(hand.log_alpha.exp()), abs=1e-6)
    assert agent.alpha != 1.0


def test_freezing_the_critics_saves_work_and_changes_no_result() -> None:
    plain = PlainSAC(OBS, ACT, HIDDEN)
    frozen = copy.deepcopy(plain)
    frozen.freeze_critics = True
    batches = [random_batch() for _ in range(4)]
    for agent in (plain, frozen):
        torch.manual_seed(1)
        for batch in batches:
            agent.update(batch)
    for name in ("actor", "critics", "targets"):
        for a, b in zip(weights_of(getattr(plain, name)), weights_of(getattr(frozen, name)), strict=True):
            assert torch.equal(a, b)


def test_the_ring_keeps_the_newest_transitions_whole() -> None:
    ring = ReplayRing(OBS, ACT, capacity=4, seed=0)
    for i in range(6):
        ring.add(np.full(OBS, i), np.full(ACT, i), i, np.full(OBS, i + 1), i == 5)
    batch = ring.sample(200)
    # 0 and 1 were overwritten by 4 and 5; every row's columns carry its own number.
    assert set(batch.rewards.tolist()) == {2.0, 3.0, 4.0, 5.0}
    assert torch.equal(batch.obs[:, 0], batch.rewards)
    assert torch.equal(batch.actions[:, 1], batch.rewards)
    assert torch.equal(batch.next_obs[:, 2], batch.rewards + 1)
    assert torch.equal(batch.terminateds, (batch.rewards == 5).float())


# Ours


def test_the_bare_update_is_the_learners_to_the_last_bit() -> None:
    full, bare = make_learner(), make_learner()
    update = BareUpdate(bare)
    for _ in range(3):
        columns = learner_columns()
        full.update(batch=rllib_batch(columns), minibatch_size=ROWS)
        update({name: torch.from_numpy(column) for name, column in columns.items()})
    assert full.weights().keys() == bare.weights().keys()
    for name, weight in full.weights().items():
        assert np.array_equal(weight, bare.weights()[name]), name


def test_replay_memory_is_that_of_its_columns() -> None:
    # Two observations of 39, an action of 4, a reward in float32, a flag, the episode's 64-bit number: 341 bytes.
    assert measure_replay(1_000, calls=3)["bytes"] == pytest.approx(341 * 1_000, rel=0.05)


# The harness


class FakeContender:
    name, gflop_per_update, passes = "sac", 2.0, "none"

    def run(self, seconds: float) -> Window:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def test_a_summary_is_the_median_of_the_windows() -> None:
    builds = [[Window(env_steps=10 * n, updates=20 * n, seconds=10.0) for n in ns] for ns in ((1, 9, 2), (3, 4, 5))]
    row = summary(FakeContender(), builds)
    assert (row["env_steps_per_s"], row["updates_per_s"], row["gflop_per_s"]) == (3.5, 7.0, 14.0)
    assert row["builds"] == [2.0, 4.0]
    assert row["windows"][1] == {"env_steps": 90, "updates": 180, "seconds": 10.0}


def results(**env_steps_per_s: float) -> dict[str, dict[str, Any]]:
    """One GFLOP an update, one update a step."""
    rows = {
        name: {
            "env_steps_per_s": speed,
            "builds": [speed, 2 * speed],
            "updates_per_s": speed,
            "gflop_per_update": 1.0,
            "gflop_per_s": speed,
            "passes": "",
        }
        for name, speed in env_steps_per_s.items()
    }
    return {"contenders": rows, "update": {"ratio": 1.5, "full_ms": 3.0, "bare_ms": 2.0}}


def test_ratios_put_us_over_the_others() -> None:
    measured = results(rllib_sac=5, rllib_sac_mlp=8, plain_torch=32, plain_torch_frozen=64, sac=40, nbsp=30)
    assert ratios_of(256, measured) == {
        "over_rllib_sac_256": 8.0,
        "over_rllib_sac_mlp_256": 5.0,
        "over_plain_torch_256": 1.25,
        "over_plain_torch_frozen_256": 0.625,
        "nbsp_over_sac_256": 0.75,
        "update_over_bare_256": 1.5,
    }
    assert set(ratios_of(768, results(sac=40, nbsp=30))) == {"nbsp_over_sac_768", "update_over_bare_768"}
    assert "| over_plain_torch_256 | 1.250 | 1.250, 1.250 |" in table(256, measured)


def test_each_build_has_a_ratio_of_its_own() -> None:
    measured = results(sac=40, nbsp=30)
    measured["contenders"]["nbsp"]["builds"] = [30, 60, 20]
    measured["contenders"]["sac"]["builds"] = [40, 60, 10]
    assert build_ratios_of(256, measured) == {"nbsp_over_sac_256": [0.75, 1.0, 2.0]}
    assert "| nbsp_over_sac_256 | 0.750 | 0.750, 1.000, 2.000 |" in table(256, measured)


def test_a_slow_plain_loop_is_an_error_of_the_benchmark() -> None:
    assert unfair_sizes({256: results(sac=40, plain_torch=36)}) == []
    (message,) = unfair_sizes({256: results(sac=40, plain_torch=40), 768: results(sac=40, plain_torch=35)})
    assert message.startswith("768: the plain loop runs 35.0 GFLOP/s, under 0.9 of our 40.0")


def test_command_line_values_overrule_the_quick_plan() -> None:
    plan, json_file = parse(["--quick", "--windows", "3", "--sizes", "16", "32", "--json", "out.json"])
    assert (plan.windows, plan.sizes, plan.seconds, json_file) == (3, (16, 32), 2.0, Path("out.json"))
    assert plan.only == CONTENDERS + PARTS
    full, _ = parse([])
    assert full == Plan()
    assert full.windows >= 5
    assert full.seconds >= 20


KEYS = {
    "ratios",
    "build_ratios",
    "contenders",
    "gemm",
    "update",
    "overlap",
    "replay",
    "frame_replay",
    "settings",
    "versions",
    "machine",
}


def run_tiny(file: Path, *more: str) -> tuple[int, dict[str, Any]]:
    command = ["--quick", "--sizes", "16", "--windows", "1", "--seconds", "0.1", "--json", str(file), *more]
    code = main(command)
    report = json.loads(file.read_text())
    assert set(report) == KEYS
    for name, row in report["contenders"].items():
        # One window a build.
        assert row["builds"] == [window["env_steps"] / window["seconds"] for window in row["windows"]], name
        assert row["env_steps_per_s"] == statistics.median(row["builds"]), name
        steps_per_update = UPDATE_PERIOD if name.endswith("atari") else 1
        for window in row["windows"]:
            assert abs(window["updates"] - window["env_steps"] / steps_per_update) < 1, name
    return code, report


def test_what_was_not_asked_for_is_not_measured(tmp_path: Path) -> None:
    code, report = run_tiny(tmp_path / "throughput.json", "--only", "plain_torch", "sac", "gemm")
    assert set(report["contenders"]) == {"plain_torch_16", "sac_16"}
    assert set(report["ratios"]) == {"over_plain_torch_16"}
    assert report["gemm"]["16"]["gflop_per_s"] > 0
    assert (report["update"], report["overlap"], report["replay"]) == ({}, {}, {})
    speed = {name: row["gflop_per_s"] for name, row in report["contenders"].items()}
    assert code == int(speed["plain_torch_16"] < 0.9 * speed["sac_16"])


def test_contenders_are_built_anew_as_often_as_asked(tmp_path: Path) -> None:
    _, report = run_tiny(tmp_path / "throughput.json", "--only", "plain_torch", "sac", "--builds", "2")
    assert [len(row["builds"]) for row in report["contenders"].values()] == [2, 2]
    (ratios,) = report["build_ratios"].values()
    assert len(set(ratios)) == 2


def test_a_game_is_measured_beside_the_plain_loop(tmp_path: Path) -> None:
    _, report = run_tiny(tmp_path / "throughput.json", "--only", "atari")
    assert set(report["contenders"]) == {"plain_torch_atari", "sac_atari"}
    assert set(report["ratios"]) == {"over_plain_torch_atari"}
    assert report["gemm"]["atari"]["gflop_per_s"] > 0
    replay = report["frame_replay"]
    assert (replay["rows"], replay["prior_rows"]) == (2_000, 1_000)
    assert replay["prior_bytes"] < 1.1 * 1_000 * 84 * 84


@pytest.mark.slow
def test_a_whole_run_measures_every_contender_and_part(tmp_path: Path) -> None:
    _, report = run_tiny(tmp_path / "throughput.json")
    assert set(report["contenders"]) == {*(f"{name}_16" for name in CONTENDERS), "plain_torch_atari", "sac_atari"}
    ratios = {f"{name}_16" for name in (*RATIOS, "update_over_bare")}
    assert set(report["ratios"]) == {*ratios, "over_plain_torch_atari"}
    assert report["replay"].keys() == {"rows", "sample_ms", "bytes"}
    assert report["overlap"]["16"].keys() >= {"sampling_ms", "updates_ms", "sum_of_parts_ms", "overlapped_ms"}
    # The MLP critics put into RLlib make its arithmetic ours.
    gflop_per_update = {name: row["gflop_per_update"] for name, row in report["contenders"].items()}
    assert gflop_per_update["rllib_sac_mlp_16"] == pytest.approx(gflop_per_update["sac_16"])
