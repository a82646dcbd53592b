"""Our own runs as the tidy tables that the chapters' figures draw beside the published laws.

Leverage is read from the fits of the ledger (data/fits), optima from its runs (`runs_of`); an
optimum of a budget stands at its rung on the axis of C. A table is empty where runs do not yet
suffice, so that a chapter reads the same with and without them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from moe_leverage import ledger, paper, paths
from moe_leverage.analysis import reductions
from moe_leverage.analysis.bootstrap import NORMAL_95
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.measured import runs_table
from moe_leverage.analysis.points import best_runs
from moe_leverage.theory.laws import JointLaw

ESTIMATOR = "frontier"  # EL read from the dense frontier; the others stand beside it in chapter 07
LAW = "joint"  # the estimator that reads EL off our own fit of Equation 13
SAME_AXIS = 0.05  # by which whole experts may move an axis off its value
DESIGN = ["activation_ratio", "granularity", "shared_ratio"]
POINT_KEYS = [*DESIGN, "compute"]  # of a leverage
CURVES = "power curves"  # the estimator that needs a design at several budgets
MIN_GRANULARITIES = 3


def leverage_points(directory: Path = paths.FITS, **axes: float) -> pd.DataFrame:
    """EL with its interval at every MoE point of the fits, at these values of the axes.

    Points of studies that change more than A, G and C are left out, and so are mere bounds; along
    an axis also those of the joint study, which lie on no axis but by chance.
    """
    points = table_of("leverage", directory)
    if points.empty:
        return points
    kept = (points["estimator"] == ESTIMATOR) & points["variant"].isna()
    if axes:
        kept &= ~points["held_out"].astype(bool)
    for name, value in axes.items():
        kept &= np.isclose(points[name], value, rtol=SAME_AXIS)
    names = {"compute": "training_flops", "low": "leverage_low", "high": "leverage_high"}
    found = points[kept].dropna(subset=["efficiency_leverage"]).rename(columns=names)
    return found.reset_index(drop=True)


def baseline_leverage(directory: Path = paths.FITS) -> pd.DataFrame:
    """EL of the baseline mixture at each budget, both families at their best size, by estimator.

    The baseline is the paper's (Table 8). Bounds stand in `at_least` and `at_most`; budgets are
    rungs of the ladder.
    """
    points = table_of("leverage", directory)
    if points.empty:
        return points
    baseline = paper.models(8)[0]
    for name in DESIGN:
        points = points[np.isclose(points[name], getattr(baseline, name), rtol=SAME_AXIS)]
    points = points[points["variant"].isna() & (points["estimator"] != LAW)]
    points = points[~points["held_out"].astype(bool)]
    names = {"compute": "training_flops", "low": "leverage_low", "high": "leverage_high"}
    found = points.rename(columns=names)
    return found.assign(training_flops=found["training_flops"].map(ledger.rung))


def best_sizes(runs: pd.DataFrame) -> pd.DataFrame:
    """The size with the lowest mean loss at each budget, dense and MoE, from runs of several sizes.

    Its 90 % interval is that of a mean of so many seeds under the noise between them.
    """
    if runs.empty:
        return pd.DataFrame()
    table = runs_table(runs)
    best = best_runs(table)
    noise = reductions.widened_noise(ledger.finished(runs))
    wide = NORMAL_95 * noise / np.sqrt(best["num_seeds"])
    return pd.DataFrame({
        "family": np.where(best["is_moe"], "moe", "dense"),
        "training_flops": best["compute"].map(ledger.rung),
        "flops_per_token": best["flops_per_token"],
        "loss_nats": best["loss"],
        "loss_nats_low": best["loss"] * np.exp(-wide),
        "loss_nats_high": best["loss"] * np.exp(wide),
        "num_seeds": best["num_seeds"],
        "run_id": best["run_id"],
    })  # fmt: skip


def leverage_by_budget(directory: Path = paths.FITS) -> pd.DataFrame:
    """Reach of the measured EL at each budget, and how many points lie clearly off 1, by interval.

    Points of the joint study, each at a budget of its own, are left out.
    """
    found = leverage_points(directory)
    if found.empty:
        return found
    found = found[~found["held_out"].astype(bool)]
    return (
        found.assign(
            budget_flops=found["training_flops"].map(ledger.rung),
            above=found["leverage_low"] > 1,
            below=found["leverage_high"] < 1,
        )
        .groupby("budget_flops", as_index=False)
        .agg(
            designs=("efficiency_leverage", "size"),
            lowest=("efficiency_leverage", "min"),
            highest=("efficiency_leverage", "max"),
            above=("above", "sum"),
            below=("below", "sum"),
        )
    )


def joint_law(directory: Path = paths.FITS) -> JointLaw | None:
    """Equation 13 as fitted to our own runs, if the ledger's fits have it."""
    path = directory / "joint.json"
    law = Fit.load(path).law if path.is_file() else None
    return law if isinstance(law, JointLaw) else None


def fits(*names: str, directory: Path = paths.FITS) -> dict[str, Fit]:
    """Those of the ledger's fits that there are, by name."""
    files = {name: directory / f"{name}.json" for name in names}
    return {name: Fit.load(path) for name, path in files.items() if path.is_file()}


