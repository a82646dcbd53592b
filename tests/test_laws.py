"""The paper's laws: printed values, inverses, gradients, warnings, and the file behind them."""

import math
import subprocess
import sys

import numpy as np
import pytest

from moe_leverage.theory import laws
from moe_leverage.theory.laws import (
    PUBLISHED,
    ComputeLaw,
    GranularityLaw,
    JointLaw,
    PowerLaw,
    SaturatedActivationLaw,
    saturated_activation_ratio,
)
from moe_leverage.theory.saturation import saturation

POINT = {"activation_ratio": 0.031, "granularity": 12.0}
COEFFICIENTS = {
    PowerLaw: (20.0, -0.12),
    SaturatedActivationLaw: (-0.4, 0.02, 3.0),
    GranularityLaw: (0.3, -0.05, -6.0),
    ComputeLaw: (0.2, -2.5),
    JointLaw: (1.2, -0.07, 0.02, -0.12, 0.02, 5.0),
}


def random_inputs(law, count=7, seed=0):
    draw = np.random.default_rng(seed)
    values = {
        "activation_ratio": draw.uniform(0.01, 1, count),
        "granularity": draw.uniform(1, 20, count),
        "compute": 10 ** draw.uniform(11, 22, count),
    }
    return {name: values[name] for name in law.inputs}


def test_joint_law_returns_the_statements_of_the_paper():
    leverage = PUBLISHED.joint(**POINT, compute=np.array([1e20, 1e22]))
    assert 4.5 < leverage[0] < 4.6
    assert 7.2 < leverage[1] < 7.3
    assert 8 < PUBLISHED.joint.optimum_granularity < 12


@pytest.mark.parametrize("bases", [(math.e, math.e), (math.e, 2), (10, 10), (2, 2)])
def test_no_other_pair_of_bases_returns_them(bases):
    other = PUBLISHED.joint.with_bases(compute=bases[0], granularity=bases[1])
    leverage = other(**POINT, compute=1e22)
    assert not (7 < leverage < 8 and 8 < other.optimum_granularity < 12)


def test_transform_is_kept_as_printed():
    assert saturated_activation_ratio(1.0, 0.0163, 5.28e16) == pytest.approx(1.0163)
    assert saturated_activation_ratio(1.0, 0.5, 2.0) == pytest.approx(1 / (1 / (1 + 2 / 3) + 0.5))
    np.testing.assert_allclose(saturated_activation_ratio([0.0, 1e30], 0.02, 7.0), [0.02, 7.0])
    dense = PUBLISHED.joint(activation_ratio=1, granularity=2, compute=1e20)
    assert dense == pytest.approx(0.9937, abs=1e-4)  # the text says 1
    with pytest.raises(ValueError, match=r"a_start = 2\.0: must lie between 0 and a_max = 1"):
        saturated_activation_ratio(0.5, 2.0, 1.0)


def test_inverses_undo_the_laws():
    joint = PUBLISHED.joint
    grid = np.array([0.02, 0.1, 0.5])
    compute = joint.compute_for(3.0, grid, 8.0)
    np.testing.assert_allclose(joint(activation_ratio=grid, granularity=8, compute=compute), 3.0)
    even = joint.break_even_compute(grid, np.array([2.0, 8.0, 12.0]))
    at_even = joint(activation_ratio=0.3, granularity=[2.0, 8.0, 12.0], compute=even)
    np.testing.assert_allclose(at_even, 1.0)
    assert joint.break_even_compute(0.1, 2.0) == pytest.approx(joint.break_even_compute(0.9, 2.0))
    assert math.isnan(joint.compute_for(3.0, 1.0, 8.0))  # A^(1) > 1: EL falls with compute
    assert joint.compute_for(1e6, 0.9, 8.0) == math.inf
    rate = PUBLISHED.learning_rate
    assert rate(rate.compute_for(1e-3)) == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="constant law has no inverse"):
        PowerLaw(1.0, 0.0).compute_for(2.0)
    assert math.isnan(GranularityLaw(0.0, 1.0, -4.0).optimum_granularity)


def test_optimum_granularity_is_the_optimum():
    grid = np.linspace(2, 30, 2801)
    leverage = PUBLISHED.joint(activation_ratio=0.05, granularity=grid, compute=1e20)
    assert grid[leverage.argmax()] == pytest.approx(PUBLISHED.joint.optimum_granularity, abs=0.01)


