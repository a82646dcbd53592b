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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from moe_leverage import ledger, paths
from moe_leverage.analysis.fitting import fit
from moe_leverage.analysis.leverage import estimate
from moe_leverage.analysis.reductions import isoflop_optima, near_optimal
from moe_leverage.config import require
from moe_leverage.studies.runner import Place, missing
from moe_leverage.studies.status import plan_now
from moe_leverage.theory.law import Law
from moe_leverage.theory.laws import PowerLaw

STUDIES_BEHIND = {
    "first_hyperparameters": ("hparams",),
    "hyperparameters": ("hparams-second",),
    "allocation": ("allocation",),
    "leverage": ("allocation", "activation", "granularity"),
}


def adopt(name: str, place: Place) -> Path:
    """Fit the law of this name to its finished studies and write it to data/fits/adopted.

    Raises ValueError if it is adopted already, or if a study behind it is not complete.
    """
    require(name in MEASURES, "law", name, f"must be one of {', '.join(MEASURES)}")
    path = paths.DATA / "fits" / "adopted" / f"{name}.json"
    require(not path.exists(), "law", name, f"adopted already; {path.name} binds the runs planned")
    for study in STUDIES_BEHIND[name]:
        absent = missing(plan_now(study, place), place)
        rule = f"cannot be adopted: {len(absent)} runs of study {study} are missing"
        require(not absent, "law", name, rule)
    table = usable_runs(name, place.ledger)
    found = MEASURES[name](table)
    record = {
        "studies": list(STUDIES_BEHIND[name]),
        "num_runs": len(table),
        "runs_sha256": hashlib.sha256("".join(sorted(table["run_id"])).encode()).hexdigest(),
        "laws": {
            key: dict(zip(law.coefficient_names, law.coefficients.tolist(), strict=True))
            for key, law in found.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    beside.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", "utf-8")
    return beside.replace(path)


def usable_runs(name: str, directory: Path) -> pd.DataFrame:
    """The finished runs behind a law that carry no reason to be left out, in the fits' names."""
    tables = [ledger.load(study, directory) for study in STUDIES_BEHIND[name]]
    table = pd.concat(tables, ignore_index=True)
    table = table[(table["status"] == "ok") & table["excluded"].isna()]
    return table.assign(
        compute=table["training_flops"],
        loss=table["validation_loss_nats"].astype(float),
        is_moe=table["num_experts"] > 0,
        batch_tokens=table["batch_sequences"] * table["sequence_length"],
    )


def hyperparameter_laws(table: pd.DataFrame) -> dict[str, Law]:
    """Eta and B of C for dense and mixture, fitted to the near-optimal runs (Equation 3)."""
    found: dict[str, Law] = {}
    for family, runs in _families(table):
        best = near_optimal(runs).assign(compute=lambda frame: frame["budget"])
        for name in ("learning_rate", "batch_tokens"):
            found[f"{family}_{name}"] = fit(PowerLaw, best, name, clusters="compute").law
    return found


def allocation_laws(table: pd.DataFrame) -> dict[str, Law]:
    """M of C for dense and mixture, fitted to the isoFLOP optima (Table 1)."""
    found: dict[str, Law] = {}
    for family, runs in _families(table):
        optima = isoflop_optima(runs)
        sound = optima[optima["reason"] == ""]
        reasons = "; ".join(optima.loc[optima["reason"] != "", "reason"])
        rule = f"a law needs two optima within the sizes tried: {reasons}"
        require(len(sound) >= 2, f"{family} optima", len(sound), rule)
        found[f"{family}_model"] = fit(PowerLaw, sound, "flops_per_token").law
    return found


def leverage_law(table: pd.DataFrame) -> dict[str, Law]:
    """The joint law (Equation 13), fitted to the leverage over the dense frontier."""
    found = estimate(table)
    reason = found.skipped.get("joint", "")
    require("joint" in found.fits, "law", "leverage", f"cannot be fitted: {reason}")
    return {"joint": found.fits["joint"].law}


MEASURES: dict[str, Callable[[pd.DataFrame], dict[str, Any]]] = {
    "first_hyperparameters": hyperparameter_laws,
    "hyperparameters": hyperparameter_laws,
    "allocation": allocation_laws,
    "leverage": leverage_law,
}


def _families(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [("dense", table[~table["is_moe"]]), ("moe", table[table["is_moe"]])]
