"""`moe-leverage audit`: the verdict on every published number, and the twelve settled leads."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from moe_leverage.cli import app


@app.command(epilog="Example: moe-leverage audit --verdict discrepant")
def audit(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    verdict: Annotated[str, typer.Option(help="Only claims with this verdict.")] = "",
    with_leads: Annotated[bool, typer.Option("--leads", help="Print the leads as well.")] = False,
) -> None:
    """Check every claim of the paper, what other papers say of their laws, and what papers beside
    it say that our runs are asked; print verdicts."""
    from moe_leverage.audit import LABELS, audit_neighbours, audit_statements, counts, table
    from moe_leverage.audit import audit as run_audit
    from moe_leverage.audit.questions import leads
    from moe_leverage.rules import require

    rule = f"must be one of {', '.join(LABELS)}"
    require(verdict in ("", *LABELS), "verdict", verdict, rule)
    verdicts, others, beside = run_audit(), audit_statements(), audit_neighbours()
    chosen, chosen_others, chosen_beside = (
        tuple(entry for entry in these if verdict in ("", entry.label))
        for these in (verdicts, others, beside)
    )
    settled = leads() if with_leads else ()
    if as_json:
        found = {
            "counts": counts(verdicts),
            "claims": [entry.to_dict() for entry in chosen],
            "statement_counts": counts(others),
            "statements": [entry.to_dict() for entry in chosen_others],
            "neighbour_counts": counts(beside),
            "neighbours": [entry.to_dict() for entry in chosen_beside],
            "leads": [
                {
                    "number": entry.number,
                    "question": entry.question,
                    "answer": entry.paragraph,
                    "table": json.loads(entry.table.to_json(orient="records")),
                }
                for entry in settled
            ],
        }
        print(json.dumps(found, indent=1, allow_nan=False))
        return
    for name, row in table((*chosen, *chosen_others, *chosen_beside)).iterrows():
        print(f"{row['verdict']}: {row['claim']} ({row['locator']}; {name})")
        for label in ("published", "found", "detail"):
            if row[label]:
                print(f"    {label}: {row[label]}")
    for entry in settled:
        print(f"\n{entry.number}. {entry.question}\n{entry.table.to_string(index=False)}")
        print(entry.paragraph)
    for these, kind in (
        (verdicts, "claims"),
        (others, "statements of other papers"),
        (beside, "questions of the papers beside it"),
    ):
        summary = ", ".join(f"{number} {label}" for label, number in counts(these).items())
        print(f"\n{sum(counts(these).values())} {kind}: {summary}")
