"""Every claim of the paper decided, as a table, as text and as a page element (all sections).

Verdicts are computed at each call from the printed tables, the published laws and the ledger; none
is stored.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from moe_leverage.audit.claims import (
    LABELS,
    Claim,
    Finding,
    Label,
    Measurement,
    load_claims,
    load_neighbours,
    load_statements,
    run_check,
)
from moe_leverage.theory.rounding import short

AUDIT_PAGE, CLAIMS_PAGE = "10-audit.html", "claims.html"
COLUMNS = ("verdict", "claim", "published", "found", "detail")
SHORT_COLUMNS = COLUMNS[:-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A claim, what was found, and what follows."""

    claim: Claim
    label: Label
    found: Finding | Measurement | None
    detail: str

    @property
    def value(self) -> float | None:
        """The number found: a recomputed value or a measured effect."""
        if isinstance(self.found, Measurement):
            return self.found.effect
        return self.found.value if self.found else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 90 % interval of a measured effect."""
        if isinstance(self.found, Measurement) and self.found.effect is not None:
            return self.found.low, self.found.high
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, one row of `moe-leverage audit --json`."""
        claim = self.claim
        return {
            "id": claim.id,
            "locator": claim.locator,
            "claim": claim.says,
            "kind": claim.kind,
            "reading_of": claim.reading_of or None,
            "law": claim.law or None,
            "paper": claim.paper or None,
            "chapter": claim.chapter,
            "published": claim.published or None,
            "relation": claim.relation,
            "unit": claim.unit or None,
            "check": claim.check["name"],
            "arguments": dict(claim.arguments),
            "region": _finite(claim.region),
            "verdict": self.label,
            "found": self.value,
            "interval": _finite(self.interval),
            "gates": list(self.found.gates) if isinstance(self.found, Measurement) else [],
            "detail": self.detail,
        }


def decide(claim: Claim) -> Verdict:
    """Run the check of one claim and judge what it found."""
    if claim.check["name"] == "unavailable":
        needs = f"needs {claim.arguments['needs']}"
        return Verdict(claim=claim, label="not checkable", found=None, detail=needs)
    finding = run_check(claim)
    label = claim.judge(finding)
    if isinstance(finding, Measurement):
        return Verdict(claim=claim, label=label, found=finding, detail=finding.detail)
    because = claim.because if label == "consistent" else ""
    matters = _matters(claim, finding.value) if label == "discrepant" else ""
    parts = [part for part in (finding.detail, because, matters) if part]
    sentences = [part[0].upper() + part[1:] for part in parts]
    return Verdict(claim=claim, label=label, found=finding, detail=". ".join(sentences))


def audit() -> tuple[Verdict, ...]:
    """The verdict on every claim, in the order of the paper.

    >>> all(verdict.label in LABELS for verdict in audit())
    True
    """
    return tuple(decide(claim) for claim in load_claims())


def audit_statements() -> tuple[Verdict, ...]:
    """The verdict on what other papers say of their own laws, law by law.

    >>> {verdict.claim.law for verdict in audit_statements()} >= {"krajewski-2024"}
    True
    """
    return tuple(decide(claim) for claim in load_statements())


def audit_neighbours() -> tuple[Verdict, ...]:
    """The verdict on what the papers beside ours say, put to our own runs.

    >>> {verdict.claim.paper for verdict in audit_neighbours()} >= {"ling2025activation"}
    True
    """
    return tuple(decide(claim) for claim in load_neighbours())


def counts(verdicts: tuple[Verdict, ...]) -> dict[str, int]:
    """How many claims have each verdict, all verdicts named; other readings are not counted."""
    found = Counter(verdict.label for verdict in verdicts if not verdict.claim.reading_of)
    return {label: found[label] for label in LABELS}


def table(verdicts: tuple[Verdict, ...]) -> pd.DataFrame:
    """One row a claim: verdict, locator, claim, published, found, detail."""
    rows = [
        {
            "id": verdict.claim.id,
            "verdict": verdict.label,
            "kind": verdict.claim.kind,
            "chapter": verdict.claim.chapter,
            "locator": verdict.claim.locator,
            "claim": _claim(verdict.claim),
            "published": _published(verdict.claim),
            "found": _found(verdict),
            "detail": short(verdict.detail),
        }
        for verdict in verdicts
    ]
    return pd.DataFrame(rows).set_index("id")


