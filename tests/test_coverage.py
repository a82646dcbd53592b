"""Nominal 90 % intervals hold the truth about nine times in ten, on tables of a few runs."""

import numpy as np
import pytest

from bench.bench_coverage import CELLS, FLAT, covered, once


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["4+2/0.3%/single", "6+4/1%/seeds"])
def test_intervals_of_few_runs_hold_the_truth(cell):
    shares = covered(cell, 60, workers=1)
    assert {"EL", "floor", "optimum"} <= set(shares)
    for name, share in shares.items():
        assert 0.78 <= share <= 1.0, (name, share)  # 60 tables tell a share to 0.12


def test_every_shape_noise_and_seeding_has_a_cell():
    assert len(CELLS) == len(set(CELLS)) == 16
    hits = once("8+5/1%/single", 0)
    assert len(hits["EL"]) == 5
    assert all(isinstance(bool(hit), bool) for entry in hits.values() for hit in entry)
    assert np.mean(hits["optimum"]) >= 0


@pytest.mark.slow
def test_where_a_law_is_flat_the_bounded_intervals_alone_would_miss_the_truth():
    """Which is why unbounded ones are counted: of 60 tables, 0.85 less three standard errors."""
    shares = covered(FLAT, 60, workers=1)
    for maximum in (0.1, 1, 4, 100):
        assert shares[f"flat A_max = {maximum:g}"] >= 0.73, maximum
    assert shares["flat A_max = 0.1, share bounded"] == 1.0
    assert shares["flat A_max = 100, share bounded"] < 0.2
    assert shares.get("flat A_max = 100, of the bounded", 0.0) < 0.5
