"""Figures of chapter 16: mixtures made of branches of a dense model, beside what else that buys.

C       training compute of a run's own steps, FLOPs
C_all   with that of all runs behind it, each once
EL      efficiency leverage, by C or by C_all
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from moe_leverage import ledger, paths
from moe_leverage.analysis.dense_frontier import best_dense
from moe_leverage.audit.pairs import LEAST_FREEDOM, gaps, mean_and_half_width
from moe_leverage.page import theme
from moe_leverage.page.drawing import linked_means, log_axes, note, power
from moe_leverage.page.links import link_runs
from moe_leverage.page.measured import ESTIMATOR, table_of
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.stages import DOMAINS

FROM_NOTHING, CONTINUED = "from nothing", "dense, continued"
AVERAGED, SHARED, FULL = "attention averaged", "attention, shared keys", "attention, all of it"
DESIGNS = {  # with the marker of each
    CONTINUED: "s",
    FROM_NOTHING: "D",
    AVERAGED: "v",
    SHARED: "^",
    FULL: "o",
}
AVERAGE = "all"  # of the domains


def final(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of the study `upcycling` that end a chain, with their `design`; no seed, no branch."""
    if runs.empty:
        return runs.assign(design=pd.Series(dtype=str))
    is_upcycled, has_attention = runs["num_parents"] > 1, runs["num_attention_experts"] > 0
    chosen = {
        FROM_NOTHING: runs["is_moe"] & (runs["num_parents"] == 0),
        CONTINUED: (runs["num_parents"] == 1) & (runs["domain"] == ""),
        AVERAGED: is_upcycled & ~has_attention,
        SHARED: has_attention & (runs["shares_key_values"] == 1),
        FULL: has_attention & (runs["shares_key_values"] != 1),
    }
    named = pd.Series("", runs.index)
    for design, rows in chosen.items():
        named[rows] = design
    return runs.assign(design=named)[named != ""]


def leverages(runs: pd.DataFrame, directory: Path = paths.FITS) -> pd.DataFrame:
    """EL of each mixture with the runs behind it charged and without, a row a design.

    EL by C is that of the fits, read from the dense frontier; by C_all it is smaller by C_all / C.
    `runs` are those of the study `upcycling`.
    """
    columns = ["design", "C", "C_all", "L", "EL", "from", "to", "EL_all", "from_all", "to_all"]
    points, mixtures = table_of("leverage", directory), final(runs)
    if points.empty or mixtures.empty:
        return pd.DataFrame(columns=columns)
    points = points[points["estimator"] == ESTIMATOR].dropna(subset=["efficiency_leverage"])
    of_run = {
        run_id: row for _, row in points.iterrows() for run_id in str(row["run_id"]).split()
    }  # fmt: skip
    rows = []
    for design, mine in mixtures.groupby("design", sort=False):
        if not mine["is_moe"].all() or (row := of_run.get(mine["run_id"].iloc[0])) is None:
            continue
        values = row[["efficiency_leverage", "low", "high"]].to_numpy(float)
        charged = values * mine["training_flops"].mean() / mine["chain_flops"].mean()
        cells = [design, mine["training_flops"].mean(), mine["chain_flops"].mean(), row["loss"]]
        rows.append([*cells, *values, *charged])
    return pd.DataFrame(rows, columns=columns).sort_values("EL_all", ignore_index=True)


def branch_table(runs: pd.DataFrame) -> pd.DataFrame:
    """What a branch's domain did to its loss on each: the seed's loss less the branch's, in nats.

    A row a branch, means over seeds.
    """
    if runs.empty:
        return pd.DataFrame(columns=["branch", *DOMAINS])
    losses = {name: f"validation.{name}.loss_nats" for name in DOMAINS}
    is_seed = (runs["num_parents"] == 0) & ~runs["is_moe"].astype(bool)
    seeds = runs[is_seed].set_index("seed")
    rows = []
    for domain in DOMAINS:
        branch = runs[runs["domain"] == domain].set_index("seed")
        won = {name: (seeds[column] - branch[column]).mean() for name, column in losses.items()}
        rows.append({"branch": domain, **won})
    return pd.DataFrame(rows)


