"""Our own runs as the table that claims about training are decided on.

Finished runs of the ledger, none left out but those that carry their reason, with the columns that
a claim may name: axes of the paper, nominal budget, family, shares of compute, and responses.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from moe_leverage import ledger
from moe_leverage.analysis.bootstrap import student_ratio
from moe_leverage.analysis.dense_frontier import best_dense, frontier_compute, of_frontier
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.gates import Gate, failing, gates
from moe_leverage.analysis.measured import load_ledger
from moe_leverage.analysis.reductions import seed_noise
from moe_leverage.config import PAPER_ROUTING
from moe_leverage.paths import DATA
from moe_leverage.rules import require
from moe_leverage.theory.law import Array, Law
from moe_leverage.theory.laws import PUBLISHED
from moe_leverage.training.schedule import curve_steps

MIN_FRONTIER = 2  # dense budgets between which a leverage can be read
EARLY_SHARE = 0.1  # of the tokens: where `early_loss` is read
RESPONSES = ("loss", "log_loss", "early_loss", "log_leverage")


def shortfall(studies: Sequence[str], *columns: str) -> str:
    """Which of these studies, and of those behind the columns, lack runs; empty if none does."""
    frontier = frontier_studies() if "log_leverage" in columns else []
    behind = plain_studies() if "fitted_leverage" in columns else frontier
    asked = dict.fromkeys([*studies, *behind])
    standings = [ledger.standing(study, ledger.DIRECTORY) for study in asked]
    lacking = [standing.words for standing in standings if not standing.is_complete]
    if "log_leverage" in columns and not frontier:
        lacking.append("the dense frontier: no run")
    return "; ".join(lacking)


def plain_studies() -> list[str]:
    """The studies of the baseline's recipe, which the laws are made from."""
    table = load_ledger(ledger.DIRECTORY)
    return [] if table.empty else sorted(table.loc[table["role"] == "plain", "study"].unique())


def frontier_studies() -> list[str]:
    """The studies with the dense runs that mixtures are held against."""
    table = ledger.table(directory=ledger.DIRECTORY)
    return [] if table.empty else sorted(of_frontier(table)["study"].unique())


def is_below_the_paper(studies: Sequence[str]) -> bool:
    """Whether every run of these studies has less compute than the least of the paper's searches.

    Without a run it is: nothing of ours reaches there.
    """
    done = runs(studies)
    return (
        done.empty
        or float(done["training_flops"].max()) < PUBLISHED.learning_rate.domain["compute"][0]
    )


def failing_gates(studies: Sequence[str], *, of_leverage: bool = True) -> tuple[str, ...]:
    """`gates.failing` of these studies in the ledger."""
    stamp = ledger.stamp(ledger.DIRECTORY)
    return _failing_gates(ledger.DIRECTORY, stamp, of_leverage, *studies)


@functools.lru_cache(maxsize=64)
def _failing_gates(
    directory: Path, _: ledger.Stamp, of_leverage: bool, *studies: str
) -> tuple[str, ...]:
    found = _gates(directory, ledger.stamp(directory))
    return failing(ledger.table(directory=directory), studies, found, of_leverage=of_leverage)


@functools.lru_cache(maxsize=2)
def _gates(directory: Path, _: ledger.Stamp) -> list[Gate]:
    return gates(ledger.table(directory=directory))


def runs(studies: Sequence[str]) -> pd.DataFrame:
    """Finished runs of these studies; empty while the ledger has none."""
    if not studies:
        return pd.DataFrame()
    return _runs(ledger.DIRECTORY, ledger.stamp(ledger.DIRECTORY), *studies).copy(deep=False)


@functools.lru_cache(maxsize=64)
def _runs(directory: Path, _: ledger.Stamp, *studies: str) -> pd.DataFrame:
    frame = ledger.table(*studies, directory=directory)
    return frame if frame.empty else with_columns(ledger.once(ledger.finished(frame)))


