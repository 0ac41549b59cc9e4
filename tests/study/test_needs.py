"""What a study needs against what there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from rllib_nbsp.settings import CommonSettings, ConfigError, RunSettings, Settings
from rllib_nbsp.study.needs import (
    TRIAL_PROCESS_BYTES,
    WORKER_PROCESS_BYTES,
    check_disk,
    check_memory,
    check_resources,
    concurrent_trials,
    gigabytes,
    memory_bytes,
    needs,
)
from rllib_nbsp.study.reader import load_study
from tests.studies import tiny_study


@pytest.fixture
def run(tmp_path: Path) -> RunSettings:
    return tiny_study(tmp_path).trials()[0]


def changed(run: RunSettings, section: str, **values: object) -> RunSettings:
    return run.model_copy(update={section: getattr(run, section).model_copy(update=values)})


# Point mass: observations of 6 and actions of 2 float32.
ROW = 2 * 6 * 4 + 2 * 4 + 4 + 1 + 8 + 2  # obs and new_obs, actions, reward, terminated, episode, task


def test_replay_memory_is_counted_by_the_rows_that_a_visit_can_write(run: RunSettings) -> None:
    assert needs(run).replay == 400 * ROW  # a visit has 400 steps, of a capacity of 2000
    assert needs(changed(run, "replay", capacity=300)).replay == 300 * ROW
    assert needs(changed(run, "boundary", clear_buffer=False)).replay == 4 * 400 * ROW


def test_the_store_of_earlier_tasks_counts_only_for_methods_that_use_it(tmp_path: Path) -> None:
    nbsp = tiny_study(tmp_path).trials()[1]
    assert needs(nbsp).replay == (400 + 200) * ROW
    assert needs(changed(nbsp, "replay", split="per_task")).replay == (400 + 2 * 200) * ROW


def test_network_memory_by_hand(run: RunSettings) -> None:
    # Actor 6-8-8-4: 56 + 72 + 36 = 164. Critic 8-8-8-1: 72 + 72 + 9 = 153.
    # Each with gradient and two moments, and two target critics: 4 bytes x (4 x (164 + 306) + 306).
    learner = 4 * (4 * (164 + 2 * 153) + 2 * 153)
    assert needs(run).networks == learner
    remote = changed(run, "resources", num_learners=2, num_env_runners=3)
    assert needs(remote).networks == 2 * learner + 3 * 4 * 164
    assert needs(remote).processes == TRIAL_PROCESS_BYTES + 5 * WORKER_PROCESS_BYTES


def test_environments_are_those_at_work_and_those_that_are_kept_idle(tmp_path: Path) -> None:
    # Of each of 2 tasks 4 in training, 5 in evaluation and, for nbsp, 5 in scoring; at work at once 4 + 5; 1 MB each.
    sac, nbsp = tiny_study(tmp_path).trials()
    assert needs(sac).environments == 2 * (4 + 5) * 10**6
    assert needs(nbsp).environments == (4 + 5 + 16) * 10**6
    assert needs(changed(nbsp, "resources", max_idle_envs=0)).environments == 9 * 10**6
    assert needs(changed(nbsp, "resources", max_idle_envs=0, num_env_runners=3)).environments == 3 * 9 * 10**6


def test_too_little_memory_is_refused_with_the_numbers(run: RunSettings) -> None:
    big = changed(changed(run, "replay", capacity=10**9), "visit", max_env_steps=10**9)
    [problem] = check_memory([run, big], 1, 24 * 10**9)
    assert gigabytes(needs(big).memory) in problem
    assert gigabytes(24 * 10**9) in problem
    assert "; lower the largest of these or --max-concurrent" in problem
    assert check_memory([run, run], 2, 24 * 10**9) == []


def test_memory_counts_as_many_trials_as_run_at_once(run: RunSettings) -> None:
    enough_for_two = int(2.1 * needs(run).memory / 0.7)
    assert check_memory([run] * 3, 2, enough_for_two) == []
    assert len(check_memory([run] * 3, 3, enough_for_two)) == 1


def test_too_little_disk_is_refused_with_the_numbers(run: RunSettings, tmp_path: Path) -> None:
    assert check_disk([run], tmp_path / "not" / "there" / "yet") == []
    [problem] = check_disk([changed(run, "model", hidden=[10**7, 10**7])], tmp_path)
    assert problem.startswith("disk: the results need ")
    assert str(tmp_path) in problem


def test_the_disk_estimate_of_the_papers_study_is_plausible() -> None:
    one = needs(load_study("tune_configs/metaworld/window_pair.yaml").trials()[1])
    assert 4 * 20e6 < one.disk < 4 * 60e6  # four visits with five networks of 1.2 million weights, and neurons


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


def test_trials_at_once_are_limited_by_the_scarcest_resource() -> None:
    assert concurrent_trials([{"CPU": 1.0, "GPU": 0.25}], {"CPU": 16.0, "GPU": 1.0}) == 4
    assert concurrent_trials([{"CPU": 1.0}, {"CPU": 2.0}], {"CPU": 8.0}) == 2
    assert concurrent_trials([{"CPU": 0.1}] * 3, {"CPU": 0.9}) == 3


def test_memory_of_this_machine_is_at_most_what_the_kernel_reports() -> None:
    total_kb = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    assert 0 < memory_bytes() <= total_kb * 1024


def test_the_memory_of_fragments_by_hand(run: RunSettings) -> None:
    long = changed(run, "training", rollout_fragment_length=100)
    assert needs(long).fragments == 100 * 4 * (2 * 6 * 4 + 40)  # of 4 environments
    remote = changed(long, "resources", num_env_runners=3)
    assert needs(remote).fragments == 3 * needs(long).fragments


ABSURD = 10**12
ONLY_LONGER_OR_NEVER = {
    "replay.capacity",  # of which a visit writes what it can
    "replay.interval",
    "visit.early_stop.window_episodes",
    "training.target_update_env_steps",
    "evaluation.eval_env_steps",
    "evaluation.periodic_env_steps",
    "evaluation.report_env_steps",
}


def whole_numbers(model: type[Settings], path: str) -> Iterator[str]:
    """The keys below a section that take whole numbers."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Settings):
                yield from whole_numbers(kind, f"{path}{name}.")
        if any(kind is int or int in get_args(kind) for kind in kinds):
            yield f"{path}{name}"


@pytest.mark.parametrize("key", sorted(set(whole_numbers(CommonSettings, "")) - ONLY_LONGER_OR_NEVER))
def test_a_size_that_no_machine_has_is_refused_whatever_it_is_of(key: str, tmp_path: Path) -> None:
    try:
        trials = tiny_study(tmp_path, f"{key}={ABSURD}").trials()
    except ConfigError as error:
        assert all(key.rpartition(".")[2] in line or str(ABSURD) in line for line in error.problems)
        return
    assert check_memory(trials, 1, 2**40) or check_disk(trials, tmp_path)
