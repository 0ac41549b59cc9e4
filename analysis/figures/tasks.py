"""What tasks look like (the paper's Figures 5 and 6), drawn by their own simulators, which need not be installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..errors import MissingToolError
from ..text import short_name
from .style import DOUBLE, fitted, narrow, styled

Pixels = NDArray[np.uint8]
"""An image, shape (height, width, 3)."""

CAMERA = "corner2"
"""Meta-World's camera that shows the table and the arm."""


def task_pixels(suite: str, task: str) -> Pixels:
    """The first picture of an episode.

    Args:
        suite: metaworld, atari or gymnasium.
        task: as in a study's file.

    Raises:
        MissingToolError: if the suite has no pictures, its package is not installed, or it cannot draw here, as
            Meta-World without OpenGL; `MUJOCO_GL=egl` or `osmesa` draws without a display.
    """
    try:
        return _pixels(suite, task)
    except MissingToolError:
        raise
    except Exception as error:  # simulators and drivers of graphics raise what they like
        raise MissingToolError(f"no picture of {task}: {type(error).__name__}: {_first_line(error)}") from error


def task_frame(ax: Axes, pixels: Pixels, title: str = "") -> None:
    """A picture of a task.

    Args:
        ax: where to draw.
        pixels: `task_pixels`.
        title: above it.
    """
    ax.imshow(pixels)
    ax.set_axis_off()
    ax.set_title(title, fontsize=7.5)


@styled
def tasks_figure(pixels: Mapping[str, Pixels], *, width: float = DOUBLE) -> Figure:
    """`task_frame` of every task, in so many inches."""
    columns = min(2 if narrow(width) else 4, len(pixels))
    rows = -(-len(pixels) // columns)
    panel = width / columns
    tallest = max(image.shape[0] / image.shape[1] for image in pixels.values())
    fig = Figure(figsize=(width, rows * (panel * tallest + 0.3)), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, (task, image) in zip(axes.flat, pixels.items(), strict=False):
        task_frame(ax, image, fitted(short_name(task), panel - 0.1, 7.5, lines=2, bold=True))
    return fig


def _pixels(suite: str, task: str) -> Pixels:
    import gymnasium as gym

    # Checks of spaces and drivers of displays warn of what does not concern a picture.
    options: Any = {"render_mode": "rgb_array", "disable_env_checker": True}
    if suite == "metaworld":
        import metaworld  # noqa: F401, it registers its environments

        env = gym.make("Meta-World/MT1", env_name=task, **options, camera_name=CAMERA, seed=0)
    elif suite == "atari":
        import ale_py

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        gym.register_envs(ale_py)
        env = gym.make(f"ALE/{task}-v5", **options)
    elif suite == "gymnasium":
        env = gym.make(task, **options)
    else:
        raise MissingToolError(f"no picture of {task}: the suite {suite} has none")
    try:
        env.reset(seed=0)
        drawn = np.asarray(env.render(), dtype=np.uint8)
    finally:
        env.close()
    return drawn[::-1] if suite == "metaworld" else drawn  # MuJoCo's rows of this camera go up


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")
