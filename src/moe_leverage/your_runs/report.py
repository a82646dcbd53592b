"""What a reader's table of runs shows, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from moe_leverage.analysis.findings import Findings, published_leverage
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.identification import IDENTIFIED, NOT_IDENTIFIED
from moe_leverage.analysis.leverage import Leverage
from moe_leverage.analysis.profiles import Profile, profile
from moe_leverage.theory.law import Law
from moe_leverage.theory.laws import PUBLISHED
from moe_leverage.your_runs import advice, answer
from moe_leverage.your_runs.reading import RunsTable

BESIDE = {  # other readings of EL, shown where a row has one
    "over_optimum": "over optimum",
    "with_outliers": "with outliers",
    "same_convention": "FLOPs alike",
}


def summary(table: RunsTable, found: Findings) -> dict[str, Any]:
    """Everything found, as values that JSON can hold; infinite and missing numbers are None."""
    runs = table.runs
    record = {
        "num_runs": len(runs),
        "num_dense": int((~runs["is_moe"]).sum()),
        "num_moe": int(runs["is_moe"].sum()),
        "columns": dict(table.mapping.columns),
        "units": dict(table.mapping.units),
        "columns_guessed": table.mapping.guessed,
        "notes": table.notes + _sweep_notes(found, "seed" in runs),
        "next": advice.next_runs(found),
        "answer": answer.sentences(table, found),
        "leverage": _leverage_rows(found, table.convention_gap),
        "estimators": _estimator_rows(found),
        "fits": {
            name: _fit_row(name, fitted, found.with_outliers.get(name))
            for name, fitted in found.fits.items()
        },
        "rivals": {test: [asdict(s) for s in scores] for test, scores in found.scores.items()},
        "skipped": found.skipped,
        "warnings": found.warnings
        + table.warnings
        + _fit_warnings(found)
        + _published_warnings(found),
    }
    return dict(_plain(record))


def beside(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Which of the other readings of EL any row has, and what heads their columns."""
    return {key: name for key, name in BESIDE.items() if any(row[key] is not None for row in rows)}


def _leverage_rows(found: Findings, gap: float) -> list[dict[str, Any]]:
    """EL of every MoE configuration by the dense frontier, with its interval or its bound.

    Beside it, where they differ: over the optimum of L(N, D), with outliers, and as it would be if
    mixtures counted FLOPs as dense rows do. Outliers stand last.
    """
    if found.leverage is None:
        return []
    points = found.leverage.points
    frontier = points[points["estimator"] == "frontier"]
    frontier = frontier.assign(published=published_leverage(frontier))
    optimal = points[points["estimator"] == "optimal frontier"].to_dict("records")
    rows = []
    for place, point in enumerate(frontier.to_dict("records")):
        known = math.isfinite(point["efficiency_leverage"])
        bound = {k: point[k] for k in ("at_least", "at_most") if math.isfinite(point[k])}
        rows.append({
            "activation_ratio": point["activation_ratio"],
            "granularity": point["granularity"],
            "shared_ratio": point["shared_ratio"],
            "variant": point["variant"],
            "compute": point["compute"],
            "loss": point["loss"],
            "efficiency_leverage": point["efficiency_leverage"] if known else None,
            "interval": _ends(point) if known else None,
            "bound": bound or None,
            "published": point["published"],
            "over_optimum": optimal[place]["efficiency_leverage"] if optimal else None,
            "over_optimum_interval": _ends(optimal[place]) if optimal else None,
            "with_outliers": point.get("with_outliers"),
            "same_convention": point["efficiency_leverage"] * math.exp(gap) if gap else None,
            "row": point.get("row"),
        })  # fmt: skip
    return rows + _outlier_rows(found.leverage, list(rows[0]) if rows else [])


def _outlier_rows(measured: Leverage, names: Sequence[str]) -> list[dict[str, Any]]:
    """Mixtures that are outliers: without themselves they have no EL, with them it is as read."""
    odd = measured.outliers
    if odd.empty or "efficiency_leverage" not in odd:
        return []
    odd = odd[odd["is_moe"] & odd["efficiency_leverage"].notna()]
    odd = odd.assign(
        with_outliers=odd["efficiency_leverage"],
        efficiency_leverage=None,
        published=published_leverage(odd),
    )
    return [{name: row.get(name) for name in names} for row in odd.to_dict("records")]


def _ends(point: Mapping[Any, Any]) -> list[float] | None:
    """The ends of an interval; None where there is no freedom for one."""
    ends = [point["low"], point["high"]]
    return None if any(math.isnan(end) for end in ends) else ends


