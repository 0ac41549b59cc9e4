"""What seeds say together: intervals, paired differences, tests, and how many seeds a question takes.

Pure functions of numbers on numpy and scipy. A seed is the unit: values are one number a seed, NaN where it has none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import comb, ndtr, stdtrit

FloatArray = NDArray[np.float64]
Limits = tuple[float, float]

BOOTSTRAP_FROM = 11
"""Seeds from which the bootstrap is used; with fewer it covers less than it says, and t does not."""

IMPROVEMENT_FREEDOM = 8
"""Scores less strata from which a probability of improvement has an interval."""

RESAMPLES = 9_999
UNBOUNDED: Limits = (-np.inf, np.inf)


# Means and their intervals


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; `low` and `high` are NaN when there is none."""

    mean: float
    low: float
    high: float
    n: int
    kind: Literal["none", "t", "bootstrap"]

    @property
    def half_width(self) -> float:
        """Half the interval's width; NaN when there is no interval."""
        return (self.high - self.low) / 2.0


def interval(
    values: ArrayLike,
    rng: np.random.Generator | None = None,
    *,
    limits: Limits = UNBOUNDED,
    level: float = 0.95,
) -> Interval:
    """Mean over seeds and its interval: none for one seed, Student's t to 10 seeds, the BCa bootstrap above.

    The part of an interval beyond what a mean can be is cut off, which costs no coverage. BCa is Efron's (1987, J. Am.
    Stat. Assoc. 82:171-185), at the level that makes it as wide as t where data are normal (Hesterberg 2015,
    arXiv:1411.5279, "expanded"): at its own it covers 90 % with 10 seeds.

    Simulated coverage (`tests/analysis/test_coverage.py`): 94 to 96 % from 3 seeds on, but where few seeds differ from
    the rest, as in FWT when a visit in five fails: of paired differences 3 seeds cover 84 to 94 %, 5 and 10 seeds 93 to
    94 %; of single arms 3 seeds cover 90 to 92 %, 5 seeds 93 % (docs/statistics.md). `sure_interval` covers them.

    Args:
        values: one value per seed, shape (n,); NaN entries are left out and not counted.
        rng: draws the bootstrap; None: a generator with seed 0, so that the same values give the same interval.
        limits: the least and the greatest mean that there can be.
        level: coverage that is aimed at.

    Raises:
        ValueError: if a value lies outside the limits.
    """
    finite = _finite(values, limits)
    n = len(finite)
    mean = float(finite.mean()) if n else float("nan")
    if n < 2:
        return Interval(mean, float("nan"), float("nan"), n, "none")
    if n < BOOTSTRAP_FROM:
        half = float(stdtrit(n - 1, 0.5 + level / 2) * finite.std(ddof=1) / np.sqrt(n))
        low, high, kind = mean - half, mean + half, "t"
    else:
        low, high, kind = mean, mean, "bootstrap"
        if finite.min() < finite.max():
            low, high = _resampled(
                [finite], np.mean, rng, method="BCa", confidence_level=_expanded(level, n, 1)
            ).confidence_interval
    low, high = np.clip([low, high], *limits)
    return Interval(mean, float(low), float(high), n, kind)  # type: ignore[arg-type]


def sure_interval(
    values: ArrayLike, limits: Limits, rng: np.random.Generator | None = None, *, level: float = 0.95
) -> Interval:
    """Mean over seeds and an interval that no distribution within the limits is known to make too narrow.

    Gaffke's bound (Learned-Miller and Thomas 2019, arXiv:1905.06208), from both sides; of values that are all at a
    limit it is Clopper and Pearson's. For few seeds that keep all or nothing, where t covers less than it says. Its
    price is width: of smooth data it covers 100 %, so it is no interval of 95 +- 1 %.

    Args:
        values, rng, level: as for `interval`.
        limits: the least and the greatest value that there can be, both finite.

    Raises:
        ValueError: if the limits are not finite, or a value lies outside.
    """
    finite = np.sort(_finite(values, limits))
    if not np.isfinite(limits).all():
        raise ValueError(f"limits must be finite, got {limits}")
    n = len(finite)
    if not n:
        return Interval(float("nan"), float("nan"), float("nan"), 0, "none")
    weights = _generator(rng).dirichlet(np.ones(n + 1), RESAMPLES)
    low = np.quantile(weights @ np.append(finite, limits[0]), 0.5 - level / 2)
    high = np.quantile(weights @ np.append(finite, limits[1]), 0.5 + level / 2)
    low, high = np.clip([low, high], *limits)  # A sum of weights is 1 but for its last bits.
    return Interval(float(finite.mean()), float(low), float(high), n, "bootstrap")


