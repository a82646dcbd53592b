"""The calculator as a reader has it: by keyboard, shared by address, on a phone, from a file."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from synthetic_fits import synthetic_fits

from moe_leverage.config import ModelConfig
from moe_leverage.design import huggingface
from moe_leverage.design.designer import explain
from moe_leverage.design.every_law import Asked, answer
from moe_leverage.design.prediction import predict
from moe_leverage.instruments import calculator, gallery
from moe_leverage.theory.forms import Layout
from moe_leverage.theory.laws import PUBLISHED
from moe_leverage.theory.leverage import efficiency_leverage
from moe_leverage.theory.printed import printed_laws

pytestmark = [pytest.mark.site, pytest.mark.slow]
PAGE, CHAPTER = "notebooks/tool-calculator.html", "notebooks/07-joint-law.html"
ROOT = "[data-calculator]"
RELATIVE = 1e-9
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# every field is typed into and announced as a reader's key strokes are; the table answers
EVALUATE = """(rows) => rows.map((row) => {
  const root = document.querySelector("[data-calculator]");
  for (const [key, value] of Object.entries(row)) {
    const input = root.querySelector(`input[name="${key}"]`);
    input.value = String(value);
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }
  const named = [...root.querySelectorAll("tbody tr")].map((tr) =>
    [tr.querySelector("th").textContent, [...tr.querySelectorAll("td")].map((td) => {
      const data = td.querySelector("data");
      return data && Number(data.value);
    })]);
  const problem = root.querySelector("[role=alert]").textContent;
  return Object.fromEntries([["problem", problem], ...named]);
})"""


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=WIDE)
    yield context
    context.close()


@pytest.fixture
def page(request: pytest.FixtureRequest, context: BrowserContext, address: str, site: Path) -> Page:
    """The calculator's page, over HTTP or, where a test asks for it, from the disk."""
    is_file = getattr(request, "param", "served") == "file"
    return opened(context, (site.as_uri() + "/" if is_file else address) + PAGE)


served_and_from_a_file = pytest.mark.parametrize("page", ["served", "file"], indirect=True)


def opened(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"{url}: {error}"))
    page.goto(url, wait_until="load")
    page.wait_for_selector(f"{ROOT} tbody tr")
    return page


def shown(page: Page, quantity: str, column: int = 0) -> float:
    return float(page.evaluate(EVALUATE, [{}])[0][quantity][column])


def said(page: Page) -> str:
    """All results in words, once the landscape is drawn: it waits for a frame."""
    frame = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    page.evaluate(frame)
    return page.locator(f"{ROOT} .ml-results").inner_text()


def at(page: Page, **values: float) -> dict[str, list[float]]:
    """The rows of the table with these fields typed in."""
    found: dict[str, list[float]] = page.evaluate(EVALUATE, [values])[0]
    return found


def focus(page: Page, name: str) -> None:
    """Press Tab until a control of the calculator has the focus."""
    for _ in range(200):
        if page.evaluate("() => document.activeElement.getAttribute('name')") == name:
            return
        page.keyboard.press("Tab")
    pytest.fail(f"{name}: not reached with Tab")


def type_over(page: Page, name: str, text: str) -> None:
    focus(page, name)
    page.keyboard.press("Control+a")
    page.keyboard.type(text)


