"""Figures of chapter 11: open models under the law, and where the law has them break even.

A    activation ratio
G    granularity
C    training compute, FLOPs
EL   efficiency leverage
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from moe_leverage.audit.pairs import LEAST_FREEDOM, gaps, mean_and_half_width
from moe_leverage.design.designer import Explanation
from moe_leverage.design.huggingface import OpenModel, printed_counts
from moe_leverage.design.limits import Limits
from moe_leverage.design.search import frontier
from moe_leverage.figures.granularity import TABLE_8_GRANULARITY
from moe_leverage.page import sweeps, theme
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
from moe_leverage.studies.ladder import LADDER
from moe_leverage.theory.laws import JointLaw

GALLERY_TICKS = (0.02, 0.03, 0.06, 0.12, 0.25)
LABEL_COLUMN = 0.42  # A at which the names stand, right of every model
FRONTIER_POINTS = 7  # designs of a line, from the smallest that is a mixture to the largest
FRONTIER_STYLES = ("o-", "s--", "^:")
CROSSING_COLUMNS = ("granularity", "training_flops")


def gallery_table(models: Sequence[Explanation]) -> pd.DataFrame:
    """One row a model: axes, counts, compute and what the published law says of them."""
    return pd.DataFrame(
        [
            {
                "model": model.name,
                "activation_ratio": model.activation_ratio,
                "granularity": model.granularity,
                "total_params": model.total_params,
                "active_params": model.active_params,
                "num_tokens": model.tokens,
                "training_flops": model.compute,
                "efficiency_leverage": model.published.value,
                "dense_equivalent_params": model.dense_equivalent.total_params,
            }
            for model in models
        ]
    )


def printed_table(models: Sequence[OpenModel]) -> pd.DataFrame:
    """What the makers print beside what the shape has, a row a quantity, in billions."""
    return pd.DataFrame(
        [
            {
                "model": model.name,
                "quantity": quantity.replace("_", " "),
                "printed": float(printed),
                "counted": printed_counts(model)[quantity] / 1e9,
                "difference": printed_counts(model)[quantity] / 1e9 / float(printed) - 1,
                "reason": model.published.get("difference", "rounding"),
            }
            for model in models
            for quantity, printed in model.published["billions"].items()
        ]
    )


def crossings(measured: pd.DataFrame) -> pd.DataFrame:
    """Where measured EL passes 1 from below, for each pair of A and G that has both sides.

    `measured` holds points of EL (`measured.leverage_points`); log EL is interpolated in log C, and
    `run_id` names the runs on both sides.
    """
    axes = ["activation_ratio", "granularity"]
    rows = []
    for values, group in measured.groupby(axes) if len(measured) else ():
        ordered = group.sort_values("training_flops")
        height = np.log(ordered["efficiency_leverage"].to_numpy(float))
        place = np.log(ordered["training_flops"].to_numpy(float))
        for i in np.flatnonzero((height[:-1] < 0) & (height[1:] >= 0)):
            part = -height[i] / (height[i + 1] - height[i])
            compute = float(np.exp(place[i] + part * (place[i + 1] - place[i])))
            row = {**dict(zip(axes, values, strict=True)), "training_flops": compute}
            rows.append(row | {"run_id": " ".join(ordered["run_id"].iloc[i : i + 2])})
    return pd.DataFrame(rows, columns=[*axes, "training_flops", "run_id"])


def routing_comparison(runs: pd.DataFrame) -> pd.DataFrame:
    """Loss and balance of bias routing and of the auxiliary loss at equal design, a row a pair.

    `runs` is the study `bias-routing`; the load is the largest over the mean, mean over layers.
    """
    keys = ["compute (FLOPs)", "num_experts"]
    if runs.empty:
        return pd.DataFrame(columns=keys)
    done = runs[runs["status"] == "ok"]
    kinds = done["routing.score"].map({"sigmoid": "bias", "softmax": "auxiliary loss"})
    frame = pd.DataFrame({
        keys[0]: [power(budget) for budget in done["budget_flops"]],
        keys[1]: done["num_experts"].to_numpy(),
        "routing": kinds.to_numpy(),
        "loss": done["loss_nats"].to_numpy(float),
        "largest load": [float(np.mean(loads)) for loads in done["load.max_over_mean"]],
    })  # fmt: skip
    wide = frame.pivot_table(index=keys, columns="routing", values=["loss", "largest load"])
    wide.columns = pd.Index([", ".join(names) for names in wide.columns.to_list()])
    return wide.reset_index()


def merging_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean loss at each budget with a decaying rate and with a constant one, merged or not.

    `runs` is the study `merge`. Merged runs say how many of their last checkpoints were averaged.
    """
    if runs.empty:
        return pd.DataFrame(columns=["compute (FLOPs)"])
    done = runs[runs["status"] == "ok"]
    recipes = [
        "decayed" if decay != "none" else f"{count} merged" if count else "constant, not merged"
        for decay, count in zip(done["decay"], done["merge_checkpoints"], strict=True)
    ]
    wide = done.assign(recipe=recipes).pivot_table(
        index="budget_flops", columns="recipe", values="loss_nats"
    )
    wide = wide[wide.mean().sort_values().index]
    wide.columns = pd.Index(list(wide.columns))
    return wide.rename(index=power).rename_axis("compute (FLOPs)").reset_index()


