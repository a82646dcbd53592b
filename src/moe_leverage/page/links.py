"""Measured points of a figure as links to their runs in the explorer.

A figure names the runs behind a mark, `run:<run id>+<run id>`; the page turns that into the address
of the first one's panel and keeps the others for the mark's card. A file that leaves the site keeps
the picture without the links.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.markers import CARETUPBASE
from numpy.typing import NDArray

from moe_leverage.page import theme

EXPLORER = "../notebooks/tool-explorer.html"  # from any page of the book
SCHEME = "run:"
REACH_POINTS = 11.0  # diameter of what a pointer may hit around a point
LINK = re.compile(rf'<a xlink:href="{SCHEME}([0-9a-f+]+)"[^>]*>(.*?)</a>', re.DOTALL)
OURS = ("measured", "dense", "moe")  # the colours of our runs, beside those of A
BARS = ("", " ", "None", "none", "_", "|", CARETUPBASE)  # of lines without points, of ends of bars
SAME_PLACE_POINTS = 0.5


def link_runs(ax: Axes, frame: pd.DataFrame, x: str, y: str) -> None:
    """Lay a link over each point (x, y) of a table that has a column `run_id`.

    A point that stands for several runs names them with spaces between. For figures that draw
    points by themselves; `drawing.draw_points` does it unasked.
    """
    if "run_id" not in frame.columns:
        return
    known = frame.dropna(subset=["run_id", x, y])
    if known.empty:
        return
    urls = [SCHEME + "+".join(str(ids).split()) for ids in known["run_id"]]
    lay_links(ax, known[[x, y]].to_numpy(float), urls)


def lay_links(ax: Axes, places: NDArray[np.float64], urls: Sequence[str | None]) -> None:
    """Invisible areas at these places (x, y) of the panel, each with its link."""
    x, y = places.T
    ax.scatter(x, y, s=REACH_POINTS**2, alpha=0.0, lw=0, zorder=5).set_urls(list(urls))


def bare_marks(figure: Figure) -> int:
    """How many marks in the colours of our runs have no link over them.

    >>> import matplotlib.pyplot as plt
    >>> fig, ax = plt.subplots()
    >>> table = pd.DataFrame({"x": [1.0, 2.0], "y": [1.0, 2.0], "run_id": ["c0ffee", None]})
    >>> _ = ax.plot("x", "y", "o", color=theme.colour("moe"), data=table)
    >>> link_runs(ax, table, "x", "y")
    >>> bare_marks(figure=fig)
    1
    """
    return sum(_bare(ax) for ax in figure.axes if ax.get_visible())


def _bare(ax: Axes) -> int:
    areas = [part for part in ax.collections if isinstance(part, PathCollection)]
    linked = [ax.transData.transform(p.get_offsets()) for p in areas if any(p.get_urls())]
    known = np.vstack([np.empty((0, 2)), *linked])
    reach = SAME_PLACE_POINTS * ax.figure.dpi / 72
    marks = [ax.transData.transform(places) for places in _our_marks(ax)]
    near = [np.linalg.norm(m[:, None] - known[None], axis=2) <= reach for m in marks]
    return sum(int((~here.any(axis=1)).sum()) for here in near)


def _our_marks(ax: Axes) -> Iterator[NDArray[np.float64]]:
    """Places of the marks in the colours of our runs, one array an artist."""
    ours = {theme.colour(role) for role in OURS} | {light for light, _ in theme.ACTIVATION_SCALE}
    for line in ax.get_lines():
        if line.get_marker() not in BARS and to_hex(line.get_markeredgecolor()) in ours:
            yield _finite(line.get_xydata())
    for part in ax.collections:
        if isinstance(part, PathCollection) and not any(part.get_urls()):
            inks = [to_hex(ink) for ink in np.asarray(part.get_facecolor(), dtype=float)]
            places = np.asarray(part.get_offsets(), dtype=float)
            inks = inks if len(inks) == len(places) else inks[:1] * len(places)
            is_ours = np.array([ink in ours for ink in inks], dtype=bool)
            yield _finite(places[is_ours] if len(inks) else places[:0])


def _finite(places: object) -> NDArray[np.float64]:
    found = np.asarray(places, dtype=float).reshape(-1, 2)
    known: NDArray[np.float64] = found[np.isfinite(found).all(axis=1)]
    return known


def unlinked(svg: str) -> str:
    """The picture without its links, for a file that may lie anywhere."""
    return LINK.sub(r"\2", svg)


def leading(svg: str) -> str:
    """The picture with links that lead to the explorer, each with a name.

    They are for the pointer: a figure may hold hundreds, and the explorer has its own way for the
    keyboard, linked from the caption. `book.css` makes their invisible areas answer.

    >>> leading('<a xlink:href="run:c0ffee+decade" target="_blank"><use/></a>')[:66]
    '<a href="../notebooks/tool-explorer.html#run=c0ffee" tabindex="-1"'
    """
    return LINK.sub(_to_explorer, svg)


def _to_explorer(found: re.Match[str]) -> str:
    first, *others = runs = found[1].split("+")
    name = f"{len(runs)} runs, the first {first}" if others else f"run {first}"
    more = f' data-runs="{" ".join(runs)}"' if others else ""
    address = f"{EXPLORER}#run={first}"
    return f'<a href="{address}" tabindex="-1" aria-label="{name}"{more}>{found[2]}</a>'


def names_runs(svg: str) -> bool:
    """Whether any point of the picture names its run."""
    return LINK.search(svg) is not None
