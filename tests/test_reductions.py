"""From sweeps to points: budgets, the near-optimal band, isoFLOP parabolas."""

import numpy as np
import pandas as pd
import pytest

from moe_leverage.analysis.bootstrap import LEVEL, NORMAL_95, student_quantile
from moe_leverage.analysis.findings import allocation
from moe_leverage.analysis.fitting import fit
from moe_leverage.analysis.reductions import (
    budget_of,
    isoflop_optima,
    mean_over_seeds,
    near_optimal,
    noise_near,
    redrawn_optima,
    seed_noise,
)
from moe_leverage.theory.laws import PUBLISHED, PowerLaw

BUDGETS = np.array([3e11, 1e12, 3e12, 1e13])


def isoflop_runs(model_law, sigma=0.0, seed=0, sizes=6, offset=0.0):
    """ln L = 1 + 0.01 (ln M / M_opt)^2, with C = 3 M D."""
    generator = np.random.default_rng(seed)
    rows = []
    for compute in BUDGETS:
        steps = np.linspace(-1.5, 1.5, sizes) + offset
        scale = model_law(compute) * np.exp(steps)
        loss = np.exp(1 + 0.01 * steps**2 + sigma * generator.standard_normal(sizes))
        tokens = compute / (3 * scale)
        rows.append(pd.DataFrame({"compute": compute, "flops_per_token": scale,
                                  "num_tokens": tokens, "loss": loss}))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_optima_of_exact_parabolas_are_exact_and_give_the_law():
    law = PowerLaw(0.0264, 0.6)
    found = isoflop_optima(isoflop_runs(law))
    np.testing.assert_allclose(found["flops_per_token"], law(BUDGETS), rtol=1e-4)
    np.testing.assert_allclose(found["num_tokens"], BUDGETS / (3 * law(BUDGETS)), rtol=1e-4)
    np.testing.assert_allclose(found["loss"], np.e, rtol=1e-6)
    assert (found["reason"] == "").all()
    fitted = fit(PowerLaw, found, "flops_per_token", resamples=50)
    assert fitted.law.exponent == pytest.approx(0.6, abs=1e-4)


def test_intervals_of_noisy_optima_hold_the_truth():
    law, inside = PowerLaw(0.0264, 0.6), []
    for seed in range(40):
        found = isoflop_optima(isoflop_runs(law, 0.002, seed, sizes=9))
        sound = found[found["reason"] == ""]
        low, high = sound["flops_per_token_low"], sound["flops_per_token_high"]
        inside += list((low < law(sound["compute"])) & (law(sound["compute"]) < high))
    assert 0.85 < np.mean(inside) < 0.95


def test_the_loss_of_a_noisy_optimum_is_known_as_well_as_its_error_says():
    law, errors = PowerLaw(0.0264, 0.6), []
    for seed in range(40):
        found = isoflop_optima(isoflop_runs(law, 0.002, seed, sizes=9))
        errors += list((np.log(found["loss"]) - 1) / found["log_loss_error"])
    assert 0.85 < np.mean(np.abs(errors) < NORMAL_95) < 0.97
    assert abs(np.mean(errors)) < 0.3


def test_a_parabola_that_misses_its_points_knows_its_bottom_less():
    law = PowerLaw(0.0264, 0.6)
    runs = isoflop_runs(law, 0.002, sizes=5)
    steep = runs["flops_per_token"] > 4 * law(runs["compute"])
    bent = runs.assign(loss=np.where(steep, 1.1 * runs["loss"], runs["loss"]))
    plain, poor = (isoflop_optima(table)["log_loss_error"] for table in (runs, bent))
    assert (poor > 5 * plain).all()


def test_the_slope_at_the_ends_of_an_interval_is_as_far_from_zero_as_the_interval_says():
    runs = isoflop_runs(PowerLaw(0.0264, 0.6), sigma=0.0005, sizes=10, offset=0.2)
    runs = runs[~runs.index.isin([*range(1, 40, 10), *range(2, 40, 10)])]  # unevenly spaced
    found = isoflop_optima(runs).set_index("compute")
    for compute, row in found.iterrows():
        one = runs[runs["compute"] == compute]
        x = np.log(one["flops_per_token"]).to_numpy()
        curve, spread = np.polyfit(x, np.log(one["loss"]), 2, cov=True)  # highest power first
        c, b = curve[:2]
        assert np.log(row["loss"]) == pytest.approx(np.polyval(curve, -b / (2 * c)), rel=1e-6)
        ends = np.log(row[["flops_per_token_low", "flops_per_token_high"]].to_numpy(dtype=float))
        slopes = b + 2 * c * ends
        errors = np.sqrt(spread[1, 1] + 4 * ends * spread[0, 1] + 4 * ends**2 * spread[0, 0])
        limit = student_quantile(len(x) - 3, LEVEL)
        np.testing.assert_allclose(slopes / errors, [-limit, limit], rtol=1e-4)


