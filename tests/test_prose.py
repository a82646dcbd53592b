"""No number of a result is typed into prose: it is evaluated, or quoted with its place.

The rule, as CONTRIBUTING.md has it: a decimal, a percentage or a number in front of a unit of
results stands either in a `glue` role, or in code, or in a sentence that says where it was
published (Section, Table, Figure, Equation, Appendix, arXiv, a citation).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import chapters
import jupytext
import pytest

from moe_leverage.paths import DATA
from moe_leverage.studies.catalogue import STUDIES

PAGES = [c.text for c in chapters.chapters()] + sorted((chapters.ROOT / "book").glob("*.md"))
UNITS = "%|per cent|percent|billion|million|times|-fold|GB|MB|kB|points|nats|seconds|hours"
NUMBER = re.compile(rf"(?<![\w.,-])\d[\d,]*(?:\.\d+(?:e[+-]?\d+)?|(?:\.\d+)?\s?(?:{UNITS})(?!\w))")
PLACE = r"(?:Section|Table|Figure|Equation|Appendix)s?\s(?:[A-F]\b|\d+(?:\.\d+)*[a-d]?)"
PLACES = re.compile(rf"{PLACE}(?:(?:, | to | and | or )(?:[A-F]\b|\d+(?:\.\d+)*[a-d]?))*")
QUOTED = re.compile(r"arXiv \d{4}\.\d{5}|\{cite:[pt]+\}`[^`]+`")
NAMES = re.compile(r"Ling 2\.0|Python 3\.\d+(?:(?:, | to | and )3\.\d+)*|[A-Z][A-Za-z]*-\d+\.\d+B?")
LEVEL = re.compile(r"90 % (?:\w+ )?(?:interval|band)s?")  # the level of every interval in the book
NAMED_STUDY = re.compile(r"[Ss]tud(?:y|ies) `([a-z0-9-]+)`")
SENTENCE_END = re.compile(r"(?<=[.!?:;])['\")*]*\s+(?=[\"'*$({]*[A-Z0-9$])|\n\s*\n|\n(?=[|:-])")


def unsourced(sentence: str) -> list[str]:
    """The typed numbers of a sentence that names no place where they were published."""
    if PLACES.search(sentence) or QUOTED.search(sentence):
        return []
    plain = re.sub(r"\{[a-z:]+\}`[^`]*`|`[^`]*`|<[^>]+>|\]\([^)]*\)", " ", sentence)
    for pattern in (NAMES, LEVEL):
        plain = pattern.sub(" ", plain)
    return NUMBER.findall(plain)


def prose(path: Path) -> Iterator[str]:
    """The sentences of a page: its Markdown, and the words that its code cells hold."""
    for cell in jupytext.read(path, fmt="md:myst").cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"^(```+|~~~+).*?^\1\s*$", "\n\n", cell.source, flags=re.DOTALL | re.M)
            yield from SENTENCE_END.split(text)
        elif cell.cell_type == "code":
            yield from words(cell.source)


def words(source: str) -> Iterator[str]:
    """The strings of a cell that are written for readers: those with a blank and a full stop."""
    for node in ast.walk(ast.parse(source)):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and re.search(r"\w \w.*\.$", node.value):
            yield from SENTENCE_END.split(node.value)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_typed_number_without_its_place(path: Path) -> None:
    found = [(numbers, s.strip()) for s in prose(path) if (numbers := unsourced(s))]
    assert not found, "\n".join(f"{numbers}: {sentence}" for numbers, sentence in found)


@pytest.mark.parametrize(
    "sentence",
    [
        "The loss is 2.31.",
        "It costs 16 % more.",
        "It has 17.5 billion parameters.",
        "That is $\\mathrm{EL} = 7.24$.",
        "The rate is 3.78e-4 in {doc}`08-ling-mini-beta`.",
        "Table data say 7.2.",
        "It is 5 times as large.",
    ],
)
def test_a_typed_result_is_found(sentence: str) -> None:
    assert unsourced(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "The loss is {glue:text}`loss:.2f`, at $10^{20}$ FLOPs and $G = 12$.",
        "The text says 3.1 % (Section 1).",
        "Best is 8.3 % (Sections 4.1.3 and 6).",
        "The exponent is 0.05 {cite:p}`kaplan2020scaling`.",
        "Ling 2.0 and Dense-6.1B, under Python 3.11 to 3.13, with 90 % intervals.",
        "Set `learning_rate = 0.01` and 4,096 tokens.",
        "It reports 7 times less (arXiv 2510.22115, abstract).",
    ],
)
def test_what_is_evaluated_or_sourced_passes(sentence: str) -> None:
    assert not unsourced(sentence)


def test_sentences_are_judged_one_by_one() -> None:
    text = "Section 4.1 says 3.1 %. It costs 16 % more."
    assert [bool(unsourced(s)) for s in SENTENCE_END.split(text)] == [False, True]


def test_a_study_that_is_named_is_planned_or_stands_in_the_ledger() -> None:
    known = {*STUDIES, *(path.stem for path in (DATA / "ledger").rglob("*.jsonl"))}
    named = {name for page in PAGES for name in NAMED_STUDY.findall(page.read_text("utf-8"))}
    assert len(named) > 5
    assert named <= known
