"""The pilots of the second ladder: which routing recipe, and where seeds differ from.

The routing pilot sets six ways to balance experts side by side on three designs (Appendix B,
App. D; Ling 2.0); the noise pilot changes one part of the recipe at a time over six seeds, and
draws weights and order of the text apart.

C        budget_flops     rung of the ladder, FLOPs
busiest  busiest expert over the mean of its layer, on held-out text; the worst layer of a run
sd       standard deviation of the loss between seeds, nats
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from scipy.special import ndtri
from scipy.stats import chi2, t

from moe_leverage import ledger
from moe_leverage.analysis.bootstrap import LEVEL
from moe_leverage.analysis.gates import MOST_LOAD
from moe_leverage.page import theme
from moe_leverage.page.drawing import note, percent, plain_ticks, power
from moe_leverage.page.links import BARS, link_runs
from moe_leverage.page.registry import Drawing, figure

MIN_SEEDS = 3  # below which no spread is shown
COLUMNS = ("run_id", "budget_flops", "design", "recipe", "seed", "loss_nats", "busiest", "idle")
BASE = "nothing"  # changed: the recipe of the noise pilot, of which the others change one part
CHANGES = (  # field, its value in the paper's recipe, and how another one is called
    ("warmup_fraction", 0.01, "warm-up {:.0%}"),
    ("final_rate_fraction", 0.1, "decay to {:.0%}"),
    ("merge_checkpoints", 0, "last {:.0f} averaged"),
    ("adam_beta2", 0.95, "beta2 {:g}"),
)
SOURCES = {"both": "weights and order", "weights": "weights alone", "order": "order alone"}


def designs(runs: pd.DataFrame) -> pd.Series[str]:
    """A mixture as its experts, G and A; or dense."""
    words = [
        f"E = {experts}, G = {granularity:.0f}, A = {percent(ratio)}" if experts else "dense"
        for experts, granularity, ratio in zip(
            runs["num_experts"], runs["granularity"], runs["activation_ratio"], strict=True
        )
    ]
    return pd.Series(words, runs.index)


def routing_recipe(run: Mapping[Any, Any]) -> str:
    """How a run keeps its experts balanced, in a few words."""
    if run["routing.bias_update_rate"] > 0:
        return f"{run['routing.score']} with bias"
    return f"balance loss {run['routing.balance_coefficient']:g}"


def noise_recipe(run: Mapping[Any, Any], usual_rate: float) -> str:
    """What a run of the noise pilot changes of the paper's recipe."""
    changed = [words.format(run[name]) for name, usual, words in CHANGES if run[name] != usual]
    if run["learning_rate"] != usual_rate:
        changed.append(f"rate x {run['learning_rate'] / usual_rate:g}")
    if run["qk_norm"] != "none":
        changed.append("QK-norm")
    return " and ".join(changed) or BASE


def routing_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a finished run of the routing pilot: design, recipe, loss, busiest and idle experts."""
    done = ledger.finished(runs)
    return done.assign(
        design=designs(done),
        recipe=[routing_recipe(run) for run in done.to_dict("records")],
        busiest=ledger.worst_layer(done, "load.max_over_mean"),
        idle=ledger.worst_layer(done, "load.idle_experts"),
    )[list(COLUMNS)]


def noise_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a finished run of the noise pilot: design, recipe, what its seed draws, loss."""
    done = ledger.finished(runs)
    usual = done.groupby("budget_flops")["learning_rate"].transform("max")
    pairs = zip(done.to_dict("records"), usual, strict=True)
    both = np.where(done["order_seed"] < 0, "both", "weights")
    fixed_weights = (done["order_seed"] > 0) & (done["seed"] == 0)
    columns = ["run_id", "budget_flops", "design", "recipe", "drawn", "seed", "order_seed"]
    return done.assign(
        design=designs(done),
        recipe=[noise_recipe(run, rate) for run, rate in pairs],
        drawn=np.where(fixed_weights, "order", both),
    )[[*columns, "loss_nats"]]


