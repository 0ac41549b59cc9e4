"""How figures look: one colour, marker and dash an arm, sizes of a paper's columns, names that fit, and files.

The baseline is grey and `nbsp` is blue in every figure of every study; the other arms have the colours of Okabe and Ito
that show on white, which people with any common colour blindness can tell apart, each with a marker of its own, so that
no two arms look alike in grey either.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Literal, NamedTuple, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from PIL import Image

SINGLE, DOUBLE = 3.4, 6.9
"""Widths in inches of one column of a paper, and of both."""

OVERLAID = 5
"""Arms that may share a panel; above it each has a row of its own."""

BASELINE_METHOD, METHOD = "sac", "nbsp"
BASELINE_COLOUR, METHOD_COLOUR = "#8A8A8A", "#0072B2"
COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A")
MARKERS: tuple[Any, ...] = ("^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
DASHES: tuple[Any, ...] = ((0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)), "-")
TRAINED, SHARED, MISSING = "#F1F1EC", "#222222", "#BBBBBB"
HEATMAP = "cividis"
DPI = 150

STYLE: Any = {
    "text.parse_math": False,  # a name with dollars is a name
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "lines.markeredgewidth": 0.6,
    "figure.facecolor": "white",
    "pdf.fonttype": 42,  # journals take no Type 3 fonts
    "svg.hashsalt": "analysis",  # the same figure has the same bytes
}

P = ParamSpec("P")


class ArmStyle(NamedTuple):
    """How one arm looks everywhere."""

    color: str
    marker: Any
    dash: Any


def arm_styles(arms: Sequence[str], methods: Mapping[str, str | None] | None = None) -> dict[str, ArmStyle]:
    """A style for each arm, no two with the same colour and marker.

    Args:
        arms: in the study's order.
        methods: the registered method of each arm; None: an arm is called after its method. The first arm of
            fine-tuning is grey, and the arm `nbsp`, or else the first of that method, blue, in every study.
    """
    of = {arm: (arm if methods is None else methods.get(arm)) for arm in arms}
    baseline = next((arm for arm in arms if of[arm] == BASELINE_METHOD), None)
    of_ours = [arm for arm in arms if of[arm] == METHOD]
    ours = METHOD if METHOD in of_ours else next(iter(of_ours), None)
    fixed = {baseline: ArmStyle(BASELINE_COLOUR, "o", "-"), ours: ArmStyle(METHOD_COLOUR, "s", "-")}
    others = [arm for arm in arms if arm not in fixed]
    return {arm: fixed[arm] if arm in fixed else _other(others.index(arm)) for arm in arms}


def _other(number: int) -> ArmStyle:
    """The style of the n-th arm that is neither: colours go round, and at each round a colour has another marker."""
    rounds, place = divmod(number, len(COLOURS))
    turn = number + rounds
    if rounds < len(MARKERS):
        marker = MARKERS[(place + rounds) % len(MARKERS)]
    else:
        marker = (3 + rounds, 1, 0)  # a star of as many points as there are rounds and three
    return ArmStyle(COLOURS[place], marker, DASHES[turn % len(DASHES)])


@contextmanager
def settings() -> Iterator[None]:
    """These settings, whatever the user's own matplotlibrc says; wanted when a figure is saved, too."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under these settings."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with settings():
            return draw(*args, **kwargs)

    return wrapper


def saved(figure: Figure, kind: Literal["png", "pdf", "svg"], *, text: bool = False) -> bytes:
    """The figure as a file; the same figure gives the same bytes.

    Args:
        figure: made by a function of this package.
        kind: of the file.
        text: in an SVG, leave text as text, which is smaller and looks as the reader's fonts do.
    """
    buffer = io.BytesIO()
    with settings():
        # Canvases draw once where savefig draws twice.
        if (layout := figure.get_layout_engine()) is not None:
            figure.set_dpi(DPI)
            FigureCanvasAgg(figure)
            layout.execute(figure)
            figure.set_layout_engine("none")  # laid out once for all files
        if kind == "png":
            figure.set_dpi(DPI)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
            # A third of the bytes for no visible loss; a page holds all of a study's pictures.
            image.quantize(256, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
        elif kind == "pdf":
            figure.set_dpi(72)
            metadata = dict.fromkeys(("CreationDate", "Creator", "Producer"))
            FigureCanvasPdf(figure).print_pdf(buffer, metadata=metadata)
        else:
            figure.set_dpi(72)
            matplotlib.rcParams["svg.fonttype"] = "none" if text else "path"
            FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator")))
    return buffer.getvalue()


# What fits


def between(width: float, single: float, double: float) -> float:
    """A size that is `single` in a figure of one column's width and `double` in one of both, and straight between."""
    return float(np.interp(width, (SINGLE, DOUBLE), (single, double)))


def width_of(ax: Axes) -> float:
    """Inches of the whole figure that a panel is in."""
    figure = ax.get_figure(root=True)
    return DOUBLE if figure is None else figure.get_figwidth()


def narrow(width: float) -> bool:
    """Whether a figure is made for one column."""
    return width < (SINGLE + DOUBLE) / 2


def label_below(fig: Figure, text: str) -> None:
    """A label under all panels, in as many lines as it takes."""
    fig.supxlabel(fitted(text, fig.get_figwidth() - 0.2, 7.5, lines=4), fontsize=7.5)


@functools.lru_cache(4096)
def inches(text: str, size: float, bold: bool = False) -> float:
    """How wide one line of text is."""
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, False)
    return float(width) / 72