def paired_differences(values: Mapping[int, float], baseline: Mapping[int, float]) -> dict[int, float]:
    """An arm's value less the baseline's, by seed, over the seeds for which both have one.

    Arms of one seed share their first visit to the last bit, so they are paired: what a seed makes of both cancels.
    """
    differences = {seed: values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())}
    return {seed: difference for seed, difference in differences.items() if np.isfinite(difference)}


# Several sequences together


def iqm(scores: ArrayLike, axis: int | None = None) -> Any:
    """Interquartile mean: the mean of the middle half (Agarwal et al. 2021, arXiv:2108.13264).

    Cut on both sides are a quarter of the scores along `axis` (None: of all), rounded down.
    """
    return stats.trim_mean(scores, 0.25, axis=axis)


def stratified_interval(
    strata: Sequence[ArrayLike],
    rng: np.random.Generator | None = None,
    *,
    statistic: Callable[..., Any] = iqm,
    limits: Limits = UNBOUNDED,
    level: float = 0.95,
) -> Interval:
    """A statistic of several sequences' scores together, with the bootstrap that draws seeds within each sequence.

    Strata are drawn as by Agarwal et al. 2021 (arXiv:2108.13264). Their percentiles cannot leave the range of the
    scores, so that of 3 seeds of one sequence they cover 75 %; here the draws' standard error is made t's half width
    (Hesterberg 2015, arXiv:1411.5279). Of five sequences the IQM's covers 94 to 95 %; of one with 5 or 10 seeds 97 %,
    and of two unlike ones with up to 10 seeds 92 to 94 %.

    Args:
        strata: for each sequence (or task) one score per seed; NaN entries are left out.
        rng: as for `interval`.
        statistic: of all scores, called as `statistic(scores, axis=...)`.
        limits: the least and the greatest that the statistic can be.
        level: coverage that is aimed at.

    Returns:
        `mean` is the statistic, `n` counts scores. There is no interval where a stratum has fewer than two.

    Raises:
        ValueError: if there are no scores.
    """
    kept = [_finite(scores) for scores in strata]
    n = sum(map(len, kept))
    if not n:
        raise ValueError("strata must have a score, got none")

    def together(*parts: FloatArray, axis: int = -1) -> Any:
        return statistic(np.concatenate(parts, axis=axis), axis=axis)

    value = float(together(*kept))
    if min(map(len, kept)) < 2:
        return Interval(value, float("nan"), float("nan"), n, "none")
    error = _resampled(kept, together, rng, method="percentile").standard_error
    half = stdtrit(n - len(kept), 0.5 + level / 2) * error * np.sqrt(n / (n - len(kept)))
    low, high = np.clip([value - half, value + half], *limits)
    return Interval(value, float(low), float(high), n, "bootstrap")


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> FloatArray:
    """Share of runs whose score is above each threshold (Agarwal et al. 2021, arXiv:2108.13264).

    Args:
        scores: of all runs of all tasks, any shape; NaN entries are left out.
        thresholds: shape (T,), as are the shares.
    """
    return (_finite(scores) > np.asarray(thresholds, dtype=float)[:, None]).mean(axis=1)


