"""Whether a policy needs its skill neurons: what is lost when they are silenced, beside other neurons silenced alike.

A set of neurons is put out of work at every step: set to zero, to their mean on the intact policy's rollout, or to
what they were at a random step of it (all of a set from one step). Sets of one size, with as many neurons in each layer
as the skill neurons have, are compared: these; random others; those with the lowest scores; and others whose mean
activation was most like theirs. Each repeat draws the random and the matched set anew and starts a new evaluation
episode, the same for all sets and the intact policy, so that repeats are paired.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from rllib_nbsp.envs.contract import EnvironmentContractError, EnvironmentFailure
from rllib_nbsp.nn.networks import NETWORKS, Network
from rllib_nbsp.nn.silencing import INTERVENTIONS, Intervention, Silenced, features_of, put_out
from rllib_nbsp.policy import EXIT_ENVIRONMENT, Policy, PolicyError, load_policy, positive, visits_of
from rllib_nbsp.reading import Unreadable, printable, read_arrays
from rllib_nbsp.seeding import kept_global_streams, numpy_generator, torch_generator

SETS = ("skill", "random", "lowest", "matched")
CONDITIONS = [(kind, how) for how in INTERVENTIONS for kind in SETS]
RESAMPLED = [row for row, (_, how) in enumerate(CONDITIONS, start=1) if how == "resample"]
"""Rows of a batch in which the first is intact and each condition has one."""
MATCHES = 5
"""Of how many nearest ones in mean activation a matched neuron is drawn."""
REFERENCE_STEPS = 1_000
"""Of the reference rollout, drawn from it."""
REFERENCE_EPISODE = 1_000_000
"""Number of the first episode of the reference rollout: none that is evaluated."""

Neurons = list[np.ndarray]
"""A set: by hidden layer, (N,) bool."""


@dataclass(frozen=True)
class Damage:
    """A row of the results: one set of neurons of one network, put out of work in one way, in one repeat.

    Attributes:
        visit, trained_task: the visit whose skill neurons these are.
        task: what is played.
        network: policy, qf or qf_twin.
        intervention, set: of `INTERVENTIONS` and `SETS`.
        repeat: from 0.
        size: neurons in the set.
        constant: how many of them never, or always, were above their mean when they were scored.
        success, intact_success: of the episode, with the set out of work and without (policy, suites with success).
        mean_reward, intact_mean_reward: per step of the episode (policy).
        value_error: of a critic, root mean square of the change of its values on the intact policy's rollout, over
            their standard deviation.
        rank_damage: 1 less Spearman's correlation between the values with the set out of work and without.
    """

    visit: int
    trained_task: str
    task: str
    network: str
    intervention: str
    set: str
    repeat: int
    size: int
    constant: int
    success: float | None = None
    intact_success: float | None = None
    mean_reward: float | None = None
    intact_mean_reward: float | None = None
    value_error: float | None = None
    rank_damage: float | None = None


@dataclass(frozen=True)
class Scored:
    """What a visit's file says of one network, by hidden layer, each (N,)."""

    skill: Neurons
    score: list[np.ndarray]
    size: list[np.ndarray]
    """Mean size of the activation."""
    constant: Neurons


def scored_networks(folder: Path, visit: int) -> tuple[str, dict[str, Scored]]:
    """The task of a visit, and the networks in which it selected skill neurons.

    Raises:
        PolicyError: if the visit has no scores, or no network a masked neuron.
    """
    path = folder / "neurons" / f"visit_{visit:02d}.npz"
    try:
        arrays = read_arrays(path)
    except FileNotFoundError as error:
        raise PolicyError(f"{path}: not there: the run scored no neurons (score_all_methods)") from error
    except (OSError, Unreadable) as error:
        raise PolicyError(f"{path}: cannot be read ({error})") from error
    try:
        networks = {name: scored for name in NETWORKS if (scored := _scored(arrays, name)) is not None}
        task = str(arrays["task"])
    except (KeyError, ValueError, IndexError) as error:
        raise PolicyError(f"{path}: not the neurons of a scored visit ({error})") from error
    if not networks:
        raise PolicyError(f"{path}: no neuron is masked, so none is a skill neuron; a method that masks is nbsp")
    return task, networks


