"""Folders that one process at a time writes to."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from pathlib import Path

FILE = ".lock"
RETRY_S = 0.5
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}
"""What a file system without locks says; there is nothing to hold there."""


class FolderInUse(RuntimeError):
    """Another process holds a folder; the message names both."""


class FolderLock:
    """Holds a folder until `release`, or until the process ends, however it ends.

    Args:
        folder: it must exist.
        wait_s: how long to wait for another process to end, as one does whose driver was lost.

    Raises:
        FolderInUse: if another holds it.
        OSError: if nothing can be written there.
    """

    def __init__(self, folder: Path, wait_s: float = 0.0) -> None:
        self._file = open(folder / FILE, "a+", encoding="utf-8")
        try:
            self._lock(folder, time.monotonic() + wait_s)
        except BaseException:
            self._file.close()
            raise

    def _lock(self, folder: Path, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    self._file.seek(0)
                    owner = self._file.read().strip() or "another process"
                    raise FolderInUse(f"{folder} is in use by {owner} (host:pid)") from error
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                break
            time.sleep(RETRY_S)
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"{socket.gethostname()}:{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Let others have it."""
        self._file.close()
