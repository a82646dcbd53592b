"""The paper's figures and tables with their places in the book: one list, one page.

data/paper/counterparts.toml names for every figure and table what answers it here. What the
executed chapters have drawn becomes a link, what they have not waits for the runs of its studies.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chapters import ROOT

PATH = ROOT / "data" / "paper" / "counterparts.toml"
NUM_FIGURES, NUM_TABLES = 14, 11


@dataclass(frozen=True, kw_only=True, slots=True)
class Counterpart:
    """A figure or table of the paper, or a part of one, and what stands for it here."""

    item: str
    shows: str
    chapter: str
    here: tuple[str, ...] = ()  # labels, fig-NAME or tab-NAME
    studies: tuple[str, ...] = ()
    why: str = ""

    @property
    def number(self) -> str:
        """The item without the letter of its part.

        >>> Counterpart(item="Figure 13a", shows="", chapter="").number
        'Figure 13'
        """
        return self.item.rstrip("abcd")


def load() -> list[Counterpart]:
    """Every entry of the list, in the order of the paper."""
    entries = tomllib.loads(PATH.read_text(encoding="utf-8"))["counterpart"]
    return [_counterpart(entry) for entry in entries]


def table(pages: Mapping[str, str]) -> str:
    """The page's table; `pages` has the page of every figure and table that is shown, by label."""
    head = ["| In the paper | What it shows | Here |", "|:--|:--|:--|"]
    rows = [
        f"| {_unbroken(entry.item)} | {entry.shows} | {_place(entry, pages)} |" for entry in load()
    ]
    return "\n".join([*head, *rows]) + "\n"


def _counterpart(entry: dict[str, Any]) -> Counterpart:
    lists: dict[str, Any] = {k: tuple(entry[k]) for k in ("here", "studies") if k in entry}
    return Counterpart(**entry | lists)


def _unbroken(item: str) -> str:
    return item.replace(" ", "&nbsp;")


def _place(entry: Counterpart, pages: Mapping[str, str]) -> str:
    links: dict[str, list[str]] = {}  # by page
    for label in entry.here:
        if label in pages:
            links.setdefault(pages[label], []).append(f"{{numref}}`{label}`")
    missing = [label for label in entry.here if label not in pages]
    shown = [f"{', '.join(found)} in {{doc}}`../{page}`" for page, found in links.items()]
    parts = [f"{'; '.join(shown)}." if shown else ""]
    if missing and entry.studies:
        names = " and ".join(f"`{study}`" for study in entry.studies)
        parts.append(f"{'A part' if links else 'It'} waits for runs of {names}.")
    if not links:
        parts.append(f"See {{doc}}`../{entry.chapter}`.")
    return " ".join([*filter(None, parts), *filter(None, [entry.why])])
