"""Figures of chapter 03: how a budget is split between model and data (Equation 4, Table 1).

C    training compute, FLOPs
M    non-embedding FLOPs of one token
D    training tokens
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.reductions import MIN_SIZES, near_the_lowest
from moe_leverage.figures.hyperparameter_laws import SEARCH, SEARCH_FLOPS
from moe_leverage.page import theme
from moe_leverage.page.drawing import (
    FAMILIES,
    draw_band,
    draw_over,
    draw_points,
    draw_used,
    linked_means,
    log_axes,
    note,
    own_exponent,
    plain_ticks,
    points,
    power,
    ranges,
    reach_of,
)
from moe_leverage.page.links import link_runs
from moe_leverage.page.notation import axis_label
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.theory.laws import PowerLaw

MINIMUM_COLUMNS = ("training_flops", "flops_per_token", "num_tokens", "family")
RATIO_COLUMNS = ("training_flops", "model_ratio", "model_ratio_low", "model_ratio_high")
AXES = ("flops_per_token", "num_tokens")
SCALE_TICKS = (3e4, 1e5, 3e5, 1e6)
FIT_NAMES = {"flops_per_token": "model", "num_tokens": "tokens"}
REACH_FLOPS = (1e11, 1e24)
RATIO_TICKS = (0.1, 0.2, 0.3, 0.5, 1, 2)  # of what stands over a printed law


@figure(
    "allocation-laws",
    paper="Figure 4 and Table 1",
    data=("paper/table_01.csv", "paper/coefficients.toml", "fits/adopted/isoflop.json"),
    studies=("isoflop",),
    caption="The best model scale and the best number of tokens against training compute, for "
    "dense and mixture-of-experts models, solid where the laws were fitted; our own with their "
    "90 % intervals, and dash-dotted as later runs used them. Below: the same as multiples of the "
    "printed law for dense models.",
)
def allocation(
    laws: Mapping[tuple[str, str], PowerLaw],
    measured: pd.DataFrame | None = None,
    fits: Mapping[str, Fit] | None = None,
    used: Mapping[str, Callable[[float], float]] | None = None,
) -> Drawing:
    """M_opt and D_opt of both families; `laws` maps (family, column) to a power law.

    `fits` are our own laws by name, `moe_model` and so on, drawn with their 90 % interval, and
    `used` those adopted, by which later runs were planned.
    """
    runs = points(measured, MINIMUM_COLUMNS)
    compute = np.geomspace(*REACH_FLOPS, 105)
    inside = (compute >= SEARCH_FLOPS[0]) & (compute <= SEARCH_FLOPS[1])
    table = pd.DataFrame({"training_flops": compute})
    size = (theme.WIDTH_INCHES * 1.25, 6.0)
    fig, (axes, below) = plt.subplots(2, 2, figsize=size, height_ratios=(3, 2))
    bands: list[pd.DataFrame] = []
    for (family, column), law in laws.items():
        ax = axes[AXES.index(column)]
        table[f"{family}_{column}"] = law(compute)
        ink, line = theme.colour(family), "-" if family == "moe" else "--"
        ax.plot(compute, law(compute), ":", color=ink, lw=1.2)
        ax.plot(
            compute[inside],
            law(compute[inside]),
            line,
            color=ink,
            label=f"Table 1, {FAMILIES[family]}",
        )
        group = runs[runs["family"] == family]
        if len(group):
            label = f"measured, {FAMILIES[family]}"
            draw_points(ax, group, "training_flops", column, colour=ink, label=label)
        name = f"{family}_{FIT_NAMES[column]}"
        if fits and name in fits:
            bands.append(draw_band(ax, fits[name], reach_of(runs), family=family))
        if used and name in used:
            bands.append(draw_used(ax, used[name], column, reach_of(runs), family=family))
        log_axes(ax, "training_flops", column)
    for ax, column, ratio_ax in zip(axes, AXES, below, strict=True):
        draw_over(ratio_ax, ax, laws["dense", column], column, "Table 1, dense")
        plain_ticks(ratio_ax.yaxis, RATIO_TICKS)
    axes[0].legend(fontsize=8)
    note(fig, ranges(SEARCH, runs))
    dense, moe = laws[("dense", AXES[0])], laws[("moe", AXES[0])]
    smaller = 1 - float(moe(1e20)) / float(dense(1e20))
    finding = (
        f"Both exponents of M lie near one half ({dense.exponent:.3f} dense, {moe.exponent:.3f} "
        f"MoE); at 1e20 FLOPs the best MoE model is {smaller:.0%} smaller per token than the best "
        f"dense one and sees more tokens.{_own_exponents(laws, fits or {})}"
    )
    return Drawing(fig, pd.concat([table, runs, *bands], ignore_index=True), finding)


@figure(
    "allocation-ratio",
    paper="Section 2.3, second insight",
    data=("paper/coefficients.toml",),
    studies=("isoflop",),
    caption="The best MoE model scale over the best dense one at the same compute, from Table 1. "
    "Below the dashed line the MoE model is the smaller one. The band marks the compute at which "
    "the laws were fitted. Bars: 90 % intervals of our own optima.",
)
def ratio(
    dense: PowerLaw, moe: PowerLaw, crossing_flops: float, measured: pd.DataFrame | None = None
) -> Drawing:
    """M_opt of MoE over M_opt of dense; `measured` needs training_flops and model_ratio."""
    runs = points(measured, RATIO_COLUMNS)
    compute = np.geomspace(*REACH_FLOPS, 105)
    table = pd.DataFrame({"training_flops": compute, "model_ratio": moe(compute) / dense(compute)})
    fig, ax = plt.subplots()
    ax.axvspan(*SEARCH_FLOPS, color=theme.colour("grid"), alpha=0.5, lw=0, label="fitted here")
    ink = theme.colour("published")
    ax.plot(compute, table["model_ratio"], color=ink, label="Table 1")
    ax.axhline(1.0, color=theme.colour("muted"), ls="--", lw=1.0)
    if len(runs):
        draw_points(ax, runs, "training_flops", "model_ratio")
    log_axes(ax, "training_flops")
    ax.set_ylabel("Best $M$, MoE over dense")
    ax.legend()
    note(fig, ranges(SEARCH, runs))
    where = "inside" if SEARCH_FLOPS[0] <= crossing_flops <= SEARCH_FLOPS[1] else "below"
    finding = (
        f"By Table 1 the best MoE model is smaller than the best dense one only above "
        f"{power(crossing_flops)} FLOPs, which lies {where} the range of the fit; at our budgets "
        f"the same laws, extrapolated, say the opposite.{_our_ratios(runs)}"
    )
    return Drawing(fig, pd.concat([table, runs], ignore_index=True), finding)


@figure(
    "loss-allocation",
    paper="Figure 4, the isoFLOP curves",
    studies=("isoflop",),
    caption="Held-out loss against model scale at fixed compute, dense and MoE, with the 90 % "
    "interval of the noise between seeds. Dashed: the parabola of ln L in ln M at each budget. "
    "Stars: its lowest point, where it lies inside the sizes tried.",
)
def isoflops(
    runs: pd.DataFrame, minima: pd.DataFrame, repeated: pd.DataFrame | None = None
) -> Drawing:
    """Loss over M at each budget; `runs` are those of `isoflop`, `minima` their parabolas'."""
    means = linked_means(runs, ["family", "flops_per_token"], repeated)
    budgets = sorted(means["budget_flops"].unique())
    inks = theme.sequential_colours(len(budgets))
    fig, axes = plt.subplots(1, 2, sharey=True, figsize=(theme.WIDTH_INCHES * 1.25, 4.4))
    for ax, name in zip(axes, ("dense", "moe"), strict=True):
        for ink, budget in zip(inks, budgets, strict=True):
            ours = means[(means["family"] == name) & (means["budget_flops"] == budget)]
            if ours.empty:
                continue
            label = f"{power(budget)} FLOPs"
            draw_points(ax, ours, "flops_per_token", "loss_nats", colour=ink, label=label)
            if len(ours) >= MIN_SIZES:
                _draw_parabola(ax, ours, ink)
        stars = minima[minima["family"] == name] if len(minima) else pd.DataFrame()
        if len(stars):
            ink = theme.colour("accent")
            ax.plot(stars["flops_per_token"], stars["loss"], "*", ms=11, color=ink, label="lowest")
            link_runs(ax, stars, "flops_per_token", "loss")
        log_axes(ax, "flops_per_token")
        plain_ticks(ax.xaxis, SCALE_TICKS, ".0e")
        ax.set_title(FAMILIES[name])
    axes[0].set_ylabel(axis_label("loss_nats"))
    axes[1].legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    note(fig, "Ours alone: the paper prints none of these losses.")
    asked = means.groupby(["family", "budget_flops"]).ngroups
    finding = (
        f"{len(minima)} of {asked} isoFLOP curves have their lowest point inside the sizes tried."
    )
    return Drawing(fig, means, finding + _from_end_to_end(minima))