def html_table(verdicts: tuple[Verdict, ...], facts: Mapping[str, str] | None = None) -> str:
    """The verdicts as an HTML table whose rows carry data-verdict, data-kind and data-chapter.

    Each row has the claim's id as its anchor and links to its row in the chapter that decides it;
    with `facts` it links to the conclusion that it belongs to as well.
    """
    frame = table(verdicts)
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    body = "\n".join(_html_row(str(name), row, facts or {}) for name, row in frame.iterrows())
    return (
        '<table class="audit table" data-filter="verdict kind chapter">\n'
        f"<caption>{_extent(verdicts)}, with their verdicts</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n"
        "</tbody>\n</table>"
    )


def folded_table(verdicts: tuple[Verdict, ...]) -> str:
    """The verdicts of one chapter as an HTML table; a row links to the ledger of all claims.

    Claims of papers beside ours stand in the table of their chapter alone.
    """
    frame = table(verdicts)
    head = "".join(f'<th scope="col">{name}</th>' for name in SHORT_COLUMNS)
    beside = {verdict.claim.id for verdict in verdicts if verdict.claim.paper}
    rows = []
    for name, row in frame.iterrows():
        texts = {column: html.escape(str(row[column])) for column in (*SHORT_COLUMNS, "locator")}
        place = texts["locator"]
        if name not in beside:
            place = f'<a href="{CLAIMS_PAGE}#claim-{name}">{place}</a>'
        texts["claim"] += f"<br><small>{place}</small>"
        cells = "".join(f"<td>{texts[column]}</td>" for column in SHORT_COLUMNS)
        rows.append(f'<tr id="claim-{name}">{cells}</tr>')
    body = "\n".join(rows)
    return (
        f'<table class="table">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n'
        "</table>"
    )


def worded(verdict: Verdict) -> tuple[str, str, str]:
    """What is published, which effects agree, and what was found with its interval, in words."""
    return _printed(verdict.claim), _region(verdict.claim), _found(verdict)


def _extent(verdicts: tuple[Verdict, ...]) -> str:
    own = sum(counts(verdicts).values())
    return f"{own} claims of the paper and {len(verdicts) - own} other readings"


def _html_row(name: str, row: pd.Series[Any], facts: Mapping[str, str]) -> str:
    texts = {column: html.escape(str(row[column])) for column in (*COLUMNS, "locator", "chapter")}
    texts["detail"] = re.sub(
        r"\b[Ll]ead (\d+)", rf'<a href="{CLAIMS_PAGE}#lead-\1">\g<0></a>', texts["detail"]
    )
    places = [f'<a href="{texts["chapter"]}.html#claim-{name}">{texts["chapter"]}</a>']
    if name in facts:
        places.append(f'<a href="{AUDIT_PAGE}#conclusion-{facts[name]}">what follows</a>')
    texts["claim"] += f"<br><small>{texts['locator']} · {' · '.join(places)}</small>"
    cells = "".join(f"<td>{texts[column]}</td>" for column in COLUMNS)
    data = " ".join(
        f'data-{key}="{html.escape(str(row[key]))}"' for key in ("verdict", "kind", "chapter")
    )
    return f'<tr id="claim-{name}" {data}>{cells}</tr>'


def _matters(claim: Claim, found: float) -> str:
    """What follows, with the numbers that the text leaves open."""
    try:
        gap = 100 * abs(float(claim.published) / found - 1)
    except (ValueError, ZeroDivisionError):
        gap = math.nan
    return claim.matters.format(found=found, gap=gap)


def _claim(claim: Claim) -> str:
    """Our wording; another reading of a claim says whose."""
    return (
        f"{claim.says} (another reading of {claim.reading_of})" if claim.reading_of else claim.says
    )


def _published(claim: Claim) -> str:
    region = f"registered: {_region(claim)}" if claim.region else ""
    return "; ".join(part for part in (_printed(claim), region) if part)


def _printed(claim: Claim) -> str:
    sign = {"above": "above ", "below": "below "}.get(claim.relation, "")
    return f"{sign}{claim.published} {claim.unit}".strip()


def _region(claim: Claim) -> str:
    """The effects that agree with a measured claim, in words; nothing for any other claim."""
    if claim.region is None:
        return ""
    low, high = claim.region
    if math.isfinite(low) and math.isfinite(high):
        return f"{low:g} to {high:g}"
    return f"above {low:g}" if math.isfinite(low) else f"below {high:g}"


def _found(verdict: Verdict) -> str:
    if verdict.value is None:
        return ""
    if verdict.claim.relation == "holds":
        return "yes" if verdict.value else "no"
    if verdict.interval is None:
        return short(f"{verdict.value:.4g}")
    low, high = verdict.interval
    return short(f"{verdict.value:.3g} ({low:.3g} to {high:.3g})")


def _finite(pair: tuple[float, float] | None) -> list[float | None] | None:
    """Bounds for JSON, which has no infinity."""
    return None if pair is None else [edge if math.isfinite(edge) else None for edge in pair]
