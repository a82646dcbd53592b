"""What the claims come to: every claim in one conclusion, verdicts and words computed from them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moe_leverage.audit import Verdict, audit, conclusions, load_claims
from moe_leverage.audit.claims import LABELS, Measurement
from moe_leverage.audit.conclusions import (
    NUMBER,
    OUTCOMES,
    WEIGHT,
    conclude,
    filled,
    load_facts,
    tally,
)

MOST = 30  # a page that one reads
RUNS = {claim.id for claim in load_claims() if claim.region is not None}


@pytest.fixture(scope="module")
def verdicts() -> tuple[Verdict, ...]:
    return audit()


def with_label(verdicts: tuple[Verdict, ...], names: set[str], found: Measurement) -> list[Verdict]:
    return [
        replace(v, found=found, label=v.claim.judge(found)) if v.claim.id in names else v
        for v in verdicts
    ]


def test_every_claim_belongs_to_one_conclusion(verdicts: tuple[Verdict, ...]) -> None:
    found = conclusions(verdicts)
    assert 20 <= len(found) <= MOST
    assert sum(tally(found).values()) == len(found)
    told = sum(len(conclusion.claims) for conclusion in found)
    assert told == sum(not claim.reading_of for claim in load_claims())


def test_a_claim_left_out_is_named(verdicts: tuple[Verdict, ...]) -> None:
    stray = replace(verdicts[0], claim=replace(verdicts[0].claim, id="stray"))
    with pytest.raises(ValueError, match="claim stray = 'in 0 conclusions': must be in one"):
        conclusions((*verdicts, stray))


def test_every_verdict_has_a_weight_and_an_outcome() -> None:
    assert set(WEIGHT) == set(OUTCOMES) == set(LABELS)


def test_a_conclusion_has_the_gravest_verdict_of_its_claims(verdicts: tuple[Verdict, ...]) -> None:
    for conclusion in conclusions(verdicts):
        labels = {verdict.label for verdict in conclusion.claims}
        assert conclusion.label == min(labels, key=WEIGHT.index)
        assert conclusion.consequence
        assert "{" not in conclusion.consequence
        assert "nan" not in conclusion.consequence + conclusion.found


def test_printed_numbers_and_runs_are_not_mixed_in_one_conclusion() -> None:
    for fact in load_facts():
        assert len({name in RUNS for name in fact.claims}) == 1, fact.id


def test_what_runs_decide_has_words_for_every_outcome() -> None:
    """So that the page turns over by itself when the gates hold."""
    for fact in load_facts():
        if fact.shows in RUNS and fact.id != "coefficients":
            assert fact.holds, fact.id
            assert fact.fails, fact.id
            assert fact.open, fact.id


def test_numbers_of_a_text_are_those_of_claims() -> None:
    known = {claim.id for claim in load_claims()}
    for fact in load_facts():
        for text in (fact.holds, fact.fails, fact.open):
            assert {name for name, _ in NUMBER.findall(text)} <= known, fact.id


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(0.9, 1.1, "holds"), (0.0, 0.5, "fails"), (0.5, 1.1, "open")]
)
def test_a_conclusion_turns_over_when_its_runs_decide(
    verdicts: tuple[Verdict, ...], low: float, high: float, outcome: str
) -> None:
    fact = next(fact for fact in load_facts() if fact.id == "runs-joint")
    others = Measurement(effect=None)  # with no effect they would be open
    kept = {v.claim.id: v for v in with_label(verdicts, set(fact.claims) - {fact.shows}, others)}
    decided = {
        v.claim.id: v
        for v in with_label(
            tuple(kept.values()), {fact.shows}, Measurement(effect=1.0, low=low, high=high)
        )
    }
    for name in fact.claims:
        if name != fact.shows:
            decided[name] = replace(decided[name], label="measured: agrees")
    found = conclude(fact.id, decided)
    assert found.outcome == outcome
    assert found.consequence == getattr(fact, outcome)
    assert found.gates == ()


def test_a_value_that_is_missing_is_no_number() -> None:
    unknown = next(claim for claim in load_claims() if claim.check["name"] == "unavailable")
    verdict = Verdict(claim=unknown, label="not checkable", found=None, detail="")
    assert filled(f"It is {{{unknown.id}:.1f}}.", {unknown.id: verdict}) == "It is ?."


def test_an_unknown_conclusion_is_named() -> None:
    with pytest.raises(ValueError, match="conclusion = 'x': must be one of seven-times, "):
        conclude("x", {})
