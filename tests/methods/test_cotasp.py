"""CoTASP: sparse codes, prompted passes, what is frozen and what is learnt again at each visit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
import torch.nn.functional as F
from torch import Tensor

from rllib_nbsp import ContinualSACConfig
from rllib_nbsp.checks import check_run
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.methods.cotasp import (
    Dictionary,
    PromptedNetwork,
    masked_norm,
    name_embedding,
    open_weights,
    sparse_code,
    standard_divergence,
    step,
    uniform_divergence,
    words,
)
from rllib_nbsp.nn.losses import squashed_gaussian
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import BoundarySettings
from tests.tiny import (
    ACT,
    ACTIONS,
    CHOICES,
    IMAGES,
    OBSERVATIONS,
    build_config,
    build_learner,
    build_learner_of,
    game_transitions,
    parameters,
    transitions,
    update,
    visit,
)

HIDDEN = (12, 10)
KEYS: dict[str, Any] = {"distill_updates": 5, "alternate": [4, 2]}


def learner_with(keys: dict[str, Any] | None = None, **sections: Any) -> ContinualSACTorchLearner:
    return build_learner("cotasp", {**KEYS, **(keys or {})}, hidden=HIDDEN, **sections)


def on_images(keys: dict[str, Any] | None = None) -> ContinualSACTorchLearner:
    config = build_config("cotasp", {**KEYS, **(keys or {})}, hidden=HIDDEN).networks(conv=[[6, 4, 2], [5, 3, 1]])
    return build_learner_of(config, IMAGES, CHOICES)


def rows(learner: ContinualSACTorchLearner, seed: int, task: int = 0) -> dict[str, np.ndarray]:
    columns = game_transitions(seed) if learner.agent.discrete else transitions(seed)
    return {**columns, "task": np.full(len(columns["rewards"]), task, np.int64)}


def start(learner: ContinualSACTorchLearner, number: int) -> None:
    """A visit's beginning, with the distillation on the last visit's rows."""
    learner.visit_start(visit(number), VisitData(visit(number - 1)) if number > 1 else None)
    for phase in learner.method.phases(learner.method.config, visit(number)):
        learner.phase_start(visit(number), phase)
        if not phase.collect:
            for k in range(phase.updates):
                update(learner, rows(learner, 500 + k, visit(number - 1).task.index))
            learner.phase_end(visit(number), phase, VisitData(visit(number)))


def end(learner: ContinualSACTorchLearner, number: int) -> None:
    learner.phase_end(visit(number), learner.sac.phase, VisitData(visit(number)))
    learner.visit_end(visit(number), VisitData(visit(number)))
    exceptions = learner.method.boundary_exceptions(learner.method.config)
    learner.boundary_reset(BoundarySettings(**{**BoundarySettings().model_dump(), **exceptions}))


def play(learner: ContinualSACTorchLearner, number: int, updates: int = 40) -> None:
    start(learner, number)
    for k in range(updates):
        update(learner, rows(learner, 100 * number + k, visit(number).task.index))
    end(learner, number)


def outputs(learner: ContinualSACTorchLearner, row: int) -> Tensor:
    """The policy's head under a row of the prompts, on fixed observations."""
    policy = learner.agent.networks["policy"]
    kept = policy.row_of.clone()
    policy.row_of[-1] = row
    with torch.no_grad():
        head = policy(torch.from_numpy(rows(learner, 9)["obs"]))
    policy.row_of.copy_(kept)
    return head


def prompted(seed: int = 0, **sizes: Any) -> PromptedNetwork:
    generator = torch.Generator().manual_seed(seed)
    net = PromptedNetwork(
        sizes.get("in_shape", (3,)),
        sizes.get("hidden", (5, 4)),
        2,
        tasks=2,
        visits=3,
        activation="relu",
        conv=sizes.get("conv", ()),
        generator=generator,
    )
    with torch.no_grad():
        for prompts in net.prompts:
            prompts.copy_(torch.randn(prompts.shape, generator=generator))
            prompts[:, 0] = 0.5  # so that no row is empty
    net.row_of.copy_(torch.tensor([2, 0, 1]))
    return net


# Sparse codes and dictionaries


