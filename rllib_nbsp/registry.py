"""Things that are known by name, methods and suites, and the words for a name that is not."""

from __future__ import annotations

import difflib
from collections import UserDict
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


class Registry(UserDict[str, T]):
    """Things of one kind by name; a name that is not among them is an error that says which are.

    Args:
        kind: what they are, as in "method".
        things: those that are there from the start.
    """

    def __init__(self, kind: str, things: dict[str, T]) -> None:
        self.kind = kind
        super().__init__(things)

    def __missing__(self, name: str) -> T:
        raise KeyError(f"unknown {self.kind} {name!r}{did_you_mean(name, self)} Known: {', '.join(sorted(self))}")

    def register(self, name: str, thing: T) -> T:
        """Add a thing under a name, and return it.

        Raises:
            ValueError: if another one has that name.
        """
        if self.get(name, thing) is not thing:
            raise ValueError(f"there is a {self.kind} {name!r} already: {self[name]!r}")
        self[name] = thing
        return thing


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known names as the end of an error line; empty if nothing is near."""
    close = difflib.get_close_matches(name, known, n=3)
    return "; did you mean " + " or ".join(repr(other) for other in close) + "?" if close else ""
