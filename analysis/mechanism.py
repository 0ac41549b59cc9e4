"""How actor and critics fare in training: training rows' columns of plasticity and mechanism as one tidy frame.

Formulas and sources of the quantities are in docs/glossary.md; a row of `training.jsonl` has them if it was measured,
and rows of earlier versions never have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from . import statistics
from .text import NO_VALUE

NETWORKS: dict[str, tuple[str, ...]] = {"actor": ("policy",), "critics": ("qf", "qf_twin")}
"""What is shown together, and the networks whose mean it is."""

SHARE: statistics.Limits = (0.0, 1.0)
POSITIVE: statistics.Limits = (0.0, np.inf)

VISIT = ["sequence", "arm", "seed", "visit"]
RUN = ["sequence", "arm", "seed"]


@dataclass(frozen=True)
class Quantity:
    """One thing that is measured of a network."""

    heading: str
    """Of a column or panel."""
    limits: statistics.Limits = POSITIVE
    logarithmic: bool = False
    """Whether figures draw it over decades."""


MAIN = {
    "dormant_frac": Quantity("Dormant share", SHARE),
    "stable_rank": Quantity("Stable rank"),
    "effective_rank": Quantity("Effective rank"),
    "weight_diff": Quantity("Weight distance"),
    "effective_lr": Quantity("Effective lr", logarithmic=True),
    "churn": Quantity("Churn", logarithmic=True),
}
"""Columns that a reader needs first, with their names."""

BY_LAYER = {
    "dead_frac": Quantity("Dead share", SHARE),
    "dormant_frac": MAIN["dormant_frac"],
    "active_frac": Quantity("Active share", SHARE),
    "grad_dormant_frac": Quantity("Gradient-dormant share", SHARE),
}
"""Columns that each hidden layer has."""

FURTHER = {
    "srank": Quantity("srank"),
    "feature_norm": Quantity("Feature norm"),
    "weight_norm": Quantity("Weight norm"),
    "grad_norm": Quantity("Gradient norm"),
    "churn_representation": Quantity("Churn by representation"),
    "churn_head": Quantity("Churn by head"),
}
"""The other columns that each network has."""

STEP_RATIO = "masked_step_ratio"
"""Columns, of methods that mask, with the mean length of masked weights' last step over that of the others."""

QUANTITIES = MAIN | BY_LAYER | FURTHER


def mechanism_values(training: pd.DataFrame) -> pd.DataFrame:
    """What was measured of actor and critics.

    Args:
        training: `load_training`.

    Returns:
        A row for each measured row and each of `NETWORKS`: columns sequence, arm, seed, visit, visit_env_steps,
        env_steps, shared_from, network, and those of `QUANTITIES`: means over the networks and, of `BY_LAYER`, over
        their hidden layers. NaN where a row does not have it or it cannot be; empty where no row was measured.
    """
    frames = []
    for network, members in NETWORKS.items():
        columns = {name: _columns(training, name, members) for name in QUANTITIES}
        if any(columns.values()):
            means = {name: _mean(training, found, QUANTITIES[name].limits) for name, found in columns.items()}
            frame = training[[*VISIT, "visit_env_steps", "env_steps", "shared_from"]].assign(network=network, **means)
            frames.append(frame.dropna(subset=list(QUANTITIES), how="all"))
    if not frames:
        return pd.DataFrame()
    return pd.concat(frames, ignore_index=True)


def layer_values(training: pd.DataFrame) -> pd.DataFrame:
    """The columns of `BY_LAYER` at the end of each run.

    Returns:
        Columns sequence, arm, seed, network, layer (from 0) and those of `BY_LAYER`: means over the networks; empty
        where no row was measured.
    """
    frames = []
    for network, members in NETWORKS.items():
        layers = {name: _layers(training, name, members) for name in BY_LAYER}
        for layer in sorted(set().union(*layers.values())):
            means = {
                name: _mean(training, found.get(layer, []), BY_LAYER[name].limits) for name, found in layers.items()
            }
            frame = training[[*VISIT, "env_steps"]].assign(network=network, layer=layer, **means)
            frames.append(frame.dropna(subset=list(BY_LAYER), how="all"))
    if not frames:
        return pd.DataFrame()
    return at_the_end(pd.concat(frames, ignore_index=True), ["network", "layer"])


