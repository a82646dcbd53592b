"""The paper's quantitative claims as data, and the rule that turns a finding into a verdict.

data/paper/claims.toml holds each claim with its locator, our wording, what is published and the
check that decides it; a claim about training names its study, test and threshold, and those were
written down before any fit was made.

    published     the value as printed, "55.8", "2.93e-4", or "8 to 12" for a range
    half unit     half of the last printed digit: 0.05 for "55.8"
    uncertainty   how far the rounding of what a check reads can move its result
    tolerance     what a word such as "about" allows beyond it, the same for every claim (WORDS)

A claim about training is decided in this order: a coefficient below the budgets that it was
fitted at is not at this scale; an effect is not decided while a gate that it rests on fails, or
while no gate judges its runs; only then do the region and the interval speak.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal, TypeVar

from moe_leverage.modules import import_modules
from moe_leverage.paths import DATA
from moe_leverage.rules import refuse, require
from moe_leverage.theory.printed import printed_laws
from moe_leverage.theory.rounding import agreement

OTHER_LAWS = "14-other-laws"  # the chapter of what other papers say
KINDS = ("arithmetic", "law", "trend", "training result", "evaluation")
RELATIONS = ("equals", "above", "below", "between", "holds")

# what a word allows: a share of what is printed, percent beyond it, and the sentence for it
WORDS = {
    "about": (0.1, 0.0, 'the text says "about" or the like, which allows a tenth'),
    "constant": (0.0, 1.0, "widths are whole numbers, so that constant allows one percent"),
}

Label = Literal[
    "reproduced",
    "consistent",
    "discrepant",
    "measured: agrees",
    "measured: disagrees",
    "measured: cannot tell",
    "not decided",
    "not at this scale",
    "not checkable",
]
LABELS: tuple[Label, ...] = (
    "reproduced", "consistent", "discrepant", "measured: agrees", "measured: disagrees",
    "measured: cannot tell", "not decided", "not at this scale", "not checkable",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a check computed from the paper's own numbers."""

    value: float
    uncertainty: float = 0.0
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What our own runs say: an effect with its 90 % interval, or why there is none.

    While `gates` names any, the runs may show an effect and yet decide nothing. A coefficient whose
    runs lie below the budgets of its claim `is_of_another_scale`.
    """

    effect: float | None
    low: float = float("-inf")
    high: float = float("inf")
    detail: str = ""
    gates: tuple[str, ...] = ()  # those it rests on that fail
    is_of_another_scale: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One published statement; `check` names the function that decides it and its arguments."""

    id: str
    locator: str
    says: str
    kind: str
    chapter: str
    check: Mapping[str, Any]
    published: str = ""
    unit: str = ""
    relation: str = "equals"
    tolerance: float = 0.0
    because: str = ""  # why the tolerance
    matters: str = ""  # what follows when the claim does not hold, or does not hold as written
    reading_of: str = ""  # another reading of the claim of this id, not a claim of its own
    law: str = ""  # a file of data/laws: a statement of another paper on its own law
    paper: str = ""  # key in the bibliography of another paper, put to runs of ours
    region: tuple[float, float] | None = None  # of a measured claim: effects that agree with it
    arguments: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        require(self.kind in KINDS, f"{self.id}.kind", self.kind, f"must be one of {KINDS}")
        rule = f"must be one of {RELATIONS}"
        require(self.relation in RELATIONS, f"{self.id}.relation", self.relation, rule)
        require("name" in self.check, f"{self.id}.check", dict(self.check), "must name a check")
        reason = "needs a reason in `because`"
        has_reason = not self.tolerance or bool(self.because)
        require(has_reason, f"{self.id}.tolerance", self.tolerance, reason)
        arguments = {name: value for name, value in self.check.items() if name != "name"}
        object.__setattr__(self, "arguments", arguments)

    def judge(self, finding: Finding | Measurement | None) -> Label:
        """The verdict that follows from what was found."""
        if finding is None:
            return "not checkable"
        if isinstance(finding, Measurement):
            return self._judge_measurement(finding)
        slack = finding.uncertainty + self.tolerance
        return agreement(self.published, self.relation, finding.value, slack)

    def _judge_measurement(self, found: Measurement) -> Label:
        if found.is_of_another_scale:
            return "not at this scale"
        if found.effect is None or self.region is None:
            return "measured: cannot tell"
        if found.gates:
            return "not decided"
        low, high = self.region
        if low <= found.low and found.high <= high:
            return "measured: agrees"
        outside = found.high < low or found.low > high
        return "measured: disagrees" if outside else "measured: cannot tell"


