"""What chapter 17 makes of pruned runs: schedules, the three readings, and words for outcomes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic_ledger import ADOPTED

from moe_leverage import ledger
from moe_leverage.figures import journey
from moe_leverage.page import registry
from moe_leverage.studies.catalogue import plan


def losses(sizes: pd.Series, tokens: pd.Series) -> pd.Series:
    return 2 + 60 * sizes.astype(float) ** -0.35 + 40 * tokens.astype(float) ** -0.3


@pytest.fixture(scope="module")
def planned() -> pd.DataFrame:
    rows = []
    for task in plan("average-parameters", ADOPTED):
        found, run = ledger.describe(task.run), task.run
        kept = ("average_params", "final_params", "sparse_training_flops")
        rows.append({
            "run_id": task.run_id, "status": "ok", "excluded": None, "seed": run.seed,
            "config_id": run.with_seed(0).identity(), "num_tokens": run.num_tokens,
            "budget_flops": ledger.rung(found["training_flops"]), "is_moe": False,
            "training_flops": found["training_flops"],
            "total_params": found["axes"]["total_params"],
            **{name: getattr(run, name) for name in journey.SCHEDULE},
            **{name: found.get(name) for name in kept},
        })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def runs(planned: pd.DataFrame) -> pd.DataFrame:
    size = planned["average_params"].fillna(planned["total_params"])
    noise = np.exp(0.002 * np.array([1, -1]))[planned["seed"]]
    return planned.assign(loss_nats=losses(size, planned["num_tokens"]) * noise)


def test_a_schedule_has_its_counts_and_what_a_sparse_machine_spends(runs: pd.DataFrame) -> None:
    table = journey.schedule_table(runs)
    assert len(table) == 15
    middle = table[table["pruned"] == "25 to 75 %"]
    halfway = (1 + middle["N_1 / N_0"]) / 2
    assert np.allclose(middle["N_mean / N_0"], halfway, atol=0.01)
    flops = table["sparse / dense FLOPs"]
    assert (flops > table["N_mean / N_0"]).all()  # scores and logits are not pruned
    assert (flops < 1).all()
    assert [name for name in table if str(name).startswith("loss at")] == [
        "loss at 1e12", "loss at 3e12"]  # fmt: skip
    assert journey.schedule_table(runs.iloc[:0]).empty


def test_the_reading_that_made_the_losses_misses_them_least(runs: pd.DataFrame) -> None:
    told = journey.errors_in_words(runs)
    places = [told.index(f"at the {name} count") for name in journey.READINGS]
    assert told.index("at the average count") == min(places)
    by_final = runs["final_params"].fillna(runs["total_params"])
    other = runs.assign(loss_nats=losses(by_final, runs["num_tokens"]))
    told = journey.errors_in_words(other)
    assert told.index("at the final count") < told.index("at the average count")


def test_the_best_window_is_named_and_theirs_beside_it() -> None:
    means = pd.DataFrame({"window": ["a", "b", "a", "b"], "loss_nats": [3.0, 3.1, 2.9, 2.9]})
    assert journey.windows_in_words(means, "a").endswith("as they say.")
    assert journey.windows_in_words(means, "b") == (
        "Pruning from a of training has the lowest loss on average; theirs, b, lies 0.050 nats "
        "above it."
    )


@pytest.mark.parametrize("name", ["journey-errors", "journey-windows"])
def test_the_figures_link_every_mark_to_its_runs(name: str, runs: pd.DataFrame) -> None:
    drawn = registry.draw(name, runs)
    assert len(drawn.table) == 30
    assert all(len(str(ids).split()) == 2 for ids in drawn.table["run_id"])
    assert drawn.finding.endswith(".")


def test_a_loss_above_the_law_lies_above_the_line(runs: pd.DataFrame) -> None:
    raised = np.where(runs["prune_sparsity"] > 0, 1.05, 1.0)
    drawn = registry.draw("journey-errors", runs.assign(loss_nats=runs["loss_nats"] * raised))
    assert drawn.table["average"].mean() == pytest.approx(5, abs=0.5)
