"""The check of a GPU machine, as far as a machine without one can tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.gpu import correctness
from benchmarks.gpu.__main__ import main


def test_a_machine_without_a_gpu_is_told_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert capsys.readouterr().err == "benchmarks.gpu: torch sees no CUDA GPU on this machine\n"


def test_two_learners_are_equal_by_all_of_their_state():
    one, other = (correctness.at_work("nbsp", 8, {}, updates=12) for _ in range(2))
    assert correctness.compare(one, other) == {"equal": True, "differ": [], "most": 0.0}
    with torch.no_grad():
        other.learner.agent.networks["policy"].head.bias[0] += 0.5
    found = correctness.compare(one, other)
    assert not found["equal"] and found["most"] == pytest.approx(0.5)
    assert any("policy.head.bias" in place for place in found["differ"])


def test_a_state_is_flat_by_place():
    state = {"a": {"b": [torch.ones(2), 3]}, "c": np.zeros(1)}
    assert {place: array.tolist() for place, array in correctness.flat(state).items()} == {
        "/a/b/0": [1.0, 1.0],
        "/a/b/1": 3,
        "/c": [0.0],
    }


def test_given_noise_is_the_same_from_the_first_update_on():
    cpu, again = (correctness.with_given_noise("packnet", 8, {}, 5) for _ in range(2))
    start = correctness.at_work("packnet", 8, {}, updates=0)
    assert correctness._difference(cpu, again, start, "qf") == 0.0
    assert correctness._difference(cpu, start, start, "qf") == pytest.approx(1.0)
