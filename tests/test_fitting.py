"""Fits: known coefficients, coverage of intervals, files, and tables that cannot be fitted."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import stdtrit

from moe_leverage.analysis.bootstrap import student_quantile, widened
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.fitting import UnidentifiedError, fit, refit
from moe_leverage.analysis.optimise import Problem, minimise
from moe_leverage.analysis.profiles import profile
from moe_leverage.theory.laws import (
    PUBLISHED,
    GranularityLaw,
    JointLaw,
    PowerLaw,
    SaturatedActivationLaw,
)
from moe_leverage.theory.rivals import ChinchillaLaw, FlooredPowerLaw

CURVE = PowerLaw(29.0, -0.08)
POINT = {"activation_ratio": 0.05, "granularity": 8.0, "compute": 1e19}


def curve_table(count=24, sigma=0.01, seed=0, seeds=1):
    generator = np.random.default_rng(seed)
    compute = np.repeat(np.geomspace(1e11, 1e14, count), seeds)
    shared = np.repeat(generator.standard_normal(count), seeds)
    own = generator.standard_normal(count * seeds)
    noise = sigma * (own if seeds == 1 else shared + 0.1 * own)
    groups = np.repeat(np.arange(count), seeds)
    return {"compute": compute, "loss": CURVE(compute) * np.exp(noise), "run": groups}


def joint_table(count=300, sigma=0.0, seed=0):
    generator = np.random.default_rng(seed)
    table = {
        "activation_ratio": np.exp(generator.uniform(np.log(0.0117), 0, count)),
        "granularity": 2 ** generator.uniform(1, 4, count),
        "compute": 10 ** generator.uniform(18, 20.5, count),
    }
    noise = np.exp(sigma * generator.standard_normal(count))
    return table | {"efficiency_leverage": PUBLISHED.joint(**table) * noise}


def test_table_2_is_recovered_from_its_own_points():
    fitted = fit(JointLaw, joint_table(), "efficiency_leverage", resamples=20)
    ours, printed = fitted.law, PUBLISHED.joint
    for name in ("a", "d", "gamma", "beta", "a_start"):
        assert getattr(ours, name) == pytest.approx(getattr(printed, name), rel=1e-3), name
    assert ours.a_max > 1e3  # the printed 5.28e16 is a flat direction: any large value is the same
    assert np.abs(fitted.residuals).max() < 1e-4
    assert ours.optimum_granularity == pytest.approx(printed.optimum_granularity, rel=1e-3)


def test_noisy_table_2_lies_within_its_intervals():
    fitted = fit(JointLaw, joint_table(200, 0.03), "efficiency_leverage", resamples=300)
    for name, (low, high) in fitted.interval(0.99).items():
        if name != "a_max":
            assert low < getattr(PUBLISHED.joint, name) < high, name
    low, high = fitted.statistic_interval("optimum_granularity", 0.99)
    assert low < PUBLISHED.joint.optimum_granularity < high


@pytest.mark.slow
def test_ninety_per_cent_intervals_cover_the_truth_in_85_to_95_per_cent_of_400_tables():
    inside = np.zeros(4)
    new = {"compute": np.array([3e11, 3e13])}
    for seed in range(400):
        table = curve_table(seed=seed)
        fitted = fit(PowerLaw, table, "loss", resamples=300, seed=seed)
        ends = fitted.interval()
        predicted = fitted.predict(new, seed=seed)
        run = CURVE(3e11) * np.exp(0.01 * np.random.default_rng(9000 + seed).standard_normal())
        inside += [
            ends["coefficient"][0] < CURVE.coefficient < ends["coefficient"][1],
            ends["exponent"][0] < CURVE.exponent < ends["exponent"][1],
            predicted.confidence[1, 0] < CURVE(3e13) < predicted.confidence[1, 1],
            predicted.prediction[0, 0] < run < predicted.prediction[0, 1],
        ]
    assert ((inside / 400 >= 0.85) & (inside / 400 <= 0.95)).all(), inside / 400


def test_seeds_of_a_run_are_not_independent_evidence():
    """Three seeds that share their error: rows as clusters claim too much, runs do not."""
    table = curve_table(seeds=3)
    rows = fit(PowerLaw, table, "loss")
    runs = fit(PowerLaw, table, "loss", clusters="run")
    of_rows, of_runs = (np.diff(f.interval()["exponent"])[0] for f in (rows, runs))
    assert of_runs > 1.4 * of_rows
    assert runs.covariance[1, 1] > 2 * rows.covariance[1, 1]


@pytest.mark.parametrize("level", [0.5, 0.9, 0.999])
def test_student_s_quantile_is_scipy_s(level):
    freedom = np.array([1, 2, 3, 4, 7, 30, 31, 999, 1000, 1001, 5000])
    own = [student_quantile(int(count), level) for count in freedom]
    np.testing.assert_allclose(own, stdtrit(freedom, (1 + level) / 2), rtol=1e-10)


@pytest.mark.parametrize("freedom", [2, 5, 3000])
@pytest.mark.parametrize("room", [0.0, 0.3, 1.0, 1.5, 9.0])
def test_a_quantile_with_little_room_holds_a_truth_that_cannot_be_passed(freedom, room):
    """An estimate beyond the room stops there; what its end loses is no longer seen."""
    drawn = np.random.default_rng(0).standard_t(freedom, 200_000)
    beyond = np.maximum(drawn - room, 0.0)
    off = np.sign(drawn) * np.sqrt(drawn**2 - beyond**2)
    quantile = student_quantile(freedom, 0.9, room)
    assert stdtrit(freedom, 0.9) - 1e-3 <= quantile <= stdtrit(freedom, 0.95) + 1e-9
    assert (np.abs(off) <= quantile).mean() == pytest.approx(0.9, abs=0.003)


def test_covariance_agrees_with_the_bootstrap():
    fitted = fit(PowerLaw, curve_table(60), "loss", resamples=2000)
    spread = fitted.samples.std(axis=0)
    np.testing.assert_allclose(np.sqrt(np.diag(fitted.covariance)), spread, rtol=0.2)


def test_an_outlier_moves_the_fit_little():
    table = curve_table(sigma=0.002)
    clean = fit(PowerLaw, table, "loss").law.exponent
    table["loss"] = table["loss"] * np.where(np.arange(24) == 20, 1.5, 1.0)
    assert fit(PowerLaw, table, "loss").law.exponent == pytest.approx(clean, abs=0.002)


@pytest.mark.parametrize(
    ("law", "truth"),
    [
        (FlooredPowerLaw, FlooredPowerLaw(1.6, 330.0, -0.19)),
        (GranularityLaw, GranularityLaw(0.9, -0.06, -6.0)),
        (ChinchillaLaw, ChinchillaLaw(1.82, 482.0, 2085.0, 0.3478, 0.3658)),
    ],
)
def test_exact_points_return_their_law(law, truth):
    generator = np.random.default_rng(0)
    inputs = {name: np.exp(generator.uniform(0, np.log(1e4), 80)) for name in law.inputs}
    scale = {"compute": 1e11, "num_params": 1e6, "num_tokens": 1e8}
    inputs = {name: column * scale.get(name, 1.0) for name, column in inputs.items()}
    fitted = fit(law, inputs | {"value": truth.evaluate(**inputs)}, "value", resamples=0)
    np.testing.assert_allclose(fitted.law.coefficients, truth.coefficients, rtol=1e-3)


def test_a_shared_error_widens_intervals():
    table = curve_table(sigma=0.002)
    fitted = fit(PowerLaw, table, "loss", resamples=300)
    shared = 0.02 * np.random.default_rng(0).standard_normal((300, 1))
    drawn = np.log(table["loss"]) + shared
    drawn[:, 3] = np.nan  # one row unknown in every draw
    wide = refit(fitted, drawn)
    narrow_ends, wide_ends = (f.interval()["coefficient"] for f in (fitted, wide))
    assert np.diff(wide_ends) > 1.5 * np.diff(narrow_ends)
    np.testing.assert_array_equal(wide.theta, fitted.theta)


def test_a_saved_fit_loads_the_same(tmp_path):
    fitted = fit(JointLaw, joint_table(60, 0.05), "efficiency_leverage", resamples=50)
    fitted = replace(fitted, kind="joint", family="moe", role="section")
    path = tmp_path / "joint.json"
    fitted.save(path)
    again = Fit.load(path)
    assert [p.name for p in tmp_path.iterdir()] == ["joint.json"]
    np.testing.assert_array_equal(again.theta, fitted.theta)
    assert again.law == fitted.law
    assert again.convergence == fitted.convergence
    assert (again.kind, again.family, again.role) == ("joint", "moe", "section")
    np.testing.assert_allclose(again.residuals, fitted.residuals)
    ours, theirs = fitted.predict(POINT), again.predict(POINT)
    np.testing.assert_allclose(theirs.confidence, ours.confidence, rtol=1e-4)
    assert json.loads(path.read_text())["coefficients"]["a"] == pytest.approx(fitted.law.a, 1e-5)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 1}', '{"format": 2, "law": "x"}'])
def test_a_file_that_is_no_fit_is_refused(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.json"):
        Fit.load(path)


def test_predictions_nest_and_contain_the_value():
    fitted = fit(PowerLaw, curve_table(), "loss")
    found = fitted.predict({"compute": [1e12, 1e13]})
    assert (found.prediction[:, 0] <= found.confidence[:, 0]).all()
    assert (found.confidence[:, 1] <= found.prediction[:, 1]).all()
    assert ((found.confidence[:, 0] < found.value) & (found.value < found.confidence[:, 1])).all()
    wider = fitted.predict({"compute": 1e12}, level=0.99).confidence[0]
    assert wider[0] < found.confidence[0, 0]


def test_same_seed_same_fit():
    first, second = (fit(PowerLaw, curve_table(), "loss", seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.samples, second.samples)


def test_convergence_says_what_is_doubtful():
    sound = fit(PowerLaw, curve_table(), "loss").convergence
    assert sound.warnings == []
    doubtful = replace(sound, num_starts=64, starts_at_best=1, resamples_converged=3)
    assert len(doubtful.warnings) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"compute": np.full(24, 1e12)}, r"compute = 1e\+12: 1 different value"),
        ({"loss": np.where(np.arange(24) == 7, np.nan, 3.0)}, r"loss, row 7 = nan: must be pos"),
        ({"loss": np.where(np.arange(24) == 2, -1.0, 3.0)}, r"loss, row 2 = -1\.0"),
        ({"loss": np.where(np.arange(24) == 0, np.inf, 3.0)}, r"loss, row 0 = inf"),
        ({"loss": np.array(["x"] * 24)}, "loss: must hold numbers"),
        ({"run": np.zeros(24)}, "independent runs = 1: PowerLaw has 2 coefficients"),
    ],
)
def test_degenerate_tables_answer_with_the_reason(change, reason):
    with pytest.raises(ValueError, match=reason):
        fit(PowerLaw, curve_table() | change, "loss", clusters="run")


def test_identical_rows_one_activation_ratio_and_empty_tables_are_refused():
    same = {name: np.full(20, value) for name, value in POINT.items()}
    with pytest.raises(UnidentifiedError, match=r"activation_ratio = 0\.05: 1 different value"):
        fit(JointLaw, same | {"efficiency_leverage": np.full(20, 2.0)}, "efficiency_leverage")
    table = joint_table(40)
    table["activation_ratio"] = np.full(40, 0.05)
    with pytest.raises(UnidentifiedError, match="JointLaw needs 3 or more"):
        fit(JointLaw, table, "efficiency_leverage")
    two = {"compute": np.array([1e12, 1e13]), "loss": np.array([3.0, 2.0])}
    with pytest.raises(UnidentifiedError, match="needs at least 3"):
        fit(PowerLaw, two, "loss")
    with pytest.raises(ValueError, match="has no rows"):
        fit(PowerLaw, {"compute": [], "loss": []}, "loss")
    with pytest.raises(ValueError, match="loss = None: is not a column"):
        fit(PowerLaw, {"compute": [1.0]}, "loss")


def test_a_sample_is_not_widened_beyond_the_domain_of_the_law():
    """A_start at A_max has no A^, and one such sample would cost every prediction its interval."""
    inputs = {"activation_ratio": np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8])}
    law = SaturatedActivationLaw(-0.5, 0.2, 0.3)
    table = inputs | {"leverage": law.evaluate(**inputs)}
    fitted = fit(SaturatedActivationLaw, table, "leverage", resamples=0)
    fitted = replace(fitted, theta=np.array([-0.5, np.log(0.2), np.log(0.3)]))
    near = fitted.theta + np.array([[0.0, 0.39, 0.0], [0.0, 0.01, 0.0]])
    assert fitted.widening * 0.39 > np.log(1.5) > 0.39
    wide = widened(fitted.problem, near, fitted.theta[None], fitted.widening)
    np.testing.assert_allclose(wide[0], near[0])
    assert wide[1, 1] - fitted.theta[1] == pytest.approx(0.01 * fitted.widening)
    assert np.isfinite(fitted.law.log_value(wide, inputs)).all()


def test_leverage_without_sparsity_leaves_the_joint_law_open_but_its_predictions_sane():
    """Where EL depends on C alone, minima far apart fit alike: intervals have to show them."""
    generator = np.random.default_rng(3)
    count = 60
    table = {
        "activation_ratio": np.exp(generator.uniform(np.log(0.0117), 0.0, count)),
        "granularity": 2 ** generator.uniform(1, 4, count),
        "compute": 10 ** generator.uniform(11, 12, count),
    }
    truth = (table["compute"] / 5e11) ** 0.15
    table["efficiency_leverage"] = truth * np.exp(0.05 * generator.standard_normal(count))
    fitted = fit(JointLaw, table, "efficiency_leverage", resamples=200)
    low, high = fitted.interval()["a"]
    assert high > 5 * max(low, 0.1)
    predicted = fitted.predict(table).confidence
    assert np.all((predicted[:, 0] > 0.6 * truth) & (predicted[:, 1] < 1.6 * truth))
    assert profile(fitted)["a_start"].verdict != "identified"


@pytest.mark.parametrize("noise", [0.001, 0.03])  # 0.03: the best is often no floor
@pytest.mark.parametrize("rows", [6, 20, 120])
def test_the_starts_that_are_followed_lead_as_low_as_all_of_them(rows: int, noise: float) -> None:
    compute = np.geomspace(1e17, 1e20, rows)
    for seed in range(12):
        generator = np.random.default_rng(seed)
        log_loss = np.log(1.8 + 60 * compute**-0.1) + noise * generator.standard_normal(rows)
        inputs = {"compute": compute}
        problem = Problem(law=FlooredPowerLaw, inputs=inputs, log_target=log_loss, delta=np.inf)
        starts = FlooredPowerLaw.starts(inputs, log_loss, 64, generator)
        followed = FlooredPowerLaw.followed(starts, inputs, log_loss)
        lowest, reached = (minimise(problem, part).objective.min() for part in (starts, followed))
        assert len(followed) < len(starts)
        # where no floor is best the rest crawl towards it, and end by their last digits
        assert reached <= lowest * (1 + 1e-5)


def test_many_rows_follow_an_error_that_they_share():
    """Beyond MANY_ROWS a resample is one step from the fit: exact where the law is linear."""
    table = curve_table(count=400, sigma=0.01)
    fitted = fit(PowerLaw, table, "loss", resamples=10)
    centred = np.log(table["compute"]) - np.log(table["compute"]).mean()
    moved = fitted.log_target + 0.5 + 0.2 * centred
    again = refit(fitted, np.tile(moved, (400, 1)))
    within = np.abs(fitted.residuals) <= fitted.delta
    assert 0.5 < within.mean() < 1.0
    rise = again.samples.mean(axis=0) - fitted.theta
    assert rise[1] == pytest.approx(0.2, abs=1e-3)
    height = rise[0] + rise[1] * np.log(table["compute"]).mean()
    assert height == pytest.approx(0.5, abs=1e-3)


def test_delta_is_as_wide_as_the_residuals_of_least_squares_and_few_rows_ask():
    table = curve_table(count=8)
    fitted = fit(PowerLaw, table, "loss", resamples=1)
    features = np.stack([np.ones(8), np.log(table["compute"])], axis=-1)
    line = np.linalg.lstsq(features, np.log(table["loss"]), rcond=None)[0]
    spread = np.median(np.abs(np.log(table["loss"]) - features @ line))
    assert fitted.delta == pytest.approx(1.345 * 1.4826 * spread * np.sqrt(8 / 6), rel=1e-4)


def test_a_law_of_leverage_alone_knows_how_far_its_own_values_went():
    assert set(fit(PowerLaw, curve_table(), "loss", resamples=1).law.domain) == {"compute"}
    joint = fit(JointLaw, joint_table(), "efficiency_leverage", resamples=1).law
    assert "efficiency_leverage" in joint.domain


def test_starts_at_the_best_are_those_that_end_as_low():
    found = fit(FlooredPowerLaw, curve_table(count=12), "loss", resamples=1).convergence
    assert 1 <= found.starts_at_best <= found.num_starts
    exact = fit(PowerLaw, curve_table(), "loss", resamples=1).convergence
    assert exact.starts_at_best == exact.num_starts == 1
