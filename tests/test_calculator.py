"""The page's JavaScript gives the package's numbers to a relative 1e-9, edges included.

Node runs the very file that the site ships; the browser tests drive the form itself.
"""

import gzip
import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_fits import synthetic_fits

from moe_leverage import paths
from moe_leverage.analysis.bootstrap import central_interval
from moe_leverage.design.prediction import REACH, Prediction, predict
from moe_leverage.instruments import calculator
from moe_leverage.theory import allocation
from moe_leverage.theory.laws import PUBLISHED, JointLaw
from moe_leverage.theory.leverage import efficiency_leverage

STATIC = paths.DATA.parent / "book" / "_static"
SCRIPTS = ("leverage.js", "parts.js", "calculator.js", "landscape.js", "calculator_form.js",
           "calculator_page.js")  # fmt: skip
LIMIT_BYTES = 25_000  # as a server sends it, compressed; so the layout of the scripts is free
RELATIVE = 1e-9

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="needs Node"),
    pytest.mark.usefixtures("every_gate_holds"),
]


def in_javascript(expression: str, values: object, fits: Path = paths.FITS) -> list:
    """The value of a JavaScript expression in `ml` (the page's functions) and `values`."""
    program = f"""
        globalThis.window = globalThis;
        globalThis.document = {{ addEventListener() {{}} }}; // no page to build the form into
        {calculator.script(fits)}
        {"".join((STATIC / name).read_text() for name in SCRIPTS)}
        const ml = window.moeLeverage, {{ law, laws, domain }} = ml.data.published;
        const values = JSON.parse(require("fs").readFileSync(0, "utf8"));
        process.stdout.write(JSON.stringify({expression}));
    """
    done = subprocess.run(
        ["node", "-e", program],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_the_joint_law_and_its_inverses_are_equal():
    grid = itertools.product(
        [1e-4, 0.0078, 0.0117, 0.031, 0.2, 1.0],
        [0.25, 1.0, 2.0, 6.0, 12.0, 16.0, 128.0],
        [1e10, 1e13, 1e18, 3e20, 1e22, 1e24, 1e27],
    )
    points = [list(point) for point in grid] + np.random.default_rng(0).uniform(
        [0.001, 0.5, 1e11], [1, 64, 1e26], (300, 3)
    ).tolist()
    assert len(points) >= 500
    got = in_javascript(
        "values.map(([A, G, C]) => [ml.jointLaw(law, A, G, C), ml.leverage(law, A, G, C), "
        "ml.breakEvenCompute(law, A, G), ml.optimumGranularity(law), "
        "ml.powerLaw(laws.learning_rate, C), ml.computeFor(laws.moe_tokens, C)])",
        points,
    )
    a, g, c = np.array(points).T
    law = PUBLISHED.joint
    wanted = np.stack(
        [
            law(activation_ratio=a, granularity=g, compute=c),
            efficiency_leverage(law, activation_ratio=a, granularity=g, compute=c),
            law.break_even_compute(a, g),
            np.full(len(points), law.optimum_granularity),
            PUBLISHED.learning_rate(c),
            PUBLISHED.moe_tokens.compute_for(c),
        ],
        axis=1,
    )
    got = np.array(got, dtype=float)  # null, JSON's NaN, becomes NaN
    np.testing.assert_allclose(got, wanted, rtol=RELATIVE)


def test_intervals_are_those_of_the_fits():
    rng = np.random.default_rng(1)
    law = PUBLISHED.joint
    samples = law.coefficients * rng.uniform(0.97, 1.03, (37, 1))
    point = {"activation_ratio": 0.031, "granularity": 12, "compute": 1e20}
    got = in_javascript("ml.interval(law, values, 0.031, 12, 1e20, 0.9)", samples.tolist())
    leverage = [[law.from_coefficients(row)(**point)] for row in samples]
    wanted = central_interval(np.array(leverage), 0.9)[0]
    np.testing.assert_allclose(got, wanted, rtol=RELATIVE)


def test_warnings_name_what_the_package_warns_of():
    points = [(0.031, 12, 1e22), (0.031, 12, 1e20), (0.005, 1, 1e15), (0.5, 16, 3e20)]
    expression = "values.map(([A, G, C]) => ml.outside(domain, A, G, C, ml.leverage(law, A, G, C)))"
    got = in_javascript(expression, points)
    for (a, g, c), found in zip(points, got, strict=True):
        warnings = PUBLISHED.joint.outside(activation_ratio=a, granularity=g, compute=c)
        assert {w["key"] for w in found} == {text.split(" = ")[0] for text in warnings}


# A point is answered by both laws, by either, by none but the definition, and out of every range.
POINTS = [
    dict(zip("AGC", point, strict=True))
    for point in itertools.product(
        [0.0009, 0.0117, 0.0461, 0.3, 1.0],
        [0.15, 1.9, 2.0, 5.5, 16.0, 17.0, 200.0],
        [5e9, 2e10, 1e11, 1e12, 5e12, 1.1e13, 1e20, 1e22],
    )
]
BOTH = "values.map(({A, G, C}) => ml.calculator.sides({A, G, C}))"


def at(point: dict[str, float], fits: Path = paths.FITS) -> Prediction:
    return predict(
        activation_ratio=point["A"], granularity=point["G"], compute=point["C"], fits=fits
    )


@pytest.mark.parametrize("are_ours", [True, False])
def test_the_page_says_of_a_point_what_the_package_says(tmp_path, are_ours):
    """Our own fits and made-up ones; only of the first the profiles close axes."""
    fits = paths.FITS if are_ours else tmp_path
    if not are_ours:
        synthetic_fits(tmp_path)
    silent = 0
    for point, (published, measured) in zip(POINTS, in_javascript(BOTH, POINTS, fits), strict=True):
        wanted = at(point, fits)
        assert published["value"] == pytest.approx(wanted.published.value, rel=RELATIVE)
        ends = pytest.approx(wanted.published.rounding_range, rel=RELATIVE)
        assert published["rounding_range"] == ends
        assert published["in_domain"] is wanted.published.in_domain
        ours = wanted.measured
        assert measured["in_domain"] is ours.in_domain, point
        assert measured["value"] == (ours.value and pytest.approx(ours.value, rel=RELATIVE))
        assert (measured["interval"] is None) == (ours.interval is None), point
        if ours.value is None:
            silent += 1
            assert measured["silent"]["key"] in ours.reason
    assert 0.3 * len(POINTS) < silent < 0.7 * len(POINTS)


def test_the_page_s_measured_interval_is_that_of_its_samples():
    """To rounding it is that of the samples sent; they are a seventh of those the package has."""
    samples = np.array(calculator.payload()["measured"]["samples"])
    laws = [JointLaw.from_coefficients(row) for row in samples]
    for point, (_, measured) in zip(POINTS, in_javascript(BOTH, POINTS), strict=True):
        if measured["interval"] is None:
            continue
        axes = {"activation_ratio": point["A"], "granularity": point["G"], "compute": point["C"]}
        drawn = np.array([[law(**axes)] for law in laws])
        wanted = central_interval(drawn, 0.9)[0]
        np.testing.assert_allclose(measured["interval"], wanted, rtol=RELATIVE)
        whole = at(point).measured.interval  # its ends are quantiles of more draws
        np.testing.assert_allclose(
            measured["interval"], whole, rtol=0.02, atol=0.2 * (whole[1] - whole[0])
        )
        assert measured["interval"][0] < measured["value"] < measured["interval"][1]


ROWS = """values.map((m) => {
  const state = ml.calculator.located(m), by = ml.calculator.sides(state);
  const rows = Object.fromEntries(ml.calculator.answers(state, by, true));
  const splits = Object.fromEntries(ml.calculator.allocations(state, by));
  return { rows, splits };
})"""
MAP = "values.map((C) => ml.landscape.squares(ml.data.measured, C).map(({ A, G }) => [A, G]))"


def test_a_measured_law_stands_beside_the_published_one_near_its_runs_and_not_far_off():
    near, far = (
        found["rows"]
        for found in in_javascript(ROWS, [{"A": 0.0461, "G": 4, "C": c} for c in (1e12, 1e22)])
    )
    for name, (published, measured) in near.items():
        if name != "Granularity of highest EL":  # it may lie where our runs say nothing
            assert measured["value"] > 0, name
        assert published["value"] > 0, name
    of_any_compute = {"Break-even compute, FLOPs", "Granularity of highest EL"}
    assert all(far[name][1]["value"] is None for name in set(far) - of_any_compute)
    assert all(far[name][0]["value"] > 0 for name in far)
    leverage, compute = (near[n][0] for n in ("Efficiency leverage EL", *list(near)[1:2]))
    np.testing.assert_allclose(compute["range"], np.multiply(leverage["range"], 1e12))


def test_no_cell_of_the_page_has_a_measured_law_beyond_one_decade_of_its_runs():
    """Every row of both tables and every square of the map, over a grid of points."""
    side = calculator.payload()["measured"]

    def is_near(domain: dict[str, list[float]], **point: float) -> bool:
        return all(
            domain[name][0] / REACH <= value <= domain[name][1] * REACH
            for name, value in point.items()
        )

    points = [p for p in POINTS if p["A"] < 1 and 0.25 <= p["G"] <= 128]
    num_said = 0
    for point, found in zip(points, in_javascript(ROWS, points), strict=True):
        axes = {"activation_ratio": point["A"], "granularity": point["G"]}
        for name, (_, measured) in found["rows"].items():
            if measured["value"] is None:
                continue
            num_said += 1
            if name.startswith("Break-even"):
                own = is_near(side["domain"], **axes, compute=measured["value"])
            elif name.startswith("Granularity"):
                own = is_near(side["domain"], granularity=measured["value"])
            elif name.startswith(("Learning", "Batch")):
                law = "learning_rate" if name.startswith("Learning") else "batch_tokens"
                own = is_near(side["laws"][law]["domain"], compute=point["C"])
            else:
                own = is_near(side["domain"], **axes, compute=point["C"])
            assert own, (name, point, measured)
        leverage = found["rows"]["Efficiency leverage EL"][1]["value"]
        for name, (*_, measured) in found["splits"].items():
            if measured["value"] is None:
                continue
            num_said += 1
            family = "dense" if name.startswith("Dense") else "moe"
            at = point["C"] if family == "moe" else leverage * point["C"]
            for law in (f"{family}_model", f"{family}_tokens"):
                assert is_near(side["laws"][law]["domain"], compute=at), (name, point)
    computes = sorted({point["C"] for point in points})
    for compute, squares in zip(computes, in_javascript(MAP, computes), strict=True):
        for a, g in squares:
            at = {"activation_ratio": a, "granularity": g, "compute": compute}
            assert is_near(side["domain"], **at), at
    assert num_said > 300


def test_the_split_of_a_budget_is_the_package_s_under_both_readings():
    points = [{"A": 0.0461, "G": 4, "C": c} for c in (1e12, 1e18, 3e20, 1e22)]
    for point, found in zip(points, in_javascript(ROWS, points), strict=True):
        leverage = found["rows"]["Efficiency leverage EL"][0]["value"]
        for name, compute in (("MoE", point["C"]), ("Dense of equal loss", leverage * point["C"])):
            rows = {k.split(": ")[1]: v for k, v in found["splits"].items() if k.startswith(name)}
            for i, passes in enumerate(allocation.PASSES.values()):
                wanted = allocation.split(compute, passes, is_dense=name != "MoE")
                got = {
                    "M, forward FLOPs a token": wanted.flops_per_token,
                    "tokens D": wanted.num_tokens,
                    "3 M D, FLOPs of its training": wanted.training_flops,
                }
                for row, value in got.items():
                    assert rows[row][i]["value"] == pytest.approx(value, rel=RELATIVE), row
    assert calculator.payload()["why"] == allocation.why()


WORDS = """values.map((m) => {
  const state = ml.calculator.located(m), by = ml.calculator.sides(state);
  return [ml.calculator.said(by, state), ...by.map((s) => ml.calculator.standing(s, m.A >= 1))];
})"""


def test_the_page_says_in_words_how_far_each_law_goes():
    baseline = {"A": 0.0461, "G": 2, "C": 1e12}
    top = calculator.payload()["measured"]["domain"]["compute"][1]
    changes = ({}, {"C": 5 * top}, {"C": 1e20}, {"G": 0.1}, {"A": 1, "C": 1e22})
    points = [baseline | change for change in changes]
    near, further, far, coarse, dense = in_javascript(WORDS, points)
    assert near[0].startswith(
        "EL = 0.55 (0.54 to 0.56) by the published law: a dense model reaches"
    )
    ours = [predict(activation_ratio=point["A"], granularity=point["G"], compute=point["C"])
            for point in points]  # fmt: skip
    assert f"Our own law says EL = {ours[0].measured.value:.2f} (" in near[0]
    assert near[1].startswith("extrapolated, C =")
    assert near[2] == "inside the range of its runs."
    assert f"Our own law, extrapolated, says EL = {ours[1].measured.value:.2f}" in further[0]
    assert far[0].endswith("Our own law says nothing at this scale.")
    assert far[1] == "inside the range of its runs."
    assert far[2].startswith("not at this scale: C = ")
    assert far[2].endswith("by more than 10 times.")
    assert coarse[2].startswith("not at this scale: G = 0.1 outside 2 to 16")
    assert dense[0] == "A dense model: EL = 1 by definition."


def test_our_own_fits_stand_beside_the_published_ones(tmp_path):
    joint, tokens = synthetic_fits(tmp_path)
    side = calculator.payload(tmp_path)["measured"]
    assert list(side["law"].values()) == list(joint.law.coefficients)
    assert set(side["laws"]) == {"moe_tokens", "batch_tokens"}
    assert side["laws"]["moe_tokens"]["exponent"] == tokens.law.exponent
    assert side["domain"]["compute"] == [1e11, 3e12]
    assert side["reach"] == side["laws"]["moe_tokens"]["reach"] == REACH
    assert side["closed"] == side["laws"]["moe_tokens"]["closed"] == []
    ours = calculator.payload()["measured"]
    rows = pd.read_csv(paths.FITS / "profiles.csv")
    rows = rows[(rows["fit"] == "joint") & (rows["verdict"] == "not identified")]
    carried = {"activation_ratio": {"a_start", "a_max"}, "granularity": {"gamma", "beta"}}
    for axis, coefficients in carried.items():
        assert (axis in ours["closed"]) == bool(coefficients & set(rows["coefficient"]))
    drawn = joint.law.from_theta(joint.samples)
    np.testing.assert_allclose(side["samples"], drawn[: len(side["samples"])], rtol=1e-4)


def test_the_calculator_stays_small_even_with_samples(tmp_path):
    synthetic_fits(tmp_path, resamples=calculator.NUM_SAMPLES)
    scripts = [(STATIC / name).read_bytes() for name in SCRIPTS]
    data = max(calculator.script(tmp_path), calculator.script(), key=len).encode()
    assert sum(len(gzip.compress(part)) for part in (*scripts, data)) < LIMIT_BYTES


def test_while_a_gate_fails_the_page_names_it_and_gives_no_value(tmp_path):
    synthetic_fits(tmp_path)
    gates = {"failing_gates": {"joint": ["tuned", "control"]}}
    (tmp_path / "index.json").write_text(json.dumps(gates))
    near = {"A": 0.05, "G": 4, "C": 1e12}
    ((said, _, standing),) = in_javascript(WORDS, [near], tmp_path)
    assert said.endswith("Our own law is not decided.")
    assert standing == "not decided: of the gates of its runs fail: tuned, control."
    (found,) = in_javascript(ROWS, [near], tmp_path)
    assert found["rows"]["Efficiency leverage EL"][1]["value"] is None
    assert (
        found["splits"]["MoE: tokens D"][2]["value"] > 0
    )  # a law of other studies, whose gates hold
    assert in_javascript(MAP, [1e12], tmp_path) == [[]]
    assert found["rows"]["Efficiency leverage EL"][1]["word"] == "not decided"
    (far,) = in_javascript(ROWS, [near | {"C": 1e20}], tmp_path)
    assert far["rows"]["Batch, MoE, tokens"][1]["word"] == "not at this scale"  # its gates hold
