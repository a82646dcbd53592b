"""Figures of chapter 08: Ling-mini-beta beside Dense-6.1B (Section 5, Tables 3 and 4, Figure 14).

A    activation ratio
C    training compute, FLOPs
EL   efficiency leverage
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from moe_leverage.figures import theme
from moe_leverage.figures.common import note, percent, power
from moe_leverage.figures.notation import axis_label
from moe_leverage.figures.registry import Drawing, figure
from moe_leverage.theory.laws import JointLaw

TRAINING = "both models trained on 1e12 tokens (Section 5)"


@figure(
    "benchmark-profile",
    paper="Table 4 and Figure 14",
    data=("paper/table_04.csv",),
    caption="Score of Ling-mini-beta less score of Dense-6.1B, benchmark by benchmark as printed, "
    "sorted within each category.",
)
def benchmark_profile(table_4: pd.DataFrame) -> Drawing:
    """Differences of the printed scores, one dot a benchmark."""
    scores = table_4[table_4["row"] == "benchmark"].copy()
    scores["difference"] = scores["ling_mini_beta_score"] - scores["dense_6_1b_score"]
    scores = scores.sort_values(["category", "difference"]).reset_index(drop=True)
    fig, ax = plt.subplots(figsize=(theme.WIDTH_INCHES * 1.05, 8.2))
    for sign, role, label in (
        (1, "moe", "Ling-mini-beta ahead"),
        (-1, "dense", "Dense-6.1B ahead"),
    ):
        side = scores[np.sign(scores["difference"]) == sign]
        ink = theme.colour(role)
        ax.hlines(side.index, 0, side["difference"], color=ink, lw=2)
        ax.plot(side["difference"], side.index, theme.MARKERS[role], color=ink, label=label)
    ax.axvline(0, color=theme.colour("muted"), lw=1)
    ax.set_yticks(scores.index, scores["metric"], fontsize=9)
    starts = scores.groupby("category").head(1)
    for at, category in zip(starts.index, starts["category"], strict=True):
        ax.axhline(at - 0.5, color=theme.colour("grid"), lw=1)
        ax.text(
            16.8, at - 0.3, category, fontsize=9, ha="right", va="bottom",
            color=theme.colour("muted"),
        )  # fmt: skip
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("Difference of scores (points)")
    ax.set_ylabel("Benchmark")
    ax.legend(loc="upper left")
    note(fig, f"Published: {TRAINING}.")
    ahead = int((scores["difference"] > 0).sum())
    extremes = scores.set_index("metric")["difference"]
    finding = (
        f"Ling-mini-beta scores higher on {ahead} of {len(scores)} benchmarks, by "
        f"{scores['difference'].mean():.1f} points on average; the largest lead is "
        f"{extremes.max():.1f} points on {extremes.idxmax()}, the largest deficit "
        f"{-extremes.min():.1f} on {extremes.idxmin()}."
    )
    return Drawing(fig, scores.drop(columns="row"), finding)


@figure(
    "ling-leverage",
    paper="Section 5, the claim of more than sevenfold leverage",
    data=("paper/coefficients.toml", "models/Ling-mini-beta.json", "models/Dense-6.1B.json"),
    caption="The leverage that Table 2 predicts for Ling-mini-beta under each way of counting its "
    "activation ratio, over training compute. Dashed: the compute ratio of the two models as "
    "counted here.",
)
def leverage(
    law: JointLaw, ratios: pd.DataFrame, granularity: float, compute: float, compute_ratio: float
) -> Drawing:
    """EL over C for each convention of A; `ratios` has convention and activation_ratio."""
    reach = np.geomspace(1e20, 1e24, 81)
    fig, ax = plt.subplots()
    tables = []
    styles = ("-", "--", ":")
    named = zip(ratios["convention"], ratios["activation_ratio"], strict=True)
    for style, (convention, ratio) in zip(styles, named, strict=False):
        drawn = law(activation_ratio=ratio, granularity=granularity, compute=reach)
        label = f"{convention}: {percent(ratio)}"
        ax.plot(reach, drawn, style, color=theme.colour("published"), label=label)
        columns = {"compute_flops": reach, "efficiency_leverage": drawn}
        tables.append(pd.DataFrame(columns).assign(convention=convention))
    ax.axvline(compute, color=theme.colour("moe"), lw=1.2)
    ax.axhline(compute_ratio, color=theme.colour("accent"), ls="--", label="compute, dense / MoE")
    ax.set_xscale("log")
    ax.set_xlabel(axis_label("compute_flops"))
    ax.set_ylabel(axis_label("efficiency_leverage"))
    ax.legend(loc="upper left")
    note(fig, f"Vertical line: compute of Ling-mini-beta, {power(compute)} FLOPs; {TRAINING}.")
    here = law(
        activation_ratio=ratios["activation_ratio"].to_numpy(), granularity=granularity,
        compute=compute,
    )  # fmt: skip
    finding = (
        f"At the {power(compute)} FLOPs that Ling-mini-beta took, the law predicts a leverage of "
        f"{here.min():.2f} to {here.max():.2f}, depending on how A is counted; the dense partner "
        f"took {compute_ratio:.1f} times the compute."
    )
    return Drawing(fig, pd.concat(tables, ignore_index=True), finding)
