"""The cost ledger measures methods at work, against SAC, and its file has the promised keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.methods import (
    BOUNDS,
    KEYS,
    LONG_RUN,
    SAC,
    MethodAtWork,
    Plan,
    check_bounds,
    extra_per_visit,
    main,
    parse,
    table,
)
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings

SIZE, ROWS = 8, 400
OTHERS = sorted(set(METHODS) - {SAC})
RARELY = {"cbp", "redo"}
"""Methods that touch the weights once in many updates."""
IN_THE_NETWORK = {"crelu", "plasticity_injection"}
"""Methods that are another network and no more."""


def at_work(name: str) -> MethodAtWork:
    return MethodAtWork(name, KEYS.get(name, {}), SIZE, ROWS)


def state_of(contender: MethodAtWork) -> str:
    return repr(contender.learner.method.get_state())


# What is timed


@pytest.mark.parametrize("name", OTHERS)
def test_in_the_timed_updates_the_method_does_what_sac_does_not(name):
    contender, disarmed = at_work(name), at_work(name)
    disarmed.learner.graphs = None  # a recording would go on with the method that is taken away
    assert contender.learner.checksum() == disarmed.learner.checksum()
    if name in IN_THE_NETWORK:
        assert contender.learner.sizes()["network_bytes"] > at_work(SAC).learner.sizes()["network_bytes"]
        return
    disarmed.learner.sac.method = ContinualMethod(
        MethodSettings(), disarmed.learner.agent, disarmed.run.settings.replay
    )
    before = state_of(contender)
    for one in (contender, disarmed):
        for _ in range(5):
            one.update()
    if name in RARELY:
        assert state_of(contender) != before
    else:
        ours, plain = contender.learner.weights(), disarmed.learner.weights()
        assert any((ours[key] != plain[key]).any() for key in ours)


def test_young_entries_of_cbp_are_as_many_as_its_rate_keeps_so():
    worker = MethodAtWork("cbp", {"maturity": 10**6, "rate": 1e-4}, 64, ROWS)
    assert not worker.learner.method.recycler.young
    LONG_RUN["cbp"](worker)
    # 0.999^n = 1 - 0.999^2 after n = 6,212 updates, in which 0.0001 * 64 neurons an update begin anew: 40 of a layer.
    assert worker.learner.method.recycler.recycled == 3 * 3 * 40
    for young in worker.learner.method.recycler.young.values():
        assert len(young) > 40 * 64  # and a change of the update's time that is there in every window
    worker.update()


def test_a_timed_update_is_one_update_of_the_second_visits_main_phase():
    contender = at_work("nbsp")
    assert (contender.schedule.visit.number, contender.learner.sac.phase.name) == (2, "train")
    assert contender.learner.method.metrics()["masked_frac"] == pytest.approx(0.2, abs=0.05)
    assert contender.replay.prior_size == ROWS
    before = contender.learner.sac.updates
    contender.update()
    assert contender.learner.sac.updates == before + 1


def test_rows_of_earlier_tasks_stand_beside_each_batch_where_a_method_asks_for_them():
    contender = at_work("agem")
    contender.update()
    prior = contender.learner.sac.batch.prior
    assert prior is not None
    assert len(prior.rewards) == 128
    assert set(prior.task.tolist()) == {0}
    assert set(contender.learner.sac.batch.task.tolist()) == {1}


def test_keys_and_bounds_are_those_of_registered_methods():
    assert KEYS.keys() | BOUNDS.keys() <= METHODS.keys()
    for name, keys in KEYS.items():
        METHODS[name].Config(**keys)


# What is declared


def test_extra_steps_by_hand():
    assert extra_per_visit(SAC) == {"env_steps": 0, "updates": 0}
    assert extra_per_visit("nbsp") == {"env_steps": 100_000, "updates": 0}
    # An auxiliary run as long as the visit, whose first 1e4 steps are warm-up; retraining; distillation.
    declared: dict[str, dict[str, int]] = {
        "ancl": {"env_steps": 1_000_000, "updates": 990_000},
        "packnet": {"env_steps": 0, "updates": 100_000},
        "cotasp": {"env_steps": 0, "updates": 20_000},
    }
    for name, extra in declared.items():
        assert extra_per_visit(name) == extra, name


# The ledger


def row(ratio: float) -> dict[str, Any]:
    return {
        "update_ms": 10.0 * ratio,
        "ratio": ratio,
        "keys": {},
        "method_bytes": 384,
        "extra_parameters": 1_234,
        "extra_network_bytes": -5_000_000,
        "needs_prior_store": True,
        "extra_env_steps_per_visit": 100_000,
        "extra_updates_per_visit": 0,
    }


def test_bounds_hold_up_to_the_bound_and_only_where_something_was_measured():
    bounds = check_bounds({"sac": 1.0, "ewc": 1.25, "npc": 1.26})
    assert bounds == {
        "ewc": {"most": 1.25, "ratio": 1.25, "holds": True},
        "npc": {"most": 1.25, "ratio": 1.26, "holds": False},
    }
    lines = table({name: row(ratio) for name, ratio in (("sac", 1.0), ("ewc", 1.25), ("npc", 1.26))}, bounds).split(
        "\n"
    )
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert len({len(line) for line in cells}) == 1
    assert cells[3][:8] == ["ewc", "12.50", "1.25", "1.25: holds", "+1,234", "-5.00 MB", "0.000 MB", "yes"]
    assert cells[4][3] == "1.25: MISSED"
    assert cells[2][3] == ""


def test_every_registered_method_is_measured_unless_some_are_named():
    assert parse([])[0] == Plan()
    assert set(Plan().methods) == set(METHODS)
    assert Plan().windows >= 5
    plan, file = parse(["--quick", "--methods", "ewc", "--size", "16", "--windows", "7", "--json", "out.json"])
    assert (plan.methods, plan.size, plan.windows, file) == (("ewc",), 16, 7, Path("out.json"))
    with pytest.raises(SystemExit) as error:
        parse(["--methods", "ewcc"])
    assert error.value.code == 2


def test_the_file_has_ratios_bounds_and_all_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "methods.json"
    small = ["--quick", "--size", str(SIZE), "--windows", "3", "--seconds", "0.02"]
    assert main([*small, "--methods", "ewc", "crelu", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report.keys() == {"ratios", "bounds", "methods", "settings", "versions", "machine"}
    assert list(report["ratios"]) == ["sac", "ewc", "crelu"]
    assert report["ratios"]["sac"] == 1.0
    assert report["bounds"].keys() == {"ewc", "crelu"}
    figures = report["methods"]
    for name, measured in figures.items():
        assert len(measured["windows"]) == 3
        assert measured["update_ms"] == sorted(measured["windows"])[1]
        assert measured["interval"][0] <= measured["ratio"] <= measured["interval"][1]
        assert measured["ratio"] == report["ratios"][name] == measured["update_ms"] / figures["sac"]["update_ms"]
    # Anchor and Fisher information of an actor 39-8-8-8-8, four bytes each.
    actor = (39 * 8 + 8) + 3 * (8 * 8 + 8)
    assert figures["ewc"]["method_bytes"] == 2 * 4 * actor
    # Twice the inputs of the two inner hidden layers and the head, in the actor (8 outputs) and two critics (1).
    assert figures["crelu"]["extra_parameters"] == 3 * 2 * 8 * 8 + 8 * (8 + 1 + 1)
    assert figures["ewc"]["extra_parameters"] == figures["sac"]["extra_network_bytes"] == 0
    out = capsys.readouterr().out
    assert "| ewc | " in out and "Widest spread" in out
    assert torch.get_num_threads() == 1
