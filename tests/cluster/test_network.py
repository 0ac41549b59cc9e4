"""A node behind a network that loses packets, or is cut for longer than Ray waits."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.machines import (
    ROOM,
    STUDY,
    TIMEOUT_S,
    Machines,
    PairStudy,
    check_rows,
    wait_until,
)

DOWN_S, UP_S = 0.3, 1.2
"""How long a bad network delivers nothing, and everything."""
VISIT_ENV_STEPS = 40_000
"""A visit goes on until a worker that is lost in it is back."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S)]


class Link:
    """A cable to another machine: a pair of network devices, of which one lies in a namespace of its own."""

    def __init__(self) -> None:
        number = os.getpid() % 2**14
        net, first = f"10.213.{number // 64}", number % 64 * 4
        here, self.there = (f"nbsp{end}{number}" for end in "ab")
        self.host = f"{net}.{first + 1}"
        self.within = ["ip", "netns", "exec", self.there]
        try:
            _ip("netns", "add", self.there)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("makes a network namespace")
        _ip("link", "add", here, "type", "veth", "peer", "name", self.there, "netns", self.there)
        _ip("addr", "add", f"{self.host}/30", "dev", here)
        _ip("link", "set", here, "up")
        _ip("-n", self.there, "addr", "add", f"{net}.{first + 2}/30", "dev", self.there)
        _ip("-n", self.there, "link", "set", "lo", "up")
        self.set("up")

    def set(self, state: str) -> None:
        """Up or down; what is sent over a cable that is down is lost."""
        _ip("-n", self.there, "link", "set", self.there, state)

    @contextlib.contextmanager
    def losing_packets(self) -> Iterator[None]:
        """Down again and again."""
        over = threading.Event()

        def flap() -> None:
            while not over.wait(UP_S):
                self.set("down")
                time.sleep(DOWN_S)
                self.set("up")

        thread = threading.Thread(target=flap)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def remove(self) -> None:
        """The namespace goes, and the pair with it."""
        _ip("netns", "del", self.there)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def link() -> Iterator[Link]:
    """A cable, plugged in."""
    link = Link()
    yield link
    link.remove()


def test_packets_that_are_lost_cost_time_and_a_cut_costs_a_fragment(
    link: Link, new_machines: Callable[..., Machines], record_property: Callable[[str, Any], None]
) -> None:
    machines = new_machines(link.host)
    machines.start("head", "--num-cpus=1", ROOM, f"--temp-dir={machines.folder}/ray")
    machines.start("worker", "--num-cpus=0", ROOM, within=link.within)
    study = PairStudy(machines, visit={**STUDY["visit"], "max_env_steps": VISIT_ENV_STEPS})
    try:
        wait_until(lambda: study.last()["env_steps"] >= 500)
        with link.losing_packets():
            wait_until(lambda: study.last()["env_steps"] >= 2500)
        assert study.last()["lost_fragments"] == 0  # late is not lost
        link.set("down")
        cut = time.monotonic()
        # Where Ray does not see the node's death, its worker is one that hangs.
        wait_until(lambda: study.last()["lost_fragments"] == 1, timeout_s=400.0)
        link.set("up")
        machines.start("worker", "--num-cpus=0", ROOM, within=link.within)
        wait_until(lambda: study.last()["visit"] == 2 or "were lost and are back" in machines.said_by_trials())
        recovery_s = time.monotonic() - cut
        assert study.last()["visit"] == 1
        study.ends()
    finally:
        study.stop()
    check_rows(study.trial, lost=1, visit_env_steps=VISIT_ENV_STEPS)
    record_property("doubled_env_steps", 0)
    record_property("recovery_s", recovery_s)
