"""From a table of runs to the points that leverage is read from: the best of each family a budget.

    family   one architecture at all its sizes: dense, or MoE with its A, G and S

A table of runs has a row a run and the columns `is_moe, activation_ratio, granularity,
shared_ratio, compute, loss`; `flops_per_token, num_tokens, active_params, learning_rate,
batch_tokens, variant` if known, and `run_id`. Rows of one `config_id` are repeats of one
configuration; without that column, rows equal in all but `run_id` are, where the table has a column
`seed`. Rows of a `variant` or marked `held_out` get a leverage but are kept from the fit of
Equation 13.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_leverage.analysis.reductions import budgets, seed_noise
from moe_leverage.rules import refuse, require
from moe_leverage.theory.law import Array

REQUIRED = ("is_moe", "activation_ratio", "granularity", "shared_ratio", "compute", "loss")
FAMILY = ["is_moe", "activation_ratio", "granularity", "shared_ratio", "variant", "held_out"]
SIZES = [
    "flops_per_token", "num_tokens", "active_params", "learning_rate", "batch_tokens",
    "configuration",
]  # fmt: skip


def best_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The best configuration of each family at each budget, its loss the mean over seeds.

    Adds `num_seeds`, and `num_runs`: how many runs the choice was made from.

    >>> runs = pd.DataFrame({"is_moe": False, "activation_ratio": 1.0, "granularity": 2.0,
    ...     "shared_ratio": 0.0, "compute": 1e12, "learning_rate": [1e-3, 1e-3, 2e-3],
    ...     "seed": [0, 1, 0], "loss": [3.0, 3.2, 3.3]})
    >>> best_runs(runs)[["loss", "num_seeds", "num_runs"]].to_numpy().tolist()
    [[3.1, 2.0, 3.0]]
    """
    table = prepared(table)
    configurations = _mean_over_seeds(table)
    key = [*FAMILY, "budget"]
    chosen = configurations.loc[configurations.groupby(key, dropna=False)["loss"].idxmin()]
    counts = table.groupby(key, dropna=False).size().rename("num_runs").reset_index()
    return chosen.merge(counts, on=key).sort_values([*FAMILY, "compute"], ignore_index=True)


def settings(table: pd.DataFrame) -> pd.Series:
    """What is equal in rows of one family, budget and sizes that differ in their seeds alone."""
    found: pd.Series = prepared(table)["configuration"]
    return found


def table_noise(table: pd.DataFrame) -> tuple[float, int]:
    """`seed_noise` of a table in the names of this module, a reader's or ours.

    Where it does not say which rows are one setting, those are that are equal in family, budget and
    sizes, if the table has seeds at all.
    """
    if "config_id" not in table:
        table = prepared(table)
        setting = table.groupby([*FAMILY, "budget", *SIZES], dropna=False).ngroup()
        table = table.assign(config_id=setting)
    return seed_noise(table.assign(loss_nats=table["loss"]))


def dominated(dense: pd.DataFrame) -> pd.DataFrame:
    """Dense points that a cheaper one beats: no part of a frontier, and kept from its curves.

    >>> runs = pd.DataFrame({"compute": [1e18, 1e19, 1e20], "loss": [3.0, 3.1, 2.8]})
    >>> dominated(runs)["compute"].tolist()
    [1e+19]
    """
    ordered = dense.sort_values("compute")
    beaten = ordered["loss"] > ordered["loss"].cummin().shift(fill_value=np.inf)
    found: pd.DataFrame = ordered[beaten]
    return found


def family_name(family: Mapping[str, object] | pd.Series) -> str:
    """A short name: `dense`, or the axes of an MoE family."""
    variant = f" {family['variant']}" if family.get("variant") else ""
    if not family["is_moe"]:
        return f"dense{variant}"
    letters = {"A": "activation_ratio", "G": "granularity", "S": "shared_ratio"}
    known = {k: float(str(family[name])) for k, name in letters.items()}
    if np.isnan(known["A"]) and np.isnan(known["G"]):
        return f"mixtures{variant}"
    return " ".join(f"{k}={v:.4g}" for k, v in known.items() if not np.isnan(v)) + variant


