"""Leverage read back from tables whose law is known; bounds, noise, and refusals."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import stdtrit
from synthetic_runs import BUDGETS, DENSE, FRONTIER, JOINT, all_runs, dense_runs, moe_runs, noisy

from moe_leverage.analysis.dense_frontier import Draws, frontier_compute
from moe_leverage.analysis.leverage import estimate, inverse_log_compute
from moe_leverage.analysis.points import best_runs, table_noise
from moe_leverage.analysis.reductions import redrawn_optima
from moe_leverage.theory.laws import PowerLaw
from moe_leverage.theory.rivals import FlooredPowerLaw

ESTIMATORS = {"frontier", "power curves", "floored curves", "joint"}


def with_truth(points):
    truth = JOINT(**{name: points[name].to_numpy() for name in JOINT.inputs})
    return points.assign(truth=truth)


def small(sigma=0.003, seed=0):
    return all_runs(sigma, seed, experts=(8, 32, 64, 256), scales=(1, 2, 6))


@pytest.fixture(scope="module")
def exact():
    return estimate(all_runs(sigma=1e-7), resamples=100)


def test_frontier_is_exact_on_a_floored_law():
    """Interpolation in (ln C, ln(L - floor)) is exact for L = floor + a C^-b at the true floor."""
    compute, wanted = np.array(FRONTIER), np.geomspace(4e11, 2e14, 9)
    log_loss = np.log(DENSE.evaluate(compute=compute))[None]
    found = frontier_compute(compute, log_loss, np.log(DENSE.evaluate(compute=wanted))[None], 1.6)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-6)


def test_frontier_is_monotone_where_a_dense_run_is_worse_than_a_cheaper_one():
    compute = np.array([1e12, 1e13, 1e14])
    losses = np.log([[3.0, 3.2, 2.0]])
    reached = frontier_compute(compute, losses, np.log([[2.99, 2.5, 2.01]]), 0.0)[0]
    assert (np.diff(reached) > 0).all()
    assert reached[0] >= 1e13 * 0.99


@pytest.mark.parametrize("estimator", ["frontier", "floored curves", "joint"])
def test_noiseless_leverage_is_the_true_one(exact, estimator):
    assert set(exact.points["estimator"]) == ESTIMATORS
    points = with_truth(exact.points[exact.points["estimator"] == estimator])
    np.testing.assert_allclose(points["efficiency_leverage"], points["truth"], rtol=0.01)


def test_joint_fit_holds_out_the_largest_sixth(exact):
    joint = exact.points[exact.points["estimator"] == "joint"]
    assert joint["held_out"].mean() == pytest.approx(1 / 6, abs=0.01)
    assert len(exact.fits["joint"].log_target) == (~joint["held_out"]).sum()
    frontier = exact.points[exact.points["estimator"] == "frontier"]
    apart = joint["held_out"].to_numpy()
    assert (
        frontier["efficiency_leverage"][apart].min()
        >= frontier["efficiency_leverage"][~apart].max()
    )


@pytest.mark.slow
def test_intervals_of_each_estimator_hold_the_truth():
    """Points of one table share the dense runs' error, so many tables are averaged over."""
    inside = []
    for seed in range(10):
        points = with_truth(estimate(small(seed=seed), resamples=100).points)
        hit = (points["low"] <= points["truth"]) & (points["truth"] <= points["high"])
        inside.append(hit.groupby(points["estimator"]).mean())
    mean = pd.DataFrame(inside).mean()
    for estimator in ("frontier", "floored curves", "joint"):
        assert 0.75 < mean[estimator] <= 1, mean


def test_a_loss_beyond_the_frontier_gives_a_bound_and_no_number():
    dense = dense_runs(budgets=FRONTIER[:4])  # up to 1e13
    moe = moe_runs(experts=(256,), scales=(4,))
    weak = moe.assign(loss=8.0, granularity=3.0)
    found = estimate(pd.concat([dense, moe, weak], ignore_index=True), resamples=50).points
    found = found[found["estimator"] == "frontier"]
    reached = found.assign(truth=lambda t: t["at_least"] * t["compute"])
    beyond = reached[reached["at_least"].notna()]
    assert len(beyond) >= 2
    assert (beyond["truth"] / 1e13 - 1).abs().max() < 1e-9
    below = found[found["at_most"].notna()]
    assert len(below) == len(BUDGETS)
    np.testing.assert_allclose(below["at_most"], 3e11 / below["compute"])
    bounded = found["at_least"].notna() | found["at_most"].notna()
    assert found.loc[bounded, ["efficiency_leverage", "low", "high"]].isna().all(axis=None)
    assert found.loc[~bounded, "efficiency_leverage"].notna().all()


