"""What a chapter puts on its page besides figures and tables: numbers, standing and verdicts.

Prose quotes numbers by name; the verdicts on the paper's claims come from the audit at each build.
"""

from __future__ import annotations

import numbers as abstract
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import display
from myst_nb import glue  # type: ignore[import-untyped]

from moe_leverage import audit, ledger
from moe_leverage.audit.evidence import failing_gates
from moe_leverage.page.drawing import power
from moe_leverage.page.registry import ENTRIES, show
from moe_leverage.rules import require
from moe_leverage.theory.rounding import short

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def numbers(**values: object) -> None:
    """Name numbers (and short texts) for the prose, which quotes them as {glue:text}`name:.2f`."""
    for name, value in values.items():
        plain: Any = value
        if isinstance(value, abstract.Integral):
            plain = int(value)
        elif isinstance(value, abstract.Real):
            plain = float(value)
        # bare text, since a string's repr would put its quotation marks into the sentence
        glue(name, _Text(plain) if isinstance(plain, str) else plain, display=False)


def runs_of(*studies: str, directory: Path | None = None) -> pd.DataFrame:
    """The runs of these studies, each once, of our ledger by default; empty while there are none.

    Those that the ledger excludes are left out, those that diverged are not.
    """
    runs = ledger.table(*studies, directory=directory or ledger.DIRECTORY)
    return runs if runs.empty else ledger.once(runs[runs["excluded"].isna()])


def standing(*studies: str) -> None:
    """Say in one line how many runs of each study stand, how far they reach and what they decide.

    An incomplete study decides no verdict, nor does one whose gates fail; what its runs show is
    drawn all the same.
    """
    parts = [_standing(study) for study in studies]
    recorded = [study for study in studies if not runs_of(study).empty]
    if failing := failing_gates(recorded) if recorded else ():
        parts.append(f"they decide nothing while gates of theirs fail: {', '.join(failing)}")
    say(f"*{'; '.join(parts)}; {{doc}}`what-we-trained` describes them.*")


def _standing(study: str) -> str:
    stands, runs = ledger.standing(study, ledger.DIRECTORY), runs_of(study)
    if runs.empty:
        return f"`{study}` has no finished run yet, and decides nothing"
    finished = runs[runs["status"] == "ok"]
    ends = finished["budget_flops"].min(), finished["budget_flops"].max()
    text = f"`{study}`: {len(finished)} runs at {' to '.join(map(power, ends))} FLOPs"
    if len(runs) > len(finished):
        text += f", {len(runs) - len(finished)} more did not finish"
    if stands.is_complete:
        return text
    of = f"{stands.recorded} of {stands.planned}" if stands.planned else "some"
    return f"{text}, incomplete ({of} of those planned), so that it decides nothing"


def show_runs(name: str, runs: pd.DataFrame, *inputs: object, **options: object) -> None:
    """Draw a figure that has only our side, or say that no run of it stands yet."""
    if len(runs) and (runs.get("status", pd.Series("ok", runs.index)) == "ok").any():
        show(name, runs, *inputs, **options)
    else:
        entry = ENTRIES[name]
        say(f"*Still without runs: the counterpart of {entry.paper} is drawn when they stand.*")


def scientific(value: float) -> str:
    """A number as prose writes it, with two significant digits.

    >>> scientific(7.04e14), scientific(2.6e-4)
    ('7.0 × 10¹⁴', '2.6 × 10⁻⁴')
    """
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def say(text: str) -> None:
    """Display a computed sentence or paragraph as prose."""
    _markdown(short(text), text)


def verdicts(chapter: str) -> None:
    """Say how the claims of a chapter came out, with a row for each, folded."""
    known = (*audit.load_claims(), *audit.load_neighbours())
    decided = tuple(audit.decide(claim) for claim in known if claim.chapter == chapter)
    require(len(decided) > 0, "chapter", chapter, "has no claim in data/paper")
    kinds = [_kind(verdict.claim) for verdict in decided]
    words = {
        kind: tuple(v for v, own in zip(decided, kinds, strict=True) if own == kind)
        for kind in dict.fromkeys(kinds)
    }
    parts = [f"{len(of)} {what} ({_counted(of)})" for what, of in words.items() if of]
    text = f"Claims that belong to this chapter: {', '.join(parts)}."
    bundle = {
        "text/html": f"<details><summary>{text}</summary>\n"
        f'<div class="pst-scrollable-table-container">{audit.folded_table(decided)}</div>'
        "</details>",
        "text/plain": text,
    }
    display(bundle, raw=True)  # type: ignore[no-untyped-call]


def _kind(claim: audit.Claim) -> str:
    """Whose claim it is, as the line above the rows says it."""
    if claim.paper:
        return "of a paper beside it"
    return "in another reading" if claim.reading_of else "of the paper"


def _counted(decided: tuple[audit.Verdict, ...]) -> str:
    """How many of these have each verdict, in words."""
    labels = Counter(verdict.label for verdict in decided)
    return ", ".join(f"{labels[label]} {label}" for label in audit.LABELS if labels[label])


class _Text(str):
    """A string whose repr is itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _markdown(markdown: str, plain: str) -> None:
    bundle = {"text/markdown": markdown, "text/plain": plain}
    display(bundle, raw=True)  # type: ignore[no-untyped-call]
