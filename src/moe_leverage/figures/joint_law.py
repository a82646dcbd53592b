"""Figures of chapter 07: the joint law (Equations 12 and 13, Table 2, Figures 1, 8c and 9).

A    activation ratio
G    granularity
C    training compute, FLOPs
EL   efficiency leverage
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from moe_leverage.figures.activation_ratio import RATIO_TICKS
from moe_leverage.figures.granularity import TABLE_8_GRANULARITY
from moe_leverage.page import theme
from moe_leverage.page.drawing import (
    STUDY_RANGE,
    draw_points,
    log_axes,
    note,
    percent,
    plain_ticks,
    points,
    power,
    ranges,
)
from moe_leverage.page.notation import axis_label
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.theory.laws import JointLaw

LANDSCAPE_FLOPS = (1e20, 1e22)  # the two budgets of Figure 1
EXPERTS = (256, 64, 32, 8, 2)  # of Table 7, with E_a = 2 and E_s = 1
EXAMPLE = {"activation_ratio": 0.031, "granularity": 12.0, "compute": 1e22}  # Section 1
HELD_OUT_LEVERAGE = 6.0  # Section 4.2.2: points at or above it were not fitted
BASES = {"10": 10.0, "e": math.e, "2": 2.0}


def in_numbers(law: JointLaw) -> str:
    r"""Equation 13 with the numbers of a law and the logarithms that this book reads it in.

    >>> "{1.23 -0.0761 \\log_{10} C" in in_numbers(JointLaw(1.23, -0.0761, 0.02, -0.1, 0.02, 5e16))
    True
    """
    exponent = (
        rf"{law.a:.3g} {law.d:+.3g} \log_{{10}} C {law.gamma:+.3g} (\log_2 G)^2 "
        rf"{law.beta:+.3g} \log_2 G"
    )
    return (
        "With these numbers, and the logarithms that alone return what the text says of them, "
        rf"$\mathrm{{EL}} = \hat{{A}}^{{{exponent}}}$."
    )


@figure(
    "leverage-landscape",
    paper="Figure 1",
    data=("paper/coefficients.toml",),
    caption="Efficiency leverage over activation ratio and granularity at the two budgets of the "
    "paper's first figure. The star marks the paper's example, A = 3.1 %, G = 12.",
)
def landscape(law: JointLaw) -> Drawing:
    """Contours of EL; our own law says nothing so far above our runs and is drawn at theirs."""
    activation, grain = np.geomspace(*theme.ACTIVATION_RANGE, 81), np.geomspace(2.0, 16.0, 61)
    mesh_a, mesh_g = np.meshgrid(activation, grain)
    levels = [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]
    fig, axes = plt.subplots(1, 2, figsize=(theme.WIDTH_INCHES * 1.3, 4.2), sharey=True)
    tables = []
    for ax, budget in zip(axes, LANDSCAPE_FLOPS, strict=True):
        drawn = law(activation_ratio=mesh_a, granularity=mesh_g, compute=budget)
        inks = theme.sequential_colours(len(levels))[::-1]
        lines = ax.contour(mesh_a, mesh_g, drawn, levels=levels, colors=inks, linewidths=1.6)
        ax.clabel(lines, fmt="%g", fontsize=9)
        star = law(**{**EXAMPLE, "compute": budget})
        place = EXAMPLE["activation_ratio"], EXAMPLE["granularity"]
        ax.plot(*place, "*", ms=12, color=theme.colour("accent"))
        log_axes(ax, "activation_ratio", "granularity")
        plain_ticks(ax.xaxis, RATIO_TICKS)
        plain_ticks(ax.yaxis, TABLE_8_GRANULARITY)
        ax.set_title(f"{power(budget)} FLOPs, EL = {star:.1f} at the star")
        columns = {"activation_ratio": mesh_a, "granularity": mesh_g, "efficiency_leverage": drawn}
        flat = {name: values.ravel() for name, values in columns.items()}
        tables.append(pd.DataFrame(flat).assign(training_flops=budget))
    axes[1].set_ylabel("")
    note(fig, f"Published: fitted to {STUDY_RANGE}, EL < {HELD_OUT_LEVERAGE:g}; right: beyond.")
    low, high = (law(**{**EXAMPLE, "compute": c}) for c in LANDSCAPE_FLOPS)
    finding = (
        f"Leverage grows towards sparse experts of medium size and with compute: at A = 3.1 % and "
        f"G = 12 the law gives {low:.2f} at {power(LANDSCAPE_FLOPS[0])} FLOPs and {high:.2f} at "
        f"{power(LANDSCAPE_FLOPS[1])}."
    )
    return Drawing(fig, pd.concat(tables, ignore_index=True), finding)


@figure(
    "leverage-compute",
    paper="Figure 8c, Equation 12",
    data=("paper/coefficients.toml", "fits/leverage.csv", "fits/joint.json"),
    studies=("isoflop", "activation"),
    caption="Efficiency leverage against training compute at G = 2 for activation ratios of Table "
    "7, solid where the paper trained models, dotted where the law is extrapolated.",
)
def against_compute(
    law: JointLaw, measured: pd.DataFrame | None = None, fitted: JointLaw | None = None
) -> Drawing:
    """EL over C by A: one line crosses EL = 1 for all A, where the exponent of Eq. 13 is 0."""
    runs = points(measured)
    compute = np.geomspace(1e11, 1e24, 131)
    low, high = law.domain["compute"]
    inside = (compute >= low) & (compute <= high)
    fig, ax = plt.subplots(figsize=(theme.WIDTH_INCHES * 1.1, 4.4))
    tables = []
    for experts in EXPERTS[:-1]:
        ratio = 3 / (experts + 1)
        drawn = law(activation_ratio=ratio, granularity=2.0, compute=compute)
        ink = theme.activation_colour(ratio)
        ax.plot(compute, drawn, ":", color=ink, lw=1.2)
        ax.plot(compute[inside], drawn[inside], color=ink, label=f"A = {percent(ratio)}")
        if fitted is not None:
            ours = fitted(activation_ratio=ratio, granularity=2.0, compute=compute[compute < 1e15])
            ax.plot(compute[compute < 1e15], ours, "--", color=ink, lw=1.2)
        columns = {"training_flops": compute, "efficiency_leverage": drawn}
        tables.append(pd.DataFrame(columns).assign(activation_ratio=ratio, series="published"))
        group = runs[np.isclose(runs["activation_ratio"].astype(float), ratio)]
        if len(group):
            draw_points(ax, group, "training_flops", "efficiency_leverage", colour=ink, label="")
    crossing = float(law.break_even_compute(EXAMPLE["activation_ratio"], 2.0))
    ax.axhline(1.0, color=theme.colour("muted"), lw=1.0, ls="--")
    ax.axvline(crossing, color=theme.colour("muted"), lw=1.0, ls="--")
    log_axes(ax, "training_flops", "efficiency_leverage")
    plain_ticks(ax.yaxis, (0.5, 1, 2, 4, 8))
    ax.legend()
    note(fig, ranges(STUDY_RANGE, runs))
    finding = (
        f"Leverage grows with compute at every A, the faster the sparser; extrapolated down, all "
        f"lines cross EL = 1 at the same {power(crossing)} FLOPs, below which the law has "
        f"mixture-of-experts models lose."
    )
    return Drawing(fig, pd.concat([*tables, runs], ignore_index=True), finding)


@figure(
    "logarithm-bases",
    paper="Equation 13 and Table 2, bases not printed",
    data=("paper/coefficients.toml",),
    caption="What Table 2 gives for the paper's example (A = 3.1 %, G = 12, C = 1e22) under each "
    "pair of logarithm bases; the paper states that it exceeds 7.",
)
def bases(table: pd.DataFrame, chosen: tuple[str, str]) -> Drawing:
    """EL at the example by base of C (groups) and base of G (markers), from `bases_table`."""
    fig, ax = plt.subplots()
    sns.pointplot(
        table, x="base_of_compute", y="efficiency_leverage", hue="base_of_granularity", dodge=0.24,
        palette=[theme.colour("published")] * len(BASES), markers=["s", "D", "o"], linestyle="none",
        ms=8, mfc="none", mew=1.6, formatter="base {}".format, ax=ax,
    )  # fmt: skip
    ax.axhline(7.0, color=theme.colour("accent"), ls="--", label="stated: above 7")
    ax.set_xlabel("Logarithm of training compute $C$")
    ax.set_yscale("log")
    ax.set_ylabel(axis_label("efficiency_leverage"))
    ax.legend(title="Base for $G$")
    note(fig, "Published coefficients; the bases are read off their consequences.")
    pair = (table["base_of_compute"] == chosen[0]) & (table["base_of_granularity"] == chosen[1])
    (here,) = table[pair].itertuples()
    finding = (
        f"With log10 of C and log2 of G the example has EL = {here.efficiency_leverage:.2f} and "
        f"the best granularity is {here.optimum_granularity:.1f}; the other pairs give from "
        f"{table[~pair]['efficiency_leverage'].min():.2g} to "
        f"{table[~pair]['efficiency_leverage'].max():.2g}."
    )
    return Drawing(fig, table, finding)


def bases_table(law: JointLaw) -> pd.DataFrame:
    """The example's EL and the best granularity under nine pairs of logarithm bases."""
    return pd.DataFrame(
        [
            {
                "base_of_compute": of_c,
                "base_of_granularity": of_g,
                "efficiency_leverage": other(**EXAMPLE),
                "optimum_granularity": other.optimum_granularity,
            }
            for of_c, base_c in BASES.items()
            for of_g, base_g in BASES.items()
            for other in [law.with_bases(compute=base_c, granularity=base_g)]
        ]
    )


