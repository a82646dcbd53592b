"""Tables of what this book could not show: scale, noise, runs left out, claims that disagree.

Everything is read from the ledger, the paper's tables and the audit at each build.

C    training compute, FLOPs
N    parameters outside the vocabulary
M    non-embedding FLOPs of one token
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import chi2

from moe_leverage import ledger, paper
from moe_leverage.analysis.bootstrap import NORMAL_95
from moe_leverage.analysis.gates import Gate
from moe_leverage.analysis.reductions import seed_noise
from moe_leverage.audit import Verdict, table
from moe_leverage.audit.claims import Label
from moe_leverage.config import PAPER_SEQUENCE_LENGTH, PAPER_VOCABULARY_SIZE
from moe_leverage.figures.hyperparameter_laws import (
    BATCH_TOKENS_LOG2,
    LEARNING_RATE_LOG2,
    SEARCH_FLOPS,
)
from moe_leverage.figures.trained import ARCHIVED
from moe_leverage.page import theme
from moe_leverage.page.drawing import FAMILIES, log_axes, note, plain_ticks, power
from moe_leverage.page.links import link_runs
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.paper import STUDY_BUDGETS_FLOPS

STUDY_TABLES = (7, 8, 9, 10, 11)  # the models of Section 4 and Appendix D
MANY = 1e5  # from here on a number is written as a power of ten
NUM_MODELS = "more than 300"  # Abstract
INKS = ("accent", "measured")  # of the ladders, the first one first
TELLING = NORMAL_95 * np.sqrt(2)  # standard deviations between two single runs, at 90 %


def scale(runs: pd.DataFrame, corpus_tokens: float) -> pd.DataFrame:
    """The reach of the paper's studies and of ours, a row a quantity; `ratio` is paper over ours.

    `runs` is the whole ledger, and `corpus_tokens` what our corpus holds to train on.
    """
    printed = pd.concat([paper.counted(number) for number in STUDY_TABLES], ignore_index=True)
    ours = ledger.once(ledger.finished(runs))
    if ours.empty:
        ours = pd.DataFrame(columns=["training_flops", "total_params", "flops_per_token"])
    largest = {
        "largest training compute of a study, $C$ (FLOPs)": (
            printed["training_flops"].max(), ours["training_flops"].max()),
        "smallest training compute of a study, $C$ (FLOPs)": (
            STUDY_BUDGETS_FLOPS[0], ours["training_flops"].min()),
        "largest model, $N$ (parameters)": (
            printed["total_params"].max(), ours["total_params"].max()),
        "largest model scale, $M$ (FLOPs per token)": (
            printed["flops_per_token"].max(), ours["flops_per_token"].max()),
        "text at hand (tokens)": (1e12, corpus_tokens),  # Section 5
        "vocabulary (entries)": (PAPER_VOCABULARY_SIZE, _most(ours, "vocab_size")),
        "sequence (tokens)": (PAPER_SEQUENCE_LENGTH, _most(ours, "sequence_length")),
    }  # fmt: skip
    rows = [
        {"quantity": name, "the paper": _number(theirs), "this book": _number(own),
         "ratio": float(theirs) / float(own) if own == own else np.nan}
        for name, (theirs, own) in largest.items()
    ]  # fmt: skip
    count = {"quantity": "models trained", "the paper": NUM_MODELS, "this book": f"{len(ours):,}"}
    return pd.DataFrame([*rows, count])


def tuning(runs: pd.DataFrame) -> pd.DataFrame:
    """Over which learning rates and batches each side was searched (Section 2.2), by family."""
    rows: list[dict[str, Any]] = [
        {
            "family": "MoE, the paper",
            "learning rates": _span(2.0**LEARNING_RATE_LOG2),
            "batches (tokens)": _span(2.0**BATCH_TOKENS_LOG2),
            "computes (FLOPs)": _span(SEARCH_FLOPS),
        }
    ]
    ours = ledger.once(ledger.finished(runs[runs["role"] == "search"] if len(runs) else runs))
    for family, part in ours.groupby("family") if len(ours) else ():
        batches = part["batch_tokens"]
        rows.append({
            "family": f"{FAMILIES[str(family)]}, this book",
            "settings tried": len(part[["learning_rate", "batch_tokens"]].drop_duplicates()),
            "learning rates": _span(part["learning_rate"]),
            "batches (tokens)": _span(batches),
            "computes (FLOPs)": _span(part["training_flops"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def noise_of_ladders(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`noise_by_budget` of each ladder."""
    parts = [noise_by_budget(runs).assign(ladder=name) for name, runs in found.items()]
    return pd.concat(parts, ignore_index=True)


