"""Activations to scores, scores to skill neurons, skill neurons to masks (Lan et al. 2025, Eq. 1-6). Pure tensor maths.

A "score table" of one network is a list over its hidden layers. Counts are exact integers, means are float64, so that a
score does not depend on how the rollout was cut into chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from scipy.stats import false_discovery_control
from torch import Tensor

from rllib_nbsp.nn.plasticity import DORMANT, is_dormant
from rllib_nbsp.nn.significance import association

HISTOGRAM_BINS = 20

ScoreVariant = Literal["literal", "acc", "balanced", "dormant", "random"]
Pool = Literal["network", "layer", "global"]


@dataclass(frozen=True)
class LayerStatistics:
    """What a rollout of T steps says of one layer's N neurons.

    Attributes:
        counts: (N, 4) int64, steps with (activation above its mean, goal above its mean), (above, not), (not, above),
            (not, not).
        mean_activation: (N,) float64, the standard activation of Eq. 1.
        mean_abs_activation: (N,) float64, for dormancy.
        hist_success, hist_failure: (N, bins) int64, activations at steps whose goal is above, or not above, its mean.
        hist_edges: (N, bins + 1) float64.
        chance_accuracy: (N,) float64, mean `Acc` if the goal is turned against the activations (`significance.py`); NaN
            if nobody asked for that null.
        p_value: (N,) float64, of as much association under the null, 1 for a constant neuron; NaN likewise.
    """

    counts: Tensor
    mean_activation: Tensor
    mean_abs_activation: Tensor
    hist_success: Tensor
    hist_failure: Tensor
    hist_edges: Tensor
    chance_accuracy: Tensor
    p_value: Tensor

    @property
    def accuracy(self) -> Tensor:
        """`Acc` of Eq. 3, (N,): the share of steps at which neuron and goal agree."""
        return (self.counts[:, 0] + self.counts[:, 3]).double() / self.counts.sum(1)

    @property
    def on_rate(self) -> Tensor:
        """Share of steps with the activation above its mean, (N,)."""
        return self.counts[:, :2].sum(1).double() / self.counts.sum(1)

    @property
    def is_constant(self) -> Tensor:
        """Neurons that are never, or always, above their mean, such as dead ones, (N,) bool."""
        return (self.on_rate == 0.0) | (self.on_rate == 1.0)

    @property
    def score(self) -> Tensor:
        """`Score = max(Acc, 1 - Acc)` of Eq. 4, (N,), in [0.5, 1]."""
        return torch.maximum(self.accuracy, 1.0 - self.accuracy)

    @property
    def balanced_score(self) -> Tensor:
        """Eq. 4 on balanced accuracy, the mean of true-positive and true-negative rate (docs/readings.md R9), (N,)."""
        counts = self.counts.double()
        positives, negatives = counts[:, 0] + counts[:, 2], counts[:, 1] + counts[:, 3]
        balanced = 0.5 * (counts[:, 0] / positives.clamp(min=1) + counts[:, 3] / negatives.clamp(min=1))
        return torch.maximum(balanced, 1.0 - balanced)

    @property
    def dormancy(self) -> Tensor:
        """`E|h_j| / mean_k E|h_k|` (Sokar et al. 2023), (N,)."""
        return self.mean_abs_activation / self.mean_abs_activation.mean().clamp(min=1e-12)


@dataclass(frozen=True)
class NeuronScores:
    """The scoring of a finished visit: per network ("policy", "qf", "qf_twin") a list over hidden layers."""

    layers: dict[str, list[LayerStatistics]]
    label_rate: float
    """p: share of steps whose goal proximity is above its mean (Eq. 2)."""
    env_steps: int

    @property
    def degenerate(self) -> bool:
        """All success or all failure: the scores then say nothing of the task."""
        return self.label_rate in (0.0, 1.0)


def goal_proximity(
    gpm: str, success: np.ndarray, rewards: np.ndarray, episode: np.ndarray, complete: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """q(t) of Eq. 2 at every step of a rollout, and which steps count.

    Args:
        gpm: "step": success at the step; "episode_any", "episode_final": success of its episode at any, or at the last
            step; "return": return of its episode.
        success, rewards: (S,).
        episode: (S,), index of the step's episode; steps of one episode are in order of time.
        complete: (episodes,), whether the rollout saw the episode's end.

    Returns:
        q, (S,) float64, and a mask (S,) of the steps to use: incomplete episodes have no label but "step".
    """
    if gpm == "step":
        return success.astype(np.float64), np.ones(len(success), dtype=bool)
    num = len(complete)
    per_episode: np.ndarray
    if gpm == "return":
        per_episode = np.bincount(episode, weights=rewards.astype(np.float64), minlength=num)
    elif gpm == "episode_any":
        per_episode = (np.bincount(episode, weights=success.astype(np.float64), minlength=num) > 0).astype(np.float64)
    elif gpm == "episode_final":
        per_episode = np.zeros(num)
        per_episode[episode] = success  # later steps overwrite earlier ones
    else:
        raise ValueError(f"gpm is {gpm!r}; known: step, episode_any, episode_final, return")
    return per_episode[episode], complete[episode]


def goal_labels(q: np.ndarray) -> np.ndarray:
    """`1[q(t) > mean q]` of Eq. 3, (S,) bool."""
    return q > q.mean()


ActivationChunks = Callable[[], Iterable[list[Tensor]]]


def layer_statistics(
    chunks: ActivationChunks,
    labels: list[Tensor],
    mean_chunks: ActivationChunks | None = None,
    turned: list[Tensor] | None = None,
) -> list[LayerStatistics]:
    """Two streaming passes over a rollout's activations: means (Eq. 1), then comparisons (Eq. 3).

    The (steps, neurons) array never exists as a whole.

    Args:
        chunks: called twice; yields, chunk by chunk, the activities of each hidden layer, each (S, N).
        labels: per chunk the goal's labels, (S,) bool.
        mean_chunks: a second rollout that the means are taken from instead (docs/readings.md R6).
        turned: per chunk the labels of the null, (S, K) bool, as `turned_labels` makes them; None: no p-values.

    Raises:
        ValueError: if there is no step at all.
    """
    steps = 0
    moments: list[_Moments] = []
    for layers in (mean_chunks or chunks)():
        steps += layers[0].shape[0]
        if not moments:
            moments = [_Moments.zeros(h.shape[1], h.device) for h in layers]
        for moment, h in zip(moments, layers, strict=True):
            moment.add(h)
    if steps == 0:
        raise ValueError("cannot score neurons on a rollout of 0 steps")
    nulls = [label.new_zeros(len(label), 0) for label in labels] if turned is None else turned
    comparisons = [_Comparisons(moment, steps, nulls[0].shape[1]) for moment in moments]
    for layers, label, null in zip(chunks(), labels, nulls, strict=True):
        for compared, h in zip(comparisons, layers, strict=True):
            compared.add(h, label, null.to(h.device))
    return [compared.result() for compared in comparisons]


@dataclass
class _Moments:
    total: Tensor
    total_abs: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def zeros(cls, n: int, device: torch.device) -> _Moments:
        zero = torch.zeros(n, dtype=torch.float64, device=device)
        return cls(zero.clone(), zero.clone(), zero + torch.inf, zero - torch.inf)

    def add(self, h: Tensor) -> None:
        wide = h.double()
        self.total += wide.sum(0)
        self.total_abs += wide.abs().sum(0)
        self.low = torch.minimum(self.low, wide.amin(0))
        self.high = torch.maximum(self.high, wide.amax(0))


@dataclass
class _Comparisons:
    moments: _Moments
    steps: int
    turns: int
    counts: Tensor = field(init=False)
    histogram: Tensor = field(init=False)
    turned_both: Tensor = field(init=False)
    turned_goal: Tensor = field(init=False)

    def __post_init__(self) -> None:
        n, device = len(self.moments.total), self.moments.total.device
        self.counts = torch.zeros(n, 4, dtype=torch.int64, device=device)
        self.turned_both = torch.zeros(n, self.turns, device=device)
        self.turned_goal = torch.zeros(self.turns, dtype=torch.int64, device=device)
        self.histogram = torch.zeros(2, n, HISTOGRAM_BINS, dtype=torch.int64, device=device)

    def add(self, h: Tensor, label: Tensor, turned: Tensor) -> None:
        above = h.double() > self.moments.total / self.steps
        goal = label.to(h.device).unsqueeze(1)
        for i, cell in enumerate((above & goal, above & ~goal, ~above & goal, ~above & ~goal)):
            self.counts[:, i] += cell.sum(0)
        # Sums of ones, exact in float32 below 2**24 steps.
        self.turned_both += above.float().T @ turned.float()
        self.turned_goal += turned.sum(0)
        width = (self.moments.high - self.moments.low).clamp(min=1e-12)
        bins = ((h.double() - self.moments.low) / width * HISTOGRAM_BINS).long().clamp(0, HISTOGRAM_BINS - 1)
        for side, rows in ((0, label.bool()), (1, ~label.bool())):
            chosen = bins[rows.to(h.device)]
            self.histogram[side].scatter_add_(1, chosen.T, torch.ones_like(chosen.T))

    def result(self) -> LayerStatistics:
        low, high = self.moments.low, self.moments.high
        grid = torch.linspace(0.0, 1.0, HISTOGRAM_BINS + 1, dtype=torch.float64, device=low.device)
        chance = p_value = torch.full_like(low, torch.nan)
        if self.turns:
            chance, p_value = association(self.counts, self.turned_both, self.turned_goal)
        return LayerStatistics(
            counts=self.counts,
            mean_activation=self.moments.total / self.steps,
            mean_abs_activation=self.moments.total_abs / self.steps,
            hist_success=self.histogram[0],
            hist_failure=self.histogram[1],
            hist_edges=low.unsqueeze(1) + grid * (high - low).clamp(min=1e-12).unsqueeze(1),
            chance_accuracy=chance,
            p_value=p_value,
        )


Selection = dict[str, list[Tensor]]
"""Per network and hidden layer, something of each neuron, (N,)."""


def select_top(scores: Selection, frac: float, pool: Pool) -> Selection:
    """The skill neurons: the top `floor(frac n)` by score; ties go to the earlier layer, then the lower index.

    Args:
        scores: per network and hidden layer, (N,); -inf marks a neuron that may not be chosen.
        frac: share to select, in [0, 1].
        pool: what n counts and competes: the neurons of a network, of a layer, or of all networks.

    Returns:
        Per network and layer a bool tensor (N,).
    """
    return _by_pool(scores, pool, lambda flat: _top(flat, int(frac * len(flat) + 1e-9)))


def select_as_many(scores: Selection, chosen: Selection, pool: Pool) -> Selection:
    """As `select_top`, as many in each pool as another selection has there."""
    counts = iter([int(torch.cat([chosen[name][i] for name, i in group]).sum()) for group in _pools(scores, pool)])
    return _by_pool(scores, pool, lambda flat: _top(flat, next(counts)))


def select_significant(p_values: Selection, rate: float, pool: Pool) -> Selection:
    """The neurons that follow the goal by more than chance, with a bound on the share of those that do not.

    Benjamini and Hochberg's (1995, J. R. Stat. Soc. B 57:289-300) in each pool. A constant neuron has a p of 1 and is
    never one of them.

    Args:
        p_values: as `LayerStatistics` has them.
        rate: expected share of false discoveries among the selected, at most.
        pool: among which neurons discoveries are counted, as for `select_top`.
    """

    def discovered(flat: Tensor) -> Tensor:
        return torch.from_numpy(false_discovery_control(flat.cpu().numpy()) <= rate).to(flat.device)

    return _by_pool(p_values, pool, discovered)


def _pools(layers: Selection, pool: Pool) -> list[list[tuple[str, int]]]:
    """The places of the neurons that compete with each other."""
    places = [(name, i) for name, own in layers.items() for i in range(len(own))]
    if pool == "layer":
        return [[place] for place in places]
    if pool == "network":
        return [[place for place in places if place[0] == name] for name in layers]
    return [places]


def _by_pool(values: Selection, pool: Pool, pick: Callable[[Tensor], Tensor]) -> Selection:
    """What `pick` takes, (n,) bool, of each pool's values, (n,)."""
    chosen = {name: [torch.zeros_like(v, dtype=torch.bool) for v in layers] for name, layers in values.items()}
    for group in _pools(values, pool):
        picked = pick(torch.cat([values[name][i] for name, i in group]))
        for (name, i), part in zip(group, picked.split([len(values[name][i]) for name, i in group]), strict=True):
            chosen[name][i] = part
    return chosen


def _top(flat: Tensor, count: int) -> Tensor:
    picked = torch.zeros_like(flat, dtype=torch.bool)
    picked[torch.sort(flat, descending=True, stable=True).indices[:count]] = True
    return picked & (flat > -torch.inf)


def skill_mask(score: Tensor, skill: Tensor, mask_alpha: float) -> Tensor:
    """`mask = mask_alpha (1 - Score)` on skill neurons, 1 elsewhere (Eq. 6), (N,) float32."""
    return torch.where(skill, mask_alpha * (1.0 - score), torch.ones_like(score)).float()


def dormant_frac(hidden: Iterable[Tensor], threshold: float = DORMANT) -> float:
    """Share of neurons whose mean |activity| is at most `threshold` of their layer's mean (Sokar et al. 2023)."""
    dormant = total = 0
    for h in hidden:
        mean_abs = h.abs().mean(0)
        dormant += int(is_dormant(mean_abs, threshold).sum())
        total += len(mean_abs)
    return dormant / total
