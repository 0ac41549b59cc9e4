"""Which networks an update steps, and when."""

from __future__ import annotations

from rllib_nbsp.methods.agent import ACTOR, CRITICS, EVERYTHING, steps_of


def test_by_default_every_update_is_one_step_of_everything():
    assert [steps_of(update, 1) for update in (1, 2, 3)] == [[EVERYTHING]] * 3
    assert EVERYTHING == ("policy", "qf", "qf_twin", "alpha")


def test_a_delayed_actor_steps_as_often_as_the_critics_but_all_at_once():
    assert [steps_of(update, 3) for update in range(1, 7)] == 2 * [[CRITICS], [CRITICS], [CRITICS, ACTOR, ACTOR, ACTOR]]
    assert sorted(CRITICS + ACTOR) == sorted(EVERYTHING)