@figure(
    "seed-noise",
    paper="no counterpart: the paper gives one run a setting",
    data=("ledger/first-ladder",),
    studies=("tuning", "isoflop", "activation"),
    caption="Standard deviation of the loss when only the seed differs, pooled over the repeated "
    "settings of each ladder, with 90 % intervals (chi-squared). Dashed: the standard error of one "
    "loss from the held-out text, which all seeds share.",
)
def noise(found: pd.DataFrame) -> Drawing:
    """Spread between seeds over compute, a line a ladder; `found` comes from `noise_of_ladders`."""
    fig, ax = plt.subplots()
    for (name, mine), role in zip(found.groupby("ladder", sort=False), INKS, strict=False):
        ink = theme.colour(role)
        ends = np.abs([mine["sd_nats"] - mine["low"], mine["high"] - mine["sd_nats"]])
        ax.errorbar(mine["training_flops"], mine["sd_nats"], yerr=ends, fmt="o-", mfc="none",
                    color=ink, lw=1, label=str(name))  # fmt: skip
        ax.plot(mine["training_flops"], mine["evaluation_nats"], "--", color=ink, lw=1)
        if name != ARCHIVED:
            link_runs(ax, mine, "training_flops", "sd_nats")
    log_axes(ax, "training_flops")
    ax.set_ylabel("Standard deviation of the loss (nats)")
    ax.set_yscale("log")
    plain_ticks(ax.yaxis, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5))
    ax.legend()
    note(fig, "Ours alone: the paper prints none of these losses.")
    last = found.loc[found.groupby("ladder", sort=False)["training_flops"].idxmax()].iloc[-1]
    finding = (
        f"At {power(last['training_flops'])} FLOPs two single runs of the {last['ladder']} have to "
        f"differ by {TELLING * last['sd_nats']:.2f} nats before the difference can be told from "
        "another seed."
    )
    return Drawing(fig, found, finding)


def noise_by_budget(runs: pd.DataFrame) -> pd.DataFrame:
    """How far losses of one setting lie apart when only the seed differs, a row a budget.

    `sd_nats` is pooled over settings, from `low` to `high` with 90 % (chi-squared);
    `evaluation_nats` the mean standard error of one loss from the held-out text alone; losses of
    one setting share that text, so it is no part of the former.
    """
    done = ledger.once(ledger.finished(runs))
    rows = []
    for budget, group in done.groupby("budget_flops") if len(done) else ():
        repeats = group[group.groupby("config_id")["run_id"].transform("size") > 1]
        sigma, freedom = seed_noise(repeats)
        if freedom:
            sd = sigma * repeats["loss_nats"].mean()
            low, high = sd * np.sqrt(freedom / chi2.ppf([0.95, 0.05], freedom))
            rows.append({
                "training_flops": float(str(budget)),
                "settings": repeats["config_id"].nunique(),
                "runs": len(repeats),
                "sd_nats": sd,
                "low": low,
                "high": high,
                "evaluation_nats": repeats["validation_standard_error_nats"].astype(float).mean(),
                "run_id": " ".join(repeats["run_id"]),
            })  # fmt: skip
    return pd.DataFrame(rows)


