"""What stands before the book: the README's pictures, and how the work is cited."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import screenshots
import yaml
from pybtex.database import parse_string

from moe_leverage import __version__

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
CITE = (ROOT / "book" / "cite.md").read_text()
ENTRIES = parse_string("\n".join(re.findall(r"```bibtex\n(.+?)```", CITE, re.DOTALL)), "bibtex")


def fields(name: str) -> dict[str, str]:
    entry = ENTRIES.entries[name]
    plain = {key: re.sub(r"[{}]", "", value) for key, value in entry.fields.items()}
    people = [re.sub(r"[{}]", "", str(person)) for person in entry.persons["author"]]
    return {key.lower(): value for key, value in plain.items()} | {"people": "; ".join(people)}


def named(authors: list[dict[str, str]]) -> str:
    return "; ".join(
        a["name"] if "name" in a else f"{a['family-names']}, {a['given-names']}" for a in authors
    )


def test_the_paper_is_cited_as_in_the_citation_file_and_the_bibliography() -> None:
    (paper,) = CITATION["references"]
    here = fields("tian2025greater")
    assert (here["title"], here["year"]) == (paper["title"], str(paper["year"]))
    assert (here["people"], here["url"]) == (named(paper["authors"]), paper["url"])
    assert paper["identifiers"][0]["value"] in here["journal"]
    book = parse_string((ROOT / "book" / "references.bib").read_text(), "bibtex")
    title = re.sub(r"[{}]", "", book.entries["tian2025greater"].fields["title"])
    assert title == paper["title"]


def test_the_companion_is_cited_as_in_the_citation_file() -> None:
    here = fields("moe_leverage")
    assert (here["title"], here["version"]) == (CITATION["title"], CITATION["version"])
    assert here["people"] == named(CITATION["authors"])
    assert CITATION["version"] == __version__
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert here["url"] == config["repository"]["url"]
    assert here["license"] == CITATION["license"]


@pytest.mark.parametrize("scheme", screenshots.SCHEMES)
def test_the_readme_shows_each_picture_there_is(scheme: str) -> None:
    readme = (ROOT / "README.md").read_text()
    taken = {p.name for p in screenshots.PICTURES.glob("*.png")}
    assert {f"{name}-{scheme}.png" for name in ("landing", "calculator", "chapter")} <= taken
    for picture in taken:
        assert f"book/_static/screenshots/{picture}" in readme


def test_pictures_are_light_to_fetch() -> None:
    sizes = [p.stat().st_size for p in screenshots.PICTURES.glob("*.png")]
    assert max(sizes) <= screenshots.MOST_BYTES
    assert sum(sizes) < 1_000_000