@pytest.mark.parametrize(("neurons", "size"), [(8, 5), (40, 384), (768, 384)])
def test_the_sparse_code_satisfies_the_lassos_optimality_conditions(neurons, size):
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    dictionary = Dictionary(neurons, size, generator)
    for _ in range(3):
        e = rng.standard_normal(size)
        e /= np.linalg.norm(e)
        code = sparse_code(e, dictionary.atoms, 1e-3)
        # The gradient of 1/2 ||e - a D||^2 is -lam sign(a) where a is not 0, and at most lam anywhere else.
        slope = dictionary.atoms @ (e - code @ dictionary.atoms)
        assert np.abs(slope[code != 0] - 1e-3 * np.sign(code[code != 0])).max() < 1e-4
        assert np.abs(slope).max() < 1e-3 + 1e-4
        assert (code != 0).sum() <= min(neurons, size)
        dictionary.learn(code, e, generator)


def test_the_sparse_code_over_orthonormal_atoms_by_hand():
    # Each coefficient on its own: e_k shrunk by lam.
    code = sparse_code(np.array([0.6, -0.8, 0.05, 0.0]), np.eye(4), 0.1)
    np.testing.assert_allclose(code, [0.5, -0.7, 0.0, 0.0], atol=1e-12)


def test_an_atom_moves_to_what_its_texts_are_best_made_of():
    # One atom d = (1, 0), text e = (0, 1), code a = 2: A = 4, B = 2 e, so d + (2 e - 4 d) / 4 = e / 2.
    dictionary = Dictionary(1, 2, torch.Generator().manual_seed(0))
    dictionary.atoms[0] = [1.0, 0.0]
    dictionary.learn(np.array([2.0]), np.array([0.0, 1.0]), torch.Generator())
    np.testing.assert_allclose(dictionary.atoms, [[0.0, 0.5]])
    np.testing.assert_allclose(dictionary.codes, [[4.0]])
    np.testing.assert_allclose(dictionary.samples, [[0.0], [2.0]])
    # A small code wants a long atom, (0, 1) / 0.1, which is cut to norm 1.
    fresh = Dictionary(1, 2, torch.Generator().manual_seed(0))
    fresh.learn(np.array([0.1]), np.array([0.0, 1.0]), torch.Generator())
    np.testing.assert_allclose(fresh.atoms, [[0.0, 1.0]], atol=1e-12)


def test_unused_atoms_are_drawn_anew_around_the_text_and_no_atom_is_longer_than_1():
    generator = torch.Generator().manual_seed(0)
    dictionary = Dictionary(60, 30, generator)
    before = dictionary.atoms.copy()
    e = np.random.default_rng(1).standard_normal(30)
    e /= np.linalg.norm(e)
    code = np.zeros(60)
    code[:3] = [0.4, -0.3, 1e-4]  # the third's square is below what counts as use
    dictionary.learn(code, e, generator)
    assert np.linalg.norm(dictionary.atoms, axis=1).max() <= 1.0 + 1e-6
    assert (np.abs(dictionary.atoms - before).max(1) > 0.0).all()
    cosines = dictionary.atoms[2:] @ e / np.linalg.norm(dictionary.atoms[2:], axis=1)
    # Text and noise are about equally long: a cosine of about 0.7.
    assert 0.6 < cosines.mean() < 0.8
    assert len(np.unique(dictionary.atoms[2:].round(6), axis=0)) == 58
    assert np.linalg.norm(e - code[:2] @ dictionary.atoms[:2]) < np.linalg.norm(e - code[:2] @ before[:2])


def test_a_names_words_are_its_parts_without_a_version():
    assert words("window-open-v3") == ["window", "open"]
    assert words("BankHeist") == ["bank", "heist"]
    assert words("ALE/Pong-v5") == ["ale", "pong"]
    assert words("reach_left") == ["reach", "left"]
    assert words("-") == ["-"]


def test_names_that_share_words_are_alike():
    def cosine(a: str, b: str) -> float:
        x, y = name_embedding(a), name_embedding(b)
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    assert name_embedding("window-open-v3").shape == (384,)
    assert cosine("window-open-v3", "window-open-v2") == pytest.approx(1.0)
    # One of two words in common; random 384-d vectors are within about 0.1 of orthogonal.
    assert 0.3 < cosine("window-open-v3", "window-close-v3") < 0.7
    assert abs(cosine("window-open-v3", "button-press-v3")) < 0.2