def spreads(noise: pd.DataFrame) -> pd.DataFrame:
    """Mean, spread and its 90 % interval (chi-squared) by budget, design, recipe and what is drawn.

    A change's loss is also set against the paper's recipe, seed by seed, with Student's interval.
    """
    keys = ["budget_flops", "design", "recipe", "drawn"]
    noise = pd.concat([noise, _shared_first(noise)], ignore_index=True)
    base = noise[(noise["recipe"] == BASE) & (noise["drawn"] == "both")]
    paper = base.set_index(["budget_flops", "design", "seed"])["loss_nats"]
    rows = []
    for key, mine in noise.groupby(keys, sort=False):
        if len(mine) < MIN_SEEDS:
            continue
        losses, freedom = mine["loss_nats"].to_numpy(dtype=float), len(mine) - 1
        sd = losses.std(ddof=1)
        low, high = sd * np.sqrt(freedom / chi2.ppf([(1 + LEVEL) / 2, (1 - LEVEL) / 2], freedom))
        row = dict(zip(keys, key, strict=True)) | {
            "seeds": len(mine), "loss_nats": losses.mean(), "sd": sd, "sd_low": low,
            "sd_high": high, "run_id": " ".join(mine["run_id"]),
        }  # fmt: skip
        rows.append(row | _gain(mine, paper))
    return pd.DataFrame(rows)


def _shared_first(noise: pd.DataFrame) -> pd.DataFrame:
    """The run with seed 0 for weights and order, counted with the runs that vary one of them."""
    first = noise[(noise["recipe"] == BASE) & (noise["drawn"] == "weights") & (noise["seed"] == 0)]
    return first.assign(drawn="order")


def _gain(mine: pd.DataFrame, base: pd.Series[float]) -> dict[str, float]:
    """Loss less that of the paper's recipe with the same seed: mean and interval."""
    places = pd.MultiIndex.from_frame(mine[["budget_flops", "design", "seed"]])
    differences = (mine["loss_nats"].to_numpy() - base.reindex(places).to_numpy()).astype(float)
    differences = differences[np.isfinite(differences)]
    if len(differences) < MIN_SEEDS or mine["drawn"].iloc[0] != "both":
        return {"change": np.nan, "change_low": np.nan, "change_high": np.nan}
    wide = t.ppf((1 + LEVEL) / 2, len(differences) - 1) * differences.std(ddof=1)
    wide = wide / np.sqrt(len(differences))
    mean = differences.mean()
    return {"change": mean, "change_low": mean - wide, "change_high": mean + wide}


@figure(
    "routing-pilot",
    paper="Appendix B and App. D: what balances the experts, and at what loss",
    studies=("routing-pilot",),
    caption="Validation loss against the busiest expert over the mean of its layer, held-out text, "
    "worst layer, for six ways to balance the load. A mark a run, two seeds each; left of the line "
    "the gate of the second ladder holds.",
)
def routing(table: pd.DataFrame) -> Drawing:
    """Loss over imbalance, a panel for each design and budget."""
    budgets, names = sorted(table["budget_flops"].unique()), list(table["design"].unique())
    size = (theme.WIDTH_INCHES * 1.35, 3.2 * len(budgets) + 0.6)
    fig, panels = plt.subplots(
        len(budgets), len(names), figsize=size, sharex=True, sharey="row", squeeze=False
    )
    recipes = sorted(table["recipe"].unique())
    inks = theme.sequential_colours(len(recipes))
    for row, budget in zip(panels, budgets, strict=True):
        for ax, name in zip(row, names, strict=True):
            here = table[(table["budget_flops"] == budget) & (table["design"] == name)]
            if here.empty:
                fig.delaxes(ax)
                continue
            ax.axvline(MOST_LOAD, color=theme.colour("muted"), lw=0.8)
            sns.scatterplot(
                here, x="busiest", y="loss_nats", hue="recipe", style="recipe", hue_order=recipes,
                style_order=recipes, palette=inks, markers=list("osD^vP"), s=45,
                edgecolor=theme.colour("surface"), ax=ax, legend=ax is panels[0, -1],
            )  # fmt: skip
            link_runs(ax, here, "busiest", "loss_nats")
            ax.set_title(name, fontsize=9)
            where = {"transform": ax.transAxes, "ha": "right", "fontsize": 8.5}
            ax.text(0.98, 0.03, f"{power(budget)} FLOPs", color=theme.colour("muted"), **where)
            ax.set_xscale("log")
            plain_ticks(ax.xaxis, (1, 2, 4, 8, 16, 32, 64))
    for ax in panels[-1]:
        ax.set_xlabel("Busiest expert over mean")
    for ax in panels[:, 0]:
        ax.set_ylabel("Validation loss (nats)")
    panels[0, -1].legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    note(fig, f"Ours: {', '.join(map(power, budgets))} FLOPs, two seeds.")
    return Drawing(fig, table, _routing_finding(table))


