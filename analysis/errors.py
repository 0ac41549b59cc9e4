"""What the analysis refuses, and the exit code that says so."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AnalysisError(Exception):
    """A message for the user: what was found, what is allowed, and where."""

    exit_code = 3


class DataError(AnalysisError):
    """Results that are missing, damaged or must not be averaged."""


class UnknownNameError(AnalysisError):
    """A name that the user mistyped; the message lists close and known names."""

    exit_code = 2

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = list(known)
        self._told = kind, name, names
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        super().__init__(f"unknown {kind} {name!r}; {hint}known: {', '.join(names) or 'none'}")

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str]]]:
        return type(self), self._told


def check_known(kind: str, name: str | None, known: Iterable[str]) -> None:
    """Refuse a name that is not known, with the close ones; None passes.

    Raises:
        UnknownNameError: if it is not known.
    """
    names = sorted(set(known))
    if name is not None and name not in names:
        raise UnknownNameError(kind, name, names)


class MissingToolError(AnalysisError):
    """A program or package that a part of the report needs; the rest of the report is made without it."""

    exit_code = 4


class UsageError(AnalysisError):
    """A command whose parts do not go together."""

    exit_code = 2
