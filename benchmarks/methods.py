"""The cost ledger: what each method adds to plain SAC, in time, parameters, bytes, environment steps and updates.

    python -m benchmarks.methods [--json F] [--quick] [--methods NAME ...] [--size N] [--windows N] [--seconds S]

Every registered method is a real Learner at Meta-World's shapes (observations of 39, actions of 4, batch 256, three
hidden layers of one width, one torch thread) that random transitions took through a whole visit and its boundary into
the main phase of the second visit, so that its penalties, masks and branches are at work. There an update is timed,
the drawing of its batch included. Windows are many, short and interleaved, so that a slow moment of the machine is
everybody's; a figure is the median of its windows, a ratio the ratio of two medians.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from benchmarks.contender import BATCH_SIZE, TASK
from benchmarks.ours import EARLIER_TASK
from benchmarks.throughput import describe_machine, say
from benchmarks.timing import milliseconds, ratio_interval
from rllib_nbsp import ContinualSACConfig
from rllib_nbsp.curriculum import Visit
from rllib_nbsp.envs.metaworld import ACTION_SPACE, OBSERVATION_SPACE
from rllib_nbsp.learners import rllib_batch
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.agent import VisitData
from rllib_nbsp.methods.cbp import ContinualBackpropagation
from rllib_nbsp.methods.parts.recycling import STEP_TOLERANCE
from rllib_nbsp.nn.neurons import NeuronScores
from rllib_nbsp.replay.buffer import TaskReplayBuffer
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import ReplaySettings

SAC = "sac"
KEYS: dict[str, dict[str, Any]] = {
    "cbp": {"maturity": 10},
    "cotasp": {"distill_updates": 4},
    "packnet": {"retrain_updates": 4},
}
"""What must differ from a method's defaults for it to be fully at work after a visit of `UPDATES` updates."""

BOUNDS = {"ewc": 1.25, "npc": 1.25, "cbp": 1.25, "crelu": 2.2, "cotasp": 1.5}
"""The most that an update may take, as a multiple of SAC's; CReLU's with twice the features, CoTASP's outside
distillation."""

UPDATES = 30
"""Of a `MethodAtWork` in each phase that collects, and before its first window."""
SCORED_ROWS = 2_000


@dataclass(frozen=True)
class Plan:
    """How long and how large.

    Attributes:
        methods: names of registered methods; SAC is always measured.
        size: width of the three hidden layers.
        windows: per method.
        seconds: of a window.
        rows: random transitions of a visit, all of which D holds, and at most of D_pre.
    """

    methods: tuple[str, ...] = tuple(METHODS)
    size: int = 256
    windows: int = 25
    seconds: float = 0.5
    rows: int = 10_000


