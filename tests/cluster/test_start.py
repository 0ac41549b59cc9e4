"""What `cluster/start.sh` refuses, before it starts anything."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def start(home: Path, *arguments: str) -> tuple[int, str]:
    """Its exit code and what it says, for a user who has no token but that in `home`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        ["bash", "cluster/start.sh", *arguments],
        env={**env, "HOME": str(home), "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the first argument is ''; allowed: head, worker"),
        (["master", "10.0.0.5"], "the first argument is 'master'; allowed: head, worker"),
        (["head"], "the second argument is ''; allowed: HOST or HOST:PORT"),
        (["worker", "--head"], "the second argument is '--head'; allowed: HOST or HOST:PORT"),
        (["worker", "10.0.0.5;id"], "the second argument is '10.0.0.5;id'; allowed: HOST or HOST:PORT"),
        (["worker", "10.0.0.5"], "there is no token: copy ~/.ray/auth_token of 10.0.0.5 to this machine"),
    ],
)
def test_what_cannot_be_started_is_told_in_a_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    assert start(tmp_path, *arguments) == (2, f"error: {said}\n")


def test_a_head_that_does_not_answer_is_told_at_once(tmp_path: Path) -> None:
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert start(tmp_path, "worker", f"127.0.0.1:{port}") == (2, f"error: nothing answers at 127.0.0.1:{port}\n")
