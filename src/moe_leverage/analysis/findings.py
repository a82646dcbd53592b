"""Every law of the paper that a table of runs identifies, fitted, with reasons for the others.

One routine serves our ledger and a reader's table: hyperparameters (Section 2.2), allocation (2.3),
loss curves and leverage (3), the separable and joint laws and their rivals (4.2).

    A, G, S   activation ratio, granularity, shared-expert ratio
    M, D, C   FLOPs per token, tokens, compute
    EL        efficiency leverage

A table of runs has the columns of `leverage`, and `active_params` where known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from moe_leverage.analysis.as_leverage import Frontier, as_leverage
from moe_leverage.analysis.bootstrap import NORMAL_95, student_ratio
from moe_leverage.analysis.diagnose import Score, compare
from moe_leverage.analysis.fitting import Family, Fit, UnidentifiedError, fit
from moe_leverage.analysis.leverage import (
    MIN_SEED_PAIRS,
    RESAMPLES,
    Leverage,
    estimate,
    family_curves,
)
from moe_leverage.analysis.points import FAMILY, best_runs, family_name, settings, table_noise
from moe_leverage.analysis.reductions import (
    budgets,
    isoflop_optima,
    mean_over_seeds,
    near_optimal,
    redrawn_optima,
)
from moe_leverage.theory.law import Array, Law, Source
from moe_leverage.theory.laws import (
    PUBLISHED,
    ComputeLaw,
    GranularityLaw,
    JointLaw,
    PowerLaw,
    SaturatedActivationLaw,
)
from moe_leverage.theory.registry import rivals
from moe_leverage.theory.rivals import ChinchillaLaw, FlooredPowerLaw

MIN_RATES, MIN_BATCHES = 3, 3  # different values that make a sweep of a budget
MIN_BUDGET_CLUSTERS = 4  # budgets that serve as the independent units of a hyperparameter fit
MIN_SWEPT_BUDGETS = 2
MOST_SECTIONS = 3  # of a kind that are fitted, those of most points: more say the same again
SECTIONS: tuple[tuple[type[Law], str, tuple[str, ...]], ...] = (
    (SaturatedActivationLaw, "activation", ("granularity", "budget")),
    (GranularityLaw, "granularity", ("activation_ratio", "budget")),
    (ComputeLaw, "compute", ("activation_ratio", "granularity")),
)
EQUATIONS = {
    "learning_rate": "Eq. 3",
    "batch_tokens": "Eq. 3",
    "model": "Table 1",
    "tokens": "Table 1",
    "loss": "Section 3",
    "activation": "Eq. 10",
    "granularity": "Eq. 11",
    "compute": "Eq. 12",
    "joint": "Eq. 13",
    "chinchilla": "Hoffmann et al. (2022)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a table of runs says: fits by name, leverage, and what could not be fitted and why."""

    fits: dict[str, Fit]
    skipped: dict[str, str]
    warnings: list[str]
    leverage: Leverage | None = None
    optima: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # isoFLOP, by family
    scores: Mapping[str, list[Score]] = field(default_factory=dict)  # rivals, by kind of test


def examine(
    table: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0, floor: float | None = None
) -> Findings:
    """Everything that one table of runs identifies; `floor` pins that of the dense frontier."""
    measured = leverage_laws(table, resamples=resamples, seed=seed, floor=floor, screen=True)
    parts = [
        hyperparameters(table, resamples=resamples, seed=seed),
        allocation(table, resamples=resamples, seed=seed),
        chinchilla(table, resamples=resamples, seed=seed),
        measured,
    ]
    if measured.leverage is None:
        parts.append(lone_curves(table, resamples=resamples, seed=seed))
    else:
        parts.insert(-1, loss_curves(measured.leverage))
        parts.append(section_laws(measured.leverage, resamples=resamples, seed=seed))
    return merge(parts)


