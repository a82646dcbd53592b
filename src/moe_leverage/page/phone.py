"""The same figure for a phone: panels one above the other, letters as large as the text around.

A page holds both drawings and shows the one that suits its width. At NARROW_INCHES letters of
SMALLEST_POINTS are more than nine pixels high on a screen of 390 pixels.
"""

from __future__ import annotations

import itertools
import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import Bbox

from moe_leverage.page.drawing import note

NARROW_INCHES = 4.3
SMALLEST_POINTS = 8.5
PANEL_INCHES = 3.5  # height of each of several panels
LETTERS = {"title": 40, "label": 46, "note": 56}  # that fit on one line
TITLE_TOP = 1.1  # of the height of a panel
GAP_PIXELS = 3.0  # at least between two tick labels


def make_narrow(figure: Figure) -> None:
    """Lay a drawn figure out anew for a narrow page; what it shows stays the same."""
    for ax in [ax for ax in figure.axes if not ax.get_visible()]:
        ax.remove()  # of a grid that was not filled: in a column it would be a gap
    panels = _panels(figure)
    if len(panels) > 1:
        _stack(figure, panels)
    figure.set_size_inches(
        NARROW_INCHES,
        PANEL_INCHES * len(panels) if len(panels) > 1 else float(figure.get_size_inches()[1]),
    )
    if figure.get_supxlabel():
        note(figure, textwrap.fill(figure.get_supxlabel(), LETTERS["note"]))
    for ax in figure.axes:
        _narrow_legend(ax)
        ax.set_title(_broken(ax.get_title("left"), LETTERS["title"]), loc="left")
        ax.set_xlabel(_broken(ax.get_xlabel(), LETTERS["label"]))
    for text in figure.findobj(Text):
        text.set_fontsize(max(text.get_fontsize(), SMALLEST_POINTS))
    figure.canvas.draw()  # or nobody knows yet which labels touch in these letters
    for ax in figure.axes:
        _thin_labels(ax)


def _panels(figure: Figure) -> list[Axes]:
    """The axes that stand side by side in one grid, in reading order."""
    placed = [ax for ax in figure.axes if ax.get_subplotspec() is not None]
    return sorted(placed, key=lambda ax: ax.get_subplotspec().num1)  # type: ignore[union-attr]


def _stack(figure: Figure, panels: list[Axes]) -> None:
    """One column of panels, each with its own labels, also where they shared an axis."""
    grid = GridSpec(len(panels), 1, figure=figure)
    for place, ax in enumerate(panels):
        ax.set_subplotspec(grid[place])
        # side by side they shared labels at the outer edges; in a column each needs its own
        ax.tick_params(labelleft=True, labelbottom=True)
        for name in ("x", "y"):
            _label(ax, name, panels)


def _label(ax: Axes, name: str, panels: list[Axes]) -> None:
    """The label of an axis, or that of the first panel that has one, those first that share it."""
    shared = getattr(ax, f"get_shared_{name}_axes")()
    order = [ax, *sorted(panels, key=lambda other: not shared.joined(ax, other))]
    labels = [getattr(panel, f"get_{name}label")() for panel in order]
    getattr(ax, f"set_{name}label")(next(filter(None, labels), ""))


def _narrow_legend(ax: Axes) -> None:
    """A legend above its axes loses a column, one beside them moves there; above a title, both."""
    legend = ax.get_legend()
    if legend is None:
        return
    columns = getattr(legend, "_ncols", 1)  # matplotlib has no public name for it
    anchor = legend.get_bbox_to_anchor().transformed(ax.transAxes.inverted())
    is_beside = columns == 1 and anchor.x0 >= 1
    if columns == 1 and not is_beside:
        return
    # A legend cannot be laid out anew, only made again.
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(
        handles, labels, title=legend.get_title().get_text(), loc="lower center",
        ncols=2 if is_beside else columns - 1,
        bbox_to_anchor=(0.45, TITLE_TOP if ax.get_title("left") else 1.0),
        fontsize=legend.get_texts()[0].get_fontsize(),
    )  # fmt: skip


def _broken(text: str, letters: int) -> str:
    """The text in lines, unless it holds mathematics, which may not be broken."""
    return text if "$" in text or "\n" in text else textwrap.fill(text, letters)


def _thin_labels(ax: Axes) -> None:
    """Leave out every second label of the horizontal axis until none touches the next."""
    low, high = sorted(ax.get_xlim())
    while True:
        shown = [
            (tick.get_loc(), tick.label1.get_text(), tick.label1.get_window_extent())
            for tick in ax.xaxis.get_major_ticks()
            if low <= tick.get_loc() <= high and tick.label1.get_text()
        ]
        boxes: list[Bbox] = [box for _, _, box in shown]
        if all(left.x1 + GAP_PIXELS <= right.x0 for left, right in itertools.pairwise(boxes)):
            return
        # fixed, or matplotlib would choose other ticks for the new size and label them all
        kept = shown[::2]
        ax.xaxis.set_major_locator(FixedLocator([place for place, _, _ in kept]))
        ax.xaxis.set_major_formatter(FixedFormatter([text for _, text, _ in kept]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.figure.canvas.draw()
