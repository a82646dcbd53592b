"""Measured laws made binding: fitted once, written down, and every later study planned by them.

The paper plans its architecture studies by the laws of Sections 2.2 and 2.3; so do we, by our own.
A file in data/fits/adopted is never refitted in place: runs planned by it would become stale.

    eta  learning_rate      peak learning rate of the near-optimal runs
    B    batch_tokens       tokens of a step of the near-optimal runs
    M    flops_per_token    non-embedding forward FLOPs of one token at the isoFLOP optimum
    C    compute            training FLOPs, exact convention
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from moe_leverage import ledger, paths
from moe_leverage.analysis import findings, measured
from moe_leverage.analysis.findings import Findings
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.leverage import RESAMPLES
from moe_leverage.rules import require
from moe_leverage.studies.place import Place, missing
from moe_leverage.studies.protocol import adopted_path, read_adopted
from moe_leverage.studies.status import plan_now

LOOK_RESAMPLES = 200  # where an interval is only looked at, not printed to its third digit


@dataclass(frozen=True, slots=True)
class Measure:
    """How a law is measured: the studies it is fitted to, what fits them, what it consists of."""

    studies: tuple[str, ...]
    examine: Callable[..., Findings]
    laws: tuple[str, ...]
    keeps_optima: bool = False  # bodies are planned between them, and by the law beyond


def adopt(name: str, place: Place) -> Path:
    """Fit the law of this name to its finished studies and write it to data/fits/adopted.

    Raises ValueError if it is adopted already, or if a study behind it is not complete.
    """
    require(name in MEASURES, "law", name, f"must be one of {', '.join(MEASURES)}")
    path = adopted_path(name)
    require(not path.exists(), "law", name, f"adopted already; {path.name} binds the runs planned")
    studies = MEASURES[name].studies
    for study in studies:
        absent = missing(plan_now(study, place), place)
        rule = f"cannot be adopted: {len(absent)} runs of study {study} are missing"
        require(not absent, "law", name, rule)
    table = _usable(studies, place)
    found = measure(name, table)
    kept = found.optima if MEASURES[name].keeps_optima else {}
    optima = {f"{family}_model": _sound(of) for family, of in kept.items()}
    record = {
        "studies": list(studies),
        "num_runs": len(table),
        "runs_sha256": _digest(table),
        "laws": {
            key: dict(zip(law.coefficient_names, law.coefficients.tolist(), strict=True))
            for key, law in ((key, fitted.law) for key, fitted in found.fits.items())
        },
        **({"optima": optima} if optima else {}),
    }
    paths.write_atomically(path, json.dumps(record, indent=1, sort_keys=True) + "\n")
    return path


def measure(name: str, table: pd.DataFrame, resamples: int = RESAMPLES) -> Findings:
    """What the book finds in a table of the ledger, its fits those of the laws of this name.

    Raises ValueError saying which cannot be fitted, and why.
    """
    measure_of = MEASURES[name]
    found = measure_of.examine(measured.runs_table(ledger.once(table)), resamples=resamples)
    fits = measured.named(found.fits)
    reasons = measured.named(found.skipped)
    for law in measure_of.laws:
        reason = reasons.get(law, reasons.get("leverage", "its runs are missing"))
        require(law in fits, "law", law, f"cannot be fitted: {reason}")
    return replace(found, fits={law: fits[law] for law in measure_of.laws})


def moved(place: Place) -> list[str]:
    """What has changed since the laws were adopted, a sentence each: runs, and what they say now.

    An adopted law binds the runs that were planned by it; a refit stands beside it, and does not
    replace it.
    """
    remarks = []
    for path in filter(Path.is_file, map(adopted_path, sorted(MEASURES))):
        adopted = read_adopted(path)
        table = _usable(adopted["studies"], place)
        if table.empty or _digest(table) == adopted["runs_sha256"]:
            continue
        head = f"{path.stem}: adopted from {adopted['num_runs']} runs, {len(table)} stand now"
        try:
            fits = measure(path.stem, table, LOOK_RESAMPLES).fits
        except ValueError as error:
            remarks.append(f"{head}; refitted: {error}")
            continue
        laws = adopted["laws"]
        changes = [text for law, now in fits.items() for text in _moved(law, laws[law], now)]
        remarks.append("; ".join([head, *changes]))
    return remarks


def _moved(name: str, adopted: Mapping[str, float], fitted: Fit) -> Iterator[str]:
    """The coefficients of a law that a refit moves beyond its 90 % interval."""
    for coefficient, (low, high) in fitted.interval().items():
        if not low <= adopted[coefficient] <= high:
            now = getattr(fitted.law, coefficient)
            yield (
                f"{name}.{coefficient} {adopted[coefficient]:.4g}, refitted {now:.4g} "
                f"({low:.4g} to {high:.4g})"
            )


def _sound(optima: pd.DataFrame) -> dict[str, list[float]]:
    """The isoFLOP optima that stand, from which bodies are planned between and beside their law."""
    sound = optima[optima["reason"] == ""]
    return {"compute": sound["compute"].tolist(), "optima": sound["flops_per_token"].tolist()}


def _usable(studies: Sequence[str], place: Place) -> pd.DataFrame:
    return ledger.finished(ledger.table(*studies, directory=place.ledger))


def _digest(table: pd.DataFrame) -> str:
    return hashlib.sha256("".join(sorted(table["run_id"])).encode()).hexdigest()


RATES = tuple(
    f"{family}_{name}" for family in ("dense", "moe") for name in ("learning_rate", "batch_tokens")
)
SIZES = ("dense_model", "moe_model")
MEASURES = {
    "tuning": Measure(("tuning",), findings.hyperparameters, RATES),
    "isoflop": Measure(("isoflop",), findings.allocation, SIZES, keeps_optima=True),
    "leverage": Measure(("isoflop", "activation", "granularity"), findings.joint_law, ("joint",)),
}
