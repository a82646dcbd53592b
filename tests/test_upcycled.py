"""What chapter 16 makes of the chains: designs, charges, domains, and words for every outcome."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_ledger import ADOPTED

from moe_leverage import ledger, stages
from moe_leverage.accounting import count_training_flops
from moe_leverage.figures import upcycled
from moe_leverage.page import registry
from moe_leverage.stages import DOMAINS
from moe_leverage.studies.catalogue import plan
from moe_leverage.studies.neighbours import BRANCHES_FLOPS, FURTHER_FLOPS, SEED_FLOPS

LEVEL = {  # nats of each design, whose order is known
    upcycled.CONTINUED: 2.90, upcycled.FROM_NOTHING: 2.80, upcycled.AVERAGED: 2.86,
    upcycled.SHARED: 2.85, upcycled.FULL: 2.84,
}  # fmt: skip


def planned_runs() -> pd.DataFrame:
    rows = []
    for task in plan("upcycling", ADOPTED):
        run = task.run
        own = count_training_flops(run)
        rows.append({
            "run_id": task.run_id, "seed": run.seed, "domain": run.domain, "status": "ok",
            "excluded": None, "is_moe": run.model.is_moe, "num_parents": len(run.parents),
            "num_attention_experts": run.model.num_attention_experts,
            "shares_key_values": run.model.shares_key_values, "training_flops": own,
            "chain_flops": stages.chain_flops(run), "budget_flops": ledger.rung(own),
            "config_id": run.with_seed(0).identity(),
        })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def runs() -> pd.DataFrame:
    table = planned_runs()
    named = upcycled.final(table)["design"]
    noise = 0.002 * np.array([1, -1, 0])[table["seed"]]
    table["loss_nats"] = named.map(LEVEL).reindex(table.index).fillna(3.0) + noise
    seed = (table["num_parents"] == 0) & ~table["is_moe"]
    for place, domain in enumerate(DOMAINS):
        shift = np.where(table["domain"] == domain, -0.2, np.where(table["domain"] == "", 0, 0.1))
        table[f"validation.{domain}.loss_nats"] = table["loss_nats"] + shift + 0.01 * place * ~seed
    return table


def test_every_run_is_a_seed_a_branch_or_the_end_of_a_chain(runs: pd.DataFrame) -> None:
    found = upcycled.final(runs)["design"].value_counts()
    assert set(found.index) == set(upcycled.DESIGNS)
    assert found.drop(upcycled.CONTINUED).eq(3).all()
    assert found[upcycled.CONTINUED] == 6  # without what the branches cost, and with it
    assert len(runs) - found.sum() == 3 + 3 * len(DOMAINS)


def test_all_ends_but_the_short_one_cost_the_same(runs: pd.DataFrame) -> None:
    done = upcycled.final(runs)
    whole = SEED_FLOPS + BRANCHES_FLOPS + FURTHER_FLOPS
    costs = done.groupby("design")["chain_flops"].max()
    assert np.allclose(costs, whole, rtol=0.01)
    assert done["chain_flops"].min() == pytest.approx(SEED_FLOPS + FURTHER_FLOPS, rel=0.01)


def test_a_branch_gains_on_its_domain(runs: pd.DataFrame) -> None:
    table = upcycled.branch_table(runs).set_index("branch")
    gains = table[list(DOMAINS)].to_numpy()
    assert (np.diag(gains) > 0.1).all()
    assert (gains[~np.eye(len(DOMAINS), dtype=bool)] < 0).all()
    assert "gains" in upcycled.branches_in_words(runs)
    no_branch = runs[runs["domain"] == ""]
    assert upcycled.branches_in_words(no_branch) == "The branches have not been trained yet."


def test_domains_are_held_against_the_dense_model_of_the_same_cost(runs: pd.DataFrame) -> None:
    table = upcycled.by_domain(runs).set_index(["design", "domain"])["nats"]
    for design, level in LEVEL.items():
        if design != upcycled.CONTINUED:
            wanted = level - LEVEL[upcycled.CONTINUED]
            assert table[design, upcycled.AVERAGE] == pytest.approx(wanted), design
    assert set(table.index.get_level_values("domain")) == {upcycled.AVERAGE, *DOMAINS}


def test_the_words_name_the_order_and_whether_seeds_tell(runs: pd.DataFrame) -> None:
    told = upcycled.in_words(runs)
    places = [told.index(f"“{name}”") for name in sorted(LEVEL, key=lambda name: LEVEL[name])]
    assert places == sorted(places)
    assert told.endswith("seeds tell these apart.")
    best = upcycled.final(runs).query(f"design == '{upcycled.FROM_NOTHING}' and seed == 2").index
    runs.loc[best, "loss_nats"] += 0.1  # still the lowest mean, by one seed against two
    assert upcycled.in_words(runs).endswith("do not tell these apart.")
    assert upcycled.in_words(runs.iloc[:0]).startswith("No chain")


def test_leverage_is_divided_by_all_that_was_spent(runs: pd.DataFrame, tmp_path: Path) -> None:
    mixtures = upcycled.final(runs).query("is_moe")
    rows = [
        {"run_id": " ".join(mine["run_id"]), "loss": LEVEL[str(design)], "estimator": "frontier",
         "efficiency_leverage": 2.0, "low": 1.5, "high": 2.5}
        for design, mine in mixtures.groupby("design")
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "leverage.csv", index=False)
    table = upcycled.leverages(runs, tmp_path).set_index("design")
    assert len(table) == 4
    own = table["EL_all"] * table["C_all"] / table["C"]
    assert np.allclose(own, 2.0)
    assert table.loc[upcycled.FROM_NOTHING, "EL_all"] == pytest.approx(2.0)
    assert table.loc[upcycled.FULL, "EL_all"] == pytest.approx(2 * FURTHER_FLOPS / 8e12, rel=0.01)
    assert upcycled.leverages(runs, tmp_path / "none").empty


@pytest.mark.parametrize("name", ["loss-upcycled", "loss-by-domain"])
def test_the_figures_link_every_mark_to_its_runs(name: str, runs: pd.DataFrame) -> None:
    drawn = registry.draw(name, runs)
    assert drawn.table["run_id"].notna().all()
    assert drawn.finding.endswith(".")
