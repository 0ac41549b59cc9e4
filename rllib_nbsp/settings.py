"""The one vocabulary of a run: frozen models that hold every default.

The YAML files, the fluent `ContinualSACConfig` and the resolved `config.yaml` beside the results all use these keys.
Nothing here knows Ray.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Frac = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Betas = Annotated[list[Annotated[float, Field(ge=0.0, lt=1.0)]], Field(min_length=2, max_length=2)]
Count = Annotated[int, Field(ge=0, le=10_000)]
Width = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class ConfigError(ValueError):
    """What a configuration gets wrong, every problem at once.

    Attributes:
        problems: one line each: place, key, value, what is allowed.
    """

    exit_code = 2

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)


class Settings(BaseModel):
    """Base of every section: frozen, no unknown keys, no silent conversions of types."""

    # The text under a key is its description, which `docs/tables.py` prints.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class ReplaySettings(Settings):
    """D, the current task's buffer, and D_pre, the persistent store of earlier tasks (Eq. 7)."""

    capacity: PositiveInt = 1_000_000
    """Transitions that D holds; the oldest leave first."""
    prior_capacity: NonNegativeInt = 100_000
    """Transitions that D_pre holds over all tasks (Table 6, "storing experience size"); 0 switches D_pre off."""
    interval: PositiveInt = 10
    """Every `interval`-th update takes its whole batch from D_pre (Table 6, "replay interval")."""
    split: Literal["equal", "per_task", "reservoir"] = "equal"
    """Shares of D_pre: equal per distinct task seen; `prior_capacity` for each task; or one reservoir over all data."""
    pick: Literal["uniform", "last", "success"] = "uniform"
    """Which of D's transitions go to D_pre: a uniform sample, the newest, or only those of successful episodes."""
    mode: Literal["batch", "mix"] = "batch"
    """Whole batches every `interval` updates (Eq. 7), or 1/`interval` of every batch (same total)."""
    exclude_current: bool = False
    """Leave the task being trained out of batches from D_pre."""
    scope: Literal["all", "same_module"] = "all"
    """Whether batches from D_pre update every network, or only those that the method masks."""


class EarlyStopSettings(Settings):
    """Mastery ends a visit early (Table 6; docs/readings.md R4)."""

    success_rate: Frac = 0.9
    """Mean success of the last `window_episodes` that counts as mastery."""
    window_episodes: PositiveInt = 10
    """Training episodes whose mean success is compared."""
    min_env_steps: NonNegativeInt = 100_000
    """Checked only after this many environment steps into the visit."""


class VisitSettings(Settings):
    """How long one stay in a task lasts."""

    max_env_steps: PositiveInt = 1_000_000
    """Environment steps after which a visit ends, however it went."""
    warmup_env_steps: NonNegativeInt = 10_000
    """Uniformly random steps at a visit's start, without updates (Table 6, "initial collect steps")."""
    early_stop: EarlyStopSettings | None = EarlyStopSettings()
    """null: a visit lasts `max_env_steps`."""


