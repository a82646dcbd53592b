"""Cards: a symbol, a word and a plotted run say what they are, to pointer, keyboard and finger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import browser as browsing
import pytest
from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.site, pytest.mark.slow]
CHAPTER = "notebooks/07-joint-law.html"
CARD = ".ml-card"
SMALLEST_EM_PIXELS = 16
EQUATIONS = """() => [...document.querySelectorAll("div.math")].map((frame) => {
  const svg = frame.querySelector("svg");
  const place = (left) => {
    frame.scrollTo({ left, behavior: "instant" });
    return [svg.getBoundingClientRect(), frame.getBoundingClientRect()];
  };
  const [[first, a], [last, b]] = [place(0), place(frame.scrollWidth)];
  const em = (1000 * first.width) / svg.viewBox.baseVal.width;
  return [em, first.left >= a.left - 1, last.right <= b.right + 1];
})"""
SYMBOL = "article a.symbol >> nth=0"
RUNS = "svg.ml-figure:visible a[href*='#run=']"


@pytest.fixture(params=[1280, 390])
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": request.param, "height": 844}, has_touch=request.param < 600
    )
    yield browsing.opened(context.new_page(), address + CHAPTER)
    context.close()


def test_a_symbol_has_a_card_on_hover_and_focus_and_it_can_be_dismissed(page: Page) -> None:
    link = page.locator(SYMBOL)
    link.hover()
    assert "(" in page.locator(CARD).inner_text()  # the meaning with its place
    assert link.get_attribute("aria-describedby") == "ml-card"
    page.keyboard.press("Escape")
    assert page.locator(CARD).count() == 0
    link.focus()
    page.wait_for_selector(CARD)
    box = page.locator(CARD).bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= page.viewport_size["width"]  # type: ignore[index]


def test_a_point_has_a_card_and_arrows_lead_to_the_next(page: Page) -> None:
    first = page.locator(f"{RUNS}[tabindex='0']").first
    name = str(first.get_attribute("href")).split("#run=")[1]
    first.focus()
    page.wait_for_function(
        "name => document.querySelector('.ml-card')?.innerText.includes(name)", arg=name
    )
    page.wait_for_function(
        "() => /FLOPs.*loss/s.test(document.querySelector('.ml-card').innerText)"
    )
    key = "ArrowLeft" if page.evaluate(LAST) else "ArrowRight"
    page.keyboard.press(key)
    assert page.evaluate("() => document.activeElement.getAttribute('tabindex')") == "0"
    assert page.evaluate("() => document.activeElement.getAttribute('href')").find(name) == -1
    stops = page.evaluate(
        "() => document.activeElement.ownerSVGElement.querySelectorAll('a[tabindex=\"0\"]').length"
    )
    assert stops == 1


@pytest.mark.parametrize("how", ["hover", "focus", "tap"])
@pytest.mark.parametrize("several", [False, True])
def test_a_card_says_all_of_its_runs_and_leads_to_each(
    page: Page, runs: list[dict[str, Any]], how: str, several: bool
) -> None:
    """Budget, A, G, loss, load and link of the run or of the runs behind a mark."""
    if how == "tap" and page.viewport_size["width"] > 600:  # type: ignore[index]
        return
    known = {run["run"]: run for run in runs}
    marks = page.locator(RUNS)
    behind = marks.evaluate_all(NAMES)
    asked = [
        (len(names) > 1) == several and all(known[n]["load"] for n in names) for names in behind
    ]
    place = asked.index(True)
    mark, mine = marks.nth(place), [known[name] for name in behind[place]]
    mark.scroll_into_view_if_needed()
    if how == "focus":
        mark.focus()
    else:  # another point may lie over this one
        mark.dispatch_event("mouseover" if how == "hover" else "pointerdown", TOUCH)
    if how == "tap":
        mark.dispatch_event("click")
        assert page.url.endswith(CHAPTER)
    page.wait_for_function("() => /FLOPs/.test(document.querySelector('.ml-card')?.innerText)")
    said = page.locator(CARD).inner_text()
    ends = {name: [pick(run[name] for run in mine) for pick in (min, max)] for name in SAID}
    for name, digits in SAID.items():
        assert all(f"{end:.{digits}f}" in said for end in ends[name])
    assert " FLOPs, A = " in said
    assert ", G = " in said
    shown = page.locator(f"{CARD} a").evaluate_all("links => links.map((a) => a.hash)")
    assert shown == [f"#run={run['run']}" for run in mine][:6]


SAID = {"loss": 3, "load": 2}  # digits after the point
TOUCH = {"pointerType": "touch", "bubbles": True}
NAMES = """links => links.map((a) => {
  const first = a.getAttribute("href").split("#run=")[1];
  return (a.dataset.runs || first).split(" ");
})"""


LAST = """() => {
  const left = (a) => a.getBoundingClientRect().left;
  const all = [...document.activeElement.ownerSVGElement.querySelectorAll("a[href*='#run=']")];
  return all.every((a) => left(a) <= left(document.activeElement));
}"""


def test_a_finger_opens_the_card_first_and_then_the_link(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = browsing.opened(context.new_page(), address + CHAPTER)
    page.locator(SYMBOL).tap()
    page.wait_for_selector(CARD)
    assert page.url.endswith(CHAPTER)
    page.locator(SYMBOL).tap()
    page.wait_for_url("**/notation.html#symbol-*")
    context.close()


def test_excerpts_of_the_search_hold_no_formulas_and_no_code(page: Page, address: str) -> None:
    page.goto(f"{address}search.html?q=granularity")
    page.wait_for_selector("#search-results p.context")
    found = page.locator("#search-results p.context").all_inner_texts()
    assert found
    assert not [text for text in found if "\\" in text or "import " in text or "= " in text]


def test_what_is_wider_than_a_phone_scrolls_and_shows_that_it_does(page: Page) -> None:
    frames = page.locator("article .ml-more-right:visible")
    if page.viewport_size["width"] > 600:  # type: ignore[index]
        return
    assert frames.count() > 0
    frame = frames.first
    assert frame.get_attribute("tabindex") == "0"
    frame.evaluate("node => node.scrollTo(node.scrollWidth, 0)")
    page.wait_for_selector("article .ml-more-left")


def test_a_table_that_an_instrument_makes_shows_that_it_scrolls(page: Page, address: str) -> None:
    page.goto(f"{address}notebooks/tool-explorer.html")
    page.wait_for_selector(".ml-explorer .ml-scroll table")
    page.wait_for_function(
        """() => [...document.querySelectorAll(".ml-scroll")].every(
          (frame) => !frame.checkVisibility() ||
            frame.scrollWidth - frame.clientWidth > 1 ===
              frame.classList.contains("ml-more-right"))"""
    )
    if page.viewport_size["width"] < 600:  # type: ignore[index]
        assert page.locator(".ml-scroll.ml-more-right").count() > 0


def test_an_equation_keeps_the_size_of_its_letters(page: Page) -> None:
    """Wider than the page it scrolls from its first letter to its last, and is never smaller."""
    drawn = page.evaluate(EQUATIONS)
    assert drawn
    for em, is_first_seen, is_last_seen in drawn:
        assert em >= SMALLEST_EM_PIXELS
        assert is_first_seen
        assert is_last_seen
