"""The calculator page gives the printed laws' answers as the package does, to its digits."""

import gzip
import json
import shutil
import subprocess

import numpy as np
import pytest

from moe_leverage import paths
from moe_leverage.design.every_law import Asked, answer
from moe_leverage.instruments import calculator, printed_laws
from moe_leverage.theory.forms import Layout
from moe_leverage.theory.printed import find_law
from moe_leverage.theory.printed import printed_laws as all_laws

STATIC = paths.DATA.parent / "book" / "_static"
LIMIT_BYTES = 24_000  # as a server sends it, compressed
WITHIN = 0.03  # of EL, by interpolation; the page shows two digits
FAR = 30.0  # EL from which a law leaves all sense, and the table its accuracy

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")


@pytest.fixture(scope="module")
def script() -> str:
    return printed_laws.script()


def said(script: str, points: list[dict]) -> list[list[dict]]:
    program = f"""
        globalThis.window = globalThis;
        globalThis.document = {{ addEventListener() {{}} }};
        {calculator.script()}
        {script}
        {(STATIC / "printed_laws.js").read_text()}
        const ml = window.moeLeverage;
        const values = JSON.parse(require("fs").readFileSync(0, "utf8"));
        const all = values.map((p) => ml.printedLaws.map((law) => ml.printed.law(law, p)));
        process.stdout.write(JSON.stringify(all));
    """
    done = subprocess.run(
        ["node", "-e", program],
        input=json.dumps(points),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_the_page_answers_as_the_package_does(script):
    rng = np.random.default_rng(0)
    points = [
        {"A": float(a), "G": float(g), "C": float(c), "counted": size and {"active": float(size)}}
        for a, g, c, size in zip(
            np.exp(rng.uniform(np.log(0.01), np.log(0.9), 60)),
            np.exp(rng.uniform(np.log(0.5), np.log(32), 60)),
            np.exp(rng.uniform(np.log(1e17), np.log(1e25), 60)),
            [*np.geomspace(1e7, 1e12, 30), *[None] * 30],
            strict=True,
        )
    ]
    laws = [law for law in all_laws() if law.id != "tian-2025"]
    num_compared = 0
    for point, found in zip(points, said(script, points), strict=True):
        size = point["counted"] and point["counted"]["active"]
        asked = Asked(
            layout=Layout(activation_ratio=point["A"], granularity=point["G"]),
            compute=point["C"],
            active_params=size,
        )
        for law, got in zip(laws, found, strict=True):
            wanted = answer(law, asked)
            if wanted.value is None or got["value"] is None or wanted.value > FAR:
                continue
            assert got["value"] == pytest.approx(wanted.value, rel=WITHIN), (law.id, point)
            assert got["in_domain"] == wanted.in_domain, (law.id, point)
            num_compared += 1
    assert num_compared > 300


def test_a_silent_law_says_why_and_a_dense_model_has_leverage_one(script):
    sparse, dense = said(script, [{"A": 0.1, "G": 2, "C": 1e20}, {"A": 1, "G": 2, "C": 1e20}])
    by_law = dict(zip([law.id for law in all_laws()][1:], sparse, strict=True))
    assert by_law["zhao-2025"]["reason"] == find_law("zhao-2025").missing
    assert {entry["value"] for entry in dense} == {1, None}


def test_the_tables_are_light(script):
    parts = (script.encode(), (STATIC / "printed_laws.js").read_bytes())
    assert sum(len(gzip.compress(part)) for part in parts) < LIMIT_BYTES
