"""What keeps a checked study from starting."""

from __future__ import annotations

from collections.abc import Iterable


class PreflightError(RuntimeError):
    """A study cannot start here.

    Attributes:
        problems: one line each.
        exit_code: 2 for usage, 3 for results that are there, 4 for the machine.
    """

    def __init__(self, problems: Iterable[str], exit_code: int) -> None:
        self.problems = list(problems)
        self.exit_code = exit_code
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[PreflightError], tuple[list[str], int]]:
        return type(self), (self.problems, self.exit_code)
