"""CoTASP from visit to visit: what is frozen, what is learnt again, and what travels with the weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_nbsp import ContinualSACConfig
from rllib_nbsp.methods.cotasp import standard_divergence, uniform_divergence
from rllib_nbsp.methods.parts.dictionary import sparse_code
from rllib_nbsp.methods.parts.texts import name_embedding
from rllib_nbsp.nn.losses import squashed_gaussian
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from tests.methods.cotasp.learners import HIDDEN, KEYS, end, learner_with, on_images, outputs, play, rows, start
from tests.tiny import (
    ACT,
    ACTIONS,
    CHOICES,
    OBSERVATIONS,
    build_config,
    build_learner_of,
    parameters,
    transitions,
    update,
    visit,
)


def test_a_visits_prompt_is_the_code_of_its_text():
    learner = learner_with()
    atoms = [dictionary.atoms.copy() for dictionary in learner.method.dictionaries]
    learner.visit_start(visit(1), None)
    e = name_embedding("reach-left")
    e /= np.linalg.norm(e)
    for prompts, table in zip(learner.agent.networks["policy"].prompts, atoms, strict=True):
        np.testing.assert_allclose(prompts[0].detach(), sparse_code(e, table, 1e-3), atol=1e-6)
        assert 0.0 < float((prompts[0] > 0).float().mean()) < 1.0
        assert bool((prompts[1:] == 0.0).all())
    assert learner.method.metrics()["active_frac"] == pytest.approx(
        float(torch.cat([p[0] > 0 for p in learner.agent.networks["policy"].prompts]).float().mean())
    )


def test_weights_and_prompt_learn_in_turn():
    learner = learner_with({"alternate": [3, 2]})
    start(learner, 1)
    policy = learner.agent.networks["policy"]
    turns = []
    for k in range(10):
        before = [p.detach().clone() for p in policy.parameters()]
        critic = learner.agent.networks["qf"].head.weight.detach().clone()
        update(learner, rows(learner, k))
        moved = [not torch.equal(p, old) for p, old in zip(policy.parameters(), before, strict=True)]
        names = [name for (name, _), m in zip(policy.named_parameters(), moved, strict=True) if m]
        turns.append({name.split(".")[0] for name in names})
        assert not torch.equal(learner.agent.networks["qf"].head.weight, critic)
    assert turns == 2 * ([{"hidden", "head"}] * 3 + [{"prompts"}] * 2)


def test_with_a_delayed_actor_turns_are_counted_in_its_steps():
    config = build_config("cotasp", {**KEYS, "alternate": [2, 2]}, training={"actor_interval": 2})
    learner = build_learner_of(config)
    start(learner, 1)
    policy = learner.agent.networks["policy"]
    turns = []
    for k in range(8):
        before = {name: p.detach().clone() for name, p in policy.named_parameters()}
        update(learner, rows(learner, k))
        turns.append({name.split(".")[0] for name, p in policy.named_parameters() if not torch.equal(p, before[name])})
    assert turns == 2 * [set(), {"hidden", "head"}, set(), {"prompts"}]


def test_a_unit_that_is_off_stays_off_and_gets_no_gradient():
    learner = learner_with({"alternate": [0, 1]})
    start(learner, 1)
    prompts = learner.agent.networks["policy"].prompts
    off = [(p[0] <= 0.0).clone() for p in prompts]
    before = [p.detach().clone() for p in prompts]
    for k in range(30):
        update(learner, rows(learner, k))
    for p, old, mask in zip(prompts, before, off, strict=True):
        assert torch.equal(p[0][mask], old[0][mask])
        assert torch.equal(p[1:], old[1:])
        assert not torch.equal(p[0][~mask], old[0][~mask])


@pytest.mark.parametrize("build", [learner_with, on_images])
def test_what_a_visit_used_is_bit_constant_and_its_row_acts_as_it_did_under_a_warm_adam(build):
    learner = build()
    policy, act = learner.agent.networks["policy"], learner.agent.act_dim
    play(learner, 1)
    phi = [(prompts[0] > 0.0) for prompts in policy.prompts]
    assert all(torch.equal(m.bool(), p) for m, p in zip(learner.method.allocated, phi, strict=True))
    frozen = [(p, p.detach().clone(), mask == 0.0) for p, mask in learner.method.open]
    head, prompts = outputs(learner, 0), [p[0].detach().clone() for p in policy.prompts]
    assert all(bool(closed.any()) for _, _, closed in frozen)
    for number in (2, 3, 4):
        play(learner, number)
        for p, old, closed in frozen:
            assert torch.equal(p[closed], old[closed])
        now = outputs(learner, 0)
        assert torch.equal(now[:, :act], head[:, :act])
        assert all(torch.equal(p[0], old) for p, old in zip(policy.prompts, prompts, strict=True))
    assert any(not torch.equal(p, old) for p, old, closed in frozen if closed.any())  # beside them others learnt
    assert not torch.equal(outputs(learner, 3)[:, :act], head[:, :act])
    if not learner.agent.discrete:
        assert not torch.allclose(now[:, act:], head[:, act:], atol=1e-3)  # log standard deviations drift


def test_means_have_no_bias_and_log_deviations_have_one():
    learner = learner_with()
    play(learner, 1, updates=10)
    bias = learner.agent.networks["policy"].head.bias
    assert torch.equal(bias[:ACT], torch.zeros(ACT))
    assert bool((bias[ACT:] != 0.0).all())
    games = on_images()
    play(games, 1, updates=10)
    assert torch.equal(games.agent.networks["policy"].head.bias, torch.zeros(CHOICES.n))


def test_critics_temperature_and_all_optimizers_start_anew_at_a_boundary():
    learner = learner_with({"distill_updates": 0})
    start(learner, 1)
    for k in range(5):
        update(learner, rows(learner, k))
    before = parameters(learner)
    end(learner, 1)
    assert not any(optimizer.state for optimizer in learner.agent.optimizers.values())
    assert float(learner.agent.log_alpha.detach()) == pytest.approx(1.0)
    start(learner, 2)
    now = parameters(learner)
    for name, value in before.items():
        if name.startswith(("qf", "target")):
            assert not torch.equal(now[name], value), name
            assert float(now[name].abs().max()) <= 1.0 / math.sqrt(3.0)  # as drawn for the smallest fan in
            assert torch.equal(now[name], now[name.removeprefix("target_")])
        elif name.startswith(("policy.hidden", "policy.head")):
            assert torch.equal(now[name], value), name
    assert not torch.equal(now["qf.head.weight"], now["qf_twin.head.weight"])


def test_fresh_critics_are_drawn_as_the_runs_networks_began():
    config = build_config("cotasp", {"distill_updates": 0}).networks(init="kaiming_normal")
    learner = build_learner_of(config)
    start(learner, 1)
    end(learner, 1)
    same_draws = torch.Generator()
    same_draws.set_state(learner.agent.generator.get_state())
    start(learner, 2)
    for name in ("qf", "qf_twin"):
        for layer in learner.agent.networks[name].layers():
            expected = torch.nn.init.kaiming_normal_(torch.empty_like(layer.weight), generator=same_draws)
            assert torch.equal(layer.weight, expected)
            assert not layer.bias.any()


def test_divergences_by_hand():
    # KL(N(m, s) || N(0, 1)) = (s^2 + m^2 - 1) / 2 - log s: for (1, 1) it is 1/2, for (0, e) it is (e^2 - 3) / 2.
    mean, log_std = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert float(standard_divergence(mean, log_std)) == pytest.approx((0.5 + (math.e**2 - 3.0) / 2.0) / 2.0)
    assert float(standard_divergence(torch.zeros(3, 2), torch.zeros(3, 2))) == 0.0
    # pi = (3/4, 1/4) against halves: 3/4 log(3/2) + 1/4 log(1/2).
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(uniform_divergence(torch.tensor([[math.log(3.0), 0.0]]))) == pytest.approx(expected)


@pytest.mark.parametrize("build", [learner_with, on_images])
def test_later_visits_begin_with_a_policy_like_a_random_one(build):
    def divergence(learner: ContinualSACTorchLearner) -> float:
        head = outputs(learner, learner.method.row)
        return float(
            uniform_divergence(head) if learner.agent.discrete else standard_divergence(*squashed_gaussian(head))
        )

    left, distilled = build({"distill_updates": 0, "actor_lr": 0.01}), build({"distill_updates": 60, "actor_lr": 0.01})
    for learner in (left, distilled):
        play(learner, 1)
        start(learner, 2)
    assert divergence(distilled) < 0.2 * divergence(left)
    # Distillation leaves critics, prompts and temperature alone, and the actor's moments behind it.
    first, second = parameters(left), parameters(distilled)
    same = [name for name in first if torch.equal(first[name], second[name])]
    assert {name for name in first if not name.startswith(("policy.hidden", "policy.head"))} <= set(same)
    assert not distilled.agent.optimizers["policy"].state
    assert distilled.method.updates == 0
    assert [phase.name for phase in left.method.phases(left.method.config, visit(2))] == ["train"]
    assert left.method.boundary_exceptions(left.method.config)["clear_buffer"] is True
    assert distilled.method.boundary_exceptions(distilled.method.config)["clear_buffer"] is False


def test_replayed_rows_of_earlier_tasks_leave_their_prompts_alone():
    learner = learner_with({"alternate": [1, 1], "with_replay": True})
    play(learner, 1)
    start(learner, 2)
    prompts = [p.detach().clone() for p in learner.agent.networks["policy"].prompts]
    for k in range(20):
        mixed = {**transitions(k), "task": np.arange(16) % 2}
        update(learner, mixed)
    for p, old in zip(learner.agent.networks["policy"].prompts, prompts, strict=True):
        assert torch.equal(p[0], old[0])
        assert not torch.equal(p[1], old[1])


def test_a_revisit_gets_a_new_row_or_finds_its_own_frozen():
    fresh, reused = learner_with(), learner_with({"revisit": "reuse_row"})
    for learner in (fresh, reused):
        for number in (1, 2):
            play(learner, number)
        start(learner, 3)
    assert fresh.agent.networks["policy"].row_of.tolist() == [2, 1, 2]
    assert reused.agent.networks["policy"].row_of.tolist() == [0, 1, 0]
    head = outputs(reused, 0)
    for k in range(20):
        update(reused, rows(reused, k))
    assert torch.equal(outputs(reused, 0)[:, :ACT], head[:, :ACT])


def test_tasks_that_were_never_visited_act_with_the_current_row():
    learner = learner_with()
    policy = learner.agent.networks["policy"]
    start(learner, 1)
    assert policy.row_of.tolist() == [0, 0, 0]
    end(learner, 1)
    start(learner, 2)
    assert policy.row_of.tolist() == [0, 1, 1]


def test_masks_accumulate_over_visits():
    learner = learner_with()
    for number in (1, 2):
        play(learner, number, updates=4)
    arrays = learner.method.neuron_arrays()
    for i, prompts in enumerate(learner.agent.networks["policy"].prompts):
        union = (prompts[0] > 0) | (prompts[1] > 0)
        np.testing.assert_array_equal(arrays[f"policy/{i}/allocated"], union.float())
        np.testing.assert_array_equal(arrays[f"policy/{i}/active"], (prompts[1] > 0).float())
    assert 0.0 < learner.method.metrics()["masked_frac"] < 1.0


def test_prompts_travel_with_the_weights():
    learner = learner_with()
    for number in (1, 2):
        play(learner, number, updates=4)
    config = build_config("cotasp", KEYS, hidden=HIDDEN, seed=7)
    spec = config.get_default_rl_module_spec()
    spec.observation_space, spec.action_space, spec.inference_only = OBSERVATIONS, ACTIONS, True
    spec.model_config = config._model_config_auto_includes
    worker = spec.build()
    obs = torch.from_numpy(transitions(3)["obs"])
    assert not torch.equal(worker.act(obs, explore=False, task=0), learner.sac.module.act(obs, explore=False, task=0))
    worker.set_state(learner.sac.module.get_state(inference_only=True))
    task = torch.arange(len(obs)) % 2
    for which in (0, 1, task):
        acted = worker.act(obs, explore=False, task=which)
        assert torch.equal(acted, learner.sac.module.act(obs, explore=False, task=which))
    assert not torch.equal(acted, worker.act(obs, explore=False, task=0))


# A whole run


@pytest.mark.slow
def test_a_remote_worker_acts_in_an_earlier_task_by_its_own_row(ray_session: None, tmp_path: Path) -> None:
    keys = {"distill_updates": 70, "alternate": [6, 4], "reward_scale": None}
    config = (
        ContinualSACConfig()
        .curriculum(suite="point_mass", tasks=["reach-left", "reach-right", "reach-left"], cycles=1)
        .curriculum(visit_env_steps=240, warmup_env_steps=80)
        .method("cotasp", **keys)
        .training(batch_size=16, updates_per_env_step=0.25)
        .networks(hidden=[16, 16])
        .visit(early_stop=None)
        .evaluation(periodic_episodes=0, boundary_episodes=2, num_envs=2, report_env_steps=120)
        .env_runners(num_env_runners=1, num_envs_per_env_runner=2)
        .results(tmp_path)
    )
    algo = config.build_algo()
    results = [algo.train()]
    while not results[-1]["done"]:
        results.append(algo.train())
        assert len(results) < 100
    # Three visits with 40 updates after warm-up, and two distillations.
    assert algo.updates == 3 * 40 + 2 * 70
    algo.stop()
    evaluations = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    games = {(row["visit"], row["eval_task"]): row["per_episode"] for row in evaluations}
    assert games[2, "reach-left"] == games[1, "reach-left"]  # its row is as it was, to the last bit
    assert games[3, "reach-right"] == games[2, "reach-right"]
    assert games[3, "reach-left"] != games[1, "reach-left"]  # a new row since the third visit
    assert games[2, "reach-right"] != games[1, "reach-right"]
    assert np.load(tmp_path / "neurons" / "visit_03.npz")["policy/0/active"].shape == (16,)