def test_separable_laws_agree_with_the_joint_law_they_come_from():
    joint, a, g, c = PUBLISHED.joint, 0.07, 5.0, 3e19
    leverage = joint(activation_ratio=a, granularity=g, compute=c)
    of_a = joint.at_fixed_granularity_and_compute(g, c)
    of_g = joint.at_fixed_activation_ratio_and_compute(a, c)
    of_c = joint.at_fixed_activation_ratio_and_granularity(a, g)
    sections = [of_a(activation_ratio=a), of_g(granularity=g), of_c(compute=c)]
    np.testing.assert_allclose(sections, leverage)
    assert of_g.optimum_granularity == pytest.approx(joint.optimum_granularity)
    assert of_c.break_even_compute == pytest.approx(joint.break_even_compute(a, g))
    assert "implied by Eq. 13" in of_a.source.note


def test_allocation_splits_the_budget():
    """M_opt D_opt = C, within the rounding of Table 1."""
    compute = np.array([3e17, 1e19, 3e20])
    for model, tokens in [
        (PUBLISHED.dense_model, PUBLISHED.dense_tokens),
        (PUBLISHED.moe_model, PUBLISHED.moe_tokens),
    ]:
        np.testing.assert_allclose(model(compute) * tokens(compute), compute, rtol=1e-3)


@pytest.mark.parametrize("law", COEFFICIENTS)
def test_gradients_match_finite_differences(law):
    theta, inputs = law.to_theta(COEFFICIENTS[law]), random_inputs(law)
    steps = 1e-6 * np.eye(len(theta))
    ahead, behind = law.log_value(theta + steps, inputs), law.log_value(theta - steps, inputs)
    gradient = law.log_gradient(theta, inputs)
    np.testing.assert_allclose(gradient, (ahead - behind).T / 2e-6, rtol=1e-6, atol=1e-8)
    batch = np.stack([[theta, theta + 0.1]] * 3)
    assert law.log_gradient(batch, inputs).shape == (3, 2, 7, len(theta))
    np.testing.assert_allclose(law.log_gradient(batch, inputs)[1, 0], gradient, rtol=1e-12)
    np.testing.assert_allclose(law.from_theta(theta), COEFFICIENTS[law])


@pytest.mark.parametrize("law", COEFFICIENTS)
def test_calls_are_vectorised_and_plain_for_scalars(law):
    built, inputs = law.from_coefficients(COEFFICIENTS[law]), random_inputs(law)
    values = built.evaluate(**inputs)
    first = built.evaluate(**{name: float(column[0]) for name, column in inputs.items()})
    assert type(first) is float
    assert first == pytest.approx(values[0])
    assert built.evaluate(**{n: c.reshape(7, 1) for n, c in inputs.items()}).shape == (7, 1)


def test_outside_warns_once_for_each_quantity():
    inside = PUBLISHED.joint.outside(activation_ratio=0.05, granularity=4, compute=1e19)
    assert inside == []
    warnings = PUBLISHED.joint.outside(**POINT, compute=[1e17, 1e22])
    assert [w.split(" ")[0] for w in warnings] == ["compute", "compute", "efficiency_leverage"]
    assert "33.3 times beyond the range 1e+18 to 3e+20" in warnings[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("compute", 0), ("compute", math.nan), ("granularity", -2), ("activation_ratio", 1.2)],
)
def test_impossible_inputs_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} = "):
        PUBLISHED.joint.evaluate(**POINT | {"compute": 1e20} | {name: value})


def test_the_coefficients_file_is_what_the_laws_read(tmp_path):
    text = laws.COEFFICIENTS.read_text()
    edited = tmp_path / "coefficients.toml"
    edited.write_text(text.replace("1.1576", "2.3152"))
    rate = laws.load_published(edited).learning_rate
    assert rate(1e20) == pytest.approx(2 * PUBLISHED.learning_rate(1e20))
    edited.write_text(text.replace("[joint]", "[joined]"))
    with pytest.raises(ValueError, match=r"coefficients\.toml: \[join"):
        laws.load_published(edited)
    edited.write_text("[joint")
    with pytest.raises(ValueError, match=r"coefficients\.toml: "):
        laws.load_published(edited)


def test_laws_load_neither_pandas_nor_scipy_nor_torch():
    heavy = "{'pandas', 'scipy', 'torch'}"
    code = f"import sys, moe_leverage.theory.laws; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_saturation_at_equal_ends_is_that_value_whatever_a():
    theta = np.log(np.array([[0.2, 0.2], [0.3, 0.2]]))
    value, by_start, by_max = saturation(theta, np.array([0.01, 0.1, 1.0]))
    np.testing.assert_allclose(value[0], np.log(0.2))
    np.testing.assert_allclose(by_start[0] + by_max[0], 1.0)
    assert np.isnan(value[1]).all()