class TrainingSettings(Settings):
    """The SAC update (Table 6)."""

    updates_per_env_step: Annotated[float, Field(gt=0.0, le=1000.0)] = 1.0
    """Updates for each environment step after the warm-up."""
    rollout_fragment_length: PositiveInt = 1
    """Steps of every environment in a fragment, which is what a rollout worker brings at a time.

    In the trial's own process, the steps between two calls of the Learner. Of remote workers' fragments, several are
    taken in a turn (`TURN_ENV_STEPS`), and those that act meanwhile have the weights of before it.
    """
    batch_size: PositiveInt = 256
    """Rows of one update, over all Learners together."""
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.99
    """Discount of the next state's value."""
    tau: Annotated[float, Field(gt=0.0, le=1.0)] = 0.005
    """Share by which the target networks move towards the critics."""
    target_update_env_steps: NonNegativeInt = 0
    """Environment steps between two moves of the target networks; 0 moves them after every update."""
    actor_interval: PositiveInt = 1
    """1: actor, critics and temperature step together, from the same weights. n > 1: an update steps the critics, and
    every n-th one then takes n steps of actor and temperature against them (CleanRL's `policy_frequency`, there 2)."""
    actor_lr: PositiveFloat = 3e-4
    """Step size of the actor's Adam."""
    critic_lr: PositiveFloat = 1e-3
    """Step size of the critics' Adam."""
    alpha_lr: PositiveFloat = 1e-3
    """Step size of the temperature's Adam."""
    adam_eps: PositiveFloat = 1e-8
    """Epsilon of every Adam."""
    adam_betas: Betas = [0.9, 0.999]
    """Of Adam's means of the gradient and of its square, the temperature's Adam included."""
    weight_decay: NonNegativeFloat = 0.0
    """Share of each weight and bias of the networks that is added to its gradient, before Adam as PyTorch has it."""
    initial_alpha: PositiveFloat = 1.0
    """Temperature at a run's start, and wherever a boundary resets it."""
    reward_scale: PositiveFloat = 1.0
    """Multiplies the rewards in the critics' target; returns are recorded as they are."""
    target_entropy: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """None: -(number of action dimensions), or 0.89 log(number of actions) if actions are discrete."""
    discrete_reduce: Literal["mean", "sum"] = "mean"
    """Discrete actions: sum the actor's and the temperature's loss over actions, or take CleanRL's mean over them. With
    Adam they differ by what `adam_eps` weighs."""
    tf32: bool = False
    """Matrix products and convolutions of float32 in TF32, the tensor cores' format of 10 bits: CUDA GPUs alone."""
    autocast: Literal["bf16"] | None = None
    """Matrix products and convolutions of an update's passes, forward and backward, in bfloat16, where the processor or
    GPU has it; weights, optimizers, losses and all else, acting too, stay float32. null: float32 throughout."""
    grad_clip: PositiveFloat | None = None
    """Global-norm clip per network, after the method's own gradient hook."""


class ModelSettings(Settings):
    """Actor and twin critics share one shape."""

    hidden: Annotated[list[Width], Field(min_length=1)] = [768, 768, 768]
    """Widths of the fully connected hidden layers."""
    conv: Annotated[list[Annotated[list[PositiveInt], Field(min_length=3, max_length=3)]], Field(min_length=1)] = [
        [32, 8, 4],
        [64, 4, 2],
        [64, 3, 1],
    ]
    """[channels, kernel size, stride] of the convolutions that images pass first; without images, nothing."""
    activation: Literal["relu", "tanh", "crelu"] = "relu"
    """`crelu` (Abbas et al. 2023) hands on relu(z) and relu(-z): two features for each neuron."""
    init: Literal["fan_in_uniform", "kaiming_normal"] = "fan_in_uniform"
    """Initial weights of every layer, output layers included: PyTorch's default, with biases, uniform in
    +-1/sqrt(fan in); or CleanRL's in `sac_atari.py`, normal with standard deviation sqrt(2 / fan in), biases 0."""


class BoundarySettings(Settings):
    """What is reset between two visits; networks are always kept."""

    clear_buffer: bool = True
    """Empty D, so that the next visit learns from its own transitions and D_pre."""
    reset_optimizer: bool = True
    """Fresh Adam moments and step counts."""
    reset_alpha: bool = False
    """Put log_alpha back to its initial value (its optimizer follows `reset_optimizer`)."""
    sync_target: bool = False
    """Copy the critics into their targets."""
    warmup_each_visit: bool = True
    """Random steps at the start of every visit, not of the first alone."""


