"""Every figure and table of the paper has its place here, or the reason why it has none."""

from __future__ import annotations

import re

import chapters
import counterparts
import pytest
from chapters import ROOT
from counterparts import Counterpart

from moe_leverage.studies.catalogue import STUDIES

ALL = counterparts.load()
SHOWN = re.compile(r"""\b(show|show_runs|show_table)\(\s*"([a-z0-9-]+)\"""")


def labels() -> set[str]:
    """The labels that the chapters' sources show, whether executed or not."""
    text = "\n".join(c.text.read_text(encoding="utf-8") for c in chapters.chapters())
    prefixes = {"show": "fig", "show_runs": "fig", "show_table": "tab"}
    return {f"{prefixes[call]}-{name}" for call, name in SHOWN.findall(text)}


def test_all_twenty_five_are_there_in_order() -> None:
    numbers = list(dict.fromkeys(entry.number for entry in ALL))
    expected = [f"Figure {n}" for n in range(1, counterparts.NUM_FIGURES + 1)]
    expected += [f"Table {n}" for n in range(1, counterparts.NUM_TABLES + 1)]
    assert numbers == expected
    assert len({entry.item for entry in ALL}) == len(ALL)


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.item)
def test_an_entry_leads_somewhere_or_says_why_not(entry: Counterpart) -> None:
    assert any((ROOT / f"{entry.chapter}.{suffix}").is_file() for suffix in ("ipynb", "md"))
    assert set(entry.studies) <= set(STUDIES)
    missing = set(entry.here) - labels()
    assert not missing, f"no chapter shows {missing}"
    assert entry.here or entry.why
    assert not entry.why or entry.why.endswith(".")


def test_what_is_not_drawn_waits_for_its_study_and_what_is_becomes_a_link() -> None:
    rows = counterparts.table({}).splitlines()[2:]
    assert len(rows) == len(ALL)
    assert all("numref" not in row for row in rows)
    figure_1 = next(entry for entry in ALL if entry.item == "Figure 1")
    pages = dict.fromkeys(figure_1.here, "notebooks/07-joint-law")
    row = next(r for r in counterparts.table(pages).splitlines() if "| Figure&nbsp;1 |" in r)
    assert f"{{numref}}`{figure_1.here[0]}`" in row
    assert "waits" not in row


def test_what_stands_on_other_pages_is_said_to_stand_there() -> None:
    table_7 = next(entry for entry in ALL if entry.item == "Table 7")
    pages = {label: f"notebooks/page-{i}" for i, label in enumerate(table_7.here)}
    row = next(r for r in counterparts.table(pages).splitlines() if "| Table&nbsp;7 |" in r)
    assert all(f"{{numref}}`{label}` in {{doc}}`../{page}`" in row for label, page in pages.items())
