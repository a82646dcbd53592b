"""Tables of runs whose law is known: dense loss with a floor, MoE loss from a joint law."""

import itertools

import numpy as np
import pandas as pd

from moe_leverage.theory.laws import JointLaw
from moe_leverage.theory.rivals import FlooredPowerLaw

DENSE = FlooredPowerLaw(1.6, 330.0, -0.19)
JOINT = JointLaw(1.05, -0.11, 0.02, -0.13, 0.03, 4.0)  # breaks even near 1e11 FLOPs at G = 2
BUDGETS = (3e11, 1e12, 3e12, 1e13, 3e13)
FRONTIER = (3e11, 1e12, 3e12, 1e13, 3e13, 1e14, 3e14)


def dense_runs(budgets=FRONTIER, seeds=3):
    rows = [
        {"is_moe": False, "activation_ratio": 1.0, "granularity": 2 / 3, "shared_ratio": 0.0}
        | {"compute": compute, "seed": seed, "loss": DENSE.evaluate(compute=compute)}
        for compute, seed in itertools.product(budgets, range(seeds))
    ]
    return pd.DataFrame(rows)


def moe_runs(experts=(4, 8, 16, 32, 64, 128, 256), scales=(1, 2, 4, 8), budgets=BUDGETS, seeds=1):
    """`scales` multiplies the baseline of 2 + 1 active experts, so G = 2 x scale."""
    rows = []
    for num, scale, compute, seed in itertools.product(experts, scales, budgets, range(seeds)):
        axes = {"activation_ratio": 3 / (num + 1), "granularity": 2.0 * scale}
        leverage = JOINT(**axes, compute=compute)
        loss = DENSE.evaluate(compute=leverage * compute)
        own = {"is_moe": True, "shared_ratio": 1 / 3, "compute": compute, "seed": seed}
        rows.append(axes | own | {"loss": loss, "true_leverage": leverage})
    return pd.DataFrame(rows)


def noisy(table, sigma=0.003, seed=0):
    drawn = np.random.default_rng(seed).standard_normal(len(table))
    return table.assign(loss=table["loss"] * np.exp(sigma * drawn))


def all_runs(sigma=0.003, seed=0, **moe):
    return noisy(pd.concat([dense_runs(), moe_runs(**moe)], ignore_index=True), sigma, seed)
