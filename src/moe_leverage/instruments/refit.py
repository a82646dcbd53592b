"""What the page refits Equation 13 to: the points of leverage in the fits of the ledger.

A reader chooses among them; `fitted` marks those that the book's own joint law stands on.

    A, G, C    activation ratio, granularity, training compute in FLOPs
    EL         efficiency leverage with the ends of its 90 % interval
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from moe_leverage import ledger, paths
from moe_leverage.analysis.bootstrap import (
    APART,
    MOST_BEND,
    MOST_MINIMA,
    NORMAL_95,
    student_ratio,
)
from moe_leverage.analysis.fitting import HUBER_EFFICIENCY, MAD_TO_SIGMA, SMALLEST_DELTA
from moe_leverage.analysis.leverage import is_held_out
from moe_leverage.design.prediction import JOINT
from moe_leverage.instruments.explorer import ESTIMATOR, homes, plain
from moe_leverage.instruments.scripts import assign
from moe_leverage.theory.laws import JointLaw
from moe_leverage.theory.saturation import START_BOX

MOST_FREEDOM = 200  # degrees of freedom whose quantile the page is given; it has fewer points
COLUMNS = {
    "A": "activation_ratio",
    "G": "granularity",
    "C": "compute",
    "EL": "efficiency_leverage",
    "low": "low",
    "high": "high",
}


def payload(directory: Path = ledger.DIRECTORY, fits: Path = paths.FITS) -> dict[str, Any]:
    """The points, and the constants of the fit, so that the page types none of them.

    >>> payload()["needed"]
    [3, 3, 2]
    """
    return {
        "points": _points(directory, fits),
        "hasBook": (fits / f"{JOINT}.json").is_file(),  # a fit that leverage-data.js has with draws
        "normal": NORMAL_95,
        "apart": APART,
        "mostMinima": MOST_MINIMA,
        "mostBend": MOST_BEND,
        "startBox": [list(START_BOX[name]) for name in ("a_start", "a_max")],
        "efficiency": HUBER_EFFICIENCY,
        "sigma": MAD_TO_SIGMA,
        "smallestDelta": SMALLEST_DELTA,
        "studentRatio": [float(f"{student_ratio(n):.12g}") for n in range(1, MOST_FREEDOM + 1)],
        "needed": [JointLaw.min_values[name] for name in JointLaw.inputs],
    }


def script() -> str:
    """The payload as a script."""
    return assign("refitData", payload())


def _points(directory: Path, fits: Path) -> list[dict[str, Any]]:
    path = fits / "leverage.csv"
    if not path.is_file():
        return []
    points = pd.read_csv(path, dtype={"variant": object})
    points = points[points["estimator"] == ESTIMATOR].reset_index(drop=True)
    points["variant"] = points["variant"].fillna("")
    points["fitted"] = points["efficiency_leverage"].notna() & ~is_held_out(points)
    inside = points[points["efficiency_leverage"].notna()]
    studies = homes(directory)
    return [
        _point({str(k): v for k, v in row.items()}, studies) for row in inside.to_dict("records")
    ]


def _point(row: dict[str, Any], studies: dict[str, str]) -> dict[str, Any]:
    runs = str(row["run_id"]).split() if isinstance(row.get("run_id"), str) else []
    values = {name: plain(row[column]) for name, column in COLUMNS.items()}
    return values | {
        "variant": row["variant"],
        "fitted": bool(row["fitted"]),
        "runs": runs,
        "study": studies.get(runs[0], "") if runs else "",
    }
