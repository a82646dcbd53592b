"""Figures of chapter 02: learning rate and batch size against compute (Equation 3, Figures 2, 3).

C      training compute, FLOPs
eta    peak learning rate
B      batch size, tokens
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from moe_leverage import ledger
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.reductions import widened_noise
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
    percent,
    plain_ticks,
    points,
    power,
    ranges,
    reach_of,
)
from moe_leverage.page.links import link_runs
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.studies.ladder import LADDER
from moe_leverage.theory.laws import PUBLISHED, PowerLaw

SEARCH_FLOPS = PUBLISHED.learning_rate.domain["compute"]  # the search behind Equation 3
RATIO_TICKS = (0.2, 0.3, 0.5, 1, 2, 3, 5)  # of what stands over Equation 3
LEARNING_RATE_LOG2 = np.arange(-11.0, -8.75, 0.5)  # the search grid, Section 2.2
BATCH_TOKENS_LOG2 = np.arange(18.0, 21.25, 0.5)
NEAR_OPTIMAL_PERCENT = 0.25  # Section 2.2
MOST_EXCESS_PERCENT = 20.0  # from which on the landscape has no tint
SEARCH = f"search at {power(SEARCH_FLOPS[0])} to {power(SEARCH_FLOPS[1])} FLOPs"
OPTIMUM_COLUMNS = ("training_flops", "learning_rate", "batch_tokens", "family")


@figure(
    "hyperparameter-laws",
    paper="Figure 2 and Equation 3; settings of Table 7",
    data=("paper/coefficients.toml", "paper/table_07.csv", "fits/adopted/tuning.json"),
    studies=("tuning",),
    caption="Best peak learning rate and batch size against training compute. Line: the published "
    "law for mixture-of-experts models, solid where it was fitted. Squares: what Table 7 used at "
    "the largest budget of each model size. Dash-dotted: our law as our later runs used it, "
    "beside the fit to all runs that stand now. Below: the same as multiples of Equation 3.",
)
def hyperparameters(
    learning_rate: PowerLaw,
    batch_tokens: PowerLaw,
    settings: pd.DataFrame,
    measured: pd.DataFrame | None = None,
    fits: Mapping[str, Fit] | None = None,
    used: Mapping[str, PowerLaw] | None = None,
) -> Drawing:
    """Both laws over the whole range of compute, with the settings of Table 7 and our optima.

    `fits` are our own laws by name, `moe_learning_rate` and so on, drawn with their 90 % interval,
    and `used` those adopted, by which later runs were planned.
    """
    runs = points(measured, OPTIMUM_COLUMNS)
    start = min([LADDER[0], *runs["training_flops"]])
    compute = np.geomspace(start, 1e22, 89)
    reach = reach_of(runs)
    table = pd.DataFrame({"training_flops": compute})
    size = (theme.WIDTH_INCHES * 1.25, 6.0)
    fig, (axes, below) = plt.subplots(2, 2, figsize=size, height_ratios=(3, 2))
    laws = {"learning_rate": learning_rate, "batch_tokens": batch_tokens}
    inside = (compute >= SEARCH_FLOPS[0]) & (compute <= SEARCH_FLOPS[1])
    bands: list[pd.DataFrame] = []
    for ax, (name, law) in zip(axes, laws.items(), strict=True):
        table[name] = law(compute)
        ink = theme.colour("published")
        ax.plot(compute, table[name], ":", color=ink, lw=1.2, label="Eq. 3, extrapolated")
        ax.plot(compute[inside], table[name][inside], color=ink, label="Eq. 3, fitted here")
        ax.plot(
            settings["training_flops"], settings[name], "s", color=ink, mfc="none", label="Table 7"
        )
        for family, group in runs.groupby("family"):
            draw_points(
                ax, group, "training_flops", name, label=f"measured, {FAMILIES[str(family)]}",
                colour=theme.colour(str(family)),
            )  # fmt: skip
        bands += [
            draw_band(ax, own, reach, family=family)
            for family in FAMILIES
            if (own := (fits or {}).get(f"{family}_{name}")) is not None
        ]
        bands += [
            draw_used(ax, (used or {})[f"{family}_{name}"], name, reach, family=family)
            for family in FAMILIES
            if f"{family}_{name}" in (used or {})
        ]
        log_axes(ax, "training_flops", name)
    for ratio_ax, ax, (name, law) in zip(below, axes, laws.items(), strict=True):
        draw_over(ratio_ax, ax, law, name, "Equation 3")
        plain_ticks(ratio_ax.yaxis, RATIO_TICKS)
    axes[1].legend(fontsize=8)
    note(fig, ranges(SEARCH, runs))
    decade = 1e20 / 1e19
    finding = (
        f"By Equation 3, ten times the compute divides the best learning rate by "
        f"{decade**-learning_rate.exponent:.2f} and multiplies the best batch by "
        f"{decade**batch_tokens.exponent:.2f}; at {power(start)} FLOPs it would ask for a "
        f"learning rate of {float(learning_rate(start)):.2g} and a batch of "
        f"{float(batch_tokens(start)):.0f} tokens.{_own_exponents(laws, fits or {})}"
    )
    return Drawing(fig, pd.concat([table, runs, *bands], ignore_index=True), finding)


@figure(
    "hyperparameter-plane",
    paper="Figure 3 and the search grid of Section 2.2",
    data=("paper/coefficients.toml",),
    studies=("tuning",),
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
            "training_flops": budgets,
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


@figure(
    "loss-landscape",
    paper="Figures 2 and 3, the losses behind the near-optimal region",
    studies=("tuning",),
    caption="Held-out loss above the best of its budget, in per cent, over peak learning rate and "
    "batch size, dense above and MoE below. The fuller the tint, the closer to the best; framed: "
    "the 0.25 % that count as near-optimal.",
)
def landscape(runs: pd.DataFrame) -> Drawing:
    """Excess loss of every setting of our grids; `runs` are those of the study `tuning`."""
    means = _excess(runs)
    budgets = sorted(means["budget_flops"].unique())
    fig, grid = plt.subplots(
        2, len(budgets), squeeze=False, figsize=(theme.WIDTH_INCHES * 1.35, 5.0),
    )  # fmt: skip
    for row, name in zip(grid, ("dense", "moe"), strict=True):
        for ax, budget in zip(row, budgets, strict=True):
            ours = means[(means["family"] == name) & (means["budget_flops"] == budget)]
            if ours.empty:
                fig.delaxes(ax)
                continue
            _heat_map(ax, ours)
            ax.set_title(f"{FAMILIES[name]}, {power(budget)}", fontsize=10)
            ax.set(xlabel=r"Peak rate $\eta$" if name == "moe" else "", ylabel="")
    for ax in grid[:, 0]:
        ax.set_ylabel("Batch $B$ (tokens)")
    note(fig, "Ours alone: the paper prints none of these losses.")
    near = means["excess_percent"] <= NEAR_OPTIMAL_PERCENT
    noise = 100 * widened_noise(ledger.finished(runs))
    known = (
        f"seeds alone move a loss by {noise:.1f} %, so that the best setting is known only to its "
        "neighbours"
        if np.isfinite(noise)
        else "no setting is repeated yet"
    )
    finding = (
        f"Of {len(means)} settings on {2 * len(budgets)} grids {int(near.sum())} lie within "
        f"{NEAR_OPTIMAL_PERCENT} % of the best of their budget; {known}."
    )
    return Drawing(fig, means, finding)


@figure(
    "loss-check",
    paper="Figure 3",
    studies=("tuning-check",),
    caption="Loss at half and at twice the predicted learning rate (left) and batch (right), over "
    "the loss at the prediction, for designs of several activation ratios and granularities at one "
    "budget; bars: the 90 % interval of the noise between seeds.",
)
def check(runs: pd.DataFrame, repeated: pd.DataFrame | None = None) -> Drawing:
    """Excess loss around the predicted optimum; `runs` are those of the study `tuning-check`."""
    names = ["learning_rate", "batch_tokens"]
    design = ["activation_ratio", "granularity"]
    means = linked_means(runs, [*design, *names], repeated)
    fig, axes = plt.subplots(1, 2, sharey=True, figsize=(theme.WIDTH_INCHES * 1.25, 4.0))
    tables, num_best = [], 0
    designs = means.groupby(design)
    inks = theme.sequential_colours(designs.ngroups)
    for ink, ((ratio, granularity), ours) in zip(inks, designs, strict=True):
        middle = {name: float(ours[name].median()) for name in names}
        at_middle = np.all([ours[name] == middle[name] for name in names], axis=0)
        if not at_middle.any():
            continue
        centre = float(ours.loc[at_middle, "loss_nats"].iloc[0])
        num_best += bool(centre <= ours["loss_nats"].min())
        for ax, name, other in zip(axes, names, reversed(names), strict=True):
            line = ours[ours[other] == middle[other]].sort_values(name)
            excess = {
                f"excess_percent{end}": 100 * (line[f"loss_nats{end}"] / centre - 1)
                for end in ("", "_low", "_high")
            }
            line = line.assign(factor=line[name] / middle[name], axis=name, **excess)
            label = f"A = {percent(float(str(ratio)))}, G = {float(str(granularity)):.2g}"
            ax.plot(line["factor"], line["excess_percent"], color=ink, lw=1)
            draw_points(ax, line, "factor", "excess_percent", colour=ink, label=label)
            tables.append(line)
    for ax, name in zip(axes, ("Peak learning rate", "Batch"), strict=True):
        ax.set_xscale("log", base=2)
        ax.set_xlabel(f"{name} over its prediction")
        ax.axhline(0, color=theme.colour("muted"), lw=1)
    axes[0].set_ylabel("Loss above that at the prediction (%)")
    axes[0].legend()
    note(fig, "Ours alone: the paper prints none of these losses.")
    finding = (
        f"The predicted setting has the lowest loss of its cross at {num_best} of "
        f"{designs.ngroups} designs."
    )
    crosses = pd.concat([*tables, means[:0]], ignore_index=True)
    return Drawing(fig, crosses, finding + _most_saved(crosses))


def in_numbers(learning_rate: PowerLaw, batch_tokens: PowerLaw) -> str:
    r"""Equation 3 with the numbers of two laws, as Markdown.

    >>> "= 1.5\\, C^{-0.25}$" in in_numbers(PowerLaw(1.5, -0.25), PowerLaw(0.125, 0.5))
    True
    """
    eta, batch = (
        rf"{law.coefficient:.4g}\, C^{{{law.exponent:.4g}}}"
        for law in (learning_rate, batch_tokens)
    )
    return (
        rf"With these numbers and $C$ in FLOPs, $\eta_\text{{opt}} = {eta}$ and "
        rf"$B_\text{{opt}} = {batch}$."
    )


def _most_saved(crosses: pd.DataFrame) -> str:
    """Where another setting than the predicted one saves most, and how much, in words."""
    if crosses.empty or crosses["excess_percent"].min() >= 0:
        return ""
    best = crosses.iloc[int(crosses["excess_percent"].to_numpy(float).argmin())]
    what = {"learning_rate": "rate", "batch_tokens": "batch"}[str(best["axis"])]
    ends = f"{-best['excess_percent_high']:.1f} to {-best['excess_percent_low']:.1f} %"
    known = f" ({ends})" if np.isfinite(best["excess_percent_low"]) else ""
    return (
        f" Most is saved by {best['factor']:.2g} times the predicted {what} at A = "
        f"{percent(best['activation_ratio'])}, G = {best['granularity']:.2g}: "
        f"{-best['excess_percent']:.1f} % of the loss{known}."
    )


def _excess(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds with `excess_percent`, the loss above the best of its budget and family."""
    means = linked_means(runs, ["family", "learning_rate", "batch_tokens"])
    least = means.groupby(["budget_flops", "family"])["loss_nats"].transform("min")
    return means.assign(excess_percent=100 * (means["loss_nats"] / least - 1))