def at_the_end(values: pd.DataFrame, of: list[str]) -> pd.DataFrame:
    """For each run, and each of what else the columns `of` tell apart, the last row."""
    ordered = values.sort_values(["visit", "env_steps"], kind="stable")
    return ordered.drop_duplicates([*RUN, *of], keep="last").sort_index(kind="stable")


def step_ratios(training: pd.DataFrame) -> pd.DataFrame:
    """How long masked weights' steps were beside the others', where a run has masks.

    Returns:
        Columns sequence, arm, seed and one for each of `NETWORKS`: the median over the rows of all visits, of the
        critics of both; without rows where no run has it.
    """
    found = {network: _columns(training, STEP_RATIO, members) for network, members in NETWORKS.items()}
    means = {network: _mean(training, columns, POSITIVE) for network, columns in found.items()}
    rows = training[RUN].assign(**means).dropna(subset=list(NETWORKS), how="all")
    return rows.groupby(RUN, as_index=False, sort=False)[list(NETWORKS)].median()


# As text


def ends_text(values: pd.DataFrame, quantities: dict[str, Quantity], of: list[str]) -> pd.DataFrame:
    """Means over seeds with 95 % intervals, a row an arm and each of what else the columns `of` tell apart.

    Args:
        values: of `at_the_end` or `layer_values`.
        quantities: its columns that are shown.
        of: further columns that tell rows apart: network, layer.
    """
    rows = []
    keys = ["sequence", "arm", *of]
    for labels, own in values.groupby(keys, sort=False):
        named = dict(zip(keys, labels, strict=True))
        row = {"Sequence": named["sequence"], "Arm": named["arm"], "Network": named["network"]}
        if "layer" in named:
            row["Layer"] = str(named["layer"] + 1)
        row |= {it.heading: estimate_text(own[name], it.limits) for name, it in quantities.items()}
        rows.append(row | {"Seeds": f"n={own['seed'].nunique()}"})
    return pd.DataFrame(rows)


def step_ratios_text(ratios: pd.DataFrame) -> pd.DataFrame:
    """`step_ratios` as means over seeds with 95 % intervals, a row an arm."""
    rows = []
    for (sequence, arm), own in ratios.groupby(["sequence", "arm"], sort=False):
        cells = {f"Masked over other steps, {name}": estimate_text(own[name], POSITIVE) for name in NETWORKS}
        rows.append({"Sequence": sequence, "Arm": arm, **cells, "Seeds": f"n={own['seed'].nunique()}"})
    return pd.DataFrame(rows)


def estimate_text(values: pd.Series, limits: statistics.Limits) -> str:
    """`0.12 [0.09, 0.15]`, with three digits whatever the size; a mean alone for one seed, a dash for none."""
    found = statistics.interval(values, limits=limits)
    if not found.n:
        return NO_VALUE
    mean, low, high = (f"{value:.3g}".replace("e-0", "e-") for value in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]" if np.isfinite(found.low) else mean


# Columns


def _columns(training: pd.DataFrame, name: str, members: tuple[str, ...]) -> list[str]:
    """The columns of a quantity, of all layers where layers have it."""
    layer = r"_\d+" if name in BY_LAYER else ""
    pattern = re.compile(rf"{name}_({'|'.join(members)}){layer}")
    return [column for column in training if pattern.fullmatch(column)]


def _layers(training: pd.DataFrame, name: str, members: tuple[str, ...]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for column in _columns(training, name, members):
        found.setdefault(int(column.rsplit("_", 1)[1]), []).append(column)
    return found


def _mean(training: pd.DataFrame, columns: list[str], limits: statistics.Limits) -> pd.Series:
    """The mean over columns, NaN for what no measurement can be."""
    numbers = training[columns].apply(pd.to_numeric, errors="coerce")
    return numbers.where(np.isfinite(numbers) & numbers.ge(limits[0]) & numbers.le(limits[1])).mean(axis=1)
