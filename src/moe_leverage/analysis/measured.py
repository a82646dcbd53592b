"""The laws of our own ledger: the fits that the book reads, made from the runs in one way.

Each study answers its part: the searches Equation 3, the sizes Table 1, the architecture studies
(Section 4.1) leverage and Equation 13. A study says its part itself, in its role; what is held out
is kept from every fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from moe_leverage import ledger, paths
from moe_leverage.analysis import findings, gates
from moe_leverage.analysis.findings import Findings
from moe_leverage.analysis.identification import INDEX
from moe_leverage.analysis.leverage import RESAMPLES
from moe_leverage.analysis.profiles import profile
from moe_leverage.analysis.reductions import with_law_names
from moe_leverage.rules import read_object

T = TypeVar("T")

DIRECTORY = paths.FITS
PARTS = {  # of the laws: the roles of the studies that each is made from
    "hyperparameters": ("search",),
    "allocation": ("sizes",),
    "leverage": ("sizes", "plain", "held out", "variant"),
}
FITTED = {  # whose gates each part rests on; the others get a leverage and are kept from its fit
    "hyperparameters": ("search",), "allocation": ("sizes",), "leverage": ("sizes", "plain"),
}  # fmt: skip
READ = ("sizes", "plain", "held out")  # roles whose leverage pages read without a law
COMPLETE = "complete"  # beside the gates: every planned run is recorded
TABLES = ("leverage", "rivals", "profiles")
LABELS = ("study", "role", "run_id", "config_id", "is_moe", "seed", "variant", "held_out")
QUANTITIES = (
    "activation_ratio", "granularity", "shared_ratio", "compute", "budget", "loss", "num_tokens",
    "flops_per_token", "active_params", "learning_rate", "batch_tokens",
)  # fmt: skip
MOE_NAMES = {"learning_rate": "moe_learning_rate", "batch_tokens": "moe_batch_tokens"}  # protocol's


def runs_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Finished runs of the ledger's table under the names that laws and `findings` read.

    C is their `compute` and L their `loss`. Runs of a study that changes another thing than A, G
    and C carry it as their `variant`, in the columns that the study names.
    """
    done = with_law_names(ledger.finished(frame))
    done = done.assign(held_out=done["role"] == "held out")
    return done[[*LABELS, *QUANTITIES]].astype(dict.fromkeys(QUANTITIES, float))


