"""Figures and tables of chapter 15: the laws beside leverages derived from public runs.

A    activation ratio
G    granularity
C    training compute, FLOPs
EL   efficiency leverage
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from moe_leverage.evidence import scores
from moe_leverage.evidence.sources import points_table, sources
from moe_leverage.figures.other_laws import law_colour
from moe_leverage.page import theme
from moe_leverage.page.drawing import log_axes, note, percent, plain_ticks, power
from moe_leverage.page.links import link_runs
from moe_leverage.page.notation import axis_label
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.theory.laws import PUBLISHED

MANY = 1e4  # from here on an end of an interval says nothing and is not printed


def sources_table() -> pd.DataFrame:
    """One row a source: whose runs, where, and on which terms the two sides meet."""
    return pd.DataFrame(
        [
            {
                "source": source.title,
                "repository": f"`{source.repository}` at `{source.commit}`",
                "licence": source.licence,
                "runs": source.runs,
                "compared at": source.basis,
            }
            for source in sources()
        ]
    )


def remarks() -> str:
    """How compute was counted in each source and what limits its leverages, as a list."""
    return "\n".join(
        f"- *{source.title}.* Counted: {source.accounting}. {source.caveat}" for source in sources()
    )


def compared() -> pd.DataFrame:
    """One row a derived point, with what each law says of it on the point's own basis."""
    table = scores.errors(points_table())
    keys = ["title", "layout", "activation_ratio", "granularity", "compute", "low", "high"]
    wide = table.pivot_table(index=keys, columns="law_title", values="value", sort=False)
    return wide.reset_index()


def by_layout(table: pd.DataFrame) -> pd.DataFrame:
    """The same, a row a layout: the range of compute, of the derived EL, and of the paper's law."""
    rows = []
    for (title, layout), group in table.groupby(["title", "layout"], sort=False):
        finite = group[np.isfinite(group["high"])]
        law = next(name for name in group.columns if str(name).startswith("Tian"))
        rows.append({
            "source": title, "layout": layout,
            "activation_ratio": group["activation_ratio"].iloc[0],
            "granularity": group["granularity"].iloc[0],
            "compute": f"{power(group['compute'].min())} to {power(group['compute'].max())}",
            "EL derived": f"{finite['low'].min():.2f} to {finite['high'].max():.2f}",
            "the paper's law": f"{group[law].min():.2f} to {group[law].max():.2f}",
            "remark": _place(group),
        })  # fmt: skip
    return pd.DataFrame(rows)


def scores_wide() -> pd.DataFrame:
    """One row a law: its typical factor in each range of compute, with the interval of sources."""
    table = scores.score_table()
    names = [name for name, _, _ in scores.RANGES]
    rows = []
    for title, group in table.groupby("law_title", sort=False):
        by_range = {str(row["range"]): row for row in group.to_dict("records")}
        row: dict[str, object] = {"law": title}
        row |= {name: _factor(by_range[name]) if name in by_range else "–" for name in names}
        of_public = by_range[scores.PUBLIC]
        row["leaning"] = float(of_public["leaning"])
        row["inside its runs"] = f"{of_public['inside']:.0f} of {of_public['points']:.0f}"
        rows.append((float(of_public["factor"]), row))
    return pd.DataFrame([row for _, row in sorted(rows, key=lambda pair: pair[0])])


@figure(
    "public-leverage",
    paper="Beyond the paper: Equation 13 beside public runs of three other groups",
    data=("evidence", "paper/coefficients.toml"),
    caption="Leverages derived from public runs, each bar its range over floors of the loss, and "
    "Equation 13 at the same activation ratio and granularity. A triangle: at least so much. In "
    "the middle panel dense and sparse models see the same tokens, which the law does not mean.",
)
def public_leverage(table: pd.DataFrame) -> Drawing:
    """One panel a source; `table` is that of `points_table`."""
    titles = list(dict.fromkeys(table["title"]))
    fig, axes = plt.subplots(
        1, len(titles), figsize=(theme.WIDTH_INCHES * 1.3, 4.2), sharey=True, squeeze=False
    )
    drawn = []
    for ax, title in zip(axes[0], titles, strict=True):
        drawn.append(_panel(ax, table[table["title"] == title]))
        ax.set_title(title)
    axes[0, 0].set_ylabel(axis_label("efficiency_leverage"))
    shown = pd.concat(drawn, ignore_index=True)
    low, high = PUBLISHED.joint.domain["compute"]
    note(fig, f"Law: runs of {power(low)} to {power(high)} FLOPs, G from 2. Lines: Equation 13.")
    return Drawing(fig, shown, _finding(shown))


