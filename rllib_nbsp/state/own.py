"""The bundles of one run: written in its name, and read by nobody but a run of the same settings and seed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rllib_nbsp.state.bundle import Bundle, BundleWriter, Series, list_bundles, newest, read_manifest
from rllib_nbsp.state.packing import StateError

STATE = "state"
"""The folder of a run's bundles in its results folder."""

logger = logging.getLogger(__name__)


class RunStates:
    """The bundles of one run.

    Args:
        root: where they lie.
        identity: of the run: `config_hash`, `seed` and `settings` must be those of a bundle that it goes on from, and
            `versions` should be.
    """

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        self.root = root
        self._identity = dict(identity)
        self._writer = BundleWriter(root)
        self._place: tuple[int, int] | None = None

    def write(self, env_steps: int, updates: int, parts: Mapping[str, Any], series: Sequence[Series]) -> None:
        """Write the run's state, unless it is that of the last time.

        Raises:
            OSError: as `BundleWriter.write` does.
        """
        if (env_steps, updates) != self._place:
            self._writer.write(env_steps, self._identity, parts, series)
            self._place = (env_steps, updates)

    @property
    def env_steps(self) -> int | None:
        """Where the run was when its state was written or read last."""
        return None if self._place is None else self._place[0]

    @property
    def exist(self) -> bool:
        """Whether there are any, valid or not."""
        return bool(list_bundles(self.root))

    def check(self) -> None:
        """See that nothing lies there which the run cannot go on from.

        Raises:
            ForeignState: if it is of other settings, naming them.
        """
        for path in reversed(list_bundles(self.root)):
            try:
                identity = read_manifest(path).identity
            except StateError:  # damaged: `read` says so and takes an older one
                continue
            self._check(path, identity)
            return

    def read(self) -> Bundle | None:
        """The newest bundle that is valid, if any.

        Raises:
            ForeignState: if it is of other settings, naming them.
        """
        bundle, errors = newest(self.root)
        for error in errors:
            logger.warning("%s; an older state is looked for", error)
        if bundle is None:
            return None
        self._check(bundle.path, bundle.identity)
        changed = _differences(bundle.identity.get("versions"), self._identity.get("versions"))
        if changed:
            logger.warning("%s: going on with %s: not to the last bit", bundle.path, "; ".join(changed))
        self._writer.go_on_from(bundle.path)
        self._place = (bundle.env_steps, bundle.parts["schedule"]["updates"])
        return bundle

    def drop(self) -> None:
        """Remove all of it."""
        self._place = None
        shutil.rmtree(self.root, ignore_errors=True)

    def _check(self, path: Path, identity: Mapping[str, Any]) -> None:
        if all(identity.get(key) == self._identity[key] for key in ("config_hash", "seed")):
            return
        changed = _differences(identity.get("settings"), self._identity["settings"])
        raise ForeignState(
            f"{path}: a run of other settings is unfinished here ({'; '.join(changed) or 'which cannot be told'}); "
            f"take those, or another results_dir, or remove {self.root} to begin anew"
        )


class ForeignState(StateError):
    """A state of another run."""


def _differences(was: Any, now: Any, place: str = "") -> list[str]:
    """`place: was -> now` of what differs between two nested dicts."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*was, *now])
        return [
            line
            for key in keys
            for line in _differences(was.get(key), now.get(key), f"{place}.{key}" if place else str(key))
        ]
    return [] if was == now else [f"{place}: {was!r} -> {now!r}"]