def _heat_map(ax: Axes, ours: pd.DataFrame) -> None:
    """Excess loss of each setting of one grid, the near-optimal ones framed, a link on each.

    Each budget has its own grid, so that no axis is shared.
    """
    rates, batches = (np.sort(ours[name].unique()) for name in ("learning_rate", "batch_tokens"))
    wide = ours.pivot_table(index="batch_tokens", columns="learning_rate", values="excess_percent")
    sns.heatmap(
        wide, vmin=0, vmax=MOST_EXCESS_PERCENT, cmap=theme.fading("measured"), cbar=False,
        annot=wide.map(_short), fmt="", ax=ax,
        annot_kws={"color": theme.colour("ink"), "fontsize": 8.5},
        xticklabels=[f"$2^{{{np.log2(rate):g}}}$" for rate in rates],
        yticklabels=[f"$2^{{{np.log2(size):g}}}$" for size in batches],
    )  # fmt: skip
    ax.tick_params(axis="y", rotation=0)
    ax.grid(visible=False)
    ax.invert_yaxis()
    placed = ours.assign(
        x=np.searchsorted(rates, ours["learning_rate"]) + 0.5,
        y=np.searchsorted(batches, ours["batch_tokens"]) + 0.5,
    )
    for x, y in placed.loc[ours["excess_percent"] <= NEAR_OPTIMAL_PERCENT, ["x", "y"]].to_numpy():
        ink = theme.colour("published")
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, ec=ink, lw=2, clip_on=False))
    link_runs(ax, placed, "x", "y")


def _short(excess: float) -> str:
    """Two digits at most, so that a row of five fits its panel."""
    return f"{excess:.1f}" if excess < 9.95 else f"{excess:.0f}"


def _own_exponents(laws: Mapping[str, PowerLaw], fits: Mapping[str, Fit]) -> str:
    """Our exponents of the MoE family with their intervals, and whether they hold the printed."""
    sentences = [
        own_exponent(f"the {words} law", fits[f"moe_{name}"], laws[name])
        for name, words in (("learning_rate", "learning-rate"), ("batch_tokens", "batch"))
        if f"moe_{name}" in fits
    ]
    return f" Our exponent for MoE is {'; '.join(sentences)}." if sentences else ""
