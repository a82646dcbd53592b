"""Measured points of a figure as links to their runs in the explorer.

A figure names a run, `run:<run id>`; the page turns that into the address of the run's panel, and a
file that leaves the site keeps the picture without the links.
"""

from __future__ import annotations

import re

import pandas as pd
from matplotlib.axes import Axes

EXPLORER = "../notebooks/tool-explorer.html"  # from any page of the book
SCHEME = "run:"
REACH_POINTS = 11.0  # diameter of what a pointer may hit around a point
LINK = re.compile(rf'<a xlink:href="{SCHEME}([0-9a-f]+)"[^>]*>(.*?)</a>', re.DOTALL)


def link_runs(ax: Axes, frame: pd.DataFrame, x: str, y: str) -> None:
    """Lay a link over each point (x, y) of a table that has a column `run_id`.

    A point that stands for several runs names them with spaces between; it leads to the first. For
    figures that draw points by themselves; `drawing.draw_points` does it unasked.
    """
    if "run_id" not in frame.columns:
        return
    known = frame.dropna(subset=["run_id", x, y])
    if known.empty:
        return
    areas = ax.scatter(known[x], known[y], s=REACH_POINTS**2, alpha=0.0, lw=0, zorder=5)
    areas.set_urls([f"{SCHEME}{str(ids).split()[0]}" for ids in known["run_id"]])


def unlinked(svg: str) -> str:
    """The picture without its links, for a file that may lie anywhere."""
    return LINK.sub(r"\2", svg)


def leading(svg: str) -> str:
    """The picture with links that lead to the explorer, each with a name.

    They are for the pointer: a figure may hold hundreds, and the explorer has its own way for the
    keyboard, linked from the caption. `book.css` makes their invisible areas answer.

    >>> leading('<a xlink:href="run:c0ffee" target="_blank"><use/></a>').split(" ", 2)[:2]
    ['<a', 'href="../notebooks/tool-explorer.html#run=c0ffee"']
    """
    found = r'<a href="' + EXPLORER + r'#run=\1" tabindex="-1" aria-label="run \1">\2</a>'
    return LINK.sub(found, svg)


def names_runs(svg: str) -> bool:
    """Whether any point of the picture names its run."""
    return LINK.search(svg) is not None