def merging_in_words(runs: pd.DataFrame) -> str:
    """What the best merge of a constant rate leaves of what the decay brings, pair by pair."""
    table = merging_table(runs)
    merged = [name for name in table if str(name).endswith(" merged")]
    if not {"decayed", "constant, not merged"} <= set(table) or not merged:
        return ""
    best = str(table[merged].mean().idxmin())
    done, at = runs[runs["status"] == "ok"], ["budget_flops", "seed"]
    count = done["merge_checkpoints"]
    is_constant = done["decay"] == "none"
    decayed, none, after = (
        done[rows].set_index(at)["loss_nats"]
        for rows in (~is_constant, is_constant & (count == 0), count == int(best.split()[0]))
    )
    found = gaps(after, decayed)
    if len(found) < found["budget"].nunique() + LEAST_FREEDOM:
        return ""
    mean, wide = mean_and_half_width(found)
    share = 1 - mean / mean_and_half_width(gaps(none, decayed))[0]
    end = "the two cannot be told apart"
    if abs(mean) > wide:
        end = "decay is the better here" if mean > 0 else "merging is the better here"
    return (
        f"Averaging the last {best.split()[0]} checkpoints of a constant rate brings "
        f"{percent(share)} of what decay does: its loss lies {mean:+.3f} nats from that of the "
        f"decayed rate ({mean - wide:+.3f} to {mean + wide:+.3f}, {len(found)} pairs of one seed), "
        f"so that {end}."
    )


@figure(
    "open-models",
    paper="Beyond the paper: Equation 13 on models released elsewhere",
    data=("paper/coefficients.toml", "models"),
    caption="The leverage that Table 2 gives to open mixture-of-experts models, each at its own "
    "activation ratio, granularity and training compute. Larger markers: finer experts. Every "
    "point is an extrapolation in compute.",
)
def open_models(table: pd.DataFrame, law: JointLaw) -> Drawing:
    """EL over A, one labelled point a model."""
    shown = table.sort_values(["activation_ratio", "efficiency_leverage"]).reset_index(drop=True)
    fig, ax = plt.subplots(figsize=(theme.WIDTH_INCHES * 1.1, 8.4))
    sns.scatterplot(
        shown, x="activation_ratio", y="efficiency_leverage", size="granularity", sizes=(20, 160),
        facecolor="none", edgecolor=theme.colour("published"), linewidth=1.6, ax=ax,
    )  # fmt: skip
    ax.legend(
        title=axis_label("granularity"), loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5
    )
    for name, ratio, leverage, height in _label_heights(shown):
        ax.annotate(
            name, (ratio, leverage), (LABEL_COLUMN, height), fontsize=9, va="center",
            arrowprops={"arrowstyle": "-", "color": theme.colour("grid"), "shrinkA": 0},
        )  # fmt: skip
    log_axes(ax, "activation_ratio")
    ax.set_xlim(0.013, 1.7)
    plain_ticks(ax.xaxis, GALLERY_TICKS)
    ax.set_ylabel(axis_label("efficiency_leverage"))
    low, high = law.domain["compute"]
    least, most = shown["training_flops"].min(), shown["training_flops"].max()
    text = f"Law: runs of {power(low)} to {power(high)} FLOPs."
    note(fig, f"{text}  These models: {power(least)} to {power(most)} FLOPs.")
    best = shown.sort_values("efficiency_leverage").iloc[-1]
    beyond = int((shown["training_flops"] > high).sum())
    finding = (
        f"Of {len(shown)} open models the law gives {best['model']} the largest leverage, "
        f"{best['efficiency_leverage']:.1f} at A = {percent(best['activation_ratio'])} and "
        f"{power(best['training_flops'])} FLOPs; {beyond} of them lie above the compute of any run "
        f"behind the law."
    )
    return Drawing(fig, shown, finding)


