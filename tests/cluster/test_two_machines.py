"""A study on raylets that `cluster/start.sh` starts, by the command of `cluster/rayjob.yaml`: one goes, one comes."""

from __future__ import annotations

import signal
import stat
from pathlib import Path

import pytest

from tests.cluster.machines import (
    ROOM,
    TIMEOUT_S,
    VISIT_ENV_STEPS,
    Machines,
    PairStudy,
    check_rows,
    entrypoint,
    kill,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S)]


@pytest.mark.parametrize("notice", [signal.SIGKILL, signal.SIGTERM], ids=["without notice", "with notice"])
def test_a_node_goes_and_a_node_comes_in_mid_visit_and_no_step_is_counted_twice(
    machines: Machines, notice: signal.Signals
) -> None:
    machines.start("head", "--num-cpus=1", ROOM, f"--temp-dir={machines.folder}/ray")
    spot = machines.start("worker", "--num-cpus=0", ROOM)
    study = PairStudy(machines)
    try:
        wait_until(lambda: study.last()["env_steps"] >= 500)
        kill(spot, notice)
        wait_until(lambda: study.last()["lost_fragments"] == 1)
        assert study.last()["visit"] == 1
        machines.start("worker", "--num-cpus=0", ROOM)
        wait_until(lambda: "were lost and are back" in machines.said_by_trials() or study.last()["visit"] > 2)
        assert study.last()["env_steps"] % VISIT_ENV_STEPS
        study.ends()
    finally:
        study.stop()
    check_rows(study.trial, lost=1)
    # The next try of the job finds the study, and nothing that is left to do.
    again = machines.run(study.command, RAY_AUTH_MODE="token")
    printed, _ = again.communicate(timeout=240)
    assert again.returncode == 0 and "1 of 1 trials are finished already" in printed, printed[-3000:]


def test_a_head_gives_its_token_to_its_owner_alone_and_asks_all_others_for_it(machines: Machines) -> None:
    machines.start("head", "--num-cpus=1", f"--temp-dir={machines.folder}/ray")
    token = Path(machines.env["HOME"]) / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    command = entrypoint(machines.folder)
    refused = machines.run(command)
    printed, _ = refused.communicate(timeout=240)
    assert refused.returncode == 4
    assert printed.splitlines()[-1].endswith("it asks for its head's ~/.ray/auth_token and for RAY_AUTH_MODE=token")
    token.unlink()
    refused = machines.run(command, RAY_AUTH_MODE="token")
    printed, _ = refused.communicate(timeout=240)
    assert refused.returncode == 4
    assert printed.splitlines()[-1].startswith("error: --address auto: Token authentication is enabled but no")
    assert token.parent.exists() and not (machines.folder / "results" / "my_pair" / "study.yaml").exists()