class EvaluationSettings(Settings):
    """Evaluation of the sequence's tasks, in environments of its own."""

    boundary_episodes: PositiveInt = 20
    """Episodes of each task after each visit."""
    eval_env_steps: PositiveInt | None = None
    """At boundaries, instead of `boundary_episodes`: whole episodes of each task until they have so many steps."""
    periodic_episodes: NonNegativeInt = 5
    """0 switches periodic evaluation off."""
    periodic_env_steps: PositiveInt | None = None
    """None: every twentieth of `visit.max_env_steps`."""
    periodic_tasks: Literal["all", "seen", "current"] = "all"
    """Which tasks periodic evaluations are of: every one, those visited so far, or the visit's own alone. At boundaries
    it is always every one. With K tasks, `all` costs K times `current`."""
    num_envs: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Environments of one task that are evaluated side by side."""
    deterministic: bool = True
    """Take the policy's mean or likeliest action, rather than a sample."""
    success: Literal["any", "final"] = "any"
    """Success at any step of an episode, or at its last one."""
    report_env_steps: PositiveInt = 1000
    """Environment steps between two rows of `training.jsonl`."""
    mechanism_rows: NonNegativeInt = 5
    """Every so many rows of a visit, and its first, say how the networks fare (docs/glossary.md); 0: none does."""


class ResourceSettings(Settings):
    """Where a trial runs. Left out of `config_hash`."""

    num_env_runners: Count = 0
    """Remote rollout workers; 0 samples inside the trial's own process."""
    num_envs_per_env_runner: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Environments that a process steps side by side."""
    max_idle_envs: Count = 8
    """Environments that a process keeps of tasks and uses (training, evaluation, scoring) that are not at work; further
    ones are built when they are needed, with the same results."""
    num_cpus_per_env_runner: NonNegativeFloat = 1.0
    """CPUs that Ray keeps for a rollout worker."""
    custom_resources_per_env_runner: dict[str, NonNegativeFloat] = {}
    """Ray resources that pin rollout workers to nodes, such as {"rollout": 1}."""
    num_learners: Count = 0
    """Remote Learners; 0 updates inside the trial's own process."""
    num_gpus_per_learner: NonNegativeFloat = 0.0
    """May be a fraction, so that trials share a GPU."""
    num_cpus_for_main_process: NonNegativeFloat = 1.0
    """CPUs that Ray keeps for a trial's own process."""
    graphs: Literal["auto", "on", "off"] = "auto"
    """Record updates once and replay them, as CUDA graphs or on a CPU without Python and autograd, with the same
    results: `auto` where the method can and there is one Learner; `on` refuses what cannot."""
    placement_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How Ray lays a trial's processes on nodes: close together or apart, strictly or as it can."""
    torch_threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of torch in each process."""
    sample_timeout_s: PositiveFloat = 60.0
    """Seconds for a worker's reply; one that hangs is killed after two of them."""


class ScoringSettings(Settings):
    """The rollout after a visit from which neurons are scored (Eq. 1-3)."""

    score_env_steps: PositiveInt = 100_000
    """T of Eq. 1-3 (Table 6, "testing environment steps")."""
    score_two_rollouts: bool = False
    """Standard activations from a rollout of their own, as Algorithm 1's two loops may be read."""
    gpm: Literal["step", "episode_any", "episode_final", "return"] = "step"
    """Goal proximity q(t): success at the step; success of its episode (any or last step); the episode's return."""


class StateSettings(Settings):
    """The state that a run goes on from when it was cut off (docs/resume.md)."""

    every_env_steps: PositiveInt | None = 25_000
    """Environment steps of a visit between two writings of the state, besides at every boundary. New episodes begin
    there in every environment, so that no simulator's state is needed: the period is a part of what a run computes.
    null: at boundaries alone."""


class CommonSettings(Settings):
    """What the runs of a study have in common, in its YAML file and in each run.

    The suite may have a section of its own beside these (`envs.with_suite_section`).
    """

    experiment: str = "experiment"
    """The study's name, and that of its folder."""
    plugins: list[str] = []
    """Modules of the user's own that register methods and suites, imported in every process of a run. They are
    installed, or stand beside the study's file or on PYTHONPATH and go along to other machines."""
    suite: str
    """Where the tasks come from."""
    cycles: Annotated[int, Field(ge=1, le=10_000)] = 2
    """How often the sequence is gone through."""
    score_all_methods: ScoringSettings | None = None
    """Score neurons after each visit under methods that do not need it, so that any method can be analysed."""
    replay: ReplaySettings = ReplaySettings()
    visit: VisitSettings = VisitSettings()
    training: TrainingSettings = TrainingSettings()
    model: ModelSettings = ModelSettings()
    boundary: BoundarySettings = BoundarySettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    state: StateSettings = StateSettings()
    resources: ResourceSettings = ResourceSettings()