@served_and_from_a_file
def test_the_form_computes_the_package_s_law_everywhere(page: Page) -> None:
    grid = list(
        itertools.product(
            [0.001, 0.0117, 0.0163, 0.031, 0.0462, 0.2, 0.999, 1.0],
            [0.25, 1.0, 2.0, 3.3, 6.0, 12.0, 16.0, 128.0],
            [1e10, 7.04e14, 1e18, 1.7e19, 3e20, 1e22, 1e27],
        )
    )
    low, high = np.log([0.001, 0.25, 1e10]), np.log([1, 128, 1e27])
    drawn = np.exp(np.random.default_rng(0).uniform(low, high, (60, 3)))
    grid += [tuple(map(float, row)) for row in np.clip(drawn, np.exp(low), np.exp(high))]
    assert len(grid) >= 500
    rows = page.evaluate(EVALUATE, [{"A": a, "G": g, "C": c} for a, g, c in grid])
    assert not any(row["problem"] for row in rows)
    a, g, c = np.array(grid).T
    law = PUBLISHED.joint
    leverage = efficiency_leverage(law, activation_ratio=a, granularity=g, compute=c)
    wanted = {
        "Efficiency leverage EL": leverage,
        "Dense compute of equal loss, FLOPs": leverage * c,
        "Dense of equal loss: M, forward FLOPs a token": PUBLISHED.dense_model(leverage * c),
        "Dense of equal loss: tokens D": PUBLISHED.dense_tokens(leverage * c),
        "Break-even compute, FLOPs": law.break_even_compute(a, g),
        "Granularity of highest EL": np.full(len(grid), law.optimum_granularity),
        "Learning rate, MoE": PUBLISHED.learning_rate(c),
        "Batch, MoE, tokens": PUBLISHED.batch_tokens(c),
        "MoE: tokens D": PUBLISHED.moe_tokens(c),
        "MoE: M, forward FLOPs a token": PUBLISHED.moe_model(c),
        "MoE: active parameters, at most M / 2": PUBLISHED.moe_model(c) / 2,
        "MoE: all parameters, at most M / 2A": PUBLISHED.moe_model(c) / (2 * a),
    }
    for name, values in wanted.items():
        if name.startswith("MoE"):  # a dense model has no split of a mixture
            values = np.where(a < 1, values, math.nan)
        cells = [(row.get(name) or [None])[0] for row in rows]
        got = np.array([math.nan if cell is None else cell for cell in cells], dtype=float)
        np.testing.assert_allclose(got, values, rtol=RELATIVE, err_msg=name)


def test_every_printed_law_answers_beside_the_paper(page: Page) -> None:
    at(page, A=0.031, G=12, C=1e22)
    rows = page.locator(f"{ROOT} .ml-others tbody tr")
    assert rows.count() == len(printed_laws())
    asked = Asked(layout=Layout(activation_ratio=0.031, granularity=12), compute=1e22)
    for i, law in enumerate(printed_laws()):
        wanted = answer(law, asked).value
        cell = rows.nth(i).locator("data")
        assert cell.count() == (wanted is not None)
        if wanted is not None:
            assert float(str(cell.get_attribute("value"))) == pytest.approx(wanted, rel=0.03)


@served_and_from_a_file
def test_a_design_is_entered_with_the_keyboard_alone(page: Page) -> None:
    type_over(page, "C", "3e20")
    type_over(page, "A", "5e-2")
    type_over(page, "G", "8")
    wanted = PUBLISHED.joint(activation_ratio=0.05, granularity=8, compute=3e20)
    assert shown(page, "Efficiency leverage EL") == pytest.approx(wanted, rel=RELATIVE)
    assert page.locator(f"{ROOT} .ml-headline").inner_text().startswith(f"EL = {wanted:.2f}")
    focus(page, "shaped")
    page.keyboard.press("Space")
    type_over(page, "num_layers", "20")
    assert "num_layers=20" in page.url
    assert shown(page, "This model: parameters, with vocabulary") > 1e9


def test_tokens_experts_and_widths_stand_for_the_axes(page: Page) -> None:
    for label, way in (("Training budget", "tokens"), ("Activation ratio", "experts")):
        page.get_by_label(f"{label} given as").select_option(way)
    page.get_by_label("Granularity given as").select_option("widths")
    row = at(page, D=1e11, num_experts=64, num_active_experts=2, num_shared_experts=1)
    row = at(page, d_model=1024, d_expert=512)
    compute = PUBLISHED.moe_tokens.compute_for(1e11)
    wanted = PUBLISHED.joint(activation_ratio=3 / 65, granularity=4, compute=compute)
    assert row["Efficiency leverage EL"][0] == pytest.approx(wanted, rel=RELATIVE)
    assert row["MoE: tokens D"][0] == pytest.approx(1e11, rel=RELATIVE)


