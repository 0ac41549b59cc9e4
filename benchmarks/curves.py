"""Training episodes of several seeds and arms to learning curves, paired differences, tables and a figure.

An arm's curve is the mean over seeds of each seed's mean in a window of environment steps. Two arms are compared by
seed, as runs of one seed meet the same environments; intervals are of 95 % (`analysis.statistics.interval`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.figures import arm_styles, settings
from analysis.statistics import Interval, interval
from benchmarks.contender import Episode

METRICS = {"success": "training success", "return": "training return"}
"""What is read off an episode, and how the figure and the tables call it."""
DIGITS = {"success": 2, "return": 0}

Seeds = Mapping[int, Sequence[Episode]]
"""The episodes of one arm's runs, by seed."""


@dataclass(frozen=True)
class Comparison:
    """An arm against another, by seed.

    Attributes:
        arm, base: their names.
        metric: a key of `METRICS`.
        windows: mean of the arm's difference to `base` in each window.
        last_half: the same over all episodes that ended in the second half of the environment steps.
    """

    arm: str
    base: str
    metric: str
    windows: list[Interval]
    last_half: Interval

    @property
    def verdict(self) -> str:
        """A sentence."""
        return f"{self.metric}: {self.arm} {_relation(self.last_half)} {self.base}: {_signed(self.metric, self)}"


LEAST_SEEDS = 5
"""For a verdict: the interval of two or three differences is far from its 95 % where these are not normal."""


def _relation(difference: Interval) -> str:
    if difference.n < LEAST_SEEDS:
        return "is not to be told from"
    if difference.high < 0.0:
        return "learns WORSE than"
    if difference.low > 0.0:
        return "learns BETTER than"
    return "shows no difference to"


def _signed(metric: str, comparison: Comparison) -> str:
    """The difference over the last half, for people."""
    difference, digits = comparison.last_half, DIGITS[metric]
    seeds = f"over the last half, {difference.n} {'seed' if difference.n == 1 else 'seeds'} of both"
    interval = "" if math.isnan(difference.low) else f" [{difference.low:+,.{digits}f}, {difference.high:+,.{digits}f}]"
    more = f"; that takes {LEAST_SEEDS} seeds or more" if difference.n < LEAST_SEEDS else ""
    return f"{difference.mean:+,.{digits}f}{interval} {seeds}{more}"


def values_of(metric: str, episodes: Sequence[Episode]) -> np.ndarray:
    """A number an episode."""
    return np.array([e.success if metric == "success" else e.episode_return for e in episodes], float)


