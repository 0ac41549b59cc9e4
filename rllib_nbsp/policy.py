"""A run's policy as it was after a visit, to act with: from its results folder, without Ray."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from rllib_nbsp.plugins import USER_ERRORS, PluginError
from rllib_nbsp.reading import Unreadable, read_arrays, read_yaml
from rllib_nbsp.registry import did_you_mean
from rllib_nbsp.run import ResolvedRun, settings_of_results
from rllib_nbsp.sac.actor_critic import ActorCritic, build_actor_critic
from rllib_nbsp.sampling.episodes import EpisodeSummary, EpisodeTally
from rllib_nbsp.sampling.sampler import EVALUATION_SEED, MIN_ROWS
from rllib_nbsp.sampling.vector import EnvVector
from rllib_nbsp.seeding import kept_global_streams, seed_int, torch_generator
from rllib_nbsp.settings import RunSettings

EXIT_USAGE, EXIT_DATA, EXIT_ENVIRONMENT = 2, 3, 4
_VISIT_FILE = re.compile(r"visit_(\d+)\.npz")


class PolicyError(Exception):
    """A policy cannot be had, or cannot be asked for that; `exit_code` is what the command line ends with."""

    def __init__(self, message: str, exit_code: int = EXIT_DATA) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Policy:
    """The networks of a run after a visit, acting in any of its tasks.

    Attributes:
        run: the run that they are of.
        visit: after which they were kept.
        agent: actor, critics, targets and temperature.
        tasks: the run's distinct tasks, by index.
    """

    def __init__(self, run: ResolvedRun, visit: int, agent: ActorCritic) -> None:
        self.run = run
        self.visit = visit
        self.agent = agent
        self.tasks = [task.name for task in run.curriculum.tasks]

    def index(self, task: str) -> int:
        """The index of a task of the run, on which methods with a part of the network for each task depend.

        Raises:
            PolicyError: if the run has no such task.
        """
        if task not in self.tasks:
            known = f"its tasks are {', '.join(self.tasks)}"
            raise PolicyError(f"the run has no task {task!r}{did_you_mean(task, self.tasks)}; {known}", EXIT_USAGE)
        return self.tasks.index(task)

    def limit_threads(self) -> None:
        """Give this process the run's number of torch threads: more wait for each other beside a study."""
        torch.set_num_threads(self.run.settings.resources.torch_threads)

    @torch.no_grad()
    def act(
        self, obs: np.ndarray, task: str, *, explore: bool = False, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Actions of the policy.

        Args:
            obs: observations as the run's environments give them, (E, ...).
            task: which of the run's tasks they are of.
            explore: a sample, instead of the mean or the likeliest action.
            generator: of the sample's noise.

        Returns:
            (E, A) in [-1, 1], or (E,) of 0 ... n - 1 if actions are discrete.
        """
        rows = len(obs)
        if not explore and rows < MIN_ROWS:
            obs = np.concatenate([obs, np.zeros((MIN_ROWS - rows, *obs.shape[1:]), obs.dtype)])
        seen = torch.from_numpy(obs.copy())
        actions = self.agent.act(seen, explore=explore, generator=generator, task=self.index(task))
        return np.asarray(actions.numpy()[:rows])

    def environments(self, task: str, count: int = 1) -> EnvVector:
        """`count` environments of a task, as evaluation has them; `start` starts episodes in them.

        Raises:
            PolicyError: if the run has no such task.
            EnvironmentFailure: if one cannot be built.
        """
        self.index(task)
        with kept_global_streams():
            return EnvVector(
                self.run.suite,
                task,
                count,
                observation_space=self.run.spaces[0],
                env_seed=lambda env, incarnation: seed_int(EVALUATION_SEED, "evaluation"),
                training=False,
            )

    @staticmethod
    def start(environments: EnvVector, episodes: Sequence[int]) -> None:
        """Start an evaluation episode in each environment, by its number: it starts as in every run's evaluation."""
        environments.reset(
            lambda env, episode, incarnation: seed_int(EVALUATION_SEED, "evaluation", episodes[env]),
            [1] * environments.num_envs,
        )

    def play(
        self, task: str, episodes: Sequence[int] = range(1), *, on_step: Callable[[EnvVector], None] | None = None
    ) -> list[EpisodeSummary]:
        """Play evaluation episodes one after the other, acting as the run is evaluated.

        Args:
            task: one of the run's.
            episodes: their numbers.
            on_step: called with the environment before each step is taken.

        Returns:
            A summary of each, as evaluation has them: `episode`, `return`, `length`, `success`, `final_success`.

        Raises:
            PolicyError: if the run has no such task.
            EnvironmentFailure: if the environment cannot be built or stepped.
        """
        explore = not self.run.settings.evaluation.deterministic
        generator = torch_generator(self.run.settings.seed, "evaluation", 0, 0, 0)
        played: list[EpisodeSummary] = []
        vector = self.environments(task)
        try:
            with kept_global_streams():
                for episode in episodes:
                    self.start(vector, [episode])
                    tally = EpisodeTally(1)
                    while vector.active:
                        actions = self.act(vector.obs, task, explore=explore, generator=generator)
                        if on_step is not None:
                            on_step(vector)
                        ended = tally.add(vector.step(actions))
                        played += [{"episode": episode, **summary} for _, summary in ended]
        finally:
            vector.close()
        return played

    def export_onnx(self, path: str | Path, task: str) -> None:
        """Write the actor as an ONNX model: "obs" (E, ...) to "actions", the deterministic ones.

        Raises:
            PolicyError: if the run has no such task, or the packages of the extra `onnx` are missing.
        """
        actor = _Actor(self.agent, self.index(task)).eval()
        obs = torch.from_numpy(np.zeros((MIN_ROWS, *self.run.spaces[0].shape), self.run.spaces[0].dtype))
        try:
            import onnx
            import onnxscript  # noqa: F401, which torch imports by name
        except ImportError as error:
            wanted = "pip install 'rllib-nbsp[onnx]'"
            raise PolicyError(f"ONNX needs the package {error.name}: {wanted}", EXIT_ENVIRONMENT) from error
        program = torch.onnx.export(
            actor,
            (obs,),
            input_names=["obs"],
            output_names=["actions"],
            dynamic_shapes={"obs": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        onnx.save(program.model_proto, str(path))


class _Actor(nn.Module):
    """The deterministic policy of one task."""

    def __init__(self, agent: ActorCritic, task: int) -> None:
        super().__init__()
        self.agent = agent
        self.task = task

    def forward(self, obs: Tensor) -> Tensor:
        return self.agent.act(obs, explore=False, task=self.task)


def load_policy(folder: str | Path, visit: int | None = None) -> Policy:
    """The policy of a run as it was after a visit, of any method; the run may still be going on.

    Modules that the run names as its `plugins` are imported, from where Python finds them.

    Args:
        folder: a trial's results, `<study>/<sequence>/<arm>/seed_<n>`.
        visit: counted from 1; None: the last one that is there.

    Raises:
        PolicyError: if the folder holds no run, or not that visit, or its files do not belong together.
    """
    root = Path(folder)
    if not (root / "config.yaml").is_file():
        raise PolicyError(
            f"{root}: no run is here, for there is no config.yaml; name <study>/<sequence>/<arm>/seed_<n>"
        )
    visits = visits_of(root)
    if not visits:
        raise PolicyError(f"{root}: no weights/visit_NN.npz: no visit of the run has ended, or its weights are gone")
    if visit is not None and visit not in visits:
        there = ", ".join(map(str, visits))
        raise PolicyError(f"{root}: no weights of visit {visit}; there are those of {there}", EXIT_USAGE)
    path = root / "weights" / f"visit_{visit or visits[-1]:02d}.npz"
    run = ResolvedRun(_settings_of(root / "config.yaml"))
    try:
        agent = build_actor_critic(run)
    except USER_ERRORS as error:
        problem = f"{type(error).__name__}: {error}"
        raise PolicyError(f"{root}: its networks cannot be built ({problem})", EXIT_ENVIRONMENT) from error
    try:
        agent.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in read_arrays(path).items()})
    except (OSError, Unreadable, RuntimeError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise PolicyError(f"{path}: not the weights of this run ({' '.join(lines[:2])})") from error
    return Policy(run, visit or visits[-1], agent.eval())


def visits_of(folder: Path) -> list[int]:
    """The visits whose weights a results folder has, in order."""
    matches = (_VISIT_FILE.fullmatch(path.name) for path in (folder / "weights").glob("visit_*.npz"))
    return sorted(int(match[1]) for match in matches if match)


def positive(text: str) -> int:
    """A whole number of at least 1, of a command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _settings_of(path: Path) -> RunSettings:
    try:
        values = read_yaml(path)
        if not isinstance(values, dict):
            raise TypeError(f"not a run's settings, which are a mapping, but {type(values).__name__}")
        return settings_of_results(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise PolicyError(f"{path}: not a run's settings ({place}: {first['msg']})") from error
    except (OSError, Unreadable, PluginError, TypeError) as error:
        raise PolicyError(f"{path}: {error}") from error