def test_an_interval_that_reaches_the_end_of_the_frontier_is_unbounded():
    dense = noisy(dense_runs(budgets=FRONTIER[:4]), 0.01)
    edge = float(DENSE.evaluate(compute=0.97e13))
    moe = moe_runs(experts=(64,), scales=(1,), budgets=(1e12,)).assign(loss=edge)
    points = estimate(pd.concat([dense, moe], ignore_index=True), resamples=300).points
    point = points[points["estimator"] == "frontier"].iloc[0]
    assert np.isfinite(point["efficiency_leverage"]) == (not np.isfinite(point["at_least"]))
    if np.isfinite(point["efficiency_leverage"]):
        assert point["high"] == np.inf


def test_best_of_each_sweep_is_taken_and_counted():
    table = moe_runs(experts=(64,), scales=(1,), budgets=(1e12, 1e13))
    swept = pd.concat(
        [table.assign(learning_rate=rate, loss=table["loss"] + penalty)
         for rate, penalty in ((1e-3, 0.1), (2e-3, 0.0), (4e-3, 0.3))]
    )  # fmt: skip
    best = best_runs(pd.concat([swept, swept.assign(seed=1)], ignore_index=True))
    np.testing.assert_allclose(best["loss"], table["loss"])
    assert best["learning_rate"].tolist() == [2e-3, 2e-3]
    assert best["num_runs"].tolist() == [6, 6]
    assert best["num_seeds"].tolist() == [2, 2]


def test_rows_without_seeds_are_a_sweep_and_not_repeats():
    table = noisy(moe_runs(experts=(64,), scales=(1,), seeds=5), 0.01)
    repeated, swept = best_runs(table), best_runs(table.drop(columns="seed"))
    at_point = table.groupby("compute")["loss"]
    np.testing.assert_allclose(repeated["loss"], at_point.mean())
    np.testing.assert_allclose(swept["loss"], at_point.min())
    assert table_noise(table.drop(columns="seed")) == (0.0, 0)


def test_runs_that_differ_beside_their_seeds_are_no_repeats_whatever_differs():
    """Nor are rows of the same seed: of each seed one, the best such setting counts."""
    runs = pd.DataFrame(
        {"is_moe": False, "activation_ratio": 1.0, "granularity": 2.0, "shared_ratio": 0.0,
         "compute": 1e12, "seed": [0, 1, 0, 1], "loss": [3.0, 3.2, 2.0, 2.2]}
    )  # fmt: skip
    whole = best_runs(runs)
    assert whole[["loss", "num_seeds"]].to_numpy().round(6).tolist() == [[2.1, 2]]
    told = best_runs(runs.assign(config_id=["a", "a", "b", "b"]))
    assert told[["loss", "num_seeds", "num_runs"]].to_numpy().round(6).tolist() == [[2.1, 2, 4]]


def test_seed_noise_is_measured_within_configurations():
    sigma, freedom = table_noise(noisy(dense_runs(seeds=40), 0.01))
    assert sigma == pytest.approx(0.01, rel=0.1)
    assert freedom == len(FRONTIER) * 39
    assert table_noise(dense_runs(seeds=1)) == (0.0, 0)


def test_without_seeds_the_noise_is_that_of_the_dense_curve():
    table = noisy(pd.concat([dense_runs(seeds=1), moe_runs(experts=(64,), scales=(1,))]), 0.003)
    found = estimate(table.reset_index(drop=True), resamples=50)
    assert "want of repeated seeds" in found.noise_source
    assert 0 < found.noise < 0.02


def test_variants_and_held_out_rows_are_kept_from_the_joint_fit():
    base = small(sigma=0.001)
    other = moe_runs(experts=(64,), scales=(1, 2)).assign(variant="weak balance", loss=2.9)
    apart = moe_runs(experts=(48,), scales=(3,)).assign(held_out=True, loss=2.9)
    with_them = estimate(pd.concat([base, other, apart], ignore_index=True), resamples=20)
    without = estimate(base, resamples=20)
    np.testing.assert_allclose(
        with_them.fits["joint"].theta, without.fits["joint"].theta, rtol=1e-6
    )
    points = with_them.points[with_them.points["estimator"] == "joint"]
    assert points.loc[points["variant"] != "", "held_out"].all()


