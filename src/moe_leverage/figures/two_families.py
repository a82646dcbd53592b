"""Figures of the two families at their best sizes: what a mixture saves, read from its losses.

Definition 3.1 compares models that are each the best of their compute. The studies of allocation
give that for the baseline mixture and for dense models, at every budget from the smallest on.

A    activation ratio
C    training compute, FLOPs
EL   efficiency leverage (Equation 1); the published law is Equation 13 with Table 2
G    granularity
L    loss, nats per token on held-out documents
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from moe_leverage.figures.joint_law import EXAMPLE
from moe_leverage.page import theme
from moe_leverage.page.drawing import (
    FAMILIES,
    POINT_COLUMNS,
    draw_points,
    log_axes,
    note,
    percent,
    plain_ticks,
    points,
    power,
    ranges,
)
from moe_leverage.page.links import link_runs
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.theory.laws import JointLaw

FRONTIER = "frontier"  # of the estimators of EL, the one that bends no curve
REACH_FLOPS = (5e10, 1e23)
SHOWN_EL = (0.45, 9.0)
EL_TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7)
BOUND = "at_least"
ENDS = ("leverage_low", "leverage_high")
LOSS_TICKS = (2, 2.5, 3, 3.5, 4)
POINT = (*POINT_COLUMNS, "estimator", BOUND)


@figure(
    "leverage-over-compute",
    paper="Equation 13 and its example (Section 1)",
    data=("paper/coefficients.toml", "fits/leverage.csv", "fits/index.json"),
    studies=("isoflop",),
    caption="How many times more compute a dense model needs to reach the loss of a mixture, over "
    "the compute of the mixture. Lines: the published law for the design of our baseline and for "
    "the paper's example, solid where the paper trained models, dotted beyond. Circles: our "
    "baseline, both families at their best size, with 90 % intervals; an arrow is a lower bound, "
    "and a bar that leaves the picture has no end inside the dense models measured.",
)
def leverage_over_compute(
    law: JointLaw, measured: pd.DataFrame | None = None, failing: Sequence[str] = ()
) -> Drawing:
    """EL over C of one design: the published law and our points, which `failing` gates silence."""
    runs = points(measured, POINT)
    runs = runs[runs["estimator"] == FRONTIER].sort_values("training_flops")
    compute = np.union1d(np.geomspace(*REACH_FLOPS, 123), law.domain["compute"])
    low, high = law.domain["compute"]
    fig, ax = plt.subplots(figsize=(theme.WIDTH_INCHES * 1.1, 4.2))
    designs = {"the paper's example": (EXAMPLE, "accent")}
    if len(runs):
        own = {name: float(runs[name].iloc[0]) for name in ("activation_ratio", "granularity")}
        designs["the design of our baseline"] = (own, "published")
    tables = []
    for name, (axes, role) in designs.items():
        design = {key: axes[key] for key in ("activation_ratio", "granularity")}
        drawn = law(**design, compute=compute)
        said = f"A = {percent(design['activation_ratio'])}, G = {design['granularity']:g}"
        inside = (compute >= low) & (compute <= high)
        ax.plot(compute, drawn, ":", color=theme.colour(role), lw=1.4)
        label = f"published law, {name}: {said}"
        ax.plot(compute[inside], drawn[inside], color=theme.colour(role), label=label)
        columns = {"training_flops": compute, "efficiency_leverage": drawn}
        tables.append(pd.DataFrame(columns | design).assign(series="published"))
    star = float(law(**EXAMPLE))
    ax.plot(EXAMPLE["compute"], star, "*", ms=13, color=theme.colour("accent"))
    ax.annotate(f"{star:.1f}", (EXAMPLE["compute"], star), xytext=(-6, 6), ha="right",
                textcoords="offset points", color=theme.colour("accent"))  # fmt: skip
    ax.axhline(1.0, color=theme.colour("muted"), lw=1)
    ax.text(REACH_FLOPS[1], 0.97, "below this line dense wins ", ha="right", va="top", fontsize=9,
            color=theme.colour("muted"))  # fmt: skip
    _draw_leverages(ax, runs)
    log_axes(ax, "training_flops", "efficiency_leverage")
    ax.set(xlim=REACH_FLOPS, ylim=SHOWN_EL)
    plain_ticks(ax.yaxis, EL_TICKS)
    ax.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=1, fontsize=9)
    note(fig, ranges(f"{power(low)} to {power(high)} FLOPs", runs))
    rows = pd.concat([*tables, runs.assign(series="measured")], ignore_index=True)
    example = f"For the paper's example the law gives {star:.1f} at {power(EXAMPLE['compute'])}."
    finding = f"{in_words(runs, law, failing)} {example}"
    return Drawing(fig, rows, finding)


@figure(
    "two-frontiers",
    paper="Definition 3.1 and Equation 5",
    data=("fits/leverage.csv", "fits/index.json"),
    studies=("isoflop",),
    caption="Lowest held-out loss of each budget, dense and mixture, with the 90 % interval of the "
    "noise between seeds. An arrow leads from a mixture to the dense compute of equal loss: its "
    "length is the leverage.",
)
def two_frontiers(
    best: pd.DataFrame, measured: pd.DataFrame, failing: Sequence[str] = ()
) -> Drawing:
    """L over C of both families at their best size; `best` is `page.measured.best_sizes`.

    The arrows, which are a leverage, are left out while gates of the runs are `failing`.
    """
    fig, ax = plt.subplots(figsize=(theme.WIDTH_INCHES, 4.2))
    for family, line in (("dense", "--"), ("moe", "-")):
        mine = best[best["family"] == family].sort_values("training_flops")
        ink = theme.colour(family)
        ax.plot(mine["training_flops"], mine["loss_nats"], line, color=ink, lw=1.2)
        draw_points(ax, mine, "training_flops", "loss_nats", colour=ink, label=FAMILIES[family])
    told = measured[measured["estimator"] == FRONTIER].dropna(subset=["efficiency_leverage"])
    drawn = told.iloc[:0] if failing else told
    for row in drawn.to_dict("records"):
        start, end = row["training_flops"], row["training_flops"] * row["efficiency_leverage"]
        ax.annotate("", (end, row["loss"]), (start, row["loss"]),
                    arrowprops={"arrowstyle": "->", "color": theme.colour("accent"),
                                "shrinkA": 5, "shrinkB": 0})  # fmt: skip
        ax.annotate(f"EL {row['efficiency_leverage']:.1f} ", (start, row["loss"]), ha="right",
                    xytext=(-5, -4), va="top", textcoords="offset points", fontsize=9,
                    color=theme.colour("accent"))  # fmt: skip
    log_axes(ax, "training_flops", "loss_nats")
    ax.set_xlim(best["training_flops"].min() / 3, best["training_flops"].max() * 1.5)
    plain_ticks(ax.yaxis, LOSS_TICKS)
    ax.legend()
    note(fig, "Ours alone: the paper prints none of these losses.")
    rows = pd.concat([best.assign(series="loss"), drawn.assign(series="leverage")])
    return Drawing(fig, rows.reset_index(drop=True), in_words(told, None, failing))


def in_words(runs: pd.DataFrame, law: JointLaw | None, failing: Sequence[str] = ()) -> str:
    """What the leverage of the baseline says, a sentence for each outcome.

    `runs` are its points (`page.measured.baseline_leverage`), of which those by the frontier are
    told. EL grows where the interval at the largest budget with
    a number lies above that at the smallest with one; the published law is asked at the same place.
    """
    known = runs[runs["estimator"] == FRONTIER] if len(runs) else runs
    known = known.dropna(subset=["efficiency_leverage", *ENDS])
    known = known[known["leverage_low"] > 0]  # at 0 it is open: below the first dense budget
    if known.empty:
        return "No leverage of our own baseline is measured yet."
    if failing:
        return (
            "What our own baseline saves is not decided, since of what must hold for it this does "
            f"not: {', '.join(failing)}."
        )
    first, last = known.iloc[0], known.iloc[-1]
    asked = {name: float(last[name]) for name in ("activation_ratio", "granularity")}
    design = f"A = {percent(asked['activation_ratio'])}, G = {asked['granularity']:g}"
    if last["leverage_low"] > first["leverage_high"]:
        trend = "leverage grows with compute in small models too"
    elif last["leverage_high"] < first["leverage_low"]:
        trend = "leverage falls with compute in models this small"
    else:
        trend = "this leaves open whether leverage changes with compute here"
    text = (
        f"To reach the loss of our baseline mixture ({design}), dense models need {_times(first)} "
        f"times its compute at {power(first['training_flops'])} FLOPs and {_times(last)} times at "
        f"{power(last['training_flops'])}: {trend}."
    )
    if law is None:
        return text
    printed = float(law(**asked, compute=float(last["training_flops"])))
    even = float(law.break_even_compute(asked["activation_ratio"], asked["granularity"]))
    side = "below" if printed < last["leverage_low"] else "above"
    if last["leverage_low"] <= printed <= last["leverage_high"]:
        side = "inside"
    return (
        f"{text} The published law, followed down to {power(last['training_flops'])}, gives "
        f"{printed:.2f}, {side} what was measured, and has mixtures win from {power(even)} on."
    )


def _draw_leverages(ax: Axes, runs: pd.DataFrame) -> None:
    """Our points with intervals, lower bounds as arrows, each leading to its run."""
    ink = theme.colour("measured")
    known = runs.dropna(subset=["efficiency_leverage"])
    if len(known):
        # an end beyond the dense frontier is open: the bar leaves the picture there
        ends = {name: known[name].clip(0.5 * SHOWN_EL[0], 2 * SHOWN_EL[1]) for name in ENDS}
        shown = known.assign(**ends)
        draw_points(
            ax, shown, "training_flops", "efficiency_leverage", label="our baseline, measured"
        )
    bounds = runs[runs["efficiency_leverage"].isna() & runs[BOUND].notna()]
    if len(bounds):
        place = bounds["training_flops"], bounds[BOUND]
        ax.errorbar(*place, yerr=0.35 * bounds[BOUND], lolims=True, fmt="none", color=ink)
        link_runs(ax, bounds, "training_flops", BOUND)


def _times(row: pd.Series) -> str:
    value, low, high = (row[name] for name in ("efficiency_leverage", *ENDS))
    between = f"{low:.1f} to {high:.1f}" if np.isfinite(high) else f"at least {low:.1f}"
    return f"{value:.1f} ({between})"