def left_out(runs: pd.DataFrame) -> pd.DataFrame:
    """Every run that stands in the ledger and in no analysis, a row for each reason and budget."""
    columns = ["study", "training compute (FLOPs)", "why", "number", "runs"]
    if runs.empty:
        return pd.DataFrame(columns=columns)
    kept = runs[(runs["status"] != "ok") | runs["excluded"].notna()]
    why = kept["excluded"].where(kept["excluded"].notna(), "diverged: its loss was no number")
    budget = kept["budget_flops"].map(power)
    found = kept.assign(why=why, **{columns[1]: budget})
    keys = columns[:3]
    return found.groupby(keys, as_index=False, sort=False).agg(
        number=("run_id", "nunique"), runs=("run_id", lambda ids: " ".join(dict.fromkeys(ids)))
    )


def claims(verdicts: Iterable[Verdict], *labels: Label) -> pd.DataFrame:
    """The claims with these verdicts, other readings left out: claim, place, published, found."""
    chosen = tuple(v for v in verdicts if v.label in labels and not v.claim.reading_of)
    columns = ["claim", "locator", "published", "found", "detail"]
    if not chosen:
        return pd.DataFrame(columns=columns)
    return table(chosen)[columns].rename(columns={"locator": "in the paper"})


def failing(found: Sequence[Gate]) -> pd.DataFrame:
    """The gates that fail, a row each: the studies in which, the worst figure, and its limit."""
    rows = pd.DataFrame([asdict(gate) for gate in found if not gate.holds])
    columns = ["gate", "limit", "worst figure", "in", "of", "studies"]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    judged = pd.Series([gate.name for gate in found]).value_counts()
    groups = rows.groupby("name", sort=False)
    return pd.DataFrame(
        {
            "gate": name,
            "limit": group["limit"].iloc[0],
            "worst figure": _farthest(group["figure"], group["limit"].iloc[0]),
            "in": len(group),
            "of": judged[name],
            "studies": ", ".join(group["study"]),
        }
        for name, group in groups
    )


def _farthest(figures: pd.Series[float], limit: float) -> float:
    """The figure farthest beyond its limit; one that is unknown is farther than any."""
    return float(figures.iloc[int((figures - limit).abs().fillna(np.inf).argmax())])


def runs_needed(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """What would settle each open effect, the cheapest first, if it stayed as it is.

    An interval narrows with the square root of the runs until it lies inside the region that
    agrees or outside it: `times_the_runs` is how many times the runs that takes, `then` the verdict
    that follows. A claim without an effect has no row, nor has one whose interval lies on one side
    already and that only a gate keeps open.
    """
    rows = []
    for verdict in verdicts:
        claim, effect, interval = verdict.claim, verdict.value, verdict.interval
        if verdict.label not in ("measured: cannot tell", "not decided") or claim.reading_of:
            continue
        if effect is None or interval is None or claim.region is None:
            continue
        (low, high), (least, most) = interval, claim.region
        below, above = effect - low, high - effect
        inside = least < effect < most
        if inside:
            widest = max(below / (effect - least), above / (most - effect))
        elif effect in (least, most):
            widest = np.inf
        else:
            widest = below / (effect - most) if effect > most else above / (least - effect)
        if widest <= 1:
            continue
        then = "agrees" if inside else "disagrees"
        rows.append({"claim": claim.id, "times_the_runs": widest**2, "then": then})
    frame = pd.DataFrame(rows, columns=["claim", "times_the_runs", "then"])
    return frame.set_index("claim").sort_values("times_the_runs")


def _most(frame: pd.DataFrame, column: str) -> float:
    return float(frame[column].max()) if column in frame and len(frame) else np.nan


def _number(value: float) -> str:
    if value != value:
        return "no run yet"
    return power(value) if value >= MANY else f"{value:,.0f}"


def _span(values: Any) -> str:
    low, high = (float(f"{v:.3e}") for v in (np.min(values), np.max(values)))
    shown = [_number(v) if v >= 1 else f"{v:.1e}" for v in (low, high)]
    return " to ".join(dict.fromkeys(shown))
