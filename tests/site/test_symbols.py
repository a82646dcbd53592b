"""A symbol is explained where a page first uses it: by a link to its row of the notation."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import chapters
import pytest
from bs4 import BeautifulSoup, Tag

EXTENSIONS = chapters.ROOT / "book" / "_ext"
CHAPTERS = chapters.chapters()


@cache
def extension() -> ModuleType:
    """The Sphinx extension, which is no module of a package."""
    sys.path.insert(0, str(EXTENSIONS))
    try:
        return importlib.import_module("symbols")
    finally:
        sys.path.remove(str(EXTENSIONS))


def article(site: Path, page: str) -> Tag:
    found = BeautifulSoup((site / page).read_text(encoding="utf-8"), "html.parser").find("article")
    assert isinstance(found, Tag)
    return found


def used(page: Tag) -> Iterator[str]:
    """The rows of the notation whose symbols stand in the formulas of a page."""
    formulas = [
        str(m["data-tex"])
        for m in page.select(".math")
        if not m.find_parent(["table", "figcaption"])
    ]
    canonical = [extension().canonical(formula) for formula in formulas]
    for entry in extension().symbols():
        name = extension().canonical(entry["tex"])
        pattern = re.compile(rf"(?<![A-Za-z_\\^]){re.escape(name)}(?![A-Za-z_])")
        if any(pattern.search(formula) for formula in canonical):
            yield f"symbol-{entry['code'].replace('_', '-')}"


@pytest.mark.site
@pytest.mark.parametrize("name", [c.name for c in CHAPTERS])
def test_every_symbol_of_a_page_is_linked_once(site: Path, name: str) -> None:
    page = article(site, f"notebooks/{name}.html")
    links = [str(link["href"]).split("#")[1] for link in page.select("a.symbol")]
    assert len(links) == len(set(links))
    assert set(used(page)) <= set(links)
    assert all(link["title"] for link in page.select("a.symbol"))


@pytest.mark.site
def test_the_notation_has_a_row_for_each(site: Path) -> None:
    rows = {str(row["id"]) for row in article(site, "book/notation.html").select("[id^=symbol-]")}
    assert rows == {f"symbol-{e['code'].replace('_', '-')}" for e in extension().symbols()}


@pytest.mark.site
def test_a_word_is_linked_to_its_meaning(site: Path) -> None:
    rows = {str(row["id"]) for row in article(site, "book/notation.html").select("[id^=word-]")}
    assert rows == {f"word-{entry['code']}" for entry in extension().words()}
    links = article(site, "notebooks/appendix-build-an-moe.html").select("a.symbol")
    (router,) = [link for link in links if str(link["href"]).endswith("#word-router")]
    assert "scores the experts" in str(router["title"])


@pytest.mark.parametrize(
    ("tex", "name", "opens"),
    [
        ("A", "A", True),
        ("G = 12", "G", True),
        (r"S^* = 1", "S", False),
        (r"d_{model}", "d_{model}", True),
        (r"E_a / E", "E", False),
        (r"C_\text{moe}", "C", False),
        (r"\hat A", r"\hat{A}", True),
    ],
)
def test_a_formula_opens_with_its_symbol(tex: str, name: str, opens: bool) -> None:
    symbols = extension()
    assert symbols._opens_with(tex, symbols.canonical(name)) is opens