Check = TypeVar("Check", bound=Callable[..., Finding | Measurement])
CHECKS: dict[str, Callable[..., Finding | Measurement]] = {}


def check(function: Check, name: str = "") -> Check:
    """Register a function as the check that claims know by its name, or by another one."""
    name = name or function.__name__
    require(name not in CHECKS, "check", name, "is already the name of a check")
    CHECKS[name] = function
    return function


def run_check(claim: Claim) -> Finding | Measurement:
    """What the check of a claim finds; ValueError for an unknown check or wrong arguments of it."""
    name = claim.check["name"]
    if name not in CHECKS:
        import_modules("moe_leverage.audit")
    rule = f"must be one of {', '.join(sorted(CHECKS))}"
    require(name in CHECKS, f"{claim.id}.check", name, rule)
    require_arguments(CHECKS[name], claim.arguments, f"{claim.id}.check")
    return CHECKS[name](**claim.arguments)


def require_arguments(
    function: Callable[..., Any], arguments: Mapping[str, Any], field: str
) -> None:
    """Raise a ValueError if a function does not take exactly such arguments."""
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        refuse(field, dict(arguments), str(error))


@cache
def load_claims() -> tuple[Claim, ...]:
    """Every claim of data/paper/claims.toml, in the order of the paper."""
    text = (DATA / "paper" / "claims.toml").read_text(encoding="utf-8")
    return tuple(_claim(entry) for entry in tomllib.loads(text)["claim"])


@cache
def load_statements() -> tuple[Claim, ...]:
    """What other papers say of their own laws, from data/laws, as claims that are audited alike.

    >>> load_statements()[0].law
    'abnar-2025'
    """
    return tuple(
        Claim(
            id=statement.id,
            locator=statement.locator,
            says=statement.says,
            kind="law",
            chapter=OTHER_LAWS,
            published=statement.published,
            unit=statement.unit,
            relation=statement.relation,
            tolerance=statement.tolerance,
            because=statement.because,
            matters=statement.matters,
            law=law.id,
            check={"name": "statement", "law": law.id, "statement": statement.id},
        )
        for law in printed_laws()
        for statement in law.statements
    )


@cache
def load_neighbours() -> tuple[Claim, ...]:
    """What the papers beside ours say that our runs are asked, from data/paper/neighbours.toml.

    Registered like the measured claims of the paper, and decided by the same rule; they are
    counted apart, since they are not of the paper.

    >>> load_neighbours()[0].paper
    'ling2025activation'
    """
    text = (DATA / "paper" / "neighbours.toml").read_text(encoding="utf-8")
    claims = tuple(_claim(entry) for entry in tomllib.loads(text)["claim"])
    for claim in claims:
        require(bool(claim.paper), f"{claim.id}.paper", claim.paper, "must name the paper")
    return claims


def _claim(entry: dict[str, Any]) -> Claim:
    known = {"word", *(f.name for f in fields(Claim) if f.init)}
    for name in entry:
        rule = "is not a field of a claim"
        require(name in known, f"{entry.get('id', 'claim')}.{name}", entry[name], rule)
    if "region" in entry:
        entry = {**entry, "region": tuple(map(float, entry["region"]))}
    if word := entry.pop("word", ""):
        entry |= allowance(word, entry.get("published", ""))
    return Claim(**entry)


def allowance(word: str, published: str) -> dict[str, Any]:
    """The tolerance that a word of the text grants a claim, and the sentence that says so.

    >>> allowance("about", "12")["tolerance"], allowance("constant", "0.0")["tolerance"]
    (1.2000000000000002, 1.0)
    """
    require(word in WORDS, "word", word, f"must be one of {', '.join(WORDS)}")
    share, percent, because = WORDS[word]
    tolerance = share * abs(float(published)) + percent
    return {"tolerance": tolerance, "because": because}
