"""The router microscope as a reader has it: stepped by keys, played, on a phone, from a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from moe_leverage.instruments import recording

pytestmark = [pytest.mark.site, pytest.mark.slow]
PAGE = "notebooks/tool-router.html"
ROOT = "[data-router]"
SHOWN = ("loss", "bias", "none")  # where the address asks for nothing
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture
def page(
    request: pytest.FixtureRequest, browser: Browser, address: str, site: Path
) -> Iterator[Page]:
    """The microscope's page, wide and light, or as a test's parameter (place, scheme) says."""
    place, scheme = getattr(request, "param", ("served", "light"))
    context = browser.new_context(viewport=WIDE, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto((address if place == "served" else site.as_uri() + "/") + PAGE, wait_until="load")
    page.wait_for_selector(f"{ROOT} tbody tr")
    yield page
    assert trouble == []
    context.close()


@pytest.fixture(scope="module")
def trace() -> dict:
    return recording.load()


@pytest.mark.parametrize(
    "page", [("served", "light"), ("file", "dark")], indirect=True, ids=["served", "file"]
)
def test_every_step_shows_what_was_recorded(page: Page, trace: dict) -> None:
    slider, state = page.get_by_label("Step of training"), page.locator(f"{ROOT} > output")
    slider.focus()
    page.keyboard.press("Home")
    page.get_by_label("Layer of charts and text").select_option("1")
    for frame in (0, 1, 2):
        assert state.inner_text().startswith(f"After {trace['steps'][frame]} of")
        require_frame(page, trace, frame, layer=0)
        slider.focus()
        page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    require_frame(page, trace, len(trace["steps"]) - 1, layer=0)


def require_frame(page: Page, trace: dict, frame: int, layer: int) -> None:
    """Numbers, idle experts, choices and biases on the page are those of the recording."""
    rows = page.locator(f"{ROOT} tbody tr")
    texts = page.locator(f"{ROOT} .ml-text")
    methods = [trace["methods"][name] for name in SHOWN]
    maps = page.locator(f"{ROOT} .ml-grid").filter(visible=True)
    assert maps.count() == 1 + len(methods)  # the biases have a map of their own
    for i, method in enumerate(methods):
        cells = rows.nth(i).locator("td").all_inner_texts()
        assert float(cells[0]) == pytest.approx(method["loss_nats"][frame], abs=6e-4)
        assert float(cells[1]) == pytest.approx(method["entropy"][frame][layer], abs=6e-4)
        assert int(cells[3]) == method["idle_experts"][frame][layer]
        numbers = texts.nth(i).locator(".ml-number").all_inner_texts()
        shown = [int(number) for pair in numbers for number in pair.split()]
        assert shown == [int(digit, 36) for digit in method["text"][frame][layer]]
    idle = sum(sum(method["idle_experts"][frame]) for method in methods)
    assert page.locator(f"{ROOT} .ml-idle").filter(visible=True).count() == idle


def test_playing_runs_to_the_end_and_can_be_paused(page: Page, trace: dict) -> None:
    page.get_by_role("button", name="Play").press("Enter")
    begun = re.compile(rf"^After (?!0 |{trace['steps'][-1]} )")  # past the first, before the last
    expect(page.locator(f"{ROOT} > output")).to_have_text(begun)
    assert page.locator(f"{ROOT} > output").get_attribute("aria-live") == "off"
    page.get_by_role("button", name="Pause").press("Enter")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert page.locator(f"{ROOT} > output").get_attribute("aria-live") == "polite"
    last = str(len(trace["steps"]) - 2)
    page.get_by_label("Step of training").fill(last)
    page.get_by_role("button", name="Play").press("Enter")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert page.get_by_label("Step of training").input_value() == str(len(trace["steps"]) - 1)


def test_a_square_says_its_value_and_the_address_keeps_the_place(page: Page, trace: dict) -> None:
    squares = page.locator(f"{ROOT} .ml-squares").first
    value = page.locator(f"{ROOT} .ml-value").first
    squares.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    counts = trace["methods"]["loss"]["counts"][-1][1]
    expect(value).to_contain_text(f"Layer 2, expert 1: {counts[1] * len(counts) / sum(counts):.2f}")
    page.locator(f"{ROOT} .ml-squares rect").nth(4).hover()
    expect(value).to_contain_text("Layer 1, expert 4:")
    page.get_by_label("Step of training").fill("3")
    page.get_by_label("Layer of charts and text").select_option("0")
    assert page.url.endswith(f"#step={trace['steps'][3]}&layer=1")
    page.evaluate("() => { location.hash = '#step=10&layer=2'; }")
    expect(page.locator(f"{ROOT} > output")).to_contain_text("After 10 of")
    expect(page.locator(f"{ROOT} > output")).to_contain_text("layer 2")


def test_two_ways_of_balancing_lie_beside_each_other_and_in_the_address(
    page: Page, trace: dict
) -> None:
    """The second ladder's recipe beside its weakened one, as chapters 04 and 05 link them."""
    page.evaluate("() => { location.hash = '#step=600&beside=strong,weak'; }")
    rows = page.locator(f"{ROOT} tbody tr")
    expect(rows).to_have_count(2)
    strong, weak = (trace["methods"][name] for name in ("strong", "weak"))
    busiest = [float(row.locator("td").nth(2).inner_text()) for row in rows.all()]
    wanted = [
        max_over_mean[-1][-1] for max_over_mean in (strong["max_over_mean"], weak["max_over_mean"])
    ]
    assert busiest == pytest.approx(wanted, rel=0.01)
    assert rows.first.locator("th").inner_text() == "strong balance loss, 0.1"
    panels = page.locator(f"{ROOT} .ml-panels section").filter(visible=True)
    assert panels.evaluate_all("all => all.map((s) => s.className)") == [
        *("ml-strong", "ml-weak"), *("ml-strong", "ml-weak"),
    ]  # fmt: skip
    box = page.get_by_role("checkbox", name="weak balance loss")
    box.focus()
    page.keyboard.press("Space")
    expect(rows).to_have_count(1)
    assert page.url.endswith("#beside=strong")
    page.get_by_role("checkbox", name="strong balance loss").click()  # the last one stays
    expect(rows).to_have_count(1)
    said = page.locator(f"{ROOT} > output")
    page.evaluate("() => { location.hash = '#beside=nonsense'; }")
    expect(rows).to_have_count(len(SHOWN))
    expect(said).to_contain_text("asks for beside = nonsense: not in this build, and left aside.")
    page.evaluate("() => { location.hash = '#step=many&layer=9'; }")
    expect(said).to_contain_text("asks for step = many, layer = 9: not in this build")
    page.evaluate("() => { location.hash = '#step=10&layer=2'; }")
    expect(said).not_to_contain_text("left aside")


