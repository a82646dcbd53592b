"""Every page in a real browser, light and dark, wide and narrow, with the outside shut off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import chapters
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Route

pytestmark = [pytest.mark.site, pytest.mark.slow]
BOOK = ["intro", "notation", "figures-and-tables", "timings", "changes", "bibliography"]
PAGES = [f"book/{name}.html" for name in BOOK]
PAGES += [f"notebooks/{c.name}.html" for c in chapters.chapters()] + [
    "search.html",
    "genindex.html",
]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
DRAWN = """() => [...document.querySelectorAll('.math')]
  .every(formula => formula.querySelector('mjx-container'))"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@dataclass
class Visit:
    """A page being visited, and whatever went wrong on the way."""

    page: Page
    address: str
    trouble: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.route("**/*", self._let_through)
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", lambda r: r.status >= 400 and self.trouble.append(r.url))
        self.page.on("console", self._said)

    def _let_through(self, route: Route) -> None:
        inside = route.request.url.startswith((self.address, "data:", "blob:"))
        route.continue_() if inside else route.abort()

    def _failed(self, request: Request) -> None:
        self.trouble.append(f"failed: {request.url}")

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.trouble.append(f"console: {message.text}")

    def go(self, name: str) -> Page:
        self.page.goto(self.address + name, wait_until="load")
        return self.page


@pytest.fixture(params=["light", "dark"])
def visit(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Visit]:
    context = browser.new_context(viewport=WIDE, color_scheme=request.param)
    visit = Visit(context.new_page(), address)
    visit.listen()
    yield visit
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_renders_whole(visit: Visit, name: str) -> None:
    page = visit.go(name)
    page.wait_for_function(DRAWN)
    assert page.locator("mjx-merror").count() == 0
    assert page.evaluate(OVERFLOW) <= 0
    page.set_viewport_size(NARROW)
    assert page.evaluate(OVERFLOW) <= 0
    assert visit.trouble == []


def test_the_theme_follows_the_system_and_the_switch(visit: Visit, browser: Browser) -> None:
    page = visit.go("book/intro.html")
    theme = "() => document.documentElement.dataset.theme"
    before = page.evaluate(theme)
    assert before in ("light", "dark")
    switch = page.locator(".theme-switch-button:visible").first
    for _ in range(3):  # automatic, light, dark
        switch.click()
        if page.evaluate(theme) != before:
            break
    assert page.evaluate(theme) != before


def test_the_first_page_leads_to_the_book(visit: Visit) -> None:
    page = visit.go("index.html")
    page.wait_for_url("**/book/intro.html")
    assert page.locator("article h1").count() == 1


def test_search_finds_a_word_of_a_chapter(visit: Visit) -> None:
    page = visit.go("search.html?q=granularity")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").evaluate_all("links => links.map(a => a.href)")
    assert any("notebooks/" in link for link in found)
    assert visit.trouble == []


def test_folded_code_opens(visit: Visit) -> None:
    page = visit.go(f"notebooks/{chapters.chapters()[0].name}.html")
    fold = page.locator("details.hide").first
    code = fold.locator(".highlight").first
    assert not code.is_visible()
    fold.locator("summary").click()
    assert code.is_visible()


def test_handlers_kept_out_of_the_page_still_work(visit: Visit) -> None:
    page = visit.go("book/intro.html")
    page.evaluate("() => { window.printed = 0; window.print = () => { window.printed += 1; }; }")
    page.evaluate("() => document.querySelector('[data-call=print]').click()")
    assert page.evaluate("() => window.printed") == 1
