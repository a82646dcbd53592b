"""The second ladder's pilots: recipes are read from configs and compared on equal designs."""

import numpy as np
import pandas as pd
import pytest

from moe_leverage.figures import second_pilot as pilot
from moe_leverage.page.chapter import runs_of


def noise(**changes):
    """Six seeds of two recipes of one design, the second better by 0.02 for every seed."""
    seeds = np.arange(6)
    base = pd.DataFrame({
        "budget_flops": 1e12, "design": "dense", "recipe": pilot.BASE, "drawn": "both",
        "seed": seeds, "order_seed": -1, "loss_nats": 3 + 0.01 * seeds,
        "run_id": [f"run-{seed}" for seed in seeds],
    })  # fmt: skip
    other = base.assign(recipe="QK-norm", loss_nats=base["loss_nats"] - 0.02)
    return pd.concat([base, other], ignore_index=True).assign(**changes)


def test_a_change_is_read_from_pairs_and_a_spread_from_seeds():
    found = pilot.spreads(noise()).set_index("recipe")
    changed = found.loc["QK-norm"]
    assert changed["change"] == pytest.approx(-0.02)
    assert changed["change_high"] - changed["change_low"] == pytest.approx(0, abs=1e-9)
    assert changed["sd"] == pytest.approx(np.std(0.01 * np.arange(6), ddof=1))
    assert changed["sd_low"] < changed["sd"] < changed["sd_high"]


def test_the_interval_of_a_spread_covers_it_nine_times_in_ten():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        drawn = noise(loss_nats=3 + 0.02 * rng.standard_normal(12))
        row = pilot.spreads(drawn).iloc[0]
        held += row["sd_low"] <= 0.02 <= row["sd_high"]
    assert 0.86 < held / 400 < 0.94


def test_recipes_are_compared_on_the_designs_that_all_have_run():
    rows = [("a", "x", 3.0, 2.0), ("a", "y", 2.9, 9.0), ("b", "x", 1.0, 2.0)]
    table = pd.DataFrame(rows, columns=["design", "recipe", "loss_nats", "busiest"])
    found = pilot.standings(table.assign(budget_flops=1e12)).set_index("recipe")
    assert found["loss_nats"].to_dict() == {"x": 3.0, "y": 2.9}
    assert (found["designs"].iloc[0], found["of"].iloc[0]) == (1, 2)


def test_the_runs_of_the_ledger_are_told_apart():
    routing = pilot.routing_table(runs_of("routing-pilot"))
    assert set(routing["recipe"]) == {
        "balance loss 0.01", "balance loss 0.03", "balance loss 0.1", "balance loss 0.3",
        "sigmoid with bias", "softmax with bias",
    }  # fmt: skip
    assert routing["design"].nunique() == 3
    table = pilot.noise_table(runs_of("noise-pilot"))
    assert table["recipe"].nunique() == 7
    keys = ["budget_flops", "design", "recipe", "drawn", "seed", "order_seed"]
    assert not table.duplicated(keys).any()
    assert set(table["drawn"]) == {"both", "weights", "order"}
    assert pilot.conclusion(routing, pilot.spreads(table)).startswith("At 1e13 FLOPs")


@pytest.mark.parametrize(
    ("losses", "of", "words"),
    [
        ((3.0, 3.1), 1, "It leads by 0.100 nats"),
        ((3.0, 3.001), 1, "decides nothing: its lead over y is 0.001 nats"),
        ((3.0, 3.1), 2, "the other designs have not been run"),
        ((3.0,), 1, "the only one"),
    ],
)
def test_a_recipe_is_first_only_on_all_designs_and_beyond_noise(losses, of, words):
    rows = [("a", name, loss, 2.0) for name, loss in zip("xyz", losses, strict=False)]
    rows += [("b", "x", 2.9, 2.0)] if of == 2 else []
    table = pd.DataFrame(rows, columns=["design", "recipe", "loss_nats", "busiest"])
    table = pd.concat([table, table], ignore_index=True).assign(budget_flops=1e12)
    assert words in pilot.conclusion(table, pilot.spreads(noise()))
