"""What the skill neurons are and what becomes of them: frames of neurons -> tables, as pure functions.

A skill neuron is one whose updates a mask brakes (`mask` below 1); a constant one is never, or always, above its mean
on the rollout that it was scored on, so that it follows no goal; a significant one follows it by more than chance, at a
false discovery rate of `LEVEL` over all neurons of a scoring.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from . import statistics

LEVEL = 0.05
KEPT = 0.1
"""A neuron is kept if its incoming weights have changed by at most this share of their norm."""
PROJECTED = (10, 20, 50)
"""Numbers of tasks that the ledger looks ahead to."""
FATES = ("constant", "dead", "reused", "kept", "drifted")
"""Of a skill neuron, one visit later; the first that holds: constant already when it was selected; constant since; a
skill neuron of the next visit too; incoming weights changed by at most `KEPT`; or by more."""

_SCORING = ["sequence", "arm", "seed", "visit"]
_NETWORK = [*_SCORING, "network"]
_NEURON = [*_NETWORK, "layer", "neuron"]


def with_significance(neurons: pd.DataFrame) -> pd.DataFrame:
    """The frame of `load_neurons` with what its columns come to.

    Returns:
        Further columns `skill` and `constant` (bool); `sign`, 1 if the neuron agrees with the goal more often than by
        chance, -1 if less often, 0 for a constant one; `q_value`, p adjusted for all neurons of the
        scoring (Benjamini, Hochberg 1995), NaN where no null was measured; `significant`, at `LEVEL`.
    """
    on = neurons["n11"] + neurons["n10"]
    constant = (on == 0) | (on == on + neurons["n01"] + neurons["n00"])
    q = neurons.groupby(_SCORING, sort=False)["p_value"].transform(statistics.false_discovery_rate)
    beyond = (neurons["accuracy"] - neurons["chance_accuracy"]).where(~constant, 0.0)
    return neurons.assign(
        skill=neurons["mask"] < 1,
        constant=constant,
        sign=np.sign(beyond),
        q_value=q,
        significant=(q <= LEVEL) & ~constant,
    )


def selection(neurons: pd.DataFrame, by_layer: bool = False) -> pd.DataFrame:
    """What was selected, a row per run, visit and network, or layer of it.

    Returns:
        Columns sequence, arm, seed, visit, task, network, (layer,) label_rate, neurons and skill (counts); and shares:
        skill_frac of all neurons, constant_frac and significant_frac of all, constant_skill_frac and
        significant_skill_frac of the skill neurons (NaN if there are none, or no null was measured).
    """
    frame = with_significance(neurons)
    frame["significant"] = frame["significant"].astype(float).where(frame["q_value"].notna())
    for name in ("constant", "significant"):
        frame[f"{name}_skill"] = frame[name].astype(float).where(frame["skill"])
    keys = [*_SCORING, "task", "network", *(["layer"] if by_layer else [])]
    return frame.groupby(keys, as_index=False).agg(
        label_rate=("label_rate", "first"),
        neurons=("neuron", "size"),
        skill=("skill", "sum"),
        skill_frac=("skill", "mean"),
        constant_frac=("constant", "mean"),
        significant_frac=("significant", "mean"),
        constant_skill_frac=("constant_skill", "mean"),
        significant_skill_frac=("significant_skill", "mean"),
    )


def overlaps(neurons: pd.DataFrame) -> pd.DataFrame:
    """How many skill neurons two scorings of a network have in common, beside how many chance would give them.

    Returns:
        A row per pair, with columns sequence, arm, network; seed, visit, task and other_seed, other_visit, other_task;
        between: "tasks" and "visits" for two visits of one seed, to different tasks or the same one; "seeds" for the
        same visit of two seeds, whose neurons have their places alone in common; skill, other_skill, common (counts);
        overlap: common as a share of the smaller set, NaN if that is empty; chance: the same of random sets.
    """
    sets: dict[tuple[str, str, str], list[tuple[int, int, str, np.ndarray]]] = {}
    ordered = neurons.sort_values(_NEURON, kind="stable")
    for (sequence, arm, seed, visit, network), own in ordered.groupby(_NETWORK):
        skill = (own["mask"] < 1).to_numpy()
        sets.setdefault((sequence, arm, network), []).append((seed, visit, str(own["task"].iloc[0]), skill))
    rows = []
    for (sequence, arm, network), scorings in sets.items():
        for (seed, visit, task, a), (other_seed, other_visit, other_task, b) in itertools.combinations(scorings, 2):
            if len(a) != len(b) or (seed != other_seed and visit != other_visit):
                continue
            within = "visits" if task == other_task else "tasks"
            common, smaller = int((a & b).sum()), min(int(a.sum()), int(b.sum()))
            rows.append(
                {
                    "sequence": sequence,
                    "arm": arm,
                    "network": network,
                    "between": within if seed == other_seed else "seeds",
                    "seed": seed,
                    "visit": visit,
                    "task": task,
                    "other_seed": other_seed,
                    "other_visit": other_visit,
                    "other_task": other_task,
                    "skill": int(a.sum()),
                    "other_skill": int(b.sum()),
                    "common": common,
                    "overlap": common / smaller if smaller else np.nan,
                    "chance": a.sum() * b.sum() / len(a) / smaller if smaller else np.nan,
                }
            )
    return pd.DataFrame(rows)


def fates(neurons: pd.DataFrame, changes: pd.DataFrame) -> pd.DataFrame:
    """What became of every neuron from one visit to the next.

    Args:
        neurons: of `load_neurons`.
        changes: of `incoming_changes`.

    Returns:
        A row per neuron and visit that another followed, with columns sequence, arm, seed, visit, task, network, layer,
        neuron, skill; weight_change, relative, over the next visit; activation_change, of the standard activation to
        the task's next visit, over the layer's mean size, NaN without one; and fate, one of `FATES`, for skill
        neurons, missing for others and where the next visit has no scores.
    """
    frame = with_significance(neurons)
    columns = [*_NEURON, "skill", "constant"]
    after = frame[columns].assign(visit=frame["visit"] - 1).rename(columns={"skill": "again", "constant": "still"})
    frame = frame.merge(changes, on=_NEURON).merge(after, on=_NEURON, how="left")
    fate = np.select(
        [
            frame["constant"],
            frame["still"].fillna(False).astype(bool),
            frame["again"].fillna(False).astype(bool),
            frame["weight_change"] <= KEPT,
        ],
        FATES[:-1],
        FATES[-1],
    )
    frame["fate"] = pd.Series(fate, frame.index).where(frame["skill"] & frame["still"].notna())
    return frame.merge(_activation_changes(neurons), on=_NEURON, how="left")[
        [*_SCORING, "task", "network", "layer", "neuron", "skill", "weight_change", "activation_change", "fate"]
    ]


def _activation_changes(neurons: pd.DataFrame) -> pd.DataFrame:
    """From a visit to the next one of the same task, in units of the layer's mean size."""
    place = ["sequence", "arm", "seed", "network", "layer"]
    ordered = neurons.sort_values(_NEURON, kind="stable")
    later = ordered.groupby([*place, "neuron", "task"])["mean_activation"].shift(-1)
    size = ordered["mean_activation"].abs().groupby([ordered[name] for name in [*place, "visit"]]).transform("mean")
    change = (later - ordered["mean_activation"]).abs() / size.where(size > 0)
    return ordered[_NEURON].assign(activation_change=change)


