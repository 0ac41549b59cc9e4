"""What happens after a task: the algorithm decides when a visit is over, callbacks do what happens then."""

from __future__ import annotations

from typing import Any, ClassVar

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.agent import VisitData


class ContinualCallback(RLlibCallback):
    """RLlib's callback with the hooks of a visit. Give it to `config.callbacks` like any other.

    `algorithm` is the `ContinualSAC` that calls.
    """

    scores_neurons: ClassVar[bool] = False
    """Whether `on_visit_end` puts the neurons' scores into `VisitData.scores`, which some methods need."""
    files_prior: ClassVar[bool] = False
    """Whether `on_visit_end` files transitions of the finished task in D_pre, which methods with prior replay need."""

    def on_visit_start(self, *, algorithm: Algorithm, visit: Visit) -> None:
        """The environments have switched; no step is taken yet."""

    def on_evaluation_end(self, *, algorithm: Algorithm, visit: Visit, rows: list[dict[str, Any]]) -> None:
        """Every task was evaluated, periodically or at a boundary (`phase` in each row)."""

    def on_visit_end(self, *, algorithm: Algorithm, visit: Visit, data: VisitData) -> None:
        """The visit is over and evaluated; the method has not consolidated and nothing is reset yet."""


class SkillNeuronCallback(ContinualCallback):
    """Scores the neurons on the finished task and files a part of its transitions in D_pre."""

    scores_neurons = True
    files_prior = True

    def on_visit_end(self, *, algorithm: Algorithm, visit: Visit, data: VisitData) -> None:
        """Roll the policy out, score every hidden neuron (Eq. 1-4), copy a subset of D (Algorithm 2, line 21)."""
        scoring = algorithm.run.scoring
        if scoring is not None:
            data.scores = algorithm.score_neurons(visit.task, scoring, rollout=visit.number)
        algorithm.replay.store_prior(visit.task.index)
