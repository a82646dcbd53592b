"""What is printed of files and their names: no word of it is markup or a command to a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import typer

from moe_leverage.rules import printable


def say(line: str) -> None:
    """Print one line.

    >>> say("a \\x1b[2J [/x]")
    a �[2J [/x]
    """
    typer.echo(printable(line))


def show_table(headers: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table, its cells as they are.

    >>> show_table(["[b]", "EL"], [["[/x]", "2"]])  # doctest: +NORMALIZE_WHITESPACE
    <BLANKLINE>
    [b] EL
    ───────────
    [/x] 2
    <BLANKLINE>
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(printable(title)) if title else None)
    for header in headers:
        table.add_column(Text(printable(header)))
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table)