def test_it_starts_from_every_example_and_every_model_of_the_gallery(page: Page) -> None:
    start = page.get_by_label("Start from")
    options = start.locator("option").all_inner_texts()[1:]
    examples = calculator.payload()["presets"]
    models = gallery.payload()["models"]
    assert options == [p["name"] for p in [*examples, *models]]
    for given in examples:
        start.select_option(label=given["name"])
        a, g, c = (given["axes"][key] for key in "AGC")
        wanted = PUBLISHED.joint(activation_ratio=a, granularity=g, compute=c)
        assert shown(page, "Efficiency leverage EL") == pytest.approx(wanted, rel=RELATIVE)
    for given in models:
        start.select_option(label=given["name"])
        assert page.locator(f"{ROOT} [role=alert]").inner_text() == ""
        if "counts" in given:
            assert shown(page, "parameters without vocabulary N") == given["counts"]["total"]
            continue
        model = explain(huggingface.load(given["name"]), tokens=given.get("D", 1e12))
        row = at(page)
        assert row["This model: parameters, with vocabulary"][0] == model.parameters["total"]
        if "D" in given:
            assert row["Efficiency leverage EL"][0] == pytest.approx(
                model.published.value, rel=RELATIVE
            )
            compute = row["training compute C, FLOPs"][0]
            assert compute == pytest.approx(model.compute, rel=RELATIVE)


def test_a_config_is_chosen_or_refused_and_the_last_answer_stays(
    page: Page, tmp_path: Path
) -> None:
    shape = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 512,
             "num_attention_heads": 4, "intermediate_size": 96}  # fmt: skip
    file = page.get_by_label("drop a config.json")
    problem = page.locator(f"{ROOT} [role=alert]")

    def choose(name: str, text: str) -> None:
        (tmp_path / name).write_text(text, encoding="utf-8")
        file.set_input_files(tmp_path / name)

    choose("config.json", json.dumps(shape))
    expect(page.locator(f"{ROOT} .ml-headline")).to_contain_text("by definition")
    total = at(page)["This model: parameters, with vocabulary"][0]
    assert total == huggingface.read(shape).anatomy.parameters.total
    for name, text, wanted in (
        ("notes.txt", "{", "notes.txt: not JSON"),
        ("list.json", "[]", "must be a JSON object"),
        ("other.json", json.dumps(shape | {"model_type": "jamba"}), "moe-leverage explain"),
        ("bad.json", json.dumps(shape | {"num_hidden_layers": -1}), "num_hidden_layers = -1"),
        ("own.json", json.dumps(shape | {"model_type": "constructor"}), "moe-leverage explain"),
        ("empty.json", "", "empty.json: not JSON"),
    ):
        choose(name, text)
        expect(problem).to_contain_text(wanted)
        assert "\n" not in problem.inner_text()
        assert at(page)["This model: parameters, with vocabulary"][0] == total
        row = at(page, vocab_size=512)  # typing on, the old answer counts again
        assert row["problem"] == ""


def test_sliders_go_beside_the_fields_and_reset_goes_back(page: Page) -> None:
    slider = page.get_by_label("Compute C, FLOPs, slider")
    slider.focus()
    before = float(page.locator("[name=C]").input_value())
    page.keyboard.press("ArrowRight")
    assert float(page.locator("[name=C]").input_value()) > before
    page.keyboard.press("End")
    assert page.locator("[name=C]").input_value() == "1e27"
    assert shown(page, "Learning rate, MoE") == pytest.approx(PUBLISHED.learning_rate(1e27))
    type_over(page, "C", "10^20")
    type_over(page, "A", "3.1 %")
    assert "C=100000000000000000000&A=0.031" in page.url
    page.get_by_role("button", name="Reset").press("Enter")
    assert page.locator("[name=C]").input_value() == "1e22"
    assert "#" not in page.url


