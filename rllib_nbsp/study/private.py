"""A Ray of this user on this machine alone: it listens on loopback, and nobody else can read its token."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rllib_nbsp.study.errors import PreflightError

TOKEN = Path(".ray", "auth_token")
"""Where in the user's home Ray keeps the token without which nobody is let in."""


def check_home() -> None:
    """Whether Ray has a place for its token, as with a container's arbitrary user id or a read-only home it may not.

    Raises:
        PreflightError: if there is none.
    """
    if _token_is_elsewhere():
        return
    ways = "set HOME to a folder that can be written, or RAY_AUTH_TOKEN_PATH to a file with a token"
    try:
        token = Path.home() / TOKEN
    except RuntimeError as error:
        raise PreflightError([f"user id {os.getuid()} has no home folder; {ways}"], 4) from error
    place = next(path for path in (token, *token.parents) if path.exists())
    if place == token:
        problem = "" if token.is_file() and os.access(token, os.R_OK) else f"{token} cannot be read"
    else:
        problem = "" if place.is_dir() and os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written"
    if problem:
        raise PreflightError([f"{problem}, where Ray would keep its token; {ways}"], 4)


def protect_token(make: bool) -> None:
    """See to it that nobody else can read Ray's token; the file that Ray makes is readable by everybody.

    Args:
        make: whether to make the file where there is none, for Ray to fill.

    Raises:
        OSError: if it cannot be made.
    """
    if _token_is_elsewhere():
        return
    token = Path.home() / TOKEN
    if make and not token.exists():
        token.parent.mkdir(mode=0o700, exist_ok=True)
        token.touch(mode=0o600)
    with contextlib.suppress(OSError):  # none, or another user's
        token.chmod(0o600)


def _token_is_elsewhere() -> bool:
    """Whether Ray was told to ask for no token, or where another one is."""
    told = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(told) or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token"


@contextlib.contextmanager
def loopback() -> Iterator[None]:
    """A Ray that is started within it listens on 127.0.0.1 alone.

    Its processes listen there if that is their node's address, which Ray allows where it makes no clusters of several
    machines. `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0` asks for the same, but is read as soon as Ray is imported.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
