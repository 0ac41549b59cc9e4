"""How many trials fit on the nodes of a cluster."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from rllib_nbsp.study.packing import check_resources, concurrent_trials


def test_resources_that_are_missing_are_named_with_the_options_that_help() -> None:
    bundles = [{"CPU": 1.0, "GPU": 0.25}, {"CPU": 1.0, "rollout": 1.0}, {"CPU": 1.0}]
    assert check_resources(bundles, [{"CPU": 3.0, "GPU": 1.0, "rollout": 1.0}], "here") == []
    cpu, gpu, custom = check_resources(bundles, [{"CPU": 2.0}], "this machine")
    assert cpu.startswith("a trial needs 3 CPU, and this machine has 2: lower --num-env-runners")
    assert gpu.startswith("a trial needs 0.25 GPU, and this machine has 0: use --num-gpus-per-learner 0")
    assert custom.startswith("a trial needs 1 rollout, and this machine has 0: resources.custom_resources")


def test_each_bundle_must_fit_on_one_node_of_a_cluster() -> None:
    bundles = [{"CPU": 1.0}, {"CPU": 3.0, "GPU": 0.5}, {"CPU": 3.0, "GPU": 0.5}]
    both = {"CPU": 4.0, "GPU": 1.0}
    assert check_resources(bundles, [both, both], "the cluster") == []
    (line,) = check_resources(bundles, [{"CPU": 7.0}, {"CPU": 1.0, "GPU": 2.0}], "the cluster")
    assert line == "a trial needs 3 CPU and 0.5 GPU on one node, and no node of the cluster has that"


def test_what_a_placement_strategy_asks_of_nodes() -> None:
    bundles, node = [{"CPU": 1.0}, {"CPU": 0.5}, {"CPU": 0.5}], {"CPU": 1.0}
    assert check_resources(bundles, [node, node], "it", "SPREAD") == []
    assert check_resources(bundles, [node, node, node], "it", "STRICT_SPREAD") == []
    (spread,) = check_resources(bundles, [node, node], "it", "STRICT_SPREAD")
    assert spread.startswith(
        "resources.placement_strategy STRICT_SPREAD puts the 3 bundles of a trial on as many nodes"
    )
    assert spread.endswith("it has 2: use SPREAD")
    (pack,) = check_resources(bundles, [node, node], "it", "STRICT_PACK")
    assert pack == "a trial needs 2 CPU on one node, and no node of it has that"


def at_once(bundles: list[dict[str, float]], *nodes: dict[str, float], placement: str = "PACK") -> int:
    return concurrent_trials([(bundles, placement)] * 20, nodes)


def test_trials_at_once_are_limited_by_the_scarcest_resource() -> None:
    assert at_once([{"CPU": 1.0, "GPU": 0.25}], {"CPU": 16.0, "GPU": 1.0}) == 4
    assert at_once([{"CPU": 1.0}, {"CPU": 2.0}], {"CPU": 8.0}) == 2
    assert at_once([{"CPU": 0.1}] * 3, {"CPU": 0.9}) == 3


def test_all_bundles_of_all_trials_are_laid_on_nodes() -> None:
    # Twelve CPU in all, but of each node's four only three serve: a trial of three parts of 3 needs three nodes.
    nodes = [{"CPU": 4.0}] * 3
    assert at_once([{"CPU": 3.0}] * 3, *nodes) == 1
    assert check_resources([{"CPU": 3.0}] * 3, nodes, "it") == []
    (line,) = check_resources([{"CPU": 3.0}] * 3, [{"CPU": 5.0}, {"CPU": 5.0}], "it")
    assert line == ("a trial needs 3 x (3 CPU), each on one node (PACK), and they do not fit together on those of it")
    assert at_once([{"CPU": 1.0}, {"CPU": 1.0}], *nodes, placement="STRICT_SPREAD") == 6
    assert at_once([{"CPU": 1.5}, {"CPU": 1.5}], *nodes, placement="STRICT_PACK") == 3
    # Different trials, in their order: the third waits, and so does what comes after it.
    mixed = [([{"CPU": 3.0}], "PACK"), ([{"CPU": 1.0}], "PACK"), ([{"CPU": 3.0}], "PACK"), ([{"CPU": 1.0}], "PACK")]
    assert concurrent_trials(mixed, [{"CPU": 4.0}, {"CPU": 2.0}]) == 2


SIZES = st.sampled_from([0.5, 1.0, 2.0, 3.0])


@given(st.lists(SIZES, min_size=1, max_size=4), st.lists(st.sampled_from([1.0, 2.0, 4.0]), min_size=1, max_size=3))
def test_a_trial_is_refused_iff_no_way_to_lay_its_bundles_exists(sizes: list[float], room: list[float]) -> None:
    ways = itertools.product(range(len(room)), repeat=len(sizes))
    fits = any(
        all(sum(s for s, n in zip(sizes, way, strict=True) if n == node) <= room[node] for node in range(len(room)))
        for way in ways
    )
    problems = check_resources([{"CPU": size} for size in sizes], [{"CPU": cpu} for cpu in room], "it")
    assert fits == (not problems)


def test_a_search_that_would_take_for_ever_refuses_nothing() -> None:
    # Three on a node make 36, whichever; to know that for 37 different ones, all orders would have to be tried.
    bundles = [{"CPU": 3.0 + n / 1000} for n in range(37)]
    assert check_resources(bundles, [{"CPU": 10.0}] * 12, "it") == []