def _estimator_rows(found: Findings) -> list[dict[str, Any]]:
    if found.leverage is None:
        return []
    wide = found.leverage.side_by_side().drop(columns="is_moe")
    return [{str(key): value for key, value in row.items()} for row in wide.to_dict("records")]


def _fit_row(name: str, fitted: Fit, both: Fit | None) -> dict[str, Any]:
    """A fit as values; `both` is the same of all points, outliers too, where there are any."""
    law = fitted.law
    names = law.coefficient_names
    published: Law | None = getattr(PUBLISHED, name, None)
    printed = None if published is None else dict(zip(names, published.coefficients, strict=True))
    profiles = profile(fitted)
    told = _verdicts(names, profiles)
    found = fitted.interval()
    found |= {key: profile.interval for key, profile in profiles.items() if key in found}
    ends = {key: None if a == b else [a, b] for key, (a, b) in found.items()}
    for key, verdict in told.items():
        # a floor is told by both of its ends or not at all: what is below it is no loss
        if key in ends and (
            verdict == NOT_IDENTIFIED or (key == "floor" and verdict != IDENTIFIED)
        ):
            ends[key] = None
    # an interval without width is a bound that was run into, and no finding
    told |= {key: NOT_IDENTIFIED for key, end in ends.items() if end is None}
    return {
        "law": type(law).__name__,
        "kind": fitted.kind,
        "family": fitted.family,
        "role": fitted.role,
        "equation": law.source.equation,
        "target": fitted.target,
        "num_points": len(fitted.log_target),
        "coefficients": dict(zip(names, law.coefficients, strict=True)),
        "interval": ends,
        "identified": told,
        "with_outliers": None if both is None else _moved(both, ends),
        "published": printed,
        "range": {key: list(ends) for key, ends in law.domain.items()},
        "note": law.source.note,
    }


def _moved(both: Fit, ends: Mapping[str, list[float] | None]) -> dict[str, float] | None:
    """The coefficients that outliers move out of their intervals, with their values then."""
    values = dict(zip(both.law.coefficient_names, both.law.coefficients, strict=True))
    moved = {
        key: value for key, value in values.items()
        if (end := ends[key]) is not None and not end[0] <= value <= end[1]
    }  # fmt: skip
    return moved or None


def _verdicts(names: Sequence[str], profiles: Mapping[str, Profile]) -> dict[str, str]:
    """The verdict of every coefficient; a quotient's is that of what it is multiplied with.

    `b_g c_g` is profiled for c_g of Equation 11, which is told only where b_g is off zero.
    """
    told: dict[str, str] = {}
    for name in names:
        if name in profiles:
            told[name] = profiles[name].verdict
            continue
        product = next(key for key in profiles if name in key.split())
        divisor = next(key for key in product.split() if key != name)
        low, high = profiles[divisor].interval
        told[name] = NOT_IDENTIFIED if low <= 0 <= high else profiles[product].verdict
    return told


def _sweep_notes(found: Findings, has_seeds: bool) -> list[str]:
    """How many runs each point was chosen from, and the noise behind the intervals."""
    if found.leverage is None:
        return []
    best = found.leverage.best
    swept = int((best["num_runs"] > best["num_seeds"]).sum())
    notes = [f"noise of ln loss {found.leverage.noise:.2g}: {found.leverage.noise_source}"]
    if not has_seeds and found.leverage.best["num_runs"].max() > 1:
        notes.append("there is no column seed: rows at one point count as a sweep, not as repeats")
    if swept:
        most = int(best["num_runs"].max())
        notes.append(
            f"at {swept} of {len(best)} points of family and budget the best of a sweep was "
            f"taken, of up to {most} runs"
        )
    return notes


def _fit_warnings(found: Findings) -> list[str]:
    return [
        f"{name}: {text}" for name, fitted in found.fits.items()
        for text in fitted.convergence.warnings
    ]  # fmt: skip


def _published_warnings(found: Findings) -> list[str]:
    """How far the runs lie from those behind the published law."""
    if found.leverage is None:
        return []
    points = found.leverage.points
    points = points[points[["activation_ratio", "granularity"]].notna().all(axis=1)]
    if points.empty:
        return []
    beyond = PUBLISHED.joint.outside(**{name: points[name] for name in PUBLISHED.joint.inputs})
    return [f"published law: {text}" for text in beyond]


def _plain(value: Any) -> Any:
    """Nested plain Python values; a number that is not finite becomes None."""
    if isinstance(value, float):  # first, as most are
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | np.ndarray):
        return [_plain(item) for item in value]
    return _plain(value.item()) if isinstance(value, np.generic) else value
