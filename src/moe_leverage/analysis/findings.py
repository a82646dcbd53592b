"""Every law of the paper that a table of runs identifies, fitted, with reasons for the others.

One routine serves our ledger and a reader's table: hyperparameters (Section 2.2), allocation (2.3),
loss curves and leverage (3), the separable and joint laws and their rivals (4.2).

    A, G, S   activation ratio, granularity, shared-expert ratio
    M, D, C   FLOPs per token, tokens, compute
    EL        efficiency leverage

A table of runs has the columns of `leverage`, and `active_params` where known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import pandas as pd

from moe_leverage.analysis.bootstrap import student_ratio
from moe_leverage.analysis.fitted import Family, Fit, described
from moe_leverage.analysis.fitting import UnidentifiedError, fit
from moe_leverage.analysis.held_out import Score
from moe_leverage.analysis.leverage import (
    MIN_SEED_PAIRS,
    RESAMPLES,
    Lack,
    Leverage,
    NoLeverageError,
    estimate,
    family_curves,
)
from moe_leverage.analysis.outliers import far_from, find_outliers, without
from moe_leverage.analysis.points import FAMILY, best_runs, settings, table_noise
from moe_leverage.analysis.reductions import (
    budgets,
    isoflop_optima,
)
from moe_leverage.analysis.rival_scores import rival_scores
from moe_leverage.analysis.screening import outlier_warning, screened
from moe_leverage.analysis.sweep_fits import allocation_fit, hyperparameter_fit
from moe_leverage.theory.law import Law
from moe_leverage.theory.laws import (
    PUBLISHED,
    ComputeLaw,
    GranularityLaw,
    JointLaw,
    PowerLaw,
    SaturatedActivationLaw,
)
from moe_leverage.theory.rivals import ChinchillaLaw, FlooredPowerLaw

MIN_RATES, MIN_BATCHES = 3, 3  # different values that make a sweep of a budget
SAME_RATIO = 1.05  # of D / N, largest over least: all runs lie on one line in (N, D)
MOST_SECTIONS = 3  # of a kind that are fitted, those of most points: more say the same again
SECTIONS: tuple[tuple[type[Law], str, tuple[str, ...]], ...] = (
    (SaturatedActivationLaw, "activation", ("granularity", "budget")),
    (GranularityLaw, "granularity", ("activation_ratio", "budget")),
    (ComputeLaw, "compute", ("activation_ratio", "granularity")),
)
Runs = TypeVar("Runs", pd.DataFrame, Leverage)  # what laws are fitted to


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a table of runs says: fits by name, leverage, and what could not be fitted and why."""

    fits: dict[str, Fit]
    skipped: dict[str, str]
    warnings: list[str]
    leverage: Leverage | None = None
    lacks: Lack = ""  # of which runs there are too few for a leverage, where it was looked for
    optima: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # isoFLOP, by family
    scores: Mapping[str, list[Score]] = field(default_factory=dict)  # rivals, by kind of test
    with_outliers: Mapping[str, Fit] = field(default_factory=dict)  # of points kept from `fits`


def examine(
    table: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0, floor: float | None = None
) -> Findings:
    """Everything that one table of runs identifies; `floor` pins that of the dense frontier."""
    options: dict[str, int] = {"resamples": resamples, "seed": seed}
    measured = leverage_laws(table, **options, floor=floor, screen=True)
    found = measured.leverage
    odd = find_outliers(best_runs(table)) if found is None else found.outliers
    kept = without(table, odd)
    whole = table if len(odd) else None
    parts = [
        with_and_without(hyperparameters, kept, whole, **options),
        with_and_without(allocation, kept, whole, **options),
        chinchilla(table, **options),
    ]
    if found is None:
        told = [outlier_warning(odd)] if len(odd) else []
        measured = replace(measured, warnings=measured.warnings + told)
        parts += [measured, with_and_without(lone_curves, kept, whole, **options)]
    else:
        both = found.with_outliers
        parts += [with_and_without(loss_curves, found, both), measured]
        parts.append(with_and_without(section_laws, found, both, **options))
    return merge(parts)


def with_and_without(
    look: Callable[..., Findings], kept: Runs, whole: Runs | None, **options: int
) -> Findings:
    """What a look finds without the outliers, beside its fits with them where there are any.

    Of these the coefficients are wanted and no interval.
    """
    found = look(kept, **options)
    if whole is None:
        return found
    fewest = {name: 1 if name == "resamples" else value for name, value in options.items()}
    return replace(found, with_outliers=look(whole, **fewest).fits)


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
            lacks=part.lacks or found.lacks,
            optima={**found.optima, **part.optima},
            scores={**found.scores, **part.scores},
            with_outliers={**found.with_outliers, **part.with_outliers},
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
                fitted = hyperparameter_fit(runs, name, least, resamples, seed, noise)
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
                    allocation_fit(sound, column, resamples, seed)
                    if len(sound)
                    else _refuse(f"isoFLOP optima = 0: {'; '.join(points['reason'].unique())}")
                )
                found.fits[f"{family}_{kind}"] = described(fitted, kind, family)
            except UnidentifiedError as error:
                found.skipped[f"{family}_{kind}"] = str(error)
    return replace(found, optima=optima)