def test_the_estimators_stand_side_by_side(exact):
    wide = exact.side_by_side()
    assert set(wide) >= ESTIMATORS
    assert len(wide) == 7 * 4 * 5
    assert wide["agree"].dtype == bool


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t[t["is_moe"]], "dense budgets = 0: the dense frontier needs 2"),
        (
            lambda t: t.assign(loss=t["loss"].where(t["is_moe"], 2.5)),
            "dense losses = .: no dense run has less than the cheapest, 2.5",
        ),
        (lambda t: t[~t["is_moe"]], "MoE runs = 0: there is no leverage"),
        (lambda t: t.drop(columns="loss"), "loss = None: is not a column"),
        (lambda t: t.assign(loss=t["loss"].where(t.index != 5)), "loss, row 5 = nan"),
        (lambda t: t.assign(compute=0.0), r"compute, row 0 = 0\.0"),
    ],
)
def test_tables_without_leverage_say_why(change, reason):
    with pytest.raises(ValueError, match=reason):
        estimate(change(small()))


def test_what_the_table_cannot_tell_is_skipped_with_a_reason():
    table = pd.concat([dense_runs(), moe_runs(experts=(64,), scales=(1,))], ignore_index=True)
    found = estimate(noisy(table), resamples=20)
    assert "activation_ratio" in found.skipped["joint"]
    assert set(found.points["estimator"]) == ESTIMATORS - {"joint"}


def test_the_noise_of_a_mean_falls_with_the_root_of_its_seeds():
    runs = pd.DataFrame({"loss": [3.0, 3.0], "num_seeds": [1, 16]})
    draws = Draws(noise=0.01, count=20_000, level=0.9, generator=np.random.default_rng(0))
    spread = draws.log_losses(runs)[1:].std(axis=0)
    assert spread == pytest.approx([0.01, 0.0025], rel=0.03)


def test_a_best_setting_is_surer_the_more_seeds_it_has():
    rates = np.geomspace(1e-4, 1e-1, 13)
    losses = 3 * np.exp(0.01 * np.log(rates / 1e-3) ** 2)
    once = pd.DataFrame({"compute": 1e12, "rate": rates, "loss": losses, "num_seeds": 1})
    found = [
        redrawn_optima(once.assign(num_seeds=seeds), "rate", 0.05, 2000)[0].std()
        for seeds in (1, 25)
    ]
    same = redrawn_optima(once, "rate", 0.05 / 5, 2000)[0].std()
    assert found[1] == pytest.approx(same)
    assert found[0] > 1.5 * found[1]


@pytest.mark.parametrize("law", [PowerLaw(9.0, -0.08), FlooredPowerLaw(1.6, 330.0, -0.19)])
def test_a_loss_leads_back_to_the_compute_that_its_curve_has_it_at(law):
    compute = np.array([1e11, 3e12, 1e14])
    names = law.coefficient_names
    theta = np.array([
        np.log(getattr(law, name)) if name in law.positive else getattr(law, name)
        for name in names
    ])[None]  # fmt: skip
    log_loss = np.log(law.evaluate(compute=compute))[None]
    np.testing.assert_allclose(inverse_log_compute(type(law), theta, log_loss)[0], np.log(compute))


def test_power_curves_have_the_leverage_of_their_laws_with_ends_by_the_level_asked_for():
    """Two straight curves whose ratio is known; what lies off the dense budgets is marked."""
    dense = dense_runs(budgets=FRONTIER[:5], seeds=1)
    dense = dense.assign(loss=29 * dense["compute"] ** -0.08)
    moe = moe_runs(experts=(64,), scales=(1,))
    gain = np.array([0.5, 1.2, 1.5, 2.0, 3.0])
    moe = moe.assign(loss=29 * (gain * moe["compute"]) ** -0.08)
    table = noisy(pd.concat([dense, moe], ignore_index=True), 1e-3)
    found = estimate(table, resamples=400)
    wide = found.points[found.points["estimator"] == "power curves"]
    # the mixtures' own curve is fitted to all five of their budgets: a straight line in logarithms
    line = np.polyfit(np.log(moe["compute"]), np.log(gain), 1)
    wanted = np.exp(np.polyval(line, np.log(moe["compute"].to_numpy())))
    np.testing.assert_allclose(wide["efficiency_leverage"], wanted, rtol=0.05)
    reached = wide["efficiency_leverage"] * wide["compute"]
    off = (reached < FRONTIER[0]) | (reached > FRONTIER[4])
    assert off.tolist() == [True, False, False, False, True]
    assert wide["extrapolated"].tolist() == off.tolist()
    named = found.fits.items()
    own = next(f for name, f in named if name.endswith(", PowerLaw") and name[:5] != "dense")
    log_loss = own.law.log_value(own.samples, {"compute": moe["compute"].to_numpy()})
    theirs = found.fits["dense, PowerLaw"].samples
    drawn = (log_loss - theirs[:, :1]) / theirs[:, 1:] - np.log(moe["compute"].to_numpy())
    for end, share in (("low", 0.05), ("high", 0.95)):
        drawn_end = np.exp(np.quantile(drawn, share, axis=0, method="nearest"))
        np.testing.assert_allclose(wide[end], drawn_end)


