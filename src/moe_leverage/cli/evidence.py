"""`moe-leverage evidence`: public leverages derived again, and how the laws do on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe_leverage.cli import app

if TYPE_CHECKING:
    import pandas as pd

evidence = typer.Typer(
    no_args_is_help=True, help="Leverages derived from public runs, and how the laws do on them."
)
app.add_typer(evidence, name="evidence")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@evidence.command(epilog="Example: moe-leverage evidence check marin README.md")
def check(
    source: Annotated[str, typer.Argument(help="A file of data/evidence, without its ending.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="The source's tables, downloaded.")
    ],
    as_json: Json = False,
) -> None:
    """Derive a source's leverages again from a copy of its tables; exit 1 where they differ."""
    from moe_leverage.evidence import derive, sources

    found = derive.check(sources.find_source(source), files)
    _print(found, as_json)
    if not found["agrees"].all():
        raise typer.Exit(1)


@evidence.command(name="list", epilog="Example: moe-leverage evidence list --json")
def list_points(as_json: Json = False) -> None:
    """List the derived leverages, and where the runs behind them lie."""
    from moe_leverage.evidence import sources

    table = sources.points_table()
    if as_json:
        _print(table, as_json)
        return
    for source in sources.sources():
        place = f"{source.repository} at {source.commit}: {', '.join(source.files)}"
        typer.echo(f"{source.id}: {source.title}. {place} (licence: {source.licence})")
        typer.echo(f"    {source.runs}. {source.accounting}")
        typer.echo(f"    {source.caveat}")
    _print(table.drop(columns=["title", "active_params", "num_tokens"]), as_json)


@evidence.command(epilog="Example: moe-leverage evidence scores")
def scores(as_json: Json = False) -> None:
    """Score every printed law on public leverages and our own, by range of compute."""
    from moe_leverage.evidence.scores import score_table

    _print(score_table().drop(columns="run_id"), as_json)


def _print(table: pd.DataFrame, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(json.loads(table.to_json(orient="records")), indent=1))
    else:
        typer.echo(table.to_string(index=False, float_format="{:.4g}".format))
