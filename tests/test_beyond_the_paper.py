"""Chapter 11: where measured leverage passes 1, two routers."""

import pandas as pd
import pytest

from moe_leverage.figures import beyond_the_paper as beyond


def points(*rows):
    names = ["activation_ratio", "granularity", "training_flops", "efficiency_leverage"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(run_id=[f"run-{place}" for place in table.index])


def test_a_crossing_is_interpolated_in_logarithms():
    found = beyond.crossings(points((0.1, 2.0, 1e12, 0.5), (0.1, 2.0, 1e14, 2.0)))
    assert found["training_flops"].tolist() == pytest.approx([1e13])
    assert found["run_id"].tolist() == ["run-0 run-1"]


def test_a_design_on_one_side_of_1_has_no_crossing():
    above = points((0.1, 2.0, 1e12, 1.5), (0.1, 2.0, 1e14, 2.0), (0.2, 2.0, 1e12, 0.5))
    assert beyond.crossings(above).empty
    assert beyond.crossings(pd.DataFrame()).empty


def test_both_ways_of_balancing_stand_side_by_side():
    rows = [
        {"status": "ok", "routing.score": score, "budget_flops": compute, "num_experts": 32,
         "loss_nats": loss, "load.max_over_mean": [1.0, load]}
        for score, loss, load in (("softmax", 4.0, 3.0), ("sigmoid", 3.9, 1.4))
        for compute in (1.0e12, 3.1e12)
    ]  # fmt: skip
    table = beyond.routing_comparison(pd.DataFrame(rows))
    assert len(table) == 2
    assert table["loss, bias"].tolist() == [3.9, 3.9]
    assert table["largest load, auxiliary loss"].tolist() == [2.0, 2.0]
    assert beyond.routing_comparison(pd.DataFrame()).empty


def merge_runs(merged):
    """Runs of the study `merge` at two budgets and two seeds; merged ones have these losses."""
    recipes = [
        ("exponential", 0, 3.0),
        ("none", 0, 3.2),
        ("none", 8, merged[0]),
        ("none", 16, merged[1]),
    ]
    return pd.DataFrame([
        {"status": "ok", "decay": decay, "merge_checkpoints": count, "budget_flops": budget,
         "seed": seed, "loss_nats": loss + 0.01 * seed + off * (0.001 if seed else -0.001)}
        for off, (decay, count, loss) in enumerate(recipes)
        for budget in (1e12, 1e13)
        for seed in (0, 1)
    ])  # fmt: skip


def test_the_best_merge_is_held_against_the_decay():
    table = beyond.merging_table(merge_runs((3.06, 3.05)))
    assert table.columns.tolist() == [
        "compute (FLOPs)", "decayed", "16 merged", "8 merged", "constant, not merged"]  # fmt: skip
    told = beyond.merging_in_words(merge_runs((3.06, 3.05)))
    assert "last 16 checkpoints" in told
    assert "brings 75 %" in told
    assert "+0.050 nats" in told
    assert told.endswith("decay is the better here.")
    assert beyond.merging_in_words(merge_runs((2.9, 2.95))).endswith("merging is the better here.")
    assert beyond.merging_in_words(merge_runs((3.1, 3.0))).endswith("cannot be told apart.")
    assert beyond.merging_in_words(pd.DataFrame()) == ""
