"""Figures of chapter 10: how the claims came out, and how far recomputed numbers lie from print."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from moe_leverage.audit import LABELS, Conclusion, Verdict, html_table, table
from moe_leverage.audit.claims import KINDS
from moe_leverage.audit.conclusions import of_claim
from moe_leverage.audit.questions import lead
from moe_leverage.audit.verdicts import CLAIMS_PAGE
from moe_leverage.page import theme
from moe_leverage.page.chapter import say
from moe_leverage.page.notation import notation
from moe_leverage.page.registry import Drawing, figure, show_table
from moe_leverage.theory.printed import printed_laws

INKS = {
    "reproduced": "moe",
    "consistent": "published",
    "discrepant": "accent",
    "measured: agrees": "moe",
    "measured: disagrees": "accent",
    "measured: cannot tell": "muted",
    "not decided": "muted",
    "not at this scale": "muted",
    "not checkable": "grid",
}
HATCHES = {
    "measured: agrees": "//", "measured: disagrees": "//", "consistent": "..", "not decided": "xx",
    "not at this scale": "--",
}  # fmt: skip
MARKERS = {"reproduced": "o", "consistent": "s", "discrepant": "X"}
FARTHEST = 30.0  # ratio at which the second figure ends


def tally(verdicts: tuple[Verdict, ...]) -> pd.DataFrame:
    """Number of claims by kind and verdict, other readings left out; a row a kind."""
    own = [verdict for verdict in verdicts if not verdict.claim.reading_of]
    kinds = [verdict.claim.kind for verdict in own]
    labels = [verdict.label for verdict in own]
    counts = pd.crosstab(pd.Series(kinds, name="kind"), pd.Series(labels, name="verdict"))
    return counts.reindex(index=KINDS, columns=list(LABELS), fill_value=0).reset_index()


def by_law(verdicts: tuple[Verdict, ...]) -> pd.DataFrame:
    """Number of statements of other papers by law and verdict, verdicts of none left out."""
    laws = {law.id: law.title for law in printed_laws()}
    titles = pd.Series([laws[verdict.claim.law] for verdict in verdicts], name="law")
    counts = pd.crosstab(titles, pd.Series([verdict.label for verdict in verdicts], name="verdict"))
    return counts.reindex(columns=[label for label in LABELS if label in counts]).reset_index()


def recomputed(verdicts: tuple[Verdict, ...]) -> pd.DataFrame:
    """Value found over value published, for every claim of a single number other than 0."""
    rows = [
        (verdict.claim.id, verdict.claim.kind, verdict.label,
         verdict.value / float(verdict.claim.published))
        for verdict in verdicts
        if verdict.label in MARKERS and verdict.value is not None
        and verdict.claim.relation == "equals" and float(verdict.claim.published) != 0
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["id", "kind", "verdict", "found_over_published"])


def show_claims(verdicts: tuple[Verdict, ...]) -> None:
    """Display every claim with its verdict as one table that the page can filter."""
    rows = html_table(verdicts, of_claim())
    inner = f'<div class="pst-scrollable-table-container">{rows}</div>'
    bundle = {"text/html": inner, "text/plain": table(verdicts).to_string()}
    display(bundle, raw=True)  # type: ignore[no-untyped-call]


def show_conclusions(found: Sequence[Conclusion]) -> None:
    """Display the conclusions one after another, each with what follows and where it is shown."""
    plain = "\n".join(f"{each.label}: {each.fact.says}" for each in found)
    bundle = {"text/html": "\n".join(map(_conclusion, found)), "text/plain": plain}
    display(bundle, raw=True)  # type: ignore[no-untyped-call]


def _conclusion(found: Conclusion) -> str:
    """One conclusion: what the paper says, the verdict with its number, what follows, the proof."""
    fact = found.fact
    beside = [f"the paper has {found.published}"] if found.published else []
    beside += [f"{found.region} agrees"] if found.region else []
    number = f" · found {found.found} where {' and '.join(beside)}" if found.found else ""
    held = f" (gates that fail: {', '.join(found.gates)})" if found.label == "not decided" else ""
    labels = Counter(verdict.label for verdict in found.claims)
    counts = ", ".join(f"{labels[label]} {label}" for label in LABELS if labels[label])
    links = [
        f'<li><a href="{CLAIMS_PAGE}#claim-{verdict.claim.id}">{html.escape(verdict.claim.says)}'
        f"</a> ({verdict.label})</li>"
        for verdict in found.claims
    ]
    links += [
        f'<li>Question {number}: <a href="{CLAIMS_PAGE}#lead-{number}">{lead(number).question}</a>'
        "</li>"
        for number in fact.questions
    ]
    noun = "claim" if len(found.claims) == 1 else "claims"
    return (
        f'<section class="ml-conclusion" id="conclusion-{fact.id}" data-verdict="{found.label}">\n'
        f"<h3>{html.escape(fact.says)}</h3>\n"
        f"<p><strong>{found.label}</strong>{_powers(html.escape(number + held))}</p>\n"
        f"<p>{_powers(html.escape(found.consequence))}</p>\n"
        f"<details><summary>{len(found.claims)} {noun}: {counts}</summary>\n"
        f"<ul>{''.join(links)}</ul></details>\n</section>"
    )


def _powers(text: str) -> str:
    """Powers of ten and of two as a reader writes them: 6e+20 as 6 x 10^20."""
    text = re.sub(r"\b(\d+(?:\.\d+)?)e([+-]?\d+)\b", _scientific, text)
    return re.sub(r"\b2\^(-?[\d.]+\d)", r"2<sup>\1</sup>", text)


def _scientific(match: re.Match[str]) -> str:
    mantissa, exponent = match.group(1), int(match.group(2))
    front = "" if float(mantissa) == 1 else f"{mantissa} × "
    return f"{front}10<sup>{exponent}</sup>".replace("<sup>-", "<sup>−")


def show_lead(number: int) -> None:
    """Display the answer of one lead, and its table folded."""
    settled = lead(number)
    named = settled.table.rename(columns=_words)
    formats = dict.fromkeys(named.select_dtypes("float").columns, ".4g")
    say(settled.paragraph)
    show_table(f"lead-{number}", named, settled.question, formats, fold="The numbers behind it")


@figure(
    "audit-verdicts",
    paper="all tables and figures",
    data=("paper/claims.toml",),
    caption="The claims of the paper by kind and by what became of them; other readings of a claim "
    "are not counted.",
)
def audit_verdicts(counts: pd.DataFrame) -> Drawing:
    """One bar a kind of claim, a part a verdict; `counts` comes from `tally`."""
    fig, ax = plt.subplots()
    left = np.zeros(len(counts))
    for label in LABELS:
        numbers = counts[label].to_numpy()
        ax.barh(
            counts["kind"], numbers, left=left, label=label, color=theme.colour(INKS[label]),
            hatch=HATCHES.get(label, ""), edgecolor=theme.colour("surface"),
        )  # fmt: skip
        left = left + numbers
    ax.invert_yaxis()
    ax.set_xlabel("Claims")
    ax.set_ylabel("Kind")
    ax.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3, fontsize=9)
    totals = counts[list(LABELS)].sum()
    named = ", ".join(f"{total} {label}" for label, total in totals.items() if total)
    finding = f"Of {int(totals.sum())} claims, {named}."
    return Drawing(fig, counts, finding)


@figure(
    "audit-recomputed",
    paper="every single number that can be recomputed",
    data=("paper/claims.toml",),
    caption="What we compute over what is printed, sorted: 1 is agreement.",
)
def audit_recomputed(ratios: pd.DataFrame) -> Drawing:
    """A mark a claim; `ratios` comes from `recomputed`."""
    fig, ax = plt.subplots()
    ordered = ratios.sort_values("found_over_published").reset_index(drop=True)
    ax.axhline(1.0, color=theme.colour("muted"), lw=1)
    sns.scatterplot(
        x=ordered.index, y=ordered["found_over_published"].clip(1 / FARTHEST, FARTHEST), ax=ax,
        hue=ordered["verdict"], style=ordered["verdict"], hue_order=MARKERS, markers=MARKERS,
        palette=[theme.colour(INKS[label]) for label in MARKERS], edgecolor=theme.colour("surface"),
    )  # fmt: skip
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(_plain))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("Claim, in order of the ratio")
    ax.set_ylabel("Found over published")
    ax.legend()
    off = (ordered["found_over_published"] - 1).abs()
    finding = (
        f"{int((off <= 0.01).sum())} of {len(ordered)} recomputed numbers lie within 1 percent of "
        f"print, {int((off > 0.1).sum())} more than 10 percent away."
    )
    return Drawing(fig, ordered, finding)


def _words(column: str) -> str:
    """A column name as words; a symbol in front keeps its place, and one by itself its name."""
    if column in notation().index:
        return column  # the table heads it with the symbol
    symbol, _, rest = column.partition("_")
    words = re.sub(r"\bm\b", "M", rest.replace("_", " "))
    return f"{symbol}, {words}" if symbol in ("A", "EL") else f"{symbol} {words}".strip()


def _plain(value: float, place: int) -> str:
    return f"{value:g}"
