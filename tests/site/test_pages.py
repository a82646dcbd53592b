"""The rendered files by themselves: links, text alternatives, no asset from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import chapters
import nbformat
import publishing
import pytest
import release
import serving
from bs4 import BeautifulSoup, Tag

from moe_leverage.instruments import router

pytestmark = pytest.mark.site
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch"}
REFRESH = "book/intro.html"


@cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def pages(site: Path) -> list[Path]:
    found = sorted(p for p in site.rglob("*.html") if "_static" not in p.relative_to(site).parts)
    moved = {site / f"{old}.html" for old in publishing.MOVED if old != "index"}
    assert moved < set(found)
    found = [page for page in found if page not in moved]
    assert len(found) > len(chapters.chapters())
    return found


@pytest.fixture(scope="module")
def chapter_pages(site: Path) -> list[Path]:
    return [site / "notebooks" / f"{c.name}.html" for c in chapters.chapters()]


NUMBERED = re.compile(r"Fig\. (\d+\.\d+|[A-Z][a-z ]+ \d+)")


def test_every_link_inside_the_site_leads_somewhere(
    site: Path, pages: list[Path], runs: list[dict[str, Any]]
) -> None:
    broken = []
    known = {run["run"] for run in runs}
    for page in pages:
        for link in soup(page).find_all("a", href=True):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc or link["href"] == "#":
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.is_file() or not target.is_relative_to(site):
                broken.append(f"{page.relative_to(site)}: {link['href']}")
            elif parts.fragment.startswith("run="):  # the explorer opens what its data holds
                if parts.fragment.removeprefix("run=") not in known:
                    broken.append(f"{page.relative_to(site)}: no such run: {link['href']}")
            elif parts.fragment.startswith("beside="):  # ways of balancing that the microscope has
                if not set(parts.fragment.removeprefix("beside=").split(",")) <= set(router.NAMES):
                    broken.append(f"{page.relative_to(site)}: {link['href']}")
            elif parts.fragment and target.suffix == ".html" and not has(target, parts.fragment):
                broken.append(f"{page.relative_to(site)}: no #{parts.fragment} in {parts.path}")
    assert not broken


def has(page: Path, fragment: str) -> bool:
    return soup(page).find(id=unquote(fragment)) is not None


def test_every_picture_has_a_text_alternative(pages: list[Path]) -> None:
    without = [
        f"{page.name}: {str(picture)[:120]}"
        for page in pages
        for picture in pictures(soup(page))
        if not (picture.get("alt") or picture.get("aria-label") or "").strip()
        and picture.get("aria-hidden") != "true"
    ]
    assert not without


def pictures(page: BeautifulSoup) -> Iterator[Tag]:
    yield from page.find_all("img")
    yield from page.select("svg:not(svg svg)")


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: list[Path]) -> None:
    foreign = [
        f"{page.relative_to(site)}: {source}"
        for page in pages
        for source in sources(soup(page))
        if urlsplit(source).netloc or not local(page, source)
    ]
    assert not foreign


def sources(page: BeautifulSoup) -> Iterator[str]:
    for name, attribute in LOADING.items():
        yield from (str(tag[attribute]) for tag in page.find_all(name, attrs={attribute: True}))
    for link in page.find_all("link", href=True):
        if LOADED_LINKS & set(link.get("rel", [])):
            yield str(link["href"])


def local(page: Path, source: str) -> bool:
    path = unquote(urlsplit(source).path)
    return source.startswith("data:") or (page.parent / path).is_file()


def test_no_style_sheet_loads_from_elsewhere(site: Path) -> None:
    pattern = re.compile(r"""(?:@import\s+|url\()\s*["']?(?:https?:)?//""")
    styles = [p for p in site.rglob("*.css") if pattern.search(p.read_text(encoding="utf-8"))]
    assert not styles


def test_every_page_carries_the_policy_and_holds_no_style_of_its_own(
    site: Path, pages: list[Path]
) -> None:
    for page in [*pages, *(site / f"{old}.html" for old in publishing.MOVED)]:
        found = soup(page)
        (policy,) = found.find_all("meta", attrs={"http-equiv": "Content-Security-Policy"})
        assert policy["content"] == serving.POLICY, page
        assert not list(policy.find_all_previous(["script", "link"])), page
        assert not found.find_all(style=True), page
        assert not found.find_all("style"), page


def test_no_page_holds_a_script_or_a_handler_of_its_own(site: Path, pages: list[Path]) -> None:
    held = []
    for page in pages:
        scripts = soup(page).find_all("script", src=False)
        held += [
            str(s)[:120] for s in scripts if s.get("type", "text/javascript").endswith("script")
        ]
        held += [
            str(t)[:120] for t in soup(page).find_all(True) if any(a[:2] == "on" for a in t.attrs)
        ]
    assert not held


def test_all_chapters_are_reachable_from_the_first_page(
    site: Path, chapter_pages: list[Path]
) -> None:
    first = soup(site / "index.html")
    assert REFRESH in str(first.find("meta", attrs={"http-equiv": "refresh"}))
    start = site / REFRESH
    linked = {(start.parent / a["href"]).resolve() for a in soup(start).find_all("a", href=True)}
    assert set(chapter_pages) <= linked


def test_sources_are_shown_as_they_were_for_this_build(chapter_pages: list[Path]) -> None:
    """A figure's links to code and data keep to the commit of the footer."""
    built = soup(chapter_pages[0]).select_one("dl.provenance dd").get_text().split()[0]
    links = [
        a["href"]
        for page in chapter_pages
        for a in soup(page).select('figcaption a[href*="/blob/"]')
    ]
    assert links
    commits = {re.search(r"/blob/([^/]+)/", link)[1] for link in links}
    assert len(commits) == 1
    assert commits.pop().startswith(built) or built == "unknown"


def test_the_first_page_leads_to_the_book_on_paper_and_offline(site: Path) -> None:
    """To the list of releases, which is there before the first release; it holds both files."""
    links = {a["href"] for a in soup(site / REFRESH).select("article a[href]")}
    assert any(link.endswith("/releases/latest") for link in links)


def test_every_figure_has_a_number_a_caption_and_its_files(chapter_pages: list[Path]) -> None:
    names = []
    for page in chapter_pages:
        for drawing in soup(page).select("svg.ml-wide"):
            figure = drawing.find_parent("figure")
            assert figure is not None, f"{page.name}: {drawing['data-figure']} is not a figure"
            assert figure["id"] == f"fig-{drawing['data-figure']}"
            caption = figure.find("figcaption")
            assert NUMBERED.match(caption.get_text(strip=True))
            # typographic quotes and signs apart, the caption says what the alternative says
            finding, said = (
                re.sub(r"\W", "", t) for t in (drawing["aria-label"], str(caption.text))
            )
            assert finding[:40] in said
            offered = {Path(a["href"]).suffix for a in caption.select("a.download")}
            assert offered == {".svg", ".png", ".csv"}
            names.append(figure["id"])
    assert names
    assert len(names) == len(set(names))


def test_figures_and_tables_are_numbered_by_chapter_or_by_the_name_of_their_page(
    chapter_pages: list[Path],
) -> None:
    for page in chapter_pages:
        chapter = re.match(r"(\d\d)-", page.name)
        numbers = [n.get_text(strip=True) for n in soup(page).select(".caption-number")]
        if chapter:
            assert all(f" {int(chapter[1])}." in number for number in numbers), page.name
        else:
            assert all(re.match(r"(Fig\.|Table) [A-Z][a-z ]+ \d+$", n) for n in numbers), numbers
        assert len(set(numbers)) == len(numbers)


def test_the_notebooks_to_download_are_executed(chapter_pages: list[Path]) -> None:
    for page in chapter_pages:
        offered = [a["href"] for a in soup(page).find_all("a", href=True)]
        path = next(h for h in offered if "_sources/" in h and h.endswith(".ipynb"))
        notebook = nbformat.read((page.parent / path).resolve(), 4)
        nbformat.validate(notebook)
        counts = [c.execution_count for c in notebook.cells if c.cell_type == "code"]
        assert all(counts)


def test_chapters_offer_binder_colab_and_their_source(chapter_pages: list[Path]) -> None:
    for page in chapter_pages:
        links = " ".join(a["href"] for a in soup(page).find_all("a", href=True))
        for host in ("https://mybinder.org/", "https://colab.research.google.com/"):
            assert re.search(rf"{re.escape(host)}\S*notebooks\S*{page.stem}\.ipynb", links)


def test_every_page_says_what_it_is_and_what_it_was_built_from(pages: list[Path]) -> None:
    for page in pages:
        head = soup(page)
        assert head.html["lang"] == "en"
        assert head.title.get_text(strip=True)
        if page.parent.name in ("book", "notebooks"):
            assert head.find("meta", attrs={"name": "description"})["content"]
            assert head.find("meta", property="og:description")["content"]
            facts = [t.get_text() for t in head.select("dl.provenance dt")]
            assert facts == ["Commit", "Data", "Versions"]


def test_a_shared_link_has_a_picture_a_title_and_an_address(site: Path) -> None:
    for page in release.contents():
        found = {t["property"]: t["content"] for t in soup(site / page).select("meta[property]")}
        assert (site / "_static" / Path(found["og:image"]).name).is_file()
        assert found["og:url"].endswith(f"/{page}")
        assert found["og:title"]
        icon = soup(site / page).find("link", rel="icon")["href"]
        assert (site / page).parent.joinpath(icon).is_file()


def test_each_page_leads_to_the_one_before_and_the_one_after(site: Path) -> None:
    order = release.contents()
    for here, then in pairwise(order):
        onward = soup(site / here).select_one("a.right-next")["href"]
        back = soup(site / then).select_one("a.left-prev")["href"]
        assert (site / here).parent.joinpath(onward).resolve() == site / then
        assert (site / then).parent.joinpath(back).resolve() == site / here


def test_the_first_page_shows_the_leverage_and_leads_to_four_entries(site: Path) -> None:
    page = soup(site / REFRESH)
    drawing = page.select_one("svg.ml-wide")
    assert drawing["data-figure"] == "leverage-over-compute"
    cards = {
        c.select_one(".sd-card-title").get_text(strip=True): c for c in page.select(".sd-card")
    }
    assert list(cards) == ["Read", "Calculate", "Explain my model", "Fit my runs"]
    assert all((site / "book" / c.select_one("a")["href"]).is_file() for c in cards.values())


def test_the_sitemap_lists_the_pages(site: Path, pages: list[Path]) -> None:
    tree = ElementTree.parse(site / "sitemap.xml")
    listed = {Path(urlsplit(e.text or "").path).name for e in tree.iter() if e.tag.endswith("loc")}
    expected = {p.name for p in pages if p.parent.name in ("book", "notebooks")}
    assert listed == expected


def test_the_table_of_contents_and_the_times_cover_every_chapter(site: Path) -> None:
    rows = soup(site / "book" / "timings.html").select("article table tbody tr")
    assert len(rows) == len(chapters.chapters()) + 1
    assert all(float(row.find_all("td")[1].get_text()) > 0 for row in rows)
