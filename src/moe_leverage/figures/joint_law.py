"""Figures of chapter 07: the joint law (Equations 12 and 13, Table 2, Figures 1, 8c and 9).

A    activation ratio
G    granularity
C    training compute, FLOPs
EL   efficiency leverage
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from moe_leverage.analysis.fitted import Fit
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
from moe_leverage.page.links import link_runs
from moe_leverage.page.notation import axis_label
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.theory.laws import JointLaw

LANDSCAPE_FLOPS = (1e20, 1e22)  # the two budgets of Figure 1
EXPERTS = (256, 64, 32, 8, 2)  # of Table 7, with E_a = 2 and E_s = 1
EXAMPLE = {"activation_ratio": 0.031, "granularity": 12.0, "compute": 1e22}  # Section 1
HELD_OUT_LEVERAGE = 6.0  # Section 4.2.2: points at or above it were not fitted
LEVERAGE_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5)
ESTIMATORS = (  # name, colour and marker, in the order of a row
    ("frontier", "measured", "o"),
    ("joint", "accent", "s"),
    ("power curves", "published", "^"),
    ("floored curves", "muted", "D"),
)
BASES = {"10": 10.0, "e": math.e, "2": 2.0}


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
    studies=("activation",),
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


@figure(
    "law-against-points",
    paper="Figure 9",
    data=("paper/coefficients.toml", "fits/leverage.csv", "fits/joint.json"),
    studies=("activation", "granularity", "joint"),
    caption="Measured leverage of our models against the value that Equation 13, fitted to our own "
    "points, gives for them; on the diagonal both are equal. The largest sixth and the joint study "
    "were kept from the fit. Bars: 90 % intervals of the noise between seeds.",
)
def against_points(table: pd.DataFrame) -> Drawing:
    """Measured over predicted EL; `table` comes from `measured.predicted_points`."""
    fig, ax = plt.subplots(figsize=(theme.WIDTH_INCHES, 4.8))
    roles = {"fitted": "muted", "largest sixth": "measured", "joint study": "accent"}
    sentences = []
    for part, role in roles.items():
        group = table[table["part"] == part]
        if group.empty:
            continue
        ink = theme.colour(role)
        draw_points(ax, group, "predicted_leverage", "efficiency_leverage", colour=ink, label=part)
        error = np.log(group["efficiency_leverage"] / group["predicted_leverage"])
        root = float(np.sqrt((error**2).mean()))
        named = "fitted points" if part == "fitted" else f"points of the {part}"
        sentences.append(f"{math.expm1(root):.0%} on {len(group)} {named}")
    ends = [float(table[name].min()) for name in ("predicted_leverage", "efficiency_leverage")]
    tops = [float(table[name].max()) for name in ("predicted_leverage", "efficiency_leverage")]
    ax.plot([min(ends), max(tops)], [min(ends), max(tops)], "--", color=theme.colour("muted"), lw=1)
    log_axes(ax, "efficiency_leverage", "efficiency_leverage")
    for axis, low, high in zip((ax.xaxis, ax.yaxis), ends, tops, strict=True):
        plain_ticks(axis, [tick for tick in LEVERAGE_TICKS if low / 1.3 <= tick <= high * 1.3])
    ax.set_xlabel("EL by our own fit of Equation 13")
    ax.legend()
    note(fig, ranges("no point is printed", table))
    inside = table["predicted_leverage"].between(table["leverage_low"], table["leverage_high"])
    apart = table["part"] != "fitted"
    finding = (
        f"The root mean square error of the law is {', '.join(sentences)}; the prediction lies in "
        f"the interval of {int((inside & apart).sum())} of {int(apart.sum())} held-out points."
    )
    return Drawing(fig, table, finding)


def by_budget(budgets: pd.DataFrame, failing: Sequence[str] = ()) -> str:
    """Whether measured leverage grows from our smallest budget to our largest, in words.

    Nothing follows while gates of the runs are `failing`.

    >>> found = pd.DataFrame({"lowest": [0.9, 1.2], "highest": [1.0, 1.5]})
    >>> by_budget(found).split(". ")[1]
    'So leverage grows with compute, as the law says.'
    >>> by_budget(found, ["tuned"]).split(". ")[1]
    'Nothing follows from that, since gates of these runs fail: tuned.'
    """
    first, last = budgets.iloc[0], budgets.iloc[-1]
    reach = [f"{row['lowest']:.2f} to {row['highest']:.2f}" for row in (first, last)]
    text = (
        f"At our smallest budget the designs have leverages from {reach[0]}, "
        f"at our largest from {reach[1]}."
    )
    if failing:
        fail = ", ".join(failing)
        return f"{text} Nothing follows from that, since gates of these runs fail: {fail}."
    if last["lowest"] > first["highest"]:
        return f"{text} So leverage grows with compute, as the law says."
    return f"{text} The two overlap, so that no growth with compute can be read off them."


def left_open(profiles: pd.DataFrame) -> str:
    """How many coefficients of Equation 13 our runs leave open, and what then stands, in words.

    >>> found = pd.DataFrame({"fit": "joint", "coefficient": ["a", "d"],
    ...     "verdict": ["not identified", "identified"]})
    >>> left_open(found).split(": ")[0]
    'Our runs leave open 1 of its 2 coefficients (a)'
    >>> left_open(found.assign(verdict="identified"))
    'Our runs tell all 2 of its coefficients.'
    """
    kept = profiles[profiles["fit"] == "joint"]
    loose = kept.loc[kept["verdict"] != "identified", "coefficient"]
    if loose.empty:
        return f"Our runs tell all {len(kept)} of its coefficients."
    return (
        f"Our runs leave open {len(loose)} of its {len(kept)} coefficients ({', '.join(loose)}): "
        "sets of them far apart fit alike. So a single coefficient of our fit says little; what it "
        "says is its value inside the range of the runs, with its interval."
    )


def coefficients_table(fitted: Fit, published: JointLaw, profiles: pd.DataFrame) -> pd.DataFrame:
    """Each coefficient of Equation 13: as printed, as our runs give it, and what they leave open.

    `profiles` has the 90 % range of the profile likelihood of each, open where nothing ends it.
    """
    kept = profiles[profiles["fit"] == "joint"].reset_index(drop=True)
    left = [_left_open(low, high) for low, high in zip(kept["low"], kept["high"], strict=True)]
    return pd.DataFrame(
        {
            "coefficient": kept["coefficient"],
            "published": published.coefficients,
            "ours": fitted.law.coefficients,
            "left open by our runs": left,
        }
    )


def _left_open(low: float, high: float) -> str:
    """A range of the profile likelihood in words.

    >>> _left_open(-198.2, -152.4), _left_open(0.9364, math.inf), _left_open(-math.inf, math.inf)
    ('-198 to -152', 'all above 0.936', 'any value')
    """
    ends = (math.isfinite(low), math.isfinite(high))
    words = {
        (True, True): f"{low:.3g} to {high:.3g}",
        (True, False): f"all above {low:.3g}",
        (False, True): f"all below {high:.4g}",
        (False, False): "any value",
    }
    return words[ends]


@figure(
    "estimators",
    paper="Section 4.2, estimated in four ways",
    data=("fits/leverage.csv",),
    studies=("activation", "granularity"),
    caption="Leverage of our models by each way of reading it off the losses, with 90 % intervals: "
    "the designs that were trained at enough budgets for a curve, one panel a budget.",
)
def estimators(table: pd.DataFrame) -> Drawing:
    """EL of a design at a budget by every estimator; `table` comes from `measured.estimates`."""
    keys = ["activation_ratio", "granularity"]
    designs = table[keys].drop_duplicates().sort_values(keys).reset_index(drop=True)
    placed = table.merge(designs.reset_index(names="row"), on=keys)
    budgets = sorted(placed["budget_flops"].unique())
    size = (theme.WIDTH_INCHES * 1.3, 1.4 + 0.42 * len(designs))
    fig, axes = plt.subplots(1, len(budgets), figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax, budget in zip(axes[0], budgets, strict=True):
        for number, (name, role, marker) in enumerate(ESTIMATORS):
            rows = placed[(placed["estimator"] == name) & (placed["budget_flops"] == budget)]
            rows = rows.assign(height=rows["row"] + 0.2 * (number - 1.5))
            value = rows["efficiency_leverage"]
            bars = np.abs([value - rows["leverage_low"], rows["leverage_high"] - value])
            ax.errorbar(
                value, rows["height"], xerr=bars, fmt=marker, ms=4, color=theme.colour(role),
                elinewidth=1, label=name,
            )  # fmt: skip
            link_runs(ax, rows, "efficiency_leverage", "height")
        ax.axvline(1.0, ls="--", lw=1, color=theme.colour("muted"))
        ax.set_title(f"{power(budget)} FLOPs")
        log_axes(ax, "efficiency_leverage")
        ax.set_xlabel("EL")
    labels = [f"{percent(a)}, {g:.2g}" for a, g in designs.itertuples(index=False)]
    axes[0][0].set_yticks(range(len(designs)), labels)
    axes[0][0].set_ylabel("Activation ratio $A$, granularity $G$")
    axes[0][0].set_ylim(len(designs) - 0.4, -0.6)
    low, high = placed["leverage_low"].min(), placed["leverage_high"].max()
    plain_ticks(axes[0][0].xaxis, [t for t in (0.25, 0.5, 1, 2, 4, 8) if low <= t <= high])
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    apart = ~placed.drop_duplicates([*keys, "budget_flops"])["agree"].astype(bool)
    finding = (
        f"At {int(apart.sum())} of {len(apart)} points the 90 % intervals of the estimators have "
        f"no value in common."
    )
    return Drawing(fig, placed.drop(columns="row"), finding)
