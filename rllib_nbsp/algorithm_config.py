"""`ContinualSACConfig`: the fluent face of a run's settings, and RLlib's side of them."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_nbsp.callbacks import ContinualCallback, SkillNeuronCallback
from rllib_nbsp.checks import check_run, check_tasks
from rllib_nbsp.methods import METHODS
from rllib_nbsp.run import ResolvedRun, run_settings
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.sac.module import ContinualSACModule, DiscreteSACModule
from rllib_nbsp.sampling.env_runner import ContinualEnvRunner
from rllib_nbsp.settings import ReplaySettings, ResourceSettings, RunSettings, TrainingSettings


class ContinualSACConfig(SACConfig):
    """Configuration of a continual run; its keys and defaults are those of `rllib_nbsp.settings.RunSettings`.

    Resources, seed and callbacks are set as in RLlib (`.env_runners()`, `.learners()`, `.resources()`, `.debugging()`,
    `.callbacks()`); the rest by `.curriculum()`, `.suite()`, `.method()`, `.training()`, `.visit()`, `.replay()`,
    `.networks()`, `.boundary()`, `.evaluation()` and `.results()`. Values are checked when the configuration is
    validated.
    """

    algorithm: ClassVar[str] = "rllib_nbsp.algorithm:ContinualSAC"
    """What it configures, by its place: an RLlib algorithm and its configuration name each other."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or pkgutil.resolve_name(self.algorithm))
        self.given: dict[str, Any] = {}
        resources = ResourceSettings()
        self.env_runner_cls = ContinualEnvRunner
        self.callbacks_class = [SkillNeuronCallback]
        self.torch_threads = resources.torch_threads
        self.seed = RunSettings.model_fields["seed"].default
        for name in ResourceSettings.model_fields:
            setattr(self, name, getattr(resources, name))
        # Ours is an array buffer that `setup` builds.
        self.replay_buffer_config = {"type": "EpisodeReplayBuffer", "capacity": 1, "no_local_replay_buffer": True}
        # One `training_step` is one iteration: what a run does must not depend on the clock.
        self.min_time_s_per_iteration = None
        self.min_sample_timesteps_per_iteration = 0
        self.max_requests_in_flight_per_env_runner = 1
        self.delay_between_env_runner_restarts_s = 1.0  # RLlib's is a minute
        self._dont_auto_sync_env_runner_states = True

    # One vocabulary

    @property
    def settings(self) -> RunSettings:
        """The run, validated, with every default filled in.

        Raises:
            pydantic.ValidationError: naming each key that is wrong.
        """
        resources = {name: getattr(self, name) for name in ResourceSettings.model_fields}
        for name in ("num_cpus_per_env_runner", "num_cpus_for_main_process", "num_gpus_per_learner"):
            resources[name] = float(resources[name])
        # An arm without a name of its own is called as its method, which a search may choose.
        arm = {"arm": self.given["method"]} if "method" in self.given else {}
        return run_settings(**{**arm, **self.given, "seed": self.seed, "resources": ResourceSettings(**resources)})

    @classmethod
    def from_settings(cls, settings: RunSettings) -> Self:
        """The configuration of one trial of a study."""
        return cls()._take(settings)

    def _take(self, settings: RunSettings) -> Self:
        self.given = settings.model_dump(exclude={"seed", "resources"})
        self.seed = settings.seed
        for name in ResourceSettings.model_fields:
            setattr(self, name, getattr(settings.resources, name))
        return self

    def update_from_dict(self, config_dict: Mapping[str, Any]) -> Self:
        """RLlib's, with a whole trial under the key `run`, as Tune hands it over."""
        rest = dict(config_dict)
        run = rest.pop("run", None)
        if run is not None and "seed" in run:
            self._take(run_settings(**run))
        elif run is not None:
            self.given = dict(run)
        # RLlib would hand these to `training` and `evaluation`, whose keys are ours.
        own = ("model", "optimizer", "replay_buffer_config")
        for key in [key for key in rest if key in own or key.startswith("evaluation_")]:
            setattr(self, key, rest.pop(key))
        return super().update_from_dict(rest)

    def _section(self, name: str, values: Mapping[str, Any]) -> Self:
        if not values:
            return self
        self.given = {**self.given, name: {**self.given.get(name, {}), **values}}
        return self

    def curriculum(
        self,
        *,
        suite: str | None = None,
        tasks: Sequence[str] | None = None,
        cycles: int | None = None,
        sequence: str | None = None,
        visit_env_steps: int | None = None,
        warmup_env_steps: int | None = None,
    ) -> Self:
        """The tasks, how often they cycle, and how long a visit lasts at most."""
        given = {"suite": suite, "tasks": tasks and list(tasks), "cycles": cycles, "sequence": sequence}
        self.given = {**self.given, **{key: value for key, value in given.items() if value is not None}}
        visit = {"max_env_steps": visit_env_steps, "warmup_env_steps": warmup_env_steps}
        return self._section("visit", {key: value for key, value in visit.items() if value is not None})

    def suite(self, name: str, **keys: Any) -> Self:
        """The suite and the keys of its own section, if it has one (`rllib_nbsp.envs.SUITES`)."""
        self.given = {**self.given, "suite": name}
        return self._section(name, keys) if keys else self

    def method(self, name: str, **keys: Any) -> Self:
        """The continual-learning method and its keys (`rllib_nbsp.methods.METHODS`)."""
        self.given = {**self.given, "method": name, "method_settings": keys}
        return self

    def training(self, **keys: Any) -> Self:
        """Keys of the `training` section, of the method, and of `replay` with the prefix `replay_`.

        Raises:
            TypeError: for a key that none of them has.
        """
        replay = {f"replay_{name}": name for name in ReplaySettings.model_fields}
        method = METHODS[self.given.get("method", "sac")].Config.model_fields
        known = [*TrainingSettings.model_fields, *method, *replay]
        for key, value in keys.items():
            if key in TrainingSettings.model_fields:
                self._section("training", {key: value})
            elif key in method:
                self._section("method_settings", {key: value})
            elif key in replay:
                self._section("replay", {replay[key]: value})
            else:
                close = difflib.get_close_matches(key, known, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise TypeError(f"training(): unknown key {key!r}{hint} Known: {', '.join(known)}")
        return self

    def visit(self, **keys: Any) -> Self:
        """Keys of the `visit` section."""
        return self._section("visit", keys)

    def replay(self, **keys: Any) -> Self:
        """Keys of the `replay` section."""
        return self._section("replay", keys)

    def networks(self, **keys: Any) -> Self:
        """Keys of the `model` section (`model` itself is taken by RLlib)."""
        return self._section("model", keys)

    def boundary(self, **keys: Any) -> Self:
        """Keys of the `boundary` section."""
        return self._section("boundary", keys)

    def evaluation(self, **keys: Any) -> Self:
        """Keys of the `evaluation` section; RLlib's own evaluation is not used."""
        return self._section("evaluation", keys)

    def results(self, results_dir: str | Path, **names: str) -> Self:
        """The trial's own result folder, and the names `experiment` and `arm` in its rows."""
        self.given = {**self.given, "results_dir": str(Path(results_dir).absolute()), **names}
        return self

    # RLlib's side

    def validate(self) -> None:
        """Check everything that can be checked before a process starts.

        Raises:
            ValueError: listing every problem, one a line.
        """
        settings = self.settings
        errors = [*check_tasks(settings), *check_run(settings)]
        if errors:
            raise ValueError("\n".join(errors))
        run = self.resolved()
        self._check_callbacks(run)
        self.gamma = run.training.gamma
        super().validate()

    def _check_callbacks(self, run: ResolvedRun) -> None:
        given = self.callbacks_class if isinstance(self.callbacks_class, list) else [self.callbacks_class]
        ours = [callback for callback in given if issubclass(callback, ContinualCallback)]
        needs = {"scores_neurons": run.scoring is not None, "files_prior": run.replay_request.needs_store}
        for need, needed in needs.items():
            if needed and not any(getattr(callback, need) for callback in ours):
                names = ", ".join(callback.__name__ for callback in given) or "none"
                raise ValueError(
                    f"method {run.settings.method!r} needs a ContinualCallback with {need} = True, such as "
                    f"SkillNeuronCallback; callbacks() was given {names}"
                )

    def get_evaluation_config_object(self) -> AlgorithmConfig:
        """RLlib wants one; evaluation is ours and needs no other configuration."""
        config = self.copy(copy_frozen=False)
        config.in_evaluation = True
        return config

    def resolved(self) -> ResolvedRun:
        """What the settings come to; with the spaces that `environment()` was given, if it was."""
        given = self.observation_space, self.action_space
        return ResolvedRun(self.settings, None if None in given else given)

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Our module for the tasks' kind of actions."""
        return RLModuleSpec(module_class=DiscreteSACModule if self.resolved().discrete else ContinualSACModule)

    def get_default_learner_class(self) -> type:
        """Our Learner."""
        return ContinualSACTorchLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return {**super()._model_config_auto_includes, "run": self.settings.model_dump()}


class NBSPConfig(ContinualSACConfig):
    """`ContinualSACConfig` with the NBSP method."""

    algorithm = "rllib_nbsp.algorithm:NBSP"

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.method("nbsp")


def to_algorithm_config(settings: RunSettings) -> ContinualSACConfig:
    """The RLlib configuration of a run."""
    return ContinualSACConfig.from_settings(settings)