def branches_in_words(runs: pd.DataFrame) -> str:
    """What a branch gains on its own domain and what it loses on the others, on average."""
    table = branch_table(runs)
    gains = table[list(DOMAINS)].to_numpy(float)
    if not len(gains) or np.isnan(gains).any():
        return "The branches have not been trained yet."
    is_own = np.eye(len(DOMAINS), dtype=bool)
    own, others = gains[is_own], gains[~is_own]
    return (
        f"On its own domain a branch gains {own.mean():.2f} nats on average "
        f"({own.min():.2f} to {own.max():.2f}); on those that it no longer reads it loses "
        f"{-others.mean():.2f} ({-others.max():.2f} to {-others.min():.2f})."
    )


@figure(
    "loss-upcycled",
    paper="the question of BAM's abstract",
    studies=("upcycling", "isoflop", "activation"),
    caption="Held-out loss, all domains, against training compute. Filled: all runs behind a model "
    "are charged, each once. Open, to the left: its own steps alone, what the other runs cost left "
    "out. Means over seeds with the 90 % interval of the noise between them. The line is the dense "
    "frontier of the ladder; what lies left of it or below saves compute.",
)
def losses(runs: pd.DataFrame) -> Drawing:
    """Loss over C and over C_all, a colour and marker a design; `runs` are those of `upcycling`."""
    done = final(ledger.finished(runs))
    means = linked_means(done, ["design"])
    costs = done.groupby(["budget_flops", "design"], as_index=False).agg(
        training_flops=("training_flops", "mean"), chain_flops=("chain_flops", "mean")
    )
    means = means.merge(costs, on=["budget_flops", "design"])
    dense = best_dense(ledger.finished(ledger.table("isoflop", "activation")))
    fig, ax = plt.subplots()
    ax.plot(
        dense["compute"], dense["loss"], "-", color=theme.colour("dense"), label="dense frontier"
    )
    for ink, (design, marker) in zip(_inks(), DESIGNS.items(), strict=True):
        mine = means[means["design"] == design]
        if mine.empty:
            continue
        for _, row in mine.iterrows():
            ends = [row["training_flops"], row["chain_flops"]]
            ax.plot(ends, [row["loss_nats"]] * 2, "-", color=ink, lw=0.8)
        wide = np.abs(
            mine[["loss_nats_low", "loss_nats_high"]].to_numpy().T - mine["loss_nats"].to_numpy()
        )
        ax.plot(mine["training_flops"], mine["loss_nats"], marker, color=ink, mfc="none")
        ax.errorbar(
            mine["chain_flops"], mine["loss_nats"], yerr=wide, fmt=marker, color=ink, label=design,
            elinewidth=1,
        )  # fmt: skip
        link_runs(ax, mine, "chain_flops", "loss_nats")
        link_runs(ax, mine, "training_flops", "loss_nats")
    log_axes(ax, "training_flops")
    ax.set_xlim(means["training_flops"].min() / 1.3, means["chain_flops"].max() * 1.3)
    heights = means[["loss_nats_low", "loss_nats_high"]].to_numpy()
    ax.set_ylim(np.nanmin(heights) - 0.05, np.nanmax(heights) + 0.12)
    ax.set_ylabel("Held-out loss, nats a token")
    ax.legend(fontsize=8.5)
    note(fig, "Ours alone: their abstract prints no loss.")
    return Drawing(fig, means, in_words(runs))


