"""A method from a file of one's own: MAS, Memory Aware Synapses (Aljundi et al. 2018, arXiv:1711.09601).

    python run_tune.py examples/own_method.yaml      # a study; the file stands beside it and is all that it needs
    python examples/own_method.py                    # the same from Python, with one remote rollout worker

A weight matters as much as it moves the squared length of a network's outputs: `Omega = mean |d ||F(x)||^2 / dw|` over
states x of the finished task (their Eq. 3 and 5). Weights are then pulled to where they were, by
`coef * sum Omega (w - w*)^2`, and the Omegas of several tasks are summed.

Differences from the source:
- F is the actor's head, mean and log deviation before tanh or the logits; the critics' values with `critic: true`.
- One head for all tasks, so the output layer is held too.
"""

from __future__ import annotations

import torch

from rllib_nbsp import ContinualSACConfig, register_method
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.methods.parts.consolidation import PerWeight, PulledMethod, PulledSettings
from rllib_nbsp.settings import NonNegativeFloat, PositiveInt


class MASSettings(PulledSettings):
    """The method's keys."""

    coef: NonNegativeFloat = 1.0
    """The paper's lambda."""
    states: PositiveInt = 256
    """Of the finished visit, over which the mean is taken."""


class MemoryAwareSynapses(PulledMethod):
    """Weights to which the outputs are sensitive are held where they were."""

    Config = MASSettings
    visit_data_rows = 10_000
    penalty_name = "mas_penalty"

    def importance(self, data: VisitData) -> PerWeight:
        """How far each protected weight moves the outputs' squared length, a state at a time."""
        [batch] = data.batches(1, self.config.states, self.agent.generator, self.agent.device)
        omega: PerWeight = {}
        for name in self.config.protected:
            network = self.agent.networks[name]
            inputs = batch.obs if name == "policy" else self.agent.critic_inputs(batch.obs, batch.actions)
            parameters = list(network.parameters())
            sums = [torch.zeros_like(p) for p in parameters]
            for x in inputs.split(1):
                gradients = torch.autograd.grad(network(x).square().sum(), parameters)
                torch._foreach_add_(sums, torch._foreach_abs(gradients))
            omega[name] = [self.agent.all_reduce_mean(total / len(inputs)) for total in sums]
        return omega


register_method("mas", MemoryAwareSynapses)


def config() -> ContinualSACConfig:
    """Two cycles of a small pair; every process of the run imports this file as a module."""
    return (
        ContinualSACConfig()
        .plugins("own_method")
        .method("mas", coef=10.0)
        .curriculum(suite="point_mass", tasks=["reach-left", "reach-right"], cycles=2, visit_env_steps=1_000)
        .visit(warmup_env_steps=200, early_stop=None)
        .training(updates_per_env_step=0.25, batch_size=64, rollout_fragment_length=10)
        .networks(hidden=[64, 64])
        .evaluation(periodic_episodes=0, boundary_episodes=5)
        .env_runners(num_env_runners=1)
    )


if __name__ == "__main__":
    algo = config().build_algo()
    done = False
    while not done:
        result = algo.train()
        print(result["visit"], result["task"], result["env_steps"], result["success_window"])
        done = result["done"]
    algo.stop()
