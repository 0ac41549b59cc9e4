"""A study whose Ray cluster is gone ends, and says how to go on."""

from __future__ import annotations

import subprocess
import sys

WATCHED = """
import socket, sys, time
import ray
from rllib_nbsp.study import cluster_watch

server = socket.create_server(("127.0.0.1", 0))
class Context:
    gcs_address = "127.0.0.1:%d" % server.getsockname()[1]
ray.get_runtime_context = Context
cluster_watch.INTERVAL_S = 0.1
with cluster_watch.cluster_watched("go on with: this"):
    time.sleep(float(sys.argv[1]))
    print("still here", flush=True)
    server.close()
    time.sleep(float(sys.argv[2]))
print("over")
"""


def watched(there_s: float, gone_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WATCHED, str(there_s), str(gone_s)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_cluster_that_answers_no_more_ends_the_process_and_says_how_to_go_on() -> None:
    done = watched(0.6, 60.0)
    assert done.returncode == 4
    assert done.stdout == "still here\n"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: the Ray cluster at 127.0.0.1:") and line.endswith(" is lost; go on with: this")


def test_a_study_that_is_over_is_not_watched_any_more() -> None:
    done = watched(0.2, 0.0)
    assert (done.returncode, done.stdout) == (0, "still here\nover\n")
