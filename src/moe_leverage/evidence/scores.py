"""What each law says of leverages that were measured, ours and others', and how far it is off.

An error is the logarithm of what a law says over the nearest end of the range that was measured, 0
inside it: a law that says 3 where 1.5 to 2 was measured is off by ln 1.5. Every source weighs the
same, whatever the number of its points. Intervals are over draws of sources and, within them, of
layouts, widened for so few sources as `analysis.bootstrap` widens those of few clusters.

    A, G, C   activation ratio, granularity, training compute in FLOPs
    EL        efficiency leverage
    w         weights of the points, rows of draws
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from moe_leverage import ledger, paths
from moe_leverage.analysis.bootstrap import LEVEL, Groups, student_ratio
from moe_leverage.analysis.gates import MOST_LOAD
from moe_leverage.design.every_law import Asked, LawAnswer, answer
from moe_leverage.evidence.sources import points_table
from moe_leverage.theory.forms import FIXED_TOKENS, OWN_OPTIMUM, Layout
from moe_leverage.theory.law import Array
from moe_leverage.theory.laws import PUBLISHED
from moe_leverage.theory.printed import THE_PAPER, PrintedLaw, find_law, printed_laws
from moe_leverage.theory.statements import standing

OURS = "this-book"
DRAWS = 2_000
SEED = 0
PUBLIC = "public runs"
BETWEEN = 1e15  # FLOPs: below lie this book's runs, above the public ones
RANGES = (  # of training compute, FLOPs
    ("this book", 0.0, BETWEEN),
    ("1e17 to 1e19", 1e17, 1e19),
    ("1e19 to 3e20", 1e19, 3e20),
    (PUBLIC, BETWEEN, math.inf),
    ("all", 0.0, math.inf),
)

Estimate = Callable[[pd.DataFrame, Array], float]


def our_points(fits: Path = paths.FITS) -> pd.DataFrame:
    """Leverages of our own ladder within its gates, read from its dense frontier.

    Kept are those that need no extrapolation, of mixtures whose busiest expert, in every layer and
    run, has at most `MOST_LOAD` times the mean: a collapsed router has fewer experts than it has.
    """
    path = fits / "leverage.csv"
    if not path.is_file():
        return pd.DataFrame(columns=points_table().columns)
    table = pd.read_csv(path)
    kept = (table["estimator"] == "frontier") & table["variant"].isna() & ~table["extrapolated"]
    kept &= (table["activation_ratio"] < 1) & table["low"].notna() & table["high"].notna()
    found = table[kept]
    found = found[found["run_id"].map(_busiest) <= MOST_LOAD]
    return pd.DataFrame({
        "source": OURS, "title": "This book's ladder", "basis": OWN_OPTIMUM,
        "layout": found["activation_ratio"].map("{:.3g}".format)
        + ", " + found["granularity"].map("{:.3g}".format),
        "activation_ratio": found["activation_ratio"], "granularity": found["granularity"],
        "compute": found["compute"], "low": found["low"], "high": found["high"],
        "active_params": np.nan, "num_tokens": np.nan, "run_id": found["run_id"],
    }).reset_index(drop=True)  # fmt: skip


def said_of(law: PrintedLaw, points: pd.DataFrame) -> pd.DataFrame:
    """What a law says at each point, on the point's own basis where the law knows both."""
    rows = []
    for point in points.to_dict("records"):
        ratio, granularity = float(point["activation_ratio"]), float(point["granularity"])
        asked = Asked(
            layout=Layout(activation_ratio=ratio, granularity=granularity),
            compute=float(point["compute"]),
            active_params=_known(point["active_params"]),
            num_tokens=_known(point["num_tokens"]),
        )
        said = answer(law, asked)
        rows.append({"value": _on_basis(said, point["basis"]), "in_domain": said.in_domain})
    return pd.DataFrame(rows, index=points.index)


