"""What a report is made of: sections of tables, pictures and words. Page, Markdown and LaTeX come of these alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import pandas as pd
from matplotlib.figure import Figure

from rllib_nbsp.reading import printable

from .text import markdown, to_markdown


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Words:
    """A paragraph: the text itself, an aside, or a warning."""

    kind: ClassVar[str] = "words"
    text: str
    tone: Literal["lead", "plain", "aside", "warning"] = "aside"


@dataclass(frozen=True)
class Table:
    """A table of text, and what to know of it."""

    kind: ClassVar[str] = "table"
    name: str
    """Of its files: `differences_pair`."""
    frame: pd.DataFrame
    note: str = ""


@dataclass(frozen=True)
class Switch:
    """One arm of a drawing, to be turned on and off."""

    arm: str
    color: str
    on: bool
    group: str
    """How the names of what was drawn of it begin."""


@dataclass(frozen=True)
class Picture:
    """A figure, and what it shows."""

    kind: ClassVar[str] = "picture"
    name: str
    """Of its files: `curves_pair`."""
    title: str
    caption: str
    draw: Callable[..., Figure]
    """The figure, `width` inches wide: a function of `analysis.figures` with its arguments."""
    switches: Sequence[Switch] = ()
    """Where there are some, a page shows the drawing itself, whose arms they turn on and off."""
    on_page_alone: bool = False
    """Whether it makes no files, as a drawing of more arms than one panel can hold."""
    wide_alone: bool = False
    """Whether one column of a paper cannot hold it."""

    @cached_property
    def figure(self) -> Figure:
        """As wide as both columns."""
        return self.draw()


@dataclass(frozen=True)
class Film:
    """A film that lies beside the page."""

    kind: ClassVar[str] = "film"
    title: str
    caption: str
    link: str
    """Its address, from the page."""

    @property
    def moves_by_itself(self) -> bool:
        """Whether it is a picture to a browser: a GIF."""
        return self.link.endswith(".gif")


@dataclass(frozen=True)
class Code:
    """Lines to be copied."""

    kind: ClassVar[str] = "code"
    lines: Sequence[str]
    language: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Terms:
    """Words and what they mean."""

    kind: ClassVar[str] = "terms"
    meanings: Mapping[str, str]


@dataclass(frozen=True)
class Details:
    """What a page folds away under a line."""

    kind: ClassVar[str] = "details"
    title: str
    blocks: Sequence[Block]


Block = Heading | Words | Table | Picture | Film | Code | Bullets | Terms | Details


@dataclass(frozen=True)
class Section:
    """One part of a report."""

    anchor: str
    """What links to it say; once in a study."""
    title: str
    blocks: Sequence[Block] = field(default_factory=list)
    short: str = ""
    """What the table of contents calls it; the title where nothing stands here."""


def all_blocks(sections: Sequence[Section]) -> Iterator[Block]:
    """Every block, those that are folded away too, in order."""

    def walk(blocks: Sequence[Block]) -> Iterator[Block]:
        for block in blocks:
            yield block
            if isinstance(block, Details):
                yield from walk(block.blocks)

    for section in sections:
        yield from walk(section.blocks)


def pictures(sections: Sequence[Section]) -> list[Picture]:
    """All pictures, in order."""
    return [block for block in all_blocks(sections) if isinstance(block, Picture)]


def as_markdown(sections: Sequence[Section]) -> str:
    """The sections as Markdown, without their pictures."""
    parts = []
    for section in sections:
        written = [text for block in section.blocks if (text := _markdown(block))]
        if written:
            parts += [f"## {markdown(section.title)}", *written]
    return "\n\n".join(parts)


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"### {markdown(text)}"
        case Words(text):
            return markdown(text)
        case Table():
            return to_markdown(block.frame) + (f"\n\n{markdown(block.note)}" if block.note else "")
        case Picture():
            return ""
        case Film(title, caption, link):
            return f"- [{markdown(title)}]({link}): {markdown(caption)}"
        case Code(lines, language):
            return "\n".join([f"```{language}", *map(printable, lines), "```"])
        case Bullets(items):
            return "\n".join(f"- {markdown(item)}" for item in items) or "- none"
        case Terms(meanings):
            return "\n".join(f"- {markdown(word)}: {markdown(meaning)}" for word, meaning in meanings.items())
        case Details(title, blocks):
            return "\n\n".join([f"### {markdown(title)}", *(text for inner in blocks if (text := _markdown(inner)))])
