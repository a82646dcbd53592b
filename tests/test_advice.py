"""What to train next: the run that shortens the interval of the answer most, by its weight."""

import numpy as np
import pandas as pd
import pytest

from moe_leverage.analysis.findings import examine
from moe_leverage.theory.rivals import ChinchillaLaw
from moe_leverage.your_runs import advice
from moe_leverage.your_runs.answer import main_point

LAW = ChinchillaLaw(1.82, 482.0, 2085.0, 0.348, 0.366)


def table(seeds, sigma=0.004):
    """Five dense budgets with so many seeds each, and a mixture that is read at the third."""
    generator, rows = np.random.default_rng(0), []
    for compute, count in zip(np.geomspace(1e18, 1e22, 5), seeds, strict=True):
        rows += [(False, 1.0, 2.0, compute, seed, 40 * compute**-0.06) for seed in range(count)]
    rows += [(True, 0.1, 4.0, 1e20 / 2.5, seed, 40 * 1.2e20**-0.06) for seed in range(9)]
    names = ["is_moe", "activation_ratio", "granularity", "compute", "seed", "loss"]
    runs = pd.DataFrame(rows, columns=names).assign(shared_ratio=0.0)
    return runs.assign(loss=runs["loss"] * np.exp(sigma * generator.standard_normal(len(runs))))


@pytest.mark.parametrize(
    ("seeds", "named"), [((9, 9, 1, 9, 9), "1e+20"), ((9, 9, 9, 9, 9), "4e+19")]
)
def test_the_run_that_weighs_most_is_named(seeds, named):
    first = advice.next_runs(examine(table(seeds), resamples=100))[0]
    assert first.startswith("another seed of ")
    assert f"at {named} FLOPs" in first
    assert "shortens the interval of the answer most" in first


def test_the_share_that_is_promised_is_what_another_seed_brings():
    found = examine(table((9, 9, 1, 9, 9)), resamples=4000).leverage
    more = examine(table((9, 9, 2, 9, 9)), resamples=4000).leverage
    widths = []
    for measured in (found, more):
        row = measured.points[measured.points["estimator"] == "frontier"].iloc[0]
        widths.append(np.log(row["high"] / row["low"]) / measured.noise)  # at equal noise
    dense = found.best[~found.best["is_moe"]]
    points = pd.concat([dense, found.best[found.best["is_moe"]]], ignore_index=True)
    part = advice.squared_shares(found, points)
    promised = np.sqrt(1 - part[2] / 2 / part.sum())
    assert widths[1] / widths[0] == pytest.approx(promised, rel=0.1)


def test_an_answer_over_the_optimum_asks_for_a_dense_run_with_its_size():
    rows = []
    for size in np.geomspace(5e7, 2e9, 6):
        for ratio in (80.0, 200.0, 500.0):
            loss = LAW.evaluate(num_params=size, num_tokens=ratio * size)
            rows.append((False, 1.0, 2.0, size, ratio * size, 6 * ratio * size**2, loss))
    for compute in (1e19, 1e20):
        size = np.sqrt(3 * compute / 120)
        loss = LAW.evaluate(num_params=size, num_tokens=20 * size)
        rows.append((True, 0.1, 4.0, size, 20 * size, compute, loss))
    names = ["is_moe", "activation_ratio", "granularity", "active_params", "num_tokens", "compute",
             "loss"]  # fmt: skip
    runs = pd.DataFrame(rows, columns=names).assign(shared_ratio=0.0)
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(len(runs)))
    found = examine(runs.assign(loss=runs["loss"] * noise), resamples=200)
    assert main_point(found)["estimator"] == "optimal frontier"
    told = advice.next_runs(found)
    assert any("a dense model of" in text and "over the optimum most" in text for text in told)


def test_a_mixture_without_an_upper_end_asks_for_a_larger_dense_run():
    runs = table((3, 3, 3, 3, 3))
    beyond = runs[runs["is_moe"]].assign(loss=lambda own: own["loss"] * 0.5, compute=1e21)
    told = advice.next_runs(examine(pd.concat([runs, beyond]), resamples=50))
    assert any(text.startswith("a dense model at 3e+22 FLOPs") for text in told)


def test_what_a_table_lacks_for_a_leverage_is_what_is_advised():
    runs = table((2, 2, 2, 2, 2))
    dense = runs[~runs["is_moe"]]
    mixtures = advice.next_runs(examine(dense, resamples=2))
    assert mixtures == ["train a mixture inside the range of the dense losses"]
    budgets = advice.next_runs(examine(runs[runs["is_moe"]], resamples=2))
    assert budgets == ["train dense models at three or more budgets"]
    flat = runs.assign(loss=runs["loss"].where(runs["is_moe"], 2.5))  # no frontier either
    assert advice.next_runs(examine(flat, resamples=2)) == budgets


def test_a_second_seed_is_advised_only_where_the_noise_is_a_guess():
    assert not any(
        "a guess" in text for text in advice.next_runs(examine(table((2,) * 5), resamples=20))
    )
    once = table((1,) * 5).drop_duplicates(["is_moe", "compute"])
    assert any("a guess" in text for text in advice.next_runs(examine(once, resamples=20)))
