"""Verdicts on coefficients and the order of rival laws, on tables whose truth is known."""

import numpy as np
import pytest

from bench.bench_coverage import simulated
from moe_leverage.analysis.diagnose import compare, profile
from moe_leverage.analysis.fitting import fit
from moe_leverage.analysis.leverage import estimate
from moe_leverage.analysis.optimise import minimise
from moe_leverage.theory.laws import PUBLISHED, GranularityLaw, JointLaw, PowerLaw
from moe_leverage.theory.rivals import (
    ActivationPowerLaw,
    ConstantLeverage,
    FlooredPowerLaw,
    FreeInteraction,
    JointLawWithoutGranularity,
)

RIVALS = (JointLaw, ConstantLeverage, ActivationPowerLaw, JointLawWithoutGranularity,
          FreeInteraction)  # fmt: skip


def table_of(law, count=80, sigma=0.04, seed=0):
    generator = np.random.default_rng(seed)
    table = {
        "activation_ratio": np.exp(generator.uniform(np.log(0.0117), 0, count)),
        "granularity": 2 ** generator.uniform(1, 4, count),
        "compute": 10 ** generator.uniform(18, 20.5, count),
    }
    inputs = {name: table[name] for name in law.inputs}
    noise = np.exp(sigma * generator.standard_normal(count))
    return table | {"efficiency_leverage": law.evaluate(**inputs) * noise}


@pytest.fixture(scope="module")
def joint_profiles():
    fitted = fit(JointLaw, table_of(PUBLISHED.joint), "efficiency_leverage", resamples=300)
    return fitted, profile(fitted)


def test_table_2_is_identified_but_for_a_max(joint_profiles):
    _, found = joint_profiles
    assert list(found) == list(JointLaw.coefficient_names)
    identified = {name for name, p in found.items() if p.verdict == "identified"}
    assert identified == set(JointLaw.coefficient_names) - {"a_max"}
    assert found["a_max"].verdict == "weakly identified"
    assert found["a_max"].interval[1] == np.inf
    assert "only say above" in found["a_max"].sentence


def test_profile_is_lowest_at_the_estimate_and_holds_the_truth(joint_profiles):
    fitted, found = joint_profiles
    for name in ("a", "d", "gamma", "beta", "a_start"):
        profiled = found[name]
        assert (profiled.deviance >= -1e-9).all()
        assert profiled.deviance[len(profiled.deviance) // 2] < 1e-4
        low, high = profiled.interval
        assert low < getattr(fitted.law, name) < high
        ends = fitted.interval()[name]
        assert 0.4 < (high - low) / (ends[1] - ends[0]) < 2.5


def test_profile_interval_of_a_straight_line_is_the_textbook_one():
    compute = np.geomspace(1e11, 1e14, 40)
    noise = 0.01 * np.random.default_rng(2).standard_normal(40)
    table = {"compute": compute, "loss": PowerLaw(29.0, -0.08)(compute) * np.exp(noise)}
    fitted = fit(PowerLaw, table, "loss", delta=1e3, resamples=0)  # quadratic throughout
    low, high = profile(fitted)["exponent"].interval
    centred = np.log(compute) - np.log(compute).mean()
    sigma = np.sqrt((fitted.residuals**2).sum() / 38)
    assert (high - low) / 2 == pytest.approx(1.686 * sigma / np.sqrt((centred**2).sum()), rel=0.02)


def test_a_flat_coefficient_is_not_identified():
    """Without curvature in the data the floor of a curve may be anything below them."""
    compute = np.geomspace(1e11, 1e12, 12)
    noise = 0.02 * np.random.default_rng(0).standard_normal(12)
    table = {"compute": compute, "loss": PowerLaw(29.0, -0.08)(compute) * np.exp(noise)}
    found = profile(fit(FlooredPowerLaw, table, "loss", resamples=0))
    assert found["floor"].verdict in ("weakly identified", "not identified")


def test_profiles_name_what_they_hold():
    table = table_of(GranularityLaw(0.9, -0.06, -6.0))
    assert list(profile(fit(GranularityLaw, table, "efficiency_leverage", resamples=0))) == [
        "a_g", "b_g", "b_g c_g",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "truth", [PUBLISHED.joint, ActivationPowerLaw(-0.1, -0.4), ConstantLeverage(0.5)]
)
def test_the_true_form_wins_on_unseen_rows(truth):
    table = table_of(truth, 150)
    scores = compare(RIVALS, table, "efficiency_leverage")
    by_law = {score.law: score for score in scores}
    true = by_law[type(truth).__name__]
    assert true.held_out_error < 1.03 * scores[0].held_out_error
    assert true.bic == min(score.bic for score in scores)
    assert [s.held_out_error for s in scores] == sorted(s.held_out_error for s in scores)
    assert true.num_held_out == 150


def test_rows_held_out_are_not_fitted():
    table = table_of(PUBLISHED.joint, 100)
    apart = table["compute"] > 1e20
    spoiled = np.where(apart, 50.0, table["efficiency_leverage"])
    scores = compare([JointLaw], table | {"efficiency_leverage": spoiled, "apart": apart},
                     "efficiency_leverage", held_out="apart")  # fmt: skip
    assert scores[0].num_held_out == apart.sum()
    assert scores[0].error < 0.06
    assert scores[0].held_out_error > 1.5


def test_folds_keep_clusters_together():
    table = table_of(ConstantLeverage(0.5), 40)
    table["efficiency_leverage"] = np.repeat(np.exp(np.arange(4.0)), 10)
    table["group"] = np.repeat(np.arange(4), 10)
    together = compare([ConstantLeverage], table, "efficiency_leverage", clusters="group")[0]
    apart = compare([ConstantLeverage], table, "efficiency_leverage")[0]
    assert together.held_out_error > 1.1 * apart.held_out_error


def test_laws_that_the_table_cannot_tell_are_left_out():
    table = table_of(PUBLISHED.joint, 30)
    table["granularity"] = np.full(30, 2.0)
    laws = {score.law for score in compare(RIVALS, table, "efficiency_leverage")}
    assert laws == {"ConstantLeverage", "ActivationPowerLaw", "JointLawWithoutGranularity"}
    with pytest.raises(ValueError, match="none is identified"):
        compare([JointLaw], table, "efficiency_leverage")
    with pytest.raises(ValueError, match="leaves no row to fit"):
        compare([JointLaw], table | {"apart": np.ones(30)}, "efficiency_leverage", held_out="apart")


@pytest.mark.parametrize("seed", [17, 94, 196])
def test_what_fits_as_well_lies_inside_an_interval(seed):
    """Eight leverages and six coefficients: several minima, which a walk passes in turn."""
    table = simulated(15, 10, 0.003, 1, seed).drop(columns="truth")
    joint = estimate(table, resamples=1, seed=seed).fits["joint"]
    for name, found in profile(joint).items():
        low, high = found.interval
        assert low < getattr(joint.law, name) < high, name
        as_good = found.values[found.deviance < 5.5]  # the limit is 6 or more
        assert low <= as_good.min(), name
        assert high >= as_good.max(), name


def test_of_several_minima_a_fit_finds_the_lowest():
    table = simulated(15, 10, 0.003, 1, 196).drop(columns="truth")
    joint = estimate(table, resamples=1).fits["joint"]
    starts = JointLaw.starts(joint.inputs, joint.log_target, 400, np.random.default_rng(1))
    lowest = minimise(joint.problem, starts).objective.min()
    own = minimise(joint.problem, joint.theta[None]).objective[0]
    assert own < 1.05 * lowest
