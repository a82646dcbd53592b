"""The answer in words: what the mixtures save, and how the readings agree.

EL   efficiency leverage: dense compute over the mixture's at equal loss
C    training compute, FLOPs
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from moe_leverage.analysis.findings import Findings
from moe_leverage.your_runs.reading import RunsTable

WAYS = ("", "one way", "two ways", "three ways", "four ways", "five ways")


def sentences(table: RunsTable, found: Findings) -> list[str]:
    """The first lines of every output: what a reader came to know."""
    if found.leverage is None:
        return _without_leverage(table, found)
    headline = main_point(found)
    if headline is None:
        return [_only_bounds(found)]
    if found.leverage.is_straight and not is_optimal(headline):
        return [_over_a_line(headline)]
    value, low, high = (headline[k] for k in ("efficiency_leverage", "low", "high"))
    over = "the optimum of your dense runs" if is_optimal(headline) else "your dense runs"
    text = f"At {headline['compute']:.3g} FLOPs your mixtures save a factor of {value:.3g}"
    if np.isnan(low):
        text += f" over {over}, for which these runs can give no interval"
    else:
        end = "unbounded" if np.isinf(high) else f"{high:.3g}"
        text += f" ({low:.3g} to {end}) over {over}"
    return [f"{text}{_with_outliers(headline)}; {_agreement(found, headline)}."]


def _with_outliers(point: pd.Series) -> str:
    """The same with the outliers, where they move it beyond its interval."""
    value = point.get("with_outliers", np.nan)
    return "" if np.isnan(value) else f", {value:.3g} with the outliers"


def main_point(found: Findings) -> pd.Series | None:
    """The point that the answer speaks of: the best EL at the largest compute inside the frontier.

    Over the optimum of L(N, D) where the dense runs are far from it or are two, else over them.
    """
    assert found.leverage is not None
    points = found.leverage.points
    is_off = any("not compute-optimal" in text for text in found.warnings)
    named = ("optimal frontier", "frontier") if found.leverage.is_straight else (
        ("optimal frontier",) if is_off else ("frontier",)
    )  # fmt: skip
    has_value = points["efficiency_leverage"].notna()
    wanted = next((name for name in named if (has_value & (points["estimator"] == name)).any()), "")
    known = points[has_value & (points["estimator"] == wanted)]
    if known.empty:
        return None
    at_top = known[known["compute"] >= 0.9 * known["compute"].max()]
    place: pd.Series = at_top.loc[at_top["efficiency_leverage"].idxmax()]
    return place


def is_optimal(point: pd.Series) -> bool:
    """Whether a point is read over the optimum of L(N, D), not over the dense runs as trained."""
    return bool(point["estimator"] == "optimal frontier")


def _without_leverage(table: RunsTable, found: Findings) -> list[str]:
    runs = table.runs
    kind = "dense" if not runs["is_moe"].any() else "mixtures" if runs["is_moe"].all() else ""
    lacks = {
        "dense": "there is no mixture among them, so no leverage",
        "mixtures": "without dense runs there is no leverage, nor a joint law of it",
    }.get(kind, found.skipped.get("leverage", "there is no leverage"))
    names = [name for name, fit in found.fits.items() if fit.role == "law"]
    told = f"they tell {', '.join(names)}" if names else "they tell no law"
    verb = f"are {kind}" if kind else "tell no leverage"
    return [f"Your {len(runs)} runs {verb}: {lacks}; {told}."]


def _over_a_line(point: pd.Series) -> str:
    """The answer over two dense budgets: a bound, since their frontier is not known between."""
    value, low, high = (point[k] for k in ("efficiency_leverage", "low", "high"))
    text = (
        f"At {point['compute']:.3g} FLOPs your mixtures save at most a factor of {value:.3g} over "
        "your dense runs: two dense budgets give a straight line, and a frontier that bends "
        "towards a loss floor lies below it, so that the line overstates what they save"
    )
    text += _with_outliers(point)
    if np.isnan(low):
        return f"{text}; these runs can give no interval."
    end = "unbounded" if np.isinf(high) else f"{high:.3g}"
    return f"{text}; noise alone moves that bound from {low:.3g} to {end}."


def _only_bounds(found: Findings) -> str:
    assert found.leverage is not None
    points = found.leverage.points
    frontier = points[points["estimator"] == "frontier"]
    least = frontier["at_least"].dropna()
    if len(least):
        return (
            f"Your mixtures save at least a factor of {least.max():.3g}: every loss of theirs is "
            "below all dense ones, so there is a bound and no number."
        )
    most = frontier["at_most"].dropna()
    return (
        f"Your mixtures save at most a factor of {most.min():.3g}: every loss of theirs is above "
        "all dense ones, so there is a bound and no number."
    )


def _agreement(found: Findings, headline: pd.Series) -> str:
    """How many ways of reading stand behind the answer, and whether their intervals meet."""
    assert found.leverage is not None
    points = found.leverage.points
    same = points["compute"] == headline["compute"]
    same &= np.isclose(points["loss"], headline["loss"])
    for name in ("activation_ratio", "granularity", "variant"):
        own = headline[name]
        same &= points[name].isna() if pd.isna(own) else points[name] == own
    known = points[same & points["efficiency_leverage"].notna()]
    if is_optimal(headline):
        frontier = known[known["estimator"] == "frontier"]["efficiency_leverage"]
        said = f"it is {frontier.iloc[0]:.3g}" if len(frontier) else "there is only a bound"
        return f"over the dense runs as trained {said}"
    count = len(known)
    if count == 1:
        return "one way of reading"
    ends = known.dropna(subset=["low", "high"])
    ways = WAYS[count] if count < len(WAYS) else f"{count} ways"
    agree = len(ends) > 0 and ends["low"].max() <= ends["high"].min()
    spread = known["efficiency_leverage"]
    return f"{ways} of reading {'agree' if agree else 'disagree'}" + (
        "" if agree else f", from {spread.min():.3g} to {spread.max():.3g}"
    )
