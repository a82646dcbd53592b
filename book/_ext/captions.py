"""Figures and tables of pages without a number carry the page's name: *Table Data card 2*.

Sphinx counts them on from page to page, so that a *Fig. 2* of an appendix would pass for the
paper's.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

KINDS_OF_PAGE = ("appendix-", "tool-")


def setup(app: Sphinx) -> dict[str, Any]:
    """Name them once all pages are read; what is kept for the next build stays as Sphinx has it."""
    app.connect("env-check-consistency", _name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def page_name(document: str) -> str:
    """The short name of a page, from that of its file.

    >>> page_name("notebooks/appendix-data-card"), page_name("notebooks/what-we-trained")
    ('Data card', 'What we trained')
    """
    name = document.rpartition("/")[2]
    for kind in KINDS_OF_PAGE:
        name = name.removeprefix(kind)
    return name.replace("-", " ").capitalize()


def _name(app: Sphinx, env: BuildEnvironment) -> None:
    for document, kinds in env.toc_fignumbers.items():
        for of in kinds.values():
            if any(len(number) > 1 for number in of.values()):  # chapter, then place in it
                continue
            for place, key in enumerate(sorted(of, key=of.__getitem__), start=1):
                of[key] = (f"{page_name(document)} {place}",)  # type: ignore[assignment]
