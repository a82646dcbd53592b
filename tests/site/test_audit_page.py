"""The audit as a reader has it: its table filtered by menu and by word, from the keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from moe_leverage import audit
from moe_leverage.audit.conclusions import of_claim
from moe_leverage.audit.verdicts import html_table

pytestmark = [pytest.mark.site, pytest.mark.slow]
PAGE = "notebooks/claims.html"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
BACKDROP = "(node) => getComputedStyle(node.closest('.cell_output .output')).backgroundColor"
expect.set_options(timeout=30_000)


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport=WIDE, color_scheme=request.param)
    page = context.new_page()
    page.goto(address + PAGE)
    yield page
    context.close()


def test_menus_and_search_choose_the_rows(page: Page) -> None:
    bar = page.locator(".table-filter")
    total = len(audit.audit())
    expect(bar.locator("output")).to_have_text(f"{total} of {total} shown")
    menu = bar.locator("select").first
    menu.focus()
    page.keyboard.type("discrepant")
    page.keyboard.press("Enter")
    chosen = menu.input_value()
    assert chosen == "discrepant"
    wanted = sum(verdict.label == "discrepant" for verdict in audit.audit())
    expect(page.locator("table.audit tbody tr:not([hidden])")).to_have_count(wanted)
    expect(bar.locator("output")).to_have_text(f"{wanted} of {total} shown")
    expect(page.locator("table.audit tbody tr:not([hidden])")).to_have_count(wanted)
    bar.locator("input").fill("granularity")
    expect(bar.locator("output")).to_have_text(re.compile(rf"^[1-9]\d* of {total} shown$"))


def test_the_table_stands_on_the_page_s_own_ground(page: Page) -> None:
    assert page.locator("table.audit").evaluate(BACKDROP) == "rgba(0, 0, 0, 0)"


def test_a_phone_scrolls_the_table_and_not_the_page(page: Page) -> None:
    page.set_viewport_size(PHONE)
    overflow = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0


def test_every_row_leads_to_a_cell_that_is_there(site: Path) -> None:
    rows = html_table(audit.audit(), of_claim())
    links = set(re.findall(r'<a href="([^"#]+)#([^"]+)"', rows))
    chapters = {page for page, _ in links}
    assert {"07-joint-law.html", "10-audit.html"} <= chapters
    for page, anchor in links:
        assert f'id="{anchor}"' in (site / "notebooks" / page).read_text(encoding="utf-8")


def test_what_is_chosen_stands_in_the_address_and_comes_back(page: Page) -> None:
    bar = page.locator(".table-filter")
    bar.locator("select").first.select_option("discrepant")
    bar.locator("input").fill("law")
    row = page.locator("table.audit tbody tr:not([hidden])").first
    row.locator(".headerlink").focus()
    page.keyboard.press("Enter")
    expect(row).to_have_attribute("aria-current", "true")
    name = row.get_attribute("id")
    assert page.url.endswith(f"#verdict=discrepant&containing=law&row={name}")
    shown, said = page.url, bar.locator("output").inner_text()
    page.goto("about:blank")
    page.goto(shown)
    expect(bar.locator("output")).to_have_text(said)
    expect(page.locator("tr[aria-current]")).to_be_in_viewport()
    assert page.locator("tr[aria-current]").get_attribute("id") == name
    page.evaluate("() => { location.hash = 'verdict=nonsense&row=nowhere'; }")
    total = len(audit.audit())
    expect(bar.locator("output")).to_have_text(f"{total} of {total} shown")
    assert page.url.endswith(PAGE)