def test_the_map_is_read_and_taken_by_keys_and_by_pointer(page: Page) -> None:
    said(page)
    frame = page.get_by_role("application")
    readout = page.locator(f"{ROOT} .ml-readout")
    frame.focus()
    page.keyboard.press("ArrowLeft")
    first = readout.inner_text()
    assert re.fullmatch(r"A = [\d.]+ %, G = [\d.]+: EL = .* to .*", first)
    page.keyboard.press("Shift+ArrowUp")
    assert readout.inner_text() != first
    page.keyboard.press("Enter")
    a, g = (float(page.locator(f"[name={key}]").input_value()) for key in "AG")
    wanted = PUBLISHED.joint(activation_ratio=a, granularity=g, compute=1e22)
    assert shown(page, "Efficiency leverage EL") == pytest.approx(wanted, rel=RELATIVE)
    assert f"A={a:g}" in page.url
    frame.scroll_into_view_if_needed()  # a pointer reaches what is on the screen alone
    box = frame.locator("svg").bounding_box()
    assert box is not None
    by_keys = readout.inner_text()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.2 * box["height"])
    expect(readout).not_to_have_text(by_keys)
    page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + 0.2 * box["height"])
    assert float(page.locator("[name=A]").input_value()) > 0.4


@served_and_from_a_file
def test_an_address_brings_the_design_back(page: Page, context: BrowserContext) -> None:
    page.get_by_label("Start from").select_option(label="Ling-mini-beta")
    at(page, num_layers=23)
    before = said(page)
    again = opened(context, page.url)
    assert said(again) == before
    assert again.url == page.url
    third = 1 / 3
    again.evaluate("(hash) => { location.hash = hash; }", f"C=1e21&A={third}&G=7")
    again.wait_for_function("() => document.querySelector('[name=G]').value === '7'")
    wanted = PUBLISHED.joint(activation_ratio=third, granularity=7, compute=1e21)
    assert shown(again, "Efficiency leverage EL") == pytest.approx(wanted, rel=RELATIVE)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("C=abc&A=0.05", "Compute C, FLOPs: not a number"),
        ("A=9", "must be from 0.001 to 1"),
        ("model=Nobody-7B&C=1e21", "asks for model = Nobody-7B: not in this build"),
        ("__proto__=5&C=1e21", ""),
        ("C=&A=0.05", ""),
    ],
)
def test_what_an_address_asks_in_vain_is_said(page: Page, asked: str, said: str) -> None:
    page.evaluate("(hash) => { location.hash = hash; }", asked)
    page.wait_for_function(
        "(said) => document.querySelector('[data-calculator] [role=alert]')"
        ".textContent.includes(said)",
        arg=said,
    )
    problem = page.locator(f"{ROOT} [role=alert]").inner_text()
    assert "\n" not in problem
    assert bool(problem) == bool(said)


def test_a_point_outside_the_law_s_range_is_warned_of(page: Page) -> None:
    status = page.locator(f"{ROOT} [role=status]")
    published = status.locator("p").first  # our own law, where there is one, has the next line
    at(page, A=0.05, G=8, C=1e20)
    assert published.inner_text() == "Published law: inside the range of its runs."
    at(page, A=0.005, G=20, C=1e23)
    assert "ml-outside" in str(published.get_attribute("class"))
    for said in ("extrapolated", "A =", "G =", "C =", "EL ="):
        assert said in published.inner_text()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"A": "1.2"}, "must be from"),
        ({"A": "many"}, "not a number"),
        ({"G": ""}, "not a number"),
        ({"C": "-1e20"}, "must be from"),
    ],
)
def test_a_wrong_input_is_named_and_keeps_the_last_answer(
    page: Page, values: dict[str, str], said: str
) -> None:
    before = shown(page, "Efficiency leverage EL")
    assert said in at(page, **values)["problem"]  # type: ignore[arg-type]
    name = next(iter(values))
    assert page.locator(f"{ROOT} input[name={name}]").get_attribute("aria-invalid") == "true"
    assert shown(page, "Efficiency leverage EL") == before


NONSENSE = ("", "many", "-1", "1e99", "0,5", "<b>", "NaN")
DIMMED = (
    f"""() => Number(getComputedStyle(document.querySelector("{ROOT} .ml-headline")).opacity)"""
)