def _scored(arrays: Mapping[str, np.ndarray], network: str) -> Scored | None:
    count = sum(f"{network}/{i}/score" in arrays for i in range(len(arrays)))
    layers = [
        {n: arrays[f"{network}/{i}/{n}"] for n in ("counts", "score", "mean_abs_activation")} for i in range(count)
    ]
    masks = [arrays.get(f"{network}/{i}/mask", np.ones(len(layer["score"]))) for i, layer in enumerate(layers)]
    if not any((mask < 1).any() for mask in masks):
        return None
    on = [layer["counts"][:, :2].sum(1) for layer in layers]
    return Scored(
        skill=[mask < 1 for mask in masks],
        score=[layer["score"] for layer in layers],
        size=[layer["mean_abs_activation"] for layer in layers],
        constant=[(o == 0) | (o == layer["counts"].sum(1)) for o, layer in zip(on, layers, strict=True)],
    )


# Sets


def draw_sets(scored: Scored, rng: np.random.Generator) -> dict[str, Neurons]:
    """One set of each kind, all with as many neurons in each layer as the skill neurons have.

    Where a layer has fewer others than skill neurons, the others are completed by skill neurons.
    """
    sets: dict[str, Neurons] = {kind: [] for kind in SETS}
    for skill, score, size in zip(scored.skill, scored.score, scored.size, strict=True):
        count = int(skill.sum())
        # In random order, so that ties are broken by chance; skill neurons last.
        order = rng.permutation(len(skill))
        order = order[np.argsort(skill[order], kind="stable")]
        lowest = order[np.lexsort((score[order], skill[order]))]
        chosen = {
            "skill": np.flatnonzero(skill),
            "random": order[:count],
            "lowest": lowest[:count],
            "matched": _matched(skill, size, rng),
        }
        for kind, neurons in chosen.items():
            sets[kind].append(np.isin(np.arange(len(skill)), neurons))
    return sets


