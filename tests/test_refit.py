"""The page's fit of Equation 13 is the package's: same optimum, same law, same refusals.

Node runs the very files that the site ships; the browser tests drive the form itself.
"""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from moe_leverage import paths
from moe_leverage.analysis.bootstrap import (
    distinct_minima,
    resampled,
    small_sample_factor,
    student_ratio,
    widened,
)
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.fitting import fit
from moe_leverage.analysis.optimise import minimise
from moe_leverage.instruments import refit
from moe_leverage.theory.laws import JointLaw

STATIC = paths.DATA.parent / "book" / "_static"
SCRIPTS = ("leverage.js", "parts.js", "refit.js")
TRUTH = JointLaw(1.05, -0.11, 0.02, -0.13, 0.03, 4.0)
RELATIVE = 1e-4

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")


def in_javascript(expression: str, values: object) -> object:
    """The value of a JavaScript expression in `ml` (the page's functions) and `values`."""
    program = "globalThis.window = globalThis;" + "".join(
        (STATIC / name).read_text() for name in SCRIPTS
    )
    program += f"""
        {refit.script()}
        const ml = window.moeLeverage, values = JSON.parse(require("fs").readFileSync(0, "utf8"));
        process.stdout.write(JSON.stringify({expression}));
    """
    given = json.dumps(values)
    done = subprocess.run(
        ["node", "-e", program], input=given, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def points(noise: float, seed: int = 0) -> list[dict[str, float]]:
    """Leverage at 3 budgets, 6 activation ratios and 5 granularities, off the law by `noise`."""
    generator = np.random.default_rng(seed)
    found = []
    for compute in (3e11, 1e12, 3e12):
        for ratio in (0.0125, 0.025, 0.05, 0.1, 0.25, 0.5):
            for grain in (2, 4, 6, 8, 12):
                value = TRUTH(activation_ratio=ratio, granularity=grain, compute=compute)
                value *= np.exp(noise * generator.standard_t(3))
                found.append({"A": ratio, "G": grain, "C": compute, "EL": float(value)})
    return found


def in_python(given: list[dict[str, float]]) -> Fit:
    names = {"A": "activation_ratio", "G": "granularity", "C": "compute"}
    table = pd.DataFrame(given).rename(columns=names | {"EL": "efficiency_leverage"})
    return fit(JointLaw, table, "efficiency_leverage", resamples=0)


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.02])
def test_the_fit_in_the_page_is_the_fit_of_the_package(noise):
    given = points(noise)
    ours = in_python(given)
    got = in_javascript("ml.refit.fit(values, ml.refitData)", given)
    value = float(ours.problem.huber(ours.residuals).sum())
    assert got["value"] <= value * (1 + RELATIVE) + 1e-12
    law = JointLaw(**got["law"])
    np.testing.assert_allclose(law(**ours.inputs), ours.law(**ours.inputs), rtol=RELATIVE)
    assert law.optimum_granularity == pytest.approx(ours.law.optimum_granularity, rel=RELATIVE)
    if noise < 0.01:
        np.testing.assert_allclose(law.coefficients, ours.law.coefficients, rtol=RELATIVE)
    count = len(given)
    widening = small_sample_factor(count, 6) * student_ratio(count - 6)
    assert got["widening"] == pytest.approx(widening, rel=1e-9)
    if noise:
        assert got["delta"] == pytest.approx(ours.delta, rel=RELATIVE)


def test_a_resample_in_the_page_is_a_resample_of_the_package():
    given = points(0.01, seed=1)
    ours = in_python(given)
    weights = np.random.default_rng(2).exponential(size=(5, len(given)))
    got = in_javascript(
        "values[1].map((w) => ml.refit.redraw(ml.refit.fit(values[0], ml.refitData), w))",
        [given, weights.tolist()],
    )
    begin = ours.law.starts(ours.inputs, ours.log_target, 64, np.random.default_rng(0))
    ended = minimise(ours.problem, np.concatenate([ours.theta[None], begin]))
    minima = distinct_minima(ended, len(given))
    redrawn = resampled(ours.problem, minima, weights)
    factor = small_sample_factor(len(given), 6) * student_ratio(len(given) - 6)
    wanted = widened(ours.problem, redrawn.theta, minima, factor)
    for row, theta in zip(got, wanted, strict=True):
        law = JointLaw.from_coefficients(JointLaw.from_theta(theta))
        np.testing.assert_allclose(
            JointLaw(**row)(**ours.inputs), law(**ours.inputs), rtol=10 * RELATIVE
        )


def test_weights_are_exponential_and_the_same_again():
    first, again = in_javascript("[7, 7].map((seed) => ml.refit.generator(seed)(values))", 4000)
    assert first == again
    assert np.mean(first) == pytest.approx(1, abs=0.05)
    assert np.var(first) == pytest.approx(1, abs=0.15)


def test_points_that_cannot_tell_the_law_are_refused_in_words():
    given = points(0.0)
    few = [p for p in given if p["G"] < 6]
    repeated = [given[0]] * 30
    said = in_javascript(
        "values.map((v) => ml.refit.lacks(v, ml.refitData.needed))", [given, few, repeated]
    )
    assert said[0] == ""
    assert "2 values of granularity; Equation 13 needs 3" in said[1]
    assert "1 value of activation ratio" in said[2]


def test_the_points_come_from_the_fits_with_their_runs(tmp_path):
    assert refit.payload(fits=tmp_path)["points"] == []
    table = pd.DataFrame({
        "estimator": ["frontier", "frontier", "frontier", "joint"],
        "activation_ratio": 0.05, "granularity": [2.0, 4.0, 8.0, 2.0], "compute": 1e12,
        "efficiency_leverage": [1.5, 2.0, np.nan, 1.4], "low": 1.0, "high": 3.0,
        "variant": [np.nan, "shared", np.nan, np.nan], "held_out": False,
        "run_id": ["c0ffee decade", "facade", "bead", "c0ffee decade"],
    })  # fmt: skip
    table.to_csv(tmp_path / "leverage.csv", index=False)
    found = refit.payload(tmp_path, tmp_path)["points"]
    assert [p["EL"] for p in found] == [1.5, 2.0]
    assert [p["fitted"] for p in found] == [True, False]
    assert found[0]["runs"] == ["c0ffee", "decade"]
