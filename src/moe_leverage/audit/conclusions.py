"""What the claims come to: some two dozen conclusions, each one fact whatever rows it touches.

data/paper/conclusions.toml says which claims belong to each and what follows for a reader under
every outcome; the verdict and the numbers are computed from the claims at each call.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from moe_leverage.audit.claims import LABELS, Finding, Label, Measurement, load_claims
from moe_leverage.audit.verdicts import Verdict, worded
from moe_leverage.paths import DATA
from moe_leverage.rules import require
from moe_leverage.theory.rounding import short

Outcome = Literal["holds", "fails", "open"]

# the verdict of a conclusion is the first of these that one of its claims has
WEIGHT: tuple[Label, ...] = (
    "discrepant", "measured: disagrees", "not decided", "measured: cannot tell",
    "not at this scale", "not checkable", "consistent", "measured: agrees", "reproduced",
)  # fmt: skip
OUTCOMES: dict[Label, Outcome] = {
    "discrepant": "fails",
    "measured: disagrees": "fails",
    "not decided": "open",
    "measured: cannot tell": "open",
    "not at this scale": "open",
    "not checkable": "open",
    "consistent": "holds",
    "measured: agrees": "holds",
    "reproduced": "holds",
}
PLAINLY: dict[Outcome, str] = {
    "holds": "It comes out as printed.",
    "fails": "It does not come out as printed; its claims say what does.",
    "open": "It cannot be decided here; its claims say why.",
}
NUMBER = re.compile(r"\{([a-z0-9.-]+):([^}]+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One entry of conclusions.toml: the claims that state one fact, and what follows from it."""

    id: str
    says: str
    claims: tuple[str, ...]
    shows: str  # the claim whose number is given
    questions: tuple[int, ...] = ()  # the settled questions that bear on it
    holds: str = ""
    fails: str = ""
    open: str = ""

    def __post_init__(self) -> None:
        rule = f"must be one of {', '.join(self.claims)}"
        require(self.shows in self.claims, f"{self.id}.shows", self.shows, rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusion:
    """A fact with its verdict, the number that shows it, and what follows for a reader."""

    fact: Fact
    label: Label
    outcome: Outcome
    found: str  # the number with its interval, as words
    published: str
    region: str  # the effects that agree, as words, where the claim is a measured one
    consequence: str
    claims: tuple[Verdict, ...]
    gates: tuple[str, ...]  # those that keep it from being decided


@cache
def load_facts() -> tuple[Fact, ...]:
    """Every entry of data/paper/conclusions.toml, by consequence.

    >>> load_facts()[0].id
    'seven-times'
    """
    text = (DATA / "paper" / "conclusions.toml").read_text(encoding="utf-8")
    entries = tomllib.loads(text)["conclusion"]
    return tuple(Fact(**{key: _frozen(value) for key, value in entry.items()}) for entry in entries)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def conclusions(verdicts: Sequence[Verdict]) -> tuple[Conclusion, ...]:
    """Every fact decided from the verdicts on all claims, by consequence.

    ValueError if a claim that is not another reading belongs to no fact, or to two.
    """
    decided = {verdict.claim.id: verdict for verdict in verdicts}
    own = [name for name, verdict in decided.items() if not verdict.claim.reading_of]
    used = [name for fact in load_facts() for name in fact.claims]
    for name in {*own, *used}:
        times = used.count(name)
        require(times == 1, f"claim {name}", f"in {times} conclusions", "must be in one")
    return tuple(_conclude(fact, decided) for fact in load_facts())


def conclude(name: str, decided: Mapping[str, Verdict]) -> Conclusion:
    """One fact decided; only the verdicts that it needs are looked up."""
    known = {fact.id: fact for fact in load_facts()}
    require(name in known, "conclusion", name, f"must be one of {', '.join(known)}")
    return _conclude(known[name], decided)


def filled(text: str, decided: Mapping[str, Verdict]) -> str:
    """A text with the values of claims where it says {ID:format}; those without one are "?"."""
    return NUMBER.sub(lambda match: _number(match, decided), text)


def tally(found: Sequence[Conclusion]) -> dict[str, int]:
    """How many conclusions have each verdict, all verdicts named."""
    labels = [conclusion.label for conclusion in found]
    return {label: labels.count(label) for label in LABELS}


def of_claim() -> dict[str, str]:
    """The fact that each claim belongs to."""
    return {name: fact.id for fact in load_facts() for name in fact.claims}


def _conclude(fact: Fact, decided: Mapping[str, Verdict]) -> Conclusion:
    claims = tuple(decided[name] for name in fact.claims)
    labels = {verdict.label for verdict in claims}
    label = next(each for each in WEIGHT if each in labels)
    outcome = OUTCOMES[label]
    text = getattr(fact, outcome) or PLAINLY[outcome]
    published, region, found = worded(decided[fact.shows])
    return Conclusion(
        fact=fact,
        label=label,
        outcome=outcome,
        found=found + _between(fact.shows, decided),
        published=published,
        region=region,
        consequence=filled(text, decided),
        claims=claims,
        gates=_gates(claims),
    )


def _number(match: re.Match[str], decided: Mapping[str, Verdict]) -> str:
    name, specification = match.groups()
    value = decided[name].value
    return "?" if value is None else format(value, specification)


def _between(name: str, decided: Mapping[str, Verdict]) -> str:
    """What other readings of the claim give, or else the reach of what was rounded in print."""
    verdict = decided[name]
    if verdict.value is None or isinstance(verdict.found, Measurement):
        return ""
    names = [claim.id for claim in load_claims() if claim.reading_of == name]
    readings = [decided[reading].value for reading in names]
    values = [value for value in (verdict.value, *readings) if value is not None]
    if len(values) > 1:
        return short(f" ({min(values):.3g} to {max(values):.3g} over the readings checked)")
    if isinstance(verdict.found, Finding) and verdict.found.uncertainty:
        low, high = (verdict.value + sign * verdict.found.uncertainty for sign in (-1, 1))
        return short(f" ({low:.4g} to {high:.4g} by rounding)")
    return ""


def _gates(claims: Sequence[Verdict]) -> tuple[str, ...]:
    found = [v.found.gates for v in claims if isinstance(v.found, Measurement)]
    return tuple(dict.fromkeys(gate for gates in found for gate in gates))
