"""Updates as graphs: replays are eager updates to the last bit, or refused.

On the CPU's own recording, and on one that forgets what a CUDA graph may forget.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu.correctness import AT_WORK, compare
from benchmarks.methods import MethodAtWork
from rllib_nbsp.checks import check_run
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.base import ContinualMethod
from rllib_nbsp.run import ResolvedRun, run_settings
from rllib_nbsp.sac.graphs import KEPT, WARMUP, GraphedUpdates
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.sac.tape import CPURecording
from tests.sac.tape import Tape
from tests.tiny import (
    ACTIONS,
    CHOICES,
    IMAGES,
    OBSERVATIONS,
    build_config,
    build_learner_of,
    game_transitions,
    parameters,
    train,
    transitions,
    update,
)

REFUSED = {"cbp", "packnet"}
BF16 = {"autocast": "bf16"}
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{name: (name, AT_WORK.get(name, {}), {}) for name in METHODS},
    **{f"{name} in bf16": (name, AT_WORK.get(name, {}), BF16) for name in ("nbsp", "npc", "agem", "cotasp")},
    "sac with a delayed actor": ("sac", {}, {"actor_interval": 2}),
    "sac with rare moves of the targets": ("sac", {}, {"target_update_env_steps": 7}),
    "nbsp on gradients": ("nbsp", {"mask_on": "grad"}, {}),
    "nbsp with its head and both sides masked": ("nbsp", {"mask_side": "both", "mask_last_layer": True}, {}),
    "ewc with replay and its critics": ("ewc", {"with_replay": True, "critic": True}, {}),
    "cotasp with a delayed actor": ("cotasp", AT_WORK["cotasp"], {"actor_interval": 2}),
}
CAN = [label for label, (name, _, _) in VARIANTS.items() if METHODS[name].no_graph(METHODS[name].Config()) is None]


RECORDINGS = [CPURecording, Tape]


def on_tape(learner: ContinualSACTorchLearner) -> GraphedUpdates:
    return GraphedUpdates(learner.sac, learner._steps, Tape)


def at_work(label: str, graphs: str = "auto", updates: int = 60) -> MethodAtWork:
    name, keys, training = VARIANTS[label]
    worker = MethodAtWork(
        name, keys, 16, 1000, updates=updates, training={"batch_size": 256, **training}, resources={"graphs": graphs}
    )
    for _ in range(updates):
        worker.update()
    return worker


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContinualSACTorchLearner, "_graphed_updates", on_tape)


@pytest.mark.parametrize("label", CAN)
@pytest.mark.parametrize("recording", RECORDINGS)
def test_a_replayed_update_is_an_eager_one_to_the_last_bit(recording, label, monkeypatch):
    eager = at_work(label, "off")
    if recording is Tape:
        monkeypatch.setattr(ContinualSACTorchLearner, "_graphed_updates", on_tape)
    graph = at_work(label)
    assert eager.learner.graphs is None
    assert graph.learner.graphs.replayed > 100
    assert compare(eager, graph)["differ"] == []
    rows = eager.replay.newest(64)
    measured = graph.learner.report(rows, 1)
    assert eager.learner.report(rows, 1) == measured
    assert {"grad_norm_qf", "grad_dormant_frac_policy_0", "churn_head_policy"} <= measured.keys()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_method_that_cannot_says_so_and_really_waits_for_the_device(name, taped):
    assert METHODS[name].no_graph(METHODS[name].Config()) is not None
    with pytest.raises(RuntimeError, match="the host waits"):
        at_work(name)


def test_a_method_of_ones_own_must_say_that_it_can():
    class Silent(ContinualMethod):
        def after_step(self, batch: Any) -> None: ...

    class Network(ContinualMethod):
        pass

    assert "no_graph" in str(Silent.no_graph(None))
    assert Network.no_graph(None) is None


@pytest.mark.parametrize(
    ("name", "keys"),
    [("npc", {"mode": "online"}), ("ancl", {"aux": "concurrent", "refresh_updates": 10, "fisher_batches": 2})],
)
def test_keys_with_which_a_method_cannot_are_told_apart(name, keys):
    assert METHODS[name].no_graph(METHODS[name].Config(**keys)) is not None


# What a recording hangs on


def learners(*spaces: Any, conv: list[list[int]] | None = None, **training: Any) -> list[ContinualSACTorchLearner]:
    """An eager one, and one on tape."""
    config = build_config("sac", training=training).networks(**{"conv": conv} if conv else {})
    eager, graph = (build_learner_of(config.copy(), *spaces) for _ in range(2))
    eager.graphs, graph.graphs = None, on_tape(graph)
    return [eager, graph]


def equal(eager: ContinualSACTorchLearner, graph: ContinualSACTorchLearner) -> bool:
    first, second = parameters(eager), parameters(graph)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_weights_that_somebody_else_wrote_are_noticed():
    eager, graph = learners()
    for learner in (eager, graph):
        train(learner, range(8))
        with torch.no_grad():
            learner.agent.networks["policy"].head.weight.mul_(0.5)
        train(learner, range(8, 9))
    assert graph.graphs.replayed == 8 - WARMUP  # the ninth update was made as ever
    assert equal(eager, graph)


def test_a_state_is_taken_over_between_replays():
    eager, graph = learners()
    for learner in (eager, graph):
        train(learner, range(8))
        state = learner.get_state()
        train(learner, range(8, 12))
        learner.set_state(state)
        train(learner, range(20, 30))
    assert equal(eager, graph)


def test_batches_of_another_size_are_another_kind():
    eager, graph = learners()
    for learner in (eager, graph):
        for k in range(12):
            rows = transitions(k, 40 if k % 2 else 64)
            update(learner, rows, len(rows["rewards"]))
    assert graph.graphs.replayed == 12 - 2 * WARMUP
    assert equal(eager, graph)


def test_only_so_many_recordings_are_kept():
    _, graph = learners()
    for rows in range(32, 32 + 2 * KEPT):
        update(graph, transitions(rows, rows), rows)
    assert len(graph.graphs._kinds) == KEPT


@pytest.mark.parametrize("clip", [None, 0.01])
@pytest.mark.parametrize("spaces", [(OBSERVATIONS, ACTIONS), (OBSERVATIONS, CHOICES), (IMAGES, CHOICES)])
def test_images_discrete_actions_and_clipping_are_replayed_too(spaces, clip):
    conv = [[6, 4, 2], [5, 3, 1]] if spaces[0] is IMAGES else None
    built = learners(*spaces, conv=conv, grad_clip=clip)
    for learner in built:
        for k in range(WARMUP + 3):
            rows = (
                {**transitions(k), "actions": game_transitions(k)["actions"]}
                if spaces[1] is CHOICES
                else transitions(k)
            )
            update(learner, game_transitions(k) if spaces[0] is IMAGES else rows)
    assert built[1].graphs.replayed == 3
    assert equal(*built)


def test_results_find_room_where_they_were_recorded(capfd):
    _, graph = learners()
    train(graph, range(8))
    assert "resized" not in capfd.readouterr().err


def test_nothing_but_the_memory_of_its_numbers_outlives_a_recording():
    _, graph = learners()
    train(graph, range(8))
    tape = next(iter(graph.graphs._kinds.values())).recording
    assert all(tensor.grad_fn is None and not tensor.requires_grad for tensor in tape._fresh.values())


def test_an_infinite_loss_is_found_in_a_replay():
    _, graph = learners()
    train(graph, range(6))
    rows = transitions(0)
    rows["rewards"][:] = np.inf
    with pytest.raises(FloatingPointError, match="qf_loss"):
        update(graph, rows)


def test_the_tape_finds_what_is_read_from_an_update_before(monkeypatch):
    # The tape itself: a method that breaks the rule must not pass.
    class Rebinds(ContinualMethod):
        last = None

        def transform_gradients(self, batch: Any) -> None:
            weight = self.agent.networks["policy"].head.weight
            if self.last is not None:
                weight.grad += self.last
            self.last = 0.1 * weight.grad

    monkeypatch.setitem(METHODS, "sac", Rebinds)
    eager, graph = learners()
    for learner in (eager, graph):
        train(learner, range(8))
    assert not equal(eager, graph)


# Where they are used, and where they are refused


def settings(**sections: Any) -> Any:
    resources = {"num_learners": 1, "num_gpus_per_learner": 1.0, **sections.pop("resources", {})}
    return run_settings(suite="metaworld", tasks=["window-open-v3"], resources=resources, **sections)


@pytest.mark.parametrize(
    ("sections", "uses"),
    [
        ({}, True),
        ({"resources": {"graphs": "off"}}, False),
        ({"resources": {"num_learners": 2}}, False),
        ({"method": "packnet"}, False),
    ],
)
def test_graphs_are_used_where_they_can_be(sections, uses):
    assert ResolvedRun(settings(**sections)).uses_graphs is uses


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"method": "cbp", "resources": {"graphs": "on"}}, "method 'cbp' cannot be replayed"),
        ({"resources": {"graphs": "on", "num_learners": 2}}, "resources.num_learners, 2"),
        ({"training": {"tf32": True}, "resources": {"num_gpus_per_learner": 0.0}}, "training.tf32 is true"),
    ],
)
def test_what_cannot_be_is_refused_before_a_run(sections, error):
    (line,) = check_run(settings(**sections))
    assert error in line
    assert check_run(settings()) == []