def probability_of_improvement(
    ours: Sequence[ArrayLike],
    theirs: Sequence[ArrayLike],
    rng: np.random.Generator | None = None,
    *,
    level: float = 0.95,
) -> Interval:
    """Probability that a run of one arm scores above a run of the other, ties half (Agarwal et al. 2021, as above).

    Mann and Whitney's U of each stratum over its pairs of runs, averaged over strata; the interval is the percentile
    bootstrap's within strata, at the level that makes up for few seeds. Of 3 against 3 seeds of one stratum nothing
    found covers more than 89 %, so there is none; of 5 against 5 it covers 93 to 96 %, of five strata 95 to 96 %.

    Args:
        ours, theirs: scores of each stratum (sequence or task), in the same order; NaN entries are left out.
        rng, level: as for `interval`.

    Raises:
        ValueError: if the strata do not match, or one has no score.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"both arms must have the same strata, at least one; got {len(ours)} and {len(theirs)}")
    kept = [_finite(scores) for pair in zip(ours, theirs, strict=True) for scores in pair]
    if not all(map(len, kept)):
        raise ValueError("every stratum must have a score of both arms")

    def improvement(*parts: FloatArray, axis: int = -1) -> Any:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        above = [(np.sign(x[..., :, None] - y[..., None, :]) + 1).mean(axis=(-1, -2)) / 2 for x, y in pairs]
        return np.mean(above, axis=0)

    value, n = float(improvement(*kept)), sum(map(len, kept))
    if n - len(kept) < IMPROVEMENT_FREEDOM:
        return Interval(value, float("nan"), float("nan"), n, "none")
    expanded = _expanded(level, n, len(kept))
    low, high = _resampled(kept, improvement, rng, method="percentile", confidence_level=expanded).confidence_interval
    return Interval(value, float(low), float(high), n, "bootstrap")


# Tests


def sign_flip_test(differences: ArrayLike, rng: np.random.Generator | None = None) -> float:
    """Two-sided p of paired differences whose mean is 0 if the arms are alike: every sign is as likely as its opposite.

    Fisher's randomisation test (`scipy.stats.permutation_test`): exact to 13 seeds, of 9,999 draws above.

    Args:
        differences, rng: as for `interval`.

    Returns:
        At least `smallest_p(n)`; 1 under two differences.
    """
    finite = _finite(differences)
    if len(finite) < 2:
        return 1.0
    return _permuted([finite], np.mean, "samples", rng)


def permutation_test(ours: ArrayLike, theirs: ArrayLike, rng: np.random.Generator | None = None) -> float:
    """Two-sided p of a difference of means between arms that share no seeds (`scipy.stats.permutation_test`).

    Returns:
        At least `smallest_p(n, m)`; 1 if an arm has fewer than two values. NaN entries are left out.
    """
    x, y = _finite(ours), _finite(theirs)
    if min(len(x), len(y)) < 2:
        return 1.0

    def difference(x: FloatArray, y: FloatArray, axis: int = -1) -> Any:
        return x.mean(axis=axis) - y.mean(axis=axis)

    return _permuted([x, y], difference, "independent", rng)


def smallest_p(n: int, m: int | None = None) -> float:
    """The smallest two-sided p that an exact test can reach: with n pairs by sign flips, or with n against m seeds.

    Three pairs cannot go below 0.25, five not below 0.0625, six reach 0.03: under 6 no paired test at 5 % can reject.

    Args:
        n: pairs, or seeds of one arm.
        m: seeds of the other arm; None: the seeds are paired.
    """
    arrangements = 2.0**n if m is None else float(comb(n + m, n))
    return min(1.0, max(2.0 / arrangements, 2.0 / (RESAMPLES + 1)))


def holm(p_values: ArrayLike) -> FloatArray:
    """p-values adjusted for being several: any error among them at the level (Holm 1979, Scand. J. Statist. 6:65-70).

    Args:
        p_values: any shape; NaN entries stay NaN and are not counted.
    """

    def adjust(p: FloatArray) -> FloatArray:
        order = np.argsort(p)
        stepped = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
        return stepped[np.argsort(order)]

    return _of_finite(p_values, adjust)


def false_discovery_rate(p_values: ArrayLike) -> FloatArray:
    """p-values adjusted so that the share of errors among those rejected is at the level.

    Benjamini and Hochberg's (1995, J. R. Stat. Soc. B 57:289-300), of `scipy.stats.false_discovery_control`. Arguments
    as for `holm`.
    """
    return _of_finite(p_values, stats.false_discovery_control)


# How many seeds


def seeds_for(half_width: float, pilot: ArrayLike, *, level: float = 0.95, most: int = 100_000) -> int:
    """Seeds with which a t-interval is expected to be as narrow as asked (Colas et al. 2018, arXiv:1806.08295).

    Args:
        half_width, level: of the interval.
        pilot: values, or paired differences, of the seeds that ran; their standard deviation, of few seeds a guess.
        most: the most seeds to look at.

    Raises:
        ValueError: if the half width is not above 0, the pilot has fewer than two values, or `most` are too few.
    """
    finite = _finite(pilot)
    if half_width <= 0 or len(finite) < 2:
        raise ValueError(f"half_width must be above 0 and pilot have two values, got {half_width} and {len(finite)}")
    n = np.arange(2, most + 1)
    enough = stdtrit(n - 1, 0.5 + level / 2) * finite.std(ddof=1) / np.sqrt(n) <= half_width
    if not enough.any():
        raise ValueError(f"half_width is {half_width}; more than {most} seeds would be needed")
    return int(n[enough.argmax()])


Decision = Literal["above", "below", "more seeds", "not told apart"]


def arms_to_continue(
    differences: Mapping[str, ArrayLike],
    group: int,
    groups: int,
    rng: np.random.Generator | None = None,
    *,
    level: float = 0.05,
) -> dict[str, Decision]:
    """Which arms are told from the baseline, and which need more seeds, looking after every group of seeds.

    A group-sequential test in the spirit of AdaStop (Mathieu et al. 2023, arXiv:2306.10882): at the k-th of `groups`
    looks a boundary is put such that of all sign flips no more than k / `groups` of the level have crossed one, and the
    arms beyond it are decided and need no more seeds. Differs from the source in that seeds are paired with a
    baseline's, a seed's signs flip in all arms together, and an arm's sum is over the root of its sum of squares.

    Args:
        differences: paired differences to the baseline of each arm, by seed in one order; arms that were decided at an
            earlier look may be shorter.
        group: seeds between two looks.
        groups: looks that were planned before the first seed ran.
        rng: draws the flips above 13 seeds; None: as for `interval`.
        level: probability of one wrong "above" or "below" among all arms.

    Returns:
        For each arm: "above" or "below" the baseline; "more seeds", before the last look; else "not told apart".

    Raises:
        ValueError: if `group` or `groups` is below 1, or an arm has fewer seeds than the looks at which it was open.
    """
    if group < 1 or groups < 1:
        raise ValueError(f"group and groups must be at least 1, got {group} and {groups}")
    values = {arm: np.asarray(own, dtype=float).ravel() for arm, own in differences.items()}
    looks = min(groups, max(map(len, values.values()), default=0) // group)
    decisions: dict[str, Decision] = dict.fromkeys(values, "more seeds" if looks < groups else "not told apart")
    flips = _flips(looks * group, _generator(rng))
    within, crossed = np.ones(len(flips), dtype=bool), 0
    for look in range(1, looks + 1):
        seeds = look * group
        open_arms = [arm for arm, decision in decisions.items() if decision not in ("above", "below")]
        if not open_arms:
            break
        if short := [arm for arm in open_arms if len(values[arm]) < seeds]:
            raise ValueError(f"{', '.join(short)}: open at look {look}, so {seeds} seeds are needed")
        sums = np.stack([_standardised(values[arm][:seeds], flips[:, :seeds]) for arm in open_arms], axis=-1)
        highest = np.where(within, np.abs(sums).max(axis=-1), -np.inf)
        may_cross = int(look / groups * level * len(flips)) - crossed
        boundary = np.sort(highest)[::-1][may_cross] + 1e-9
        for arm, observed in zip(open_arms, sums[0], strict=True):
            if abs(observed) > boundary:
                decisions[arm] = "above" if observed > 0 else "below"
        crossed += int((highest > boundary).sum())
        within &= highest <= boundary
    return decisions


# Parts of the above


def _finite(values: ArrayLike, limits: Limits = UNBOUNDED) -> FloatArray:
    array = np.asarray(values, dtype=float).ravel()
    array = array[np.isfinite(array)]
    if len(array) and not limits[0] <= array.min() <= array.max() <= limits[1]:
        raise ValueError(f"values must lie in [{limits[0]}, {limits[1]}], got {array.min()} to {array.max()}")
    return array


def _of_finite(values: ArrayLike, function: Callable[[FloatArray], FloatArray]) -> FloatArray:
    result = np.array(values, dtype=float)
    found = np.isfinite(result)
    if found.any():
        result[found] = function(result[found])
    return result


def _generator(rng: np.random.Generator | None) -> np.random.Generator:
    return np.random.default_rng(0) if rng is None else rng


def _expanded(level: float, n: int, strata: int) -> float:
    """The level at which a bootstrap of normal data is as wide as t: resamples vary less by (n - strata) / n."""
    freedom = n - strata
    return float(1 - 2 * ndtr(stdtrit(freedom, 0.5 - level / 2) * np.sqrt(n / freedom)))


def _resampled(
    samples: Sequence[FloatArray], statistic: Callable[..., Any], rng: np.random.Generator | None, **settings: Any
) -> Any:
    settings |= {"axis": -1, "vectorized": True, "n_resamples": RESAMPLES, "rng": _generator(rng)}
    return stats.bootstrap(samples, statistic, **settings)


def _permuted(
    samples: Sequence[FloatArray], statistic: Callable[..., Any], kind: str, rng: np.random.Generator | None
) -> float:
    settings = {"axis": -1, "vectorized": True, "n_resamples": RESAMPLES, "rng": _generator(rng)}

    def rounded(*parts: FloatArray, axis: int = -1) -> Any:
        # Sums of decimal shares that are equal differ in their last bits, and the test compares them.
        return np.round(statistic(*parts, axis=axis), 9)

    return float(stats.permutation_test(samples, rounded, permutation_type=kind, **settings).pvalue)


def _flips(n: int, rng: np.random.Generator) -> FloatArray:
    """Signs, shape (flips, n), the first all 1: all of them, or as many as are drawn above 13 seeds."""
    if 2**n <= RESAMPLES:
        return np.array(list(itertools.product([1.0, -1.0], repeat=n)))
    return np.vstack([np.ones(n), rng.choice([1.0, -1.0], size=(RESAMPLES, n))])


def _standardised(values: FloatArray, flips: FloatArray) -> FloatArray:
    """Sum of the values under each flip, over what no flip changes: the root of their sum of squares."""
    scale = np.sqrt((values**2).sum())
    return flips @ values / scale if scale else np.zeros(len(flips))
