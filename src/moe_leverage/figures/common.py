"""Parts that the figures of several chapters share: axes, measured points, the scale note.

Measured points of EL are a tidy table with the columns `POINT_COLUMNS`; None or an empty table
means that no run of ours stands yet, and the published side is drawn alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.ticker as ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moe_leverage.config import require
from moe_leverage.figures import theme
from moe_leverage.figures.links import link_runs
from moe_leverage.figures.notation import axis_label

PAPER_BUDGETS_FLOPS = (1e18, 1e19, 1e20, 3e20)  # reach of the architecture studies, Section 4
LADDER_FLOPS = (1e11, 3e11, 1e12, 3e12)  # our own ladder of small models, as lab.protocol has it
STUDY_RANGE = "studies of Section 4, 1e18 to 3e20 FLOPs"
FAMILIES = {"dense": "dense", "moe": "MoE"}  # as a reader sees them
POINT_COLUMNS = (
    "activation_ratio",
    "granularity",
    "compute_flops",
    "efficiency_leverage",
    "leverage_low",
    "leverage_high",
)


def log_axes(ax: Axes, x: str = "", y: str = "") -> None:
    """Label both axes from the notation; those of powers of ten are logarithmic."""
    if x:
        ax.set_xscale("log")
        ax.set_xlabel(axis_label(x))
    if y:
        ax.set_yscale("log")
        ax.set_ylabel(axis_label(y))


def plain_ticks(axis: object, values: Iterable[float], specification: str = "g") -> None:
    """Ticks of a logarithmic axis at these values, written as plain numbers."""
    ticks = list(values)
    axis.set_major_locator(ticker.FixedLocator(ticks))  # type: ignore[attr-defined]
    labels = [format(value, specification) for value in ticks]
    axis.set_major_formatter(ticker.FixedFormatter(labels))  # type: ignore[attr-defined]
    axis.set_minor_locator(ticker.NullLocator())  # type: ignore[attr-defined]


def points(measured: pd.DataFrame | None, columns: Iterable[str] = POINT_COLUMNS) -> pd.DataFrame:
    """The measured points, checked for their columns; an empty table when there are none."""
    wanted = list(columns)
    if measured is None or measured.empty:
        return pd.DataFrame(columns=wanted, dtype=float)
    for name in wanted:
        require(name in measured.columns, "measured", list(measured.columns), f"lacks {name}")
    return measured


def draw_points(
    ax: Axes, frame: pd.DataFrame, x: str, y: str, *, colour: str = "", label: str = "measured"
) -> None:
    """Measured points as open markers, with interval bars where the table has them.

    Where it has a column `run_id`, each point leads to its run in the explorer.
    """
    stem = "leverage" if y == "efficiency_leverage" else y
    low, high = f"{stem}_low", f"{stem}_high"
    bars = None
    if low in frame.columns and high in frame.columns:
        bars = np.abs(np.vstack([frame[y] - frame[low], frame[high] - frame[y]]))
    ink = colour or theme.colour("measured")
    ax.errorbar(
        frame[x], frame[y], yerr=bars, fmt=theme.MARKERS["measured"], color=ink,
        markerfacecolor="none", markeredgewidth=1.4, elinewidth=1, label=label,
    )  # fmt: skip
    link_runs(ax, frame, x, y)


def note(fig: Figure, text: str) -> None:
    """A small line under the figure: which compute range it stands on."""
    fig.supxlabel(text, fontsize=8.5, color=theme.colour("muted"), x=0.99, ha="right")


def ranges(published: str, measured: pd.DataFrame | None, column: str = "compute_flops") -> str:
    """The compute that the published and the measured side stand on, in one line.

    >>> ranges("fitted at 1e18 to 3e20 FLOPs", None)
    'Published: fitted at 1e18 to 3e20 FLOPs.  Ours: no runs yet.'
    """
    ours = "no runs yet"
    if measured is not None and not measured.empty:
        ours = f"{power(measured[column].min())} to {power(measured[column].max())} FLOPs"
    return f"Published: {published}.  Ours: {ours}."


def power(value: float) -> str:
    """A FLOP count in the short form of the paper's tables.

    >>> power(2e18), power(1.25e22), power(1e11)
    ('2e18', '1.2e22', '1e11')
    """
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def percent(ratio: float) -> str:
    """A ratio in per cent with two significant digits.

    >>> percent(3 / 65), percent(1.0), percent(0.0116)
    ('4.6 %', '100 %', '1.2 %')
    """
    value = 100 * ratio
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %"
