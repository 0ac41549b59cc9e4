"""Behavioural cloning on a real Learner: its divergences, its gradient, its memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.methods.cloning import categorical_kl, gaussian_kl
from rllib_nbsp.nn.losses import squashed_gaussian
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from tests.tiny import (
    CHOICES,
    IMAGES,
    assert_same,
    build_config,
    build_learner,
    build_learner_of,
    game_transitions,
    parameters,
    train,
    transitions,
    update,
    visit,
)

SMALL = {"memory_rows": 30, "batch_rows": 12}


def learner_with(keys: dict[str, Any] | None = None, **sections: Any) -> ContinualSACTorchLearner:
    return build_learner("cloning", {**SMALL, **(keys or {})}, **sections)


def game_learner(keys: dict[str, Any] | None = None) -> ContinualSACTorchLearner:
    config = build_config("cloning", {**SMALL, **(keys or {})}).networks(conv=[[3, 4, 2], [2, 3, 1]])
    return build_learner_of(config, IMAGES, CHOICES)


def end(learner: ContinualSACTorchLearner, number: int, rows: dict[str, np.ndarray] | None = None) -> None:
    """A visit's end that leaves these rows, or 50 random ones of its task."""
    which = visit(number)
    given = transitions(number, 50, task=which.task.index) if rows is None else rows
    learner.visit_end(which, VisitData(which, rows=given))


def shift(learner: ContinualSACTorchLearner, name: str, by: float = 0.3) -> None:
    with torch.no_grad():
        for p in learner.agent.networks[name].parameters():
            p += by * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))


def drawn(learner: ContinualSACTorchLearner, rows: int) -> torch.Tensor:
    """The index that the next update draws, for `loss_terms` to be asked for."""
    generator = torch.Generator()
    generator.set_state(learner.agent.generator.get_state())
    learner.method.on_update_start()
    return torch.randint(rows, (learner.method.config.batch_rows,), generator=generator)


# Divergences


def test_kl_of_gaussians_by_hand():
    # Two dimensions: N(1, 1) || N(3, 2) has log 2 + (1 + 4) / (2 * 4) - 1/2 = 0.8181; N(0, 2) || N(0, 2) has 0.
    log2 = math.log(2.0)
    kept, current = torch.tensor([[1.0, 0.0, 0.0, log2]]), torch.tensor([[3.0, 0.0, log2, log2]])
    assert gaussian_kl(kept, current).tolist() == pytest.approx([log2 + 5 / 8 - 1 / 2])
    # The other way round: -log 2 + (4 + 4) / 2 - 1/2.
    assert gaussian_kl(current, kept).tolist() == pytest.approx([-log2 + 4 - 1 / 2])


def test_kl_of_choices_by_hand():
    # (1/2, 1/2) || (1/4, 3/4): 1/2 log 2 + 1/2 log(2/3).
    kept, current = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert categorical_kl(kept, current).tolist() == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3)])


def test_both_divergences_are_those_of_torch():
    a, b = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0)).double()
    normals = [Independent(Normal(x[:, :3], x[:, 3:].exp()), 1) for x in (a, b)]
    assert torch.allclose(gaussian_kl(a, b), kl_divergence(*normals))
    logs = [F.log_softmax(x, -1) for x in (a, b)]
    assert torch.allclose(categorical_kl(*logs), kl_divergence(*(Categorical(logits=x) for x in logs)))


# The loss


def test_the_first_visit_is_sac_bit_for_bit():
    ours, plain = learner_with(), build_learner("sac")
    for learner in (ours, plain):
        train(learner, range(5))
    assert_same(parameters(ours), parameters(plain))
    assert ours.method.loss_terms(None) == {}


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_right_after_a_visit_there_is_nothing_to_clone(kind):
    learner = learner_with({"critic": True}) if kind == "continuous" else game_learner({"critic": True})
    end(learner, 1, None if kind == "continuous" else game_transitions(0, 40))
    terms = learner.method.loss_terms(None)
    assert set(terms) == set(NETWORKS)
    for name, term in terms.items():
        assert float(term.detach()) == pytest.approx(0.0, abs=1e-4)
        for gradient in torch.autograd.grad(term, list(learner.agent.networks[name].parameters())):
            assert float(gradient.abs().max()) < 1e-3


