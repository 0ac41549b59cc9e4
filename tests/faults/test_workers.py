"""Rollout workers and Learners that are killed, stopped or late, in runs whose transitions are counted."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayError

from rllib_nbsp import NBSPConfig
from rllib_nbsp.sampling.sampler import Sampler
from rllib_nbsp.study.trials import may_pass
from tests.algorithm.conftest import finish as run_to_the_end
from tests.algorithm.conftest import rows_of, weights
from tests.faults.conftest import Figures, Start
from tests.faults.ledger import ENVS, FRAGMENT, Ledger, config, finish
from tests.tiny import short_run

ENDLESS = 100_000


def pids(ledger: Ledger) -> list[int]:
    group = ledger.algo.env_runner_group
    return group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)


def until(ledger: Ledger, holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Go on, checking, until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not recover"
        ledger.algo.train()
        ledger.check()


def recovered(ledger: Ledger) -> bool:
    return ledger.recovery_s > 0


@pytest.mark.parametrize("frac", [0.01, *(pytest.param(0.004 * k, marks=pytest.mark.slow) for k in range(1, 20))])
def test_a_worker_is_killed_in_the_middle_of_a_fragment(
    frac: float, start: Start, figures: Figures, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    ledger = start(
        config(tmp_path / "rows", workers=1, visit_env_steps=ENDLESS, fault="kill", frac=frac, once=str(once))
    )
    (killed,) = pids(ledger)
    ledger.fault(lambda came: came[0] != killed)
    until(ledger, lambda: recovered(ledger))
    assert once.exists() and ledger.algo.schedule.faults["lost_fragments"] == 1
    figures(ledger, recovery_s=ledger.recovery_s)


@pytest.mark.slow
def test_an_idle_worker_is_killed_in_the_second_visit(start: Start, figures: Figures, tmp_path: Path) -> None:
    ledger = start(config(tmp_path, workers=1))
    until(ledger, lambda: ledger.algo.visit.number == 2)
    (killed,) = pids(ledger)
    time.sleep(0.5)  # for the fragment that was asked for to be done
    ledger.fault(lambda came: came[0] != killed)
    os.kill(killed, signal.SIGKILL)
    finish(ledger)
    assert recovered(ledger) and ledger.came and ledger.wrong_task == 0
    figures(ledger)


@pytest.mark.slow
@pytest.mark.parametrize("stopped_s", [0.6, 1.5])
def test_a_worker_that_is_stopped_for_a_while_is_late_and_goes_on(
    stopped_s: float, start: Start, figures: Figures, tmp_path: Path
) -> None:
    ledger = start(config(tmp_path, workers=2, visit_env_steps=ENDLESS, sample_timeout_s=1.0))
    ledger.algo.train()
    stopped = pids(ledger)[0]

    def came() -> int:
        return sum(own[0] == stopped for own in ledger.came)

    os.kill(stopped, signal.SIGSTOP)
    awake = threading.Timer(stopped_s, os.kill, (stopped, signal.SIGCONT))
    awake.start()
    started, before = time.monotonic(), came()
    # One fragment was asked for, one may have been on its way: the third it has made since.
    until(ledger, lambda: came() >= before + 3 * FRAGMENT * ENVS)
    awake.join()
    assert time.monotonic() - started > stopped_s
    assert ledger.algo.schedule.faults["lost_fragments"] == 0  # late is not lost
    figures(ledger, recovery_s=time.monotonic() - started - stopped_s)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "timeout_s"), [(1, 10.0), (2, 1.0)])
def test_a_worker_that_hangs_for_ever_is_started_anew(
    workers: int, timeout_s: float, start: Start, figures: Figures, tmp_path: Path
) -> None:
    ledger = start(config(tmp_path, workers=workers, visit_env_steps=ENDLESS, sample_timeout_s=timeout_s))
    ledger.algo.train()
    known = pids(ledger)
    ledger.fault(lambda came: came[0] not in known)
    os.kill(known[0], signal.SIGSTOP)
    until(ledger, lambda: recovered(ledger))
    assert ledger.algo.schedule.faults["lost_fragments"] == 1
    figures(ledger)


@pytest.mark.slow
def test_a_worker_is_killed_in_an_evaluation(start: Start, figures: Figures, tmp_path: Path) -> None:
    ledger = start(config(tmp_path / "rows", workers=2))
    once = str(tmp_path / "once")

    def arm(runner: Any) -> None:
        evaluate = Sampler.evaluate

        def dies(self: Sampler, **kwargs: Any) -> Any:
            try:
                os.close(os.open(once, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return evaluate(self, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        Sampler.evaluate = dies  # type: ignore[method-assign]

    ledger.algo.env_runner_group.foreach_env_runner(arm, local_env_runner=False)
    known = pids(ledger)
    ledger.fault(lambda came: came[0] not in known)
    finish(ledger)
    assert os.path.exists(once)
    lines = (tmp_path / "rows" / "evaluations.jsonl").read_text().splitlines()
    assert len(lines) == 4 and all('"episodes": 2' in line for line in lines)
    figures(ledger)


@pytest.mark.slow
@pytest.mark.parametrize("learners", [1, 2])
def test_a_lost_learner_ends_the_run_at_once_and_may_pass(
    learners: int, start: Start, figures: Figures, tmp_path: Path
) -> None:
    ledger = start(config(tmp_path).learners(num_learners=learners, num_cpus_per_learner=0.5))
    until(ledger, lambda: ledger.algo.updates > 0)
    process = (
        ledger.algo.learners.first("apply", _pid) if learners == 1 else ledger.algo.learners.every("apply", _pid)[1]
    )
    started = time.monotonic()
    os.kill(process, signal.SIGKILL)
    with pytest.raises((RayError, ConnectionError)) as caught:
        finish(ledger)
    assert may_pass(caught.value)
    assert time.monotonic() - started < 60
    figures(ledger)


def _pid(learner: Any) -> int:
    return os.getpid()


def jumping_clock() -> Callable[[], float]:
    """Wall time, an hour back to a day on."""
    now, rng = time.time, np.random.default_rng(0)
    return lambda: now() + rng.integers(-3600, 86400)


def test_a_clock_that_jumps_changes_nothing(
    ray_session: None, figures: Figures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []
    for jumps in (False, True):
        if jumps:
            monkeypatch.setattr(time, "time", jumping_clock())
        results = tmp_path / str(jumps)
        algo, _ = run_to_the_end(short_run(NBSPConfig(), results).curriculum(cycles=1))
        assert algo.throughput.wall_s >= 0
        evaluations = [{**row, "wall_s": 0} for row in rows_of(results, "evaluations.jsonl")]
        left.append((weights(algo).keys(), [w.tobytes() for w in weights(algo).values()], evaluations))
    assert left[0] == left[1]
    figures()
