"""The batched minimiser: gradients, agreement with scipy, weights, own targets, fixed values."""

import numpy as np
import pytest
from scipy.optimize import minimize

from moe_leverage.analysis.optimise import Problem, minimise
from moe_leverage.theory.laws import PUBLISHED, JointLaw, PowerLaw
from moe_leverage.theory.registry import laws
from moe_leverage.theory.rivals import ChinchillaLaw

FORMS = laws()

THETAS = {
    "PowerLaw": (3.0, -0.12),
    "SaturatedActivationLaw": (-0.4, -3.9, 1.1),
    "GranularityLaw": (0.3, -0.05, 0.3),
    "ComputeLaw": (0.2, -2.5),
    "JointLaw": (1.2, -0.07, 0.02, -0.12, -3.9, 1.6),
    "FlooredPowerLaw": (0.5, 5.8, -0.19),
    "ChinchillaLaw": (0.6, 6.2, 7.6, 0.35, 0.37),
    "ConstantLeverage": (0.4,),
    "ActivationPowerLaw": (0.1, -0.4),
    "JointLawWithoutGranularity": (1.0, -0.08, -3.5, 2.0),
    "FreeInteraction": (0.3, -0.4, 0.02, 0.1, -0.01, 0.01, 0.02, -0.03),
}


def draw_inputs(law, count=60, seed=0):
    generator = np.random.default_rng(seed)
    ranges = {
        "activation_ratio": (0.0117, 1.0),
        "granularity": (2.0, 16.0),
        "compute": (1e11, 1e20),
        "num_params": (1e6, 1e10),
        "num_tokens": (1e8, 1e12),
    }
    return {n: np.exp(generator.uniform(*np.log(ranges[n]), count)) for n in law.inputs}


def noisy_problem(law, delta=0.05, count=60, seed=0):
    inputs = draw_inputs(law, count, seed)
    noise = 0.05 * np.random.default_rng(seed + 1).standard_t(4, count)
    log_target = law.log_value(np.array(THETAS[law.__name__]), inputs) + noise
    return Problem(law=law, inputs=inputs, log_target=log_target, delta=delta)


def huber_sum(problem, theta, weights=1.0):
    residuals = problem.law.log_value(theta, problem.inputs) - problem.log_target
    size = np.abs(residuals)
    loss = np.where(
        size <= problem.delta, residuals**2 / 2, problem.delta * (size - problem.delta / 2)
    )
    return float((weights * loss).sum())


def test_every_form_is_covered():
    assert set(THETAS) == set(FORMS)


@pytest.mark.parametrize("name", FORMS)
def test_gradients_match_finite_differences(name):
    law, theta = FORMS[name], np.array(THETAS[name])
    inputs, step = draw_inputs(law, 9), 1e-6
    ahead = law.log_value(theta + step * np.eye(len(theta)), inputs)
    behind = law.log_value(theta - step * np.eye(len(theta)), inputs)
    value, gradient = law.log_value_and_gradient(theta, inputs)
    np.testing.assert_allclose(gradient, (ahead - behind).T / (2 * step), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(value, law.log_value(theta, inputs), rtol=1e-14)
    np.testing.assert_array_equal(law.log_gradient(theta, inputs), gradient)


@pytest.mark.parametrize("name", FORMS)
def test_minimum_is_scipys(name):
    problem = noisy_problem(FORMS[name])
    theta = np.array(THETAS[name])
    own = minimise(problem, theta[None])
    assert own.converged.all()
    assert own.objective[0] == pytest.approx(huber_sum(problem, own.theta[0]), rel=1e-12)
    again = minimize(lambda t: huber_sum(problem, t), own.theta[0], method="Nelder-Mead",
                     options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 4000})  # fmt: skip
    assert own.objective[0] <= again.fun * (1 + 1e-6)


def test_weights_and_own_targets_equal_separate_fits():
    problem = noisy_problem(PowerLaw)
    generator = np.random.default_rng(3)
    weights = generator.exponential(size=(5, 60))
    targets = problem.log_target + 0.01 * generator.standard_normal((5, 60))
    own = Problem(law=PowerLaw, inputs=problem.inputs, log_target=targets, delta=0.05)
    together = minimise(own, np.zeros((5, 2)), weights=weights)
    for k in range(5):
        alone = Problem(law=PowerLaw, inputs=problem.inputs, log_target=targets[k], delta=0.05)
        single = minimise(alone, np.zeros((1, 2)), weights=weights[k : k + 1])
        np.testing.assert_allclose(together.theta[k], single.theta[0], rtol=1e-6)
        assert together.objective[k] == pytest.approx(
            huber_sum(alone, together.theta[k], weights[k]), rel=1e-12
        )


