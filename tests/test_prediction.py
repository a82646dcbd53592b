"""Published and measured apart: what each law says of a point, how far, and in which words."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_fits import synthetic_fits

from moe_leverage import paths
from moe_leverage.analysis import identification
from moe_leverage.analysis.fitted import Fit
from moe_leverage.design import prediction
from moe_leverage.design.prediction import BY_DEFINITION, JOINT, REACH, predict, silence
from moe_leverage.theory.laws import PUBLISHED
from moe_leverage.theory.leverage import efficiency_leverage
from moe_leverage.theory.rounding import half_units, rounding_range

pytestmark = pytest.mark.usefixtures("every_gate_holds")
OWN = Fit.load(paths.FITS / "joint.json")
EXAMPLE = {"activation_ratio": 0.031, "granularity": 12.0, "compute": 1e22}


def points(compute=(9.0, 25.0)):
    """Points of the law over the paper's budgets and ours, as logarithms drawn evenly."""
    exponents = st.tuples(st.floats(-2.5, 0), st.floats(-1, 2), st.floats(*compute))
    names = ("activation_ratio", "granularity", "compute")
    return exponents.map(lambda e: dict(zip(names, (10.0**x for x in e), strict=True)))


def test_no_law_lends_its_value_to_the_other_s_interval():
    """Once 0.548, the published value, stood beside 0.9999 to 1.27, the measured interval."""
    point = {"activation_ratio": 0.0461, "granularity": 2.0, "compute": 1e12}
    found = predict(**point)
    assert found.published.value == PUBLISHED.joint(**point) == pytest.approx(0.548, abs=5e-4)
    low, high = found.published.rounding_range
    assert 0.53 < low < found.published.value < high < 0.57
    assert found.measured.value == pytest.approx(OWN.law(**point))
    assert found.measured.interval == tuple(OWN.predict(point).confidence[0])
    assert found.measured.interval[0] < found.measured.value < found.measured.interval[1]
    assert (found.published.in_domain, found.measured.in_domain) == (False, True)


@settings(max_examples=150, deadline=None)
@given(points())
def test_what_holds_at_every_point(point):
    found = predict(**point)
    low, high = found.published.rounding_range
    assert low <= found.published.value <= high
    ours = found.measured
    beyond = [
        max(ends[0] / point[name], point[name] / ends[1])
        for name, ends in OWN.law.domain.items()
        if name in point
    ]
    if point["activation_ratio"] == 1:
        assert (found.published.value, ours.value, ours.interval) == (1, 1, None)
    elif max(beyond) > REACH:
        assert ours.value is None
    if ours.value is None:
        assert (ours.interval, ours.in_domain) == (None, False)
        assert ours.reason.startswith("not at this scale: ")
    elif ours.interval is not None:
        assert ours.interval[0] <= ours.value <= ours.interval[1]
        assert ours.reason == ""
    assert ours.in_domain <= (max(beyond) <= 1 or point["activation_ratio"] == 1)


@settings(max_examples=60, deadline=None)
@given(points(compute=(11.0, 12.0)))
def test_inside_the_range_of_its_runs_our_own_law_answers(point):
    inside = {name: np.clip(point[name], *OWN.law.domain[name]) for name in point}
    assert predict(**inside).measured.value is not None


@pytest.mark.parametrize("granularity", [0.57, 2.0, 12.0])
@pytest.mark.parametrize("compute", [1e10, 1e12, 1e20, 1e24])
def test_a_dense_model_is_its_own_equal_in_both_laws(granularity, compute):
    found = predict(activation_ratio=1, granularity=granularity, compute=compute)
    assert (found.published.value, found.published.rounding_range) == (1, (1, 1))
    assert (found.measured.value, found.measured.interval) == (1, None)
    assert found.measured.reason == BY_DEFINITION
    assert found.published.in_domain
    assert found.measured.in_domain
    assert found.warnings == ()


def test_the_definition_holds_in_arrays_and_leaves_the_formula_as_it_is():
    ratios = np.array([[0.5], [1.0]])
    point = {"activation_ratio": ratios, "granularity": np.array([2.0, 12.0]), "compute": 1e20}
    found = efficiency_leverage(PUBLISHED.joint, **point)
    assert found[1].tolist() == [1, 1]
    assert found[0].tolist() == PUBLISHED.joint(**point)[0].tolist()
    assert PUBLISHED.joint(**point)[1].max() < 1
    with pytest.raises(ValueError, match=r"activation_ratio = 1\.5: must not exceed 1"):
        efficiency_leverage(PUBLISHED.joint, activation_ratio=1.5, granularity=2, compute=1e20)


@pytest.fixture
def granularity_is_left_open(monkeypatch):
    """As if the profiles left gamma and beta open, but none of what carries A and C."""
    left_open = {("joint", name): identification.NOT_IDENTIFIED for name in ("gamma", "beta")}
    monkeypatch.setattr(prediction, "verdicts", lambda fits: left_open)
    prediction._load.cache_clear()
    yield
    prediction._load.cache_clear()


@pytest.mark.usefixtures("granularity_is_left_open")
def test_beyond_its_runs_our_own_law_goes_along_an_axis_that_they_identify():
    inside = {"activation_ratio": 0.0461, "granularity": 4.0, "compute": 1e12}
    assert predict(**inside).measured.in_domain
    assert predict(**inside | {"activation_ratio": 0.01}).measured.value is not None
    top = OWN.law.domain["compute"][1]
    further = predict(**inside | {"compute": 5 * top})
    assert further.measured.value is not None
    assert not further.measured.in_domain
    assert any(line.startswith(f"measured law: compute = {5 * top:.4g} FLOPs is 5 times beyond")
               for line in further.warnings)  # fmt: skip
    is_closed = "granularity" in prediction.closed_axes(JOINT, OWN.law)
    for name, value in (("granularity", 1.9), ("granularity", 20.0)):
        asked = predict(**inside | {name: value}).measured
        assert (asked.value is None) == is_closed
        if is_closed:
            assert f"{name} = {value:g} is" in asked.reason
            assert "do not identify" in asked.reason