def test_loss_and_gradient_are_those_of_torchs_divergence_on_the_drawn_rows():
    learner = learner_with({"coef": 3.0})
    policy = learner.agent.networks["policy"]
    end(learner, 1)
    obs = torch.from_numpy(transitions(1, 50)["obs"])[:30]
    with torch.no_grad():
        mean, log_std = squashed_gaussian(policy(obs))
    shift(learner, "policy")
    index = drawn(learner, 30)
    now_mean, now_log_std = squashed_gaussian(policy(obs[index]))
    kept, now = Normal(mean[index], log_std[index].exp()), Normal(now_mean, now_log_std.exp())
    expected = 3.0 * kl_divergence(kept, now).sum(-1).mean()
    term = learner.method.loss_terms(None)["policy"]
    assert float(term.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(term.detach()) > 0.1
    wanted = torch.autograd.grad(expected, list(policy.parameters()))
    for ours, theirs in zip(torch.autograd.grad(term, list(policy.parameters())), wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_critics_are_cloned_by_their_squared_error_if_asked():
    learner = learner_with({"critic": True, "coef": 2.0})
    end(learner, 1)
    rows = {name: torch.from_numpy(column[:30]) for name, column in transitions(1, 50).items()}
    inputs = torch.cat([rows["obs"], rows["actions"]], -1)
    with torch.no_grad():
        kept = {name: learner.agent.networks[name](inputs) for name in ("qf", "qf_twin")}
    index = drawn(learner, 30)
    shift(learner, "qf")
    terms = learner.method.loss_terms(None)
    with torch.no_grad():
        now = learner.agent.networks["qf"](inputs[index])
    assert float(terms["qf"].detach()) == pytest.approx(
        2.0 * float((now - kept["qf"][index]).square().mean()), rel=1e-4
    )
    assert float(terms["qf_twin"].detach()) == pytest.approx(0.0, abs=1e-6)
    actor_alone = learner_with()
    end(actor_alone, 1)
    assert set(actor_alone.method.loss_terms(None)) == {"policy"}


def test_a_strong_coefficient_keeps_what_the_policy_does_on_old_states():
    old_obs = torch.from_numpy(transitions(1, 50)["obs"])
    moved = []
    for coef in (0.0, 1e4):
        learner = learner_with({"coef": coef, "memory_rows": 50})
        end(learner, 1)
        with torch.no_grad():
            before = torch.cat(squashed_gaussian(learner.agent.networks["policy"](old_obs)), -1)
        train(learner, range(200))
        with torch.no_grad():
            after = torch.cat(squashed_gaussian(learner.agent.networks["policy"](old_obs)), -1)
        moved.append(float(gaussian_kl(before, after).mean()))
    assert moved[1] < 0.05 * moved[0]


def test_targets_and_temperature_have_no_part_in_it():
    learner = learner_with({"critic": True})
    end(learner, 1)
    shift(learner, "policy")
    torch.stack(list(learner.method.loss_terms(None).values())).sum().backward()
    assert learner.agent.log_alpha.grad is None
    assert all(p.grad is None for net in learner.agent.targets.values() for p in net.parameters())


# The memory


def test_each_task_has_one_memory_and_a_revisit_replaces_it():
    learner = learner_with()
    end(learner, 1)
    shift(learner, "policy")
    end(learner, 2)
    memory = learner.method.memory
    assert memory["task"].tolist() == [0] * 30 + [1] * 30
    old_second = {key: column[30:].clone() for key, column in memory.items()}
    shift(learner, "policy")
    end(learner, 3)
    memory = learner.method.memory
    assert memory["task"].tolist() == [1] * 30 + [0] * 30
    assert all(torch.equal(memory[key][:30], column) for key, column in old_second.items())
    assert np.array_equal(memory["obs"][30:].numpy(), transitions(3, 50)["obs"][:30])
    with torch.no_grad():
        now = torch.cat(squashed_gaussian(learner.agent.networks["policy"](memory["obs"][30:])), -1)
    assert torch.allclose(memory["policy"][30:], now, atol=1e-6)
    assert learner.method.metrics() == {"cloning_memory_rows": 60.0}


def test_a_long_memory_is_passed_through_the_networks_in_parts_and_in_order():
    learner = learner_with({"memory_rows": 2500, "critic": True})
    end(learner, 1, transitions(0, 2600))
    memory = learner.method.memory
    with torch.no_grad():
        whole = torch.cat(squashed_gaussian(learner.agent.networks["policy"](memory["obs"])), -1)
    assert len(memory["obs"]) == 2500
    assert torch.allclose(memory["policy"], whole, atol=1e-6)


def test_bytes_of_the_memory():
    learner = learner_with()
    end(learner, 1)
    # 30 rows of 3 observations and 2 means and 2 deviations in 4 bytes each, and the task's index in 8.
    assert sum(column.nbytes for column in learner.method.get_state()["memory"].values()) == 30 * (4 * (3 + 4) + 8)
    game = game_learner()
    end(game, 1, game_transitions(0, 40))
    memory = game.method.get_state()["memory"]
    assert memory["obs"].dtype == np.uint8
    # A byte a pixel; three log probabilities.
    assert sum(column.nbytes for column in memory.values()) == 30 * (4 * 12 * 12 + 4 * 3 + 8)


def test_a_visits_rows_are_enough_for_the_largest_memory():
    method = METHODS["cloning"]
    with pytest.raises(ValueError, match="memory_rows"):
        method.Config(**{"memory_rows": method.visit_data_rows + 1})
    assert method.Config().memory_rows == method.visit_data_rows == 10_000


def test_every_memory_is_drawn_from_alike():
    learner = learner_with({"batch_rows": 4000})
    end(learner, 1)
    end(learner, 2)
    index = drawn(learner, 60)
    # 4000 draws of two memories of 30: 2000 each, standard deviation 31.6.
    assert abs(int((learner.method.memory["task"][index] == 1).sum()) - 2000) < 5 * 31.6


def test_state_round_trip_in_the_middle_of_a_visit():
    learner, other = learner_with({"critic": True}), learner_with({"critic": True}, seed=3)
    train(learner, range(3))
    end(learner, 1)
    train(learner, range(3, 6))
    other.set_state(learner.get_state())
    for one in (learner, other):
        train(one, range(6, 9))
        end(one, 2)
        train(one, range(9, 12))
    assert_same(parameters(learner), parameters(other))
    assert learner.checksum() == other.checksum()


def test_on_images_and_discrete_actions():
    learner = game_learner({"critic": True})
    end(learner, 1, game_transitions(0, 40))
    obs = torch.from_numpy(game_transitions(0, 40)["obs"])[:30]
    with torch.no_grad():
        kept = F.log_softmax(learner.agent.networks["policy"](obs), -1)
    shift(learner, "policy")
    index = drawn(learner, 30)
    term = learner.method.loss_terms(None)["policy"]
    with torch.no_grad():
        now = Categorical(logits=learner.agent.networks["policy"](obs[index]))
    expected = 100.0 * float(kl_divergence(Categorical(logits=kept[index]), now).mean())
    assert float(term.detach()) == pytest.approx(expected, rel=1e-4)
    for k in range(3):
        update(learner, game_transitions(k))
    assert all(bool(torch.isfinite(value).all()) for value in parameters(learner).values())
