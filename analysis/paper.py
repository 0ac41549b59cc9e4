"""The paper's published numbers, which of our arms are its arms, and both side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import metrics
from .schema import Results
from .text import short_name

PAPER_METHODS = {
    "sac": "Base",
    "ewc": "EWC",
    "npc": "NPC",
    "ancl": "ANCL",
    "cotasp": "CoTASP",
    "crelu": "CReLU",
    "cbp": "CBP",
    "plasticity_injection": "PI",
}
"""Registered methods -> the paper's names; NBSP and its ablations are told apart by their settings."""

# The values of NBSP's keys that some arm of the paper has, the default first.
PAPER_NBSP: dict[str, tuple[Any, ...]] = {
    "skill_frac": (0.2, 0.0),
    "score": ("literal", "random"),
    "mask_alpha": (0.2,),
    "mask_side": ("in",),
    "mask_last_layer": (False,),
    "accumulate": ("latest",),
    "pool": ("network",),
    "exclude_constant": (False,),
}


def load_paper() -> pd.DataFrame:
    """The published numbers of Lan et al. 2025 (arXiv:2504.08000); the columns are those of `PAPER_COLUMNS`."""
    return pd.read_csv(Path(__file__).with_name("paper.csv"), comment="#")


def paper_method(method: str, config: Mapping[str, Any]) -> str | None:
    """The paper's name for an arm: of its method or, for NBSP, of the one ablation that its settings make.

    Returns:
        None if the paper has no such arm, or it cannot be told because the run left no settings.
    """
    settings, replay = config.get("method_settings") or {}, config.get("replay") or {}
    if method != "nbsp":
        return None if settings.get("with_replay") else PAPER_METHODS.get(method)
    if not config or (config.get("boundary") or {}).get("reset_alpha"):
        return None
    if any(settings.get(key, values[0]) not in values for key, values in PAPER_NBSP.items()):
        return None
    ablations = [
        name
        for name, is_made in {
            "Mask-Only": settings.get("with_replay") is False or replay.get("prior_capacity") == 0,
            "Replay-Only": settings.get("skill_frac") == 0,
            "Random": settings.get("score") == "random",
            "Actor": settings.get("modules") == "actor",
            "Critic": settings.get("modules") == "critic",
            "": settings.get("uniform_lr", "off") != "off",
        }.items()
        if is_made
    ]
    if len(ablations) > 1:
        return None
    return (ablations[0] or None) if ablations else "NBSP"


def compare_with_paper(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Our means next to the published ones, a row per arm and metric that the paper has.

    Returns:
        Columns sequence, arm, method, metric, mean, half_width, low, high, n, paper_method, paper_mean, paper_spread,
        source, difference, reproduced (yes: the published mean lies in our interval; no; "n too small" under 2 seeds).
    """
    paper = load_paper().set_index(["tasks", "method", "metric"])
    configs = {(run.sequence, run.arm): run.config for run in results.runs}
    rows = []
    for row in table.itertuples(index=False):
        order = results.orders.get(row.sequence)
        name = paper_method(row.method, configs[row.sequence, row.arm]) if isinstance(row.method, str) else None
        # The paper cycles twice; another number of visits gives other numbers by arithmetic alone.
        if order is None or name is None or order.order != list(range(len(order.tasks))) * 2:
            continue
        tasks = " -> ".join(short_name(task) for task in order.tasks)
        for metric in metrics.METRICS:
            if (tasks, name, metric) in paper.index:
                published = paper.loc[(tasks, name, metric)]
                mean, low, high = (getattr(row, f"{metric}_{part}") for part in ("mean", "low", "high"))
                rows.append(
                    {
                        "sequence": row.sequence,
                        "arm": row.arm,
                        "method": row.method,
                        "metric": metric,
                        "mean": mean,
                        "half_width": getattr(row, f"{metric}_half_width"),
                        "low": low,
                        "high": high,
                        "n": getattr(row, f"{metric}_n"),
                        "paper_method": name,
                        "paper_mean": float(published["mean"]),
                        "paper_spread": float(published["spread"]),
                        "source": published["source"],
                        "difference": mean - float(published["mean"]),
                        "reproduced": _reproduced(low, high, float(published["mean"])),
                    }
                )
    return pd.DataFrame(rows)


def _reproduced(low: float, high: float, published: float) -> str:
    if not (np.isfinite(low) and np.isfinite(high)):
        return "n too small"
    return "yes" if low <= published <= high else "no"
