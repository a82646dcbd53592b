"""The verbs of `moe-leverage`, one module a group; a user's mistake ends in one line and exit 2.

A module in this folder adds its verbs to `app` when it is imported; none is listed here.
Verb modules import the package inside their functions, so that the command answers at once and
torch is loaded only by the verbs that train. What they print of a file and its name is no markup
and no command to a terminal: `say`, `show_table`.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from moe_leverage import __version__
from moe_leverage.modules import import_modules
from moe_leverage.rules import printable

MESSAGE = 240  # characters of a message, beside the name of the program

app = typer.Typer(
    name="moe-leverage",
    help="Count, predict, design, train and fit mixture-of-experts language models.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moe-leverage {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take what stands before a verb: the version alone."""


def main() -> None:
    """Run the command line; ValueError and OSError are the user's, anything else is ours."""
    atexit.register(gc.freeze)  # the process ends: looking for cycles first takes a second
    try:
        import_modules(__name__)
        code = app(standalone_mode=False)
    except OSError as error:
        fail(f"{error.filename or 'system'}: {error.strerror}" if error.strerror else str(error))
    except ValueError as error:
        fail(str(error))
    except MemoryError:
        fail("memory: this machine has not enough of it for what was asked")
    except typer.TyperException as error:
        fail(error.format_message())
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code or 0)


def fail(message: str) -> None:
    """Print one line to the error stream and exit with 2; no line where help was the answer."""
    if message:
        print(f"moe-leverage: {one_line(message)}", file=sys.stderr)
    sys.exit(2)


def one_line(message: str) -> str:
    """A message in one line of at most MESSAGE characters, none of them a command to a terminal.

    >>> one_line("a\\n  b \\x1b[31m"), len(one_line("long " * 1000))
    ('a b �[31m', 240)
    """
    words = " ".join(message.split())
    line = printable(words)
    return line if len(line) <= MESSAGE else f"{line[: MESSAGE - 4]} ..."


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
