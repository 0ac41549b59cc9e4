"""How many trials fit on the nodes of a cluster, all parts of each at its place. Nothing here knows Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

Bundle = Mapping[str, float]

ROUNDING = 1e-9
MAX_TRIED = 10_000
"""Places that are tried for the bundles of a trial before it counts as one that fits: the search is exponential."""


def total(bundles: Iterable[Bundle]) -> dict[str, float]:
    """All resources of a trial's bundles together."""
    sums: Counter[str] = Counter()
    for bundle in bundles:
        sums.update(bundle)
    return dict(sums)


def concurrent_trials(trials: Iterable[tuple[Sequence[Bundle], str]], nodes: Sequence[Bundle]) -> int:
    """How many trials run side by side at first, which start in order, each where the earlier ones have left room.

    Args:
        trials: the bundles of each, and its `resources.placement_strategy`.
        nodes: what each node has.
    """
    count, left = 0, [dict(node) for node in nodes]
    for bundles, placement in trials:
        rest = _laid(bundles, left, placement)
        if rest is None:
            break
        count, left = count + 1, rest
    return max(1, count)


def check_resources(
    bundles: Sequence[Bundle],
    nodes: Sequence[Mapping[str, float]],
    where: str,
    placement: str = "PACK",
) -> list[str]:
    """What a trial needs and will never get, one line each: Ray would let it wait for ever.

    Args:
        bundles: the trial's, each of which one node must hold.
        nodes: what each node has.
        where: what these are, for people.
        placement: `resources.placement_strategy`.
    """
    lacking = _check_totals(bundles, total(nodes), where)
    if lacking:
        return lacking
    if placement == "STRICT_SPREAD" and len(bundles) > len(nodes):
        return [
            f"resources.placement_strategy STRICT_SPREAD puts the {len(bundles)} bundles of a trial on as many nodes, "
            f"and {where} has {len(nodes)}: use SPREAD"
        ]
    together = [total(bundles)] if placement == "STRICT_PACK" else bundles
    homeless = [
        f"a trial needs {_words(bundle)} on one node, and no node of {where} has that"
        for bundle in {_words(bundle): bundle for bundle in together}.values()
        if not any(_holds(node, bundle) for node in nodes)
    ]
    if homeless or _laid(bundles, [dict(node) for node in nodes], placement) is not None:
        return homeless
    each = " and ".join(f"{count} x ({words})" for words, count in Counter(map(_words, bundles)).items())
    return [f"a trial needs {each}, each on one node ({placement}), and they do not fit together on those of {where}"]


def _laid(bundles: Sequence[Bundle], nodes: list[dict[str, float]], placement: str) -> list[dict[str, float]] | None:
    """What is left of the nodes under the bundles of one more trial; None if they do not fit."""
    if placement == "STRICT_PACK":
        bundles = [total(bundles)]
    ordered = sorted(bundles, key=lambda bundle: (-sum(bundle.values()), _words(bundle)))
    emptiest_first = sorted(nodes, key=lambda node: -sum(node.values())) if "SPREAD" in placement else nodes
    left, used, tried = [dict(node) for node in emptiest_first], [0] * len(nodes), 0

    def lay(number: int, first: int) -> bool:
        nonlocal tried
        if number == len(ordered) or tried >= MAX_TRIED:
            return True
        bundle, following = ordered[number], ordered[number + 1 : number + 2]
        alike: list[dict[str, float]] = []
        for n in range(first, len(left)):
            if left[n] in alike or not _holds(left[n], bundle) or (placement == "STRICT_SPREAD" and used[n]):
                continue
            alike.append(dict(left[n]))
            tried += 1
            _take(left[n], bundle, 1)
            used[n] += 1
            # Of equal bundles the later ones lie on later nodes: other orders are the same.
            if lay(number + 1, n if following == [bundle] else 0):
                return True
            _take(left[n], bundle, -1)
            used[n] -= 1
        return False

    return left if lay(0, 0) else None


def _holds(node: Bundle, bundle: Bundle) -> bool:
    return all(node.get(name, 0.0) + ROUNDING >= amount for name, amount in bundle.items())


def _take(node: dict[str, float], bundle: Bundle, times: int) -> None:
    for name, amount in bundle.items():
        node[name] = node.get(name, 0.0) - times * amount


def _words(bundle: Bundle) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())


def _check_totals(bundles: Sequence[Bundle], available: Mapping[str, float], where: str) -> list[str]:
    advice = {
        "CPU": "lower --num-env-runners or --num-learners, or set resources.num_cpus_per_env_runner below 1",
        "GPU": "use --num-gpus-per-learner 0, or --address for a cluster that has them",
    }
    return [
        f"a trial needs {amount:g} {name}, and {where} has {available.get(name, 0.0):g}: "
        + advice.get(name, "resources.custom_resources_per_env_runner names a resource that no node offers")
        for name, amount in total(bundles).items()
        if amount > available.get(name, 0.0) + ROUNDING
    ]
