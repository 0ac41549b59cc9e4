"""What a study needs against what there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from rllib_nbsp.envs.base import ENV_BYTES
from rllib_nbsp.schedule import MAX_UPDATES_PER_CALL
from rllib_nbsp.settings import CommonSettings, ConfigError, RunSettings, Settings
from rllib_nbsp.sharing import shared_by
from rllib_nbsp.study.needs import (
    TRIAL_PROCESS_BYTES,
    WORKER_PROCESS_BYTES,
    check_disk,
    check_memory,
    disk_bytes,
    gigabytes,
    memory_bytes,
    needs,
    state_nbytes,
)
from rllib_nbsp.study.reader import load_study
from tests.studies import tiny_study, write_config


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
    # Each with gradient, two moments and the two copies that rows are compared with, and two target critics.
    learner = 4 * (6 * (164 + 2 * 153) + 2 * 153)
    assert needs(run).networks == learner
    assert needs(changed(run, "evaluation", mechanism_rows=0)).networks == learner - 4 * 2 * 470
    remote = changed(run, "resources", num_learners=2, num_env_runners=3)
    assert needs(remote).networks == 2 * learner + 3 * 4 * 164
    assert needs(remote).processes == TRIAL_PROCESS_BYTES + 5 * WORKER_PROCESS_BYTES


def test_environments_are_those_at_work_and_those_that_are_kept_idle(tmp_path: Path) -> None:
    # Of each of 2 tasks 4 in training, 5 in evaluation and, for nbsp, 5 in scoring; at work at once 4 + 5.
    sac, nbsp = tiny_study(tmp_path).trials()
    assert needs(changed(sac, "resources", max_idle_envs=9)).environments == 2 * (4 + 5) * ENV_BYTES
    assert needs(nbsp).environments == (4 + 5 + 8) * ENV_BYTES
    assert needs(changed(nbsp, "resources", max_idle_envs=0)).environments == 9 * ENV_BYTES
    assert needs(changed(nbsp, "resources", max_idle_envs=0, num_env_runners=3)).environments == 3 * 9 * ENV_BYTES


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
    assert check_disk([run], 1, tmp_path / "not" / "there" / "yet") == []
    [problem] = check_disk([changed(run, "model", hidden=[10**7, 10**7])], 1, tmp_path)
    assert problem.startswith("disk: the results need ")
    assert str(tmp_path) in problem


def test_the_disk_estimate_of_the_papers_study_is_plausible() -> None:
    one = needs(load_study("tune_configs/metaworld/window_pair.yaml").trials()[1])
    assert 4 * 20e6 < one.disk < 4 * 60e6  # four visits with five networks of 1.2 million weights, and neurons


def test_environments_of_meta_world_are_what_a_papers_trial_keeps() -> None:
    one = needs(load_study("tune_configs/metaworld/window_pair.yaml").trials()[1])
    assert 0.3e9 < one.environments < 2e9


def test_the_memory_of_a_calls_batches_by_hand(run: RunSettings, tmp_path: Path) -> None:
    row, floats = 2 * 6 * 4 + 40, 2 * 6 * 4
    assert needs(run).batches == 16 * (row + floats)  # 4 steps of 0.1 updates each are at most one
    assert needs(changed(run, "training", updates_per_env_step=2.0)).batches == 16 * (8 * row + floats)
    assert needs(changed(run, "training", updates_per_env_step=1e6)).batches == 16 * (
        MAX_UPDATES_PER_CALL * row + floats
    )
    assert needs(changed(run, "resources", num_learners=2)).batches == 16 * (2 * row + floats)
    retrained = load_study(write_config(tmp_path, arms={"packnet": {"method": "packnet"}})).trials()[0]
    assert needs(retrained).batches >= 16 * (MAX_UPDATES_PER_CALL * row + floats)


def test_states_need_disk_for_the_trials_that_run_at_once(run: RunSettings) -> None:
    one = needs(run)
    assert one.state == state_nbytes(400, ROW, 4 * (5 * 470 + 306))
    assert disk_bytes([run] * 3, 2) == 3 * one.disk + 2 * one.state
    # First visits that several trials share lie beside them: one for each seed.
    sharing = [run.model_copy(update={"shared_dir": "shared", "seed": seed}) for seed in (0, 0, 1, 1, 2)]
    assert disk_bytes(sharing, 2, shared_by(sharing)) == 5 * one.disk + 2 * one.state + 2 * one.state
    # 10^6 rows of Meta-World with networks of 768 units: some hundred megabytes (343 were measured for the rows alone).
    meta = needs(load_study("tune_configs/metaworld/window_pair.yaml").trials()[1])
    assert 3e8 < meta.state < 8e8


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
    "evaluation.mechanism_rows",
    "state.every_env_steps",
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
    assert check_memory(trials, 1, 2**40) or check_disk(trials, 1, tmp_path)
