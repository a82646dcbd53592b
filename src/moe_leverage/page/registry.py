"""Every figure by name: a function of a table that returns what it drew and what it shows.

A chapter calls `show("name", table)`; the site shows the drawing with its finding as the text
alternative, and `build/figures/` receives the SVG, the PNG and the CSV of what was drawn.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from moe_leverage import ledger, paths
from moe_leverage.page import links, theme
from moe_leverage.page import phone as narrow
from moe_leverage.page.notation import heading
from moe_leverage.rules import require
from moe_leverage.theory.rounding import short

FIGURE_DIRECTORY = paths.BUILD / "figures"
FORMULA = re.compile(r"[=+\-@\t]")  # what makes a cell a formula where a spreadsheet opens it


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, the table of what it shows, and one computed sentence that states its finding."""

    figure: Figure
    table: pd.DataFrame
    finding: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What the registry knows of one figure."""

    name: str
    paper: str  # the paper's figures or tables that it answers
    caption: str
    function: Callable[..., Drawing]
    data: tuple[str, ...] = ()  # files under data/ that it is computed from
    studies: tuple[str, ...] = ()  # of the ledger


ENTRIES: dict[str, Entry] = {}


def figure(
    name: str,
    *,
    paper: str,
    caption: str,
    data: tuple[str, ...] = (),
    studies: tuple[str, ...] = (),
) -> Callable[[Callable[..., Drawing]], Callable[..., Drawing]]:
    """Register a function as the figure `name`, drawn in the house theme whenever it is called.

    `data` names the files under data/ and `studies` those of the ledger that it stands on; the page
    says so under the figure.
    """
    require(re.fullmatch(r"[a-z0-9-]+", name) is not None, "name", name, "must be kebab-case")
    require(name not in ENTRIES, "name", name, "is already the name of a figure")

    def register(function: Callable[..., Drawing]) -> Callable[..., Drawing]:
        ENTRIES[name] = Entry(name, paper, caption, function, data, studies)
        return function

    return register


def draw(name: str, *inputs: object, **options: object) -> Drawing:
    """Draw the figure `name` in the house theme."""
    require(name in ENTRIES, "figure", name, f"must be one of {', '.join(sorted(ENTRIES))}")
    with theme.themed(salt=name):
        return ENTRIES[name].function(*inputs, **options)


def show(name: str, *inputs: object, **options: object) -> None:
    """Draw the figure, write its files and display it in the notebook.

    The output is inline SVG in CSS variables, for wide pages and again for narrow ones, with the
    caption and the finding in its metadata, from which the site's build makes a numbered figure
    `fig-<name>`.
    """
    drawing = draw(name, *inputs, **options)
    finding = short(drawing.finding)
    entry = ENTRIES[name]
    svg = save(name, drawing)
    narrow_svg = narrowed(name, drawing)
    plt.close(drawing.figure)
    facts = {
        "figure": name,
        "paper": entry.paper,
        "caption": entry.caption,
        "finding": finding,
        "function": f"{entry.function.__module__}.{entry.function.__name__}",
        "runs": "linked" if links.names_runs(svg) else "",
        "data": list(entry.data),
        "studies": {study: num_runs(study) for study in entry.studies},
    }
    both = inline(svg, name, finding) + inline(narrow_svg, name, finding, "narrow")
    bundle = {"text/html": both, "text/plain": finding}
    display(bundle, raw=True, metadata={"moe_leverage": facts})  # type: ignore[no-untyped-call]


def show_table(
    name: str,
    frame: pd.DataFrame,
    caption: str,
    formats: dict[str, str] | None = None,
    fold: str = "",
) -> None:
    """Display a table as Markdown, numbered and referable as `tab-<name>`, and write its CSV.

    Columns that bear a name of the notation are headed by their symbol. `formats` maps a column to
    a format specification such as ".3g"; missing values become dashes, yes and no are words. With
    words for `fold` the table opens under them.
    """
    paths.write_atomically(FIGURE_DIRECTORY / f"{name}.csv", exported(frame))
    rows = [
        list(map(heading, frame.columns)),
        [_alignment(frame[column]) for column in frame.columns],
    ]
    specifications = formats or {}
    columns = [[_cell(v, specifications.get(c, "")) for v in frame[c]] for c in frame.columns]
    rows += [list(row) for row in zip(*columns, strict=True)]
    lines = "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
    markdown = f":::{{table}} {caption}\n:name: tab-{name}\n\n{lines}\n:::\n"
    markdown = f"::::{{dropdown}} {fold}\n{markdown}::::\n" if fold else markdown
    bundle = {"text/markdown": markdown, "text/plain": frame.to_string(index=False)}
    display(bundle, raw=True, metadata={"moe_leverage": {"table": name, "caption": caption}})  # type: ignore[no-untyped-call]


def exported(frame: pd.DataFrame) -> str:
    """A table as CSV that a spreadsheet shows as it stands: text that it would compute is quoted.

    >>> exported(pd.DataFrame({"name": ["=1+1", "-0.5", "a-b"], "loss": [-3.0, 2.0, 1.0]}))
    "name,loss\\n'=1+1,-3.0\\n-0.5,2.0\\na-b,1.0\\n"
    """
    quoted = frame.map(_as_text).rename(columns=_as_text)
    return str(quoted.to_csv(index=False))


def _as_text(cell: Any) -> Any:
    """The cell, with a quotation mark before it where a spreadsheet would take it for a formula."""
    if not isinstance(cell, str) or not FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def num_runs(study: str) -> int:
    """Finished runs of a study in the ledger, those excluded with a reason left out."""
    return len(ledger.finished(ledger.table(study, directory=ledger.DIRECTORY)))


def save(name: str, drawing: Drawing, directory: Path = FIGURE_DIRECTORY) -> str:
    """Write NAME.svg, NAME.png and NAME.csv and return the SVG text, whose points name runs."""
    with theme.themed(salt=name):
        svg = _svg(drawing.figure)
        raster = io.BytesIO()
        metadata = {"Software": ""}
        drawing.figure.savefig(raster, format="png", facecolor="white", metadata=metadata)
    paths.write_atomically(directory / f"{name}.svg", links.unlinked(svg))
    paths.write_atomically(directory / f"{name}.png", raster.getvalue())
    paths.write_atomically(directory / f"{name}.csv", exported(drawing.table))
    return svg


def narrowed(name: str, drawing: Drawing) -> str:
    """The SVG text of the same figure laid out for a phone; the drawing stays narrow."""
    with theme.themed(salt=name):
        narrow.make_narrow(drawing.figure)
        return _svg(drawing.figure)


def inline(svg: str, name: str, finding: str, layout: str = "wide") -> str:
    """The SVG as a part of a page: ids of its own, theme variables, a text alternative, links."""
    role = "group" if links.names_runs(svg) else "img"  # an image may hold nothing to act on
    svg = svg[svg.index("<svg") :]
    own = name if layout == "wide" else f"{name}-{layout}"
    svg = re.sub(r'\bid="', f'id="{own}-', svg)
    svg = re.sub(r'href="#', f'href="#{own}-', svg)
    svg = re.sub(r"url\(#", f"url(#{own}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    label = html.escape(finding, quote=True)
    attributes = f'class="ml-figure ml-{layout}" role="{role}" aria-label="{label}" '
    attributes += f'data-figure="{name}"'
    if layout == "narrow":
        attributes += ' style="display: none"'  # until the site's style sheet shows it on a phone
    svg = svg.replace("<svg ", f"<svg {attributes} ", 1)
    # blank lines would end the raw HTML block when Markdown passes over it
    return re.sub(r"\n\s*\n", "\n", links.leading(theme.as_variables(svg))).strip()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _alignment(column: pd.Series) -> str:
    return "--:" if pd.api.types.is_numeric_dtype(column) else ":--"


def _cell(value: object, specification: str) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return short(format(value, specification)).replace("|", "\\|")