# The prompted pass


def test_phi_is_1_iff_the_coefficient_is_above_0_and_passes_gradient_between_0_and_1_alone():
    a = torch.tensor([-0.5, 0.0, 1e-6, 0.5, 0.999, 1.0, 3.0], requires_grad=True)
    phi = step(a)
    assert phi.tolist() == [0, 0, 1, 1, 1, 1, 1]
    (phi * torch.arange(1.0, 8.0)).sum().backward()
    assert a.grad.tolist() == [0, 0, 3, 4, 5, 0, 0]


def test_masked_norm_by_hand():
    # On: 1 and 5, mean 3, variance 4. The unit that is off counts for nothing and stays 0.
    z, phi = torch.tensor([[1.0, 0.0, 5.0]]), torch.tensor([1.0, 0.0, 1.0])
    assert torch.allclose(masked_norm(z, phi), torch.tensor([[-1.0, 0.0, 1.0]]))
    # A channel with the places 1 and 5, and one that is off.
    image = torch.tensor([[[[1.0, 5.0]], [[0.0, 0.0]]]])
    expected = torch.tensor([[[[-1.0, 1.0]], [[0.0, 0.0]]]])
    assert torch.allclose(masked_norm(image, torch.tensor([1.0, 0.0]).reshape(2, 1, 1)), expected)
    assert torch.equal(masked_norm(torch.zeros(1, 3), torch.zeros(3)), torch.zeros(1, 3))


def test_a_pass_is_that_of_the_active_units_alone():
    net, x = prompted(), torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    for task, row in ((0, 2), (1, 0), (None, 1)):
        on = [(prompts[row] > 0).nonzero().squeeze(1) for prompts in net.prompts]
        (w1, b1), (w2, b2), (w3, b3) = [(layer.weight, layer.bias) for layer in net.layers()]
        z = x @ w1[on[0]].T + b1[on[0]]
        h = torch.tanh((z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt())
        h2 = F.leaky_relu(h @ w2[on[1]][:, on[0]].T + b2[on[1]])
        record: list[Tensor] = []
        out = net(x, task=task, record=record)
        assert torch.allclose(out, h2 @ w3[:, on[1]].T + b3, atol=1e-5)
        assert torch.allclose(record[0][:, on[0]], h, atol=1e-5)
        assert [int((layer != 0).any(0).sum()) for layer in record] == [len(units) for units in on]


@pytest.mark.parametrize("conv", [(), [(4, 3, 2), (3, 2, 1)]])
def test_a_task_for_each_row_is_each_rows_own_pass(conv):
    net = prompted(in_shape=(2, 9, 9) if conv else (3,), conv=conv)
    x = torch.randn(8, *((2, 9, 9) if conv else (3,)), generator=torch.Generator().manual_seed(1))
    task = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1])
    record: list[Tensor] = []
    together = net(x, task=task, record=record)
    alone = [net(x[i : i + 1], task=int(task[i])) for i in range(8)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)
    assert not torch.allclose(together, net(x, task=0), atol=1e-3)
    active = [[(prompts[net.row_of[t]] > 0) for t in task] for prompts in net.prompts]
    for hidden, expected in zip(record, active, strict=True):
        assert torch.equal(hidden.flatten(2).any(2) if hidden.dim() == 4 else hidden != 0, torch.stack(expected))


def test_a_frozen_pass_gives_gradients_to_inputs_alone():
    net, x = prompted(), torch.randn(2, 3, requires_grad=True)
    net(x, frozen=True).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in net.parameters())
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_gradient_masks_by_hand():
    net = prompted(hidden=(2, 3))
    allocated = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])]
    masks = [mask.tolist() for _, mask in open_weights(net, allocated, outputs=1)]
    assert masks == [
        [[0, 0, 0], [1, 1, 1]],  # the first layer: rows of units in use
        [0, 1],
        [[0, 1], [1, 1], [0, 1]],  # both ends in use
        [0, 1, 0],
        [[0, 1, 0], [1, 1, 1]],  # the mean's row by its inputs; the log standard deviation's is open
        [0, 1],
    ]


