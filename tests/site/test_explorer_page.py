"""The explorer and the refit as a reader has them: by keyboard, by address, on a phone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from moe_leverage.instruments import refit
from moe_leverage.instruments.scripts import assign

pytestmark = [pytest.mark.site, pytest.mark.slow]
PAGE = "notebooks/tool-explorer.html"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
expect.set_options(timeout=30_000)  # an answer may be slow where cores are shared, never absent
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture
def trouble() -> list[str]:
    return []


@pytest.fixture(params=["light", "dark"])
def page(
    request: pytest.FixtureRequest, browser: Browser, address: str, trouble: list[str]
) -> Iterator[Page]:
    """The page, with every request to elsewhere shut off and written down."""
    context = browser.new_context(viewport=WIDE, color_scheme=request.param)
    page = context.new_page()

    def let_through(route: Route) -> None:
        inside = route.request.url.startswith((address, "data:", "blob:"))
        if not inside:
            trouble.append(route.request.url)
        route.continue_() if inside else route.abort()

    page.route("**/*", let_through)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda m: m.type == "error" and trouble.append(m.text))
    page.goto(address + PAGE)
    yield page
    context.close()


def shown(page: Page) -> int:
    return page.locator("[data-explorer] tbody tr[data-run]").count()


def test_the_index_comes_with_the_page_and_details_with_a_run(
    page: Page, runs: list[dict[str, Any]], trouble: list[str]
) -> None:
    page.get_by_role("button", name="Show all runs").click()
    assert shown(page) == len(runs)
    loaded = "() => [...document.scripts].map(s => s.src).filter(s => /explorer-(?!data)/.test(s))"
    assert page.evaluate(loaded) == []
    page.locator("[data-explorer] tbody a").first.click()
    expect(page.locator(".ml-panel h4").first).to_be_visible()
    assert 1 <= len(page.evaluate(loaded)) <= 2
    assert trouble == []


def test_the_keyboard_filters_sorts_walks_opens_and_closes(
    page: Page, runs: list[dict[str, Any]], trouble: list[str]
) -> None:
    page.get_by_role("button", name="Show all runs").press("Enter")
    page.locator("#explorer-family").focus()
    page.keyboard.press("ArrowDown")
    family = page.locator("#explorer-family").input_value()
    expected = [r for r in runs if r["family"] == family]
    assert shown(page) == len(expected)
    status = page.locator("[data-explorer] [role=status]").first
    expect(status).to_contain_text(f"{len(expected)} of {len(runs)} runs")

    page.locator("[data-sort=loss]").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.dataset.sort") == "loss"
    lowest = min((r for r in expected if r["loss"] is not None), key=lambda r: r["loss"])
    first = page.locator("[data-explorer] tbody a").first
    expect(first).to_have_text(lowest["run"])
    assert page.locator("[aria-sort=ascending] [data-sort=loss]").count() == 1

    first.focus()
    page.keyboard.press("ArrowDown")
    second = page.evaluate("document.activeElement.textContent")
    assert second != lowest["run"]
    page.keyboard.press("Enter")
    expect(page.locator(".ml-panel h3")).to_have_text(f"Run {second}")
    expect(page.locator(".ml-panel h3")).to_be_focused()
    expect(page.locator(".ml-panel .ml-command code")).to_have_text(
        f"moe-leverage train --run {second}"
    )
    assert f"run={second}" in page.url
    page.keyboard.press("Escape")
    expect(page.locator(".ml-panel")).to_be_hidden()
    assert page.evaluate("document.activeElement.textContent") == second
    assert "run=" not in page.url
    assert f"family={family}" in page.url
    assert trouble == []


def test_an_address_opens_its_run_beside_its_twin(
    page: Page, runs: list[dict[str, Any]], address: str, trouble: list[str]
) -> None:
    run = next(r for r in runs if r["family"] == "moe" and r["twin"] and r["loss"])
    page.goto("about:blank")
    page.goto(f"{address}{PAGE}#run={run['run']}&y=excess")
    panel = page.locator(".ml-panel")
    expect(panel.locator("h3")).to_have_text(f"Run {run['run']}")
    expect(panel.locator("path.ml-line")).to_have_count(2)
    expect(panel.get_by_role("region", name="Load of the experts")).to_be_visible()
    expect(panel).to_contain_text(f"{run['loss']:.3f}")
    assert page.locator("#explorer-y").input_value() == "excess"
    panel.get_by_role("link", name=run["twin"]).click()
    expect(panel.locator("h3")).to_have_text(f"Run {run['twin']}")
    page.go_back()
    expect(panel.locator("h3")).to_have_text(f"Run {run['run']}")
    page.goto(f"{address}{PAGE}#run=ffffffffffff")
    expect(page.locator("[data-explorer] [role=status]").first).to_contain_text("no run ffff")
    assert trouble == []


def test_a_view_begins_with_a_question_and_no_excluded_run(
    page: Page, runs: list[dict[str, Any]]
) -> None:
    assert page.locator("path.ml-dot").count() <= 30
    drawn = set(page.locator("path.ml-dot").evaluate_all("all => all.map((d) => d.dataset.run)"))
    assert not drawn & {r["run"] for r in runs if r["excluded"] or r["status"] != "ok"}
    page.get_by_label("Question").select_option("grain")
    assert page.locator("#explorer-x").input_value() == "G"
    assert "x=G" in page.url
    page.get_by_label("A mark is").select_option("runs")
    assert page.get_by_label("Question").input_value() == ""


def test_a_point_of_the_plot_opens_its_run(page: Page) -> None:
    point = page.locator("path.ml-dot").last
    run = point.get_attribute("data-run")
    point.dispatch_event("click")
    expect(page.locator(".ml-panel h3")).to_have_text(f"Run {run}")
    assert page.locator("path.ml-dot.ml-open").count() == 1


def test_nothing_overflows_on_a_phone_with_a_run_open(page: Page, trouble: list[str]) -> None:
    page.set_viewport_size(PHONE)
    page.locator("[data-explorer] tbody a").first.click()
    expect(page.locator(".ml-panel h4").first).to_be_visible()
    page.locator(".ml-panel summary").first.click()
    assert page.evaluate(OVERFLOW) <= 0
    assert trouble == []


def test_it_works_from_a_file(browser: Browser, site: Path) -> None:
    context = browser.new_context(viewport=WIDE)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{site.as_uri()}/{PAGE}")
    page.locator("[data-explorer] tbody a").first.click()
    expect(page.locator(".ml-panel path.ml-line").first).to_be_visible()
    assert errors == []
    context.close()


def test_without_scripts_a_table_stands_in(
    browser: Browser, address: str, runs: list[dict[str, Any]]
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + PAGE)
    for root in ("[data-explorer]", "[data-refit]"):
        assert page.locator(f"{root} noscript p").is_visible()
    rows = page.locator("#tab-explorer-studies tbody tr")
    assert rows.count() == len({study for run in runs for study in run["studies"]})
    context.close()


def test_the_refit_says_what_it_lacks_or_fits_what_is_kept(
    page: Page, address: str, trouble: list[str]
) -> None:
    """With the points of this build, then with a hundred that follow a known law."""
    said = page.locator("[data-refit] .ml-said")
    if not refit.payload()["points"]:
        expect(said).to_contain_text("no point of leverage yet")
    values = refit.payload() | {"points": synthetic_points(), "hasBook": False}
    script = assign("refitData", values)
    page.route(
        "**/refit-data.js*",
        lambda route: route.fulfill(body=script, content_type="text/javascript"),
    )
    page.goto(address + PAGE)
    expect(said).to_contain_text("Fitted to 90 of 90 points")
    expect(page.locator("[data-refit]")).to_contain_text("200 of 200 resamples", timeout=60_000)
    before = said.text_content() or ""
    assert " to " in before  # the interval
    box = page.get_by_role("checkbox", name="granularity", exact=True)
    box.focus()
    page.keyboard.press("Space")
    expect(said).to_contain_text("needs 3 or more")
    page.keyboard.press("Space")
    expect(said).to_contain_text("Fitted to 90 of 90 points")
    page.get_by_text("Points, one by one").click()
    page.locator(".ml-points input").first.uncheck()
    expect(said).to_contain_text("Fitted to 89 of 90 points")
    assert page.url.endswith("#refit=0")
    page.get_by_role("button", name="As in the book").click()
    expect(said).to_contain_text("Fitted to 90 of 90 points")
    assert "refit=" not in page.url
    page.goto(f"{address}{PAGE}#refit=nosuch,0&at_A=7")
    expect(said).to_contain_text("Fitted to 89 of 90 points")
    aside = page.get_by_text("The address asks for refit = nosuch, at_A = 7: not in this build")
    expect(aside).to_be_visible()
    page.goto(f"{address}{PAGE}#refit=0")
    expect(aside).to_be_hidden()
    page.set_viewport_size(PHONE)
    assert page.evaluate(OVERFLOW) <= 0
    assert trouble == []


def synthetic_points() -> list[dict[str, Any]]:
    from test_refit import points  # whose fit in the page is held to the package's

    return [
        {**p, "low": 0.9 * p["EL"], "high": 1.1 * p["EL"], "variant": "", "fitted": True}
        | {"runs": ["c0ffee"], "study": "activation" if p["G"] == 2 else "granularity"}
        for p in json.loads(json.dumps(points(0.01)))
    ]