def errors(points: pd.DataFrame) -> pd.DataFrame:
    """One row a law and point: what it says, and ln of that over the range that was measured."""
    parts = []
    for law in printed_laws():
        if law.missing or standing(law).reading is None:
            continue
        said = said_of(law, points)
        error = [off(v, lo, hi) for v, lo, hi in zip(said["value"], points["low"], points["high"],
                                                     strict=True)]  # fmt: skip
        parts.append(points.assign(law=law.id, law_title=law.title, error=error,
                                   value=said["value"], in_domain=said["in_domain"]))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def off(value: float, low: float, high: float) -> float:
    """Ln of a value over the nearest end of a range, 0 inside it; NaN without a value.

    >>> off(3.0, 1.5, 2.0) == math.log(1.5), off(1.7, 1.5, 2.0)
    (True, 0.0)
    """
    if math.isnan(value):
        return math.nan
    if low <= value <= high:
        return 0.0
    return math.log(value / (low if value < low else high))


@cache
def score_table() -> pd.DataFrame:
    """Each law's typical and mean error, as factors with intervals, by range of compute.

    `factor` is exp of the mean absolute error: off by that much, up or down; `leaning` exp of the
    mean error: above 1 the law promises too much; `run_id` names the runs of ours behind it.
    """
    points = pd.concat([points_table(), our_points()], ignore_index=True)
    table = errors(points).dropna(subset=["error"])
    rows = []
    for law, of_law in table.groupby("law", sort=False):
        for name, low, high in RANGES:
            part = of_law[(of_law["compute"] >= low) & (of_law["compute"] < high)]
            if part.empty:
                continue
            size, leaning = (interval(part, entry) for entry in (mean_size, mean_error))
            rows.append({
                "law": law, "law_title": part["law_title"].iloc[0], "range": name,
                "sources": part["source"].nunique(), "points": len(part),
                "inside": int(part["in_domain"].sum()),
                "factor": math.exp(size[0]), "factor_low": math.exp(max(size[1], 0.0)),
                "factor_high": _exp(size[2]), "leaning": math.exp(leaning[0]),
                "run_id": " ".join(part["run_id"].dropna()),
            })  # fmt: skip
    return pd.DataFrame(rows)


def mean_size(points: pd.DataFrame, weights: Array) -> float:
    """Mean absolute error."""
    return float(np.average(np.abs(points["error"]), weights=weights))


def mean_error(points: pd.DataFrame, weights: Array) -> float:
    """Mean error, its sign kept."""
    return float(np.average(points["error"], weights=weights))


def interval(points: pd.DataFrame, estimate: Estimate) -> tuple[float, float, float]:
    """An estimate with equal weight a source, and its interval; endless with a single source."""
    source, _ = pd.factorize(points["source"])
    layout, _ = pd.factorize(points["source"].astype(str) + "/" + points["layout"].astype(str))
    ones = np.ones((1, source.max() + 1)), np.ones((1, layout.max() + 1))
    centre = estimate(points, _weights(*ones, source, layout)[0])
    num_sources = int(source.max()) + 1
    if num_sources < 2:
        return centre, -math.inf, math.inf
    rng = np.random.default_rng(SEED)
    drawn = (
        rng.exponential(size=(DRAWS, num_sources)),
        rng.exponential(size=(DRAWS, int(layout.max()) + 1)),
    )
    draws = np.array([estimate(points, row) for row in _weights(*drawn, source, layout)])
    wide = math.sqrt(num_sources / (num_sources - 1)) * student_ratio(num_sources - 1)
    low, high = np.quantile(draws - centre, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) * wide
    return centre, centre + float(low), centre + float(high)


@cache
def statistic(name: str) -> tuple[float, float, float, int]:
    """A registered statistic of the public points: its value, its interval, how many points."""
    points, estimate = STATISTICS[name]()
    return *interval(points, estimate), len(points)


def _log_ratio() -> tuple[pd.DataFrame, Estimate]:
    """Ln (derived / Equation 13) inside the range of its A, G and C; a bound by its bound."""
    points = points_table()
    axes = ("activation_ratio", "granularity", "compute")
    inside = np.all([points[axis].between(*PUBLISHED.joint.domain[axis]) for axis in axes], axis=0)
    points = points[inside].reset_index(drop=True)
    value = said_of(find_law(THE_PAPER), points)["value"]
    ratio = np.log(middle(points) / value)
    bound = np.maximum(0.0, np.log(points["low"] / value))
    error = np.where(np.isinf(points["high"]), bound, ratio)
    return points.assign(error=error), mean_error


