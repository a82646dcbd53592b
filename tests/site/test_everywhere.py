"""Each instrument by keyboard and by mouse, wide and narrow, light and dark.

What an instrument answers is tested in a file of its own; here it has to answer everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from moe_leverage.theory.laws import PUBLISHED

pytestmark = [pytest.mark.site, pytest.mark.slow]
SIZES = {1280: {"width": 1280, "height": 900}, 390: {"width": 390, "height": 844}}
PLACES = list(itertools.product(SIZES, ("light", "dark")))
CALCULATOR, EXPLORER = "notebooks/tool-calculator.html", "notebooks/tool-explorer.html"
SWEPT = {"04-activation-ratio": "A", "05-granularity": "G"}
ROUTER, CLAIMS = "notebooks/tool-router.html", "notebooks/claims.html"
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
CSV = "kind,A,G,FLOPs,val_loss\n" + "\n".join(
    f"{kind},{ratio},{grain},{compute:g},{30 * (compute * gain) ** -0.055}"
    for compute in (1e18, 1e19, 1e20, 1e21)
    for kind, ratio, grain, gain in (("dense", 1, "", 1.0), ("moe", 0.05, 4, 2.5))
)
expect.set_options(timeout=30_000)


@pytest.fixture(params=PLACES, ids=[f"{width}-{theme}" for width, theme in PLACES])
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    width, theme = request.param
    context = browser.new_context(
        viewport=SIZES[width], color_scheme=theme, reduced_motion="reduce", has_touch=width == 390
    )
    page = context.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    yield page
    assert page.evaluate(OVERFLOW) <= 0
    assert trouble == []
    context.close()


def changes(answer: Locator, act: Callable[[], object]) -> None:
    """What is said changes with an act, and says something before and after."""
    expect(answer).not_to_have_text("")
    before = answer.inner_text()
    act()
    expect(answer).not_to_have_text(before)
    expect(answer).not_to_have_text("")


def click_at(page: Page, target: Locator, across: float) -> None:
    """A click of the mouse at a part of the width of something."""
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + across * box["width"], box["y"] + box["height"] / 2)


def test_the_calculator(page: Page, address: str) -> None:
    page.goto(address + CALCULATOR)
    headline = page.locator("[data-calculator] .ml-headline")
    slider = page.get_by_label("Compute C, FLOPs, slider")
    slider.focus()
    changes(headline, lambda: page.keyboard.press("PageDown"))
    changes(headline, lambda: click_at(page, slider, 0.9))
    field = page.locator("[data-calculator] [name=A]")
    field.click()
    page.keyboard.press("ControlOrMeta+a")
    changes(headline, lambda: page.keyboard.type("20 %"))
    changes(headline, page.get_by_role("button", name="Reset").click)


def test_a_table_of_runs(page: Page, address: str) -> None:
    page.goto(address + CALCULATOR)
    field = page.locator("[data-your-table] input[type=file]")
    expect(field).to_be_visible()
    said = page.locator("[data-your-table] .ml-headline")
    for way in (lambda: field.press("Enter"), field.click):
        with page.expect_file_chooser(timeout=90_000) as chooser:
            way()
        name = "keys.csv" if said.inner_text() == "" else "mouse.csv"
        chooser.value.set_files({"name": name, "mimeType": "text/csv", "buffer": CSV.encode()})
        expect(said).to_contain_text("save a factor of")
        expect(page.locator("[data-your-table] .ml-map-text")).to_contain_text(name)


def test_the_explorer(page: Page, address: str) -> None:
    page.goto(address + EXPLORER)
    said = page.locator("[data-explorer] [role=status]").first
    changes(said, lambda: page.get_by_role("button", name="Show all runs").press("Enter"))
    page.locator("#explorer-family").focus()
    changes(said, lambda: page.keyboard.press("ArrowDown"))
    panel = page.locator(".ml-panel")
    first = page.locator("[data-explorer] tbody a").first
    first.focus()
    page.keyboard.press("Enter")
    expect(panel.locator("h3")).to_be_focused()
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    first.click()
    expect(panel.locator("h3")).to_be_visible()
    panel.get_by_role("button", name="Close").click()
    expect(panel).to_be_hidden()


def test_the_refit(page: Page, address: str) -> None:
    page.goto(address + EXPLORER)
    said = page.locator("[data-refit] .ml-said")
    expect(said).to_contain_text("Fitted to")
    box = page.locator("[data-refit] fieldset input[type=checkbox]").first
    box.focus()
    changes(said, lambda: page.keyboard.press("Space"))
    changes(said, box.click)


def test_the_microscope(page: Page, address: str) -> None:
    page.goto(address + ROUTER)
    state, slider = page.locator("[data-router] > output"), page.get_by_label("Step of training")
    slider.focus()
    changes(state, lambda: page.keyboard.press("Home"))
    changes(state, lambda: page.keyboard.press("ArrowRight"))
    changes(state, lambda: click_at(page, slider, 0.7))


@pytest.mark.parametrize(("chapter", "swept"), SWEPT.items())
def test_the_sliders_of_a_law(page: Page, address: str, chapter: str, swept: str) -> None:
    """A slider of each of the other two axes, and what is read out is the package's law."""
    page.goto(f"{address}notebooks/{chapter}.html")
    root = page.locator(f"[data-sweep={swept}]")
    said, curve = root.locator("[role=status]"), root.locator("path.ml-curve").first
    for slider in root.get_by_role("slider").all():
        slider.focus()
        drawn = curve.get_attribute("d")
        changes(said, lambda: page.keyboard.press("ArrowRight"))
        expect(curve).not_to_have_attribute("d", drawn or "")
        changes(said, lambda here=slider: click_at(page, here, 0.3))
    root.get_by_role("slider", name="training compute C").press("Home")
    expect(said).to_contain_text("No model of the paper lies there")
    page.reload()
    expect(said).to_contain_text("EL = ")
    wanted = {"A": {"activation_ratio": 0.031, "granularity": 2.0}}
    wanted["G"] = {"activation_ratio": 3 / 65, "granularity": 8.0}
    value = PUBLISHED.joint(**wanted[swept], compute=1e20)
    told = f"{value:.2f} at {swept} = {'3.1 %' if swept == 'A' else '8'}"
    expect(said).to_contain_text(told)


def test_the_filter_of_the_claims(page: Page, address: str) -> None:
    page.goto(address + CLAIMS)
    bar = page.locator(".table-filter")
    said = bar.locator("output")
    menu = bar.locator("select").first
    menu.focus()
    changes(said, lambda: page.keyboard.type("discrepant"))
    page.keyboard.press("Enter")
    bar.locator("input").click()
    changes(said, lambda: page.keyboard.type("granularity"))
