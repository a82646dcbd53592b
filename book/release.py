"""`make release`: the site as one file to read offline, and the book as one PDF.

Both are made from the site in build/html. The archive opens from the disk, search included; the
PDF is what Chromium prints of every page, in the order of the table of contents, with bookmarks.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from urllib.parse import urldefrag

import browser as browsing
import serving
import yaml
from _ext.addresses import pages_address
from chapters import ROOT
from playwright.sync_api import Browser, Page, PdfMargins
from publishing import SITE
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, FloatObject, NameObject, TextStringObject

from moe_leverage.paths import BUILD

RELEASE = BUILD / "release"
NAME = "moe-leverage-companion"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip knows: equal sites give equal archives
SCALE = 0.8  # of the screen's sizes on paper
MARGIN: PdfMargins = {"top": "14mm", "bottom": "14mm", "left": "14mm", "right": "14mm"}


def main() -> int:
    """Write both files and say where they are and how large."""
    if not (SITE / "index.html").is_file():
        print("release: build/html = missing: run make book first", file=sys.stderr)
        return 2
    with browsing.launched() as browser:
        made = archive(SITE, RELEASE / f"{NAME}.zip"), book(SITE, browser, RELEASE / f"{NAME}.pdf")
    for path in made:
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def archive(site: Path, target: Path) -> Path:
    """Pack the site into one file; its `index.html` opens it, without a server."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as packed:
        for path in sorted(p for p in site.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(f"{NAME}/{path.relative_to(site).as_posix()}", EPOCH)
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return target


def contents(toc: Path = ROOT / "_toc.yml") -> list[str]:
    """The pages of the book in reading order."""
    found = yaml.safe_load(toc.read_text(encoding="utf-8"))
    files = [entry["file"] for part in found["parts"] for entry in part["chapters"]]
    return [f"{name}.html" for name in [found["root"], *files]]


def book(site: Path, browser: Browser, target: Path, pages: Sequence[str] | None = None) -> Path:
    """Print these pages, or all, into one PDF with a bookmark for each page and section."""
    names = list(pages or contents())
    writer = PdfWriter()
    first: dict[str, int] = {}  # page of the PDF on which a page of the site begins
    with serving.served(site) as address:
        context = browser.new_context(color_scheme="light")
        for name in names:
            page = browsing.opened(context.new_page(), address + name)
            title, reader = _title(page), _printed(page)
            page.close()
            first[address + name] = len(writer.pages)
            writer.append(reader, outline_item=title, import_outline=True)
        context.close()
        _connect(writer, address, first)
    writer.add_metadata({"/Title": "A companion to Towards Greater Leverage"})
    writer.compress_identical_objects()
    target.parent.mkdir(parents=True, exist_ok=True)
    writer.write(target)
    return target


def _title(page: Page) -> str:
    heading = page.locator("article h1").first
    return str(heading.evaluate("h => h.textContent.replace(/#$/, '').trim()"))


def _printed(page: Page) -> PdfReader:
    page.emulate_media(media="print")
    printed = page.pdf(
        format="A4", scale=SCALE, print_background=True, tagged=True, outline=True, margin=MARGIN
    )
    reader = PdfReader(BytesIO(printed))
    places = reader.named_destinations
    for link in _links(reader):
        name = link.get("/Dest")
        if isinstance(name, str) and name in places:
            # names repeat from page to page of the site; a place does not
            spot = places[name]
            heights = [FloatObject(spot.get(key) or 0) for key in ("/Left", "/Top", "/Zoom")]
            link[NameObject("/Dest")] = ArrayObject([spot.page, NameObject("/XYZ"), *heights])
    return reader


def _connect(writer: PdfWriter, address: str, first: dict[str, int]) -> None:
    """Links to pages in the PDF stay in it; the others lead to the published site."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    published = pages_address(config["repository"]["url"])
    for link in _links(writer):
        action = link.get("/A", {})
        target = str(action.get("/URI", ""))
        if not target.startswith(address):
            continue
        place = first.get(urldefrag(target).url)
        if place is None:
            public = TextStringObject(target.replace(address, published))
            action[NameObject("/URI")] = public
        else:
            start = writer.pages[place].indirect_reference
            link[NameObject("/Dest")] = ArrayObject([start, NameObject("/Fit")])
            del link["/A"]


def _links(document: PdfReader | PdfWriter) -> Iterator[DictionaryObject]:
    for page in document.pages:
        for reference in page.get("/Annots", []):
            annotation = reference.get_object()
            if annotation.get("/Subtype") == "/Link":
                yield annotation


if __name__ == "__main__":
    sys.exit(main())