def merge(parts: list[Findings]) -> Findings:
    """Several findings as one; later ones win where names meet."""
    found = Findings(fits={}, skipped={}, warnings=[])
    for part in parts:
        found = replace(
            found,
            fits=found.fits | part.fits,
            skipped=found.skipped | part.skipped,
            warnings=found.warnings + part.warnings,
            leverage=part.leverage or found.leverage,
            optima={**found.optima, **part.optima},
            scores={**found.scores, **part.scores},
        )
    return found


def hyperparameters(
    table: pd.DataFrame,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    repeated: pd.DataFrame | None = None,
) -> Findings:
    """Equation 3: learning rate and batch of the near-optimal runs against compute.

    Uses, of dense and of MoE runs, the family with the most of them, at the budgets where it sweeps
    the quantity. The noise between seeds is that of `repeated`, or else of the table itself.
    """
    source = table if repeated is None else repeated
    noise, freedom = table_noise(source) if "seed" in source else (0.0, 0)
    noise = noise * student_ratio(freedom) if freedom >= MIN_SEED_PAIRS else 0.0
    found = Findings(fits={}, skipped={}, warnings=[])
    for family, runs in _largest_families(table):
        for name, least in (("learning_rate", MIN_RATES), ("batch_tokens", MIN_BATCHES)):
            label = f"dense_{name}" if family == "dense" else name
            try:
                fitted = _hyperparameter_fit(runs, name, least, resamples, seed, noise)
                found.fits[label] = replace(fitted, family=family)
            except UnidentifiedError as error:
                found.skipped[label] = str(error)
    return found