def written(law: JointLaw) -> str:
    """Equation 13 with the numbers and bases of a law, as mathematics.

    >>> from moe_leverage.theory.laws import PUBLISHED
    >>> "-0.0761" in written(PUBLISHED.joint), r"\\log_{10} C" in written(PUBLISHED.joint)
    (True, True)
    """
    compute, grain = r"\log_{10} C", r"\log_2 G"
    exponent = f"{law.a:.3g} {law.d:+.3g} \\, {compute} {law.gamma:+.3g} \\, ({grain})^2 "
    exponent += f"{law.beta:+.3g} \\, {grain}"
    return f"$$\n\\mathrm{{EL}} = \\hat A^{{\\; {exponent}}} .\n$$"


@figure(
    "fit-points",
    paper="Figure 9",
    data=("paper/coefficients.toml", "paper/table_07.csv", "paper/table_08.csv"),
    caption="What the law gives at every configuration of Tables 7 and 8, each at its largest "
    "budget and at the example's 1e22 FLOPs. Points at or above the dashed line were held out of "
    "the paper's fit. The paper prints no measured value, so its own residuals cannot be drawn.",
)
def fit_points(configurations: pd.DataFrame, law: JointLaw) -> Drawing:
    """EL by the law at the largest printed budget, and beyond, over the activation ratio."""
    table = configurations.copy()
    axes = {name: table[name].to_numpy(float) for name in ("activation_ratio", "granularity")}
    table["efficiency_leverage"] = law(**axes, compute=table["training_flops"].to_numpy(float))
    table["leverage_at_example_budget"] = law(**axes, compute=EXAMPLE["compute"])
    fig, ax = plt.subplots()
    ink = theme.colour("published")
    for (number, group), marker in zip(table.groupby("table"), ("o", "D"), strict=True):
        label = f"Table {number}, largest budget"
        x = group["activation_ratio"]
        ax.plot(x, group["efficiency_leverage"], marker, color=ink, mfc="none", label=label)
        y = group["leverage_at_example_budget"]
        label = f"Table {number}, at {power(EXAMPLE['compute'])}"
        ax.plot(x, y, marker, color=theme.colour("accent"), mfc="none", label=label)
    ax.axhline(HELD_OUT_LEVERAGE, color=theme.colour("muted"), ls="--", lw=1.0)
    log_axes(ax, "activation_ratio", "efficiency_leverage")
    plain_ticks(ax.xaxis, RATIO_TICKS)
    plain_ticks(ax.yaxis, (1, 2, 4, HELD_OUT_LEVERAGE, 8))
    ax.legend()
    largest = power(table["training_flops"].max())
    note(fig, f"Published: configurations of Tables 7 and 8, up to {largest} FLOPs.")
    held_out = int((table["efficiency_leverage"] >= HELD_OUT_LEVERAGE).sum())
    finding = (
        f"At their largest printed budgets {held_out} of the {len(table)} configurations of Tables "
        f"7 and 8 reach EL = {HELD_OUT_LEVERAGE:g} by the law; the largest value is "
        f"{table['efficiency_leverage'].max():.2f}."
    )
    return Drawing(fig, table, finding)
