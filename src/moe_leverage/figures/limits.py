"""Tables of what this book could not show: scale, noise, runs left out, claims that disagree.

Everything is read from the ledger, the paper's tables and the audit at each build.

C    training compute, FLOPs
N    parameters outside the vocabulary
M    non-embedding FLOPs of one token
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moe_leverage import ledger, paper
from moe_leverage.analysis.reductions import budget_of
from moe_leverage.audit import Verdict, table
from moe_leverage.audit.claims import Label
from moe_leverage.figures.hyperparameter_laws import (
    BATCH_TOKENS_LOG2,
    LEARNING_RATE_LOG2,
    SEARCH_FLOPS,
)
from moe_leverage.page.drawing import PAPER_BUDGETS_FLOPS, power
from moe_leverage.page.sizes import sizes_of

STUDY_TABLES = (7, 8, 9, 10, 11)  # the models of Section 4 and Appendix D
MANY = 1e5  # from here on a number is written as a power of ten
NUM_MODELS = "more than 300"  # Abstract


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that ended with a loss and are not excluded."""
    if runs.empty:
        return runs
    return runs[(runs["status"] == "ok") & runs["excluded"].isna()].drop_duplicates("run_id")


def scale(runs: pd.DataFrame, corpus_tokens: float) -> pd.DataFrame:
    """The reach of the paper's studies and of ours, a row a quantity; `ratio` is paper over ours.

    `runs` is the whole ledger, and `corpus_tokens` what our corpus holds to train on.
    """
    printed = pd.concat([sizes_of(number) for number in STUDY_TABLES], ignore_index=True)
    ours = finished(runs)
    if ours.empty:
        ours = pd.DataFrame(columns=["training_flops", "total_params", "flops_per_token"])
    largest = {
        "largest training compute of a study, $C$ (FLOPs)": (
            printed["compute_flops"].max(), ours["training_flops"].max()),
        "smallest training compute of a study, $C$ (FLOPs)": (
            PAPER_BUDGETS_FLOPS[0], ours["training_flops"].min()),
        "largest model, $N$ (parameters)": (
            printed["total_params"].max(), ours["total_params"].max()),
        "largest model scale, $M$ (FLOPs per token)": (
            printed["flops_per_token"].max(), ours["flops_per_token"].max()),
        "text at hand (tokens)": (1e12, corpus_tokens),  # Section 5
        "vocabulary (entries)": (paper.VOCABULARY_SIZE, _most(ours, "vocab_size")),
        "sequence (tokens)": (paper.SEQUENCE_LENGTH, _most(ours, "sequence_length")),
    }  # fmt: skip
    rows = [
        {"quantity": name, "the paper": _number(theirs), "this book": _number(own),
         "ratio": float(theirs) / float(own) if own == own else np.nan}
        for name, (theirs, own) in largest.items()
    ]  # fmt: skip
    count = {"quantity": "models trained", "the paper": NUM_MODELS, "this book": f"{len(ours):,}"}
    return pd.DataFrame([*rows, count])


def tuning(runs: pd.DataFrame) -> pd.DataFrame:
    """Over which learning rates and batches each side was tuned (Section 2.2), a row a family."""
    rows: list[dict[str, Any]] = [
        {
            "family": "MoE, the paper",
            "learning rates": _span(2.0**LEARNING_RATE_LOG2),
            "batches (tokens)": _span(2.0**BATCH_TOKENS_LOG2),
            "computes (FLOPs)": _span(SEARCH_FLOPS),
        }
    ]
    ours = finished(runs)
    for name, is_moe in (("dense, this book", False), ("MoE, this book", True)):
        part = ours[(ours["num_experts"] > 0) == is_moe] if len(ours) else ours
        if part.empty:
            continue
        batches = part["batch_sequences"] * part["sequence_length"]
        pairs = pd.DataFrame({"rate": part["learning_rate"], "batch": batches})
        rows.append({
            "family": name,
            "settings tried": len(pairs.drop_duplicates()),
            "learning rates": _span(part["learning_rate"]),
            "batches (tokens)": _span(batches),
            "computes (FLOPs)": _span(part["training_flops"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def seed_noise(directory: Path = ledger.DIRECTORY) -> pd.DataFrame:
    """How far losses of one setting lie apart when only the seed differs, a row a budget.

    `sd_nats` is pooled over settings, `evaluation_nats` the mean standard error of one loss from
    the held-out text alone; losses of one setting share that text, so it is not part of `sd_nats`.
    """
    groups: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for path in sorted(directory.glob("*.jsonl")):
        for record in ledger.records(path):
            if record["status"] == "ok" and record["excluded"] is None:
                setting = {k: v for k, v in record["config"].items() if k != "seed"}
                groups[json.dumps(setting, sort_keys=True)][record["run_id"]] = record
    rows = [_repeated(list(group.values())) for group in groups.values() if len(group) > 1]
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows)
    return pd.DataFrame([
        {
            "training compute (FLOPs)": power(budget),
            "settings": len(part := frame[frame["budget"] == budget]),
            "runs": int(part["runs"].sum()),
            "sd_nats": np.sqrt(np.average(part["variance"], weights=part["runs"] - 1)),
            "evaluation_nats": part["evaluation"].mean(),
        }
        for budget in sorted(frame["budget"].unique())
    ])  # fmt: skip


def left_out(runs: pd.DataFrame) -> pd.DataFrame:
    """Every run that stands in the ledger and in no analysis, a row for each reason and budget."""
    columns = ["study", "training compute (FLOPs)", "why", "number", "runs"]
    if runs.empty:
        return pd.DataFrame(columns=columns)
    kept = runs[(runs["status"] != "ok") | runs["excluded"].notna()]
    why = kept["excluded"].where(kept["excluded"].notna(), "diverged: its loss was no number")
    budget = [power(float(c)) for c in budget_of(kept["training_flops"].to_numpy(dtype=float))]
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


def runs_needed(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """What would decide each undecided claim, the cheapest first, if its effect stayed as it is.

    An interval narrows with the square root of the runs until it lies inside the region that
    agrees or outside it: `times_the_runs` is how many times the runs that takes, `then` the verdict
    that follows. A claim without an effect has no row.
    """
    rows = []
    for verdict in verdicts:
        claim, effect, interval = verdict.claim, verdict.value, verdict.interval
        if verdict.label != "measured: cannot tell" or claim.reading_of:
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
        then = "agrees" if inside else "disagrees"
        rows.append({"claim": claim.id, "times_the_runs": widest**2, "then": then})
    frame = pd.DataFrame(rows, columns=["claim", "times_the_runs", "then"])
    return frame.set_index("claim").sort_values("times_the_runs")


def _repeated(records: list[dict[str, Any]]) -> dict[str, float]:
    losses = [record["validation_loss_nats"] for record in records]
    errors = [record["validation_standard_error_nats"] for record in records]
    exponent = round(2 * np.log10(records[0]["training_flops"])) / 2
    return {
        "budget": float(f"{10**exponent:.0e}"),
        "runs": len(records),
        "variance": float(np.var(losses, ddof=1)),
        "evaluation": float(np.mean(errors)),
    }


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