def _slope_in_compute() -> tuple[pd.DataFrame, Estimate]:
    """Slope of ln EL in ln C within layouts, of sources where each side is at its own optimum."""
    points = _finite()
    points = points[points["basis"] == OWN_OPTIMUM].reset_index(drop=True)
    points = points[points.groupby(["source", "layout"])["compute"].transform("nunique") > 1]
    return points.reset_index(drop=True), _slope("layout", ["compute"])


def _slope_in_ratio() -> tuple[pd.DataFrame, Estimate]:
    """Slope of ln EL in ln A within sources, beside that in ln C."""
    points = _finite()
    points = points[points.groupby("source")["activation_ratio"].transform("nunique") > 1]
    return points.reset_index(drop=True), _slope("source", ["activation_ratio", "compute"])


def _sparser_gain() -> tuple[pd.DataFrame, Estimate]:
    """Ln (EL of the sparser / of the other) of layouts below A = 5 % of one source and G.

    Of each layout the first computes go together, the second, and so on: the tokens are the same.
    """
    points = _finite()
    points = points[points["activation_ratio"] < 0.05].sort_values("compute")
    rows = []
    for (source, _), group in points.groupby(["source", "granularity"]):
        by_ratio = [entry for _, entry in group.groupby("activation_ratio")]
        for sparse, other in itertools.pairwise(by_ratio):
            layout = sparse["layout"].iloc[0]
            rows += [
                {"source": source, "layout": layout, "error": math.log(first / second)}
                for first, second in zip(middle(sparse), middle(other), strict=True)
            ]
    return pd.DataFrame(rows), mean_error


STATISTICS: dict[str, Callable[[], tuple[pd.DataFrame, Estimate]]] = {
    "log_ratio": _log_ratio,
    "slope_in_compute": _slope_in_compute,
    "slope_in_ratio": _slope_in_ratio,
    "sparser_gain": _sparser_gain,
}


def middle(points: pd.DataFrame) -> pd.Series[float]:
    """The middle of each range, on the logarithm."""
    return pd.Series(np.sqrt(points["low"] * points["high"]), points.index)


def _finite() -> pd.DataFrame:
    points = points_table()
    kept: pd.DataFrame = points[np.isfinite(points["high"])]
    return kept.reset_index(drop=True)


def _slope(within: str, columns: list[str]) -> Estimate:
    """The slope in the first column, with a level for each group and slopes in the others."""

    def estimate(points: pd.DataFrame, weights: Array) -> float:
        labels = (
            points["source"] + "/" + points["layout"] if within == "layout" else points["source"]
        )
        levels = pd.get_dummies(labels).to_numpy(float)
        design = np.column_stack([np.log(points[columns].to_numpy(float)), levels])
        root = np.sqrt(weights)
        response = np.log(middle(points).to_numpy(float))
        found = np.linalg.lstsq(design * root[:, None], response * root, rcond=None)[0]
        return float(found[0])

    return estimate


def _weights(of_sources: Array, of_layouts: Array, source: Groups, layout: Groups) -> Array:
    """Weights (draws, points): those of the sources, shared within each by those of its layouts."""
    inner = of_layouts[:, layout]
    totals = np.zeros_like(of_sources)
    for i in range(of_sources.shape[1]):
        totals[:, i] = inner[:, source == i].sum(axis=1)
    shared: Array = of_sources[:, source] * inner / totals[:, source]
    return shared


@cache
def _loads() -> dict[str, float]:
    """The busiest expert over the mean of each mixture of the ledger, the worst of its layers."""
    runs = ledger.once(ledger.table(directory=ledger.DIRECTORY))
    runs = runs[runs["is_moe"].astype(bool)]
    loads = ledger.worst_layer(runs, "load.max_over_mean").fillna(math.inf)
    return dict(zip(runs["run_id"], loads, strict=True))


def _busiest(run_ids: str) -> float:
    return max(_loads().get(run, math.inf) for run in run_ids.split())


def _on_basis(said: LawAnswer, basis: str) -> float:
    if basis == FIXED_TOKENS and said.at_its_tokens is not None:
        return said.at_its_tokens
    return math.nan if said.value is None else said.value


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
