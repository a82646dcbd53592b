"""Every page in a real browser, light and dark, wide and narrow, with the outside shut off."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field

import browser as browsing
import chapters
import publishing
import pytest
import release
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, Route

pytestmark = [pytest.mark.site, pytest.mark.slow]
PAGES = [*release.contents(), "search.html", "genindex.html"]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SIZES = {"light": WIDE, "dark": NARROW}  # of the first visit of a page
FIRST_VISIT_BYTES = 600e3  # compressed
FIRST_VISIT_REQUESTS = 30
SMALLEST_LETTER_PIXELS = 9.0
LARGEST_SHIFT = 0.05  # half of what the web vitals call good
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
LANDMARKS = [  # so that a screen reader's list of regions is one of names
    "landmark-one-main", "landmark-main-is-top-level", "landmark-no-duplicate-main",
    "landmark-no-duplicate-banner", "landmark-no-duplicate-contentinfo", "landmark-unique",
]  # fmt: skip
AUDIT = """async (rules) => {
  document.querySelectorAll("details").forEach((fold) => { fold.open = true; });
  for (const _ of [1, 2]) await new Promise(requestAnimationFrame);  // the page answers to it
  const options = { runOnly: rules, resultTypes: ["violations"], preload: false };
  const found = await axe.run(document, options);
  return found.violations.map((v) => `${v.id}: ${v.nodes.length} of ${v.nodes[0].html}: `
    + v.nodes[0].failureSummary);
}"""
# a glyph of matplotlib is drawn a hundred units high and scaled to its size
LETTERS = """() => [...document.querySelectorAll("article svg:not(.math svg)")]
  .filter((svg) => svg.getClientRects().length)
  .flatMap((svg) => [
    ...[...svg.querySelectorAll("g[transform*=scale]")].filter((g) => g.querySelector("use"))
      .map((g) => [100, g]),
    ...[...svg.querySelectorAll("text")].filter((t) => t.textContent.trim())
      .map((t) => [parseFloat(getComputedStyle(t).fontSize), t])])
  .map(([size, node]) => { const m = node.getScreenCTM(); return size * Math.hypot(m.c, m.d); })"""
SHIFT = """() => new Promise((done) => {
  let sum = 0;
  new PerformanceObserver((list) => {
    for (const shift of list.getEntries()) if (!shift.hadRecentInput) sum += shift.value;
  }).observe({ type: "layout-shift", buffered: true });
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => done(sum))));
})"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"

# every table wider than its frame, whose own size stays: what a filter or a late font does
GROW = """async () => {
  document.querySelectorAll("details").forEach((fold) => { fold.open = true; });
  for (const _ of [1, 2]) await new Promise(requestAnimationFrame);
  document.querySelectorAll("article table").forEach((t) => { t.style.minWidth = "2000px"; });
  for (const _ of [1, 2]) await new Promise(requestAnimationFrame);
}"""
OUT_OF_REACH = """() => [...document.querySelectorAll(".pst-scrollable-table-container")]
  .filter((frame) => frame.scrollWidth > frame.clientWidth)
  .filter((frame) => frame.tabIndex < 0 || !frame.ariaLabel || !frame.getAttribute("role"))
  .map((frame) => frame.textContent.trim().slice(0, 60))"""
# every tab stop, and those that would not let the Tab key go on, either way
STOPS = """() => [...document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, [tabindex]")]
  .filter((node) => node.tabIndex >= 0 && !node.disabled && node.getClientRects().length
    && node.checkVisibility({ visibilityProperty: true }))"""
TRAPS = f"""() => ({STOPS})().filter((node) => {{
  node.focus({{ preventScroll: true }});
  const here = document.activeElement;
  return [false, true].some((shiftKey) => {{
    const given = {{ key: "Tab", shiftKey, bubbles: true, cancelable: true }};
    const key = new KeyboardEvent("keydown", given);
    return !here.dispatchEvent(key) || document.activeElement !== here;
  }});
}}).map((node) => node.outerHTML.slice(0, 120))"""
LAST = f"() => document.activeElement === ({STOPS})().at(-1)"

PAPER = {"width": 718, "height": 1046}  # A4 within a browser's own margins
# what would be cut on paper: beyond its edge, or in a frame that scrolls there no more
CUT = """() => {
  dispatchEvent(new Event("beforeprint"));
  const seen = [...document.querySelectorAll("article *")].filter((node) =>
    node.getClientRects().length && node.checkVisibility()
    && !node.closest("svg, math, .math-said, input"));
  const beyond = seen.filter((node) => node.getBoundingClientRect().right > innerWidth + 1);
  const framed = seen.filter((node) => node.scrollWidth > node.clientWidth + 1
    && node.clientWidth && !["visible", "clip"].includes(getComputedStyle(node).overflowX));
  const drawings = [...document.querySelectorAll("article svg")].filter((svg) =>
    svg.getClientRects().length && svg.getBoundingClientRect().right > innerWidth + 1);
  return [...beyond, ...framed, ...drawings]
    .map((node) => `${node.tagName} ${node.className}: ${node.textContent.trim().slice(0, 80)}`);
}"""
FOLDED = """() => [...document.querySelectorAll("article details:not([open]) > summary")]
  .map((summary) => summary.textContent.trim()).filter((name) => !/^(Code|Imports)/.test(name))"""