def fate_shares(fate: pd.DataFrame) -> pd.DataFrame:
    """`fates` as shares of the skill neurons, and how far these and the free ones moved, by arm, network and visit.

    Returns:
        Columns sequence, arm, network, visit, task, seeds; each of `FATES` as a share over all seeds (NaN where nobody
        knows); skill_weight_change, free_weight_change, skill_activation_change, free_activation_change: medians.
    """
    rows = []
    keys = ["sequence", "arm", "network", "visit", "task"]
    for key, own in fate.groupby(keys):
        skill, free = own[own["skill"]], own[~own["skill"]]
        known = skill["fate"].dropna()
        row = dict(zip(keys, key, strict=True)) | {"seeds": own["seed"].nunique()}
        row |= {name: (known == name).mean() if len(known) else np.nan for name in FATES}
        for kind in ("weight", "activation"):
            row |= {f"skill_{kind}_change": skill[f"{kind}_change"].median()}
            row |= {f"free_{kind}_change": free[f"{kind}_change"].median()}
        rows.append(row)
    return pd.DataFrame(rows)


def ledger(neurons: pd.DataFrame) -> pd.DataFrame:
    """How much of a network the skill neurons of all its visits take together, and would take of more tasks.

    Looking ahead, each further task takes of the neurons that are still free the share that the tasks so far took on
    average: after n tasks 1 - (1 - used)^(n / tasks).

    Returns:
        A row per run and network, with columns sequence, arm, seed, network, neurons, tasks (distinct), used (share
        in the union of all masks), largest (share of the largest mask), and `used_N` for each of `PROJECTED`.
    """
    rows = []
    keys = ["sequence", "arm", "seed", "network"]
    for key, own in neurons.assign(skill=neurons["mask"] < 1).groupby(keys):
        used = float(own.groupby(["layer", "neuron"])["skill"].any().mean())
        tasks = own["task"].nunique()
        row = dict(zip(keys, key, strict=True))
        row |= {"neurons": own.groupby("visit").size().max(), "tasks": tasks, "used": used}
        row |= {"largest": own.groupby("visit")["skill"].mean().max()}
        row |= {f"used_{n}": 1 - (1 - used) ** (n / tasks) for n in PROJECTED}
        rows.append(row)
    return pd.DataFrame(rows)


def constant_masked(training: pd.DataFrame) -> pd.DataFrame:
    """The share of constant neurons among those that were masked, as the rows of a run tell it without its arrays.

    Args:
        training: of `load_training`.

    Returns:
        A row per run and visit in which masks were in force, with columns sequence, arm, seed, visit, label_rate of the
        scoring that they came of, and policy, qf and qf_twin: the shares. Empty if no row tells.
    """
    named = {f"constant_skill_frac_{name}": name for name in ("policy", "qf", "qf_twin")}
    if not named.keys() & set(training.columns):
        return pd.DataFrame()
    told = training.reindex(columns=[*_SCORING, "label_rate", *named]).rename(columns=named)
    told = told.dropna(subset=list(named.values()), how="all")
    return told.groupby(_SCORING, as_index=False).last()