def test_every_field_says_what_it_cannot_take_and_loses_nothing(page: Page) -> None:
    """However the axes are given, and for a whole model: one line, the old answer dimmed."""

    def refuses_nonsense() -> int:
        fields = page.locator(f"{ROOT} input[type=text]").filter(visible=True)
        names = fields.evaluate_all("all => all.map((field) => field.name)")
        before = page.locator(f"{ROOT} .ml-headline").inner_text()
        for name in names:
            field = page.locator(f"{ROOT} input[name={name}]")
            held = field.input_value()
            for text in NONSENSE:
                problem = str(at(page, **{name: text})["problem"])  # type: ignore[arg-type]
                assert problem, (name, text)
                assert "\n" not in problem
                assert field.get_attribute("aria-invalid") == "true", (name, text)
                assert page.locator(f"{ROOT} .ml-headline").inner_text() == before, (name, text)
                assert page.evaluate(DIMMED) < 0.5, (name, text)
            assert at(page, **{name: held})["problem"] == ""  # type: ignore[arg-type]
            assert page.evaluate(DIMMED) == 1
        return len(names)

    assert refuses_nonsense() == 3
    for label, way in (
        ("Training budget", "tokens"), ("Activation ratio", "experts"), ("Granularity", "widths"),
    ):  # fmt: skip
        page.get_by_label(f"{label} given as").select_option(way)
    assert refuses_nonsense() == 6
    page.get_by_label("Count a whole model").check()
    assert refuses_nonsense() > 10


def test_every_control_has_a_name_and_results_are_announced(page: Page) -> None:
    page.get_by_label("Count a whole model").check()
    nameless = page.locator(f"{ROOT} :is(input, select)").evaluate_all(
        "all => all.filter((c) => !c.labels.length && !c.ariaLabel).map((c) => c.id)"
    )
    assert nameless == []
    tree = json.dumps(page.locator(ROOT).aria_snapshot())
    for role in ("combobox", "textbox", "checkbox", "status", "table", "application", "form"):
        assert role in tree, role
    assert page.locator(f"{ROOT} .ml-headline").get_attribute("aria-live") == "polite"
    assert page.locator(f"{ROOT} [role=alert]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", [PAGE, CHAPTER])
def test_it_fits_a_phone_and_reads_in_either_theme(
    browser: Browser, address: str, path: str, scheme: str
) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme)
    page = opened(context, address + path)
    assert page.evaluate(OVERFLOW) <= 0
    box = page.locator(f"{ROOT} .ml-results").bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= PHONE["width"]
    pairs = page.evaluate(COLOURS)
    assert len(pairs) > 10
    assert min(contrast(*pair) for pair in pairs) >= 4.5
    context.close()


# colour of every text in the calculator and of what lies behind it
COLOURS = """() => [...document.querySelectorAll("[data-calculator] *")]
  .filter((e) => !e.closest("svg") && e.getClientRects().length
    && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .map((e) => {
    let back = e;
    while (getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)") back = back.parentElement;
    return [getComputedStyle(e).color, getComputedStyle(back).backgroundColor];
  })"""


