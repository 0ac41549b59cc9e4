"""A study on this machine alone: what listens, who is let in, and who can read the token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rllib_nbsp.study.command import main
from rllib_nbsp.study.private import check_home
from tests.studies import TIMEOUT_S, write_config

SESSION = """
import json, os, subprocess, sys
import ray  # before the session, as a plugin may; it brings psutil
import psutil
from ray._raylet import GcsClient
from rllib_nbsp.study.stop_signal import StopSignal
from rllib_nbsp.study.trials import ray_session

ASK = '''
import sys
from ray._raylet import GcsClient
try:
    print(len(GcsClient(address=sys.argv[1]).get_all_node_info()))
except Exception as error:
    print(type(error).__name__)
'''

@ray.remote(num_cpus=0)
class Actor:
    def address(self):
        return ray.util.get_node_ip_address()

def ask(**changes):
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", ASK, ray.get_runtime_context().gcs_address]
    return subprocess.run(command, env={**env, **changes}, capture_output=True, text=True, timeout=60).stdout.strip()

with ray_session(None, 1, [], StopSignal()):
    actor = Actor.remote()
    seen = {"actor": ray.get(actor.address.remote())}
    own = [psutil.Process(), *psutil.Process().children(recursive=True)]
    seen["sockets"] = [
        [socket.laddr.ip, process.name()]
        for process in own
        for socket in process.net_connections("tcp")
        if socket.status == psutil.CONN_LISTEN
    ]
    seen["with"] = ask(RAY_AUTH_MODE="token")
    seen["wrong"] = ask(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    seen["without"] = ask(RAY_AUTH_MODE="disabled")
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def session(home: Path) -> dict[str, Any]:
    """What a session with a home of its own says of itself."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", SESSION],
        env=env | {"HOME": str(home), "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_process_of_a_study_on_this_machine_listens_on_loopback_alone(session: dict[str, Any]) -> None:
    names = " ".join(name for _, name in session["sockets"])
    assert all(name in names for name in ("gcs_server", "raylet", "ray::Actor", "python"))
    assert {address.removeprefix("::ffff:") for address, _ in session["sockets"]} == {"127.0.0.1"}
    assert session["actor"] == "127.0.0.1"


def test_nobody_is_let_in_without_the_token(session: dict[str, Any]) -> None:
    assert session["with"] == "1"
    assert session["wrong"] == session["without"] == "AuthenticationError"


def test_only_the_user_can_read_the_token(session: dict[str, Any], home: Path) -> None:
    token = home / ".ray" / "auth_token"
    assert len(token.read_text()) >= 32
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/deeper"])
def test_a_home_that_cannot_hold_the_token_is_named_before_anything_starts(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", place)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    results = tmp_path / "results"
    code = main([str(write_config(tmp_path)), "--results-dir", str(results)], program=["run"], report=lambda _: 0)
    error = capsys.readouterr().err
    assert code == 4 and not results.exists()
    assert error.startswith("error: /dev/null cannot be written, where Ray would keep its token; set HOME to a folder")


@pytest.mark.parametrize(
    "told", [("RAY_AUTH_TOKEN_PATH", "/some/token"), ("RAY_AUTH_TOKEN", "ab"), ("RAY_AUTH_MODE", "disabled")]
)
def test_a_home_is_not_needed_where_the_token_is_elsewhere(
    told: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setenv(*told)
    check_home()
