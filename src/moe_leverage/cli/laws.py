"""`moe-leverage laws`, and what `explain` and `predict` print of the laws of other groups."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from moe_leverage.cli import app, show_table

if TYPE_CHECKING:
    from moe_leverage.design.designer import Explanation
    from moe_leverage.design.every_law import LawAnswer
    from moe_leverage.design.prediction import Prediction

Answers = tuple["LawAnswer", ...]


@app.command(epilog="Example: moe-leverage laws --json")
def laws(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List every printed law and how it comes out of the statements of its own paper."""
    from moe_leverage.theory.printed import printed_laws
    from moe_leverage.theory.statements import standing

    found = {law: standing(law) for law in printed_laws()}
    if as_json:
        listed = {law.id: asdict(stands) for law, stands in found.items() if not law.missing}
        listed |= {law.id: {"missing": law.missing} for law in found if law.missing}
        typer.echo(json.dumps(listed, indent=1, allow_nan=False))
        return
    for law, stands in found.items():
        typer.echo(f"{law.id}: {law.title} (arXiv {law.arxiv}, {law.locator})")
        read = f"read so: {stands.reading.says}" if stands.reading else "no reading returns all"
        typer.echo(f"    {law.missing or read}")
        if law.domain:
            ranges = (f"{name} {low:g} to {high:g}" for name, (low, high) in law.domain.items())
            typer.echo(f"    runs behind it ({law.domain_locator}): {', '.join(ranges)}")
        for verdict in stands.verdicts:
            published = verdict.statement.published
            sign = (
                "" if verdict.statement.relation == "equals" else f"{verdict.statement.relation} "
            )
            said = f"{verdict.statement.says}: {verdict.value:.4g}, printed {sign}{published}"
            typer.echo(f"    {verdict.label}: {said}")


def asked_of(found: Explanation, law: str = "all") -> Answers:
    """What the printed laws, or the one of this name, say of a model."""
    from moe_leverage.design import every_law

    return every_law.answers(found, law)


def asked_at(found: Prediction, law: str) -> Answers:
    """The same of a point, whose size is not known."""
    from moe_leverage.design import every_law

    layout = every_law.layout_of(found.activation_ratio, found.granularity)
    point = every_law.Asked(layout=layout, compute=found.compute)
    return every_law.answers_at(point, found.measured, law)


def say(answers: Answers, name: str, compute: float, as_json: bool) -> None:
    """Print the answers as JSON or as a table."""
    if as_json:
        typer.echo(json.dumps([asdict(answer) for answer in answers], indent=2, allow_nan=False))
    else:
        show(answers, name, compute)


def show(answers: Answers, name: str, compute: float) -> None:
    """Print the answers as a table, and below it why a law is silent or extrapolates."""
    head, rows = ("law", "EL", "on", "at its tokens"), []
    for answer in answers:
        mark = "" if answer.in_domain or answer.value is None else " *"
        cells = (_number(answer.value) + mark, answer.basis or "-", _number(answer.at_its_tokens))
        rows.append((answer.title, *cells))
    show_table(head, rows, f"{name} at {compute:.3g} FLOPs")
    typer.echo("*: extrapolated beyond the runs behind the law.")
    for answer in answers:
        if answer.reason:
            typer.echo(f"{answer.title}: {answer.reason}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