def contrast(text: str, behind: str) -> float:
    """The WCAG contrast ratio of two colours as the browser writes them."""
    bright, dark = sorted((luminance(text), luminance(behind)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [float(c) / 255 for c in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_our_own_fit_stands_beside_with_its_interval(
    context: BrowserContext, address: str, tmp_path: Path
) -> None:
    joint, tokens = synthetic_fits(tmp_path, resamples=calculator.NUM_SAMPLES)
    script = calculator.script(tmp_path)
    context.route("**/leverage-data.js", lambda route: route.fulfill(body=script))
    page = opened(context, address + PAGE)
    point = {"activation_ratio": 0.05, "granularity": 4.0, "compute": 1e12}
    row = at(page, A=0.05, G=4, C=1e12)
    wanted = [PUBLISHED.joint(**point), joint.law(**point)]
    assert row["Efficiency leverage EL"] == pytest.approx(wanted, rel=RELATIVE)
    assert row["MoE: tokens D"][2] == pytest.approx(tokens.law(1e12), rel=RELATIVE)
    assert row["Learning rate, MoE"][1] is None  # no fit of it: a dash
    cell = page.locator(f"{ROOT} tbody tr").first.locator("data").nth(1)
    ends = [float(str(cell.get_attribute(f"data-{end}"))) for end in ("low", "high")]
    np.testing.assert_allclose(ends, joint.predict(point).confidence[0], rtol=1e-3)
    status = page.locator(f"{ROOT} [role=status]").inner_text()
    assert "Published law: extrapolated" in status
    assert "Measured law: inside" in status
    assert "Our own law says" in page.locator(f"{ROOT} .ml-headline").inner_text()
    page.get_by_label("Landscape by the").select_option("measured")
    assert "EL < 1" in page.locator(".ml-key").inner_text()
    at(page, C=1e13)
    assert "Our own law, extrapolated, says" in page.locator(f"{ROOT} .ml-headline").inner_text()
    assert at(page, C=1e22)["Efficiency leverage EL"][1] is None
    assert (
        "Our own law says nothing at this scale"
        in page.locator(f"{ROOT} .ml-headline").inner_text()
    )
    assert (
        "Measured law: not at this scale: C =" in page.locator(f"{ROOT} [role=status]").inner_text()
    )
    assert page.locator(f"{ROOT} tbody tr").first.locator("td").nth(1).inner_text() == (
        "not at this scale"
    )
    said(page)  # the landscape waits for a frame
    landscape = page.locator(f"{ROOT} .ml-landscape").inner_text()
    assert "Our own law says nothing: not at this scale." in landscape


def test_the_published_value_has_the_reach_of_its_rounding(page: Page) -> None:
    at(page, A=0.031, G=12, C=1e22)
    point = {"activation_ratio": 0.031, "granularity": 12, "compute": 1e22}
    cell = page.locator(f"{ROOT} tbody tr").first.locator("data").first
    ends = [float(str(cell.get_attribute(f"data-{end}"))) for end in ("low", "high")]
    assert ends == pytest.approx(predict(**point).published.rounding_range, rel=RELATIVE)
    assert "rounding of Table 2" in page.locator(f"{ROOT} [role=status]").inner_text()


def test_all_experts_active_is_a_dense_model(page: Page) -> None:
    row = at(page, A=1, G=12, C=1e22)
    assert set(row["Efficiency leverage EL"]) == {1}
    assert (
        page.locator(f"{ROOT} .ml-headline").inner_text() == "A dense model: EL = 1 by definition."
    )


def test_a_dense_shape_has_leverage_one(page: Page) -> None:
    page.get_by_label("Count a whole model").check()
    row = at(page, num_experts=0, num_active_experts=0, num_shared_experts=0, d_ffn=4096)
    assert set(row["Efficiency leverage EL"]) == {1}
    assert "by definition" in page.locator(f"{ROOT} .ml-headline").inner_text()


def test_a_shape_s_budget_may_be_compute(page: Page) -> None:
    page.get_by_label("Start from").select_option(label="Ling-mini-beta")
    page.get_by_label("Training budget given as").select_option("compute")
    model: ModelConfig = huggingface.load("Ling-mini-beta").model
    row = at(page, C=1e22)
    found = explain(huggingface.load("Ling-mini-beta"), compute=1e22)
    assert row["training tokens D"][0] == pytest.approx(found.tokens, rel=RELATIVE)
    dense = row["Equal-loss dense model on the same D: M, FLOPs a token"][0]
    assert dense == pytest.approx(found.dense_equivalent.flops_per_token, rel=RELATIVE)
    assert model.num_layers == 20


def test_the_chapter_s_small_one_leads_to_the_page(context: BrowserContext, address: str) -> None:
    page = opened(context, address + CHAPTER)
    assert page.locator(ROOT).count() == 1
    row = at(page, A=0.1, G=2, C=1e21)
    wanted = PUBLISHED.joint(activation_ratio=0.1, granularity=2, compute=1e21)
    assert row["Efficiency leverage EL"][0] == pytest.approx(wanted, rel=RELATIVE)
    assert "#" not in page.url
    page.get_by_role("link", name="Open in the calculator").press("Enter")
    page.wait_for_url(f"**/{PAGE}#*")
    assert shown(page, "Efficiency leverage EL") == pytest.approx(wanted, rel=RELATIVE)


def test_a_table_stands_in_without_scripts(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + PAGE)
    assert page.locator("#tab-leverage-grid tbody tr").count() >= 7
    assert page.locator(f"{ROOT} noscript p").is_visible()
    context.close()
