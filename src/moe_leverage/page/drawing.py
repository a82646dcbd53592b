"""Parts that the figures of several chapters share: axes, measured points, the scale note.

Measured points of EL are a tidy table with the columns `POINT_COLUMNS`; None or an empty table
means that no run of ours stands yet, and the published side is drawn alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import matplotlib.ticker as ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from moe_leverage import ledger
from moe_leverage.analysis.bootstrap import NORMAL_95
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.reductions import widened_noise
from moe_leverage.page import theme
from moe_leverage.page.links import lay_links, link_runs
from moe_leverage.page.notation import axis_label, notation
from moe_leverage.paper import STUDY_BUDGETS_FLOPS
from moe_leverage.rules import require
from moe_leverage.theory.laws import PowerLaw
from moe_leverage.theory.rounding import short

FAMILIES = {"dense": "dense", "moe": "MoE"}  # as a reader sees them
POINT_COLUMNS = (
    "activation_ratio",
    "granularity",
    "training_flops",
    "efficiency_leverage",
    "leverage_low",
    "leverage_high",
)


def power(value: float) -> str:
    """A FLOP count in the short form of the paper's tables.

    >>> power(2e18), power(1.25e22), power(1e11)
    ('2e18', '1.2e22', '1e11')
    """
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


ENDS = " to ".join(map(power, (STUDY_BUDGETS_FLOPS[0], STUDY_BUDGETS_FLOPS[-1])))
STUDY_RANGE = f"studies of Section 4, {ENDS} FLOPs"


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
    labels = [short(format(value, specification)) for value in ticks]
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


def linked_means(
    runs: pd.DataFrame, axes: list[str], repeated: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Mean loss over seeds at each budget and place, its 90 % interval, and the runs behind it.

    The interval is that of a mean under the noise between seeds: of `repeated`, runs of the same
    recipe, or else of the table itself. It is missing where neither repeats enough.
    """
    done = ledger.finished(runs)
    done = done.assign(log_loss=np.log(done["loss_nats"]))
    means = done.groupby(["budget_flops", *axes], as_index=False).agg(
        log_loss=("log_loss", "mean"), num_seeds=("log_loss", "size"), run_id=("run_id", " ".join)
    )
    source = runs if repeated is None or repeated.empty else repeated
    wide = NORMAL_95 * widened_noise(ledger.finished(source)) / np.sqrt(means["num_seeds"])
    return means.assign(
        loss_nats=np.exp(means["log_loss"]),
        loss_nats_low=np.exp(means["log_loss"] - wide),
        loss_nats_high=np.exp(means["log_loss"] + wide),
    ).drop(columns="log_loss")


def reach_of(runs: pd.DataFrame) -> NDArray[np.float64]:
    """The compute over which laws of our own are drawn: that of the runs beside them."""
    compute = runs["training_flops"].astype(float)
    return np.geomspace(compute.min(), compute.max(), 25) if len(runs) else np.array([])


def draw_band(ax: Axes, fitted: Fit, compute: NDArray[np.float64], *, family: str) -> pd.DataFrame:
    """A law of our own over compute with its 90 % interval; gives the table of what was drawn."""
    drawn = fitted.predict({"compute": compute})
    low, high = drawn.confidence.T
    ink = theme.colour(family)
    ax.plot(compute, drawn.value, "--", color=ink, label=f"our fit, {FAMILIES[family]}")
    ax.fill_between(compute, low, high, color=ink, alpha=0.15, lw=0)
    columns = {"family": family, "training_flops": compute, fitted.target: drawn.value}
    return pd.DataFrame(columns | {f"{fitted.target}_low": low, f"{fitted.target}_high": high})


def draw_used(
    ax: Axes,
    law: Callable[[float], float],
    target: str,
    compute: NDArray[np.float64],
    *,
    family: str,
) -> pd.DataFrame:
    """The adopted law that later runs were planned by; gives the table of what was drawn."""
    ink = theme.colour(family)
    used = [law(budget) for budget in compute]
    ax.plot(compute, used, "-.", color=ink, lw=1.2, label=f"used, {FAMILIES[family]}")
    columns = {"family": family, "training_flops": compute, f"{target}_used": used}
    return pd.DataFrame(columns)


def draw_over(ax: Axes, above: Axes, law: PowerLaw, quantity: str, of: str) -> None:
    """What the panel `above` shows over compute, again as multiples of a law of compute.

    Laws that lie on each other over many powers of ten part here, and a point shows by how much it
    misses. Lines, bars, bands and links are taken over; `of` says whose law it is.
    """
    for line in above.get_lines():
        copied = Line2D(*_over(line.get_xydata(), law).T)
        copied.update_from(line)
        copied.set(transform=ax.transData, label="_again")
        ax.add_line(copied)
    for part in list(above.collections):
        if isinstance(part, PathCollection) and any(part.get_urls()):
            lay_links(ax, _over(part.get_offsets(), law), part.get_urls())
        for kind in (LineCollection, PolyCollection):
            if isinstance(part, kind):
                again = kind([_over(path.vertices, law) for path in part.get_paths()])
                again.update_from(part)
                again.set(transform=ax.transData, label="_again")
                ax.add_collection(again)
    ax.set(xscale="log", yscale="log", xlim=above.get_xlim())
    ax.autoscale_view(scalex=False)
    ax.set_xlabel(above.get_xlabel())
    symbol = str(notation().loc[quantity, "tex"])
    ax.set_ylabel(f"${symbol}$ over {of}")


def _over(points: Any, law: PowerLaw) -> NDArray[np.float64]:
    x, y = np.asarray(points, dtype=float).T
    return np.column_stack([x, y / law(x)])


def own_exponent(of: str, own: Fit, published: PowerLaw) -> str:
    """Our exponent of a power law with its interval, and whether that holds the printed one."""
    low, high = own.interval()["exponent"]
    verdict = "which holds" if low <= published.exponent <= high else "which does not hold"
    value = f"{own.law.coefficients[1]:.2f} ({low:.2f} to {high:.2f}) for {of}"
    return f"{value}, {verdict} the printed {published.exponent:.2f}"


def note(fig: Figure, text: str) -> None:
    """A small line under the figure: which compute range it stands on."""
    fig.supxlabel(text, fontsize=8.5, color=theme.colour("muted"), x=0.99, ha="right")


def ranges(published: str, measured: pd.DataFrame | None, column: str = "training_flops") -> str:
    """The compute that the published and the measured side stand on, in one line.

    >>> ranges("fitted at 1e18 to 3e20 FLOPs", None)
    'Published: fitted at 1e18 to 3e20 FLOPs.  Ours: no runs yet.'
    """
    ours = "no runs yet"
    if measured is not None and not measured.empty:
        ours = f"{power(measured[column].min())} to {power(measured[column].max())} FLOPs"
    return f"Published: {published}.  Ours: {ours}."


def percent(ratio: float) -> str:
    """A ratio in per cent with two significant digits.

    >>> percent(3 / 65), percent(1.0), percent(0.0116)
    ('4.6 %', '100 %', '1.2 %')
    """
    value = 100 * ratio
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %"