def frontier_table(readings: Mapping[str, Limits]) -> pd.DataFrame:
    """The best designs of a budget by their size, a row a design, for each way of naming D."""
    return pd.DataFrame(
        [
            {
                "reading": reading,
                "total_params": found.explanation.total_params,
                "active_params": found.explanation.active_params,
                "activation_ratio": found.explanation.activation_ratio,
                "granularity": found.explanation.granularity,
                "num_tokens": found.explanation.tokens,
                "efficiency_leverage": found.explanation.published.value,
            }
            for reading, limits in readings.items()
            for found in frontier(limits, FRONTIER_POINTS)
        ]
    )


@figure(
    "design-frontier",
    paper="Beyond the paper: Equation 13 over all shapes of one budget",
    data=("paper/coefficients.toml", "models"),
    caption="The largest leverage, by the published law, of the shapes searched at the budget of "
    "Ling-mini-beta, against the parameters allowed, with the tokens that Table 1 calls optimal "
    "and with the paper's own. The budget and the tokens fix what a token costs; a limit on "
    "parameters then fixes the activation ratio. The star is Ling-mini-beta.",
)
def design_frontier(table: pd.DataFrame, built: Explanation) -> Drawing:
    """EL over N, a line for each way of naming D, and the model that was built."""
    fig, ax = plt.subplots(figsize=(theme.WIDTH_INCHES * 1.1, 4.4))
    for (reading, group), style in zip(
        table.groupby("reading", sort=False), FRONTIER_STYLES, strict=False
    ):
        x, y = group["total_params"], group["efficiency_leverage"]
        ax.plot(x, y, style, color=theme.colour("published"), lw=1.6, ms=5, label=reading)
    place = built.total_params, built.published.value
    ax.plot(*place, "*", ms=13, color=theme.colour("accent"), label=built.name)
    log_axes(ax, "total_params")
    ax.set_ylabel(axis_label("efficiency_leverage"))
    ax.legend(loc="upper left")
    parts = []
    for reading, rows in table.groupby("reading", sort=False):
        least, most = rows.iloc[0], rows.iloc[-1]
        ends = (f"{row['efficiency_leverage']:.1f} at {row['total_params'] / 1e9:.0f} B"
                for row in (least, most))  # fmt: skip
        parts.append(f"from {' to '.join(ends)} ({reading})")
    note(fig, f"Published: fitted to {STUDY_RANGE}; all points lie beyond.")
    finding = (
        f"At one budget the law's best leverage grows with the parameters that memory allows, "
        f"{' and '.join(parts)}. {built.name} has {place[1]:.1f} at {place[0] / 1e9:.1f} B."
    )
    return Drawing(fig, table, finding)


