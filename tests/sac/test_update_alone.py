"""An update without RLlib: torch alone, and the same to the last bit as in RLlib's Learner."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sac.actor_critic import build_actor_critic
from rllib_nbsp.sac.update import SACUpdate, adam_of
from tests.tiny import (
    ACTIONS,
    CHOICES,
    IMAGES,
    OBSERVATIONS,
    build_config,
    build_learner_of,
    game_transitions,
    transitions,
    update,
    visit,
)

KINDS: dict[str, Any] = {
    "continuous": ((OBSERVATIONS, ACTIONS), transitions),
    "discrete": ((IMAGES, CHOICES), game_transitions),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["sac", "npc", "plasticity_injection"])
def test_an_update_alone_is_the_learners_update(method, kind):
    spaces, rows = KINDS[kind]
    config = build_config(method).networks(conv=[[4, 4, 2], [5, 3, 1]])
    learner = build_learner_of(config, *spaces)
    run = ResolvedRun(config.settings, spaces)
    module = build_actor_critic(run)
    alone = SACUpdate(run, module, adam_of(module, run.training), torch.device("cpu"))
    for number in (1, 2):
        learner.visit_start(visit(number), None)
        alone.method.on_visit_start(visit(number), None)
        for k in range(6):
            columns = rows(10 * number + k)
            update(learner, columns)
            alone({name: torch.from_numpy(column) for name, column in columns.items()})
    assert alone.updates == learner.sac.updates == 12
    ours, theirs = module.state_dict(), learner.sac.module.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert alone.report().items() <= learner.report().items()


def test_an_update_needs_no_ray():
    code = (
        "import sys, torch\n"
        "from rllib_nbsp.run import ResolvedRun, run_settings\n"
        "from rllib_nbsp.sac.actor_critic import build_actor_critic\n"
        "from rllib_nbsp.sac.update import SACUpdate, adam_of\n"
        "run = ResolvedRun(run_settings(suite='point_mass', tasks=['reach-left'], model={'hidden': [8]}))\n"
        "module = build_actor_critic(run)\n"
        "update = SACUpdate(run, module, adam_of(module, run.training), torch.device('cpu'))\n"
        "rows = {'obs': torch.randn(256, 6), 'new_obs': torch.randn(256, 6), 'actions': torch.rand(256, 2),\n"
        "        'rewards': torch.randn(256), 'terminateds': torch.zeros(256, dtype=torch.bool),\n"
        "        'task': torch.zeros(256, dtype=torch.int64), 'from_prior': torch.zeros(256, dtype=torch.bool)}\n"
        "update(rows)\n"
        "update.check_finite()\n"
        "assert update.updates == 1\n"
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
