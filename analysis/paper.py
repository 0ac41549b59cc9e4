"""The paper's published numbers, which of our arms are its arms, and both side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from . import metrics, statistics
from .rows import shown
from .schema import GAMES, Results, TaskOrder
from .tables import arm_order
from .text import NO_VALUE, difference_cell, headings, interval_text, short_name, steps_text

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

PAPER_SEEDS = 3

SAME = 0.1
"""Means no further apart than this count as the same: two of the 20 episodes of an evaluation."""

SCALES: dict[str, tuple[tuple[int, ...], list[int]]] = {
    "metaworld": ((1_000_000,), [768, 768, 768]),
    GAMES: ((1_500_000, 3_000_000), [768, 768]),
}
"""By suite: environment steps that a visit of the paper may take, and its hidden layers (Table 6, App. C.3)."""

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
    settings, replay, boundary = (_section(config, name) for name in ("method_settings", "replay", "boundary"))
    if method != "nbsp":
        return None if settings.get("with_replay") else PAPER_METHODS.get(method)
    if not config or boundary.get("reset_alpha"):
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


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a run's settings; empty if the file has no such section."""
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}


def scale_difference(config: Mapping[str, Any], suite: str) -> str | None:
    """What of a run's scale is not the paper's: the length of a visit, the hidden layers.

    Returns:
        Words; empty if nothing is, None if the run left no settings to tell.
    """
    visit, model = (config.get(section) for section in ("visit", "model"))
    if not isinstance(visit, Mapping) or not isinstance(model, Mapping) or suite not in SCALES:
        return None
    budgets, hidden = SCALES[suite]
    steps, own = visit.get("max_env_steps"), model.get("hidden")
    words = []
    if steps not in budgets:
        asked = steps_text(steps) if isinstance(steps, int) else shown(steps)
        words.append(f"visits of {asked} env steps, the paper's {' or '.join(map(steps_text, budgets))}")
    if own != hidden:
        words.append(f"hidden layers {shown(own)}, the paper's {hidden}")
    return "; ".join(words)


def difference_interval(
    values: ArrayLike, mean: float, spread: float, limits: statistics.Limits = statistics.UNBOUNDED
) -> statistics.Interval:
    """Our mean less a published one, with Welch's 95 % interval in which both spread.

    The paper does not say whether its number after +- is a standard deviation or error of its three seeds; it is taken
    for an error, the wider of the two, so that no verdict hangs on it. Printed as 0.00 it may be 0.005.

    Args:
        values: ours, one a seed; NaN entries are left out.
        mean, spread: as printed.
        limits: the least and the greatest mean that there can be.

    Returns:
        No interval if we have one seed. Freedom is Welch and Satterthwaite's (Welch 1947, Biometrika 34:28-35).
    """
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    n = len(finite)
    if n < 2:
        return statistics.Interval(float(finite.mean()) - mean if n else np.nan, np.nan, np.nan, n, "none")
    ours, theirs = finite.var(ddof=1) / n, max(spread, 0.005) ** 2
    freedom = (ours + theirs) ** 2 / (ours**2 / (n - 1) + theirs**2 / (PAPER_SEEDS - 1))
    half = float(stats.t.ppf(0.975, freedom) * np.sqrt(ours + theirs))
    difference = float(finite.mean()) - mean
    low, high = np.clip([difference - half, difference + half], limits[0] - limits[1], limits[1] - limits[0])
    return statistics.Interval(difference, float(low), float(high), n, "t")


def verdict(low: float, high: float) -> str:
    """What an interval of a difference says: agrees, differs, or inconclusive.

    Agrees: it lies within `SAME`, the two one-sided tests of equivalence (Schuirmann 1987) at 2.5 %. Differs: it does
    not, and leaves out 0. So more noise never makes an agreement, nor do fewer seeds.
    """
    if -SAME <= low and high <= SAME:
        return "agrees"
    return "differs" if low > 0 or high < 0 else "inconclusive"


