"""The command `rllib-nbsp play`: watch a finished run's policy, or export it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gymnasium.error import DependencyNotInstalled

from rllib_nbsp.envs.contract import EnvironmentContractError, EnvironmentFailure
from rllib_nbsp.plugins import USER_ERRORS
from rllib_nbsp.policy import EXIT_ENVIRONMENT, EXIT_USAGE, Policy, PolicyError, load_policy, positive
from rllib_nbsp.reading import printable
from rllib_nbsp.sampling.episodes import EpisodeSummary
from rllib_nbsp.sampling.vector import EnvVector

VIDEOS = (".mp4", ".gif")
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
        policy = load_policy(options.run, options.visit)
        tasks = options.task or policy.tasks
        for task in tasks:
            policy.index(task)
        if options.onnx is not None:
            if len(tasks) > 1:
                raise PolicyError(f"--onnx: of which task? --task {' or '.join(policy.tasks)}", EXIT_USAGE)
            policy.export_onnx(options.onnx, tasks[0])
            print(printable(str(options.onnx)))
        else:
            _play(policy, tasks, options.episodes, options.video)
    except PolicyError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except (EnvironmentFailure, EnvironmentContractError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return EXIT_ENVIRONMENT
    return 0


def _play(policy: Policy, tasks: Sequence[str], episodes: int, video: Path | None) -> None:
    # Before the first environment, for MuJoCo looks at it once; without it, it would look for the missing display.
    if video is not None and sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    film = None if video is None else Film(video)
    flag = policy.run.success_flag
    try:
        for task in tasks:
            played = policy.play(task, range(episodes), on_step=film.take if film else None)
            print(f"{task}, after visit {policy.visit}")
            for summary in played:
                print(f"  episode {summary['episode']}: {_told(policy, summary, flag)}")
    finally:
        if film is not None:
            film.close()
    if film is not None:
        print(printable(str(video)))


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
        try:
            import imageio.v2 as imageio

            if path.suffix == ".mp4":
                import imageio_ffmpeg  # noqa: F401, which imageio imports by name
        except ImportError as error:
            wanted = "pip install 'rllib-nbsp[video]'"
            raise PolicyError(f"--video {path} needs the package {error.name}: {wanted}", EXIT_ENVIRONMENT) from error
        self._imageio = imageio

    def take(self, vector: EnvVector) -> None:
        """A frame of the first environment as it is now.

        Raises:
            PolicyError: if it cannot be drawn here.
        """
        env = vector.envs[0]
        try:
            frame = vector.suite.frame(env)
            if self._writer is None:
                per_second = int(env.metadata.get("render_fps", 30))
                pace = {"fps": per_second} if self._path.suffix == ".mp4" else {"duration": 1000 / per_second}
                self._writer = self._imageio.get_writer(str(self._path), **pace)
        except USER_ERRORS as error:
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
            hint = "" if isinstance(error, DependencyNotInstalled | NotImplementedError) else f". {GL_HINT}"
            raise PolicyError(f"{vector.task}: cannot be drawn here ({problem}){hint}", EXIT_ENVIRONMENT) from error
        self._writer.append_data(frame)

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rllib-nbsp play", description="Play a finished run's policy.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a trial: <study>/<sequence>/<arm>/seed_<n>")
    parser.add_argument("--visit", type=int, metavar="N", help="as it was after this one (default: the last)")
    parser.add_argument("--task", nargs="+", metavar="NAME", help="of the run's tasks (default: each)")
    parser.add_argument("--episodes", type=positive, default=1, metavar="N", help="of each task (default: 1)")
    parser.add_argument("--video", type=Path, metavar="FILE", help="film them: FILE.mp4 or FILE.gif")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="export the actor for one task, and play nothing")
    return parser