def _from_end_to_end(minima: pd.DataFrame) -> str:
    """How far the best M goes from the smallest budget to the largest, for each family."""
    said = []
    for name, words in FAMILIES.items():
        mine = minima[minima["family"] == name] if len(minima) else minima
        if len(mine) < 2:
            continue
        ends = mine.sort_values("training_flops").iloc[[0, -1]]
        scales, budgets = (map(power, ends[c]) for c in ("flops_per_token", "training_flops"))
        said.append(f"from {' to '.join(scales)} ({words}, {' to '.join(budgets)} FLOPs)")
    return f" The best M goes {' and '.join(said)}." if said else ""


def _draw_parabola(ax: Axes, runs: pd.DataFrame, ink: str) -> None:
    """The parabola whose lowest point is the optimum, over the runs that it is made from."""
    runs = near_the_lowest(runs.assign(loss=runs["loss_nats"]))
    scale = np.log(runs["flops_per_token"].to_numpy(float))
    curve = np.polynomial.Polynomial.fit(scale, np.log(runs["loss_nats"].to_numpy(float)), 2)
    drawn = np.linspace(scale.min(), scale.max(), 61)
    ax.plot(np.exp(drawn), np.exp(curve(drawn)), "--", color=ink, lw=1.2)


def _our_ratios(runs: pd.DataFrame) -> str:
    """At how many of our budgets the best mixture is the smaller model, and at how many surely."""
    if runs.empty:
        return ""
    smaller, sure = ((runs[end] < 1).sum() for end in ("model_ratio", "model_ratio_high"))
    larger = int((runs["model_ratio_low"] > 1).sum())
    return (
        f" In our own runs it is the smaller one at {int(smaller)} of {len(runs)} budgets; with "
        f"the whole 90 % interval it is smaller at {int(sure)} and larger at {larger}."
    )


def _own_exponents(laws: Mapping[tuple[str, str], PowerLaw], fits: Mapping[str, Fit]) -> str:
    """Our exponents of M with their intervals, and whether they hold the printed ones."""
    sentences = [
        own_exponent(FAMILIES[family], fits[f"{family}_model"], laws[family, AXES[0]])
        for family in FAMILIES
        if f"{family}_model" in fits
    ]
    return f" Our own exponent of M is {'; '.join(sentences)}." if sentences else ""