def fitted(text: str, width: float, size: float, *, lines: int = 1, bold: bool = False) -> str:
    """A name no wider than that many inches: broken at hyphens and underscores, and cut where that is not enough."""
    if inches(text, size, bold) <= width:
        return text
    parts, done = _parts(text), list[str]()
    while parts and len(done) < lines - 1:
        line = parts.pop(0)
        while parts and inches(line + parts[0], size, bold) <= width:
            line += parts.pop(0)
        done.append(_cut(line, width, size, bold))
    if rest := "".join(parts):
        done.append(_cut(rest, width, size, bold))
    return "\n".join(line.rstrip() for line in done)


def _parts(text: str) -> list[str]:
    parts = [""]
    for letter in text:
        parts[-1] += letter
        if letter in "-_ ":
            parts.append("")
    return [part for part in parts if part]


def _cut(line: str, width: float, size: float, bold: bool) -> str:
    if inches(line, size, bold) <= width:
        return line
    kept = next((n for n in range(len(line) - 1, 0, -1) if inches(line[:n] + "…", size, bold) <= width), 1)
    return line[:kept] + "…"


def compact(value: float) -> str:
    """A number that takes little room on an axis: `0.5`, `20`, `1e-4`."""
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return f"{value:g}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def legend(fig: Figure, handles: Sequence[Line2D]) -> None:
    """A legend above the panels, in as many columns as the figure is wide."""
    if not handles:
        return
    size = STYLE["legend.fontsize"]
    width = fig.get_figwidth()
    for handle in handles:
        handle.set_label(fitted(str(handle.get_label()), width - 0.8, size))
    widths = [inches(str(handle.get_label()), size) + 0.62 for handle in handles]
    # Columns are filled one after the other, and each is as wide as its widest label.
    columns = next(
        count
        for count in range(len(widths), 0, -1)
        if count == 1 or sum(max(column) for column in np.array_split(widths, count)) <= width - 0.2
    )
    fig.legend(handles=list(handles), loc="outside upper center", ncols=columns)


def arm_handles(arms: Iterable[str], styles: Mapping[str, ArmStyle], line: bool = True) -> list[Line2D]:
    """What a legend shows of the arms."""
    return [
        Line2D(
            [],
            [],
            color=styles[arm].color,
            marker=styles[arm].marker,
            linestyle=styles[arm].dash if line else "none",
            linewidth=1.6,
            markersize=5,
            label=arm,
        )
        for arm in arms
    ]


Row = tuple[dict[str, ArmStyle], str | None]
"""The arms of one row of panels, in order, and which of them stands in grey behind the others."""


def rows_of_arms(styles: Mapping[str, ArmStyle], baseline: str | None) -> list[Row]:
    """Which arms share a row of panels: all together up to `OVERLAID`, above it one a row before the baseline."""
    if len(styles) <= OVERLAID:
        return [(dict(styles), None)]
    rows: list[Row] = []
    for arm in styles:
        behind = baseline if baseline in styles and arm != baseline else None
        rows.append(({name: styles[name] for name in (behind, arm) if name is not None}, behind))
    return rows


def name_row(ax: Axes, row: Row) -> None:
    """The arm of a row of panels, left of it."""
    arms, behind = row
    arm = next(name for name in arms if name != behind)
    name = fitted(arm, between(width_of(ax), 0.65, 1.1), 7, lines=3)
    ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)


def row_handles(rows: Sequence[Row]) -> list[Line2D]:
    """What a legend shows of rows of panels: all arms where they share one, else what stands behind each."""
    if len(rows) == 1:
        return arm_handles(rows[0][0], rows[0][0])
    behind = next((behind for _, behind in rows if behind is not None), None)
    return (
        [] if behind is None else [Line2D([], [], color=BASELINE_COLOUR, linewidth=1.0, label=f"behind each: {behind}")]
    )


def unit(of_returns: bool) -> str:
    """What scores are measured in."""
    return "return, 0 random and 1 human" if of_returns else "success rate"
