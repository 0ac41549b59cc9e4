"""Tables of a report as LaTeX, for `booktabs`."""

from __future__ import annotations

from .blocks import Table

SYMBOLS = {
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\to$",
    "×": r"$\times$",  # noqa: RUF001
    "–": "--",  # noqa: RUF001
    "·": r"$\cdot$",
    "−": "$-$",  # noqa: RUF001
}
"""What pdfLaTeX has no letter for."""


def latex(table: Table) -> str:
    """A table with its note as caption; names and numbers are escaped.

    Returns:
        What `\\input` takes in a document that has `\\usepackage{booktabs}`.
    """
    frame = table.frame.rename(columns=_escaped).map(_cell)
    text = frame.to_latex(index=False, caption=_escaped(table.note) or None, label=f"tab:{table.name}")
    for symbol, command in SYMBOLS.items():
        text = text.replace(symbol, command)
    return text


def _cell(cell: object) -> str:
    text = _escaped(cell)
    return rf"\textbf{{{text[2:-2]}}}" if text.startswith("**") else text


def _escaped(cell: object) -> str:
    letters = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"$<$",
        ">": r"$>$",
    }
    return "".join(letters.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in str(cell))
