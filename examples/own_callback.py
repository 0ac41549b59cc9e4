"""A callback of one's own: how far a visit moves the actor, layer by layer.

    python examples/own_callback.py                  # prints a line a visit, with one remote rollout worker

Callbacks run in the trial's own process. `SkillNeuronCallback`, which scores the neurons that NBSP needs, stays beside
it and acts before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm

from rllib_nbsp import NBSPConfig
from rllib_nbsp.callbacks import ContinualCallback
from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.agent import VisitData


class ActorDrift(ContinualCallback):
    """Prints the mean change of the weights of each of the actor's layers over a visit."""

    def on_visit_start(self, *, algorithm: Algorithm, visit: Visit) -> None:
        """Remember where the weights are."""
        self.before = _weights(algorithm)

    def on_visit_end(self, *, algorithm: Algorithm, visit: Visit, data: VisitData) -> None:
        """The line."""
        drift = {name: np.abs(now - self.before[name]).mean() for name, now in _weights(algorithm).items()}
        moved = "  ".join(f"{name} {value:.4f}" for name, value in drift.items())
        print(f"visit {visit.number}, {visit.task.name}: {moved}", flush=True)


def _weights(algorithm: Algorithm) -> dict[str, np.ndarray]:
    weights: dict[str, Any] = algorithm.get_module().get_state()
    return {
        name: np.array(value)
        for name, value in weights.items()
        if name.startswith("policy.") and name.endswith("weight")
    }


def config() -> NBSPConfig:
    """NBSP on two cycles of a small pair."""
    return (
        NBSPConfig()
        .callbacks(ActorDrift)
        .curriculum(suite="point_mass", tasks=["reach-left", "reach-right"], cycles=2, visit_env_steps=1_000)
        .visit(warmup_env_steps=200, early_stop=None)
        .training(updates_per_env_step=0.25, batch_size=64, rollout_fragment_length=10, score_env_steps=1_000)
        .networks(hidden=[64, 64])
        .evaluation(periodic_episodes=0, boundary_episodes=5)
        .env_runners(num_env_runners=1)
    )


if __name__ == "__main__":
    algo = config().build_algo()
    while not algo.train()["done"]:
        pass
    algo.stop()
