"""Figures of chapter 02: learning rate and batch size against compute (Equation 3, Figures 2, 3).

C      training compute, FLOPs
eta    peak learning rate
B      batch size, tokens
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from moe_leverage.figures import theme
from moe_leverage.figures.common import (
    FAMILIES,
    LADDER_FLOPS,
    draw_points,
    log_axes,
    note,
    points,
    power,
    ranges,
)
from moe_leverage.figures.registry import Drawing, figure
from moe_leverage.theory.laws import PowerLaw

SEARCH_FLOPS = (3e17, 3e20)  # the search behind Equation 3, Section 2.2
LEARNING_RATE_LOG2 = np.arange(-11.0, -8.75, 0.5)  # the search grid, Section 2.2
BATCH_TOKENS_LOG2 = np.arange(18.0, 21.25, 0.5)
SEARCH = f"search at {power(SEARCH_FLOPS[0])} to {power(SEARCH_FLOPS[1])} FLOPs"
OPTIMUM_COLUMNS = ("compute_flops", "learning_rate", "batch_tokens", "family")


@figure(
    "hyperparameter-laws",
    paper="Figure 2 and Equation 3; settings of Table 7",
    data=("paper/coefficients.toml", "paper/table_07.csv"),
    studies=("hparams",),
    caption="Best peak learning rate and batch size against training compute. Line: the published "
    "law for mixture-of-experts models, solid where it was fitted. Squares: what Table 7 used at "
    "the largest budget of each model size.",
)
def hyperparameters(
    learning_rate: PowerLaw,
    batch_tokens: PowerLaw,
    settings: pd.DataFrame,
    measured: pd.DataFrame | None = None,
) -> Drawing:
    """Both laws over the whole range of compute, with the settings of Table 7 and our optima."""
    runs = points(measured, OPTIMUM_COLUMNS)
    start = min([LADDER_FLOPS[0], *runs["compute_flops"]])
    compute = np.geomspace(start, 1e22, 89)
    table = pd.DataFrame({"compute_flops": compute})
    fig, axes = plt.subplots(1, 2, figsize=(theme.WIDTH_INCHES * 1.25, 4.0))
    laws = {"learning_rate": learning_rate, "batch_tokens": batch_tokens}
    inside = (compute >= SEARCH_FLOPS[0]) & (compute <= SEARCH_FLOPS[1])
    for ax, (name, law) in zip(axes, laws.items(), strict=True):
        table[name] = law(compute)
        ink = theme.colour("published")
        ax.plot(compute, table[name], ":", color=ink, lw=1.2, label="Eq. 3, extrapolated")
        ax.plot(compute[inside], table[name][inside], color=ink, label="Eq. 3, fitted here")
        ax.plot(
            settings["compute_flops"], settings[name], "s", color=ink, mfc="none", label="Table 7"
        )
        for family, group in runs.groupby("family"):
            draw_points(
                ax, group, "compute_flops", name, label=f"measured, {FAMILIES[str(family)]}",
                colour=theme.colour(str(family)),
            )  # fmt: skip
        log_axes(ax, "compute_flops", name)
    axes[1].legend()
    note(fig, ranges(SEARCH, runs))
    decade = 1e20 / 1e19
    finding = (
        f"By Equation 3, ten times the compute divides the best learning rate by "
        f"{decade**-learning_rate.exponent:.2f} and multiplies the best batch by "
        f"{decade**batch_tokens.exponent:.2f}; at {power(start)} FLOPs it would ask for a "
        f"learning rate of {float(learning_rate(start)):.2g} and a batch of "
        f"{float(batch_tokens(start)):.0f} tokens."
    )
    return Drawing(fig, pd.concat([table, runs], ignore_index=True), finding)


@figure(
    "hyperparameter-plane",
    paper="Figure 3 and the search grid of Section 2.2",
    data=("paper/coefficients.toml",),
    studies=("hparams",),
    caption="The path of the best pair of batch size and learning rate as compute grows (Equation "
    "3), over the grid that the paper searched (dots, drawn at half steps of the base-2 "
    "exponents).",
)
def plane(
    learning_rate: PowerLaw, batch_tokens: PowerLaw, measured: pd.DataFrame | None = None
) -> Drawing:
    """The optimum in the plane of B and eta; our near-optimal settings when there are any."""
    runs = points(measured, OPTIMUM_COLUMNS)
    budgets = 3 * 10.0 ** np.arange(17, 21)
    table = pd.DataFrame(
        {
            "compute_flops": budgets,
            "batch_tokens": batch_tokens(budgets),
            "learning_rate": learning_rate(budgets),
        }
    )
    fig, ax = plt.subplots()
    grid_b, grid_eta = np.meshgrid(2**BATCH_TOKENS_LOG2, 2**LEARNING_RATE_LOG2)
    ax.plot(grid_b.ravel(), grid_eta.ravel(), ".", color=theme.colour("grid"), label="search grid")
    ink = theme.colour("published")
    ax.plot(table["batch_tokens"], table["learning_rate"], "-D", color=ink, label="Eq. 3")
    for compute, place in zip(
        budgets, table[["batch_tokens", "learning_rate"]].to_numpy(), strict=True
    ):
        ax.annotate(
            power(compute), tuple(place), xytext=(7, 5), textcoords="offset points", fontsize=9
        )
    if len(runs):
        draw_points(ax, runs, "batch_tokens", "learning_rate")
    log_axes(ax, "batch_tokens", "learning_rate")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.legend(loc="lower left")
    note(fig, ranges(SEARCH, runs))
    inside = (
        (table["batch_tokens"] >= grid_b.min())
        & (table["batch_tokens"] <= grid_b.max())
        & (table["learning_rate"] >= grid_eta.min())
        & (table["learning_rate"] <= grid_eta.max())
    )
    finding = (
        f"As compute grows from {power(budgets[0])} to {power(budgets[-1])} FLOPs the best batch "
        f"grows from {table['batch_tokens'].iloc[0]:.3g} to {table['batch_tokens'].iloc[-1]:.3g} "
        f"tokens while the best learning rate falls; {inside.sum()} of the {len(table)} optima "
        f"drawn lie inside the searched grid."
    )
    return Drawing(fig, pd.concat([table, runs], ignore_index=True), finding)