def allocation(table: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> Findings:
    """Equation 4 and Table 1: M_opt and D_opt of isoFLOP parabolas against compute."""
    found = Findings(fits={}, skipped={}, warnings=[])
    optima: dict[str, pd.DataFrame] = {}
    kinds = {"flops_per_token": "model", "num_tokens": "tokens"}
    for family, runs in _largest_families(table):
        missing = _unknown(runs, *kinds)
        if missing:
            reason = f"{', '.join(missing)}: not in the table"
            found.skipped.update({f"{family}_{kind}": reason for kind in kinds.values()})
            continue
        points = isoflop_optima(runs.assign(config_id=settings(runs)))
        optima[family] = points
        sound = points[points["reason"] == ""]
        for column, kind in kinds.items():
            try:
                fitted = (
                    _allocation_fit(sound, column, resamples, seed)
                    if len(sound)
                    else _refuse(f"isoFLOP optima = 0: {'; '.join(points['reason'].unique())}")
                )
                found.fits[f"{family}_{kind}"] = _described(fitted, kind, family)
            except UnidentifiedError as error:
                found.skipped[f"{family}_{kind}"] = str(error)
    return replace(found, optima=optima)


def chinchilla(table: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> Findings:
    """L(N, D) of dense and of MoE runs, N the active parameters without the vocabulary's."""
    found = Findings(fits={}, skipped={}, warnings=[])
    for family, runs in _largest_families(table):
        label = f"{family}_chinchilla"
        is_dense = family == "dense"
        size = "total_params" if is_dense and "active_params" not in runs else "active_params"
        if _unknown(runs, size, "num_tokens"):
            found.skipped[label] = f"{size} or num_tokens: not in the table"
            continue
        sized = runs.rename(columns={size: "num_params"})
        best = sized.groupby(["num_params", "num_tokens"])["loss"].idxmin()
        try:
            clusters = "run_id" if "run_id" in sized else ""
            fitted = fit(
                ChinchillaLaw, sized.loc[best], "loss", clusters=clusters, resamples=resamples,
                seed=seed,
            )  # fmt: skip
            found.fits[label] = _described(fitted, "chinchilla", family)
        except UnidentifiedError as error:
            found.skipped[label] = str(error)
    return found


def leverage_laws(
    table: pd.DataFrame,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    floor: float | None = None,
    screen: bool = False,
) -> Findings:
    """Leverage by all estimators, the joint law fitted to it, and the scores of its rivals."""
    found = joint_law(table, resamples=resamples, seed=seed, floor=floor, screen=screen)
    if found.leverage is None:
        return found
    return replace(found, scores=_rival_scores(found.leverage, seed))


def joint_law(
    table: pd.DataFrame,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    floor: float | None = None,
    screen: bool = False,
) -> Findings:
    """Leverage by all estimators, and the joint law fitted to it."""
    found = Findings(fits={}, skipped={}, warnings=[])
    try:
        measured = estimate(table, resamples=resamples, seed=seed, floor=floor, screen=screen)
    except ValueError as error:
        found.skipped["leverage"] = str(error)
        return found
    found.warnings.extend(measured.warnings)
    if "optimal frontier" in measured.skipped:
        found.skipped["optimal frontier"] = measured.skipped["optimal frontier"]
    if "joint" in measured.fits:
        found.fits["joint"] = _described(measured.fits["joint"], "joint")
    else:
        found.skipped["joint"] = measured.skipped["joint"]
    ratios = _plain_points(measured)["shared_ratio"].unique()
    if len(ratios) > 1:
        found.warnings.append(
            f"shared_ratio takes {len(ratios)} values; laws (10) to (13) leave it out"
        )
    return replace(found, leverage=measured)


def loss_curves(measured: Leverage) -> Findings:
    """L(C) of the dense runs (Section 3): with a floor, and the paper's own form, without."""
    found = Findings(fits={}, skipped={}, warnings=[])
    for name, law in (("dense_loss", FlooredPowerLaw), ("dense_loss_power", PowerLaw)):
        curve = f"dense, {law.__name__}"
        if curve in measured.fits:
            found.fits[name] = _described(measured.fits[curve], "loss", "dense")
        else:
            found.skipped[name] = measured.skipped[curve]
    return found


def lone_curves(table: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> Findings:
    """L(C) where there is no leverage: of dense runs, and of the largest family of mixtures."""
    found = Findings(fits={}, skipped={}, warnings=[])
    for family, runs in _largest_families(table):
        best = best_runs(runs.assign(held_out=False))
        fits, skipped = family_curves(best, resamples=resamples, seed=seed)
        for kind, law in (("loss", FlooredPowerLaw), ("loss_power", PowerLaw)):
            fitted = next(
                (fit for name, fit in fits.items() if name.endswith(f", {law.__name__}")), None
            )
            if fitted is not None:
                found.fits[f"{family}_{kind}"] = _described(fitted, "loss", family)
            else:
                found.skipped[f"{family}_{kind}"] = next(iter(skipped.values()))
    return found


def section_laws(measured: Leverage, *, resamples: int = RESAMPLES, seed: int = 0) -> Findings:
    """The laws (10) to (12) along one axis, at every value of the others that has enough points."""
    found = Findings(fits={}, skipped={}, warnings=[])
    for label, fitted in _section_fits(_plain_points(measured), resamples, seed):
        if isinstance(fitted, Fit):
            found.fits[label] = fitted
        else:
            found.skipped[label] = fitted
    return found


def published_leverage(points: pd.DataFrame) -> pd.Series:
    """EL by the published law at the points of a table, far outside its range or not."""
    known = points.dropna(subset=list(JointLaw.inputs))
    inputs = {name: known[name].to_numpy(dtype=float) for name in JointLaw.inputs}
    value = PUBLISHED.joint(**inputs) if len(known) else []
    return pd.Series(value, index=known.index, dtype=float).reindex(points.index)


def _largest_families(table: pd.DataFrame) -> Iterator[tuple[Family, pd.DataFrame]]:
    """("dense", its runs) and ("moe", the runs of the MoE family that has most)."""
    present = [name for name in FAMILY if name in table and name != "held_out"]
    families: tuple[tuple[Family, bool], ...] = (("dense", False), ("moe", True))
    for name, is_moe in families:
        runs = table[table["is_moe"] == is_moe]
        if len(runs) and is_moe:
            family = runs[present].round(4).groupby(present, dropna=False).ngroup()
            runs = runs[family == family.mode()[0]]
        if len(runs):
            yield name, runs


def _unknown(runs: pd.DataFrame, *names: str) -> list[str]:
    """Those of the quantities that not every run of a family has."""
    return [name for name in names if name not in runs or runs[name].isna().any()]


def _hyperparameter_fit(
    runs: pd.DataFrame, name: str, least: int, resamples: int, seed: int, noise: float
) -> Fit:
    if name not in runs:
        raise UnidentifiedError(f"{name}: not in the table")
    budget = pd.Series(budgets(runs), index=runs.index)
    swept = runs[name].groupby(budget).transform("nunique") >= least
    if budget[swept].nunique() < MIN_SWEPT_BUDGETS:
        raise UnidentifiedError(
            f"{name}: {budget[swept].nunique()} budget(s) try {least} or more values; "
            f"a power law needs {MIN_SWEPT_BUDGETS}"
        )
    if noise:
        return _grid_fit(runs[swept], name, noise, resamples, seed)
    points = near_optimal(runs[swept])
    points = points.assign(compute=points["budget"])
    by_budget = points["budget"].nunique() >= MIN_BUDGET_CLUSTERS
    clusters = "budget" if by_budget else ""
    fitted = fit(PowerLaw, points, name, clusters=clusters, resamples=resamples, seed=seed)
    units = "budgets" if by_budget else "near-optimal runs, for want of budgets"
    return _described(fitted, name, note=f"{_family_of(runs)}; independent units: {units}")


def _grid_fit(runs: pd.DataFrame, name: str, noise: float, resamples: int, seed: int) -> Fit:
    """A law through the near-optimal settings, its samples from seed noise and the grid's steps."""
    names = [other for other in ("learning_rate", "batch_tokens") if other in runs]
    settings = mean_over_seeds(runs, names)
    points = near_optimal(settings).assign(compute=lambda found: found["budget"])
    fitted = fit(PowerLaw, points, name, resamples=0, seed=seed)
    optima, log_compute = redrawn_optima(settings, name, noise, resamples, seed)
    note = f"intervals from seed noise of {noise:.1%} and half a step of the grid"
    fitted = _through(fitted, optima, log_compute)
    return _described(fitted, name, note=f"{_family_of(runs)}; {note}")


def _allocation_fit(optima: pd.DataFrame, column: str, resamples: int, seed: int) -> Fit:
    """A law through isoFLOP optima; with few of them its samples follow from their own intervals.

    Three optima that happen to lie on a line would else be a law without doubt.
    """
    fitted = fit(PowerLaw, optima, column, resamples=resamples, seed=seed)
    if len(optima) >= MIN_BUDGET_CLUSTERS:
        return fitted
    low, value, high = (
        np.log(optima[f"{column}{end}"].to_numpy()) for end in ("_low", "", "_high")
    )
    drawn = np.random.default_rng(seed).standard_normal((resamples, len(optima)))
    spread = np.where(drawn < 0, value - low, high - value) / NORMAL_95  # the ends lie unevenly
    return _through(fitted, value + drawn * spread, np.log(optima["compute"].to_numpy(float)))


def _through(fitted: Fit, log_optima: Array, log_compute: Array) -> Fit:
    """The fit with samples that are the lines through drawn optima (resamples, budgets)."""
    centred = log_compute - log_compute.mean()
    exponent = log_optima @ centred / (centred**2).sum()
    height = log_optima.mean(axis=1) - exponent * log_compute.mean()
    samples = np.stack([height, exponent], axis=1)
    return replace(fitted, samples=samples, covariance=np.cov(samples.T))


def _family_of(runs: pd.DataFrame) -> str:
    first = runs.iloc[0]
    return family_name({name: first[name] for name in FAMILY if name in runs})


def _section_fits(
    points: pd.DataFrame, resamples: int, seed: int
) -> Iterator[tuple[str, Fit | str]]:
    points = points.assign(budget=budgets(points) if len(points) else 0.0)
    known = points[["activation_ratio", "granularity"]].notna().all(axis=None)
    for law, kind, fixed in SECTIONS if known else ():
        count, reason = 0, "no leverage inside the dense frontier"
        groups = list(points.groupby(list(fixed)))
        groups.sort(key=lambda entry: -len(entry[1]))  # stable: of equal sizes in order of place
        for place, (values, group) in enumerate(groups):
            if count == MOST_SECTIONS:
                yield kind, f"{len(groups) - place} more sections, none of more points"
                break
            at = "_".join(
                f"C{value:.1e}" if axis == "budget" else f"{axis[0].upper()}{value:.3g}"
                for axis, value in zip(fixed, values, strict=True)
            )
            try:
                fitted = fit(law, group, "efficiency_leverage", resamples=resamples, seed=seed)
            except UnidentifiedError as error:
                reason = str(error)
                if len(group) <= len(law.coefficient_names):
                    break  # those that follow have no more points
                continue
            count += 1
            described = _described(fitted, kind, note=f"at {at.replace('_', ', ')}")
            yield f"{kind}_{at}", replace(described, role="section")
        if count == 0:
            yield kind, reason


def _rival_scores(measured: Leverage, seed: int) -> dict[str, list[Score]]:
    points = measured.points
    of_law = points[points["estimator"] == "joint"]
    if len(of_law) == 0:
        return {}
    frontier = points[points["estimator"] == "frontier"].reset_index(drop=True)
    frontier = frontier.assign(apart=of_law["held_out"].to_numpy(), **_sizes(measured))
    frontier = frontier[frontier["efficiency_leverage"].notna() & (frontier["variant"] == "")]
    target = "efficiency_leverage"
    forms = (*rivals(target, frontier), *_loss_laws(measured, frontier))
    scores = {"ten folds": compare(forms, frontier, target, seed=seed)}
    if frontier["apart"].any():
        scores["held out"] = compare(forms, frontier, target, held_out="apart", seed=seed)
    return scores


def _sizes(measured: Leverage) -> dict[str, pd.Series]:
    """N and D of the run behind each point, where the table knows them."""
    best = measured.best[measured.best["is_moe"]].reset_index(drop=True)
    sizes = {"num_params": best["active_params"], "num_tokens": best["num_tokens"]}
    return {name: values for name, values in sizes.items() if (values > 0).all()}


def _loss_laws(measured: Leverage, points: pd.DataFrame) -> tuple[type[Law], ...]:
    """The laws of the loss whose inputs the points have, each as the law of EL that it implies."""
    floored = measured.fits.get("dense, FlooredPowerLaw")
    floor = 0.0 if floored is None else float(floored.law.coefficients[0])
    frontier = Frontier.through(measured.best[~measured.best["is_moe"]], floor)
    return tuple(as_leverage(law, frontier) for law in rivals("loss", points))


def _plain_points(measured: Leverage) -> pd.DataFrame:
    """The leverages of the plain recipe that lie inside the dense frontier."""
    points = measured.points
    inside = (points["estimator"] == "frontier") & points["efficiency_leverage"].notna()
    return points[inside & (points["variant"] == "")]


def _described(fitted: Fit, kind: str, family: Family = "", note: str = "") -> Fit:
    """The fit with what it is, and its equation and note in the source of its law."""
    source: Source = replace(
        fitted.law.source, equation=EQUATIONS[kind], convention="exact", note=note
    )
    law = replace(fitted.law, source=source)  # type: ignore[type-var]
    return replace(fitted, law=law, kind=kind, family=family)


def _refuse(reason: str) -> Fit:
    raise UnidentifiedError(reason)
