"""Draws `docs/architecture.md` from the code's own imports: `python -m docs.architecture [--check]`.

A room is a module or a package directly under `rllib_nbsp`, or one of the folders beside it. An arrow is an import; one
that a longer way of arrows implies is left out. What must hold of them stands in `pyproject.toml` as contracts.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import grimp

PAGE = Path(__file__).with_name("architecture.md")
BEGIN, END = "<!-- drawn by docs/architecture.py: begin -->", "<!-- end -->"
PACKAGE = "rllib_nbsp"
BESIDE = ("analysis", "benchmarks")
COMMAND = "run_tune"

Arrows = Mapping[str, set[str]]


def room_of(module: str) -> str:
    """The room of a module: `rllib_nbsp.sac.update` stands in `sac`."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else parts[0]


def arrows() -> dict[str, set[str]]:
    """For each room the rooms that it imports."""
    graph = grimp.build_graph(PACKAGE, *BESIDE)
    found: dict[str, set[str]] = {room_of(module): set() for module in graph.modules}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            found[room_of(module)].add(room_of(imported))
    found[COMMAND] = {room_of(name) for name in _imports(Path(f"{COMMAND}.py"))}
    # The package's face hands public names on and is no room.
    face = found.pop(PACKAGE)
    return {room: {x for y in used for x in (face if y == PACKAGE else {y})} - {room} for room, used in found.items()}


def _imports(path: Path) -> list[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return [name for name in names if name.split(".")[0] in (PACKAGE, *BESIDE)]


def floors(graph: Arrows) -> dict[str, int]:
    """How high each room stands: above all that it imports.

    Raises:
        ValueError: if rooms import each other in a circle.
    """
    heights: dict[str, int] = {}

    def height(room: str, below: tuple[str, ...]) -> int:
        if room in below:
            raise ValueError(f"a circle: {' -> '.join([*below, room])}")
        if room not in heights:
            heights[room] = 1 + max((height(used, (*below, room)) for used in graph[room]), default=0)
        return heights[room]

    for room in sorted(graph):
        height(room, ())
    return heights


def without_implied(graph: Arrows) -> dict[str, set[str]]:
    """The arrows that no longer way implies."""

    def reached(room: str) -> set[str]:
        return graph[room] | {further for used in graph[room] for further in reached(used)}

    return {room: used - {far for near in used for far in reached(near)} for room, used in graph.items()}


def drawing(graph: Arrows) -> str:
    """The rooms as a Mermaid flowchart, highest floor first, and what they come to in a line."""
    heights = floors(graph)
    lines = ["```mermaid", "flowchart TD"]
    for room in sorted(graph, key=lambda room: (-heights[room], room)):
        lines.append(f'    {room}["{room}{"/" if _is_folder(room) else ".py"}"]')
    for room, used in sorted(without_implied(graph).items()):
        lines += [f"    {room} --> {other}" for other in sorted(used)]
    count = sum(map(len, graph.values()))
    back = sum(heights[other] >= heights[room] for room, used in graph.items() for other in used)
    summary = (
        f"{len(graph)} rooms on {max(heights.values())} floors, {count} arrows, {back} of them back up, no circle."
    )
    return "\n".join([*lines, "```", "", summary])


def _is_folder(room: str) -> bool:
    return Path(PACKAGE, room).is_dir() or room in BESIDE


def drawn(page: str, graph: Arrows) -> str:
    """The page with its drawing renewed."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{drawing(graph)}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or with `--check` say whether it is up to date; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    page = PAGE.read_text(encoding="utf-8")
    new = drawn(page, arrows())
    if "--check" in arguments:
        if new != page:
            print(f"{PAGE}: the imports have changed; draw it anew with `python -m docs.architecture`")
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