def points_of(
    moe: pd.DataFrame, estimator: str, **columns: Array | NDArray[np.bool_]
) -> pd.DataFrame:
    """The rows of an estimator: its points with what it says of them; a bound or none is blank."""
    names = [*FAMILY, "compute", "loss", *(name for name in ("run_id", "row") if name in moe)]
    kept = moe[names].reset_index(drop=True)
    blank: dict[str, Any] = {"at_least": np.nan, "at_most": np.nan}
    blank["extrapolated"] = False
    return kept.assign(estimator=estimator, **(blank | columns))


def prepared(table: pd.DataFrame) -> pd.DataFrame:
    """A table of runs with its families, budgets and settings told; ValueError if it lacks them."""
    for name in REQUIRED:
        require(
            name in table,
            name,
            None,
            f"is not a column of the table ({', '.join(map(str, table))})",
        )
    for name in ("compute", "loss"):
        values = table[name].to_numpy(dtype=float)
        bad = np.flatnonzero(~((values > 0) & (values < np.inf)))
        if len(bad):
            refuse(f"{name}, row {bad[0]}", float(values[bad[0]]), "must be positive and finite")
    known = {name: table.get(name, 0.0) for name in SIZES if name != "configuration"}
    table = table.assign(**known, variant=table.get("variant", ""))
    for name in ("activation_ratio", "granularity", "shared_ratio"):
        rounded = _significant(table[name].astype(float))
        dense = {"activation_ratio": 1.0, "granularity": 0.0, "shared_ratio": 0.0}[name]
        table = table.assign(**{name: rounded.where(table["is_moe"], dense)})
    marked = table["held_out"].eq(True) if "held_out" in table else False
    table = table.assign(
        variant=table["variant"].fillna("").where(table["is_moe"], ""),
        held_out=marked & table["is_moe"],
    )
    table = table.assign(is_moe=table["is_moe"].astype(bool), budget=budgets(table))
    key = table[[*FAMILY, "budget", *(name for name in SIZES if name != "configuration")]]
    return table.assign(configuration=_configuration(table, key))


def _configuration(table: pd.DataFrame, key: pd.DataFrame) -> pd.Series:
    """What tells settings apart beside family, budget and sizes.

    The table's own `config_id` if it has one: two runs that differ in anything but seeds are no
    repeats. Else rows of a table with seeds are repeats where their seeds differ, and of one
    without each is its own.
    """
    if "config_id" in table:
        return table["config_id"]
    if "seed" not in table:
        return pd.Series(np.arange(len(table)), table.index)
    setting = key.assign(seed=table["seed"])
    again: pd.Series = setting.groupby(list(setting), dropna=False).cumcount()
    return again


def _significant(column: pd.Series, digits: int = 4) -> pd.Series:
    """Rounded to so many significant digits: equal axes from unequal arithmetic."""
    scale = 10.0 ** (digits - 1 - np.floor(np.log10(column.abs().where(column != 0, 1.0))))
    rounded: pd.Series = (column * scale).round() / scale
    return rounded


def _mean_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    key = [*FAMILY, "budget", *SIZES]
    marks = {name: mark for name, mark in (("run_id", " "), ("row", ", ")) if name in table}
    named: dict[str, Any] = {name: (name, "first") for name in marks}
    groups = table.groupby(key, as_index=False, dropna=False)  # a size may be unknown
    means: pd.DataFrame = groups.agg(
        loss=("loss", "mean"), compute=("compute", "mean"), num_seeds=("loss", "size"), **named
    )
    repeated = means.index[means["num_seeds"] > 1]  # mostly few: names are joined one by one
    if marks and len(repeated):
        place = groups.ngroup()
        same = place.isin(repeated)
        for name, mark in marks.items():
            joined = table.loc[same, name].groupby(place[same]).agg(mark.join)
            means.loc[joined.index, name] = joined
    return means
