"""What a method gets of an update: its hooks in order, activations, rows of earlier tasks, phases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from rllib_nbsp.curriculum import Phase
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.agent import Batch, VisitData
from rllib_nbsp.methods.base import ContinualMethod
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import BoundarySettings
from tests.sac.inside import gradients, stacked
from tests.tiny import (
    HIDDEN,
    ROWS,
    assert_same,
    build_learner,
    end_visit,
    parameters,
    train,
    transitions,
    update,
    visit,
)


def learn_with(
    monkeypatch: pytest.MonkeyPatch, method: type[ContinualMethod], **sections: Any
) -> ContinualSACTorchLearner:
    """A Learner with a method that only this test knows."""
    monkeypatch.setitem(METHODS, "probe", method)
    return build_learner("probe", **sections)


class Pull(ContinualMethod):
    """Adds half the squared norm of each network's weights, times 3."""

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        return {
            name: 1.5 * torch.stack([p.square().sum() for p in net.parameters()]).sum()
            for name, net in self.agent.networks.items()
        }


def test_loss_terms_join_the_one_backward_pass(monkeypatch):
    plain, pulled = build_learner(), learn_with(monkeypatch, Pull)
    weights = parameters(plain)
    update(plain, transitions(0))
    update(pulled, transitions(0))
    expected = gradients(plain)
    for name, gradient in gradients(pulled).items():
        pull = 0.0 if name == "log_alpha" else 3.0 * weights[name]
        assert torch.allclose(gradient, expected[name] + pull, rtol=1e-5, atol=1e-6), name
    report = pulled.report()
    assert report["policy_method_loss"] > 0.0
    assert report["policy_loss"] == pytest.approx(plain.report()["policy_loss"])


class Order(ContinualMethod):
    """Writes down when each hook is called and what has moved since the one before."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.log: list[str] = []
        self.weights = self._copy()

    def _copy(self) -> list[Tensor]:
        networks = [*self.agent.networks.values(), *self.agent.targets.values()]
        return [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in networks]

    def _write(self, name: str) -> None:
        now = self._copy()
        online = any(not torch.equal(a, b) for a, b in zip(now[:3], self.weights[:3], strict=True))
        targets = any(not torch.equal(a, b) for a, b in zip(now[3:], self.weights[3:], strict=True))
        self.weights = now
        self.log.append(f"{name}{' weights' * online}{' targets' * targets}")

    def on_visit_start(self, visit: Any, data: Any) -> None:
        self._write(f"visit_start {visit.number}")

    def on_phase_start(self, visit: Any, phase: Phase) -> None:
        self._write(f"phase_start {phase.name}")

    def on_phase_end(self, visit: Any, phase: Phase, data: Any) -> None:
        self._write(f"phase_end {phase.name}")

    def on_visit_end(self, visit: Any, data: Any) -> None:
        self._write(f"visit_end {visit.number}")

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        self._write("loss")
        return {}

    def transform_gradients(self, batch: Batch) -> None:
        assert all(p.grad is not None for net in self.agent.networks.values() for p in net.parameters())
        self._write("gradients")

    def after_step(self, batch: Batch) -> None:
        self._write("step")


def test_hooks_come_in_the_documented_order_and_targets_move_last(monkeypatch):
    learner = learn_with(monkeypatch, Order)
    learner.visit_start(visit(1), None)
    learner.phase_start(visit(1), Phase())
    train(learner, range(2))
    learner.phase_end(visit(1), Phase(), VisitData(visit(1)))
    data = end_visit(learner, 1, None)
    learner.boundary_reset(BoundarySettings(sync_target=True))
    learner.visit_start(visit(2), data)
    assert learner.method.log == [
        "visit_start 1",
        "phase_start train",
        "loss",
        "gradients",
        "step weights",
        "loss targets",  # the target networks move after the method's last hook
        "gradients",
        "step weights",
        "phase_end train targets",
        "visit_end 1",
        "visit_start 2 targets",
    ]


class OrderOfSteps(Order):
    """The same, with what each step moves in place of a look at all gradients."""

    def transform_gradients(self, batch: Batch) -> None:
        for name, net in self.agent.networks.items():
            assert {p.grad is not None for p in net.parameters()} == {name in batch.moving}
        assert (self.agent.log_alpha.grad is not None) == ("alpha" in batch.moving)
        self._write(f"gradients of {' '.join(batch.moving)}")


def test_with_a_delayed_actor_hooks_come_around_every_step(monkeypatch):
    learner = learn_with(monkeypatch, OrderOfSteps, training={"actor_interval": 2})
    train(learner, range(3))
    critics = ["gradients of qf qf_twin", "step weights"]
    actor = ["loss", "gradients of policy alpha", "step weights"]
    assert learner.method.log == [
        *("loss", *critics),
        *("loss targets", *critics),
        *("loss targets", *actor[1:], *actor),
        *("loss", *critics),
    ]
    assert learner.get_state()["continual"]["updates"] == 3


class StepByStep(Pull):
    """Pulls some of the networks, and keeps weights and gradients of every step."""

    pulled: tuple[str, ...] = NETWORKS

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.steps: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        return {name: term for name, term in super().loss_terms(batch).items() if name in self.pulled}

    def transform_gradients(self, batch: Batch) -> None:
        named = [(f"{n}.{key}", p) for n, net in self.agent.networks.items() for key, p in net.named_parameters()]
        weights = {name: p.detach().clone() for name, p in named}
        self.steps.append((weights, {name: p.grad.clone() for name, p in named if p.grad is not None}))


@pytest.mark.parametrize(("networks", "step"), [(("qf", "qf_twin"), 0), (("policy",), 2)])
def test_with_a_delayed_actor_a_methods_terms_join_the_step_of_their_network(monkeypatch, networks, step):
    class Others(StepByStep):
        pulled = tuple(set(NETWORKS) - set(networks))

    pulled, plain = (learn_with(monkeypatch, m, training={"actor_interval": 2}) for m in (StepByStep, Others))
    for learner in (pulled, plain):
        train(learner, range(2))
    # Until this step, both have learned the same: only the networks whose term it is are pulled differently.
    (weights, gradients_pulled), (others_weights, expected) = pulled.method.steps[step], plain.method.steps[step]
    assert {name.split(".")[0] for name in gradients_pulled} == set(networks)
    assert_same(weights, others_weights)
    for name in gradients_pulled:
        assert torch.allclose(gradients_pulled[name], expected[name] + 3.0 * weights[name], rtol=1e-5, atol=1e-6), name


class Watch(ContinualMethod):
    """Keeps every batch, with its activations' gradients."""

    needs_activations = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.batches: list[Batch] = []

    def transform_gradients(self, batch: Batch) -> None:
        self.batches.append(batch)