@figure(
    "loss-by-domain",
    paper="the question of BAM's abstract, by domain",
    studies=("upcycling",),
    caption="Loss on held-out text of each domain less that of the dense seed continued with the "
    "same compute, all runs behind charged: below zero is better. Means over seeds of one start "
    "with their 90 % interval.",
)
def domains(runs: pd.DataFrame) -> Drawing:
    """Nats by which each design differs from the dense seed continued, by domain."""
    table = by_domain(runs)
    fig, ax = plt.subplots()
    ax.axhline(0, color=theme.colour("dense"), lw=1)
    names = [AVERAGE, *DOMAINS]
    shown = [design for design in DESIGNS if design in set(table["design"])]
    inks = dict(zip(DESIGNS, _inks(), strict=True))
    for i, design in enumerate(shown):
        mine = table[table["design"] == design].set_index("domain").loc[names].reset_index()
        place = np.arange(len(names)) + (i - (len(shown) - 1) / 2) * 0.15
        ax.errorbar(
            place, mine["nats"], yerr=mine["wide"], fmt=DESIGNS[design], color=inks[design],
            label=design, elinewidth=1,
        )  # fmt: skip
        link_runs(ax, mine.assign(place=place), "place", "nats")
    ax.set_xticks(range(len(names)), names)
    ax.set_xlabel("Domain of the held-out text")
    ax.set_ylabel("Loss less the dense model's, nats")
    ax.legend(fontsize=8.5, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    note(fig, "Ours alone: their abstract prints no loss.")
    mean = table[table["domain"] == AVERAGE].set_index("design")["nats"]
    lowest, highest = str(mean.idxmin()), str(mean.idxmax())
    finding = (
        f"Over all domains {_quoted(lowest)} has the lowest loss ({mean[lowest]:+.3f} nats beside "
        f"the dense seed continued), {_quoted(highest)} the highest ({mean[highest]:+.3f})."
    )
    return Drawing(fig, table, finding)


def by_domain(runs: pd.DataFrame) -> pd.DataFrame:
    """Loss of each design less that of the dense seed continued at equal C_all, a row a domain.

    Columns `design`, `domain`, `nats`, `wide` (half of the 90 % interval), `run_id`; pairs share
    their seed.
    """
    done = final(ledger.finished(runs))
    done = done.assign(charged=done["chain_flops"].map(ledger.rung))
    beside = done[done["design"] == CONTINUED]
    columns = {AVERAGE: "loss_nats"} | {name: f"validation.{name}.loss_nats" for name in DOMAINS}
    at, rows = ["charged", "seed"], []
    for design, mine in done[done["design"] != CONTINUED].groupby("design", sort=False):
        for name, column in columns.items():
            found = gaps(mine.set_index(at)[column], beside.set_index(at)[column])
            if len(found) < found["budget"].nunique() + LEAST_FREEDOM:
                continue
            mean, wide = mean_and_half_width(found)
            rows.append({"design": design, "domain": name, "nats": mean, "wide": wide,
                         "run_id": " ".join(mine["run_id"])})  # fmt: skip
    return pd.DataFrame(rows, columns=["design", "domain", "nats", "wide", "run_id"])


def in_words(runs: pd.DataFrame) -> str:
    """The designs that cost the same in order of their loss, and whether seeds tell the first two.

    All runs behind are charged. The two are compared seed by seed.
    """
    done = final(ledger.finished(runs))
    if done.empty:
        return "No chain has been trained to its end yet."
    done = done.assign(charged=done["chain_flops"].map(ledger.rung))
    dearest = done[done["charged"] == done["charged"].max()]
    means = dearest.groupby("design")["loss_nats"].mean().sort_values()
    listed = ", ".join(f"{_quoted(str(name))} {loss:.3f}" for name, loss in means.items())
    text = f"At {power(dearest['charged'].max())} FLOPs, all runs charged: {listed} nats"
    at = ["charged", "seed"]
    of = [dearest[dearest["design"] == name].set_index(at)["loss_nats"] for name in means.index[:2]]
    found = gaps(*of) if len(of) == 2 else pd.DataFrame()
    if len(found) < 1 + LEAST_FREEDOM:
        return f"{text}."
    mean, wide = mean_and_half_width(found)
    told = "seeds tell these apart" if mean + wide < 0 else "seeds do not tell these apart"
    return (
        f"{text}. Seed by seed the first lies {-mean:.3f} nats below the second "
        f"({-mean - wide:.3f} to {-mean + wide:.3f}): {told}."
    )


def _quoted(design: str) -> str:
    return f"“{design}”"


def _inks() -> list[str]:
    roles = ("dense", "published", "muted", "measured", "moe")
    return [theme.colour(role) for role in roles]
