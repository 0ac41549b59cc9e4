"""Films of what a policy did before and after a visit, made by the command `rllib-nbsp play`.

Nothing else of the analysis runs a policy: films are made on request alone, for playing a run imports its plugins.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import MissingToolError
from .schema import Run, TaskOrder
from .tools import make_file

KINDS = ("mp4", "gif")
"""What films may be; a GIF is larger, and made without ffmpeg."""

TIMEOUT_S = 900
"""Of one film: without a GPU, drawing two episodes of MuJoCo takes minutes."""


@dataclass(frozen=True)
class Pair:
    """A task, and the visits after which its policies stand side by side."""

    task: str
    visits: tuple[int, ...]

    @property
    def caption(self) -> str:
        """What is to be seen."""
        if len(self.visits) == 1:
            return f"After visit {self.visits[0]}."
        return f"Left: after visit {self.visits[0]}. Right: after visit {self.visits[1]}."


def pairs_of(order: TaskOrder) -> list[Pair]:
    """Each task after the visit that learned it and after the next one; of the last visit, after the one before it."""
    last = len(order.order)
    pairs = []
    for column, task in enumerate(order.tasks):
        learned = order.order.index(column) + 1
        first = min(learned, max(last - 1, 1))
        pairs.append(Pair(task, (first, first + 1) if last > 1 else (1,)))
    return pairs


def run_to_film(runs: Iterable[Run], sequence: str, arm: str) -> Run:
    """The first seed that has kept its networks, or the first one."""
    own = sorted((run for run in runs if (run.sequence, run.arm) == (sequence, arm)), key=lambda run: run.seed)
    return next((run for run in own if any((run.path / "weights").glob("visit_*.npz"))), own[0])


def film(run: Run, pair: Pair, path: Path) -> None:
    """Have an evaluation episode played after each visit of a pair, and filmed side by side.

    Args:
        run: whose policy.
        pair: what is to be seen.
        path: of the film; its ending is one of `KINDS`.

    Raises:
        MissingToolError: if it cannot be made here: a run without weights, no OpenGL, no package that writes films.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    visits = [str(visit) for visit in pair.visits]
    command = [sys.executable, "-m", "rllib_nbsp.cli", "play", str(run.path), "--task", pair.task]
    command += ["--visit", *visits, "--video", str(path)]
    if failed := make_file(command, path, TIMEOUT_S):
        path.unlink(missing_ok=True)
        raise MissingToolError(re.sub("^error: ", "", failed))
