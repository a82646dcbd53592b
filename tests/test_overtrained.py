"""Leverage of models that read three times their best tokens, beside that at their best sizes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic_ledger import ADOPTED, fill

from moe_leverage import ledger
from moe_leverage.figures import overtrained
from moe_leverage.studies.catalogue import plan
from moe_leverage.studies.ladder import TOP


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    directory = tmp_path_factory.mktemp("ledger")
    fill(directory, ("overtrained",))
    return ledger.table("overtrained", directory=directory)


def points_of(table: pd.DataFrame, times: float) -> pd.DataFrame:
    """Points at the best sizes whose EL is so many times the overtrained."""
    return pd.DataFrame({
        "training_flops": table["C"], "activation_ratio": table["A"],
        "efficiency_leverage": times * table["EL"], "leverage_low": times * table["from"],
        "leverage_high": times * table["to"],
    })  # fmt: skip


def nowhere() -> pd.DataFrame:
    one = {"C": [1.0], "A": [1.0], "EL": [1.0], "from": [1.0], "to": [1.0]}
    return points_of(pd.DataFrame(one), 1.0)


def test_the_leverage_of_the_law_that_made_the_losses_comes_back(runs: pd.DataFrame) -> None:
    table = overtrained.leverages(runs, nowhere())
    designs = {round(task.run.model.activation_ratio, 4) for task in plan("overtrained", ADOPTED)}
    assert len(table) == 2 * len(designs - {1.0})
    for _, row in table.iterrows():
        made = float(ADOPTED.leverage(activation_ratio=row["A"], granularity=2.0, compute=row["C"]))
        if made * row["C"] > TOP:
            assert np.isnan(row["EL"])  # no dense model is so good
            continue
        assert row["EL"] == pytest.approx(made, rel=0.1)
        assert row["from"] < row["EL"] < row["to"]
    assert table[overtrained.BEST].isna().all(axis=None)
    assert overtrained.in_words(table) == "The overtrained models have not been trained yet."


def test_the_words_count_the_places_that_agree(runs: pd.DataFrame) -> None:
    own = overtrained.leverages(runs, nowhere())
    alone = overtrained.leverages(runs, points_of(own, 1.0))
    known = alone["EL"].notna().sum()
    assert known > 2
    assert f"at {known} of {known} places" in overtrained.in_words(alone)
    doubled = overtrained.leverages(runs, points_of(own, 2.0))
    assert f"at 0 of {known} places" in overtrained.in_words(doubled)
    assert "smaller at all of them" in overtrained.in_words(doubled)
    halved = overtrained.leverages(runs, points_of(own, 0.5))
    assert "larger at all of them" in overtrained.in_words(halved)
    assert overtrained.in_words(alone).endswith("does not move one way at all of them.")
    assert np.allclose(doubled[overtrained.BEST[0]], 2 * doubled["EL"], equal_nan=True)
    assert overtrained.leverages(runs.iloc[:0], points_of(alone, 1.0)).empty


def test_a_mixture_worse_than_its_dense_twin_is_read_from_the_smaller_budget(
    runs: pd.DataFrame,
) -> None:
    dense = runs[~runs["is_moe"]].groupby("budget_flops")["loss_nats"].mean()
    worse = runs["is_moe"] & (runs["budget_flops"] == 3e12)
    between = np.sqrt(dense[1e12] * dense[3e12])
    lost = runs.assign(loss_nats=runs["loss_nats"].where(~worse, between))
    table = overtrained.leverages(lost, nowhere())
    assert table.loc[table["C"] == 3e12, "EL"].between(1 / 3, 1).all()
