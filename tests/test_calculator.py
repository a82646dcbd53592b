"""The page's JavaScript gives the package's numbers to a relative 1e-9, edges included.

Node runs the very file that the site ships; the browser tests drive the form itself.
"""

import gzip
import itertools
import json
import shutil
import subprocess

import numpy as np
import pytest
from synthetic_fits import synthetic_fits

from moe_leverage import paths
from moe_leverage.accounting import count_forward_flops, count_parameters
from moe_leverage.analysis.bootstrap import central_interval
from moe_leverage.config import ModelConfig
from moe_leverage.design import huggingface
from moe_leverage.instruments import calculator
from moe_leverage.theory.laws import PUBLISHED

SCRIPT = paths.DATA.parent / "book" / "_static" / "leverage.js"
LIMIT_BYTES = 15_000  # as a server sends it, compressed; so the layout of the scripts is free
RELATIVE = 1e-9

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")


def in_javascript(expression: str, values: object) -> list:
    """The value of a JavaScript expression in `ml` (the page's functions) and `values`."""
    program = f"""
        globalThis.window = globalThis;
        {calculator.script()}
        {SCRIPT.read_text()}
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
        "values.map(([A, G, C]) => [ml.leverage(law, A, G, C), "
        "ml.breakEvenCompute(law, A, G), ml.optimumGranularity(law), "
        "ml.powerLaw(laws.learning_rate, C), ml.computeFor(laws.moe_tokens, C)])",
        points,
    )
    a, g, c = np.array(points).T
    law = PUBLISHED.joint
    wanted = np.stack(
        [
            law(activation_ratio=a, granularity=g, compute=c),
            law.break_even_compute(a, g),
            np.full(len(points), law.optimum_granularity),
            PUBLISHED.learning_rate(c),
            PUBLISHED.moe_tokens.compute_for(c),
        ],
        axis=1,
    )
    got = np.array(got, dtype=float)  # null, JSON's NaN, becomes NaN
    np.testing.assert_allclose(got, wanted, rtol=RELATIVE)


def test_counts_of_shapes_are_equal_up_to_the_norms_inside_attention():
    models = {name: huggingface.load(name).model for name in huggingface.names()}
    shapes = {name: m for name, m in models.items() if calculator._is_counted_by_the_page(m)}
    assert len(shapes) >= 8
    fields = [{f: getattr(m, f) for f in calculator.SHAPE_FIELDS} for m in shapes.values()]
    got = in_javascript("values.map((m) => ml.count(m, 4096))", fields)
    for model, counted in zip(shapes.values(), got, strict=True):
        wanted = count_parameters(model)
        inner = extras_of_attention(model)
        assert counted["total"] == wanted.non_vocabulary - inner
        assert counted["active"] == wanted.active_non_vocabulary - inner
        assert counted["flopsPerToken"] == count_forward_flops(model, 4096).total
        assert counted["nonEmbedding"] == count_forward_flops(model, 4096).non_embedding


def extras_of_attention(model: ModelConfig) -> int:
    """Gains, biases and sinks of attention, which the page's shape does not ask for."""
    heads = model.num_heads + model.num_kv_heads
    norms = {"none": 0, "head": 2 * model.d_head, "width": model.d_head * heads}[model.qk_norm]
    biases = model.attention_bias * model.d_head * (heads + model.num_kv_heads)
    output = model.attention_output_bias * model.d_model
    sinks = model.attention_sinks * model.num_heads
    router = model.router_bias * model.num_experts * model.num_moe_layers
    return model.num_layers * (norms + biases + output + sinks) + router


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


def test_our_own_fits_stand_beside_the_published_ones(tmp_path):
    joint, tokens = synthetic_fits(tmp_path)
    side = calculator.payload(tmp_path)["measured"]
    assert list(side["law"].values()) == list(joint.law.coefficients)
    assert set(side["laws"]) == {"moe_tokens", "batch_tokens"}
    assert side["laws"]["moe_tokens"]["exponent"] == tokens.law.exponent
    assert side["domain"]["compute"] == [1e11, 3e12]
    drawn = joint.law.from_theta(joint.samples)
    np.testing.assert_allclose(side["samples"], drawn[: len(side["samples"])], rtol=1e-4)


def test_presets_agree_with_the_package_and_scripts_stay_small():
    payload = calculator.payload()
    names = [preset["name"] for preset in payload["presets"]]
    assert {"Ling-mini-2.0", "DeepSeek-V3", "Ling-mini-beta"} <= set(names)
    for preset in payload["presets"]:
        assert ("axes" in preset) != ("shape" in preset)


def test_the_calculator_stays_small_even_with_samples(tmp_path):
    synthetic_fits(tmp_path, resamples=calculator.NUM_SAMPLES)
    scripts = [(SCRIPT.parent / name).read_bytes() for name in ("leverage.js", "calculator.js")]
    data = max(calculator.script(tmp_path), calculator.script(), key=len).encode()
    assert sum(len(gzip.compress(part)) for part in (*scripts, data)) < LIMIT_BYTES
