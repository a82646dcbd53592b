"""A law of the loss and a law of leverage are scored in one unit, on the same points."""

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import DENSE, all_runs, dense_runs, noisy

from moe_leverage.analysis.as_leverage import Frontier, as_leverage
from moe_leverage.analysis.dense_frontier import frontier_compute
from moe_leverage.analysis.findings import leverage_laws
from moe_leverage.analysis.fitting import fit
from moe_leverage.theory.registry import laws
from moe_leverage.theory.rivals import ChinchillaLaw, FlooredPowerLaw

FRONTIER = Frontier.through(dense_runs(seeds=1), DENSE.floor)
LOSS_LAW = ChinchillaLaw(1.6, 18.0, 45.0, 0.3, 0.28)


def sized_runs(sigma):
    """MoE runs whose loss is LOSS_LAW's of active size and tokens, beside the dense frontier."""
    rows = pd.DataFrame([
        {"is_moe": True, "activation_ratio": ratio, "granularity": grain, "shared_ratio": 1 / 3,
         "compute": compute, "active_params": size, "num_tokens": compute / (6 * size), "seed": 0}
        for compute in (3e11, 1e12, 3e12, 1e13)
        for ratio, share in zip((0.02, 0.05, 0.1, 0.2, 0.5), (0.2, 0.9, 0.4, 0.6, 0.3), strict=True)
        for grain, part in ((2.0, 0.9), (4.0, 0.3), (8.0, 0.6))
        for size in [0.05 * share * part * compute**0.5]
    ])  # fmt: skip
    sizes = {"num_params": rows["active_params"], "num_tokens": rows["num_tokens"]}
    rows["loss"] = LOSS_LAW.evaluate(**sizes)
    return noisy(pd.concat([dense_runs(), rows], ignore_index=True), sigma)


def test_the_frontier_is_that_of_the_estimator_and_goes_on_beyond_its_ends():
    dense = dense_runs(seeds=1)
    worse = dense.iloc[[2]].assign(compute=5e12)  # dearer and no better: no part of the frontier
    frontier = Frontier.through(pd.concat([dense, worse]), DENSE.floor)
    np.testing.assert_allclose(frontier.knots, FRONTIER.knots)
    wanted = np.log(DENSE.evaluate(compute=np.geomspace(4e11, 2e14, 9)))
    compute, log_loss = dense["compute"].to_numpy(), np.log(dense["loss"].to_numpy())
    read = frontier_compute(compute, log_loss[None], wanted[None], DENSE.floor)[0]
    np.testing.assert_allclose(np.exp(frontier.log_compute(wanted)[0]), read)
    far = np.log([1e10, 1e17])
    np.testing.assert_allclose(frontier.log_compute(frontier.log_loss(far))[0], far)
    np.testing.assert_allclose(np.exp(frontier.log_loss(far)), DENSE.evaluate(compute=np.exp(far)))


@pytest.mark.parametrize(
    ("law", "coefficients"),
    [(ChinchillaLaw, LOSS_LAW.coefficients), (FlooredPowerLaw, DENSE.coefficients)],
)
def test_its_gradient_is_that_of_its_value(law, coefficients):
    implied = as_leverage(law, FRONTIER)
    inputs = {
        "compute": np.array([5e11, 4e12, 9e13]),
        "num_params": np.array([3e5, 1e6, 4e6]),
        "num_tokens": np.array([2e6, 7e6, 3e7]),
    }
    theta = implied.to_theta(coefficients)
    step = 1e-6
    ends = [implied.log_value(theta + sign * step * np.eye(len(theta)), inputs) for sign in (1, -1)]
    moved = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(implied.log_gradient(theta, inputs), np.transpose(moved), rtol=1e-5)


def test_a_loss_law_that_is_true_beats_equation_13_in_its_own_unit():
    scores = leverage_laws(sized_runs(0.0005), resamples=20).scores["ten folds"]
    names = [score.law for score in scores]
    assert names[0] == "ChinchillaLaw"
    assert scores[0].held_out_error < 0.5 * scores[names.index("JointLaw")].held_out_error


def test_equation_13_where_it_is_true_beats_a_law_of_the_loss():
    scores = leverage_laws(all_runs(), resamples=20).scores["ten folds"]
    names = [score.law for score in scores]
    assert names.index("JointLaw") < names.index("FlooredPowerLaw")
    assert "ChinchillaLaw" not in names  # these runs do not say how large they are


def test_what_is_implied_is_fitted_in_ln_el_and_is_no_law_of_its_own():
    compute = np.geomspace(3e11, 1e14, 20)
    leverage = DENSE.evaluate(compute=2 * compute)  # a mixture that always reaches twice as far
    table = {"compute": compute, "loss": leverage, "efficiency_leverage": np.full(20, 2.0)}
    implied = as_leverage(FlooredPowerLaw, FRONTIER)
    fitted = fit(implied, table, "efficiency_leverage", resamples=0)
    assert np.abs(fitted.residuals).max() < 1e-3
    assert laws()["FlooredPowerLaw"] is FlooredPowerLaw