def with_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns that claims name beside those of the ledger."""
    axes = ["activation_ratio", "granularity", "shared_ratio", "num_dense_layers"]
    places = frame[axes].astype(float).round(4).astype(str)
    budget = frame["budget_flops"].map("{:.0e}".format)
    return frame.assign(
        budget=budget,
        is_moe=frame["is_moe"].astype(int),
        is_weakly_balanced=(
            frame["routing.balance_coefficient"] < PAPER_ROUTING.balance_coefficient
        ).astype(int),
        architecture=places.agg("/".join, axis=1),
        budget_and_granularity=budget + "/" + places["granularity"],
        published_leverage=_predicted(PUBLISHED.joint, frame),
        fitted_leverage=_predicted(_fitted_joint_law(), frame),
    )


def with_response(frame: pd.DataFrame, response: str) -> pd.DataFrame:
    """The table with a column `response`: nats, ln nats or ln EL."""
    require(response in RESPONSES, "response", response, f"must be one of {', '.join(RESPONSES)}")
    if response == "log_leverage":
        return frame.assign(response=_log_leverage(frame))
    if response == "early_loss":
        curves = zip(frame["training_loss_curve_nats"], frame["num_steps"], strict=True)
        return frame.assign(response=[early_loss(curve, int(steps)) for curve, steps in curves])
    loss = frame["loss_nats"]
    return frame.assign(response=np.log(loss) if response == "log_loss" else loss)


def shared_error(frame: pd.DataFrame, draws: int, seed: int = 0) -> Array:
    """Errors (draws, runs) of ln EL that come from the noise of the dense runs, common to all.

    Each draw moves the dense losses by the noise between seeds and reads every run off again; a run
    that leaves the frontier then stays where it was.
    """
    compute, log_loss, num_seeds = _frontier()
    if len(compute) < MIN_FRONTIER:
        return np.zeros((draws, len(frame)))
    noise, freedom = seed_noise(runs(frontier_studies()))
    if freedom == 0:
        return np.zeros((draws, len(frame)))
    spread = noise * student_ratio(freedom) / np.sqrt(num_seeds)
    moved = log_loss + np.random.default_rng(seed).standard_normal((draws, len(compute))) * spread
    wanted = np.broadcast_to(np.log(frame["loss_nats"].to_numpy(float)), (draws, len(frame)))
    with np.errstate(divide="ignore"):
        change = np.log(frontier_compute(compute, moved, wanted, 0.0))
        change = change - np.log(frontier_compute(compute, log_loss[None], wanted[:1], 0.0))
    return np.where(np.isfinite(change), change, 0.0)


def early_loss(curve: Sequence[float], num_steps: int) -> float:
    """Training loss when a tenth of the tokens is seen, between the points of the curve's grid.

    Curves of other lengths have other grids, so that their points with one number do not compare.

    >>> early_loss([5.0, 4.0, 3.0, 2.0, 1.0], num_steps=5)
    5.0
    >>> early_loss([float(step) for step in curve_steps(1000)], num_steps=1000)
    100.0
    """
    return float(np.interp(EARLY_SHARE * num_steps, curve_steps(num_steps), curve))


def _log_leverage(frame: pd.DataFrame) -> pd.Series[float]:
    """Ln EL of each run against the dense frontier, read along power laws as in Section 3.

    Missing where the loss lies outside the range of the dense runs: nothing is extrapolated.
    """
    compute, log_loss, _ = _frontier()
    if len(compute) < MIN_FRONTIER:
        return pd.Series(np.nan, index=frame.index)
    wanted = np.log(frame["loss_nats"].to_numpy(dtype=float))
    reached = frontier_compute(compute, log_loss[None], wanted[None], 0.0)[0]
    leverage = np.where(np.isfinite(reached) & (reached > 0), reached, np.nan)
    return pd.Series(np.log(leverage / frame["training_flops"].to_numpy(float)), index=frame.index)


def _frontier() -> tuple[Array, Array, Array]:
    """C, ln L and seeds of the best dense design at each budget."""
    best = best_dense(runs(frontier_studies()))
    compute, loss, seeds = (best[name].to_numpy(float) for name in ("compute", "loss", "num_seeds"))
    return compute, np.log(loss), seeds


def _fitted_joint_law() -> Law | None:
    """The joint law of our own fit, once there is one."""
    path = DATA / "fits" / "joint.json"
    return Fit.load(path).law if path.is_file() else None


def _predicted(law: Law | None, frame: pd.DataFrame) -> pd.Series[float]:
    """EL of a joint law at the axes of each run; missing without a law."""
    if law is None:
        return pd.Series(np.nan, index=frame.index)
    axes = {name: frame[name].astype(float) for name in ("activation_ratio", "granularity")}
    return pd.Series(law.evaluate(**axes, compute=frame["training_flops"]), index=frame.index)
