"""Which networks are injected and when, and keys that make no sense together."""

from __future__ import annotations

import pytest
import torch

from rllib_nbsp.checks import check_run
from rllib_nbsp.methods.plasticity_injection import PlasticityInjectionSettings, injection_visits
from tests.methods.plasticity_injection.learners import start, trained
from tests.tiny import build_config, parameters


@pytest.mark.parametrize(
    ("keys", "visits", "expected"),
    [
        ({}, 4, [2]),
        ({"schedule": "once_mid"}, 2, [2]),
        ({"schedule": "once_mid"}, 4, [3]),  # two of four visits are over
        ({"schedule": "once_mid"}, 8, [5]),
        ({"schedule": "boundary", "max_injections": 2}, 4, [2, 3]),
        ({"schedule": "boundary", "max_injections": 9}, 4, [2, 3, 4]),
        ({}, 1, []),
        ({"schedule": "once_mid"}, 1, []),
    ],
)
def test_visits_that_begin_with_an_injection(keys, visits, expected):
    config = PlasticityInjectionSettings(**keys)
    assert injection_visits(config, "policy", visits) == injection_visits(config, "qf", visits) == expected


def test_once_mid_injects_when_the_second_half_begins():
    learner = trained({"schedule": "once_mid"})  # of four visits
    for number, injections in ((1, 0.0), (2, 0.0), (3, 1.0), (4, 1.0)):
        start(learner, number)
        assert learner.method.metrics() == {"injections": injections}


def test_the_actor_may_be_left_alone():
    learner = trained({"networks": "critic"})
    before = parameters(learner)
    start(learner)
    assert [net.active for net in learner.agent.networks.values()] == [0, 1, 1]
    for name, value in parameters(learner).items():
        if name.startswith("policy"):
            assert torch.equal(value, before[name])
    assert not any("learned" in name for name in before if name.startswith("policy"))
    assert learner.method.metrics() == {"injections": 1.0}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"max_injections": 2}, "max_injections is 2; schedule 'first_boundary' injects once"),
        ({"schedule": "boundary"}, "max_injections is 1, with which schedule 'boundary' stops at the first one"),
        ({"split": 3}, "split is 3; with 2 hidden layers it must be at most 2"),
    ],
)
def test_keys_that_make_no_sense_together_are_refused(keys, message):
    (error,) = check_run(build_config("plasticity_injection", keys).settings)
    assert error.startswith(message)


def test_a_run_of_one_visit_is_refused():
    config = build_config("plasticity_injection").curriculum(tasks=["reach-left"], cycles=1)
    (error,) = check_run(config.settings)
    assert error.startswith("schedule is 'first_boundary'; a run of one visit is never injected")