def test_chapters_lead_to_their_pair(site: Path) -> None:
    for chapter in ("04-activation-ratio", "05-granularity"):
        text = (site / "notebooks" / f"{chapter}.html").read_text(encoding="utf-8")
        assert 'href="tool-router.html#beside=strong,weak"' in text, chapter


def test_everything_drawn_says_what_it_shows(page: Page) -> None:
    drawings = page.locator(f"{ROOT} svg").filter(visible=True)
    labels = drawings.evaluate_all("all => all.map((s) => s.ariaLabel)")
    assert len(labels) == 4 + 4
    assert all(any(c.isdigit() for c in label) or "bias" in label for label in labels)
    slider = page.get_by_label("Step of training")
    assert "step" in str(slider.get_attribute("aria-valuetext"))


@pytest.mark.parametrize("page", [("served", "light"), ("served", "dark")], indirect=True)
def test_it_fits_a_phone(page: Page) -> None:
    page.set_viewport_size(PHONE)
    assert page.evaluate(OVERFLOW) <= 0
    box = page.locator(ROOT).bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= PHONE["width"]


def test_the_figure_stands_in_without_scripts(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + PAGE)
    assert page.locator("svg[data-figure=router-balance]").filter(visible=True).count() == 1
    assert page.locator(f"{ROOT} noscript p").is_visible()
    context.close()
