"""What is attached to a release: the archive opens from the disk, the PDF holds its pages."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import release
from playwright.sync_api import Browser
from pypdf import PdfReader

pytestmark = [pytest.mark.site, pytest.mark.slow]
PAGES = ["book/cite.html", "book/notation.html"]


def test_the_archive_opens_without_a_server(site: Path, browser: Browser, tmp_path: Path) -> None:
    packed = release.archive(site, tmp_path / "site.zip")
    with zipfile.ZipFile(packed) as opened:
        opened.extractall(tmp_path)
    home = tmp_path / release.NAME
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or errors.append(r.url))
    page.goto((home / "index.html").as_uri())
    page.wait_for_url("**/book/intro.html")
    page.goto(f"{(home / 'search.html').as_uri()}?q=granularity")
    page.locator("#search-results li a").first.click()
    page.wait_for_selector("article h1")
    assert "notebooks/" in page.url or "book/" in page.url
    page.close()
    assert errors == []


def test_the_pdf_has_a_bookmark_for_each_page_and_its_links_stay_inside(
    site: Path, browser: Browser, tmp_path: Path
) -> None:
    printed = release.book(site, browser, tmp_path / "book.pdf", PAGES)
    reader = PdfReader(printed)
    titles = [str(entry.title) for entry in reader.outline if not isinstance(entry, list)]
    assert titles == ["How to cite", "Notation"]
    text = "".join(page.extract_text() for page in reader.pages)
    assert "arXiv:2507.17702" in text
    targets = [
        str(link["/A"]["/URI"]) for link in release._links(reader) if "/URI" in link.get("/A", {})
    ]
    assert not any("127.0.0.1" in target for target in targets)