def fed(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the ledger's table that the laws are made from: by the roles of their studies."""
    if frame.empty:
        return frame
    roles = {role for roles in PARTS.values() for role in roles}
    return frame[frame["role"].isin(roles)].reset_index(drop=True)


def fit_ledger(frame: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> Findings:
    """The laws that the book reads of the studies of a ledger, under the names of the protocol."""
    return joined(fit_parts(frame, resamples=resamples, seed=seed))


def fit_parts(
    frame: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Findings]:
    """What each of PARTS finds in a ledger, with reasons for the laws that are not fitted.

    A run that several studies plan stands in the file of each. A study's own fit has it; a fit of
    several has it once, as the first named study sees it, since a copy would count as a second seed
    without any noise. A variant that is the baseline itself is a point of its own curve as well.
    """
    table = runs_table(fed(frame))

    # the dense twin of a variant is of another recipe than the frontier that all are held against
    table = table[table["is_moe"] | (table["role"] != "variant")]

    def of(*roles: str) -> pd.DataFrame:
        joined = pd.concat([table[table["role"] == role] for role in roles])
        return joined.drop_duplicates(["run_id", "variant"], ignore_index=True)

    options = {"resamples": resamples, "seed": seed}
    examine = (findings.hyperparameters, findings.allocation, findings.leverage_laws)
    return {
        part: _unless_empty(look, of(*roles), part, options)
        for look, (part, roles) in zip(examine, PARTS.items(), strict=True)
    }


def joined(parts: Mapping[str, Findings]) -> Findings:
    """The findings of all parts as one, under the names that the protocol gives its laws."""
    found = findings.merge(list(parts.values()))
    return replace(found, fits=named(found.fits), skipped=named(found.skipped))


def write_fits(
    frame: pd.DataFrame,
    directory: Path = DIRECTORY,
    *,
    resamples: int = RESAMPLES,
    incomplete: Collection[str] = (),
) -> dict[str, Any]:
    """Fit the ledger and write `<name>.json` a fit, the tables and `index.json`; give the index.

    `frame` is the ledger's whole table, since gates look at studies that feed no law any more;
    `incomplete` are the studies that lack runs they plan.
    Files of fits and tables that are no longer made are removed; what else lies there stays.
    """
    parts = fit_parts(frame, resamples=resamples)
    found = joined(parts)
    directory.mkdir(parents=True, exist_ok=True)
    before = read_index(directory)
    for name in set(before.get("fits", {})) - set(found.fits):
        (directory / f"{name}.json").unlink(missing_ok=True)
    for name, fitted in found.fits.items():
        fitted.save(directory / f"{name}.json")
    tables = _tables(found)
    for name in TABLES:
        path = directory / f"{name}.csv"
        if name in tables:
            paths.write_atomically(path, tables[name].to_csv(index=False, float_format="%.6g"))
        else:
            path.unlink(missing_ok=True)
    index = {
        "ledger": digest(fed(frame)),
        "fits": {name: type(fitted.law).__name__ for name, fitted in sorted(found.fits.items())},
        "failing_gates": failing_gates(frame, parts, incomplete),
        "skipped": dict(sorted(found.skipped.items())),
        "warnings": found.warnings,
        "noise": None if found.leverage is None else found.leverage.noise_source,
    }
    paths.write_atomically(directory / INDEX, json.dumps(index, indent=1) + "\n")
    return index


def failing_gates(
    frame: pd.DataFrame, parts: Mapping[str, Findings], incomplete: Collection[str] = ()
) -> dict[str, list[str]]:
    """By fit, the gates that its studies rest on and that fail: it is silent while any does.

    Beside the fits stand the roles whose leverage pages read as it is. A study that lacks planned
    runs decides nothing either, as if a gate named COMPLETE failed.
    """
    found = gates.gates(frame)

    def shut(roles: Collection[str]) -> list[str]:
        behind = frame.loc[frame["role"].isin(roles), "study"].unique() if len(frame) else ()
        lacking = [COMPLETE] if set(behind) & set(incomplete) else []
        return [*lacking, *gates.failing(frame, behind, found)]

    failing = {role: shut([role]) for role in READ}
    for part, roles in FITTED.items():
        failing |= dict.fromkeys(named(parts[part].fits), shut(roles))
    return dict(sorted(failing.items()))


def read_index(directory: Path = DIRECTORY) -> dict[str, Any]:
    """What `write_fits` wrote last; empty before."""
    path = directory / INDEX
    return read_object(path, "index of the fits") if path.is_file() else {}


def digest(frame: pd.DataFrame) -> str:
    """SHA-256 of what the fits are made from: identities, losses and exclusions of the runs."""
    if frame.empty:
        return hashlib.sha256(b"").hexdigest()
    columns = ["study", "run_id", "status", "excluded", "loss_nats"]
    rows = sorted("|".join(map(str, row)) for row in frame[columns].to_numpy(dtype=object))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def load_ledger(directory: Path = ledger.DIRECTORY) -> pd.DataFrame:
    """The runs of every study that feeds a law."""
    return fed(ledger.table(directory=directory))


def named(found: Mapping[str, T]) -> dict[str, T]:
    """Under the names that the protocol gives its laws: a family, then a quantity."""
    return {MOE_NAMES.get(name, name): value for name, value in found.items()}


def _unless_empty(
    examine: Any, table: pd.DataFrame, name: str, options: Mapping[str, Any]
) -> Findings:
    if table.empty:
        return Findings(fits={}, skipped={name: "no finished run of its studies"}, warnings=[])
    found: Findings = examine(table, **options)
    return found


def _tables(found: Findings) -> dict[str, pd.DataFrame]:
    """Leverage by every estimator, the rivals' scores, and the verdicts on coefficients."""
    points = pd.DataFrame() if found.leverage is None else found.leverage.points
    scores = [{"test": test} | asdict(s) for test, rows in found.scores.items() for s in rows]
    verdicts = [
        {"fit": name, "coefficient": key, "low": p.interval[0], "high": p.interval[1]}
        | {"verdict": p.verdict, "sentence": p.sentence}
        for name, fitted in found.fits.items()
        for key, p in profile(fitted).items()
    ]
    tables = {"leverage": points, "rivals": pd.DataFrame(scores)}
    tables |= {"profiles": pd.DataFrame(verdicts)}
    return {name: frame for name, frame in tables.items() if len(frame)}