@figure(
    "law-scores",
    paper="Beyond the paper: every printed law on the same points",
    data=("evidence", "laws", "fits/leverage.csv"),
    studies=("isoflop", "activation", "granularity"),
    caption="By how many times each law is off, typically, on leverages derived from public runs "
    "(points, with the 90 % interval over sources) and on our own within its gates (crosses, one "
    "source and no interval). One is perfect. Each source weighs the same.",
)
def law_scores(table: pd.DataFrame) -> Drawing:
    """One row a law; `table` is that of `score_table`."""
    public = table[table["range"] == scores.PUBLIC].sort_values("factor").reset_index(drop=True)
    ours = table[table["range"] == scores.RANGES[0][0]].set_index("law")
    fig, ax = plt.subplots(figsize=(theme.WIDTH_INCHES, 0.55 * len(public) + 1.4))
    for i, row in enumerate(public.to_dict("records")):
        ink = law_colour(str(row["law"]))
        ends = [row["factor_low"], min(row["factor_high"], 30.0)]
        ax.plot(ends, [i, i], "-", color=ink, lw=2)
        ax.plot([row["factor"]], [i], "o", color=ink, ms=8)
        if row["law"] in ours.index:
            mine = ours.loc[[row["law"]]].assign(row=i)
            ax.plot(mine["factor"], mine["row"], "x", color=ink, mew=2, ms=8)
            link_runs(ax, mine, "factor", "row")
    names = public["law_title"].str.replace(" et al. ", " et al.\n")
    ax.set_yticks(range(len(public)), names)
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set(xlabel="Off by a factor of", ylabel="Law")
    plain_ticks(ax.xaxis, (1, 1.5, 2, 3, 5, 10))
    best, worst = public.iloc[0], public.iloc[-1]
    note(
        fig,
        f"{int(public['points'].max())} public points of {int(public['sources'].max())} groups.",
    )
    overlap = "overlap" if worst["factor_low"] <= best["factor_high"] else "do not overlap"
    finding = (
        f"On public runs {best['law_title']} is off by {best['factor']:.2f} times, "
        f"{worst['law_title']} by {worst['factor']:.2f}; their intervals over "
        f"{int(best['sources'])} sources {overlap}."
    )
    return Drawing(fig, table, finding)


def _panel(ax: Axes, table: pd.DataFrame) -> pd.DataFrame:
    drawn = []
    for layout, group in table.groupby("layout", sort=False):
        points = group.sort_values("compute")
        ink = theme.activation_colour(float(points["activation_ratio"].iloc[0]))
        label = f"{layout} (A = {percent(float(points['activation_ratio'].iloc[0]))})"
        finite = points[np.isfinite(points["high"])]
        bound = points[~np.isfinite(points["high"])]
        middle = scores.middle(finite)
        bars = np.vstack([middle - finite["low"], finite["high"] - middle])
        ax.errorbar(finite["compute"], middle, yerr=bars, fmt="o", color=ink, ms=4, label=label)
        ax.plot(bound["compute"], bound["low"], "^", color=ink, mfc="none", ms=8)
        law = PUBLISHED.joint(
            activation_ratio=points["activation_ratio"], granularity=points["granularity"],
            compute=points["compute"],
        )  # fmt: skip
        inside = PUBLISHED.joint.domain["granularity"][0] <= points["granularity"].iloc[0]
        ax.plot(points["compute"], law, "-" if inside else ":", color=ink, lw=1.6)
        drawn.append(points.assign(published_leverage=law))
    log_axes(ax, "training_flops", "efficiency_leverage")
    ax.set(ylabel="", ylim=(0.25, 40))
    ax.axhline(1, color=theme.colour("muted"), lw=0.8)
    plain_ticks(ax.yaxis, (0.5, 1, 2, 4, 8, 16))
    ax.legend(loc="upper left", fontsize=8)
    return pd.concat(drawn)


def _finding(shown: pd.DataFrame) -> str:
    inside = shown[shown["granularity"] >= PUBLISHED.joint.domain["granularity"][0]]
    finite = inside[np.isfinite(inside["high"])]
    ratio = (finite["published_leverage"] / scores.middle(finite)).groupby(finite["title"]).mean()
    parts = [f"{value:.1f} times that of {name}" for name, value in ratio.items()]
    return f"At granularities that it knows Equation 13 gives on average {' and '.join(parts)}."


def _place(group: pd.DataFrame) -> str:
    """Whether Equation 13 was fitted to such layouts."""
    low, high = PUBLISHED.joint.domain["granularity"]
    parts = [] if low <= group["granularity"].iloc[0] <= high else ["G outside the law's runs"]
    parts += ["bounds beyond"] if np.isinf(group["high"]).any() else []
    return ", ".join(parts)


def _factor(row: Mapping[Any, Any]) -> str:
    """A factor with its interval, whose upper end is left open where few sources leave it so."""
    if not math.isfinite(row["factor_high"]):
        return f"{row['factor']:.2f}"
    high = f"{row['factor_high']:.2g}" if row["factor_high"] < MANY else "any"
    return f"{row['factor']:.2f} ({row['factor_low']:.2f} to {high})"
