"""The pilot that fixed the protocol's open choices: gates, batches, rates, init (Appendix B).

One run a point, chosen by hand before any study was planned; every one stands in the ledger. The
noise to hold them against is that between seeds of the `hparams` study.

C      training compute, FLOPs
eta    peak learning rate
B      batch size, tokens
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from moe_leverage import ledger
from moe_leverage.analysis.reductions import seed_noise
from moe_leverage.page import theme
from moe_leverage.page.drawing import log_axes, note, plain_ticks, power
from moe_leverage.page.registry import Drawing, figure

INIT_STD = 0.02  # of every study
PAPER_INIT_STD = 0.006  # Appendix B, at 10 to 100 times our width
OTHER_STD = 0.06
GATES_TOKENS = 2048  # batch at which both kinds of gates were tried
FIRST_PLAN_FLOPS = 1.9e15  # of the 382 runs that all studies planned on the first ladder
RENORMALISED, RAW, DENSE = "gates renormalised", "gates as printed", "dense"
INKS = {RENORMALISED: "moe", RAW: "accent", DENSE: "dense"}
WORKERS = 2  # processes that trained the ledger, one a core
CONFIGURATION = ("budget_flops", "num_experts", "learning_rate", "batch_tokens", "init_std")


def settings(runs: pd.DataFrame) -> pd.DataFrame:
    """Finished runs with their family, batch in tokens, and budget on the ladder."""
    done = runs[runs["status"] == "ok"].reset_index(drop=True)
    mixture = np.where(done["routing.renormalise"].astype(bool), RENORMALISED, RAW)
    return done.assign(
        family=np.where(done["is_moe"], mixture, DENSE),
        error=done["validation_standard_error_nats"].astype(float),
    )


def difference_noise(runs: pd.DataFrame) -> float:
    """Standard deviation of the difference between two runs of other seeds, pooled, in nats."""
    done = ledger.finished(runs)
    return float(np.sqrt(2) * seed_noise(done)[0] * done["loss_nats"].mean())


@figure(
    "pilot-gates",
    paper="Section 2.1: whether the chosen gates are renormalised is not stated",
    data=("ledger/first-ladder/pilot.jsonl",),
    caption="Validation loss against peak learning rate with the gates of the chosen experts "
    "divided by their sum, and as the softmax over all experts gives them. Line: E = 64; diamonds: "
    "E = 256. One run a point; bars are the standard error over validation windows.",
)
def gates(pilot: pd.DataFrame) -> Drawing:
    """Both kinds of gates at one budget and batch, with the dense model for scale."""
    table = _plain(pilot)
    table = table[table["batch_tokens"] == GATES_TOKENS]
    budget = table["budget_flops"].iloc[0]
    fig, ax = plt.subplots()
    for family, ink in INKS.items():
        mine = table[table["family"] == family]
        few, many = mine[mine["num_experts"] <= 64], mine[mine["num_experts"] > 64]
        _line(ax, few, ink, family)
        ax.plot(many["learning_rate"], many["loss_nats"], "D", color=theme.colour(ink), ms=7)
    _rate_axis(ax, table)
    ax.legend()
    note(fig, f"Ours: {power(budget)} FLOPs, batches of {GATES_TOKENS:,} tokens, one seed.")
    mixtures = table[table["family"] != DENSE]
    pairs = mixtures.pivot_table(
        index=["num_experts", "learning_rate"], columns="family", values="loss_nats"
    ).dropna()
    gain = pairs[RAW] - pairs[RENORMALISED]
    lows = mixtures[mixtures["num_experts"] == 64].groupby("family")["loss_nats"].min()
    finding = (
        f"With 64 experts the lowest loss over the rates tried is {lows[RENORMALISED]:.2f} nats "
        f"with renormalised gates and {lows[RAW]:.2f} with gates as printed; in the {len(gain)} "
        f"pairs at one setting renormalising lowers the loss in {(gain > 0).sum()}, by up to "
        f"{gain.max():.2f} nats, and raises it by up to {max(-gain.min(), 0):.2f} in the others."
    )
    return Drawing(fig, _shown(table), finding)


@figure(
    "pilot-rates",
    paper="Equation 3 and the search grid of Section 2.2",
    data=("ledger/first-ladder/pilot.jsonl",),
    caption="Validation loss against peak learning rate at three batch sizes, dense and with 64 "
    "experts and renormalised gates. One run a point; bars are the standard error over validation "
    "windows.",
)
def rates(pilot: pd.DataFrame) -> Drawing:
    """The first grid of learning rates and batches, from which that of `hparams` was drawn."""
    table = _plain(pilot)
    table = table[(table["num_experts"] <= 64) & (table["family"] != RAW)]
    batches = sorted(table["batch_tokens"].unique())
    fig, axes = plt.subplots(1, 2, figsize=(theme.WIDTH_INCHES * 1.25, 4.0), sharey=True)
    for ax, family in zip(axes, (DENSE, RENORMALISED), strict=True):
        mine = table[table["family"] == family]
        marks = zip(theme.sequential_colours(len(batches)), "os^", batches, strict=False)
        for colour, mark, size in marks:
            line = mine[mine["batch_tokens"] == size].sort_values("learning_rate")
            ax.errorbar(
                line["learning_rate"], line["loss_nats"], yerr=line["error"], color=colour,
                marker=mark, mfc="none", lw=1.2, label=f"{size:,}",
            )  # fmt: skip
        _rate_axis(ax, table)
        ax.set_title("dense" if family == DENSE else "MoE, E = 64")
    axes[0].legend(title="batch, tokens")
    axes[1].set_ylabel("")
    note(fig, f"Ours: {power(table['budget_flops'].iloc[0])} FLOPs, one seed.")
    best = table.loc[table.groupby("family")["loss_nats"].idxmin()]
    best = best[["family", "loss_nats", "learning_rate", "batch_tokens"]]
    words = [
        f"{loss:.2f} nats at a rate of {rate:g} and {size:,} tokens "
        f"for {'dense' if family == DENSE else 'MoE'}"
        for family, loss, rate, size in best.itertuples(index=False)
    ]
    finding = (
        f"The lowest losses are {' and '.join(words)}; the smallest batch tried was "
        f"{batches[0]:,} tokens, the largest {batches[-1]:,}."
    )
    return Drawing(fig, _shown(table), finding)


def init_table(pilot: pd.DataFrame) -> pd.DataFrame:
    """Loss by init std at each setting where another than INIT_STD was tried, in columns."""
    setting = [name for name in CONFIGURATION if name != "init_std"]
    wide = settings(pilot).pivot_table(
        index=["family", "d_model", *setting], columns="init_std", values="loss_nats"
    )
    tried = wide[wide.drop(columns=INIT_STD).notna().any(axis=1)].reset_index()
    return tried.rename(columns={std: f"std {std:g}" for std in wide.columns}).rename_axis(
        columns=None
    )


def init_contrast(pilot: pd.DataFrame) -> dict[str, float]:
    """Change of the loss from INIT_STD: at the paper's value, and at OTHER_STD at both rates.

    `init_most` is the most that any other value lowers it at any setting.
    """
    table = init_table(pilot)
    plain = table[f"std {INIT_STD:g}"]
    changes = table.filter(like="std ").sub(plain, axis=0).assign(family=table["family"])
    found = {"init_most": -changes.filter(like="std ").min().min()}
    for name, family in (("dense", DENSE), ("moe", RENORMALISED)):
        mine = changes[changes["family"] == family]
        found[f"init_paper_{name}"] = mine[f"std {PAPER_INIT_STD:g}"].dropna().iloc[0]
        other = mine[f"std {OTHER_STD:g}"].dropna()
        by_loss = table.loc[other.index, f"std {OTHER_STD:g}"].to_numpy().argsort()
        found[f"init_best_{name}"] = other.iloc[by_loss[0]]
        found[f"init_other_{name}"] = other.iloc[by_loss[-1]]
    return {name: float(value) for name, value in found.items()}


def totals(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a study, and all: runs, failures, FLOPs and hours of one worker; each run once.

    A run that several studies plan is counted with the first; `runs` holds the whole ledger.
    """
    once = ledger.once(runs)
    table = pd.DataFrame({
        "study": once["study"],
        "runs": 1,
        "diverged": (once["status"] == "diverged").astype(int),
        "excluded": once["excluded"].notna().astype(int),
        "FLOPs": once["training_flops"],
        "tokens (million)": once["num_tokens"] / 1e6,
        "hours": (once["seconds"] + once["evaluation_seconds"]) / 3600,
    })  # fmt: skip
    rows = table.groupby("study", sort=False, as_index=False).sum()
    everything = rows.drop(columns="study").sum().to_frame().T.assign(study="all")
    whole = dict.fromkeys(("runs", "diverged", "excluded"), int)
    return pd.concat([rows, everything], ignore_index=True).astype(whole)


