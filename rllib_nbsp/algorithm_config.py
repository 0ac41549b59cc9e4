"""`ContinualSACConfig`: the fluent face of a run's settings, and RLlib's side of them."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils import force_list
from ray.rllib.utils.from_config import NotProvided
from ray.tune.result import TRIAL_INFO

from rllib_nbsp.callbacks import (
    CALLED,
    HOOKS,
    ContinualCallback,
    SkillNeuronCallback,
    is_scoring,
    never_called,
    why_never,
)
from rllib_nbsp.checks import check_run, check_tasks
from rllib_nbsp.envs import SUITES, with_suite_section
from rllib_nbsp.explain import problem_line, schema_of, show, wrong_values
from rllib_nbsp.methods import METHODS
from rllib_nbsp.plugins import PluginError, import_plugins
from rllib_nbsp.registry import OpenRegistry, unknown
from rllib_nbsp.rllib_surface import foreign_keys, without_effect
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.sac.module import ContinualSACModule, DiscreteSACModule
from rllib_nbsp.sampling.env_runner import ContinualEnvRunner
from rllib_nbsp.settings import (
    ConfigError,
    ReplaySettings,
    ResourceSettings,
    RunSettings,
    Settings,
    TrainingSettings,
)

Function = Callable[..., None]


class ContinualSACConfig(SACConfig):
    """Configuration of a continual run; its keys and defaults are those of `rllib_nbsp.settings.RunSettings`.

    Resources, seed and callbacks are set as in RLlib (`.env_runners()`, `.learners()`, `.resources()`, `.debugging()`,
    `.callbacks()`); the rest by `.curriculum()`, `.suite()`, `.method()`, `.training()`, `.visit()`, `.replay()`,
    `.networks()`, `.boundary()`, `.evaluation()` and `.results()`, in any order. Values are checked, together and with
    the words that a YAML file gets, when the configuration is validated; what of RLlib's own would have no effect is
    refused then, with our name for it (`rllib_nbsp.rllib_surface`).
    """

    algorithm: ClassVar[str] = "rllib_nbsp.algorithm:ContinualSAC"
    """What it configures, by its place: an RLlib algorithm and its configuration name each other."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or pkgutil.resolve_name(self.algorithm))
        self.given: dict[str, Any] = {}
        self.shares_results_dir = False
        self.trial_id: str | None = None  # Tune's
        resources = ResourceSettings()
        self.env_runner_cls = ContinualEnvRunner
        self.callbacks_class = [SkillNeuronCallback]
        for hook in HOOKS:
            setattr(self, f"callbacks_{hook}", None)
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
            ConfigError: with a line for each key that is wrong.
        """
        values = self._values()
        evaluation = values.get("evaluation", {})
        foreign = foreign_keys("evaluation", evaluation)
        values["evaluation"] = {key: value for key, value in evaluation.items() if key not in foreign}
        try:
            import_plugins(values.get("plugins"))
        except PluginError as error:  # what other keys may be hangs on it
            raise ConfigError([f"plugins: {error}"]) from error
        unknown_suite = self._unknown("suite", SUITES)
        problems = [*foreign.values(), *self._unknown("method", METHODS), *unknown_suite]
        suite = values.get("suite")
        run, wrong = _validated(with_suite_section(RunSettings, None if unknown_suite else suite), values, suite)
        problems += [*wrong, *self._wrong_method_keys()]
        if problems:
            raise ConfigError(problems)
        assert run is not None
        return run

    def _values(self) -> dict[str, Any]:
        """A run as a YAML file would state it: what was given, under the names of `RunSettings`."""
        resources = {name: getattr(self, name) for name in ResourceSettings.model_fields}
        for name in ("num_cpus_per_env_runner", "num_cpus_for_main_process", "num_gpus_per_learner"):
            if isinstance(resources[name], int):
                resources[name] = float(resources[name])
        # An arm without a name of its own is called as its method, which a search may choose.
        arm = {"arm": self.given["method"]} if "method" in self.given else {}
        return {**arm, **self.given, "seed": self.seed, "resources": resources}

    def _unknown(self, kind: str, known: OpenRegistry[Any]) -> list[str]:
        """A line if no method or suite has the name that was given; one of another type is told with the others."""
        name = self.given.get(kind)
        problem = known.problem(name) if isinstance(name, str) else ""
        return [f"{kind} is {show(name)}: {problem}"] if problem else []

    def _wrong_method_keys(self) -> list[str]:
        """What is wrong with the keys of the method, or with those of `training()` that nothing else has."""
        method, given = self.given.get("method", "sac"), self.given.get("method_settings", {})
        if not isinstance(method, str) or METHODS.problem(method):
            return []
        config = METHODS[method].Config
        known = [*config.model_fields, *TrainingSettings.model_fields, *_REPLAY]
        others = [key for key in given if key not in config.model_fields]
        words = {key: f"unknown key {key!r} for method {method!r}: {unknown(key, known)}" for key in others}
        problems = [*{**words, **foreign_keys("training", others)}.values()]
        return problems + _validated(config, {key: value for key, value in given.items() if key not in others})[1]

    @classmethod
    def from_settings(cls, settings: RunSettings) -> Self:
        """The configuration of one trial of a study."""
        return cls()._take(settings.model_dump())

    def _take(self, run: Mapping[str, Any]) -> Self:
        self.given = {key: value for key, value in run.items() if key not in ("seed", "resources")}
        self.shares_results_dir = False
        self.seed = run.get("seed", self.seed)
        for name, value in run.get("resources", {}).items():
            setattr(self, name, value)
        return self

    def update_from_dict(self, config_dict: Mapping[str, Any]) -> Self:
        """RLlib's, with a whole trial under the key `run`, as Tune hands it over."""
        rest = dict(config_dict)
        run = rest.pop("run", None)
        rest.pop("trial_id", None)  # of the trial that the dict came from
        if trial := rest.get(TRIAL_INFO):
            self.trial_id = trial.trial_id
        if run is not None:
            self._take(run)
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
        given = {
            "suite": suite,
            "tasks": list(tasks) if isinstance(tasks, tuple) else tasks,
            "cycles": cycles,
            "sequence": sequence,
        }
        self.given = {**self.given, **{key: value for key, value in given.items() if value is not None}}
        visit = {"max_env_steps": visit_env_steps, "warmup_env_steps": warmup_env_steps}
        return self._section("visit", {key: value for key, value in visit.items() if value is not None})

    def plugins(self, *modules: str) -> Self:
        """Modules of the user's own, imported here and in every process of the run, that register methods and suites.

        Raises:
            PluginError: if one cannot be imported.
        """
        import_plugins(modules)
        self.given = {**self.given, "plugins": list(modules)}
        return self

    def suite(self, name: str, **keys: Any) -> Self:
        """The suite and the keys of its own section, if it has one (`rllib_nbsp.envs.SUITES`), or `module:Suite`."""
        self.given = {**self.given, "suite": name}
        return self._section(SUITES[name].name if ":" in name else name, keys) if keys else self

    def method(self, name: str, **keys: Any) -> Self:
        """The continual-learning method and its keys (`rllib_nbsp.methods.METHODS`), or `module:Method`.

        Keys that were given before stay; one that the method does not have is refused when the run is checked.
        """
        self.given = {**self.given, "method": name}
        return self._section("method_settings", keys)

    def training(self, **keys: Any) -> Self:
        """Keys of the `training` section, of `replay` with the prefix `replay_`, and of the method."""
        for key, value in keys.items():
            if key in TrainingSettings.model_fields:
                self._section("training", {key: value})
            elif key in _REPLAY:
                self._section("replay", {_REPLAY[key]: value})
            else:
                self._section("method_settings", {key: value})
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

    def state(self, **keys: Any) -> Self:
        """Keys of the `state` section: when the state is written that a run goes on from, in its results folder."""
        return self._section("state", keys)

    def results(self, results_dir: str | Path, **names: str) -> Self:
        """The run's own result folder, and the names `experiment` and `arm` in its rows.

        Trials of a search share it: as a trial of Tune's, a run is filed below it, in `SEQUENCE/ARM-TRIAL/seed_N`.
        """
        self.shares_results_dir = True
        self.given = {**self.given, "results_dir": str(Path(results_dir).absolute()), **names}
        return self

    # RLlib's side

    def callbacks(self, callbacks_class: Any = NotProvided, **functions: Function | list[Function]) -> Self:
        """RLlib's, beside `SkillNeuronCallback`, which goes on scoring neurons and filing D_pre before the others act.

        It is replaced by a subclass of it, or by a `ContinualCallback` that says `scores_neurons` or `files_prior`.

        Args:
            callbacks_class: a class or a list of classes.
            functions: by the name of a hook, of RLlib's (`callbacks.CALLED`) or of `ContinualCallback`.
        """
        for name in HOOKS:
            if name in functions:
                setattr(self, f"callbacks_{name}", functions.pop(name))
        super().callbacks(callbacks_class, **functions)
        if callbacks_class is not NotProvided and not any(map(is_scoring, self._callback_classes())):
            self.callbacks_class = [SkillNeuronCallback, *force_list(self.callbacks_class)]
        return self

    def _callback_classes(self) -> list[type]:
        """The classes of the callbacks.

        Raises:
            ConfigError: for something else, of which nothing can be known before a run.
        """
        given = force_list(self.callbacks_class)
        classes: list[Any] = [
            callback.func if isinstance(callback, functools.partial) else callback for callback in given
        ]
        if wrong := [callback for callback in classes if not isinstance(callback, type)]:
            raise ConfigError([f"callbacks() was given {show(wrong[0])}; allowed: classes of callbacks"])
        return classes

    def validate(self) -> None:
        """Check everything that can be checked before a process starts.

        Raises:
            ConfigError: listing every problem, one a line.
        """
        problems = [*without_effect(self), *self._wrong_classes()]
        try:
            settings = self.settings
        except ConfigError as error:
            raise ConfigError([*error.problems, *problems]) from None
        problems += [*check_tasks(settings), *check_run(settings)]
        if not problems:
            problems += [*self._missing_callbacks(self.resolved()), *self._known_here_alone(settings)]
        if problems:
            raise ConfigError(problems)
        super().validate()

    def _wrong_classes(self) -> list[str]:
        """Parts of RLlib's in place of ours, and hooks that would never be called."""
        problems = []
        for name, ours in (("env_runner_cls", ContinualEnvRunner), ("_learner_class", ContinualSACTorchLearner)):
            given = getattr(self, name)
            if given is not None and not (isinstance(given, type) and issubclass(given, ours)):
                written = name.removeprefix("_")
                problems.append(f"{written} is {show(given)}; allowed: subclasses of {ours.__name__}")
        hooks = {f"{c.__name__}.{hook}": hook for c in self._callback_classes() for hook in never_called(c)}
        functions = [
            name for name in vars(self) if name.startswith("callbacks_on_") and getattr(self, name) is not None
        ]
        own = [name.removeprefix("callbacks_") for name in functions]
        hooks |= {f"{hook}=": hook for hook in own if hook not in (*HOOKS, *CALLED)}
        return problems + [
            f"callbacks(): nothing calls {written}: {why_never(hook)}" for written, hook in hooks.items()
        ]

    def _known_here_alone(self, settings: RunSettings) -> list[str]:
        """What remote workers and Learners, which are processes of their own, would not know without a plugin."""
        remote = settings.resources.num_env_runners + settings.resources.num_learners
        here = {
            "method": METHODS.is_of_this_process(settings.method),
            "suite": SUITES.is_of_this_process(settings.suite),
        }
        return [
            f"{key} {getattr(settings, key)!r} is registered in this process alone, and remote workers and Learners do "
            "not know it: name the module that registers it, .plugins('my_module')"
            for key, alone in here.items()
            if alone and remote and not settings.plugins
        ]

    def _missing_callbacks(self, run: ResolvedRun) -> list[str]:
        """What the method needs of callbacks and has not."""
        given = self._callback_classes()
        ours = [callback for callback in given if issubclass(callback, ContinualCallback)]
        needs = {"scores_neurons": run.scoring is not None, "files_prior": run.replay_request.needs_store}
        names = ", ".join(callback.__name__ for callback in given) or "none"
        return [
            f"method {run.settings.method!r} needs a ContinualCallback with {need} = True, such as "
            f"SkillNeuronCallback; callbacks() was given {names}"
            for need, needed in needs.items()
            if needed and not any(getattr(callback, need) for callback in ours)
        ]

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


_REPLAY = {f"replay_{name}": name for name in ReplaySettings.model_fields}


def _validated(model: type[Settings], values: Mapping[str, Any], suite: object = None) -> tuple[Any, list[str]]:
    """The model of these values, or None, and a line for each wrong one."""
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        schema = schema_of(model)
        return None, [problem_line(detail, schema, at, at, suite) for detail, at in wrong_values(error, schema)]
