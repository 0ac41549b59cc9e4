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
MAX_OWNER_LENGTH = 200
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}
"""What a file system without locks says; there is nothing to hold there."""


class FolderInUse(RuntimeError):
    """Another process holds a folder; the message names both.

    Attributes:
        folder: the one that is held.
        owner: what it calls itself.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self.folder, self.owner = folder, owner
        super().__init__(f"{folder} is in use by {owner}")

    def __reduce__(self) -> tuple[type[FolderInUse], tuple[Path, str]]:
        return type(self), (self.folder, self.owner)


class FolderLock:
    """Holds a folder until `release`, or until the process ends, however it ends.

    Args:
        folder: it must exist.
        owner: what others are told; None: the machine and the process.
        wait_s: how long to wait for another process to end, as one does whose driver was lost.

    Raises:
        FolderInUse: if another holds it.
        OSError: if nothing can be written there.
    """

    def __init__(self, folder: Path, owner: str | None = None, *, wait_s: float = 0.0) -> None:
        self._owner = owner or f"{socket.gethostname()}:{os.getpid()} (host:pid)"
        self._file = open(folder / FILE, "a+", encoding="utf-8", opener=_not_a_link)
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
                    owner = "".join(filter(str.isprintable, self._file.read(MAX_OWNER_LENGTH))) or "another process"
                    raise FolderInUse(folder, owner) from error
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                break
            time.sleep(RETRY_S)
        self._file.seek(0)
        self._file.truncate()
        self._file.write(self._owner)
        self._file.flush()

    def release(self) -> None:
        """Let others have it."""
        self._file.close()


def _not_a_link(path: str, flags: int) -> int:
    """An opener that writes to no file elsewhere."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
