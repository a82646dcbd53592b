"""Figures of chapter 08: Ling-mini-beta beside Dense-6.1B (Section 5, Tables 3 and 4, Figure 14).

A    activation ratio
C    training compute, FLOPs
EL   efficiency leverage
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from moe_leverage import ledger
from moe_leverage.audit.evidence import early_loss
from moe_leverage.audit.pairs import LEAST_FREEDOM, gaps, mean_and_half_width
from moe_leverage.page import theme
from moe_leverage.page.drawing import FAMILIES, draw_points, note, percent, power, ranges
from moe_leverage.page.notation import axis_label
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.theory.laws import JointLaw
from moe_leverage.training.schedule import curve_steps

EARLIEST_SHARE = 0.01  # of the tokens, before which the loss only leaves that of chance
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
    place = scores.index + pd.factorize(scores["category"])[0]  # a row above each for its name
    fig, ax = plt.subplots(figsize=(theme.WIDTH_INCHES * 1.05, 8.2))
    for sign, role, label in (
        (1, "moe", "Ling-mini-beta ahead"),
        (-1, "dense", "Dense-6.1B ahead"),
    ):
        is_side = np.sign(scores["difference"]) == sign
        side, rows, ink = scores[is_side], place[is_side], theme.colour(role)
        ax.hlines(rows, 0, side["difference"], color=ink, lw=2)
        ax.plot(side["difference"], rows, theme.MARKERS[role], color=ink, label=label)
    ax.axvline(0, color=theme.colour("muted"), lw=1)
    ax.set_yticks(place, scores["metric"], fontsize=9)
    for category, rows in scores.groupby("category").groups.items():
        above = float(place[rows].max()) + 1
        ax.axhline(above + 0.5, color=theme.colour("grid"), lw=1)
        ax.text(
            16.8, above, str(category), fontsize=9, ha="right", va="center",
            color=theme.colour("muted"),
        )  # fmt: skip
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("Difference of scores (points)")
    ax.set_ylabel("Benchmark")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
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
        columns = {"training_flops": reach, "efficiency_leverage": drawn}
        tables.append(pd.DataFrame(columns).assign(convention=convention))
    ax.axvline(compute, color=theme.colour("moe"), lw=1.2)
    ax.axhline(compute_ratio, color=theme.colour("accent"), ls="--", label="compute, dense / MoE")
    ax.set_xscale("log")
    ax.set_xlabel(axis_label("training_flops"))
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


@figure(
    "nano-beta-curves",
    paper="Figure 10",
    studies=("nano-beta",),
    caption="Training loss of our pair over the tokens seen, a line a seed: the mixture has the "
    "expert layout of Ling-mini-beta, the dense model is its partner by our measured law. Markers: "
    "loss on held-out documents at the end.",
)
def pair_curves(runs: pd.DataFrame) -> Drawing:
    """Loss over tokens of both models; `runs` are those of the study `nano-beta`."""
    done = ledger.finished(runs)
    fig, ax = plt.subplots()
    tables = []
    for name, group in done.groupby("family"):
        label, line, ink = FAMILIES[str(name)], theme.LINES[str(name)], theme.colour(str(name))
        for place, row in enumerate(group.to_dict("records")):
            steps, total = np.array(curve_steps(int(row["num_steps"]))), float(row["num_tokens"])
            curve = pd.DataFrame({
                "family": name, "seed": row["seed"],
                "num_tokens": total * steps / int(row["num_steps"]),
                "training_loss_nats": row["training_loss_curve_nats"],
            })  # fmt: skip
            later = curve[curve["num_tokens"] >= EARLIEST_SHARE * total]
            ax.plot(
                later["num_tokens"], later["training_loss_nats"], line, color=ink,
                label="" if place else f"{label}, training",
            )  # fmt: skip
            tables.append(curve)
        draw_points(ax, group, "num_tokens", "loss_nats", colour=ink, label=f"{label}, held out")
    ax.set_xlabel(axis_label("num_tokens"))
    ax.set_ylabel("Cross-entropy (nats per token)")
    ax.legend()
    note(fig, ranges("curves without numbers, Figure 10", done))
    curves = pd.concat(tables, ignore_index=True)
    return Drawing(fig, curves, _pair_finding(done))


def seed_by_seed(runs: pd.DataFrame) -> str:
    """What the pair says of the leverage that its partner was sized by, in words.

    Models of one seed read the same text in the same order. Nothing is said without three seeds.
    """
    done = ledger.finished(runs)
    at = [pd.Series("of the pair", done.index, name="budget"), "seed"]
    losses = {str(name): of.groupby(at)["loss_nats"].mean() for name, of in done.groupby("family")}
    if set(losses) != set(FAMILIES):
        return ""
    found = gaps(losses["moe"], losses["dense"])
    if len(found) < 1 + LEAST_FREEDOM:
        return ""
    mean, wide = mean_and_half_width(found)
    compute = done.groupby("family")["training_flops"].mean()
    start = (
        f"Our law gave the dense partner {compute['dense'] / compute['moe']:.2f} times the compute "
        f"of the mixture, so that both would end level. Seed by seed the mixture ends "
        f"{abs(mean):.3f} nats {'below' if mean < 0 else 'above'} it ({mean - wide:+.3f} to "
        f"{mean + wide:+.3f}, {len(found)} pairs)"
    )
    if mean + wide < 0:
        return f"{start}: the mixture saves more than the law said."
    if mean - wide > 0:
        return f"{start}: the mixture saves less than the law said."
    return f"{start}, which cannot be told from level."


def _pair_finding(runs: pd.DataFrame) -> str:
    """The gap at the end with its standard error over seeds, and who leads early."""
    groups = {str(name): group["loss_nats"] for name, group in runs.groupby("family")}
    if set(groups) != set(FAMILIES):
        return f"{len(runs)} runs are drawn, of one family only."
    gap = float(groups["moe"].mean() - groups["dense"].mean())
    error = float(np.sqrt(sum(losses.var() / len(losses) for losses in groups.values())))
    curves = zip(runs["training_loss_curve_nats"], runs["num_steps"], strict=True)
    starts = pd.Series([early_loss(curve, int(steps)) for curve, steps in curves], runs.index)
    early = starts.groupby(runs["family"]).mean()
    start = (
        f"; when a tenth of the tokens is seen the {FAMILIES[str(early.idxmin())]} model is ahead, "
        f"by {early.max() - early.min():.2f} nats on average"
    )
    known = f"standard error {error:.3f}" if np.isfinite(error) else "seeds not repeated"
    return (
        f"The mixture's loss less its dense partner's is {gap:+.3f} nats ({known}; the paper's "
        f"pair about 0.01){start}.{_farthest(runs)}"
    )


def _farthest(runs: pd.DataFrame) -> str:
    """The run farthest from the median of its model, and the gap without it; by name, not cut."""
    off = runs["loss_nats"] - runs.groupby("family")["loss_nats"].transform("median")
    place = int(off.abs().to_numpy().argmax())
    distance = float(off.iloc[place])
    family, seed = str(runs["family"].iloc[place]), int(runs["seed"].iloc[place])
    others = runs.drop(index=runs.index[place]).groupby("family")["loss_nats"].mean()
    if len(others) < len(FAMILIES) or not distance:
        return ""
    return (
        f" Seed {seed} of the {FAMILIES[family]} model lies farthest from the median of its own, "
        f"by {distance:+.3f} nats; without it the "
        f"difference is {others['moe'] - others['dense']:+.3f} nats."
    )