def test_result_does_not_depend_on_the_blocks(monkeypatch):
    problem = noisy_problem(JointLaw)
    starts = JointLaw.starts(problem.inputs, problem.log_target, 40, np.random.default_rng(0))
    whole = minimise(problem, starts)
    monkeypatch.setattr("moe_leverage.analysis.optimise.BLOCK_VALUES", 60 * 6 * 7)
    np.testing.assert_allclose(minimise(problem, starts).objective, whole.objective, rtol=1e-12)


def test_fixed_coefficient_stays():
    problem = noisy_problem(PowerLaw)
    free = minimise(problem, np.zeros((1, 2)))
    held = minimise(problem, np.array([[0.0, -0.05], [0.0, -0.2]]), fixed=np.array([1, 1]))
    np.testing.assert_array_equal(held.theta[:, 1], [-0.05, -0.2])
    assert held.converged.all()
    assert (held.objective > free.objective).all()
    best = minimize(lambda a: huber_sum(problem, np.array([a[0], -0.2])), [held.theta[1, 0]])
    assert held.objective[1] == pytest.approx(best.fun, rel=1e-6)


def test_without_a_threshold_it_is_weighted_least_squares():
    problem = noisy_problem(PowerLaw, delta=np.inf)
    weights = np.random.default_rng(0).uniform(0.1, 4.0, 60)
    solved = minimise(problem, np.zeros((1, 2)), weights=weights[None]).theta[0]
    log_compute = np.log(problem.inputs["compute"])
    line = np.polyfit(log_compute, problem.log_target, 1, w=np.sqrt(weights))
    missed = np.polyval(line, log_compute) - problem.log_target
    np.testing.assert_allclose(problem.residuals(solved), missed, atol=1e-6)


def test_infeasible_and_far_starts_do_not_spoil_the_others():
    problem = noisy_problem(JointLaw)
    good = np.array(THETAS["JointLaw"])
    inverted = good.copy()
    inverted[-2:] = 2.0, -2.0  # A_start above A_max: the law is undefined
    far = good + 300.0
    solved = minimise(problem, np.stack([inverted, good, far]))
    assert not solved.converged[0]
    assert solved.objective[0] == np.inf
    assert solved.converged[1]
    np.testing.assert_allclose(solved.theta[1], minimise(problem, good[None]).theta[0])


@pytest.mark.parametrize("most", [3, 4])
def test_a_problem_that_is_not_done_in_time_keeps_what_it_gained(most):
    problem = noisy_problem(JointLaw)
    begin = np.array(THETAS["JointLaw"])[None] + 0.3
    solved = minimise(problem, begin, most=most)
    assert (solved.converged.tolist(), solved.iterations.tolist()) == ([False], [most])
    assert solved.objective[0] == pytest.approx(huber_sum(problem, solved.theta[0]))
    assert solved.objective[0] < huber_sum(problem, begin[0])


def test_resamples_that_start_from_one_fit_may_fail_at_their_first_step():
    problem = noisy_problem(JointLaw)
    begin = np.repeat(np.array(THETAS["JointLaw"])[None] + 1.5, 40, axis=0)
    weights = np.random.default_rng(0).poisson(1.0, (40, 60)).astype(float)
    together = minimise(problem, begin, weights=weights)
    alone = [minimise(problem, begin[:1], weights=own[None]).objective[0] for own in weights]
    np.testing.assert_allclose(together.objective, alone, rtol=1e-6)


def test_unidentified_coefficient_stays_finite():
    """A_max of Table 2 is 5e16: flat. It must not run away."""
    inputs = draw_inputs(JointLaw, 200)
    noise = 0.03 * np.random.default_rng(1).standard_normal(200)
    log_target = np.log(PUBLISHED.joint(**inputs)) + noise
    problem = Problem(law=JointLaw, inputs=inputs, log_target=log_target, delta=0.05)
    starts = JointLaw.starts(inputs, log_target, 64, np.random.default_rng(0))
    solved = minimise(problem, starts)
    best = solved.theta[solved.objective.argmin()]
    assert np.isfinite(JointLaw.from_theta(best)).all()
    assert solved.converged.all()


def test_agrees_with_scipy_on_chinchilla_at_the_small_delta_of_hoffmann():
    problem = noisy_problem(ChinchillaLaw, delta=1e-3, count=245)
    starts = ChinchillaLaw.starts(problem.inputs, problem.log_target, 50, np.random.default_rng(0))
    solved = minimise(problem, starts)

    def gradient(theta):
        pull = np.clip(problem.residuals(theta), -1e-3, 1e-3)
        return pull @ ChinchillaLaw.log_gradient(theta, problem.inputs)

    begin = solved.theta[solved.objective.argmin()]
    theirs = minimize(lambda t: huber_sum(problem, t), begin, jac=gradient, method="BFGS",
                      options={"gtol": 1e-9})  # fmt: skip
    assert solved.objective.min() <= theirs.fun * (1 + 1e-8)


def test_no_problem_is_no_work():
    solved = minimise(noisy_problem(PowerLaw), np.zeros((0, 2)))
    assert solved.theta.shape == (0, 2)