class MethodAtWork:
    """A Learner in the main phase of its second visit, without environments: its transitions are random numbers.

    Args:
        name: a registered method.
        keys: of the method.
        hidden: widths of the hidden layers, or the width of three.
        rows: transitions of a visit.
        updates: in each phase that collects, and of the second visit so far.
        prepare: called on the Learner before its first update.
        training, resources: further keys of these sections.
    """

    def __init__(
        self,
        name: str,
        keys: Mapping[str, Any],
        hidden: int | Sequence[int],
        rows: int,
        *,
        updates: int = UPDATES,
        prepare: Callable[[ContinualSACTorchLearner], None] = lambda learner: None,
        training: Mapping[str, Any] | None = None,
        resources: Mapping[str, Any] | None = None,
    ) -> None:
        widths = [hidden] * 3 if isinstance(hidden, int) else list(hidden)
        config = run_config(name, keys).networks(hidden=widths).training(**training or {})
        for key, value in (resources or {}).items():
            setattr(config, key, value)
        spaces = OBSERVATION_SPACE, ACTION_SPACE
        config = config.environment(observation_space=spaces[0], action_space=spaces[1])
        learner = config.build_learner(spaces={DEFAULT_MODULE_ID: spaces})
        assert isinstance(learner, ContinualSACTorchLearner)
        self.learner = learner
        prepare(learner)
        self.run = config.resolved()
        self.schedule = self.run.schedule()
        self.replay = TaskReplayBuffer(
            ReplaySettings(capacity=rows, prior_capacity=rows),
            self.run.replay_request,
            self.run.row_spec,
            batch_size=self.run.training.batch_size,
            seed=0,
        )
        self._rows, self._updates = rows, updates
        self._rng = np.random.default_rng(0)
        first, second = self.run.curriculum.visits[:2]
        self._enter_second_visit(second, self._first_visit(first))

    def update(self, only: str | None = None, count: int = 1) -> None:
        """Draw the next batches and update on them, in one call of the Learner."""
        self.update_on(self.sample(only, count), count)

    def update_on(self, columns: dict[str, np.ndarray], count: int = 1) -> None:
        """Updates on these rows, in one call of the Learner."""
        self.learner.update(batch=rllib_batch(columns), minibatch_size=len(columns["rewards"]) // count)

    def sample(self, only: str | None = None, count: int = 1) -> dict[str, np.ndarray]:
        """The rows of the next updates, which are counted."""
        first = self.schedule.updates + 1
        self.schedule.updated(count)
        return self.replay.sample(range(first, first + count), self.schedule.visit.task.index, only)

    def _first_visit(self, visit: Visit) -> VisitData:
        """A whole visit and the boundary after it, in the order of `ContinualSAC`."""
        self._start_visit(visit, None)
        self._run_phase()
        while self.schedule.next_phase():
            self._start_phase()
            self._run_phase()
        data = VisitData(visit, rows=self._visit_rows(), scores=self._scores())
        self.learner.visit_end(visit, data)
        self.replay.store_prior(visit.task.index)
        if self.run.boundary.clear_buffer:
            self.replay.clear()
        self.learner.boundary_reset(self.run.boundary)
        return data

    def _enter_second_visit(self, visit: Visit, data: VisitData) -> None:
        self._start_visit(visit, data)
        while self.schedule.is_auxiliary:
            self._run_phase()
            self.schedule.next_phase()
            self._start_phase()
        for _ in range(self._updates):
            self.update()

    def _start_visit(self, visit: Visit, data: VisitData | None) -> None:
        self.schedule.start_visit(visit)
        self.learner.visit_start(visit, data)
        self._start_phase()

    def _start_phase(self) -> None:
        visit, phase = self.schedule.visit, self.schedule.phase
        if phase.fresh:
            self.replay.clear()
        if phase.collect:
            self.replay.add(self._random_rows(self._rows), visit.task.index)
        self.learner.phase_start(visit, phase)

    def _run_phase(self) -> None:
        visit, phase = self.schedule.visit, self.schedule.phase
        for _ in range(self._updates if phase.collect else phase.updates):
            self.update(None if phase.collect else phase.data)
        self.learner.phase_end(visit, phase, VisitData(visit, rows=self._visit_rows()))

    def _visit_rows(self) -> dict[str, np.ndarray]:
        wanted = self.run.method.visit_data_rows
        return self.replay.current_rows(self.schedule.visit.task.index, wanted, self._rng) if wanted else {}

    def _scores(self) -> NeuronScores | None:
        if self.run.scoring is None:
            return None
        rows = self._random_rows(SCORED_ROWS)
        labels = self._rng.random(SCORED_ROWS) < 0.5
        chunk = {"obs": rows["obs"], "actions": rows["actions"], "labels": labels}
        return self.learner.score_neurons([chunk], None, float(labels.mean()))

    def _random_rows(self, count: int) -> dict[str, np.ndarray]:
        obs, new_obs = self._rng.normal(size=(2, count, *OBSERVATION_SPACE.shape)).astype(np.float32)
        return {
            "obs": obs,
            "actions": self._rng.uniform(-1.0, 1.0, (count, *ACTION_SPACE.shape)).astype(np.float32),
            "rewards": self._rng.random(count, np.float32),
            "new_obs": new_obs,
            "terminateds": np.zeros(count, bool),
            "episode": np.arange(count) // 500,
        }


def leave_young_entries(worker: MethodAtWork) -> None:
    """As many neurons of CBP's are young to Adam as its rate keeps so in a long run, a share of every layer."""
    method, (_, beta2) = worker.learner.method, worker.run.training.adam_betas
    assert isinstance(method, ContinualBackpropagation)
    updates_young = math.log(1.0 - (1.0 - STEP_TOLERANCE) ** 2, beta2)
    for name, network in method.agent.networks.items():
        young = [round(method.config.rate * updates_young * neurons) for neurons in network.num_neurons()]
        method.recycler.recycle(name, [torch.arange(count) for count in young])


LONG_RUN: dict[str, Callable[[MethodAtWork], None]] = {"cbp": leave_young_entries}
"""What must be done to a method for an update to cost what it costs after thousands of them."""


def run_config(name: str, keys: Mapping[str, Any]) -> ContinualSACConfig:
    """Two cycles of a pair under a method."""
    config: ContinualSACConfig = ContinualSACConfig().curriculum(
        suite="metaworld", tasks=[EARLIER_TASK, TASK], cycles=2
    )
    return config.method(name, **keys).training(batch_size=BATCH_SIZE).debugging(seed=0)


def extra_per_visit(name: str) -> dict[str, int]:
    """What a method's defaults add to the second visit of a default run, from its declarations.

    Returns:
        `env_steps` of scoring and of phases beside the main one, if none ends early; `updates` of such phases.
    """
    run = run_config(name, {}).resolved()
    scoring = run.method.scoring(run.keys)
    env_steps = scoring.score_env_steps * (1 + scoring.score_two_rollouts) if scoring else 0
    updates = 0
    schedule, settings = run.schedule(), run.settings
    schedule.start_visit(run.curriculum.visit(2))
    more = True
    while more:
        if schedule.is_auxiliary and schedule.phase.collect:
            env_steps += settings.visit.max_env_steps
            trained_on = settings.visit.max_env_steps - settings.visit.warmup_env_steps
            updates += int(trained_on * settings.training.updates_per_env_step)
        elif schedule.is_auxiliary:
            updates += schedule.phase.updates
        more = schedule.next_phase()
    return {"env_steps": env_steps, "updates": updates}


def measure(plan: Plan) -> dict[str, dict[str, Any]]:
    """All figures of each method, those of SAC first.

    Returns:
        By method: `update_ms`, the median of `windows` (ms of an update); `ratio` to SAC's and its `interval`; `keys`
        that differ from the defaults; `trainable_parameters`, `network_bytes` and `method_bytes`, and as `extra_...`
        what the first two have over SAC's; `needs_prior_store`, whether D_pre comes on top;
        `extra_env_steps_per_visit` and `extra_updates_per_visit`.
    """
    names = [SAC, *(name for name in plan.methods if name != SAC)]
    at_work = {}
    for name in names:
        say(f"preparing {name}")
        at_work[name] = MethodAtWork(name, KEYS.get(name, {}), plan.size, plan.rows)
        LONG_RUN.get(name, lambda worker: None)(at_work[name])
    windows: dict[str, list[float]] = {name: [] for name in names}
    for number in range(plan.windows):
        say(f"window {number + 1} of {plan.windows}")
        for name, contender in at_work.items():
            windows[name].append(milliseconds(contender.update, plan.seconds))
    sac_ms, sac_sizes = statistics.median(windows[SAC]), at_work[SAC].learner.sizes()
    results = {}
    for name, contender in at_work.items():
        update_ms, sizes, extra = statistics.median(windows[name]), contender.learner.sizes(), extra_per_visit(name)
        results[name] = {
            "update_ms": update_ms,
            "windows": windows[name],
            "ratio": update_ms / sac_ms,
            "interval": ratio_interval([windows[name]], [windows[SAC]]),
            "keys": KEYS.get(name, {}),
            **sizes,
            "extra_parameters": sizes["trainable_parameters"] - sac_sizes["trainable_parameters"],
            "extra_network_bytes": sizes["network_bytes"] - sac_sizes["network_bytes"],
            "needs_prior_store": contender.replay.request.needs_store,
            "extra_env_steps_per_visit": extra["env_steps"],
            "extra_updates_per_visit": extra["updates"],
        }
    return results


def check_bounds(ratios: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """For each measured method that has one: its bound `most`, the `ratio`, and whether it `holds`."""
    return {
        name: {"most": most, "ratio": ratios[name], "holds": ratios[name] <= most}
        for name, most in BOUNDS.items()
        if name in ratios
    }


def table(results: Mapping[str, Mapping[str, Any]], bounds: Mapping[str, Mapping[str, Any]]) -> str:
    """The ledger as Markdown."""
    head = (
        "| method | ms/update | x sac | bound | parameters over sac | networks over sac | method's state "
        "| D_pre | extra env steps/visit | extra updates/visit | measured with |"
    )
    rows = []
    for name, row in results.items():
        bound = bounds.get(name)
        verdict = f"{bound['most']:.2f}: {'holds' if bound['holds'] else 'MISSED'}" if bound else ""
        keys = ", ".join(f"{key}: {value}" for key, value in row["keys"].items())
        rows.append(
            f"| {name} | {row['update_ms']:.2f} | {row['ratio']:.2f} | {verdict} | {row['extra_parameters']:+,} "
            f"| {row['extra_network_bytes'] / 1e6:+.2f} MB | {row['method_bytes'] / 1e6:.3f} MB "
            f"| {'yes' if row['needs_prior_store'] else ''} | {row['extra_env_steps_per_visit']:,} "
            f"| {row['extra_updates_per_visit']:,} | {keys or 'defaults'} |"
        )
    return "\n".join([head, "| --- | ---: | ---: | --- | ---: | ---: | ---: | --- | ---: | ---: | --- |", *rows])


def parse(arguments: Sequence[str] | None = None) -> tuple[Plan, Path | None]:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="F", help="write all figures to F")
    parser.add_argument("--quick", action="store_true", help="a look: five windows of 0.2 s")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), metavar="NAME", help="of: %(choices)s")
    parser.add_argument("--size", type=int, metavar="N", help="width of the three hidden layers")
    parser.add_argument("--windows", type=int, metavar="N", help="windows of each method")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a window")
    options = parser.parse_args(arguments)
    plan = Plan(windows=5, seconds=0.2, rows=2_000) if options.quick else Plan()
    given = {name: getattr(options, name) for name in ("methods", "size", "windows", "seconds")}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value}
    return Plan(**{**asdict(plan), **given}), options.json


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the ledger, write the JSON file. Returns the exit code."""
    plan, json_file = parse(arguments)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    machine = describe_machine()
    results = measure(plan)
    ratios = {name: row["ratio"] for name, row in results.items()}
    bounds = check_bounds(ratios)
    report = {
        "ratios": ratios,
        "bounds": bounds,
        "methods": results,
        "settings": {"batch_size": BATCH_SIZE, **asdict(plan)},
        "versions": {name: version(name) for name in ("ray", "torch", "numpy")},
        "machine": machine,
    }
    print(table(results, bounds))
    spread = max(max(row["windows"]) / min(row["windows"]) for row in results.values())
    print(f"\nWidest spread of a method's windows: x {spread:.2f}.")
    for name, bound in bounds.items():
        if not bound["holds"]:
            print(f"{name}: an update takes {bound['ratio']:.2f} times SAC's, above the bound of {bound['most']:.2f}.")
    if json_file:
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
