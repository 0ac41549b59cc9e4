"""Is EnvPool's native Meta-World ours, and how much faster is it?

    python -m benchmarks.envpool [--tasks NAME ...] [--steps N] [--seconds S]

It needs `pip install envpool`, 0.5 GB with its models. Both simulate one task from one place of object and goal, which
is read from EnvPool's first observation, since EnvPool draws places from a stream of its own and takes none; then both
are given the same random actions. Differences are of the first step of an episode, and of all to its end: one in the
last bits grows in contacts. Speed is environment steps a second of CPU time, EnvPool's threads included.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

TASKS = (
    "button-press-v3", "button-press-topdown-v3", "drawer-close-v3", "drawer-open-v3", "window-open-v3",
    "window-close-v3", "handle-press-v3", "faucet-close-v3", "plate-slide-v3", "reach-v3",
)  # fmt: skip
OBJECT, GOAL = slice(4, 7), slice(36, 39)
EPISODE = 500


@dataclass(frozen=True)
class Parity:
    """Largest differences on one task.

    Attributes:
        start: of the first observations.
        first: of observations after one step, over episodes.
        obs, reward: over all steps.
        success: steps at which one of both succeeds.
        steps: that were compared.
    """

    start: float
    first: float
    obs: float
    reward: float
    success: int
    steps: int


def envpool_name(task: str) -> str:
    """EnvPool's name of a task."""
    words = task.removesuffix("-v3").split("-")
    return f"MetaWorld/{''.join(word.capitalize() for word in words)}-v3"


def placed(base: Any, first: np.ndarray) -> np.ndarray:
    """Meta-World's environment reset such that its first observation is this one as nearly as can be; what it sees."""
    base._freeze_rand_vec = False
    obs, _ = base.reset()
    base._freeze_rand_vec = True
    place = np.array(base._last_rand_vec, dtype=float)
    for _ in range(5):
        off = first - obs
        if np.abs(off).max() < 1e-9:
            break
        moved = np.concatenate([off[OBJECT], off[GOAL]])
        if len(place) == 3 and np.abs(off[OBJECT]).max() < 1e-9:
            moved = off[GOAL]
        place[: len(moved)] += moved[: len(place)]
        base._last_rand_vec = place.copy()
        obs, _ = base.reset()
    return np.asarray(obs)


def parity(envpool: Any, task: str, steps: int) -> Parity:
    """Both through the same episodes of random actions."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

    make: Any = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-goal-observable"]
    base = make(seed=0)
    rng = np.random.default_rng(0)
    start = first = most = reward = 0.0
    success = 0
    for episode in range(max(1, steps // EPISODE)):
        env = envpool.make_gymnasium(envpool_name(task), num_envs=1, seed=episode, partially_observable=False)
        obs = env.reset()[0][0]
        start = max(start, float(np.abs(obs - placed(base, obs)).max()))
        for t in range(EPISODE - 1):  # at the last step EnvPool's may begin anew
            action = rng.uniform(-1.0, 1.0, 4).astype(np.float32)
            theirs, their_reward, _, _, their_info = env.step(action[None])
            own, own_reward, _, _, own_info = base.step(action)
            off = float(np.abs(theirs[0] - own).max())
            first, most = (max(first, off) if t == 0 else first), max(most, off)
            reward = max(reward, abs(float(their_reward[0]) - float(own_reward)))
            success += bool(their_info["success"][0]) != bool(own_info["success"])
        env.close()
    return Parity(start, first, most, reward, success, max(1, steps // EPISODE) * (EPISODE - 1))


def steps_per_cpu_s(step: Callable[[], int], seconds: float) -> float:
    """Environment steps a second of CPU time."""
    steps, start, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        steps += step()
    return steps / (time.process_time() - start)


def speeds(envpool: Any, task: str, envs: int, seconds: float) -> tuple[float, float]:
    """Ours and EnvPool's, with so many environments side by side."""
    from rllib_nbsp.envs import SUITES

    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.0, 1.0, (envs, 4)).astype(np.float32)
    ours = [SUITES["metaworld"].make_env(task, seed=0) for _ in range(envs)]
    for env in ours:
        env.reset()

    def step_ours() -> int:
        for env, action in zip(ours, actions, strict=True):
            if env.step(action)[3]:
                env.reset()
        return envs

    theirs = envpool.make_gymnasium(envpool_name(task), num_envs=envs, num_threads=1, seed=0)
    theirs.reset()

    def step_theirs() -> int:
        theirs.step(actions)
        return envs

    results = steps_per_cpu_s(step_ours, seconds), steps_per_cpu_s(step_theirs, seconds)
    for env in (*ours, theirs):
        env.close()
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print two tables; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.envpool", description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="NAME", help="of Meta-World, v3")
    parser.add_argument("--steps", type=int, default=10_000, metavar="N", help="of each task; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each speed; default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        envpool = importlib.import_module("envpool")
    except ModuleNotFoundError as error:
        print(f"error: {error}; `pip install envpool` has it", file=sys.stderr)
        return 4
    print(", ".join(f"{name} {_version(name)}" for name in ("envpool", "metaworld", "mujoco")))
    print("| task | start | after a step | observations | rewards | success differs | steps |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for task in options.tasks:
        found = parity(envpool, task, options.steps)
        figures = (f"{value:.1e}" for value in (found.start, found.first, found.obs, found.reward))
        print(f"| {task} | {' | '.join(figures)} | {found.success} | {found.steps:,} |", flush=True)
    print("\n| environments | ours, steps/CPU-s | EnvPool | ratio |\n| ---: | ---: | ---: | ---: |")
    for envs in (1, 8):
        ours, theirs = speeds(envpool, options.tasks[0], envs, options.seconds)
        print(f"| {envs} | {ours:.0f} | {theirs:.0f} | {theirs / ours:.2f} |")
    return 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


if __name__ == "__main__":
    sys.exit(main())