def table_of(name: str, directory: Path = paths.FITS) -> pd.DataFrame:
    """A table that the fits of the ledger wrote: `rivals` or `profiles`; empty before."""
    path = directory / f"{name}.csv"
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def estimates(directory: Path = paths.FITS) -> pd.DataFrame:
    """EL of plain MoE designs by every estimator, where there are budgets enough for a curve.

    `agree` says of a point whether the 90 % intervals of its estimators have a value in common.
    """
    points = table_of("leverage", directory)
    if points.empty:
        return points
    points = points[points["variant"].isna()]
    known = points.dropna(subset=["efficiency_leverage", "low", "high"])
    groups = known.groupby(POINT_KEYS)
    agree = (groups["low"].max() <= groups["high"].min()).rename("agree")
    is_curved = groups["estimator"].agg(lambda names: CURVES in set(names)).rename("is_curved")
    told = known.merge(pd.concat([agree, is_curved], axis=1).reset_index(), on=POINT_KEYS)
    names = {"compute": "training_flops", "low": "leverage_low", "high": "leverage_high"}
    told = told[told["is_curved"]].rename(columns=names)
    columns = [*names.values(), "activation_ratio", "granularity", "estimator"]
    told = told[[*columns, "efficiency_leverage", "agree", "run_id"]]
    return told.assign(budget_flops=told["training_flops"].map(ledger.rung)).reset_index(drop=True)


def predicted_points(directory: Path = paths.FITS) -> pd.DataFrame:
    """Measured EL of each plain MoE point beside the value of our own joint law, and its part.

    `part` is `fitted`, `largest sixth` (kept from the fit for its leverage) or `joint study`.
    """
    points = table_of("leverage", directory)
    if points.empty:
        return points
    points = points[points["variant"].isna()]
    keys = [*POINT_KEYS, "loss"]
    by_law = points.loc[points["estimator"] == LAW, [*keys, "efficiency_leverage", "held_out"]]
    measured = points[points["estimator"] == ESTIMATOR].dropna(subset=["efficiency_leverage"])
    both = measured.merge(by_law, on=keys, suffixes=("", "_predicted"))
    part = np.where(both["held_out"], "joint study", "largest sixth")
    part = np.where(both["held_out_predicted"], part, "fitted")
    names = {"compute": "training_flops", "low": "leverage_low", "high": "leverage_high"}
    names["efficiency_leverage_predicted"] = "predicted_leverage"
    return both.assign(part=part).rename(columns=names)


def hyperparameter_optima(runs: pd.DataFrame) -> pd.DataFrame:
    """Near-optimal settings (Section 2.2) at every budget, dense and MoE."""
    table = _with_variants(runs)
    if table.empty:
        return table
    parts = [reductions.near_optimal(group) for _, group in table.groupby("family")]
    columns = ["training_flops", "learning_rate", "batch_tokens", "family", "excess_loss", "run_id"]
    return pd.concat(parts, ignore_index=True).assign(training_flops=lambda t: t["budget"])[columns]


def allocation_minima(runs: pd.DataFrame) -> pd.DataFrame:
    """M_opt and D_opt at every budget with enough sizes (Section 2.3), dense and MoE."""
    table = _with_variants(runs)
    if table.empty:
        return table
    parts = [
        reductions.isoflop_optima(group).assign(family=name)
        for name, group in table.groupby("family")
    ]
    minima = pd.concat(parts, ignore_index=True).rename(columns={"compute": "training_flops"})
    return minima.dropna(subset=["flops_per_token"]).reset_index(drop=True)


def allocation_ratio(minima: pd.DataFrame) -> pd.DataFrame:
    """M_opt of MoE over M_opt of dense at every budget that has both, with its 90 % interval.

    The families' runs are independent, so that the half widths of ln M_opt add in squares.
    """
    if minima.empty or not {"moe", "dense"} <= set(minima["family"]):
        return pd.DataFrame()
    at = minima.set_index(["family", "training_flops"])
    names = ["flops_per_token", "flops_per_token_low", "flops_per_token_high"]
    moe, dense = (np.log(at.loc[family, names]) for family in ("moe", "dense"))
    (m, m_low, m_high), (d, d_low, d_high) = ([of[name] for name in names] for of in (moe, dense))
    behind = {family: at.loc[[family]].droplevel(0)["run_id"] for family in ("moe", "dense")}
    ratio = pd.DataFrame({
        "model_ratio": np.exp(m - d),
        "model_ratio_low": np.exp(m - d - np.hypot(m - m_low, d_high - d)),
        "model_ratio_high": np.exp(m - d + np.hypot(m_high - m, d - d_low)),
        "run_id": behind["moe"] + " " + behind["dense"],
    })  # fmt: skip
    return ratio.dropna(subset="model_ratio").reset_index()


def best_by_budget(runs: pd.DataFrame, axis: str, *also: str) -> pd.DataFrame:
    """The value of `axis` with the lowest mean loss over seeds at every budget (and `also`)."""
    table = _with_variants(runs)
    if table.empty:
        return table
    table = table.assign(training_flops=table["budget"])  # a rung, as a place on the axis of C
    keys = ["training_flops", *also]
    means = table.groupby([*keys, axis], as_index=False).agg(
        loss=("loss", "mean"),
        flops_per_token=("flops_per_token", "mean"),
        run_id=("run_id", " ".join),
    )
    enough = means.groupby(keys)[axis].transform("nunique") >= MIN_GRANULARITIES
    means = means[enough]
    best: pd.DataFrame = means.sort_values("loss").drop_duplicates(keys)
    return best.sort_values(keys, ignore_index=True)


def _with_variants(runs: pd.DataFrame) -> pd.DataFrame:
    """Finished runs under the names of the laws, with what the variants change in them."""
    if runs.empty:
        return pd.DataFrame()
    done = reductions.with_law_names(ledger.finished(runs))
    return done.assign(
        balance_coefficient=done["routing.balance_coefficient"],
        attention_share=done["attention_share"].round(2),
    )
