"""The command `rllib-nbsp play`: watch a finished run's policy, or export it."""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from rllib_nbsp.envs.contract import EnvironmentContractError, EnvironmentFailure
from rllib_nbsp.plugins import USER_ERRORS
from rllib_nbsp.policy import EXIT_ENVIRONMENT, EXIT_USAGE, Policy, PolicyError, load_policy, positive
from rllib_nbsp.reading import printable
from rllib_nbsp.sampling.episodes import EpisodeSummary
from rllib_nbsp.sampling.vector import EnvVector

Frame = NDArray[np.uint8]

VIDEOS = (".mp4", ".gif")
SIDE_HEIGHT, GAP = 256, 16
"""Pixels: the most height of frames that stand side by side, and what lies between them."""

GL_HINT = (
    "MuJoCo draws with OpenGL: without a display set MUJOCO_GL=egl (a GPU's driver) or MUJOCO_GL=osmesa (libosmesa6)"
)
"""What to do where nothing can be drawn; docs/playing.md."""


def main(argv: Sequence[str]) -> int:
    """Run it.

    Returns:
        0; 2 for usage, an unknown task or visit; 3 if the run cannot be read; 4 if its environment, or a picture of it,
        cannot be had.
    """
    options = _parser().parse_args(argv)
    try:
        if options.video is not None and options.video.suffix not in VIDEOS:
            raise PolicyError(f"--video {options.video}: must end in {' or '.join(VIDEOS)}", EXIT_USAGE)
        policies = [load_policy(options.run, visit) for visit in options.visit or [None]]
        policy = policies[-1]
        policy.limit_threads()
        tasks = options.task or policy.tasks
        for task in tasks:
            policy.index(task)
        if options.onnx is not None:
            if len(tasks) > 1:
                raise PolicyError(f"--onnx: of which task? --task {' or '.join(policy.tasks)}", EXIT_USAGE)
            if len(policies) > 1:
                raise PolicyError("--onnx: after which visit? --visit takes one of them there", EXIT_USAGE)
            policy.export_onnx(options.onnx, tasks[0])
            print(printable(str(options.onnx)))
        else:
            _play(policies, tasks, options.episodes, options.video)
    except PolicyError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except (EnvironmentFailure, EnvironmentContractError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return EXIT_ENVIRONMENT
    return 0


def _play(policies: Sequence[Policy], tasks: Sequence[str], episodes: int, video: Path | None) -> None:
    # Before the first environment, for MuJoCo looks at it once; without it, it would look for the missing display.
    if video is not None and sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    film = None if video is None else Film(video)
    try:
        for task in tasks:
            shots = [_play_task(policy, task, episodes, film, beside=len(policies) > 1) for policy in policies]
            if film is not None:
                for episode in zip(*shots, strict=True):
                    film.add_beside(episode)
    finally:
        if film is not None:
            film.close()
    if film is not None:
        print(printable(str(video)))


def _play_task(policy: Policy, task: str, episodes: int, film: Film | None, *, beside: bool) -> list[list[Frame]]:
    """Play, tell and film; returns the frames of each episode if they are to stand beside another policy's."""
    frames: list[Frame] = []
    take: Callable[[EnvVector], None] | None = None
    if film is not None:
        take = functools.partial(_keep, frames, film) if beside else film.take
    played = policy.play(task, range(episodes), on_step=take)
    print(f"{task}, after visit {policy.visit}")
    for summary in played:
        print(f"  episode {summary['episode']}: {_told(policy, summary, policy.run.success_flag)}")
    ends = itertools.accumulate((summary["length"] for summary in played), initial=0)
    return [frames[start:end] for start, end in itertools.pairwise(ends)] if beside else []


def _keep(frames: list[Frame], film: Film, vector: EnvVector) -> None:
    frame = film.draw(vector)
    step = -(-len(frame) // SIDE_HEIGHT)
    frames.append(frame[::step, ::step])


def _told(policy: Policy, summary: EpisodeSummary, flag: str) -> str:
    words = f"return {summary['return']:.1f}, {summary['length']} steps"
    return f"{words}, {'success' if summary[flag] else 'no success'}" if policy.run.suite.has_success else words


class Film:
    """A video that grows by a frame a step.

    Args:
        path: of the file, .mp4 or .gif.

    Raises:
        PolicyError: if the packages of the extra `video` are missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None
        self._per_second = 30
        try:
            import imageio.v2 as imageio

            if path.suffix == ".mp4":
                import imageio_ffmpeg  # noqa: F401, which imageio imports by name
        except ImportError as error:
            wanted = "pip install 'rllib-nbsp[video]'"
            raise PolicyError(f"--video needs the package {error.name}: {wanted}", EXIT_ENVIRONMENT) from error
        self._imageio = imageio

    def take(self, vector: EnvVector) -> None:
        """Add a frame of the first environment as it is now.

        Raises:
            PolicyError: if it cannot be drawn here.
        """
        self._add(self.draw(vector))

    def draw(self, vector: EnvVector) -> Frame:
        """A frame of the first environment as it is now, (height, width, 3).

        Raises:
            PolicyError: if it cannot be drawn here.
        """
        env = vector.envs[0]
        try:
            self._per_second = int(env.metadata.get("render_fps", 30))
            return np.asarray(vector.suite.frame(env))
        except USER_ERRORS as error:
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
            hint = "" if isinstance(error, DependencyNotInstalled | NotImplementedError) else f". {GL_HINT}"
            raise PolicyError(f"{vector.task}: cannot be drawn here ({problem}){hint}", EXIT_ENVIRONMENT) from error

    def add_beside(self, shots: Sequence[Sequence[Frame]]) -> None:
        """Add an episode of each of several policies, side by side; one that is over stands still.

        Args:
            shots: the frames of each, all of one height.
        """
        for place in range(max(map(len, shots))):
            now = [shot[min(place, len(shot) - 1)] for shot in shots]
            gap = np.full((len(now[0]), GAP, 3), 255, np.uint8)
            self._add(np.hstack([part for frame in now for part in (gap, frame)][1:]))

    def _add(self, frame: Frame) -> None:
        if self._writer is None:
            of_mp4 = self._path.suffix == ".mp4"
            pace = {"fps": self._per_second} if of_mp4 else {"duration": 1000 / self._per_second, "loop": 0}
            try:
                self._writer = self._imageio.get_writer(str(self._path), **pace)
            except USER_ERRORS as error:
                problem = f"{type(error).__name__}: {error}".splitlines()[0]
                raise PolicyError(f"--video: cannot be written ({problem})", EXIT_ENVIRONMENT) from error
        self._writer.append_data(frame)

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rllib-nbsp play", description="Play a finished run's policy.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a trial: <study>/<sequence>/<arm>/seed_<n>")
    parser.add_argument(
        "--visit",
        type=int,
        nargs="+",
        metavar="N",
        help="as it was after this one (default: the last); after several, which a film shows side by side",
    )
    parser.add_argument("--task", nargs="+", metavar="NAME", help="of the run's tasks (default: each)")
    parser.add_argument("--episodes", type=positive, default=1, metavar="N", help="of each task (default: 1)")
    parser.add_argument("--video", type=Path, metavar="FILE", help="film them: FILE.mp4 or FILE.gif")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="export the actor for one task, and play nothing")
    return parser
