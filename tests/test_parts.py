"""What all interactive pages share: numbers as readers write them, and the state in the address."""

import json
import shutil
import subprocess
from decimal import Decimal

import numpy as np
import pytest

from moe_leverage import paths

STATIC = paths.DATA.parent / "book" / "_static"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")


def in_javascript(program: str, values: object, *scripts: str) -> object:
    """What a function body returns, given `ml` (the page's functions) and `values`."""
    text = f"""
        globalThis.window = globalThis;
        globalThis.document = {{ addEventListener() {{}} }};
        globalThis.location = {{ href: "file:///page.html", hash: "" }};
        globalThis.went = [];
        const go = (how) => (_, __, to) => {{
          went.push(how);
          location.href = to;
          location.hash = to.includes("#") ? to.slice(to.indexOf("#")) : "";
        }};
        globalThis.history = {{ pushState: go("push"), replaceState: go("replace") }};
        {"".join((STATIC / name).read_text() for name in ("parts.js", *scripts))}
        const ml = window.moeLeverage;
        const values = JSON.parse(require("fs").readFileSync(0, "utf8"));
        process.stdout.write(JSON.stringify((() => {{ {program} }})()));
    """
    done = subprocess.run(
        ["node", "-e", text], input=json.dumps(values), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


WRITTEN = {
    "1e22": "1e22", "1E22": "1e22", "10^22": "1e22", "10²²": "1e22", "3.2 × 10^21": "3.2e21",
    "3.2×10²¹": "3.2e21", "3.2*10^21": "3.2e21", "5 x 10⁻⁴": "5e-4", "12,000": "12000",
    "1,234,567.5": "1234567.5", "12 T": "12e12", "12T tokens": "12e12", "1.5B": "1.5e9",
    "20 M": "20e6", "4k": "4000", "3.1%": "0.031", "3.1 %": "0.031", "0.031": "0.031",
    ".5": "0.5", "-1e20": "-1e20", "−3": "-3", "1_000": "1000", "1e20 FLOPs": "1e20", "7.": "7",
}  # fmt: skip
NONSENSE = ("", "many", "1e", "0,031", "1,23", "12,00", "1.2.3", "e5", "10^", "%", "1 T T", "0x10",
            "Infinity", "NaN", "1e5e5", "12 Q", "١٢")  # fmt: skip


def test_numbers_are_read_as_readers_write_them():
    found = in_javascript("return values.map(ml.parts.parse)", list(WRITTEN))
    for (text, wanted), value in zip(WRITTEN.items(), found, strict=True):
        assert value == float(Decimal(wanted)), text


def test_what_is_no_number_is_none_and_a_comma_is_no_point():
    found = in_javascript("return values.map(ml.parts.parse)", list(NONSENSE))
    assert found == [None] * len(NONSENSE)  # JSON has no NaN


def test_each_instrument_keeps_its_own_part_of_the_address():
    program = """
        const { remember, address } = ml.parts;
        remember(["x", "run"], { x: "loss", run: "c0ffee" }, true);
        remember(["keep"], { keep: "a b", other: 1 });
        const both = address();
        remember(["x", "run"], { x: "", run: undefined });
        const one = location.hash;
        remember(["keep"], {});
        return [both, one, location.href, went];
    """
    both, one, href, went = in_javascript(program, None)
    assert both == {"x": "loss", "run": "c0ffee", "keep": "a b"}
    assert one == "#keep=a+b"
    assert href == "file:///page.html"
    numbers = "remember(['C', 'A'], { C: 1e22, A: 2e-3 }); return [location.hash, address()];"
    shared, read = in_javascript(f"const {{ remember, address }} = ml.parts; {numbers}", None)
    assert (shared, read) == ("#C=1e22&A=0.002", {"C": "1e22", "A": "0.002"})
    assert went == ["push", "replace", "replace", "replace"]


def test_the_address_of_a_section_is_no_state():
    program = (
        'location.hash = "#how-sure"; ml.parts.remember(["x"], { x: 1 }); return location.hash'
    )
    assert in_javascript(program, None) == "#x=1"


@pytest.mark.parametrize("is_log", [False, True])
def test_a_scale_holds_its_values_and_has_ticks_in_order(is_log):
    generator = np.random.default_rng(0)
    batches = [generator.uniform(-20, 25, generator.integers(1, 8)) for _ in range(200)]
    if is_log:
        batches = [10**batch for batch in batches]
    given = [[sorted(batch.tolist()), is_log] for batch in batches]
    found = in_javascript(
        """return values.map(([batch, log]) => {
          const { place, ticks } = ml.parts.scale(batch, [0, 100], log);
          return [batch.map(place), ticks, ticks.map(place)];
        })""",
        given,
    )
    for places, ticks, at in found:
        assert all(0 <= place <= 100 for place in places)
        assert places == sorted(places)
        assert all(-1e-6 <= place <= 100 + 1e-6 for place in at)
        assert ticks == sorted(set(ticks))
        assert len(ticks) <= 50  # one for each decade
