"""Which parameter count of a model that is pruned while it trains the dense law takes for its size.

Jin et al. 2025 (arXiv 2501.12486): the mean over training. The dense law is fitted to dense runs
alone, and each pruned run is predicted from three counts of its own; no pruned run enters a fit.

    N    parameters without vocabulary matrices      D    training tokens
    ln L = c_0 + c_1 n + c_2 d + c_3 n^2 + c_4 n d,  n = ln N, d = ln D, both centred
    e    ln of the measured loss over the predicted one
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from moe_leverage.rules import require
from moe_leverage.theory.law import Array

COUNTS = {  # the readings, and the columns of the ledger that hold them
    "average": "average_params",
    "final": "final_params",
    "first": "total_params",
}
LEAST_DENSE = 8  # dense runs, three beyond the coefficients


def errors(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each pruned run, and under each reading's name its error e, in ln nats.

    ValueError where there are too few dense runs for the law.
    """
    dense, pruned = _sides(runs)
    matrix, predictors = _matrices(dense, pruned)
    return _errors(pruned, predictors, np.linalg.pinv(matrix) @ _log_loss(dense))


def resampled(runs: pd.DataFrame, draws: int, seed: int = 0) -> Array:
    """Mean error and mean size of the error of each reading, (draws, 3, 2), from runs drawn anew.

    The dense law is fitted to its own residuals drawn anew, each run at its place on the ladder;
    of the schedules designs are drawn, each with all its seeds.
    """
    generator = np.random.default_rng(seed)
    dense, pruned = _sides(runs)
    matrix, predictors = _matrices(dense, pruned)
    inverse = np.linalg.pinv(matrix)
    fitted = matrix @ (inverse @ _log_loss(dense))
    spread = np.sqrt(1 - np.clip(np.einsum("ij,ji->i", matrix, inverse), 0, 1 - 1e-9))
    residuals = (_log_loss(dense) - fitted) / spread
    designs = list(pruned.reset_index().groupby("config_id").indices.values())
    found = np.empty((draws, len(COUNTS), 2))
    for draw in range(draws):
        sample = fitted + generator.choice(residuals, len(residuals))
        picks = generator.integers(0, len(designs), len(designs))
        e = _errors(pruned, predictors, inverse @ sample).to_numpy(float)
        e = e[np.concatenate([designs[pick] for pick in picks])]
        found[draw] = np.column_stack([e.mean(axis=0), np.abs(e).mean(axis=0)])
    return found


def _sides(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    is_pruned = runs["prune_sparsity"].astype(float) > 0
    dense, pruned = runs[~is_pruned], runs[is_pruned]
    require(len(dense) >= LEAST_DENSE, "dense runs", len(dense), f"must be {LEAST_DENSE} at least")
    return dense, pruned


def _matrices(dense: pd.DataFrame, pruned: pd.DataFrame) -> tuple[Array, dict[str, Array]]:
    """The terms of the dense runs, and of the pruned ones at each of their counts."""
    centre = np.log(dense[["total_params", "num_tokens"]].to_numpy(float)).mean(axis=0)
    predictors = {reading: _terms(pruned, column, centre) for reading, column in COUNTS.items()}
    return _terms(dense, "total_params", centre), predictors


def _errors(
    pruned: pd.DataFrame, predictors: dict[str, Array], coefficients: Array
) -> pd.DataFrame:
    measured = _log_loss(pruned)
    found = {reading: measured - terms @ coefficients for reading, terms in predictors.items()}
    return pd.DataFrame(found, index=pruned.index)


def _terms(runs: pd.DataFrame, column: str, centre: Array) -> Array:
    logs = np.log(runs[[column, "num_tokens"]].to_numpy(float)) - centre
    n, d = logs.T
    found: Array = np.column_stack([np.ones_like(n), n, d, n**2, n * d])
    return found


def _log_loss(runs: pd.DataFrame) -> Array:
    found: Array = np.log(runs["loss_nats"].to_numpy(float))
    return found
