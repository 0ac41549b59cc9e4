"""What happens after a task: the algorithm decides when a visit is over, callbacks do what happens then."""

from __future__ import annotations

from typing import Any, ClassVar

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.agent import VisitData

CALLED = (
    "on_algorithm_init",
    "on_train_result",
    "on_evaluate_start",
    "on_evaluate_end",
    "on_env_runners_recreated",
    "on_checkpoint_loaded",
)
"""RLlib's hooks that are called, in the trial's own process; the others are refused."""
NOT_CALLED = {
    **dict.fromkeys(
        ("on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end", "on_sample_end"),
        "environments are sampled as columns of transitions, in which there is no episode to hand over; "
        "ContinualCallback.on_episodes_end has the return, length and success of those that ended",
    ),
    **dict.fromkeys(
        ("on_environment_created", "on_sub_environment_created"),
        "environments are built where they are stepped, without RLlib's vector of them; a wrapper in the environment "
        "itself sees all of it",
    ),
}


class ContinualCallback(RLlibCallback):
    """RLlib's callback with the hooks of a visit. Give it to `config.callbacks` like any other.

    `algorithm` is the `ContinualSAC` that calls. Of RLlib's own hooks those of `CALLED` are called too.
    """

    scores_neurons: ClassVar[bool] = False
    """Whether `on_visit_end` puts the neurons' scores into `VisitData.scores`, which some methods need."""
    files_prior: ClassVar[bool] = False
    """Whether `on_visit_end` files transitions of the finished task in D_pre, which methods with prior replay need."""

    def on_visit_start(self, *, algorithm: Algorithm, visit: Visit) -> None:
        """The environments have switched; no step is taken yet."""

    def on_episodes_end(self, *, algorithm: Algorithm, visit: Visit, episodes: list[dict[str, Any]]) -> None:
        """Training episodes have ended, on any rollout worker.

        Each is a dict with its `return`, `length` and `success`, at any of its steps, or at the last one:
        `final_success`.
        """

    def on_evaluation_end(self, *, algorithm: Algorithm, visit: Visit, rows: list[dict[str, Any]]) -> None:
        """Tasks were evaluated, periodically or at a boundary (`phase` in each row): there, every one."""

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


HOOKS = tuple(name for name in vars(ContinualCallback) if name.startswith("on_"))
"""Those that `ContinualCallback` has beside RLlib's."""


def is_scoring(callback: type) -> bool:
    """Whether a callback takes the place of `SkillNeuronCallback`: one of its kind, or one that says so itself."""
    return issubclass(callback, ContinualCallback) and (callback.scores_neurons or callback.files_prior)


def never_called(callback: type) -> list[str]:
    """RLlib's hooks that a callback has and that nothing would call."""
    of_rllib = {name for name in dir(RLlibCallback) if name.startswith("on_")}.difference(CALLED)
    return sorted(name for name in of_rllib if getattr(callback, name, None) is not getattr(RLlibCallback, name))


def why_never(hook: str) -> str:
    """Why nothing calls one of RLlib's hooks, and what to use instead."""
    return NOT_CALLED.get(hook, f"a continual run has nothing of what it tells; it calls {', '.join(CALLED)}")
