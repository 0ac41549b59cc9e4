"""Ends a study whose Ray cluster is gone.

A driver that has lost its cluster waits for a minute, in C++, and then dies there with a message that helps nobody.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator

import ray

INTERVAL_S, TIMEOUT_S = 5.0, 5.0
MISSED = 3
"""So many connections in a row that fail mean that nobody will answer."""
EXIT_CODE = 4


@contextlib.contextmanager
def cluster_watched(told: str) -> Iterator[None]:
    """Say it and end this process if Ray's control service (GCS) is lost meanwhile.

    Args:
        told: what a person should know then.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(host, int(port), over, told), daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _watch(host: str, port: int, over: threading.Event, told: str) -> None:
    missed = 0
    while not over.wait(INTERVAL_S):
        missed = 0 if _answers(host, port) else missed + 1
        if missed == MISSED:
            print(f"error: the Ray cluster at {host}:{port} is lost; {told}", file=sys.stderr, flush=True)
            with contextlib.suppress(Exception):  # what is left of a cluster of our own on this machine
                ray._private.worker._global_node.kill_all_processes(check_alive=False, allow_graceful=False)
            os._exit(EXIT_CODE)  # the main thread waits for the cluster


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S).close()
    except OSError:
        return False
    return True
