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
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Tables with a row a finished run.")
    ],
    column_map: Annotated[
        Path | None, typer.Option("--map", help="TOML with tables \\[columns] and \\[units].")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="OURS=THEIRS: which column is a quantity.")
    ] = None,
    unit: Annotated[list[str] | None, typer.Option(help="OURS=UNIT: in which unit it is.")] = None,
    where: Annotated[
        str, typer.Option(help='Keep rows for which this holds: "d_model > 512".')
    ] = "",
    dense_only: Annotated[bool, typer.Option("--dense-only", help="Keep dense rows.")] = False,
    moe_only: Annotated[bool, typer.Option("--moe-only", help="Keep mixtures.")] = False,
    floor: Annotated[
        float | None, typer.Option(help="Pin the loss floor of the dense frontier, in nats.")
    ] = None,
    all_checkpoints: Annotated[
        bool, typer.Option("--all-checkpoints", help="Keep every checkpoint of a run.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page.")] = None,
    save: Annotated[Path | None, typer.Option(help="Keep the fits, for predict --from.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure leverage from your own runs and fit every law that they identify.

    Reads CSV, TSV, JSON lines, JSON, Markdown, gzip of these, Parquet and Excel, one table or
    several. Columns are guessed by name, and the guess is shown, unless you say which is which.

    Example: moe-leverage fit runs.csv --column loss=eval/loss --report report.html
    """
    from moe_leverage import paths
    from moe_leverage.rules import printable, require

    for name, output, other in (("report", report, None), ("save", save, report)):
        if output is not None:
            paths.require_output(name, output, other, *runs, column_map)

    from moe_leverage.your_runs.reading import Choice, read_runs

    require(not (dense_only and moe_only), "--moe-only", True, "excludes --dense-only")
    require(floor is None or floor >= 0, "--floor", floor, "must not be negative")
    choice = Choice(
        column_map=column_map,
        columns=tuple(column or ()),
        units=tuple(unit or ()),
        where=where,
        only="dense" if dense_only else "moe" if moe_only else "",
        all_checkpoints=all_checkpoints,
    )
    table = read_runs(runs, choice)
    least = float(table.runs["loss"].min())
    require(
        floor is None or floor < least,
        "--floor",
        floor,
        f"must be below {least:.4g}, the smallest loss",
    )

    from moe_leverage.analysis import findings
    from moe_leverage.your_runs import report as reports
    from moe_leverage.your_runs import saved

    found = findings.examine(table.runs, floor=floor)
    record = reports.summary(table, found)
    if report is not None:
        from moe_leverage.your_runs import document  # what draws takes a second to load

        title = printable(f"Efficiency leverage of {', '.join(path.name for path in runs)}")
        paths.write_atomically(report, document.page(title, found, record))
    if save is not None:
        saved.save(save, found)
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
    from moe_leverage import ledger
    from moe_leverage.analysis import measured

    frame = ledger.table()
    if check:
        index = measured.read_index()
        current = bool(index) and index["ledger"] == measured.digest(measured.fed(frame))
        typer.echo(json.dumps({"current": current}) if as_json else f"current: {current}")
        raise typer.Exit(0 if current else 1)
    standings = map(ledger.standing, frame["study"].unique())
    incomplete = [found.study for found in standings if not found.is_complete]
    index = measured.write_fits(frame, incomplete=incomplete)
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

    console = Console()
    for sentence in record["answer"]:
        console.print(sentence, style="bold", highlight=False, markup=False)
    for warning in record["warnings"]:
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)
    if record["leverage"]:
        console.print(_leverage_table(record["leverage"]))
    fits = Table("fit", "equation", "points", "coefficients", title="Fitted laws")
    whole = {name: fit for name, fit in record["fits"].items() if fit["role"] == "law"}
    for name, fitted in whole.items():
        cells = (name, fitted["equation"], str(fitted["num_points"]), _coefficients(fitted))
        fits.add_row(*map(Text, cells))
    if len(whole) < len(record["fits"]):
        fits.caption = f"{len(record['fits']) - len(whole)} sections of the joint law in --json"
    if whole:
        console.print(fits)
    for name, reason in record["skipped"].items():
        console.print(f"not fitted: {name}: {reason}", highlight=False, markup=False)
    for advice in record["next"]:
        console.print(f"next: {advice}", highlight=False, markup=False)
    console.print(
        f"Read: {record['num_runs']} runs, {record['num_dense']} dense, {record['num_moe']} MoE"
    )
    for note in record["notes"]:
        console.print(f"  {note}", highlight=False, markup=False)
    if table.mapping.guessed:
        console.print("Columns guessed from their names; as a file for --map this is")
        console.print(table.mapping.to_toml(), highlight=False, markup=False)
    if report is not None:
        console.print(f"report: {report}", markup=False)


def _coefficients(fitted: dict[str, Any]) -> str:
    """Each coefficient with its interval, or with what the runs leave open."""
    parts = []
    for key, value in fitted["coefficients"].items():
        verdict, ends = fitted["identified"].get(key, ""), fitted["interval"][key]
        if ends is None:
            parts.append(f"{key} not identified")
            continue
        weak = ", weakly identified" if verdict.startswith("weakly") else ""
        both = (fitted["with_outliers"] or {}).get(key)
        more = "" if both is None else f"; with outliers {_short(both)}"
        parts.append(f"{key} {_short(value)} ({' to '.join(map(_short, ends))}{weak}{more})")
    return ", ".join(parts)


def _leverage_table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    from moe_leverage.your_runs.report import beside

    readings = beside(rows)
    headers = ["A", "G", "C, FLOPs", "EL", "90 % interval", *readings.values(), "published"]
    shown = Table(*headers, title="Leverage")
    for row in rows[:MOST_ROWS]:
        bound = row["bound"] or {}
        value = _known(row["efficiency_leverage"]) if not bound else " ".join(
            f"{name.replace('_', ' ')} {_short(value)}" for name, value in bound.items()
        )  # fmt: skip
        ends = " to ".join(map(_short, row["interval"])) if row["interval"] else "-"
        axes = [_known(row[name]) for name in ("activation_ratio", "granularity", "compute")]
        more = [_known(row[name]) for name in (*readings, "published")]
        shown.add_row(*axes, value, ends, *more)
    if len(rows) > MOST_ROWS:
        shown.caption = f"{len(rows) - MOST_ROWS} more rows in --json"
    return shown


def _short(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.3g}"


def _known(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
