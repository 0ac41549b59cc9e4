"""Tables of a report as LaTeX, for `booktabs` and `graphicx`."""

from __future__ import annotations

from .blocks import Table
from .text import without_one_sequence

TABULAR = r"\begin{tabular}", r"\end{tabular}"
FITTED = (
    r"\resizebox*{!}{\ifdim\totalheight>.75\textheight .75\textheight\else\totalheight\fi}{%",
    r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
)
"""Before a box that is made smaller where it is higher than a page or wider than a line."""

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
    """A table with its note as caption, no wider than a line; names and numbers are escaped.

    Returns:
        What `\\input` takes in a document that has `\\usepackage{booktabs,graphicx}`.
    """
    frame = without_one_sequence(table.frame).rename(columns=_escaped).map(_cell)
    text = frame.to_latex(index=False, caption=_escaped(table.note) or None, label=f"tab:{table.name}")
    begin, end = TABULAR
    text = text.replace(begin, "\n".join([*FITTED, begin])).replace(end, end + "}" * len(FITTED))
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
