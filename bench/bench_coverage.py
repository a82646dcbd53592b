"""How often nominal 90 % intervals hold the truth, on simulated tables of a few runs.

    python -m bench.bench_coverage [SIMULATIONS] [CELL ...]

A cell is named `4+2/0.3%/seeds`: dense and MoE settings, noise of ln loss, and whether each setting
has two seeds. Finished cells are kept in build/coverage.json, so that a stopped run goes on.

Unbounded intervals hold every value and are counted: where rows may or may not tell a coefficient,
an interval that is to hold the truth nine times in ten must now and then be unbounded (Gleser and
Hwang, 1987; Dufour, 1997), and those that happen to be bounded hold it less often. Nor is there a
cure for holding it more often: where a law is flat from a value on, such as Equation 10 in A_max,
half of the estimates lie beyond it and fit it as well as themselves, so that nine in ten become up
to nineteen in twenty (Self and Liang, 1987). Of A_max at least LOW is asked, and the cell `flat`
shows both on Equation 10 alone.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from moe_leverage import paths
from moe_leverage.analysis.findings import loss_curves
from moe_leverage.analysis.fitting import fit
from moe_leverage.analysis.leverage import estimate
from moe_leverage.analysis.profiles import holds
from moe_leverage.analysis.reductions import isoflop_optima
from moe_leverage.theory.laws import JointLaw, SaturatedActivationLaw
from moe_leverage.theory.rivals import FlooredPowerLaw

SIMULATIONS, WORKERS, RESAMPLES = 400, 2, 400
SHAPES = ((4, 2), (6, 4), (8, 5), (15, 10))
NOISES = (0.003, 0.01)
LOW, HIGH = 0.85, 0.95
FLAT = "flat"  # the cell of one coefficient that rows tell, or do not
MAXIMA = (0.1, 1.0, 4.0, 100.0)  # of A, true ones; the largest A is 1
FAR = 1e8  # an A_max; an interval that holds it has no upper end
FLAT_NOISE = 0.12  # of ln EL
ONE_SIDED = ("joint a_max", FLAT)  # of which at least LOW is asked
DENSE = FlooredPowerLaw(1.6, 330.0, -0.19)
JOINT = JointLaw(1.05, -0.11, 0.02, -0.13, 0.03, 4.0)
CELLS = [
    f"{dense}+{moe}/{100 * noise:g}%/{'seeds' if seeds else 'single'}"
    for dense, moe in SHAPES for noise in NOISES for seeds in (False, True)
]  # fmt: skip


def simulated(dense: int, moe: int, noise: float, seeds: int, seed: int) -> pd.DataFrame:
    """Dense runs over three decades, mixtures of different A and G among them."""
    rows: list[dict[str, Any]] = [
        {"is_moe": False, "activation_ratio": 1.0, "granularity": 2.0, "compute": compute,
         "loss": DENSE.evaluate(compute=compute)}
        for compute in np.geomspace(3e11, 3e14, dense)
    ]  # fmt: skip
    for place in range(moe):
        axes = {
            "activation_ratio": (0.02, 0.06, 0.2)[place % 3],
            "granularity": (2.0, 4.0, 8.0, 16.0)[place % 4],
            "compute": float(np.geomspace(6e11, 3e13, moe)[place]),
        }
        value = JOINT.evaluate(**axes)
        loss = DENSE.evaluate(compute=value * axes["compute"])
        rows.append({"is_moe": True, "loss": loss, "truth": value} | axes)
    table = pd.DataFrame(rows).assign(shared_ratio=0.0)
    if seeds > 1:
        table = pd.concat([table.assign(seed=entry) for entry in range(seeds)], ignore_index=True)
    drawn = np.random.default_rng(seed).standard_normal(len(table))
    return table.assign(loss=table["loss"] * np.exp(noise * drawn))


def once(cell: str, seed: int) -> dict[str, list[bool]]:
    """Whether each interval of one simulated table holds its truth; unbounded ends hold all."""
    shape, noise, repeats = cell.split("/")
    dense, moe = (int(part) for part in shape.split("+"))
    sigma, seeds = float(noise.rstrip("%")) / 100, 2 if repeats == "seeds" else 1
    table = simulated(dense, moe, sigma, seeds, seed)
    hits: dict[str, list[bool]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = estimate(table.drop(columns="truth"), resamples=RESAMPLES, seed=seed)
        points = found.points[found.points["estimator"] == "frontier"].dropna(subset=["low"])
        axes = {name: points[name].to_numpy() for name in JointLaw.inputs}
        truth = JOINT.evaluate(**axes) if len(points) else np.empty(0)
        hits["EL"] = list((points["low"] <= truth) & (truth <= points["high"]))
        curve = loss_curves(found).fits.get("dense_loss")
        if curve is not None:
            hits["floor"] = [holds(curve, "floor", DENSE.floor)]
        if "joint" in found.fits:
            joint = found.fits["joint"]
            for name in joint.law.coefficient_names:
                hits[f"joint {name}"] = [holds(joint, name, getattr(JOINT, name))]
    hits["optimum"] = optima(max(4, dense), sigma, seeds, seed)
    return hits


def optima(sizes: int, sigma: float, seeds: int, seed: int) -> list[bool]:
    """The same of isoFLOP optima: four budgets, ln L = 1 + 0.01 (ln M / M_opt)^2."""
    generator = np.random.default_rng(10_000 + seed)
    parts = []
    for compute in (3e11, 1e12, 3e12, 1e13):
        steps = np.linspace(-3, 3, sizes)
        best = 0.0264 * compute**0.6
        noise = sigma * generator.standard_normal((seeds, sizes)).mean(axis=0)
        parts.append(pd.DataFrame({
            "compute": compute, "flops_per_token": best * np.exp(steps), "truth": best,
            "num_tokens": compute / (3 * best * np.exp(steps)),
            "loss": np.exp(1 + 0.01 * steps**2 + noise),
        }))  # fmt: skip
    table = pd.concat(parts)
    found = isoflop_optima(table)
    truth = 0.0264 * found["compute"] ** 0.6
    hit = (found["flops_per_token_low"] <= truth) & (truth <= found["flops_per_token_high"])
    return list(hit[found["reason"] == ""])


def flat(maximum: float, seed: int) -> tuple[bool, bool]:
    """Whether the interval of A_max of Equation 10 holds the truth, and whether it has an end."""
    law = SaturatedActivationLaw(-0.5, 0.03, maximum)
    shares = np.geomspace(0.01, 1.0, 12)
    noise = np.exp(FLAT_NOISE * np.random.default_rng(seed).standard_normal(len(shares)))
    value = law.evaluate(activation_ratio=shares) * noise
    table = {"activation_ratio": shares, "efficiency_leverage": value}
    fitted = fit(type(law), table, "efficiency_leverage", resamples=0, seed=seed)
    return holds(fitted, "a_max", maximum), not holds(fitted, "a_max", FAR)


def flat_shares(simulations: int, workers: int = WORKERS) -> dict[str, float]:
    """By true A_max: shares of all intervals that hold it and have an end, and of these that do."""
    shares: dict[str, float] = {}
    for maximum in MAXIMA:
        jobs = (delayed(flat)(maximum, seed) for seed in range(simulations))
        held, bounded = np.array(Parallel(n_jobs=workers)(jobs)).T
        shares[f"{FLAT} A_max = {maximum:g}"] = float(held.mean())
        shares[f"{FLAT} A_max = {maximum:g}, share bounded"] = float(bounded.mean())
        if bounded.any():
            of_these = float(held[bounded].mean())
            shares[f"{FLAT} A_max = {maximum:g}, of the bounded"] = of_these
    return shares


def covered(cell: str, simulations: int, workers: int = WORKERS) -> dict[str, float]:
    """The share of intervals of one cell that hold the truth, by quantity."""
    if cell == FLAT:
        return flat_shares(simulations, workers)
    told = Parallel(n_jobs=workers)(delayed(once)(cell, seed) for seed in range(simulations))
    names = dict.fromkeys(name for entry in told for name in entry)
    hits = {name: [hit for entry in told for hit in entry.get(name, [])] for name in names}
    return {name: float(np.mean(hit)) for name, hit in hits.items() if hit}


def run(simulations: int = SIMULATIONS, cells: list[str] | None = None) -> list[dict[str, Any]]:
    """One row a cell and quantity; cells that are kept are not run again."""
    path = paths.BUILD / "coverage.json"
    kept = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    rows = []
    for cell in cells or [*CELLS, FLAT]:
        key = f"{cell}, {simulations}"
        if key not in kept:
            kept[key] = covered(cell, simulations)
            paths.write_atomically(path, json.dumps(kept, indent=1) + "\n")
        for name, share in kept[key].items():
            is_share, low_only = "bounded" not in name, name.startswith(ONE_SIDED)
            rows.append({
                "name": f"coverage of {name}", "shape": key, "value": share, "unit": "share",
                "peer": "nominal 0.9", "ratio": None,
                "target": (f"{LOW} or more" if low_only else f"{LOW} to {HIGH}") * is_share or None,
                "met": LOW <= share <= (1 if low_only else HIGH) if is_share else None,
            })  # fmt: skip
    return rows


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else SIMULATIONS
    for found in run(count, sys.argv[2:] or None):
        mark = "  outside" if found["met"] is False else ""
        print(f"{found['shape']:28} {found['name']:40} {found['value']:.3f}{mark}")