def chinchilla(table: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> Findings:
    """L(N, D) of dense and of MoE runs, N the active parameters without the vocabulary's.

    Runs that the law misses by many robust standard deviations are named and left out; the law with
    them stands in `with_outliers`.
    """
    found, both = Findings(fits={}, skipped={}, warnings=[]), {}
    for family, runs in _largest_families(table):
        label = f"{family}_chinchilla"
        is_dense = family == "dense"
        size = "total_params" if is_dense and "active_params" not in runs else "active_params"
        if _unknown(runs, size, "num_tokens"):
            found.skipped[label] = f"{size} or num_tokens: not in the table"
            continue
        sized = runs.rename(columns={size: "num_params"})
        best = sized.loc[sized.groupby(["num_params", "num_tokens"])["loss"].idxmin()]
        ratio = (best["num_tokens"] / best["num_params"]).astype(float)
        if ratio.max() < SAME_RATIO * ratio.min():
            rule = "in every run: no second axis for L(N, D)"
            found.skipped[label] = f"num_tokens over {size} = {ratio.median():.3g} {rule}"
            continue
        clusters = "run_id" if "run_id" in sized else ""
        fit_to = partial(fit, ChinchillaLaw, clusters=clusters, resamples=resamples, seed=seed)
        try:
            fitted = fit_to(table=best, target="loss")
            odd = far_from(fitted.law, best, "loss")
            if len(odd):
                both[label], kept = fitted, best.drop(index=odd.index)
                fitted = fit_to(table=kept, target="loss")
                found.warnings.append(_missed(odd, family))
            found.fits[label] = described(fitted, "chinchilla", family)
        except UnidentifiedError as error:
            found.skipped[label] = str(error)
    return replace(found, with_outliers=both)


def _missed(odd: pd.DataFrame, family: Family) -> str:
    """The rows that L(N, D) misses by far, as a warning."""
    rows = "; ".join(
        f"{row.get('row', family)} at {row['num_params']:.3g} parameters and "
        f"{row['num_tokens']:.3g} tokens, loss {row['loss']:.4g}"
        for row in odd.to_dict("records")
    )
    return (
        f"outlier: {rows}: L(N, D) of the {family} runs misses it by far; the law is fitted without"
    )


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
    return replace(found, scores=rival_scores(found.leverage, seed))


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
    look = screened if screen else estimate
    try:
        measured = look(table, resamples=resamples, seed=seed, floor=floor)
    except UnidentifiedError as error:
        found.skipped["leverage"] = str(error)
        return replace(found, lacks=error.lacks if isinstance(error, NoLeverageError) else "")
    found.warnings.extend(measured.warnings)
    if "optimal frontier" in measured.skipped:
        found.skipped["optimal frontier"] = measured.skipped["optimal frontier"]
    if "joint" in measured.fits:
        found.fits["joint"] = described(measured.fits["joint"], "joint")
    else:
        found.skipped["joint"] = measured.skipped["joint"]
    ratios = measured.plain_points()["shared_ratio"].unique()
    if len(ratios) > 1:
        found.warnings.append(
            f"shared_ratio takes {len(ratios)} values; laws (10) to (13) leave it out"
        )
    both = {} if measured.with_outliers is None else measured.with_outliers.fits
    beside = {name: fitted for name, fitted in both.items() if name == "joint"}
    return replace(found, leverage=measured, with_outliers=beside)


def loss_curves(measured: Leverage) -> Findings:
    """L(C) of the dense runs (Section 3): with a floor, and the paper's own form, without."""
    found = Findings(fits={}, skipped={}, warnings=[])
    for name, law in (("dense_loss", FlooredPowerLaw), ("dense_loss_power", PowerLaw)):
        curve = f"dense, {law.__name__}"
        if curve in measured.fits:
            found.fits[name] = described(measured.fits[curve], "loss", "dense")
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
                found.fits[f"{family}_{kind}"] = described(fitted, "loss", family)
            else:
                found.skipped[f"{family}_{kind}"] = next(iter(skipped.values()))
    return found


def section_laws(measured: Leverage, *, resamples: int = RESAMPLES, seed: int = 0) -> Findings:
    """The laws (10) to (12) along one axis, at every value of the others that has enough points."""
    found = Findings(fits={}, skipped={}, warnings=[])
    for label, fitted in _section_fits(measured.plain_points(), resamples, seed):
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


def _section_fits(
    points: pd.DataFrame, resamples: int, seed: int
) -> Iterator[tuple[str, Fit | str]]:
    points = points.assign(budget=budgets(points) if len(points) else 0.0)
    known = points[["activation_ratio", "granularity"]].notna().all(axis=None)
    for law, kind, fixed in SECTIONS if known else ():
        count, reason = 0, "no leverage inside the dense frontier"
        groups: list[tuple[Any, Any]] = list(points.groupby(list(fixed)).indices.items())
        groups.sort(key=lambda entry: -len(entry[1]))  # stable: of equal sizes in order of place
        for place, (values, rows) in enumerate(groups):
            if count == MOST_SECTIONS:
                yield kind, f"{len(groups) - place} more sections, none of more points"
                break
            at = "_".join(
                f"C{value:.1e}" if axis == "budget" else f"{axis[0].upper()}{value:.3g}"
                for axis, value in zip(fixed, values, strict=True)
            )
            group = points.iloc[rows]
            try:
                fitted = fit(law, group, "efficiency_leverage", resamples=resamples, seed=seed)
            except UnidentifiedError as error:
                reason = str(error)
                if len(group) <= len(law.coefficient_names):
                    break  # those that follow have no more points
                continue
            count += 1
            cut = described(fitted, kind, note=f"at {at.replace('_', ', ')}")
            yield f"{kind}_{at}", replace(cut, role="section")
        if count == 0:
            yield kind, reason


def _refuse(reason: str) -> Fit:
    raise UnidentifiedError(reason)