def test_tokens_at_an_optimum_are_those_that_spend_its_budget():
    runs = isoflop_runs(PowerLaw(0.0264, 0.6), offset=0.2)
    spent = np.random.default_rng(0).uniform(0.99, 1.01, len(runs))  # of the budget, in whole steps
    runs = runs.assign(compute=runs["compute"] * spent, num_tokens=runs["num_tokens"] * spent)
    found = isoflop_optima(runs)
    expected = found["compute"] / (3 * found["flops_per_token"])
    np.testing.assert_allclose(found["num_tokens"], expected, rtol=1e-6)


def test_an_optimum_whose_parabola_may_be_flat_lies_anywhere_among_the_scales_tried():
    runs = isoflop_runs(PowerLaw(0.0264, 0.6), sizes=5)
    runs = runs.assign(loss=np.tile([3.0, 2.96, 3.01, 2.97, 3.02], len(BUDGETS)))
    found = isoflop_optima(runs)
    ends = runs.groupby("compute")["flops_per_token"].agg(["min", "max"])
    np.testing.assert_allclose(found["flops_per_token_low"], ends["min"])
    np.testing.assert_allclose(found["flops_per_token_high"], ends["max"])


def test_the_noise_of_the_nearest_budget_that_knows_it_is_taken():
    rungs = {1e10: [3.0], 1e11: [3.0, 3.1, 3.2], 1e13: [2.0, 2.5, 3.0]}
    rows = [(rung, f"{rung}", loss) for rung, losses in rungs.items() for loss in losses]
    runs = pd.DataFrame(rows, columns=["budget_flops", "config_id", "loss_nats"])
    assert [noise_near(runs, budget)[1] for budget in (1e10, 9e11, 2e12)] == [1e11, 1e11, 1e13]


def test_a_lucky_seed_moves_no_optimum():
    law = PowerLaw(0.0264, 0.6)
    once = isoflop_runs(law).assign(config_id=lambda t: t.index.astype(str))
    largest = once.groupby("compute")["flops_per_token"].transform("max") == once["flops_per_token"]
    repeated = [
        once.assign(seed=seed, loss=np.where(largest, once["loss"] * by, once["loss"]))
        for seed, by in enumerate((0.98, 1.0, 1 / 0.98))
    ]
    other = once[largest].assign(config_id="other")  # a worse rate, with the luckiest seed of all
    worse = pd.concat(
        [other.assign(seed=i, loss=other["loss"] * by) for i, by in ((0, 0.95), (1, 1.09))]
    )
    found = isoflop_optima(pd.concat([*repeated, worse], ignore_index=True))
    np.testing.assert_allclose(found["flops_per_token"], law(BUDGETS), rtol=1e-3)
    table = pd.concat([*repeated, worse], ignore_index=True).assign(
        is_moe=False, activation_ratio=1.0, granularity=2.0, shared_ratio=0.0
    )
    optima = allocation(table, resamples=20).optima["dense"]
    np.testing.assert_allclose(optima["flops_per_token"], found["flops_per_token"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.groupby("compute").head(3), "3 model scales"),
        (lambda t: t.assign(loss=np.exp(2 - np.log(t["loss"]))), "opens downwards"),
    ],
)
def test_unsound_optima_have_a_reason_and_no_number(change, reason):
    found = isoflop_optima(change(isoflop_runs(PowerLaw(0.0264, 0.6))))
    assert found["reason"].str.contains(reason).all()
    assert found["flops_per_token"].isna().all()


@pytest.mark.parametrize(("offset", "side"), [(2.5, "below"), (-2.5, "above")])
def test_an_optimum_beyond_the_scales_tried_is_not_claimed(offset, side):
    found = isoflop_optima(isoflop_runs(PowerLaw(0.0264, 0.6), offset=offset))
    assert found["reason"].str.contains(f"lies {side} the scales tried").all()


def test_budgets_join_what_rounding_parted_and_do_not_chain():
    compute = np.array([0.99e12, 1.0e12, 1.02e12, 3e12])
    assert budget_of(compute).tolist() == [1e12, 1e12, 1e12, 3e12]
    continuum = np.geomspace(1e12, 1e13, 500)
    assert len(set(budget_of(continuum))) > 40


