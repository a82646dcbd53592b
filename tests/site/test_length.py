"""No page is longer than one reads: at 1280 pixels, as it arrives, with its folds closed."""

from __future__ import annotations

from pathlib import Path

import browser as browsing
import chapters
import pytest
from playwright.sync_api import Browser

pytestmark = [pytest.mark.site, pytest.mark.slow]
LONGEST_PIXELS = 15_000
SHORTER_PIXELS = {"10-audit": 12_000}
UNBOUNDED = {"claims"}  # as long as its table
WIDE = {"width": 1280, "height": 900}
HEIGHT = "() => document.documentElement.scrollHeight"
NAMES = [chapter.name for chapter in chapters.chapters() if chapter.name not in UNBOUNDED]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_no_longer_than_one_reads(
    browser: Browser, address: str, site: Path, name: str
) -> None:
    context = browser.new_context(viewport=WIDE)
    page = browsing.opened(context.new_page(), f"{address}notebooks/{name}.html")
    assert page.evaluate(HEIGHT) <= SHORTER_PIXELS.get(name, LONGEST_PIXELS)
    context.close()
