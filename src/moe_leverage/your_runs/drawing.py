"""The pictures of a report on a reader's runs: inline SVG with a caption, in the theme's variables.

One drawing serves a desktop and a phone: it is so small that its letters stay legible on a screen
of 390 pixels, where it is shrunk by a quarter.
"""

from __future__ import annotations

import html
import io
import math
import re
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter

from moe_leverage.analysis.findings import Findings
from moe_leverage.analysis.points import FAMILY, family_name
from moe_leverage.page import theme
from moe_leverage.theory.law import Array

MOST_FAMILIES = 12  # drawn; more would not be told apart
MARKERS = "o^Dv<>Ph"  # of granularity, the smallest first
SIZE_INCHES = (5.0, 5.2)
GRID_POINTS = 60
BESIDE = 0.6  # of the way to the next budget, over which the families of one are spread
ARROW_POINTS = 14  # length of the arrow of a bound or of an end that is open
TITLES = {"leverage": "Efficiency leverage against compute", "losses": "Loss against compute"}

Drawn = tuple[dict[str, Any], pd.DataFrame, dict[str, Any]]  # a family, its points, its look


def leverage_figure(found: Findings) -> str:
    """EL by the dense frontier against compute, bounds and open ends as arrows."""
    assert found.leverage is not None
    points = found.leverage.points
    frontier = points[points["estimator"] == "frontier"]
    drawn, said = _families(frontier)
    joint = found.fits.get("joint")
    with theme.themed("leverage"):
        fig, ax = plt.subplots(figsize=SIZE_INCHES)
        shifts = _side_by_side([group for _, group, _ in drawn])
        for (family, group, look), shift in zip(drawn, shifts, strict=True):
            _draw_leverage(ax, group.assign(compute=group["compute"] * shift), look)
            if joint is not None and not math.isnan(family["granularity"]):
                axes = {name: family[name] for name in ("activation_ratio", "granularity")}
                grid = _grid(group)
                ax.plot(grid, joint.law.evaluate(**axes, compute=grid), color=look["color"])
        ax.axhline(1.0, color=theme.colour("muted"), lw=0.8)
        ax.set(xscale="log", yscale="log", ylabel="EL")
        _compute_axis(ax, frontier)
        for axis_formatter in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
            axis_formatter(FormatStrFormatter("%g"))
        _legend(fig, drawn)
    if frontier[["at_least", "at_most"]].notna().any(axis=None):
        said.append("a hollow mark with an arrow is a bound: the leverage lies beyond it")
    if np.isinf(frontier["high"]).any() or (frontier["low"] == 0).any():
        said.append("an arrow on an interval says that this end is open")
    if np.ptp(shifts) > 0:
        said.append("mixtures of one budget stand side by side")
    if joint is not None:
        said.append("lines are the joint law fitted to these points")
    return _svg(fig, "leverage", said)


def _side_by_side(groups: list[pd.DataFrame]) -> Array:
    """By what the compute of each family is multiplied, so that no interval hides another."""
    budgets = [np.unique(np.log(group["compute"].to_numpy(float)).round(1)) for group in groups]
    places, counts = np.unique(np.concatenate(budgets), return_counts=True)
    if counts.max() == 1:
        return np.ones(len(groups))
    room = BESIDE * float(np.diff(places).min(initial=1.0))
    return np.exp(np.linspace(-room / 2, room / 2, len(groups)))


def _draw_leverage(ax: Axes, group: pd.DataFrame, look: dict[str, Any]) -> None:
    """The points of one family: intervals where there are some, arrows where an end is open."""
    known = group[group["efficiency_leverage"].notna()]
    value, compute = (known[n].to_numpy(float) for n in ("efficiency_leverage", "compute"))
    low, high = (known[n].fillna(known["efficiency_leverage"]) for n in ("low", "high"))
    is_open = {1: np.isinf(high.to_numpy(float)), -1: (low <= 0).to_numpy()}
    ends = [np.where(is_open[-1], value, low), np.where(is_open[1], value, high)]
    ax.errorbar(
        compute, value, yerr=np.stack([value - ends[0], ends[1] - value]).clip(min=0), ls="", **look
    )
    for direction, mask in is_open.items():
        _arrows(ax, compute[mask], value[mask], direction, look["color"])
    for name, direction in (("at_least", 1), ("at_most", -1)):
        bound = group[group[name].notna()]
        at, height = bound["compute"].to_numpy(float), bound[name].to_numpy(float)
        ax.plot(at, height, ls="", **(look | {"label": "_", "markerfacecolor": "none"}))
        _arrows(ax, at, height, direction, look["color"])


