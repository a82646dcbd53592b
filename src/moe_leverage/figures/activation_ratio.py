"""Figures of chapter 04: EL against the activation ratio (Equations 7 and 10, Figures 5 and 8a).

A    activation ratio (E_a + E_s) / (E + E_s)
C    training compute, FLOPs
EL   efficiency leverage
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from moe_leverage import ledger
from moe_leverage.page import sweeps, theme
from moe_leverage.page.drawing import (
    FAMILIES,
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
from moe_leverage.paper import STUDY_BUDGETS_FLOPS
from moe_leverage.studies.ladder import LADDER
from moe_leverage.theory.laws import JointLaw, saturated_activation_ratio
from moe_leverage.training.schedule import curve_steps

RATIO_TICKS = (0.01, 0.03, 0.1, 0.3, 1.0)
LEAST_DESIGNS = 3  # of a budget, before the best of them is told
DECADES = [int(math.log10(STUDY_BUDGETS_FLOPS[0] / ours)) for ours in LADDER]


@figure(
    "saturation",
    paper="Equation 10",
    data=("paper/coefficients.toml", "paper/table_07.csv"),
    caption="The saturated activation ratio of Equation 10 with the constants of Table 2, against "
    "the activation ratio itself (dashed).",
)
def saturation(law: JointLaw, ratios: pd.Series) -> Drawing:
    """A^ over A, with the activation ratios of Table 7 marked."""
    activation = np.geomspace(0.001, 1.0, 121)
    saturated = saturated_activation_ratio(activation, law.a_start, law.a_max)
    marked = saturated_activation_ratio(ratios.to_numpy(), law.a_start, law.a_max)
    fig, ax = plt.subplots()
    ax.plot(activation, activation, "--", color=theme.colour("muted"), lw=1.2, label=r"$\hat{A}=A$")
    ax.plot(activation, saturated, color=theme.colour("published"), label="Eq. 10, Table 2")
    ax.plot(ratios, marked, "s", color=theme.colour("published"), mfc="none", label="Table 7")
    log_axes(ax, "activation_ratio", "saturated_activation_ratio")
    plain_ticks(ax.xaxis, (0.001, *RATIO_TICKS))
    plain_ticks(ax.yaxis, (0.001, *RATIO_TICKS))
    ax.legend()
    note(fig, f"Published: {STUDY_RANGE}.")
    smallest = float(ratios.min())
    here = saturated_activation_ratio(smallest, law.a_start, law.a_max)
    finding = (
        f"At the sparsest model of Table 7, A = {percent(smallest)}, the law computes with "
        f"{percent(here)} instead, {here / smallest:.1f} times as much: sparsity below "
        f"A_start = {percent(law.a_start)} brings little more."
    )
    table = pd.DataFrame({"activation_ratio": activation, "saturated_activation_ratio": saturated})
    return Drawing(fig, table, finding)


@figure(
    "leverage-activation",
    paper="Figures 5b and 8a, Equations 10 and 13",
    data=("paper/coefficients.toml", "fits/leverage.csv", "fits/index.json"),
    studies=("isoflop", "activation"),
    caption="Efficiency leverage against activation ratio at G = 2: left at the paper's budgets, "
    "right at the budgets of our own small models, where the published law is extrapolated by "
    f"{DECADES[-1]} to {DECADES[0]} powers of ten (dotted).",
)
def leverage(
    law: JointLaw,
    measured: pd.DataFrame | None = None,
    fitted: JointLaw | None = None,
    failing: Sequence[str] = (),
) -> Drawing:
    """Both ranges of compute side by side; measured points and our own fit on the right.

    A budget with a single design beside others with several is left out. While gates of our runs
    are `failing` nothing is said of the points.
    """
    runs = points(measured)
    runs = runs.assign(budget=runs["training_flops"].map(ledger.rung))
    several = runs.groupby("budget")["activation_ratio"].transform("nunique") > 1
    runs = runs[several] if several.any() else runs
    ours = sorted(set(runs["budget"])) if len(runs) else list(LADDER)
    fig, axes = plt.subplots(1, 2, figsize=(theme.WIDTH_INCHES * 1.45, 4.4))
    tables = [
        _curves(axes[0], law, STUDY_BUDGETS_FLOPS, "published", "-"),
        _curves(axes[1], law, ours, "published", ":"),
    ]
    if fitted is not None:
        tables.append(_curves(axes[1], fitted, ours, "measured", "--"))
    for ink, budget in zip(theme.sequential_colours(len(ours)), ours, strict=True):
        group, label = runs[runs["budget"] == budget], f"measured, {power(budget)}"
        if group.empty:
            continue
        group = group.sort_values("activation_ratio")
        axes[1].plot(group["activation_ratio"], group["efficiency_leverage"], lw=1, color=ink)
        draw_points(
            axes[1], group, "activation_ratio", "efficiency_leverage", colour=ink, label=label
        )
    for ax, title in zip(axes, ("The paper's budgets", "Our budgets"), strict=True):
        ax.axhline(1.0, color=theme.colour("muted"), lw=1.0, ls="--")
        log_axes(ax, "activation_ratio", "efficiency_leverage")
        plain_ticks(ax.xaxis, RATIO_TICKS)
        ax.set_title(title)
    axes[0].legend(title="FLOPs", fontsize=9)
    axes[1].set_ylabel("")
    axes[1].plot([], [], ":", color=theme.colour("muted"), label="Table 2, extrapolated")
    if fitted is not None:
        axes[1].plot([], [], "--", color=theme.colour("muted"), label="our fit")
    axes[1].legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    plain_ticks(axes[0].yaxis, (1, 2, 3, 4, 5, 6))
    plain_ticks(axes[1].yaxis, (0.4, 0.6, 0.8, 1, 1.25, 1.6, 2, 2.5, 3))
    note(fig, ranges(STUDY_RANGE, runs))
    sparse = {"activation_ratio": 3 / 257, "granularity": 2.0}
    low, high = (
        law(**sparse, compute=c) for c in (STUDY_BUDGETS_FLOPS[0], STUDY_BUDGETS_FLOPS[-1])
    )
    finding = (
        f"At A = {percent(3 / 257)} the law gives EL = {low:.1f} at "
        f"{power(STUDY_BUDGETS_FLOPS[0])} FLOPs and {high:.1f} at "
        f"{power(STUDY_BUDGETS_FLOPS[-1])}, growing as A falls; extrapolated to "
        f"{power(ours[0])} FLOPs it gives {law(**sparse, compute=ours[0]):.2f}, a loss."
        f" {best_ratio(runs, failing)}"
    )
    return Drawing(fig, pd.concat([*tables, runs], ignore_index=True), finding.rstrip())


def best_ratio(runs: pd.DataFrame, failing: Sequence[str] = ()) -> str:
    """Which A has the largest measured EL, at the largest budget of several designs, in words.

    The best is told from the sparsest by intervals that do not overlap.

    >>> best_ratio(pd.DataFrame({"training_flops": [1e12], "activation_ratio": [0.1]}))
    ''
    """
    rungs = runs["training_flops"].map(ledger.rung)
    sizes = runs.groupby(rungs)["activation_ratio"].nunique() if len(runs) else pd.Series()
    telling = sizes.index[sizes >= LEAST_DESIGNS]
    if telling.empty:
        return ""
    if failing:
        return f"Our points decide nothing while gates of their runs fail: {', '.join(failing)}."
    top = max(telling)
    group = runs[rungs == top].sort_values("activation_ratio")
    best = group.loc[group["efficiency_leverage"].idxmax()]
    sparsest = group.iloc[0]
    value = (
        f"In our runs at {power(top)} FLOPs the largest EL is {best['efficiency_leverage']:.1f} "
        f"(90 % interval {best['leverage_low']:.1f} to {best['leverage_high']:.1f}), at "
        f"A = {percent(best['activation_ratio'])}"
    )
    if best["activation_ratio"] == sparsest["activation_ratio"]:
        return f"{value}, the sparsest design."
    apart = sparsest["leverage_high"] < best["leverage_low"]
    words = "has clearly less" if apart else "cannot be told from it"
    return f"{value}; the sparsest, A = {percent(sparsest['activation_ratio'])}, {words}."


def beside_the_law(runs: pd.DataFrame, law: JointLaw, failing: Sequence[str] = ()) -> str:
    """What the published law says of our own designs, far below its runs, and what they do.

    >>> from moe_leverage.theory.laws import PUBLISHED
    >>> empty = pd.DataFrame({"activation_ratio": [], "granularity": [], "training_flops": []})
    >>> beside_the_law(empty, PUBLISHED.joint)
    ''
    """
    runs = runs[runs["activation_ratio"] < 1]
    if runs.empty:
        return ""
    if failing:
        return f"Nothing is said of it while gates of our runs fail: {', '.join(failing)}."
    axes = {name: runs[name] for name in ("activation_ratio", "granularity")}
    told = law(**axes, compute=runs["training_flops"])
    losing = runs[told < 1]
    above = int((losing["leverage_low"] > 1).sum())
    below = int((losing["leverage_high"] < 1).sum())
    start = (
        f"The law would have {len(losing)} of our {len(runs)} mixtures, each at its budget, lose "
        f"to dense models (EL below 1, down to {told.min():.2f})."
    )
    counts = (
        f"As measured, {above} of these win (their whole 90 % interval lies above 1), {below} lose "
        f"(below 1) and {len(losing) - above - below} may do either"
    )
    if above > below:
        return f"{start} {counts}: the law does not hold so far down, and errs against mixtures."
    if below > above:
        return f"{start} {counts}: so far down, too, the law points the right way."
    return f"{start} {counts}: that tells nothing."


def _curves(
    ax: Axes, law: JointLaw, budgets: Any, series: str, line: str, granularity: float = 2.0
) -> pd.DataFrame:
    """EL over A at each budget, and the table of what was drawn."""
    activation = np.geomspace(3 / 257, 1.0, 61)
    tables = []
    inks = theme.sequential_colours(len(budgets))
    for ink, budget in zip(inks, budgets, strict=True):
        drawn = law(activation_ratio=activation, granularity=granularity, compute=budget)
        ax.plot(activation, drawn, line, color=ink, label=power(budget) if line == "-" else "")
        values = {"activation_ratio": activation, "efficiency_leverage": drawn}
        fixed = {"series": series, "granularity": granularity, "training_flops": budget}
        tables.append(pd.DataFrame(values | fixed))
    return pd.concat(tables, ignore_index=True)


@figure(
    "live-training",
    paper="Figure 5a in miniature, and the shape of Figure 10",
    data=("corpus/manifest-smoke.json",),
    caption="A dense model and a mixture-of-experts model with the same FLOPs per token, "
    "trained on this page. Lines: training loss, each point the mean since the one before. "
    "Markers at the end: loss on held-out documents, with two standard errors.",
)
def live_training(records: Mapping[str, Mapping[str, Any]]) -> Drawing:
    """Loss over training compute, one ledger record a family."""
    fig, ax = plt.subplots()
    tables, final, reach = [], {}, 0.0
    for family, record in records.items():
        num_steps, flops = record["config"]["num_steps"], record["training_flops"]
        steps = np.array(curve_steps(num_steps))
        curve = pd.DataFrame(
            {
                "family": family,
                "training_flops": flops * steps / num_steps,
                "training_loss_nats": record["training_loss_curve_nats"],
            }
        )
        final[family], reach = float(record["validation_loss_nats"]), max(reach, flops)
        ink = theme.colour(family)
        line, marker = theme.LINES[family], theme.MARKERS[family]
        ax.plot(
            curve["training_flops"], curve["training_loss_nats"], line, color=ink,
            label=f"{FAMILIES[family]}, training",
        )  # fmt: skip
        ax.errorbar(
            flops, final[family], yerr=2 * record["validation_standard_error_nats"], color=ink,
            fmt=marker, mfc="none", mew=1.6, ms=8, label=f"{FAMILIES[family]}, held out",
        )  # fmt: skip
        tables.append(curve.assign(validation_loss_nats=final[family]))
    ax.set_xlabel(axis_label("training_flops"))
    ax.set_ylabel("Cross-entropy (nats per token)")
    ax.set_xlim(left=0)
    ax.legend()
    note(fig, f"Ours: two runs of {power(reach)} FLOPs.  Published: no run this small.")
    ahead, behind = sorted(final, key=final.__getitem__)
    finding = (
        f"After {power(reach)} FLOPs the {FAMILIES[ahead]} model has the lower held-out loss, "
        f"{final[ahead]:.2f} nats per token against {final[behind]:.2f} of the "
        f"{FAMILIES[behind]} model."
    )
    return Drawing(fig, pd.concat(tables, ignore_index=True), finding)


@figure(
    "loss-activation",
    paper="Figure 5a",
    studies=("activation",),
    caption="Held-out loss against activation ratio at each budget of our ladder, beside the dense "
    "twin. Points: means over seeds, with the 90 % interval of the noise between seeds; lines join "
    "them.",
)
def losses(runs: pd.DataFrame, repeated: pd.DataFrame | None = None) -> Drawing:
    """Loss over A, a panel a budget with mixtures; `runs` are those of `activation`."""
    runs = runs[runs["budget_flops"].isin(runs.loc[runs["family"] == "moe", "budget_flops"])]
    labels = runs["family"].map(FAMILIES)
    axis = sweeps.Axis(
        name="activation_ratio", label=axis_label("activation_ratio"), symbol="A", unit=" %",
        scale=100, ticks=RATIO_TICKS,
    )  # fmt: skip
    means = sweeps.means_of(runs, axis.name, labels, repeated)
    drawing = sweeps.draw(means, axis, {"MoE": "moe", "dense": "dense"})
    return replace(drawing, finding=f"{drawing.finding} {_against_dense(means)}")


def _against_dense(means: pd.DataFrame) -> str:
    """At which budgets the best mixture beats the dense twin."""
    wide = means.pivot_table(
        index="budget_flops", columns="series", values="loss_nats", aggfunc="min"
    )
    both = wide.dropna() if {"MoE", "dense"} <= set(wide) else pd.DataFrame()
    if both.empty:
        return "No budget has both families yet."
    ahead = [power(float(str(c))) for c in both.index[both["MoE"] < both["dense"]]]
    where = f"{len(ahead)} of {len(both)} budgets"
    if 0 < len(ahead) < len(both):
        where += f" ({', '.join(ahead)} FLOPs)"
    return f"The best mixture has a lower mean loss than the dense twin at {where}."