def window_means(metric: str, episodes: Sequence[Episode], env_steps: int, window: int) -> np.ndarray:
    """Mean of the episodes that ended in each window (0, window], (window, 2 window], ...; NaN where none did.

    Args:
        metric: a key of `METRICS`.
        episodes: of one run.
        env_steps: of the run.
        window: in environment steps.
    """
    count = -(-env_steps // window)
    place = np.array([(e.env_steps - 1) // window for e in episodes], int)
    with np.errstate(invalid="ignore"):
        return np.bincount(place, values_of(metric, episodes), count) / np.bincount(place, minlength=count)


def last_half_mean(metric: str, episodes: Sequence[Episode], env_steps: int) -> float:
    """Mean of the episodes that ended in the second half of the run; NaN if none did."""
    late = values_of(metric, [e for e in episodes if 2 * e.env_steps > env_steps])
    return float(late.mean()) if len(late) else math.nan


def over_seeds(rows: Sequence[np.ndarray]) -> list[Interval]:
    """Mean and interval of each column; rows are seeds."""
    return [interval(column) for column in np.stack(rows).T]


def curve(metric: str, seeds: Seeds, env_steps: int, window: int) -> list[Interval]:
    """An arm's learning curve."""
    return over_seeds([window_means(metric, episodes, env_steps, window) for episodes in seeds.values()])


def compare(metric: str, arms: Mapping[str, Seeds], arm: str, base: str, env_steps: int, window: int) -> Comparison:
    """An arm against another, over the seeds that both have.

    Args:
        metric: a key of `METRICS`.
        arms: episodes by arm and seed.
        arm, base: two of them with a seed in common.
        env_steps, window: see `window_means`.
    """
    pairs = [(arms[arm][seed], arms[base][seed]) for seed in arms[arm] if seed in arms[base]]
    windows = [[window_means(metric, episodes, env_steps, window) for episodes in pair] for pair in pairs]
    halves = [[last_half_mean(metric, episodes, env_steps) for episodes in pair] for pair in pairs]
    return Comparison(
        arm,
        base,
        metric,
        over_seeds([ours - theirs for ours, theirs in windows]),
        interval([ours - theirs for ours, theirs in halves]),
    )


@dataclass(frozen=True)
class TaskCurves:
    """All that the runs of one task come to.

    Attributes:
        env_steps, window: see `window_means`.
        curves: by arm and metric.
        comparisons: each arm with the first one, and then with the second one, in each metric.
    """

    env_steps: int
    window: int
    curves: dict[str, dict[str, list[Interval]]]
    comparisons: list[Comparison]

    @classmethod
    def of(cls, arms: Mapping[str, Seeds], env_steps: int, window: int) -> TaskCurves:
        """From episodes by arm and seed; arms are compared in their order."""
        curves = {
            arm: {metric: curve(metric, seeds, env_steps, window) for metric in METRICS} for arm, seeds in arms.items()
        }
        names = list(arms)
        pairs = [(arm, base) for place, base in enumerate(names) for arm in names[place + 1 :]]
        comparisons = [
            compare(metric, arms, arm, base, env_steps, window)
            for arm, base in pairs
            if arms[arm].keys() & arms[base].keys()
            for metric in METRICS
        ]
        return cls(env_steps, window, curves, comparisons)

    def report(self) -> dict[str, Any]:
        """As the JSON file has it; null where there is no interval."""
        return {
            "window": self.window,
            "curves": {
                arm: {metric: [_plain(point) for point in points] for metric, points in metrics.items()}
                for arm, metrics in self.curves.items()
            },
            "comparisons": [
                {
                    "arm": c.arm,
                    "base": c.base,
                    "metric": c.metric,
                    "windows": [_plain(point) for point in c.windows],
                    "last_half": _plain(c.last_half),
                    "verdict": c.verdict,
                }
                for c in self.comparisons
            ],
        }

    def table(self, task: str) -> str:
        """The curves and the paired differences as Markdown, a row a window, and the verdicts."""
        sections = [f"### {task}"]
        for metric, title in METRICS.items():
            columns = {arm: metrics[metric] for arm, metrics in self.curves.items()}
            columns |= {f"{c.arm} - {c.base}": c.windows for c in self.comparisons if c.metric == metric}
            head = f"| {title}, steps to | " + " | ".join(columns) + " |"
            rows = [
                f"| {min((number + 1) * self.window, self.env_steps):,} | "
                + " | ".join(_cell(metric, points[number]) for points in columns.values())
                + " |"
                for number in range(-(-self.env_steps // self.window))
            ]
            sections.append("\n".join([head, "| ---: |" + " ---: |" * len(columns), *rows]))
        sections.append("\n".join(f"{task}, {c.verdict}" for c in self.comparisons))
        return "\n\n".join(sections)


def _plain(point: Interval) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(point).items()
    }


def _cell(metric: str, point: Interval) -> str:
    if math.isnan(point.mean):
        return ""
    digits = DIGITS[metric]
    return f"{point.mean:,.{digits}f}" + ("" if math.isnan(point.low) else f" ± {point.half_width:,.{digits}f}")


def draw(tasks: Mapping[str, TaskCurves], path: Path) -> None:
    """A row of panels for each task, a column for each metric: means with their intervals as bands."""
    styles = arm_styles(list(dict.fromkeys(arm for task in tasks.values() for arm in task.curves)))
    with settings():
        figure = Figure(figsize=(9.5, 3.2 * len(tasks)), layout="constrained")
        panels = figure.subplots(len(tasks), len(METRICS), squeeze=False)
        for row, (task, result) in zip(panels, tasks.items(), strict=True):
            for axes, (metric, title) in zip(row, METRICS.items(), strict=True):
                for arm, metrics in result.curves.items():
                    points = metrics[metric]
                    steps = [min((i + 1) * result.window, result.env_steps) for i in range(len(points))]
                    color, dash = styles[arm].color, styles[arm].dash
                    seeds = max(point.n for point in points)
                    axes.plot(steps, [p.mean for p in points], label=f"{arm} (n={seeds})", color=color, linestyle=dash)
                    low, high = [p.low for p in points], [p.high for p in points]
                    axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
                axes.set_title(f"{task}: {title}")
                axes.set_xlabel("environment steps")
                if metric == "success":  # the intervals of few seeds reach beyond what a share can be
                    axes.set_ylim(-0.03, 1.03)
                axes.legend()
        figure.savefig(path, dpi=120)