def standings(table: pd.DataFrame) -> pd.DataFrame:
    """Mean loss and busiest expert of each recipe at each budget, over the designs all have run.

    A recipe is compared on equal designs alone; `designs` says on how many, of `of`.
    """
    rows = []
    for budget, mine in table.groupby("budget_flops"):
        recipes = mine["recipe"].nunique()
        common = mine[mine.groupby("design")["recipe"].transform("nunique") == recipes]
        for recipe, group in common.groupby("recipe"):
            rows.append({
                "budget_flops": budget,
                "recipe": recipe,
                "designs": group["design"].nunique(),
                "of": table["design"].nunique(),
                "runs": len(group),
                "loss_nats": group.groupby("design")["loss_nats"].mean().mean(),
                "busiest": group["busiest"].max(),
            })  # fmt: skip
    columns = ["budget_flops", "recipe", "designs", "of", "runs", "loss_nats", "busiest"]
    return pd.DataFrame(rows, columns=columns)


def _routing_finding(table: pd.DataFrame) -> str:
    """Per budget, the recipe with the lowest mean loss, and the lowest among the balanced ones."""
    sentences = []
    for budget, found in standings(table).groupby("budget_flops"):
        best = found.sort_values("loss_nats").iloc[0]
        text = (
            f"At {power(float(str(budget)))} FLOPs, on {best['designs']} of {best['of']} designs, "
            f"{best['recipe']} has the lowest mean loss, {best['loss_nats']:.3f} nats, with its "
            f"busiest expert at {best['busiest']:.1f} times the mean"
        )
        held = found[found["busiest"] <= MOST_LOAD]
        if held.empty:
            text += f"; no recipe keeps every run below {MOST_LOAD:g}"
        elif (first := held.sort_values("loss_nats").iloc[0])["recipe"] != best["recipe"]:
            text += f"; of those below {MOST_LOAD:g}, {first['recipe']}, {first['loss_nats']:.3f}"
        sentences.append(text)
    return ". ".join(sentences) + "."


@figure(
    "noise-pilot",
    paper="no counterpart: the paper gives one run a setting",
    studies=("noise-pilot",),
    caption="Left: standard deviation of the loss between seeds for each change of the pilot's "
    "recipe. Right: what the change does to the loss, seed by seed. Bars are 90 % intervals "
    "(chi-squared, Student).",
)
def noise(table: pd.DataFrame) -> Drawing:
    """Spread and change of the loss by recipe, a colour a design, at the budget with most runs."""
    budget = table.groupby("budget_flops")["seeds"].sum().idxmax()
    mine = table[(table["budget_flops"] == budget) & (table["drawn"] == "both")]
    size = theme.WIDTH_INCHES * 1.35, 0.5 * mine["recipe"].nunique() + 1.4
    fig, axes = plt.subplots(1, 2, figsize=size, sharey=True)
    inks = theme.sequential_colours(mine["design"].nunique())
    for ax, column in zip(axes, ("sd", "change"), strict=True):
        # of three numbers, value and ends, the median is the value and all of them the interval
        three = mine.melt(["recipe", "design"], [column, f"{column}_low", f"{column}_high"])
        sns.pointplot(
            three, x="value", y="recipe", hue="design", estimator="median", errorbar=("pi", 100),
            palette=inks, dodge=0.44, linestyle="none", mfc="none", ms=5, mew=1.2, capsize=0.1,
            err_kws={"linewidth": 1}, ax=ax, legend=ax is axes[1],
        )  # fmt: skip
        _link_dodged(ax, mine)
    axes[0].set_xlim(left=0)
    axes[0].set_ylabel("What is changed")
    axes[0].set_xlabel("sd between seeds (nats)")
    axes[1].set_xlabel("Loss less the unchanged recipe (nats)")
    axes[1].axvline(0, color=theme.colour("muted"), lw=0.8)
    axes[1].legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    note(fig, f"Ours: {power(float(str(budget)))} FLOPs, up to {int(mine['seeds'].max())} seeds.")
    return Drawing(fig, table, _noise_finding(mine))