def test_a_channel_in_use_freezes_its_pixels_weights():
    net = prompted(in_shape=(2, 5, 5), conv=[(3, 3, 1)], hidden=(2,))
    masks = [mask for _, mask in open_weights(net, [torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0])], 2)]
    assert masks[0].shape == net.hidden[0].weight.shape
    assert masks[0].flatten(1).unique(dim=1).squeeze(1).tolist() == [1, 0, 1]
    # 3 x 3 pixels of each channel feed the linear layer.
    assert masks[2].tolist() == [[1] * 9 + [0] * 9 + [1] * 9, [1] * 27]


# Visits


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


# Configuration


def test_the_methods_own_rates_and_scale_stand_in_for_the_runs_unless_they_are_none():
    run = build_config("cotasp", training={"actor_lr": 0.5, "reward_scale": 2.0}).settings
    training = ResolvedRun(run).training
    assert (training.actor_lr, training.reward_scale, training.target_entropy) == (3e-4, 0.002, None)
    assert training.initial_alpha == math.e
    keys = {"actor_lr": None, "reward_scale": None, "target_entropy": -2.0}
    training = ResolvedRun(
        build_config("cotasp", keys, training={"actor_lr": 0.5, "reward_scale": 2.0}).settings
    ).training
    assert (training.actor_lr, training.reward_scale, training.target_entropy) == (0.5, 2.0, -2.0)


def test_a_width_of_its_own():
    assert ResolvedRun(build_config("cotasp").settings).model.hidden == [8, 6]
    assert ResolvedRun(build_config("cotasp", {"width": [5, 4, 3]}).settings).model.hidden == [5, 4, 3]


def test_alternating_between_nothing_and_nothing_is_refused():
    assert check_run(build_config("cotasp", {"alternate": [0, 0]}).settings) == [
        "alternate is [0, 0]; one of the two must be at least 1"
    ]


def test_sentence_vectors_from_a_file(tmp_path):
    path = str(tmp_path / "texts.npz")
    left, right = np.array([3.0, 4.0, 0.0]), np.array([0.0, 0.0, 2.0])
    np.savez(path, **{"reach-left": left, "reach-right": right, "another": left})
    assert check_run(build_config("cotasp", {"embedding": path}).settings) == []
    learner = learner_with({"embedding": path})
    atoms = [dictionary.atoms.copy() for dictionary in learner.method.dictionaries]
    assert [table.shape for table in atoms] == [(12, 3), (10, 3)]
    start(learner, 1)
    for prompts, table in zip(learner.agent.networks["policy"].prompts, atoms, strict=True):
        np.testing.assert_allclose(prompts[0].detach(), sparse_code(left / 5.0, table, 1e-3), atol=1e-6)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (None, "cannot be read as an .npz file"),
        ({"reach-left": [1.0, 2.0]}, "no vector for reach-right"),
        ({"reach-left": [1.0, 2.0], "reach-right": [1.0]}, "shapes [(1,), (2,)]"),
        ({"reach-left": [[1.0]], "reach-right": [[1.0]]}, "shapes [(1, 1)]"),
        ({"reach-left": [1.0], "reach-right": [0.0]}, "a vector of zeros"),
        ({"reach-left": [1.0], "reach-right": [math.nan]}, "not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, vectors, message):
    path = str(tmp_path / "texts.npz")
    if vectors is not None:
        np.savez(path, **{name: np.array(vector) for name, vector in vectors.items()})
    errors = check_run(build_config("cotasp", {"embedding": path}).settings)
    assert len(errors) == 1
    assert errors[0].startswith("embedding is ") and message in errors[0]


def test_other_files_and_relative_paths_are_refused(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").touch()
    for name in ("one.npy", "text.npz", "empty.npz"):
        [error] = check_run(build_config("cotasp", {"embedding": str(tmp_path / name)}).settings)
        assert "cannot be read as an .npz file" in error
    [error] = check_run(build_config("cotasp", {"embedding": "texts.npz"}).settings)
    assert "give an absolute path" in error


# A whole run


@pytest.fixture
def ray_session() -> Iterator[None]:
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=150 * 2**20)
    yield
    ray.shutdown()


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