def _arrows(ax: Axes, at: Array, height: Array, direction: int, colour: str) -> None:
    for x, y in zip(at, height, strict=True):
        ax.annotate(
            "", (x, y), (0, direction * ARROW_POINTS), textcoords="offset points",
            arrowprops={"arrowstyle": "<-", "color": colour, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip


def loss_figure(found: Findings) -> str:
    """Loss against compute of every family, with its fitted curve."""
    assert found.leverage is not None
    drawn, said = _families(found.leverage.best)
    with theme.themed("losses"):
        fig, ax = plt.subplots(figsize=SIZE_INCHES)
        for family, group, look in drawn:
            ax.plot(group["compute"], group["loss"], ls="", **look)
            name, fits = family_name(family), found.leverage.fits
            fitted = fits.get(f"{name}, FlooredPowerLaw") or fits.get(f"{name}, PowerLaw")
            if fitted is not None:
                grid = _grid(group)
                ax.plot(grid, fitted.law.evaluate(compute=grid), color=look["color"])
        odd = found.leverage.outliers
        if len(odd):
            ax.plot(odd["compute"], odd["loss"], ls="", marker="x", color=theme.colour("ink"))
            said.append("a cross is an outlier, which no curve is fitted to")
        ax.set(xscale="log", ylabel="loss, nats per token")
        _compute_axis(ax, found.leverage.best)
        _legend(fig, drawn)
    return _svg(fig, "losses", [*said, "lines are each family's own curve, where it has one"])


def _families(points: pd.DataFrame) -> tuple[list[Drawn], list[str]]:
    """Each family that is drawn, hue for A and marker for G, and what is left out, in words."""
    sizes = sorted(points.loc[points["is_moe"], "granularity"].dropna().unique())
    groups = list(points.groupby(FAMILY, dropna=False))
    kept = sorted(range(len(groups)), key=lambda place: (
        bool(groups[place][1]["is_moe"].iloc[0]), -len(groups[place][1])
    ))[: MOST_FAMILIES + 1]  # fmt: skip
    drawn: list[Drawn] = []
    for names, group in (groups[place] for place in sorted(kept)):
        family: dict[str, Any] = dict(zip(FAMILY, names, strict=True))
        look = {"color": theme.colour("dense"), "marker": "s"}
        if family["is_moe"]:
            known = not math.isnan(family["granularity"])
            place = sizes.index(family["granularity"]) if known else 0
            share = family["activation_ratio"]
            colour = theme.colour("moe") if math.isnan(share) else theme.activation_colour(share)
            look = {"color": colour, "marker": MARKERS[place % len(MARKERS)]}
        name = family_name(family).replace("$", r"\$")  # text, no mathematics
        drawn.append((family, group, look | {"label": name}))
    if len(drawn) == len(groups):
        return drawn, []
    return drawn, [
        f"{len(drawn)} of {len(groups)} families are drawn, those of most points; the table and "
        "--json have all"
    ]


def _legend(figure: Figure, drawn: list[Drawn]) -> None:
    longest = max((len(look["label"]) for _, _, look in drawn), default=0)
    figure.legend(loc="outside lower center", ncols=2 if longest < 24 else 1)


def _compute_axis(ax: Axes, points: pd.DataFrame) -> None:
    """The name of the axis; only powers of ten are labelled, unless there is none among the points.

    Labels between them would overlap on a drawing of this size.
    """
    ax.set_xlabel("training compute, FLOPs")
    low, high = np.log10([points["compute"].min(), points["compute"].max()])
    if np.floor(high) > np.floor(low):
        ax.xaxis.set_minor_formatter(NullFormatter())


def _grid(group: pd.DataFrame) -> Array:
    return np.geomspace(group["compute"].min(), group["compute"].max(), GRID_POINTS)


def _svg(figure: Figure, name: str, said: list[str]) -> str:
    """The figure as an inline SVG in the theme's variables, above what is said of it."""
    buffer = io.StringIO()
    with theme.themed(name):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{TITLES[name]}" ', 1)
    caption = "; ".join(said)
    words = f"{TITLES[name]}: {caption}." if caption else f"{TITLES[name]}."
    said_below = f"<figcaption>{html.escape(words)}</figcaption>"
    return f'<figure class="picture">{theme.as_variables(text)}{said_below}</figure>\n'