def _link_dodged(ax: Axes, mine: pd.DataFrame) -> None:
    """Links over the points of `seaborn.pointplot`: a line a design, in it a place a recipe."""
    recipes = mine["recipe"].unique()
    marked = [line for line in ax.get_lines() if line.get_marker() not in BARS]
    lines = [line for line in marked if np.size(line.get_xdata()) > 0]  # none is a legend's key
    for line, design in zip(lines, mine["design"].unique(), strict=True):
        runs = mine[mine["design"] == design].set_index("recipe")["run_id"].reindex(recipes)
        places = pd.DataFrame(np.asarray(line.get_xydata()), columns=["x", "y"]).assign(
            run_id=runs.to_numpy()
        )
        link_runs(ax, places, "x", "y")


def _noise_finding(mine: pd.DataFrame) -> str:
    base = mine[mine["recipe"] == BASE].set_index("design")["sd"]
    spread = ", ".join(f"{value:.3f} ({name})" for name, value in base.items())
    means = mine[mine["recipe"] != BASE].groupby("recipe")["change"].mean().dropna()
    if means.empty:
        return f"With nothing changed the loss differs between seeds by {spread} nats."
    best = str(means.idxmin())
    return (
        f"With nothing changed the loss differs between seeds by {spread} nats; of the changes, "
        f"{best} moves the mean loss most to the good, by {means[best]:+.3f} nats."
    )


def conclusion(routing: pd.DataFrame, spread: pd.DataFrame) -> str:
    """What the pilots say of the recipe so far, in sentences written for each outcome."""
    found = standings(routing)
    found = found[found["budget_flops"] == found["budget_flops"].max()]
    held = found[found["busiest"] <= MOST_LOAD].sort_values("loss_nats")
    base = spread[(spread["recipe"] == BASE) & (spread["drawn"] == "both")]
    where = (
        f"At {power(float(found['budget_flops'].iloc[0]))} FLOPs, on the "
        f"{found['designs'].iloc[0]} of {found['of'].iloc[0]} designs that every recipe has run,"
    )
    if held.empty:
        least = found.sort_values("busiest").iloc[0]
        first = (
            f"{where} no recipe keeps the busiest expert of every run at {MOST_LOAD:g} times the "
            f"mean or below; the closest is {least['recipe']}, with {least['busiest']:.1f}."
        )
    else:
        first = (
            f"{where} {held['recipe'].iloc[0]} has the lowest mean loss of the recipes that "
            f"keep every run balanced, {held['loss_nats'].iloc[0]:.3f} nats. {_lead(held, base)}"
        )
    better = spread[(spread["change_high"] < 0) & (spread["drawn"] == "both")]
    named = ", ".join(dict.fromkeys(better["recipe"]))
    second = (
        f"Changes that lower the loss of some design beyond their interval: {named}."
        if named
        else "No change of the recipe lowers the loss of any design beyond its interval."
    )
    third = (
        f"The spread between seeds of the unchanged recipe lies between {base['sd'].min():.3f} and "
        f"{base['sd'].max():.3f} nats over designs and budgets."
    )
    return " ".join((first, second, third))


def _lead(held: pd.DataFrame, base: pd.DataFrame) -> str:
    """Whether the first of the balanced recipes is surely first: every design run, beyond noise."""
    first = held.iloc[0]
    if first["designs"] < first["of"]:
        return "That decides nothing yet: the other designs have not been run with every recipe."
    if len(held) == 1:
        return "**It is the only one.**"
    lead = held["loss_nats"].iloc[1] - first["loss_nats"]
    needed = ndtri((1 + LEVEL) / 2) * base["sd"].max() * np.sqrt((1 / held["runs"].iloc[:2]).sum())
    if lead > needed:
        return f"**It leads by {lead:.3f} nats, more than seeds differ.**"
    return (
        f"That decides nothing: its lead over {held['recipe'].iloc[1]} is {lead:.3f} nats, and "
        f"seeds alone may make {needed:.3f}."
    )
