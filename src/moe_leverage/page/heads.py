"""The three lines at the head of a chapter and the answer at its end, from claims and runs.

data/chapters.toml has the words for each outcome; which outcome it is, and every number, comes from
the audit at each build. A chapter on a paper beside ours has the claims that this paper makes of
our runs (data/paper/neighbours.toml) where the others have conclusions.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from typing import Any

from moe_leverage import audit
from moe_leverage.audit import Conclusion, Verdict
from moe_leverage.audit.conclusions import OUTCOMES, PLAINLY, Outcome, conclude, filled
from moe_leverage.audit.verdicts import AUDIT_PAGE
from moe_leverage.page.chapter import runs_of, say
from moe_leverage.page.drawing import power
from moe_leverage.paths import DATA
from moe_leverage.rules import require

TRAINED_PAGE = "what-we-trained"
FORMAT = re.compile(r"\{:[^}]*\}")


@cache
def chapters() -> dict[str, dict[str, Any]]:
    """The entries of data/chapters.toml by chapter.

    >>> chapters()["05-granularity"]["question"]
    'Few wide experts or many narrow ones?'
    """
    return tomllib.loads((DATA / "chapters.toml").read_text(encoding="utf-8"))


def head(chapter: str, measured: str = "") -> None:
    """Display what the paper, its own numbers and our runs say, and the question.

    `measured` is a sentence of the chapter's own about our runs, which begins their line.
    """
    entry = _entry(chapter)
    lines = [
        f"- **{entry.get('who', 'The paper says')}:** {entry['paper']}",
        f"- **Its own numbers say:** {_recounted(entry)}",
        f"- {_ours(entry, measured)}",
    ]
    say("\n".join([*lines, "", f"*{entry['question']}*"]))


def answer(chapter: str) -> None:
    """Display the answer to the question of a chapter: its printed part, then that of our runs."""
    entry = _entry(chapter)
    if "printed" in entry:
        words = [_worded(entry["answer"], _concluded(entry["printed"]).outcome)]
    else:
        words = [texts[OUTCOMES[DECIDED[name].label]] for name, texts in entry["answer"].items()]
    parts = [f"*{entry['question']}*", *(filled(text, DECIDED) for text in words)]
    if "runs" in entry:
        parts.append(_concluded(entry["runs"]).consequence)
    say(" ".join(parts))


def _recounted(entry: dict[str, Any]) -> str:
    """The second line: what the paper's own numbers come to, with its conclusion."""
    if "printed" not in entry:
        return str(entry["numbers"])
    printed = _concluded(entry["printed"])
    place = f'<a href="{AUDIT_PAGE}#conclusion-{printed.fact.id}">{printed.label}</a>'
    return f"{filled(_worded(entry['numbers'], printed.outcome), DECIDED)} ({place})"


def _worded(texts: dict[str, str], outcome: Outcome) -> str:
    return texts.get(outcome) or PLAINLY[outcome]


def _ours(entry: dict[str, Any], measured: str) -> str:
    """The third line: the effects of our runs with intervals and what they decide."""
    if "ours" in entry:
        return f"**Our runs say:** {entry['ours']}"
    asked = [(DECIDED[name], words) for name, words in entry["effects"].items()]
    effects = [_effect(v, words) for v, words in asked if v.value is not None]
    found = ", ".join(effects) if effects else "no effect can be read from them yet"
    drawn = f", {{numref}}`{entry['figure']}`" if effects else ""
    said = f"{found}{drawn}{_decided(entry)}. {{doc}}`{TRAINED_PAGE}` describes them."
    if measured:
        said = f"{measured} {said[0].upper()}{said[1:]}"
    return f"**Our runs say{_reach([v for v, _ in asked])}:** {said}"


def _decided(entry: dict[str, Any]) -> str:
    """What our runs decide, in brackets, with the gates that keep it from being decided."""
    if "runs" not in entry:
        return ""
    conclusion = _concluded(entry["runs"])
    place = f'<a href="{AUDIT_PAGE}#conclusion-{conclusion.fact.id}">{conclusion.label}</a>'
    shut = len(conclusion.gates)
    verb = "fails" if shut == 1 else "fail"
    gates = f", since {shut} of the gates that it rests on {verb}" if shut else ""
    return f" ({place}{gates})"


def _effect(verdict: Verdict, words: str) -> str:
    """An effect in these words with its interval; of a paper beside ours with the verdict too."""
    more = []
    if verdict.interval is not None:
        (number,) = FORMAT.findall(words)
        more.append(" to ".join(number.format(end) for end in verdict.interval))
    if verdict.claim.paper:
        more.append(verdict.label)
    return words.format(verdict.value) + (f" ({'; '.join(more)})" if more else "")


def _reach(verdicts: list[Verdict]) -> str:
    """Between which computes the runs behind these claims lie."""
    studies = [verdict.claim.arguments["study"] for verdict in verdicts]
    names = [name for study in studies for name in ([study] if isinstance(study, str) else study)]
    runs = runs_of(*dict.fromkeys(names))
    done = runs[runs["status"] == "ok"] if len(runs) else runs
    if done.empty:
        return ""
    ends = (done["budget_flops"].min(), done["budget_flops"].max())
    return f" (at {' to '.join(map(power, ends))} FLOPs)"


def _entry(chapter: str) -> dict[str, Any]:
    known = ", ".join(chapters())
    require(chapter in chapters(), "chapter", chapter, f"must be one of {known}")
    return chapters()[chapter]


class _Decided(dict[str, Verdict]):
    """Verdicts by claim, each found when it is first asked for, since all take long."""

    def __missing__(self, name: str) -> Verdict:
        both = (*audit.load_claims(), *audit.load_neighbours())
        (claim,) = [claim for claim in both if claim.id == name]
        self[name] = audit.decide(claim)
        return self[name]


DECIDED = _Decided()


@cache
def _concluded(name: str) -> Conclusion:
    return conclude(name, DECIDED)
