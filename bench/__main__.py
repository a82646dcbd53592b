"""Run every bench of this folder: a table to read, and build/bench.json to keep.

python -m bench [NAME ...]     such as: python -m bench training
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from moe_leverage import paths

KEYS = ("name", "shape", "value", "unit", "peer", "ratio", "target", "met")


def main(wanted: list[str]) -> None:
    """Run the benches wanted, or all; print and write what they measured."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    unknown = [name for name in wanted if f"bench_{name}" not in names]
    if unknown:
        there = ", ".join(name.removeprefix("bench_") for name in names)
        sys.exit(f"no bench {', '.join(unknown)}; there are {there}")
    chosen = [f"bench_{name}" for name in wanted] or names
    rows = [row for name in chosen for row in importlib.import_module(f"bench.{name}").run()]
    Console(width=None if sys.stdout.isatty() else 160).print(table(rows))
    path = paths.BUILD / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"written to {path.name}; {sum(row['met'] is False for row in rows)} targets missed")


def table(rows: list[dict[str, Any]]) -> Table:
    """One line a figure, with the spread of its repeats where the bench gives one."""
    drawn = Table(*KEYS[:3], "spread", *KEYS[3:], box=None, pad_edge=False)
    for row in rows:
        cells = [row[key] for key in KEYS]
        drawn.add_row(*map(cell, [*cells[:3], row.get("spread"), *cells[3:]]))
    return drawn


def cell(value: object) -> str:
    """A value as text: four digits are enough to read."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and abs(value) < 1e4
        else (f"{value:,.0f}" if isinstance(value, float) else str(value))
    )


if __name__ == "__main__":
    main(sys.argv[1:])
