"""Histograms of single neurons' activations, by whether the task's goal was reached, as runs have saved them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from rllib_nbsp.reading import read_arrays

from .metrics import FloatArray
from .rows import say
from .schema import Run


@dataclass(frozen=True)
class Activation:
    """One neuron after one visit."""

    visit: int
    task: str
    network: str
    layer: int
    """From 0."""
    neuron: int
    score: float
    edges: FloatArray
    """Of the bins, shape (bins + 1,)."""
    success: FloatArray
    """Steps with the goal above its mean in each bin, shape (bins,)."""
    failure: FloatArray
    """The other steps."""


def top_activations(
    runs: Iterable[Run], neurons: pd.DataFrame, network: str = "policy", notes: list[str] | None = None
) -> list[Activation]:
    """For each visit the highest scored neuron of one network that moves, of the first seed that has one.

    Args:
        runs: `find_runs`.
        neurons: `load_neurons`, the rows of one sequence and arm.
        network: policy, qf or qf_twin.
        notes: receives a line for each file that could not be read.
    """
    by_label = {(run.sequence, run.arm, run.seed): run for run in runs}
    above = neurons["n11"] + neurons["n10"]
    steps = above + neurons["n01"] + neurons["n00"]
    moving = neurons[(neurons["network"] == network) & (above > 0) & (above < steps)]
    best = moving.sort_values(["visit", "seed", "score"], ascending=[True, True, False], kind="stable")
    found = []
    for row in best.drop_duplicates("visit").itertuples(index=False):
        run = by_label[row.sequence, row.arm, row.seed]
        path = run.path / "neurons" / f"visit_{row.visit:02d}.npz"
        try:
            arrays = read_arrays(path)
            edges, success, failure = (
                arrays[f"{network}/{row.layer}/{name}"][row.neuron].astype(float)
                for name in ("hist_edges", "hist_success", "hist_failure")
            )
        except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
            say(notes, f"{run.label}/neurons/{path.name}: its histograms are left out ({error})")
            continue
        found.append(
            Activation(row.visit, row.task, network, row.layer, row.neuron, row.score, edges, success, failure)
        )
    return found