def test_where_no_profile_says_otherwise_each_axis_is_open_for_one_decade(tmp_path):
    joint, _ = synthetic_fits(tmp_path)
    for name, (low, high) in joint.law.domain.items():
        if name == "efficiency_leverage":
            continue
        inside = {"activation_ratio": 0.05, "granularity": 4.0, "compute": 1e12}
        far = (low / 9.9, low / 10.1) + ((high * 9.9, high * 10.1) if 10.1 * high <= 1 or
                                         name != "activation_ratio" else ())  # fmt: skip
        for i, value in enumerate(far):
            said = predict(**inside | {name: value}, fits=tmp_path).measured
            assert (said.value is None) == (i % 2 == 1), (name, value)


def test_without_a_fit_there_is_a_reason_and_no_value(tmp_path):
    measured = predict(**EXAMPLE, fits=tmp_path).measured
    assert (measured.value, measured.interval, measured.in_domain) == (None, None, False)
    assert measured.reason == "no joint law is fitted to our own runs yet"


def test_an_unbounded_interval_is_no_answer(tmp_path):
    from dataclasses import replace

    joint, _ = synthetic_fits(tmp_path)
    samples = joint.samples.copy()
    samples[: len(samples) // 2, 0] = -1e6
    replace(joint, samples=samples).save(tmp_path / "other" / "joint.json")
    point = {"activation_ratio": 0.05, "granularity": 4.0, "compute": 1e12}
    measured = predict(**point, fits=tmp_path / "other").measured
    assert measured.value is None
    assert "unbounded" in measured.reason


def test_the_reason_names_the_axis_its_unit_and_the_rule():
    domain = {"activation_ratio": (0.01, 1.0), "compute": (1e11, 1e12)}
    assert silence({"activation_ratio": 0.1, "compute": 1e13}, domain, ()) == ""
    said = silence({"activation_ratio": 0.1, "compute": 2e13}, domain, ())
    assert said == (
        "not at this scale: compute = 2e+13 FLOPs is 20 times beyond the range 1e+11 to 1e+12 of "
        "our runs, and a measured law answers up to 10 times beyond"
    )


def test_rounding_moves_a_coefficient_by_half_its_last_digit():
    low, high = rounding_range(lambda law: law.a)
    assert (low, high) == pytest.approx((1.225, 1.235))
    assert half_units() == pytest.approx(
        {"a": 5e-3, "d": 5e-5, "gamma": 5e-5, "beta": 5e-4, "a_start": 5e-5, "a_max": 5e13}
    )


def test_no_law_inside_the_box_leaves_the_range_of_its_corners():
    low, high = rounding_range(lambda law: law(**EXAMPLE))
    assert low < PUBLISHED.joint(**EXAMPLE) < high
    generator = np.random.default_rng(0)
    halves = np.array([half_units()[name] for name in PUBLISHED.joint.coefficient_names])
    inside = PUBLISHED.joint.coefficients + halves * generator.uniform(-1, 1, (500, 6))
    values = [PUBLISHED.joint.from_coefficients(row)(**EXAMPLE) for row in inside]
    assert low <= min(values) <= max(values) <= high
    assert max(values) - min(values) > 0.5 * (high - low)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["activation_ratio", "granularity", "compute"])
def test_prediction_refuses_impossible_points(name, value):
    point = {"activation_ratio": 0.1, "granularity": 4.0, "compute": 1e19} | {name: value}
    with pytest.raises(ValueError, match=f"{name} = {value!r}: must be"):
        predict(**point)


def test_below_break_even_a_dense_model_is_said_to_be_cheaper():
    found = predict(activation_ratio=0.1, granularity=2, compute=1e14)
    assert found.published.value < 1
    assert any("dense model is predicted cheaper" in line for line in found.warnings)


def test_intervals_hold_the_value_on_a_grid_of_the_whole_range():
    axes = [np.geomspace(*OWN.law.domain[name], 6) for name in OWN.law.inputs]
    axes[2] = np.geomspace(9.9e9, 1e13, 12)
    for a, g, c in itertools.product(axes[0][:-1], axes[1], axes[2]):
        found = predict(activation_ratio=a, granularity=g, compute=c).measured
        if found.value is not None:
            assert found.interval[0] <= found.value <= found.interval[1], (a, g, c)


def test_while_a_gate_fails_our_own_law_names_it_and_gives_no_value(tmp_path):
    synthetic_fits(tmp_path)
    near = {"activation_ratio": 0.05, "granularity": 4.0, "compute": 1e12}
    assert predict(**near, fits=tmp_path).measured.value > 0
    shut = tmp_path / "shut"
    shutil.copytree(tmp_path, shut, ignore=shutil.ignore_patterns("shut"))
    gates = {"joint": ["tuned", "control"], "moe_tokens": ["sized"]}
    (shut / "index.json").write_text(json.dumps({"failing_gates": gates}))
    assert identification.failing_gates(shut)["joint"] == ("tuned", "control")
    measured = predict(**near, fits=shut).measured
    assert (measured.value, measured.interval, measured.in_domain) == (None, None, False)
    assert measured.reason == "not decided: of the gates of its runs fail: tuned, control"
    far = predict(**near | {"compute": 1e20}, fits=shut).measured
    assert far.reason.startswith("not at this scale")
    whole = predict(**near | {"activation_ratio": 1}, fits=shut).measured
    assert whole.value == 1
