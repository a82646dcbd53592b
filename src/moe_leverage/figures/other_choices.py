"""Figures of chapter 09: dense first layers and the attention share (Appendix D, Tables 10, 11).

M    non-embedding FLOPs of one token
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from moe_leverage.audit.pairs import LEAST_FREEDOM, gaps, mean_and_half_width
from moe_leverage.design.search import BEST_ATTENTION_SHARE, MAX_ATTENTION_SHARE
from moe_leverage.page import sweeps, theme
from moe_leverage.page.drawing import STUDY_RANGE, draw_points, note, percent, points, power, ranges
from moe_leverage.page.notation import axis_label
from moe_leverage.page.registry import Drawing, figure

FLAT_SHARE = (0.20, MAX_ATTENTION_SHARE)  # Appendix D


@figure(
    "attention-share",
    paper="Figures 13c and 13d, Table 11",
    data=("paper/table_11.csv",),
    studies=("attention",),
    caption="Attention's share of the non-embedding FLOPs of each model of Table 11, counted "
    "here (convention `exact`), with the printed ranges.",
)
def attention_share(shares: pd.DataFrame, measured: pd.DataFrame | None = None) -> Drawing:
    """One row of dots a model size; `shares` comes from `paper.counted`."""
    runs = points(measured, ("training_flops", "attention_share", "flops_per_token"))
    fig, ax = plt.subplots()
    ax.axvspan(*FLAT_SHARE, color=theme.colour("grid"), alpha=0.6, lw=0, label="stated: flat")
    ink = theme.colour("published")
    ax.axvspan(*BEST_ATTENTION_SHARE, color=ink, alpha=0.25, lw=0, label="stated: best")
    ax.plot(
        shares["attention_share"], shares["flops_per_token"], "s", color=ink, mfc="none",
        label="Table 11, all of attention",
    )  # fmt: skip
    ax.plot(
        shares["projection_share"], shares["flops_per_token"], "x", color=ink,
        label="Table 11, without scores",
    )  # fmt: skip
    if len(runs):
        draw_points(ax, runs, "attention_share", "flops_per_token")
    ax.set_yscale("log")
    ax.set_xlim(0, 1)
    ax.set_xlabel("Attention's share of $M$")
    ax.set_ylabel(axis_label("flops_per_token"))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    note(fig, ranges(STUDY_RANGE, runs))
    inside = shares["attention_share"].between(*FLAT_SHARE)
    finding = (
        f"The {len(shares)} models of Table 11 put between "
        f"{shares['attention_share'].min():.0%} and {shares['attention_share'].max():.0%} of their "
        f"non-embedding FLOPs into attention, or {shares['projection_share'].min():.0%} to "
        f"{shares['projection_share'].max():.0%} if its scores are left out; {inside.sum()} of "
        f"them lie in the range 20 % to 50 % that the paper calls flat."
    )
    return Drawing(fig, pd.concat([shares, runs], ignore_index=True), finding)


@figure(
    "dense-first",
    paper="Figures 13a and 13b, Table 10",
    data=("paper/table_10.csv",),
    caption="What replacing the first layers of the 60-layer models of Table 10 by dense ones "
    "changes: total parameters and FLOPs per token relative to no dense layer.",
)
def dense_first(table: pd.DataFrame) -> Drawing:
    """Relative N and M over the number of dense layers; one line a width."""
    fig, axes = plt.subplots(1, 2, figsize=(theme.WIDTH_INCHES * 1.25, 3.8))
    relative = table.copy()
    labels = {"total_params": "Total parameters $N$", "flops_per_token": "FLOPs per token $M$"}
    inks = theme.sequential_colours(table["d_model"].nunique())
    for name in labels:
        none = table["num_dense_layers"] == 0
        base = table[none].set_index("d_model")[name]
        relative[name] = table[name] / table["d_model"].map(base)
    for ax, (name, label) in zip(axes, labels.items(), strict=True):
        sns.lineplot(
            relative, x="num_dense_layers", y=name, hue="d_model", palette=inks, marker="o", ax=ax,
            mec=theme.colour("surface"), legend="full" if ax is axes[0] else False,
        )  # fmt: skip
        ax.set_xticks(sorted(table["num_dense_layers"].unique()))
        ax.set_xlabel("Dense layers in front, of 60")
        ax.set_ylabel(f"{label}, over none")
    axes[0].legend(title=r"$d_{model}$", fontsize=9)
    note(fig, f"Published: {STUDY_RANGE}.")
    most = relative[relative["num_dense_layers"] == relative["num_dense_layers"].max()]
    finding = (
        f"Three dense layers of 60 remove about {1 - most['total_params'].mean():.1%} of the "
        f"parameters and raise the FLOPs per token by {most['flops_per_token'].min() - 1:.1%} to "
        f"{most['flops_per_token'].max() - 1:.1%}, where the text keeps them constant."
    )
    return Drawing(fig, relative, finding)


@figure(
    "loss-dense-first",
    paper="Figures 13a and 13b",
    studies=("dense-first",),
    caption="Held-out loss of our models without and with a dense layer in front, at each "
    "budget of the study: means over seeds, with the 90 % interval of the noise between them.",
)
def losses_of_dense_first(runs: pd.DataFrame, repeated: pd.DataFrame | None = None) -> Drawing:
    """Loss over the number of dense layers; `runs` are those of the study `dense-first`."""
    axis = sweeps.Axis(
        name="num_dense_layers", label="Dense layers in front", is_log=False, unit=" layers",
        ticks=(0, 1),
    )  # fmt: skip
    return sweeps.draw(
        sweeps.means_of(runs, axis.name, repeated=repeated), axis, {"ours": "measured"}
    )


def more_attention(runs: pd.DataFrame) -> str:
    """The loss at the largest attention share less that at the smallest, in words, by pairs.

    Pairs share budget and seed. Nothing is said with too few of them.
    """
    if runs.empty:
        return ""
    share, at = runs["attention_share"].round(3), ["budget_flops", "seed"]
    ends = share.groupby(runs["budget_flops"]).agg(["min", "max"])
    low, high = (runs["budget_flops"].map(ends[end]) for end in ("min", "max"))
    most, least = (runs[share == end].set_index(at)["loss_nats"] for end in (high, low))
    found = gaps(most, least)
    if len(found) < found["budget"].nunique() + LEAST_FREEDOM:
        return ""
    mean, wide = mean_and_half_width(found)
    said = [
        f"{found.loc[found['budget'] == budget, 'nats'].mean():+.3f} nats at "
        f"{power(float(str(budget)))} FLOPs (from {percent(row['min'])} to {percent(row['max'])})"
        for budget, row in ends.iterrows()
    ]
    end = "which of the two is better cannot be told"
    if mean + wide < 0:
        end = "attention's share is not free here, and the largest tried is the best"
    elif mean - wide > 0:
        end = "attention's share is not free here, and the smallest tried is the best"
    return (
        f"A larger share of attention changes the loss by {', '.join(said)}, {mean:+.3f} on "
        f"average ({mean - wide:+.3f} to {mean + wide:+.3f}, {len(found)} pairs of one seed): "
        f"{end}."
    )


@figure(
    "loss-attention",
    paper="Figures 13c and 13d",
    studies=("attention",),
    caption="Held-out loss against attention's share of the FLOPs of a token, at each budget of "
    "the study: means over seeds, with the 90 % interval of the noise between them. Dashed: "
    "parabolas. Band: where the text puts the best.",
)
def losses_of_attention(runs: pd.DataFrame, repeated: pd.DataFrame | None = None) -> Drawing:
    """Loss over attention's share of M; `runs` are those of the study `attention`."""
    runs = runs.assign(attention_share=runs["attention_share"].round(3))
    axis = sweeps.Axis(
        name="attention_share", label="Attention's share of $M$", is_log=False, unit=" %",
        scale=100, band=BEST_ATTENTION_SHARE,
    )  # fmt: skip
    means = sweeps.means_of(runs, axis.name, repeated=repeated)
    return sweeps.draw(means, axis, {"ours": "measured"}, fits=("ours",))