def test_noise_between_seeds_is_widened_by_student_for_its_degrees_of_freedom():
    table = small(sigma=0.01)
    sigma, freedom = table_noise(table)
    found = estimate(table, resamples=2)
    assert (found.noise_freedom, found.noise_is_between_seeds) == (freedom, True)
    assert found.noise == pytest.approx(sigma * stdtrit(freedom, 0.95) / 1.6448536)
    assert found.noise > sigma
    given = estimate(table[table["seed"] == 0], resamples=2, residual_noise=(0.02, 2))
    assert given.noise == pytest.approx(0.02 * stdtrit(2, 0.95) / 1.6448536)
    assert (given.noise_freedom, given.noise_is_between_seeds) == (2, False)


def test_noise_of_too_few_seeds_is_pooled_with_what_the_dense_curve_leaves_over():
    table = small(sigma=0.01)
    dense = table[~table["is_moe"] & (table["seed"] == 0)]
    again = table[~table["is_moe"] & (table["seed"] == 1)].head(2)  # two degrees of freedom
    table = pd.concat([dense, again, table[table["is_moe"]]], ignore_index=True)
    sigma, freedom = table_noise(table)
    assert freedom == 2
    found = estimate(table, resamples=2)
    curve = found.fits["dense, FlooredPowerLaw"]
    left = len(curve.residuals) - 3
    both = freedom + left
    pooled = np.sqrt((sigma**2 * freedom + (curve.residuals**2).sum()) / both)
    assert found.noise == pytest.approx(pooled * stdtrit(both, 0.95) / 1.6448536)
    assert (found.noise_freedom, found.noise_is_between_seeds) == (both, False)


def test_a_variant_s_seeds_tell_nothing_of_the_plain_recipe_s_noise():
    table = small(sigma=0.003).assign(variant="")
    wild = noisy(moe_runs(experts=(64,), scales=(1,), seeds=8), 0.2, seed=1)
    both = pd.concat([table, wild.assign(variant="odd")], ignore_index=True)
    assert estimate(both, resamples=2).noise == pytest.approx(estimate(table, resamples=2).noise)


def test_estimators_agree_where_all_their_intervals_share_a_value(exact):
    points = exact.points
    _, one = next(iter(points.groupby(["activation_ratio", "granularity", "compute"])))
    assert set(one["estimator"]) == ESTIMATORS

    def agree(low, high):
        return bool(
            replace(exact, points=one.assign(low=low, high=high)).side_by_side()["agree"].item()
        )

    assert agree([1.0, 1.2, 1.3, 1.4], [2.0, 1.9, 1.6, 1.5])
    assert not agree([1.0, 1.2, 1.3, 1.4], [2.0, 1.9, 1.35, 1.5])
    assert agree([np.nan, 1.2, np.nan, 1.4], [2.0, 1.9, 1.35, 1.5])  # an open one says nothing


def test_plain_points_are_those_of_the_frontier_without_variants_and_bounds(exact):
    marked = exact.points.assign(variant=np.where(exact.points["granularity"] == 16.0, "odd", ""))
    marked.loc[marked.index[0], "efficiency_leverage"] = np.nan
    plain = replace(exact, points=marked).plain_points()
    assert set(plain["estimator"]) == {"frontier"}
    assert 16.0 not in set(plain["granularity"])
    assert len(plain) == 7 * 3 * 5 - (marked.iloc[0]["variant"] == "")


def test_a_frontier_of_two_dense_points_is_straight_whatever_is_dominated():
    dense = dense_runs(budgets=(1e12, 1e14), seeds=3)
    worse = dense_runs(budgets=(1e13,), seeds=3).assign(loss=9.0)
    moe = moe_runs(experts=(64,), scales=(1,), budgets=(1e12, 1e13))
    for rows in ([dense, moe], [dense, worse, moe]):
        found = estimate(noisy(pd.concat(rows, ignore_index=True)), resamples=20)
        assert found.is_straight
        frontier = found.points[found.points["estimator"] == "frontier"]
        np.testing.assert_allclose(frontier["at_most"], frontier["efficiency_leverage"])
    three = pd.concat([dense_runs(budgets=(1e12, 1e13, 1e14)), moe], ignore_index=True)
    assert not estimate(noisy(three), resamples=20).is_straight


def test_dense_runs_that_all_lose_to_the_cheapest_are_told_its_loss():
    table = small().drop(columns="seed")
    dense = ~table["is_moe"]
    rising = table["loss"].where(~dense, 3.0 + 0.1 * np.log10(table["compute"] / 3e11))
    with pytest.raises(ValueError, match=r"no dense run has less than the cheapest, 3:"):
        estimate(table.assign(loss=rising))