def compare_with_paper(results: Results, values: pd.DataFrame) -> pd.DataFrame:
    """Our seeds next to the published means, a row per arm and metric that the paper has.

    Args:
        results: a loaded study.
        values: the output of `tables.metric_values`.

    Returns:
        Columns sequence, arm, method, metric, mean, low, high, n (ours), tasks, source, paper_method, paper_mean,
        paper_spread, difference, difference_low, difference_high, scale (`scale_difference`) and verdict: that of
        `verdict`; or why there is none: another scale, scale unknown, another protocol.
    """
    paper = load_paper().set_index(["tasks", "method", "metric"])
    runs = {(run.sequence, run.arm): run.config for run in results.runs}
    protocol = str(values["protocol"].iloc[0])
    suite = GAMES if results.of_returns else "metaworld"
    ranks = {arm: rank for rank, arm in enumerate(arm_order(results))}
    rows = []
    for sequence, arm in sorted(runs, key=lambda pair: (pair[0], ranks[pair[1]])):
        order, config = results.orders.get(sequence), runs[sequence, arm]
        own = values[(values["sequence"] == sequence) & (values["arm"] == arm)]
        # The paper cycles twice; another number of visits gives other numbers by arithmetic alone.
        if order is None or own.empty or order.order != list(range(len(order.tasks))) * 2:
            continue
        tasks = paper_tasks(order)
        name = paper_method(own["method"].iloc[0], config)
        scale = scale_difference(config, suite)
        for metric in metrics.METRICS:
            if name is None or (tasks, name, metric) not in paper.index:
                continue
            published = paper.loc[(tasks, name, metric)]
            limits = metrics.limits_of(metric, results.of_returns, protocol)
            ours = statistics.interval(own[metric], limits=limits)
            between = difference_interval(own[metric], published["mean"], published["spread"], limits)
            said = (
                "scale unknown" if scale is None else "another scale" if scale else verdict(between.low, between.high)
            )
            rows.append(
                {
                    "sequence": sequence,
                    "arm": arm,
                    "method": own["method"].iloc[0],
                    "metric": metric,
                    "mean": ours.mean,
                    "low": ours.low,
                    "high": ours.high,
                    "n": ours.n,
                    "tasks": tasks,
                    "source": published["source"],
                    "paper_method": name,
                    "paper_mean": float(published["mean"]),
                    "paper_spread": float(published["spread"]),
                    "difference": between.mean,
                    "difference_low": between.low,
                    "difference_high": between.high,
                    "scale": scale,
                    "verdict": "another protocol" if protocol != "nbsp-visits" else said,
                }
            )
    return pd.DataFrame(rows)


def paper_tasks(order: TaskOrder) -> str:
    """The tasks of a sequence as the paper's tables name them."""
    return " -> ".join(short_name(task) for task in order.tasks)


def published_table(comparison: pd.DataFrame, sequence: str, source: str, of_returns: bool = False) -> pd.DataFrame:
    """One published table as it is laid out, methods as columns, with ours under each of its numbers.

    Args:
        comparison: the output of `compare_with_paper`.
        sequence: name of the task sequence.
        source: the table, as in `load_paper`.
        of_returns: whether the metrics are of normalised returns.

    Returns:
        Text: for each metric the rows paper (the best in `**`), ours, difference and verdict; where several arms are
        one of its methods, each has rows. NBSP, which each table of ablations repeats, is its last column.
    """
    own = comparison[comparison["sequence"] == sequence]
    paper = load_paper()
    paper = paper[paper["tasks"] == own["tasks"].iloc[0]]
    names = list(dict.fromkeys([*paper.loc[paper["source"] == source, "method"], "NBSP"]))
    rows = []
    for metric in metrics.METRICS:
        printed = paper[(paper["metric"] == metric) & paper["method"].isin(names)].set_index("method")
        best = printed["mean"].min() if metric == "fm" else printed["mean"].max()
        texts = {
            name: f"**{text}**" if mean == best else text
            for name, mean, text in zip(
                printed.index,
                printed["mean"],
                [f"{m:.2f} ± {s:.2f}" for m, s in zip(printed["mean"], printed["spread"], strict=True)],
                strict=True,
            )
        }
        heading = headings(of_returns)[metric]
        rows.append({"Metric": heading, "Of": "paper", **{name: texts.get(name, NO_VALUE) for name in names}})
        ours = {
            name: own[(own["metric"] == metric) & (own["paper_method"] == name)].to_dict("records") for name in names
        }
        for number in range(max(map(len, ours.values()))):
            for what, text in OUR_ROWS.items():
                cells = {name: text(ours[name][number]) if number < len(ours[name]) else "" for name in names}
                rows.append({"Metric": heading, "Of": what, **cells})
    return pd.DataFrame(rows)


OUR_ROWS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "ours": lambda row: f"{row['arm']}: {interval_text(row['mean'], row['low'], row['high'])} (n={row['n']})",
    "difference": lambda row: difference_cell(row["difference"], row["difference_low"], row["difference_high"]),
    "verdict": lambda row: row["verdict"],
}
"""What stands under each published number, and how it is written."""
