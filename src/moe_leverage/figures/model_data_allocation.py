"""Figures of chapter 03: how a budget is split between model and data (Equation 4, Table 1).

C    training compute, FLOPs
M    non-embedding FLOPs of one token
D    training tokens
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from moe_leverage.figures import theme
from moe_leverage.figures.common import FAMILIES, draw_points, log_axes, note, points, power, ranges
from moe_leverage.figures.hyperparameter_laws import SEARCH, SEARCH_FLOPS
from moe_leverage.figures.registry import Drawing, figure
from moe_leverage.theory.laws import PowerLaw

MINIMUM_COLUMNS = ("compute_flops", "flops_per_token", "num_tokens", "family")
AXES = ("flops_per_token", "num_tokens")
REACH_FLOPS = (1e11, 1e24)


@figure(
    "allocation-laws",
    paper="Figure 4 and Table 1",
    data=("paper/table_01.csv", "paper/coefficients.toml"),
    studies=("allocation",),
    caption="The best model scale and the best number of tokens against training compute, for "
    "dense and mixture-of-experts models, solid where the laws were fitted.",
)
def allocation(
    laws: Mapping[tuple[str, str], PowerLaw], measured: pd.DataFrame | None = None
) -> Drawing:
    """M_opt and D_opt of both families; `laws` maps (family, column) to a power law."""
    runs = points(measured, MINIMUM_COLUMNS)
    compute = np.geomspace(*REACH_FLOPS, 105)
    inside = (compute >= SEARCH_FLOPS[0]) & (compute <= SEARCH_FLOPS[1])
    table = pd.DataFrame({"compute_flops": compute})
    fig, axes = plt.subplots(1, 2, figsize=(theme.WIDTH_INCHES * 1.25, 4.0))
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
            draw_points(ax, group, "compute_flops", column, colour=ink, label=label)
        log_axes(ax, "compute_flops", column)
    axes[0].legend()
    note(fig, ranges(SEARCH, runs))
    dense, moe = laws[("dense", AXES[0])], laws[("moe", AXES[0])]
    smaller = 1 - float(moe(1e20)) / float(dense(1e20))
    finding = (
        f"Both exponents of M lie near one half ({dense.exponent:.3f} dense, {moe.exponent:.3f} "
        f"MoE); at 1e20 FLOPs the best MoE model is {smaller:.0%} smaller per token than the best "
        f"dense one and sees more tokens."
    )
    return Drawing(fig, pd.concat([table, runs], ignore_index=True), finding)


@figure(
    "allocation-ratio",
    paper="Section 2.3, second insight",
    data=("paper/coefficients.toml",),
    studies=("allocation",),
    caption="The best MoE model scale over the best dense one at the same compute, from Table 1. "
    "Below the dashed line the MoE model is the smaller one. The band marks the compute at which "
    "the laws were fitted.",
)
def ratio(
    dense: PowerLaw, moe: PowerLaw, crossing_flops: float, measured: pd.DataFrame | None = None
) -> Drawing:
    """M_opt of MoE over M_opt of dense; `measured` needs compute_flops and model_ratio."""
    runs = points(measured, ("compute_flops", "model_ratio"))
    compute = np.geomspace(*REACH_FLOPS, 105)
    table = pd.DataFrame({"compute_flops": compute, "model_ratio": moe(compute) / dense(compute)})
    fig, ax = plt.subplots()
    ax.axvspan(*SEARCH_FLOPS, color=theme.colour("grid"), alpha=0.5, lw=0, label="fitted here")
    ink = theme.colour("published")
    ax.plot(compute, table["model_ratio"], color=ink, label="Table 1")
    ax.axhline(1.0, color=theme.colour("muted"), ls="--", lw=1.0)
    if len(runs):
        draw_points(ax, runs, "compute_flops", "model_ratio")
    log_axes(ax, "compute_flops")
    ax.set_ylabel("Best $M$, MoE over dense")
    ax.legend()
    note(fig, ranges(SEARCH, runs))
    where = "inside" if SEARCH_FLOPS[0] <= crossing_flops <= SEARCH_FLOPS[1] else "below"
    finding = (
        f"By Table 1 the best MoE model is smaller than the best dense one only above "
        f"{power(crossing_flops)} FLOPs, which lies {where} the range of the fit; at our budgets "
        f"the same laws, extrapolated, say the opposite."
    )
    return Drawing(fig, pd.concat([table, runs], ignore_index=True), finding)