@dataclass
class Visit:
    """A page being visited, and whatever went wrong on the way."""

    page: Page
    address: str
    trouble: list[str] = field(default_factory=list)
    received: list[Response] = field(default_factory=list)

    def listen(self) -> None:
        self.page.route("**/*", self._let_through)
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._answered)
        self.page.on("console", self._said)

    def _let_through(self, route: Route) -> None:
        inside = route.request.url.startswith((self.address, "data:", "blob:"))
        route.continue_() if inside else route.abort()

    def _answered(self, response: Response) -> None:
        self.received.append(response)
        if response.status >= 400:
            self.trouble.append(response.url)

    def _failed(self, request: Request) -> None:
        self.trouble.append(f"failed: {request.url}")

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.trouble.append(f"console: {message.text}")

    def go(self, name: str) -> Page:
        return browsing.opened(self.page, self.address + name)

    def transferred_bytes(self) -> int:
        """What came, as a server that compresses would send it."""
        bodies = {r.url: r.body() for r in self.received if r.ok}
        return sum(len(gzip.compress(body, compresslevel=6)) for body in bodies.values())


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def visit(browser: Browser, address: str, scheme: str) -> Iterator[Visit]:
    context = browser.new_context(
        viewport=SIZES[scheme],
        color_scheme=scheme,
        reduced_motion="reduce",  # what fades in is pale for a moment
    )
    visit = Visit(context.new_page(), address)
    visit.listen()
    yield visit
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_arrives_light_and_still_and_is_open_to_all(visit: Visit, name: str) -> None:
    page = visit.go(name)
    assert page.evaluate(SHIFT) <= LARGEST_SHIFT
    assert len(visit.received) <= FIRST_VISIT_REQUESTS
    assert visit.transferred_bytes() <= FIRST_VISIT_BYTES
    page.evaluate(AXE_SCRIPT)
    for size in (WIDE, NARROW):
        page.set_viewport_size(size)
        assert page.evaluate(OVERFLOW) <= 0
        assert page.evaluate(AUDIT, RULES) == []
    assert page.evaluate(AUDIT, LANDMARKS) == []
    assert min(page.evaluate(LETTERS), default=SMALLEST_LETTER_PIXELS) >= SMALLEST_LETTER_PIXELS
    assert visit.trouble == []


@pytest.mark.parametrize("name", PAGES)
def test_no_page_holds_the_tab_key(visit: Visit, name: str) -> None:
    page = visit.go(name)
    assert page.evaluate(TRAPS) == []


@pytest.mark.parametrize("name", [page for page in PAGES if "/tool-" in page])
def test_tab_goes_through_an_instrument_to_the_last_link(visit: Visit, name: str) -> None:
    page = visit.go(name)
    page.wait_for_selector(
        "article :is([data-calculator], [data-explorer], [data-router]) tbody tr"
    )
    for _ in range(page.evaluate(f"() => ({STOPS})().length") + 20):  # a stop may bring another
        page.keyboard.press("Tab")
        if page.evaluate(LAST):
            return
    pytest.fail(page.evaluate("() => document.activeElement.outerHTML.slice(0, 200)"))


@pytest.mark.parametrize("name", PAGES)
def test_paper_cuts_nothing_and_holds_no_closed_fold(visit: Visit, name: str) -> None:
    page = visit.go(name)
    page.set_viewport_size(PAPER)
    page.emulate_media(media="print")
    assert page.evaluate(CUT) == []
    assert page.evaluate(FOLDED) == []
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[data-printed]").count() == 0


def test_a_table_that_grows_in_its_frame_can_be_scrolled_by_keyboard(visit: Visit) -> None:
    page = visit.go("notebooks/claims.html")
    page.evaluate(GROW)
    assert page.evaluate(OUT_OF_REACH) == []


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


@pytest.mark.parametrize(("old", "new"), publishing.MOVED.items())
def test_an_old_address_leads_on_with_its_fragment(visit: Visit, old: str, new: str) -> None:
    page = visit.go(f"{old}.html#run=c0ffee")
    page.wait_for_url(f"**/{new}.html#run=c0ffee")


@pytest.mark.parametrize("fragment", ["claim-d-sign", "lead-2"])
def test_a_part_that_moved_is_found_by_its_old_address(visit: Visit, fragment: str) -> None:
    page = visit.go(f"notebooks/10-audit.html#{fragment}")
    page.wait_for_url(f"**/claims.html#{fragment}")
    assert page.locator(f"#{fragment}").count() == 1
    page = visit.go("notebooks/10-audit.html#conclusion-formula")
    assert page.url.endswith("10-audit.html#conclusion-formula")


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
    assert page.locator("button.copybtn").count() == page.locator("div.highlight pre").count()


@pytest.mark.parametrize("name", ["01-flops-accounting", "12-your-own-runs"])
def test_no_line_of_code_is_cut(visit: Visit, name: str) -> None:
    page = visit.go(f"notebooks/{name}.html")
    assert page.locator(".cell_input pre:visible").count() > 0
    cut = "all => all.filter((pre) => pre.scrollWidth > pre.clientWidth).length"
    assert page.locator(".cell_input pre:visible").evaluate_all(cut) == 0


def test_handlers_kept_out_of_the_page_still_work(visit: Visit) -> None:
    page = visit.go("book/intro.html")
    page.evaluate("() => { window.printed = 0; window.print = () => { window.printed += 1; }; }")
    page.evaluate("() => document.querySelector('[data-call=print]').click()")
    assert page.evaluate("() => window.printed") == 1
