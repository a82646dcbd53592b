"""The verbs that fit: a reader's table of runs, and the ledger of this project."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moe_leverage.cli import app

if TYPE_CHECKING:
    from moe_leverage.your_runs.reading import RunsTable

MOST_ROWS = 40  # of leverage, printed to a terminal; --json has all


@app.command()
def fit(
    runs: Annotated[Path, typer.Argument(metavar="RUNS.csv", help="One row a finished run.")],
    column_map: Annotated[
        Path | None, typer.Option("--map", help="TOML with tables \\[columns] and \\[units].")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure leverage from your own runs and fit every law that they identify.

    Needs dense and MoE rows with loss, tokens or FLOPs, and axes or shapes. Columns are guessed by
    name, and the guess is shown, unless a map says which is which.

    Example: moe-leverage fit runs.csv --map columns.toml --report report.html
    """
    from moe_leverage import paths

    if report is not None:
        paths.require_output("report", report, runs, column_map)

    from moe_leverage.your_runs.reading import read_runs

    table = read_runs(runs, column_map)

    from moe_leverage.analysis import findings
    from moe_leverage.your_runs import report as reports

    found = findings.examine(table.runs)
    record = reports.summary(table, found)
    if report is not None:
        title = f"Efficiency leverage of {runs.name}"
        paths.write_atomically(report, reports.page(title, table, found))
    if as_json:
        typer.echo(json.dumps(record, indent=2))
    else:
        _print(record, table, report)
    if not record["fits"] and not record["leverage"]:
        print("moe-leverage: nothing was fitted", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def fits(
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether data/fits is current.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit the laws that the book reads to this project's ledger and write data/fits.

    Example: moe-leverage fits
    """
    from moe_leverage.analysis import measured

    frame = measured.load_ledger()
    if check:
        index = measured.read_index()
        current = bool(index) and index["ledger"] == measured.digest(frame)
        typer.echo(json.dumps({"current": current}) if as_json else f"current: {current}")
        raise typer.Exit(0 if current else 1)
    index = measured.write_fits(frame)
    if as_json:
        typer.echo(json.dumps(index, indent=2))
        return
    for name, law in index["fits"].items():
        typer.echo(f"{name}: {law}")
    for name, reason in index["skipped"].items():
        typer.echo(f"not fitted: {name}: {reason}")
    if not index["fits"]:
        raise typer.Exit(1)


def _print(record: dict[str, Any], table: RunsTable, report: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(markup=False)
    console.print(
        f"{record['num_runs']} runs: {record['num_dense']} dense, {record['num_moe']} MoE"
    )
    if table.mapping.guessed:
        console.print("Columns guessed from their names; as a file for --map this is")
        console.print(table.mapping.to_toml(), highlight=False)
    for note in record["notes"]:
        console.print(f"  {note}", highlight=False)
    for warning in record["warnings"]:
        console.print(f"warning: {warning}", style="yellow", highlight=False)
    if record["leverage"]:
        console.print(_leverage_table(record["leverage"]))
    fits = Table("fit", "equation", "points", "coefficients", title="Fitted laws")
    whole = {name: one for name, one in record["fits"].items() if one["role"] == "law"}
    for name, fitted in whole.items():
        shown = ", ".join(
            f"{key} {_short(value)} ({' to '.join(map(_short, fitted['interval'][key]))})"
            for key, value in fitted["coefficients"].items()
        )
        cells = (name, fitted["equation"], str(fitted["num_points"]), shown)
        fits.add_row(*map(Text, cells))
    if len(whole) < len(record["fits"]):
        fits.caption = f"{len(record['fits']) - len(whole)} sections of the joint law in --json"
    if whole:
        console.print(fits)
    for name, reason in record["skipped"].items():
        console.print(f"not fitted: {name}: {reason}", highlight=False)
    if report is not None:
        console.print(f"report: {report}")


def _leverage_table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    shown = Table("A", "G", "C, FLOPs", "EL", "90 % interval", "published", title="Leverage")
    for row in rows[:MOST_ROWS]:
        bound = row["bound"] or {}
        value = _short(row["efficiency_leverage"]) if not bound else " ".join(
            f"{name.replace('_', ' ')} {_short(value)}" for name, value in bound.items()
        )  # fmt: skip
        ends = " to ".join(map(_short, row["interval"])) if row["interval"] else "-"
        axes = [_short(row[name]) for name in ("activation_ratio", "granularity", "compute")]
        shown.add_row(*axes, value, ends, _short(row["published"]))
    if len(rows) > MOST_ROWS:
        shown.caption = f"{len(rows) - MOST_ROWS} more rows in --json"
    return shown


def _short(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.3g}"