def test_near_optimal_band_recovers_equation_3():
    """Losses flat in a band around the published optimum: the fit to the band returns the law."""
    rows = []
    for compute in np.geomspace(3e17, 3e20, 6):
        for power in np.arange(-14, -6, 0.25):
            rate = 2.0**power
            distance = np.log(rate / PUBLISHED.learning_rate(compute))
            rows.append({"compute": compute, "learning_rate": rate, "loss": 2 + 0.02 * distance**2})
    band = near_optimal(pd.DataFrame(rows))
    assert (band["excess_loss"] <= 0.0025).all()
    assert 3 * 6 < len(band) < len(rows)
    fitted = fit(PowerLaw, band, "learning_rate", clusters="budget", resamples=100)
    assert fitted.law.exponent == pytest.approx(PUBLISHED.learning_rate.exponent, abs=0.02)


def test_redrawn_optima_cover_a_law_between_the_points_of_a_grid():
    rates = 2.0 ** np.arange(-11, -6)
    truth, noise, inside = PowerLaw(0.9, -0.19), 0.01, 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        rows = [
            (c, rate, np.exp(1 + 0.02 * np.log(rate / truth(c)) ** 2 + noise * z))
            for c in BUDGETS
            for rate in rates
            for z in generator.standard_normal(1)
        ]
        runs = pd.DataFrame(rows, columns=["compute", "learning_rate", "loss"])
        settings = mean_over_seeds(runs, ["learning_rate"])
        optima, log_compute = redrawn_optima(settings, "learning_rate", noise, 400, seed)
        slopes = optima @ (log_compute - log_compute.mean())
        slopes /= ((log_compute - log_compute.mean()) ** 2).sum()
        low, high = np.quantile(slopes, [0.05, 0.95])
        inside += low <= -0.19 <= high
    assert 0.8 <= inside / 100 <= 1.0


def test_equal_optima_at_every_budget_are_no_certain_law():
    budgets = np.repeat(BUDGETS, 3)
    runs = pd.DataFrame({"compute": budgets, "batch_tokens": np.tile([256, 512, 1024], 4),
                         "loss": np.tile([3.2, 3.0, 3.2], 4)})  # fmt: skip
    settings = mean_over_seeds(runs, ["batch_tokens"])
    optima, _ = redrawn_optima(settings, "batch_tokens", 0.001, 400)
    assert optima.std(axis=0) == pytest.approx(np.log(2) / np.sqrt(12), rel=0.1)


def test_three_optima_on_a_line_still_leave_a_doubt():
    runs = isoflop_runs(PowerLaw(0.0264, 0.6), 0.003)
    runs = runs[runs["compute"] < 1e13].assign(
        is_moe=False, activation_ratio=1.0, granularity=0.0, shared_ratio=0.0
    )
    found = allocation(runs, resamples=400)
    for name, truth in (("dense_model", 0.6), ("dense_tokens", 0.4)):
        low, high = found.fits[name].interval(0.99)["exponent"]
        assert low < truth < high
        assert 0.02 < high - low < 2


def test_the_noise_of_three_seeds_is_their_standard_deviation():
    losses = np.array([3.0, 3.1, 3.3])
    found, freedom = seed_noise(pd.DataFrame({"config_id": "a", "loss_nats": losses}))
    assert found == pytest.approx(np.log(losses).std(ddof=1))
    assert freedom == 2


def two_rates(losses, seeds):
    return pd.DataFrame({"compute": 1e18, "rate": [1e-3, 4e-3], "loss": losses, "num_seeds": seeds})


def test_settings_that_are_as_good_share_the_optimum():
    optima, _ = redrawn_optima(two_rates([2.5, 2.5], [1, 1]), "rate", 0.0, 50)
    step = np.log(4)
    assert np.abs(optima - np.log(2e-3)).max() <= step / 2
    assert np.ptp(optima) > step / 2  # within a step of the grid it tells nothing


def test_the_mean_of_many_seeds_moves_an_optimum_less():
    gap = 0.02  # of ln loss, eight times what is near-optimal
    losses = 2.5 * np.exp([0.0, gap])
    one, many = (
        redrawn_optima(two_rates(losses, [count] * 2), "rate", gap, 400)[0] for count in (1, 64)
    )
    assert (many < np.log(2e-3)).all()  # the better one alone, half a step about it
    assert (one > np.log(2e-3)).mean() > 0.1