@figure(
    "break-even",
    paper="Beyond the paper: Equation 13 at EL = 1",
    data=("paper/coefficients.toml", "fits/leverage.csv"),
    studies=("isoflop", "activation", "granularity"),
    caption="The compute below which Equation 13 has a mixture of experts lose to a dense model, "
    "against granularity; it is the same at every activation ratio. The band is the range of our "
    "own runs.",
)
def break_even(law: JointLaw, measured: pd.DataFrame | None = None) -> Drawing:
    """C_even over G, and measured crossings of EL = 1 by granularity."""
    runs = points(measured, CROSSING_COLUMNS)
    grain = np.geomspace(1.5, 24, 97)
    table = pd.DataFrame(
        {"granularity": grain, "training_flops": law.break_even_compute(0.05, grain)}
    )
    fig, ax = plt.subplots()
    ours = LADDER[0], LADDER[-1]
    ax.axhspan(*ours, color=theme.colour("grid"), alpha=0.6, lw=0, label="our runs")
    ink = theme.colour("published")
    ax.plot(grain, table["training_flops"], ":", color=ink, label="Table 2, extrapolated")
    if len(runs):
        label = "measured crossings"
        draw_points(ax, runs, "granularity", "training_flops", label=label)
    log_axes(ax, "granularity", "training_flops")
    plain_ticks(ax.xaxis, TABLE_8_GRANULARITY)
    ax.set_ylabel(axis_label("training_flops", prefix="break-even"))
    ax.legend()
    note(fig, ranges(STUDY_RANGE, runs))
    lowest = table.sort_values("training_flops").iloc[0]
    coarse = float(law.break_even_compute(0.05, 2.0))
    finding = (
        f"The law's break-even compute is {power(coarse)} FLOPs at G = 2 and least, "
        f"{power(lowest['training_flops'])}, near G = {lowest['granularity']:.0f}; our "
        f"own ladder of MoE models ends at {power(LADDER[-1])}."
    )
    if len(runs):
        least, most = runs["training_flops"].min(), runs["training_flops"].max()
        finding += (
            f" Our own models pass EL = 1 at {power(least)} to {power(most)} FLOPs ({len(runs)} "
            f"designs with leverages on both sides of it)."
        )
    return Drawing(fig, pd.concat([table, runs], ignore_index=True), finding)


@figure(
    "loss-bias-routing",
    paper="Beyond the paper: the routing of Ling 2.0",
    studies=("bias-routing",),
    caption="Held-out loss of the same models with the paper's balance loss and with bias "
    "balancing, at each budget of the study: means over seeds, with the 90 % interval of the noise "
    "between them.",
)
def losses_of_routing(runs: pd.DataFrame, repeated: pd.DataFrame | None = None) -> Drawing:
    """Loss over A by recipe of balancing; `runs` are those of the study `bias-routing`."""
    is_bias = runs["routing.bias_update_rate"] > 0
    labels = pd.Series(np.where(is_bias, "bias balancing", "auxiliary loss"), runs.index)
    axis = sweeps.Axis(
        name="activation_ratio", label=axis_label("activation_ratio"), symbol="A", unit=" %",
        scale=100, ticks=GALLERY_TICKS,
    )  # fmt: skip
    means = sweeps.means_of(runs, axis.name, labels, repeated)
    roles = {"auxiliary loss": "measured", "bias balancing": "accent"}
    wide = means.pivot_table(
        index=["budget_flops", axis.name], columns="series", values="loss_nats"
    )
    both = wide.dropna() if set(roles) <= set(wide) else pd.DataFrame(columns=list(roles))
    gap = both["bias balancing"] - both["auxiliary loss"]
    finding = (
        f"Bias balancing has the lower loss at {int((gap < 0).sum())} of {len(gap)} places; its "
        f"loss less that of the auxiliary loss is {gap.mean():+.3f} nats on average, from "
        f"{gap.min():+.3f} to {gap.max():+.3f}."
        if len(gap)
        else f"{len(means)} places are trained, none of them with both recipes yet."
    )
    return replace(sweeps.draw(means, axis, roles), finding=finding)


def _label_heights(shown: pd.DataFrame) -> list[tuple[str, float, float, float]]:
    """Name, A, EL and the height of the label of every model: one column, in the order of EL."""
    columns = shown.sort_values("efficiency_leverage")[
        ["model", "activation_ratio", "efficiency_leverage"]
    ]
    low, high = columns["efficiency_leverage"].min(), columns["efficiency_leverage"].max()
    heights = np.linspace(low, high, len(columns)).tolist()
    return [
        (*row, height) for row, height in zip(columns.to_numpy().tolist(), heights, strict=True)
    ]