def test_activations_are_those_of_the_loss_pass(monkeypatch):
    learner = learn_with(monkeypatch, Watch)
    networks = {name: getattr(learner.module[DEFAULT_MODULE_ID], name) for name in NETWORKS}
    columns = transitions(0)
    inputs = {"policy": torch.from_numpy(columns["obs"])}
    inputs["qf"] = inputs["qf_twin"] = torch.cat([inputs["policy"], torch.from_numpy(columns["actions"])], 1)
    expected: dict[str, list[Tensor]] = {name: [] for name in NETWORKS}
    for name, network in networks.items():
        network(inputs[name], record=expected[name])
    update(learner, columns)
    activations = learner.method.batches[0].activations
    assert activations.keys() == expected.keys()
    for name in NETWORKS:
        assert [tuple(h.shape) for h in activations[name]] == [(ROWS, n) for n in HIDDEN]
        assert all(torch.equal(a, b) for a, b in zip(activations[name], expected[name], strict=True))


def test_activations_have_the_gradient_of_their_own_networks_loss_alone(monkeypatch):
    # The head is linear: dL/dh = dL/dq w, so dL/dq is known from dL/dh, and dL/dw = sum of dL/dq h over the batch.
    # A second pass through the same critic, such as the actor's, would break the equality.
    learner = learn_with(monkeypatch, Watch)
    heads = {name: learner.agent.networks[name].head.weight.detach().clone() for name in ("qf", "qf_twin")}
    update(learner, transitions(0))
    batch = learner.method.batches[0]
    for name, weight in heads.items():
        last = batch.activations[name][-1]
        assert all(h.grad is not None and bool((h.grad != 0).any()) for h in batch.activations[name])
        loss_by_q = last.grad @ weight[0] / weight[0].square().sum()
        head_gradient = learner.agent.networks[name].head.weight.grad
        assert torch.allclose(loss_by_q @ last.detach(), head_gradient[0], rtol=1e-4, atol=1e-6)
    assert all(h.grad is not None for h in batch.activations["policy"])


def test_activations_are_kept_for_methods_that_ask_alone():
    learner = build_learner()
    update(learner, transitions(0))
    assert learner.sac.batch.activations == {}


def test_recording_activations_changes_no_weight(monkeypatch):
    watched, plain = learn_with(monkeypatch, Watch), build_learner()
    for learner in (watched, plain):
        train(learner, range(3))
    assert_same(parameters(watched), parameters(plain))


def test_prior_rows_reach_the_method_and_stay_out_of_the_batch(monkeypatch):
    class Beside(Watch):
        needs_activations = False

    learner, plain = learn_with(monkeypatch, Beside), build_learner()
    batches = [transitions(k) for k in range(3)]
    beside = [transitions(50 + k, 5, from_prior=True, task=1) for k in range(3)]
    rows = stacked(*(stacked(batch, prior) for batch, prior in zip(batches, beside, strict=True)))
    update(learner, rows, ROWS + 5)
    for batch in batches:
        update(plain, batch)
    assert_same(parameters(learner), parameters(plain))
    for seen, batch, prior in zip(learner.method.batches, batches, beside, strict=True):
        for part, columns in ((seen, batch), (seen.prior, prior)):
            assert np.array_equal(part.obs, columns["obs"])
            assert np.array_equal(part.next_obs, columns["new_obs"])
            assert np.array_equal(part.terminateds, columns["terminateds"])
            assert np.array_equal(part.task, columns["task"])
            assert np.array_equal(part.from_prior, columns["from_prior"])


def test_a_batch_without_rows_beside_it_has_no_prior(monkeypatch):
    learner = learn_with(monkeypatch, Watch)
    update(learner, transitions(0))
    assert learner.method.batches[0].prior is None


def test_a_phase_without_sacs_losses_moves_only_what_the_method_has_a_loss_for(monkeypatch):
    class Distil(ContinualMethod):
        def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
            return {"policy": self.agent.networks["policy"](batch.obs).square().mean()}

    learner = learn_with(monkeypatch, Distil)
    train(learner, range(3))  # warm optimizers: their moments must not move anything either
    before = parameters(learner)
    phase = Phase("distil", collect=False, updates=2, sac_losses=False)
    learner.phase_start(visit(1), phase)
    train(learner, range(3, 5))
    after = parameters(learner)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"policy", "target_qf", "target_qf_twin"}
    learner.phase_end(visit(1), phase, VisitData(visit(1)))
    train(learner, range(5, 6))
    assert not torch.equal(after["qf.head.weight"], parameters(learner)["qf.head.weight"])
