"""Whether a neuron follows the goal by more than chance: a null that keeps both series as slow as they are.

Activations and success change slowly, so that two unrelated series of them agree, or disagree, for long stretches, and
a test that takes steps for independent finds every neuron significant. Here the goal's labels are turned against the
activations instead (circular shifts, as in Harris 2020, arXiv:2012.06862): in each environment's stream of steps by a
random amount of its own, or by whole episodes where all steps of an episode have one label.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

TURNS = 999
"""Of the labels: the smallest p-value is 1 / (TURNS + 1)."""


def turned_labels(
    labels: np.ndarray, env: np.ndarray, episode: np.ndarray | None = None, *, turns: int = TURNS
) -> np.ndarray:
    """The goal's labels as they might have been, had they nothing to do with the activations.

    Args:
        labels: (S,) bool, in order of time in each environment.
        env: (S,), the environment that a step is from.
        episode: (S,), the step's episode, if labels are those of whole episodes: these are turned as wholes.
        turns: how often, K.

    Returns:
        (S, K) bool; the same rollout has the same turns.
    """
    rng = np.random.default_rng(0)
    turned = np.empty((len(labels), turns), bool)
    for e in np.unique(env):
        rows = np.flatnonzero(env == e)
        unit, first, of_row = np.arange(len(rows)), np.arange(len(rows)), np.arange(len(rows))
        if episode is not None:
            unit, first, of_row = np.unique(episode[rows], return_index=True, return_inverse=True)
        own = labels[rows[first]]
        windows = sliding_window_view(np.concatenate([own, own]), len(unit))
        turned[rows] = windows[rng.integers(len(unit), size=turns)].T[of_row]
    return turned


def association(counts: Tensor, turned_both: Tensor, turned_goal: Tensor) -> tuple[Tensor, Tensor]:
    """How much agreement there is by chance, and the p-value of what there is beyond it.

    The statistic is the covariance of "above its mean" and the label, which does not mind that one of them is rare; its
    distance from the mean over all turns is compared, so that a neuron may follow the goal either way.

    Args:
        counts: (N, 4) of `LayerStatistics`.
        turned_both: (N, K), steps with the activation above its mean and the turned label true.
        turned_goal: (K,), steps with the turned label true; it differs where episodes differ in length.

    Returns:
        The mean of `Acc` (Eq. 3) over the turns, (N,) float64; and p, (N,) float64, 1 for a neuron that is constant.
    """
    steps, on = counts.sum(1).double(), counts[:, :2].sum(1).double()
    both = torch.cat([counts[:, :1], turned_both], 1).double()
    goal = torch.cat([counts[:1, 0] + counts[:1, 2], turned_goal]).double()
    chance = (steps - on - goal[1:].mean() + 2 * both[:, 1:].mean(1)) / steps
    # Times the steps it is a whole number, so that ties are ties.
    covariance = both * steps[:, None] - on[:, None] * goal
    distance = (covariance * covariance.shape[1] - covariance.sum(1, keepdim=True)).abs()
    return chance, (distance[:, 1:] >= distance[:, :1]).sum(1).add(1).double() / distance.shape[1]
