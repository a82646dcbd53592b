"""The three lines at the head of a chapter and its answer: from claims, for every outcome."""

from __future__ import annotations

import re
from dataclasses import replace

import chapters
import jupytext
import pytest

from moe_leverage.audit import load_claims, load_neighbours
from moe_leverage.audit.claims import Label, Measurement
from moe_leverage.audit.conclusions import NUMBER, conclude, load_facts
from moe_leverage.page import heads

ENTRIES = heads.chapters()
BESIDE = {name: entry for name, entry in ENTRIES.items() if "printed" not in entry}
FACTS = {fact.id: fact for fact in load_facts()}
CLAIMS = {claim.id: claim for claim in load_claims()}
NEIGHBOURS = {claim.id: claim for claim in load_neighbours()}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(heads, "say", texts.append)
    return texts


@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in BESIDE])
def test_an_entry_names_what_there_is(name: str) -> None:
    entry = ENTRIES[name]
    assert entry["printed"] in FACTS
    assert re.search(r"Section|Equation|Table|Appendix|Abstract", entry["paper"])
    assert ("ours" in entry) != ("runs" in entry)
    assert {"holds", "fails"} <= set(entry["numbers"]) & set(entry["answer"])
    texts = [*entry["numbers"].values(), *entry["answer"].values()]
    assert {claim for text in texts for claim, _ in NUMBER.findall(text)} <= set(CLAIMS)
    for claim in entry.get("effects", {}):
        assert CLAIMS[claim].region is not None, claim
        assert claim in FACTS[entry["runs"]].claims, claim


@pytest.mark.parametrize("name", BESIDE)
def test_an_entry_beside_the_paper_names_claims_of_its_chapter(name: str) -> None:
    entry = BESIDE[name]
    assert {"who", "paper", "numbers", "figure"} <= set(entry)
    asked = {*entry["effects"], *entry["answer"]}
    assert {NEIGHBOURS[claim].chapter for claim in asked} == {name}
    for claim, texts in entry["answer"].items():
        assert set(texts) == {"holds", "fails", "open"}
        assert {found for text in texts.values() for found, _ in NUMBER.findall(text)} == {claim}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize(
    ("found", "label", "outcome"),
    [(0.05, "measured: agrees", "holds"), (-0.05, "measured: disagrees", "fails")],
)
def test_a_head_beside_the_paper_gives_effects_with_interval_and_verdict(
    name: str, found: float, label: Label, outcome: str, said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    entry, decided = BESIDE[name], type(heads.DECIDED)()
    shown = Measurement(effect=found, low=found - 0.01, high=found + 0.01)
    for claim in {*entry["effects"], *entry["answer"]}:
        decided[claim] = replace(heads.DECIDED[claim], found=shown, label=label)
    monkeypatch.setattr(heads, "DECIDED", decided)
    heads.head(name)
    heads.answer(name)
    head, answer = said
    assert head.startswith(f"- **{entry['who']}:** {entry['paper']}")
    assert head.count(f" ({found - 0.01:+.3f} to {found + 0.01:+.3f}; {label})") == 3
    assert head.count(f" {found:+.3f}") == 3
    for texts in entry["answer"].values():
        words = NUMBER.sub("{}", texts[outcome]).split("{}")
        assert all(part in answer for part in words)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_chapter_begins_with_its_head_and_ends_with_its_answer(name: str) -> None:
    cells = jupytext.read(chapters.Chapter(name).text, fmt="md:myst").cells
    sources = [cell.source for cell in cells]
    (place,) = (i for i, source in enumerate(sources) if f'head("{name}"' in source)
    last = sources.index(f'answer("{name}")')
    assert not any(source.startswith("## ") for source in sources[1:place])
    after = [s for s in sources[last + 1 :] if s.startswith("#")]
    assert after[0].startswith("## Exercises")


def test_a_head_has_three_lines_and_the_question(said: list[str]) -> None:
    heads.head("05-granularity")
    (text,) = said
    lines = text.splitlines()
    assert [line.split(":**")[0].split(" (")[0] for line in lines[:3]] == [
        "- **The paper says", "- **Its own numbers say", "- **Our runs say"]  # fmt: skip
    assert lines[-1] == f"*{ENTRIES['05-granularity']['question']}*"
    assert "#conclusion-law-as-told" in lines[1]
    assert "#conclusion-runs-granularity" in lines[2]
    assert "FLOPs" in lines[2]
    assert "{doc}`what-we-trained`" in lines[2]


def test_a_chapter_s_own_sentence_begins_our_line(said: list[str]) -> None:
    heads.head("05-granularity")
    heads.head("05-granularity", "Ours says this.")
    plain, more = (text.splitlines()[2].split(":** ")[1] for text in said)
    assert more == f"Ours says this. {plain[0].upper()}{plain[1:]}"


def test_our_line_turns_over_when_the_gates_hold(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fact, found = FACTS["runs-granularity"], Measurement(effect=11.0, low=10.0, high=12.0)
    decided = type(heads.DECIDED)()
    for name in fact.claims:
        verdict = heads.DECIDED[name]
        decided[name] = replace(verdict, found=found, label="measured: agrees")
    monkeypatch.setattr(heads, "DECIDED", decided)
    monkeypatch.setattr(heads, "_concluded", lambda name: conclude(name, decided))
    heads.head("05-granularity")
    heads.answer("05-granularity")
    head, answer = said
    assert "the best G is 11.0 (10.0 to 12.0)" in head
    assert "measured: agrees" in head
    assert "gates" not in head
    assert answer.endswith(fact.holds)


def test_an_unknown_chapter_is_named() -> None:
    with pytest.raises(ValueError, match="chapter = '99-none': must be one of 01-flops"):
        heads.head("99-none")