def throughput(runs: pd.DataFrame) -> dict[str, float]:
    """FLOP/s of one worker: over all its training time, at best, and hours that ladders take."""
    once = ledger.once(runs)
    speed = float(once["training_flops"].sum() / once["seconds"].sum())
    best = float(once["flops_per_second"].max())
    return {
        "speed_giga": speed / 1e9,
        "best_speed_giga": best / 1e9,
        "first_ladder_hours": FIRST_PLAN_FLOPS / speed / WORKERS / 3600,
        "first_ladder_hours_at_best": FIRST_PLAN_FLOPS / best / WORKERS / 3600,
    }


def _plain(pilot: pd.DataFrame) -> pd.DataFrame:
    """The runs of the first grid: the budget with most runs, and the init of the studies."""
    table = settings(pilot)
    budget = float(table["budget_flops"].mode().iloc[0])
    return table.loc[(table["budget_flops"] == budget) & (table["init_std"] == INIT_STD)]


def _line(ax: Axes, runs: pd.DataFrame, ink: str, label: str) -> None:
    line = runs.sort_values("learning_rate")
    ax.errorbar(
        line["learning_rate"], line["loss_nats"], yerr=line["error"], color=theme.colour(ink),
        marker="o", mfc="none", lw=1.2, label=label, ls=":" if ink == "dense" else "-",
    )  # fmt: skip


def _rate_axis(ax: Axes, table: pd.DataFrame) -> None:
    log_axes(ax, "learning_rate")
    plain_ticks(ax.xaxis, sorted(table["learning_rate"].unique()))
    ax.set_ylabel("Validation loss (nats)")


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    columns = ["run_id", "family", "num_experts", "learning_rate", "batch_tokens", "loss_nats"]
    return table[[*columns, "error"]].reset_index(drop=True)
