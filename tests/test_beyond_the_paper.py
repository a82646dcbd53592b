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