def _matched(skill: np.ndarray, size: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each skill neuron one of the `MATCHES` others that are nearest in size, none twice."""
    free = list(np.flatnonzero(~skill))
    chosen = []
    for neuron in rng.permutation(np.flatnonzero(skill)):
        if not free:
            chosen.append(neuron)
            continue
        near = np.argsort(np.abs(size[free] - size[neuron]), kind="stable")[:MATCHES]
        chosen.append(free.pop(int(rng.choice(near))))
    return np.array(chosen, dtype=int)


# The test


@dataclass(frozen=True)
class Reference:
    """The intact policy's rollout: observations, the actions taken, and each network's features, by layer."""

    obs: np.ndarray
    actions: np.ndarray
    features: dict[str, list[Tensor]]


def damages(policy: Policy, folder: Path, *, repeats: int = 20, steps: int = 150, seed: int = 0) -> Iterator[Damage]:
    """Put the skill neurons of a policy's visit out of work, and others, in every task of the run.

    Args:
        policy: of that visit.
        folder: the run's.
        repeats: episodes, and draws of random and matched sets.
        steps: at which an episode is cut; a task that tells success at an episode's end alone needs its length.
        seed: of what is drawn.

    Raises:
        PolicyError: if the visit has no skill neurons.
        EnvironmentFailure: if an environment cannot be built or stepped.
    """
    trained, networks = scored_networks(folder, policy.visit)
    for index, task in enumerate(policy.tasks):
        rng = numpy_generator(seed, "scoring", index)
        reference = _reference(policy, task, steps, rng)
        draws = [{name: draw_sets(scored, rng) for name, scored in networks.items()} for _ in range(repeats)]
        for name, scored in networks.items():
            measure = _of_actor if name == "policy" else _of_critic
            for repeat, kind, how, found in measure(
                policy, task, reference, name, [d[name] for d in draws], steps, rng
            ):
                chosen = draws[repeat][name][kind]
                constant = sum(int((c & s).sum()) for c, s in zip(scored.constant, chosen, strict=True))
                size = sum(int(layer.sum()) for layer in chosen)
                yield Damage(policy.visit, trained, task, name, how, kind, repeat, size, constant, **found)


def _reference(policy: Policy, task: str, steps: int, rng: np.random.Generator) -> Reference:
    """Steps of an episode in each of as many environments as there are conditions, each at most `steps` long."""
    obs, actions = [], []
    with kept_global_streams():
        vector = policy.environments(task, len(CONDITIONS) + 1)
        try:
            policy.start(vector, range(REFERENCE_EPISODE, REFERENCE_EPISODE + vector.num_envs))
            generator = torch_generator(policy.run.settings.seed, "evaluation", REFERENCE_EPISODE)
            for _ in range(steps):
                if not vector.active:
                    break
                chosen = policy.act(vector.obs, task, explore=_explores(policy), generator=generator)
                playing = list(vector.active)
                obs.append(vector.obs[playing].copy())
                actions.append(chosen[playing].copy())
                vector.step(chosen)
        finally:
            vector.close()
    rows, taken = np.concatenate(obs), np.concatenate(actions)
    kept = rng.permutation(len(rows))[:REFERENCE_STEPS]
    rows, taken = rows[kept], taken[kept]
    return Reference(rows, taken, {name: _features(policy, task, name, rows, taken) for name in NETWORKS})


@torch.no_grad()
def _features(policy: Policy, task: str, name: str, obs: np.ndarray, actions: np.ndarray) -> list[Tensor]:
    network: Network = getattr(policy.agent, name)
    with Silenced(network) as silenced:
        network(_inputs(policy, name, obs, actions), task=policy.index(task))
        return [silenced.features[i] for i in sorted(silenced.features)]


def _inputs(policy: Policy, name: str, obs: np.ndarray, actions: np.ndarray) -> Tensor:
    seen = torch.from_numpy(obs)
    if name == "policy" or policy.agent.discrete:
        return seen
    return torch.cat([seen, torch.from_numpy(actions).to(seen.dtype)], -1)


def _explores(policy: Policy) -> bool:
    return not policy.run.settings.evaluation.deterministic


Found = Iterator[tuple[int, str, Intervention, dict[str, float | None]]]


def _of_actor(
    policy: Policy,
    task: str,
    reference: Reference,
    name: str,
    draws: Sequence[dict[str, Neurons]],
    steps: int,
    rng: np.random.Generator,
) -> Found:
    """Every condition and the intact policy play the same episode, each in an environment of its own."""
    vector = policy.environments(task, len(CONDITIONS) + 1)
    generator = torch_generator(policy.run.settings.seed, "evaluation", REFERENCE_EPISODE + 1)
    final = policy.run.success_flag == "final_success"
    values = [_values(features) for features in reference.features[name]]
    try:
        with kept_global_streams(), Silenced(policy.agent.policy) as silenced:
            for repeat, sets in enumerate(draws):
                masks = [_rows_of(sets, i, features) for i, features in enumerate(reference.features[name])]
                total, length = np.zeros(vector.num_envs), np.zeros(vector.num_envs)
                success = np.zeros(vector.num_envs, bool)
                policy.start(vector, [repeat] * vector.num_envs)
                for _ in range(steps):
                    playing = np.array(vector.active, dtype=int)
                    if not len(playing):
                        break
                    picked = torch.from_numpy(rng.integers(len(reference.obs), size=len(RESAMPLED)))
                    for replacement, features in zip(values, reference.features[name], strict=True):
                        replacement[RESAMPLED] = put_out(features, "resample", picked)
                    silenced.replaced = list(zip(masks, values, strict=True))
                    step = vector.step(policy.act(vector.obs, task, explore=_explores(policy), generator=generator))
                    total[playing] += step.rewards[playing]
                    length[playing] += 1
                    now = step.success[playing]
                    success[playing] = now if final else success[playing] | now
                reward = total / length
                for row, (kind, how) in enumerate(CONDITIONS, start=1):
                    found: dict[str, float | None] = {
                        "mean_reward": float(reward[row]),
                        "intact_mean_reward": float(reward[0]),
                    }
                    if policy.run.suite.has_success:
                        found |= {"success": float(success[row]), "intact_success": float(success[0])}
                    yield repeat, kind, how, found
    finally:
        vector.close()


def _rows_of(sets: Mapping[str, Neurons], layer: int, features: Tensor) -> Tensor:
    """Which features are replaced in the rows of the intact policy and of each condition."""
    intact = torch.zeros_like(features[:1], dtype=torch.bool)
    return torch.cat([intact, *(features_of(sets[kind][layer], features).expand_as(intact) for kind, _ in CONDITIONS)])


def _values(features: Tensor) -> Tensor:
    """By what, in the same rows; those that are resampled change with every step."""
    start = torch.zeros(1, dtype=torch.int64)
    return torch.cat([features[:1], *(put_out(features, how, start) for _, how in CONDITIONS)])


@torch.no_grad()
def _of_critic(
    policy: Policy,
    task: str,
    reference: Reference,
    name: str,
    draws: Sequence[dict[str, Neurons]],
    steps: int,
    rng: np.random.Generator,
) -> Found:
    """The critic's values of what the intact policy saw and did."""
    network: Network = getattr(policy.agent, name)
    inputs, task_index = _inputs(policy, name, reference.obs, reference.actions), policy.index(task)

    def values() -> np.ndarray:
        out = network(inputs, task=task_index)
        taken = torch.from_numpy(reference.actions)
        return np.asarray((out.gather(-1, taken[:, None]) if policy.agent.discrete else out)[:, 0].double().numpy())

    with Silenced(network) as silenced:
        intact = values()
        spread = float(intact.std())
        for repeat, sets in enumerate(draws):
            picked = torch.from_numpy(rng.integers(len(inputs), size=len(inputs)))
            for kind, how in CONDITIONS:
                silenced.replaced = [
                    (features_of(neurons, features), put_out(features, how, picked))
                    for neurons, features in zip(sets[kind], reference.features[name], strict=True)
                ]
                changed = values()
                error = float(np.sqrt(np.mean((changed - intact) ** 2)))
                yield (
                    repeat,
                    kind,
                    how,
                    {"value_error": error / spread if spread else None, "rank_damage": _rank_damage(changed, intact)},
                )


def _rank_damage(changed: np.ndarray, intact: np.ndarray) -> float | None:
    """1 less Spearman's correlation; 1 where all values became the same; None where they were so before."""
    if intact.min() == intact.max():
        return None
    return 1.0 if changed.min() == changed.max() else 1.0 - float(spearmanr(changed, intact).statistic)


# The command


def write_damages(policy: Policy, folder: Path, out: Path, *, repeats: int, steps: int, seed: int) -> Path:
    """Write `damages` as a CSV file, `visit_NN.csv`, and return its path.

    Raises:
        PolicyError: if the visit has no skill neurons.
        OSError: if it cannot be written.
    """
    rows = list(damages(policy, folder, repeats=repeats, steps=steps, seed=seed))
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"visit_{policy.visit:02d}.csv"
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Damage)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def main(argv: Sequence[str], *, report: Callable[[Sequence[str]], int]) -> int:
    """Run `rllib-nbsp causal`.

    Args:
        argv: its arguments.
        report: makes tables and a figure of the files.

    Returns:
        0; 2 for usage; 3 if the run cannot be read or selected no neurons; 4 if its environment cannot be had.
    """
    options = _parser().parse_args(argv)
    try:
        visits = [options.visit] if options.visit is not None else visits_of(options.run) or [1]
        out = options.out or options.run / "causal"
        files = []
        for visit in visits:
            policy, began = load_policy(options.run, visit), time.perf_counter()
            policy.limit_threads()
            numbers = {"repeats": options.repeats, "steps": options.steps, "seed": options.seed}
            files.append(write_damages(policy, options.run, out, **numbers))
            print(f"visit {policy.visit}: {time.perf_counter() - began:.0f} s", flush=True)
    except PolicyError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except (EnvironmentFailure, EnvironmentContractError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return EXIT_ENVIRONMENT
    return report([*map(str, files)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rllib-nbsp causal", description="Does a policy need its skill neurons? Silence them, and others."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a trial: <study>/<sequence>/<arm>/seed_<n>")
    parser.add_argument("--visit", type=int, metavar="N", help="the skill neurons of this one (default: each visit's)")
    parser.add_argument("--repeats", type=positive, default=20, metavar="N", help="episodes and draws (default: 20)")
    parser.add_argument("--steps", type=positive, default=150, metavar="N", help="of an episode at most (default: 150)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the files go (default: RUN/causal)")
    return parser
