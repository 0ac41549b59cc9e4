"""What the sections of a run get wrong together is said before anything starts, all of it at once."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rllib_nbsp.checks import check_run
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.base import ContinualMethod
from rllib_nbsp.methods.nbsp import NBSPSettings, NeuronLevelBalance
from rllib_nbsp.replay.buffer import ReplayRequest
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.settings import ReplaySettings, RunSettings, ScoringSettings


def run(method: str = "nbsp", keys: dict[str, Any] | None = None, **sections: Any) -> RunSettings:
    return RunSettings.model_validate(
        {"suite": "point_mass", "tasks": ["a", "b"], "method": method, "method_settings": keys or {}, **sections}
    )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_defaults_fit_together(method):
    assert check_run(run(method)) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (run("ewcc"), "method is 'ewcc': did you mean 'ewc'? known methods: "),
        (run(training={"batch_size": 255}, resources={"num_learners": 2}), "training.batch_size is 255"),
        (
            run(visit={"max_env_steps": 500, "warmup_env_steps": 500, "early_stop": None}),
            "visit.warmup_env_steps is 500",
        ),
        (run(visit={"max_env_steps": 50_000}), "visit.early_stop.min_env_steps is 100000"),
        (
            run(visit={"max_env_steps": 255, "warmup_env_steps": 0, "early_stop": None}),
            "visit.max_env_steps is 255; D must come to hold a batch, training.batch_size 256",
        ),
        (
            run(
                visit={"max_env_steps": 300, "warmup_env_steps": 200, "early_stop": None},
                training={"updates_per_env_step": 0.009},
            ),
            "training.updates_per_env_step is 0.009; in a visit of 300 environment steps, 200 of them warm-up",
        ),
        (
            run("cbp", training={"actor_interval": 2}),
            "training.actor_interval is 2; method 'cbp' needs the activations of actor and critics in one step",
        ),
        (
            run(
                visit={"max_env_steps": 300, "warmup_env_steps": 200, "early_stop": None},
                training={"actor_interval": 401},
            ),
            "training.actor_interval is 401; the run makes at most 400 updates",
        ),
        (run(evaluation={"periodic_env_steps": 2_000_000}), "evaluation.periodic_env_steps is 2000000"),
        (run(replay={"capacity": 255}), "replay.capacity is 255"),
        (run(replay={"split": "reservoir", "pick": "last"}), "replay.pick is 'last'"),
        (
            run(replay={"split": "reservoir"}, boundary={"clear_buffer": False}),
            "replay.split is 'reservoir', a uniform sample of all transitions",
        ),
        (run(keys={"mask_on": "grad_rescale"}), "boundary.reset_optimizer: false"),
        (run(replay={"scope": "same_module", "mode": "mix"}), "replay.mode is 'mix'"),
        (run(keys={"mask_last_layer": True, "mask_side": "out"}), "mask_side is 'out'"),
        (run(replay={"mode": "mix", "interval": 257}), "replay.interval is 257"),
        *[
            (run(name, training={"weight_decay": 0.1}), f"would move the weights that method '{name}' freezes")
            for name in ("packnet", "cotasp")
        ],
        (run(keys={"skill_frac": 1e-4}), "skill_frac is 0.0001: it selects 0 of 2304 neurons"),
        (run(keys={"skill_frac": "auto", "score": "dormant"}), "skill_frac is 'auto', which asks who follows the goal"),
        (run(keys={"skill_fdr": 0.1}), "skill_fdr is 0.1, which skill_frac 0.2 does not read: use auto"),
    ],
)
def test_each_mistake_has_one_line_that_names_it(bad, message):
    errors = check_run(bad)
    assert len(errors) == 1
    assert message in errors[0]
    assert "\n" not in errors[0]


@pytest.mark.parametrize(
    "good",
    [
        run(training={"batch_size": 256}, resources={"num_learners": 2}),
        run(visit={"max_env_steps": 256, "warmup_env_steps": 255, "early_stop": None}),
        run(visit={"max_env_steps": 64, "warmup_env_steps": 0, "early_stop": None}, boundary={"clear_buffer": False}),
        run(replay={"capacity": 256}),
        run(replay={"split": "reservoir"}),
        run(keys={"mask_on": "grad_rescale"}, boundary={"reset_optimizer": False}),
        run(replay={"scope": "same_module"}),
        run(keys={"skill_frac": 0.0}),
        run("sac", replay={"mode": "mix"}),
        run("sac", training={"weight_decay": 0.1}),
    ],
)
def test_what_fits_is_not_refused(good):
    assert check_run(good) == []


def test_every_mistake_is_said_in_one_pass():
    bad = run(
        keys={"mask_on": "grad_rescale"},
        training={"batch_size": 255},
        visit={"max_env_steps": 5},
        replay={"capacity": 10},
        resources={"num_learners": 2},
    )
    assert len(check_run(bad)) == 6


def test_a_method_can_limit_the_learners_and_its_rows_must_divide_among_them(monkeypatch):
    class Limited(ContinualMethod):
        max_learners = 1

        @classmethod
        def replay_request(cls, config: Any, replay: ReplaySettings) -> ReplayRequest:
            return ReplayRequest(prior_rows_per_update=3)

    monkeypatch.setitem(METHODS, "limited", Limited)
    assert check_run(run("limited")) == []
    beside, limit = check_run(run("limited", resources={"num_learners": 2}))
    assert "asks for 3 rows of D_pre beside every batch" in beside
    assert "method 'limited' is exact on at most 1" in limit


def test_the_methods_keys_are_validated():
    resolved = ResolvedRun(run(keys={"mask_alpha": 0.5}))
    assert resolved.method is NeuronLevelBalance
    assert isinstance(resolved.keys, NBSPSettings)
    assert resolved.keys.mask_alpha == 0.5
    for keys in ({"mask_alhpa": 0.5}, {"mask_alpha": 1.5}, {"mask_alpha": "0.5"}, {"skill_frac": float("nan")}):
        with pytest.raises(ValidationError):
            _ = ResolvedRun(run(keys=keys)).keys


def test_neurons_are_scored_as_the_method_says_or_else_as_the_run_says():
    for_analysis = ScoringSettings(score_env_steps=7)
    assert ResolvedRun(run("sac")).scoring is None
    assert ResolvedRun(run("sac", score_all_methods=for_analysis)).scoring == for_analysis
    scoring = ResolvedRun(run("nbsp", {"score_env_steps": 9, "gpm": "return"}, score_all_methods=for_analysis)).scoring
    assert scoring is not None
    assert (scoring.score_env_steps, scoring.gpm) == (9, "return")


def test_replay_alone_needs_no_scores():
    assert ResolvedRun(run("nbsp", {"skill_frac": 0.0})).scoring is None
    assert ResolvedRun(run("nbsp", {"skill_frac": 0.0, "uniform_lr": "mean"})).scoring is not None


@pytest.mark.parametrize(
    ("method", "keys", "interval"),
    [
        ("sac", {}, None),
        ("sac", {"with_replay": True}, 7),
        ("nbsp", {}, 7),
        ("nbsp", {"with_replay": False}, None),
        ("nbsp", {"skill_frac": 0.0}, 7),
    ],
)
def test_only_who_asks_for_replay_gets_it(method, keys, interval):
    resolved = ResolvedRun(run(method, keys, replay=ReplaySettings(interval=7)))
    assert resolved.replay_request == ReplayRequest(interval)