class RunSettings(CommonSettings):
    """Everything that defines one run: (task sequence, arm, seed) and the sections above.

    `run.run_settings` makes one, with the section of its suite.
    """

    sequence: str = "sequence"
    tasks: Annotated[list[str], Field(min_length=1)]
    arm: str = "sac"
    method: str = "sac"
    method_settings: dict[str, Any] = {}
    """The method's own keys; validated against its `Config`."""
    seed: Seed = 0
    results_dir: str | None = None
    """The trial's own result folder, absolute; None writes no rows."""
    shared_dir: str | None = None
    """Where runs leave first visits that they have in common (`sharing.py`); None shares nothing."""
    stop_env_steps: PositiveInt | None = None
    """Environment steps of the visits, those of auxiliary phases not counted, after which the run ends as at a visit's
    end; None: when all visits are over."""

    @property
    def num_visits(self) -> int:
        """V, over all cycles."""
        return self.cycles * len(self.tasks)

    @property
    def visit_env_steps(self) -> list[int]:
        """Environment steps of each visit at most, the last one shorter where the run ends within it."""
        length = self.visit.max_env_steps
        every = self.num_visits * length
        whole, rest = divmod(min(every, self.stop_env_steps or every), length)
        return [length] * whole + [rest] * (rest > 0)

    @property
    def first_update_env_steps(self) -> int:
        """Environment steps after which the first update is made."""
        learned = math.ceil(1 / self.training.updates_per_env_step)
        return max(self.training.batch_size, self.visit.warmup_env_steps + learned)

    def updates_within(self, visits: int) -> int:
        """Updates of the first `visits` visits together, each of which collects once and does not stop early."""
        warmups = visits if self.boundary.warmup_each_visit else min(visits, 1)
        learned = visits * self.visit.max_env_steps - warmups * self.visit.warmup_env_steps
        return int(learned * self.training.updates_per_env_step)


# Where a run is filed, on what it runs and where names come from do not change what it computes.
NOT_HASHED = {"experiment", "plugins", "sequence", "arm", "seed", "results_dir", "shared_dir", "resources"}


ADDED: dict[str, dict[str, Any]] = {
    "training": {"tf32": False, "autocast": None},
    # Runs of before had no such columns; nothing that is computed differs.
    "evaluation": {"periodic_tasks": "all", "mechanism_rows": 5},
    "state": {"every_env_steps": None},
}
"""By section, keys that came after results were published, with what runs did before: at it, a key is not hashed,
nor a section of nothing else."""

ADDED_TO_METHODS: dict[str, Any] = {"skill_fdr": 0.05}
"""The same for keys of methods, whose default is what runs did before."""

ADDED_TO_RUNS: dict[str, Any] = {"stop_env_steps": None}
"""The same for keys that stand in no section."""


def with_added(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run as `config.yaml` has it beside its rows, with the keys of `ADDED` that there were not yet."""
    added = {name: {**keys, **values.get(name, {})} for name, keys in ADDED.items()}
    return {**values, **added}


def without_added(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run's values without the keys that came later, where they are at what runs did before."""
    values = dict(values)
    for section, keys in {**ADDED, "method_settings": ADDED_TO_METHODS}.items():
        values[section] = {k: v for k, v in values.get(section, {}).items() if k not in keys or v != keys[k]}
    unchanged = {key for key, value in ADDED_TO_RUNS.items() if values.get(key) == value}
    return {key: value for key, value in values.items() if key not in unchanged and (key not in ADDED or value)}


def config_hash(settings: RunSettings) -> str:
    """Twelve hex digits that two runs share iff they differ at most in seed, names, storage and resources."""
    text = json.dumps(without_added(settings.model_dump(exclude=NOT_HASHED)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
