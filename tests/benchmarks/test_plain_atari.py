"""The plain loop on a game minimises what we minimise."""

from __future__ import annotations

import pytest
import torch

from benchmarks import plain_atari
from benchmarks.plain_atari import PlainDiscreteSAC
from rllib_nbsp.nn import losses
from tests.benchmarks.batches import game_columns


def test_the_plain_loop_on_a_game_minimises_what_we_minimise() -> None:
    columns = game_columns(4)
    agent = PlainDiscreteSAC(6, (16, 8))
    batch = {name: torch.from_numpy(column) for name, column in columns.items()}
    with torch.no_grad():
        x, x_next = batch["obs"] / 255.0, batch["new_obs"] / 255.0
        logp, next_logp = (torch.log_softmax(agent.actor(inputs), -1) for inputs in (x, x_next))
        next_q = torch.minimum(*(target(x_next) for target in agent.targets))
        q = [critic(x) for critic in agent.critics]
    one = torch.ones(1)
    next_value = losses.expectation(next_logp, next_q), losses.expectation(next_logp, next_logp)
    target = losses.critic_target(batch["rewards"], batch["terminateds"], *next_value, one, 0.99)
    taken = [values.gather(-1, batch["actions"].unsqueeze(-1)).squeeze(-1) for values in q]
    wanted = sum(float(losses.critic_loss(values, target)) for values in taken)
    seen: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_atari, "_step", lambda optimizer, loss: seen.append(float(loss.detach())))
        agent.update(batch["obs"], batch["actions"], batch["rewards"], batch["new_obs"], batch["terminateds"].float())
    q_policy = losses.expectation(logp, torch.minimum(*q))
    entropy = losses.expectation(logp, logp)
    assert seen[0] == pytest.approx(wanted, rel=1e-5)
    # CleanRL's mean over actions: a sixth of the expectation.
    assert seen[1] == pytest.approx(float(losses.actor_loss(entropy, q_policy, one)) / 6, rel=1e-4)
    temperature = losses.temperature_loss(torch.zeros(1), entropy, agent.target_entropy)
    assert seen[2] == pytest.approx(float(temperature) / 6, rel=1e-4)
