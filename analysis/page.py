"""The page of a report: one file that needs no other, without network, readable on a telephone and on paper."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from rllib_nbsp.reading import printable

from . import figures
from .blocks import Picture, Section, pictures
from .findings import Findings
from .text import without_one_sequence

LINKED = re.compile(r'(\bid="|href="#|url\(#)')
"""Before each name by which parts of an SVG refer to each other."""


@dataclass(frozen=True)
class Part:
    """One study of a report."""

    name: str
    """Once in the report, and fit for a file's name."""
    found: Findings
    sections: Sequence[Section]
    drawn: dict[str, bytes] = field(default_factory=dict)
    """PNG of each picture, by its name."""

    @property
    def about(self) -> str:
        """What was run, in one line."""
        results = self.found.results
        suites = ", ".join(sorted(results.evaluations["suite"].dropna().unique()))
        runs, seeds = len(results.runs), sorted({run.seed for run in results.runs})
        told = [suites, f"{runs} run{'' if runs == 1 else 's'}", f"seeds {', '.join(map(str, seeds))}"]
        return " · ".join([*filter(None, told), f"metrics under the protocol {self.found.protocol}"])


def html(parts: Sequence[Part]) -> str:
    """The whole page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sources = {part.name: _sources(part, number) for number, part in enumerate(parts)}
    title = ", ".join(dict.fromkeys(part.found.title for part in parts))
    return environment.get_template("report.html.j2").render(
        title=title, parts=parts, sources=sources, shown=without_one_sequence
    )


def _sources(part: Part, number: int) -> Mapping[str, str]:
    """What stands in the page for each picture: a PNG's address, or the drawing itself where it has switches."""
    found: dict[str, str] = {}
    for place, picture in enumerate(pictures(part.sections)):
        if picture.switches:
            found[picture.name] = _inline(picture, f"p{number}-{place}-")
        else:
            found[picture.name] = "data:image/png;base64," + base64.b64encode(part.drawn[picture.name]).decode("ascii")
    return found


def _inline(picture: Picture, prefix: str) -> str:
    """An SVG whose names are no other's in the page; matplotlib has escaped the text in it."""
    text = figures.saved(picture.figure, "svg", text=True).decode()
    named = LINKED.sub(rf"\g<1>{prefix}", text[text.index("<svg") :])
    return named.replace("<svg ", f'<svg data-names="{prefix}" ', 1)
