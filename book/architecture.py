"""Draws the floors of the package from its imports: book/_static/architecture.svg.

    python book/architecture.py

An arrow leads from a room to one that it imports from. What a longer way of arrows leads to as well
is left out, or every room would have an arrow to `rules`.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "moe_leverage"
PICTURE = ROOT / "book" / "_static" / "architecture.svg"

# From the ground up. A room imports from floors below its own, or from its own without a circle.
# The numbers are columns of the picture, chosen so that few arrows cross or pass behind a box.
FLOORS: tuple[dict[str, int], ...] = (
    {"locks": 0, "rules": 2, "paths": 4, "modules": 6},
    {"record": 2, "config": 4, "axes": 6},
    {"theory": 1, "accounting": 3, "pruning": 5, "paper": 7},
    {"model": 0, "corpus": 2, "ledger": 4, "stages": 6},
    {"training": 1, "analysis": 3},
    {"studies": 1, "design": 3, "evidence": 5, "audit": 7},
    {"page": 6},
    {"figures": 0, "your_runs": 7},
    {"instruments": 2},
    {"cli": 4},
)
FLOOR_OF: Mapping[str, int] = {r: i for i, rooms in enumerate(FLOORS, start=1) for r in rooms}
SHELL = ("__init__", "__main__")  # the version, and what `python -m` starts: no rooms

Imports = dict[str, set[str]]

COLUMN, ROW, MARGIN = 80, 88, 26  # pixels of the picture; its letters are 15 high
WIDTH = 9 * COLUMN + MARGIN
BOX_WIDTH, BOX_HEIGHT = 124, 40
INK, LINE, FILL, GROUND = "#1b1f24", "#5b636d", "#e6f0f8", "#fefefe"
ARROW = 7


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module by its dotted name within the package; a folder's `__init__` by the folder's."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


def module_imports(package: Path = PACKAGE) -> Imports:
    """The modules of the package that each module imports, within functions as well."""
    known = modules(package)
    return {
        name: set(_imported(path, package.name, known)) - {name} for name, path in known.items()
    }


def room_imports(package: Path = PACKAGE) -> Imports:
    """The rooms that each room imports from."""
    found: Imports = {}
    for module, imported in module_imports(package).items():
        rooms = found.setdefault(room(module), set())
        rooms |= {room(other) for other in imported} - {room(module), *SHELL}
    return {name: rooms for name, rooms in found.items() if name not in SHELL}


def room(module: str) -> str:
    """The folder or the file at the top of the package in which a module lies.

    >>> room("model.native.door")
    'model'
    """
    return module.split(".")[0]


def faults(imports: Imports, floor_of: Mapping[str, int] = FLOOR_OF) -> list[str]:
    """Rooms without a floor, imports from a floor above, and circles.

    >>> faults({"page": {"cli"}, "cli": {"page"}})
    ['page (floor 7) imports cli (floor 10)', 'circle: page, cli, page']
    """
    names = sorted(imports)
    found = [f"{name} has no floor" for name in names if name not in floor_of]
    found += [
        f"{name} (floor {floor_of[name]}) imports {other} (floor {floor_of[other]})"
        for name in names
        for other in sorted(imports[name])
        if floor_of.get(other, 0) > floor_of.get(name, len(FLOORS))
    ]
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        found.append(f"circle: {', '.join(error.args[1])}")
    return found


def reduced(imports: Imports) -> Imports:
    """The imports that no longer way implies (the graph has no circles).

    >>> reduced({"c": {"a", "b"}, "b": {"a"}, "a": set()})
    {'c': {'b'}, 'b': {'a'}, 'a': set()}
    """

    def reach(name: str) -> set[str]:
        return {name}.union(*(reach(other) for other in imports.get(name, ())))

    return {
        name: {
            other
            for other in others
            if not any(other in reach(between) for between in others - {other})
        }
        for name, others in imports.items()
    }


def svg(imports: Imports) -> str:
    """The picture: floors as rows, the ground at the bottom."""
    height = ROW * len(FLOORS)
    places = _places()
    arrows = [
        _arrow(places[name], places[other])
        for name, others in sorted(reduced(imports).items())
        for other in sorted(others)
    ]
    shown = [part for name, place in places.items() for part in _box(name, place)]
    numbers = [
        f'<text x="{MARGIN}" y="{_y(floor) + 5}" fill="{LINE}">{floor}</text>'
        for floor in range(1, len(FLOORS) + 1)
    ]
    title = "The floors of the package: every arrow leads down"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"',
        '  aria-labelledby="title" font-family="system-ui, sans-serif" font-size="15">',
        f'<title id="title">{title}</title>',
        f'<defs><marker id="head" viewBox="0 0 {ARROW} {ARROW}" refX="{ARROW}" refY="{ARROW / 2}"',
        f'  markerWidth="{ARROW}" markerHeight="{ARROW}" orient="auto">',
        f'  <path d="M0 0 L{ARROW} {ARROW / 2} L0 {ARROW} Z" fill="{LINE}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{GROUND}"/>',
        f'<g fill="none" stroke="{LINE}" marker-end="url(#head)">',
        *arrows,
        "</g>",
        *numbers,
        f'<g text-anchor="middle" fill="{INK}">',
        *shown,
        "</g>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the picture, or say what is wrong with the floors."""
    imports = room_imports()
    wrong = faults(imports)
    if not wrong:
        PICTURE.write_text(svg(imports), encoding="utf-8")
    for line in wrong:
        print(f"architecture: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _imported(path: Path, package: str, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path.name} = line {node.lineno}: must import by the full name")
            # a name may be a module of the folder, or stand in its `__init__`
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, inner = name.partition(".")
            if top == package:
                yield next((n for n in (inner, inner.rpartition(".")[0]) if n in known), "__init__")


def _places() -> dict[str, tuple[int, int]]:
    """The middle of each room's box."""
    left = 2 * MARGIN + BOX_WIDTH // 2
    return {
        name: (left + COLUMN * column, _y(floor))
        for floor, rooms in enumerate(FLOORS, start=1)
        for name, column in rooms.items()
    }


def _y(floor: int) -> int:
    return ROW * (len(FLOORS) - floor) + ROW // 2


def _box(name: str, place: tuple[int, int]) -> Iterator[str]:
    x, y = place
    is_file = (PACKAGE / f"{name}.py").is_file()
    corner = f'x="{x - BOX_WIDTH // 2}" y="{y - BOX_HEIGHT // 2}"'
    size = f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5"'
    yield f'<rect {corner} {size} fill="{GROUND if is_file else FILL}" stroke="{LINE}"/>'
    yield f'<text x="{x}" y="{y + 5}">{escape(name)}{".py" if is_file else "/"}</text>'


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """From box to box: down from the lower edge to the upper one, or sideways on one floor."""
    (x, y), (to_x, to_y) = start, end
    if y == to_y:
        side = BOX_WIDTH // 2 if to_x > x else -BOX_WIDTH // 2
        return f'<path d="M{x + side} {y} L{to_x - side} {y}"/>'
    y, to_y = y + BOX_HEIGHT // 2, to_y - BOX_HEIGHT // 2
    middle = (y + to_y) // 2
    return f'<path d="M{x} {y} C{x} {middle} {to_x} {middle} {to_x} {to_y}"/>'


if __name__ == "__main__":
    sys.exit(main())
