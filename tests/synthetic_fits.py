"""Fits of made-up runs, in the files that `data/fits` has once our own runs suffice."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.fitting import fit
from moe_leverage.theory.laws import PUBLISHED, JointLaw, PowerLaw

BUDGETS = (1e11, 3e11, 1e12, 3e12)


def synthetic_fits(directory: Path, *, resamples: int = 60) -> tuple[Fit, Fit]:
    """Write and return a joint law and a token law; the leverage is the published one, shifted."""
    grid = itertools.product([0.02, 0.05, 0.1, 0.3], [2.0, 4.0, 8.0], BUDGETS)
    a, g, c = np.array(list(grid)).T
    noise = np.random.default_rng(0).normal(0, 0.02, len(a))
    leverage = PUBLISHED.joint(activation_ratio=a, granularity=g, compute=1e6 * c) * np.exp(noise)
    table = {"activation_ratio": a, "granularity": g, "compute": c, "efficiency_leverage": leverage}
    joint = fit(JointLaw, table, "efficiency_leverage", resamples=resamples, starts=16)
    budgets = np.array(BUDGETS)
    swept = {"compute": budgets, "num_tokens": 12 * budgets**0.48 * np.exp(noise[:4])}
    tokens = fit(PowerLaw, swept, "num_tokens", resamples=resamples)
    joint.save(directory / "joint.json")
    tokens.save(directory / "moe_tokens.json")
    tokens.save(directory / "moe_batch_tokens.json")  # any power law will do
    return joint, tokens


def leverage_of(law, count=80, sigma=0.04, seed=0):
    """EL by a law of A, G and C at random points, with normal noise in its logarithm."""
    generator = np.random.default_rng(seed)
    table = {
        "activation_ratio": np.exp(generator.uniform(np.log(0.0117), 0, count)),
        "granularity": 2 ** generator.uniform(1, 4, count),
        "compute": 10 ** generator.uniform(18, 20.5, count),
    }
    inputs = {name: table[name] for name in law.inputs}
    noise = np.exp(sigma * generator.standard_normal(count))
    return table | {"efficiency_leverage": law.evaluate(**inputs) * noise}
